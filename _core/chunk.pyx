# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A chunk: several items of a map that travel as one task. client/map.py decides its size.

    items ──> CHUNK ──> worker ──PART, RESULT──> values, taken a list at a time
                          └─RETURNED, or lost: split into successors
"""
from cpython.list cimport PyList_New
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from asyncio import CancelledError

from distex._core.codec cimport NUMBER_BYTES, Codec, Cursor, get_number, put_number
from distex._core.framing cimport CHUNK, Buffer
from distex._core.functions cimport Function
from distex._core.references cimport list_end, list_item, list_set
from distex._core.task cimport Task

from distex.errors import ProtocolError
from distex.remote_errors import annotate

cdef enum:
    # what each chunk is meant to take that one is split into
    PIECE_NS = 1_000_000
    # flags of CHUNK: items are tuples of arguments
    SPREAD = 1


cdef class ChunkTask(Task):
    """Several items of a map, sent as one task. Each item is written as a value of its own, so
    none shares objects with another; values can be taken out as they come.

    Args:
        function: what is called with each.
        items: a list with an argument for each call, or with a tuple of arguments.
        spread: whether items are tuples of arguments.
        notify: ``notify(chunk)``, called on the pool's thread whenever there is something new.
    """

    def __init__(self, Function function, list items, bint spread, notify):
        self.function = function
        self.items = items
        self.calls = <uint32_t>len(items)
        self.spread = spread
        self.notify = notify
        self.kind = CHUNK
        self.flags = SPREAD if spread else 0

    cdef bint start(self) except -1:
        return not self.done

    cdef bint put_native(self, Buffer out, Codec codec) except -1:
        return False

    cdef int put(self, Buffer out, Codec codec, list segments) except -1:
        cdef list items = self.items
        cdef Py_ssize_t mark, i
        cdef uint32_t n = 0
        out.put(<const char*>&n, 4)
        out.reserve(NUMBER_BYTES * len(items))
        for i in range(len(items)):
            if codec.native and put_number(out, list_item(items, i)):
                n += 1
                continue
            mark = out.size
            try:
                codec.put(out, items[i], segments)
            except BaseException as exc:
                # those before it are done; a map ends at the first that fails
                if n == 0:
                    raise
                out.size = mark
                annotate(exc, f"raised while an argument of {self.function.name} was being pickled")
                self.tail_error = exc
                self.calls = n
                break
            n += 1
        memcpy(out.data, &n, 4)
        return 0

    cdef int on_result(self, Cursor* cursor, list segments, Codec codec) except -1:
        if self._take_values(cursor, segments, codec) == 0:
            self._end(self.tail_error)
        return 0

    cdef int on_part(self, Cursor* cursor, list segments, Codec codec,
                     double spent_ns) except -1:
        self._take_values(cursor, segments, codec)
        return self.learn(self.received, spent_ns)

    cdef int learn(self, uint32_t done, double spent_ns) except -1:
        """From the latest calls alone: times may change within a chunk."""
        if done > self.known_calls and spent_ns > self.known_ns:
            self.latest_ns = (spent_ns - self.known_ns) / (done - self.known_calls)
            self.function.measured(self.latest_ns, done - self.known_calls)
            self.known_calls = done
            self.known_ns = spent_ns
        return 0

    cdef int _take_values(self, Cursor* cursor, list segments, Codec codec) except -1:
        """Add values to those that can be taken; 1 if one can't be read, which ends the chunk."""
        cdef list values
        cdef PyObject* number
        cdef uint32_t n
        cdef Py_ssize_t i = 0
        if cursor.end - cursor.data < 4:
            raise ProtocolError("a chunk's results without their count")
        memcpy(&n, cursor.data, 4)
        cursor.data += 4
        if n > cursor.end - cursor.data:  # a value takes a byte at least
            raise ProtocolError("a chunk's results end before their count says they do")
        self.received += n
        values = PyList_New(n)
        while i < n:
            number = get_number(cursor)
            if number == NULL:
                break
            list_set(values, i, number)
            i += 1
        list_end(values, i)
        try:
            while i < n:
                values.append(codec.get(cursor, segments))
                i += 1
        except BaseException as exc:
            self._collect(values)
            annotate(exc, "raised while a result was being read")
            self._end(exc)
            return 1
        self._collect(values)
        return 0

    cdef list on_returned(self, uint32_t done, double spent_ns):
        """End here, and go on as several chunks that are as large as seems right by now."""
        if self.done:
            return []
        self.learn(done, spent_ns)
        pieces = self._split_from(done)
        self._become(pieces)
        return pieces

    cdef list cut(self, Py_ssize_t item):
        """The worker begins no item behind this one: what to send instead. It goes on here with
        those up to that, at which the worker may be for long."""
        cdef list pieces
        if self.done or item < self.received or item + 1 >= self.calls:
            return []
        pieces = self._split_from(item + 1)
        (<ChunkTask>pieces[len(pieces) - 1]).tail_error = self.tail_error
        self.tail_error = None
        self.calls = <uint32_t>item + 1
        self.tail = pieces
        self.notify(self)
        return pieces

    cdef list _split_from(self, Py_ssize_t first):
        """The items from this one on, in chunks that are as large as seems right by now."""
        cdef Py_ssize_t size, i
        cdef list items = self.items[first:self.calls]
        size = <Py_ssize_t>(PIECE_NS / max(self.function.cost_ns, self.latest_ns, 1))
        size = max(1, min(len(items) // 4, size))
        return [self._piece(items[i:i + size]) for i in range(0, len(items), size)]

    cdef Task find_suspect(self, Py_ssize_t item, list parts):
        """Find the one call to blame: those before it had been done, but their results are lost;
        those behind it had not been started."""
        cdef ChunkTask suspect
        cdef list pieces = []
        cdef Py_ssize_t first = self.received
        if self.retries() == 0:
            return Task.find_suspect(self, item, parts)
        if first >= self.calls:  # its last results had come, if not its end
            self._become(pieces)
            return None
        if item < first or item >= self.calls:  # not known: all that are left
            suspect = self._piece(self.items[first:self.calls])
            pieces.append(suspect)
        else:
            suspect = self._piece(self.items[item:item + 1])
            if item > first:
                pieces.append(self._piece(self.items[first:item]))
            pieces.append(suspect)
            if item + 1 < self.calls:
                pieces.append(self._piece(self.items[item + 1:self.calls]))
        suspect.losses = self.losses
        suspect.wire_id = self.wire_id
        self._become(pieces)
        parts.extend(pieces)
        return suspect

    cdef ChunkTask _piece(self, list items):
        piece = ChunkTask(self.function, items, self.spread, self.notify)
        piece.limits = self.limits
        piece.spared = self.spared
        return piece

    cdef int _become(self, list pieces) except -1:
        """End here, and go on as these."""
        if pieces:
            (<ChunkTask>pieces[len(pieces) - 1]).tail_error = self.tail_error
        self.calls = <uint32_t>self.received
        self.successors = pieces
        return self._end(None if pieces else self.tail_error)

    cdef int _collect(self, list values) except -1:
        if self.done or not values:
            return 0
        if self.values is None:
            self.values = values
        else:
            self.values.extend(values)
        self.notify(self)
        return 0

    cdef int fail(self, object exc) except -1:
        return self._end(exc)

    cdef uint32_t answered(self) noexcept:
        return self.received

    cdef bint is_ended(self):
        return self.done

    cdef int drop(self) except -1:
        self.dropped = True
        return self._end(CancelledError())

    cdef int cancelled_remotely(self) except -1:
        return self._end(CancelledError())

    cdef int _end(self, object error) except -1:
        if self.done:
            return 0
        self.error = error
        self.tail_error = None
        self.done = True
        self.items = None
        notify, self.notify = self.notify, None
        if notify is not None:
            notify(self)
        return 0

    def take(self):
        """The values that have come since the last call, as a list, or None."""
        values = self.values
        self.values = None
        return values

    def take_error(self):
        """What it has failed with. It is not kept: raised, it refers to what holds this chunk."""
        error, self.error = self.error, None
        return error

    def take_tail(self):
        """The chunks that were cut off it, if that was not asked before, as a list, or None."""
        tail = self.tail
        self.tail = None
        return tail

    def cancel(self):
        """Have no more of it done. On the pool's thread."""
        if self.done:
            return
        if self.link is not None:
            self.link.cancel(self)
        self.done = True
        self.items = None
        self.values = None
        self.notify = None
