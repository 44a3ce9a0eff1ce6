# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The wire format: bytes <-> frames; headers, limits, segments. No asyncio, no pickle.

A frame on the wire, all numbers little-endian:

    ========  =====  ===================================================================
    field     bytes  range
    ========  =====  ===================================================================
    kind          1  HELLO (1) .. KICK (18)
    flags         1  any; what they mean depends on the kind
    segments      2  0 .. 1024, the number of out-of-band segments
    aux           4  any: function id (CALL, CHUNK), which function has that id now (FUNCTION),
                     nanoseconds (RESULT, ERROR), ...
    id            8  any: task id, function id
    length        8  of the body in bytes; body and segments together at most the limit
    table      8 x   the length of each segment in bytes; bit 63: it was bytes, and is to be
                     that again; bit 62: it comes by the bypass
    body     length  a value, see codec.pyx, or msgpack (HELLO, READY, WELCOME)
    segments      -  the bytes of each segment, one after the other
    ========  =====  ===================================================================

Segments that come by the bypass (see ring.pyx) do so when all else of their frame is here; no other
frames follow until they are, but for those about the bypass itself.

    bytes in ──> FrameReader ──> FrameHandler.on_frame(header, body, segments)
    FrameWriter.begin/end, FrameWriter.frame ──> take() ──> buffers out

A frame that fits the receive buffer is handed on where it lies; a larger one is received straight
into objects of its own: its body into bytes, each segment into a bytearray, or a Block if it is
large, so that arrays made from it are writable, unless it was bytes and is meant to be that again.
Lengths are checked against the limit before anything is allocated.
"""
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.string cimport memcpy, memmove

from distex._core.buffer_pool cimport Block

cdef extern from *:
    """
    #if defined(__linux__)
    #include <stdint.h>
    #include <sys/mman.h>
    static void distex_use_huge_pages(char *data, size_t n) {
        const uintptr_t huge = 2 * 1024 * 1024;
        uintptr_t first = ((uintptr_t)data + huge - 1) & ~(huge - 1);
        uintptr_t last = ((uintptr_t)data + n) & ~(huge - 1);
        if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
    }
    #else
    static void distex_use_huge_pages(char *data, size_t n) {}
    #endif
    """
    void distex_use_huge_pages(char* data, size_t n) nogil
    Py_ssize_t PY_SSIZE_T_MAX

import sys

from distex.errors import ProtocolError

if sys.byteorder != "little":
    raise ImportError("distex needs a little-endian machine: its wire format is little-endian")

HEADER_BYTES = 24
MAX_SEGMENTS = 1024
DEFAULT_LIMIT_BYTES = 1 << 36  # 64 GiB: more than one task's data, less than a random length
HELLO_LIMIT_BYTES = 256  # all that a peer may send before it is authenticated

cdef enum:
    HEADER_SIZE = 24
    SEGMENT_COUNT_LIMIT = 1024
    FIRST_BUFFER_BYTES = 16 * 1024
    LARGEST_BUFFER_BYTES = 256 * 1024
    # a larger frame that is not here yet is received into objects of its own
    LARGE_FRAME_BYTES = 64 * 1024
    # from this size on a segment has memory that is used again, unless it is bytes; these get
    # huge pages: most of what it costs to receive into fresh memory are page faults
    BLOCK_BYTES = 4 * 1024 * 1024
    # payloads from this size on are sent as objects of their own, not copied
    PART_BYTES = 32 * 1024
    # a writer's or a scratch buffer's memory above this is given back once it was sent
    KEEP_BYTES = 256 * 1024


cdef uint64_t AS_BYTES = <uint64_t>1 << 63
cdef uint64_t BY_BYPASS = <uint64_t>1 << 62
cdef uint64_t LENGTH = BY_BYPASS - 1


cdef class Buffer:
    """A growing run of bytes. Freed with the object; nothing else holds its memory."""

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    cdef char* reserve(self, Py_ssize_t n) except NULL:
        """Room for n more bytes: where they go. The caller adds to size what it used."""
        cdef Py_ssize_t needed = self.size + n
        cdef Py_ssize_t capacity
        cdef char* data
        if needed > self.capacity:
            capacity = max(needed, self.capacity * 2, 512)
            data = <char*>PyMem_RawRealloc(self.data, capacity)
            if data == NULL:
                raise MemoryError(f"no memory for a buffer of {capacity} bytes")
            self.data = data
            self.capacity = capacity
        return self.data + self.size

    cdef int put(self, const char* data, Py_ssize_t n) except -1:
        if n > 0:  # of nothing data may be NULL, which memcpy may not be given
            memcpy(self.reserve(n), data, n)
            self.size += n
        return 0

    cdef int release(self, Py_ssize_t keep) except -1:
        """Give memory back if there is more than keep bytes of it. The content is lost."""
        self.size = 0
        if self.capacity > keep:
            PyMem_RawFree(self.data)
            self.data = NULL
            self.capacity = 0
        return 0


cdef class Bypass:
    """Another way than the stream for the bytes of large segments; see ring.pyx."""

    cdef Py_ssize_t get(self, char* data, Py_ssize_t n) except -1:
        """Some of the bytes that have come: how many; less than n if the rest is to be asked for
        when more of the stream is received."""
        return 0

    cdef bint is_open(self):
        """Whether something can come by it."""
        return False

    cdef int on_frame(self, Header* header) except -1:
        """A frame about the bypass."""
        return 0


cdef class Detour:
    """A segment that is sent by the bypass."""

    def __cinit__(self, segment):
        PyObject_GetBuffer(segment, &self.view, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class FrameWriter(Buffer):
    """Collects frames until take() hands them out as a list of buffers to write in order, and of
    Detours if there is a bypass."""

    def __cinit__(self):
        self.parts = []
        self.bypass_bytes = PY_SSIZE_T_MAX

    cdef Py_ssize_t begin(self, Kind kind, uint8_t flags, uint32_t aux, uint64_t id) except -1:
        """Open a frame whose body is written in place. Nothing else may be written before
        end(); to drop the frame set size back to the returned mark."""
        cdef Py_ssize_t mark = self.size
        cdef Header* header = <Header*>self.reserve(HEADER_SIZE + 64)
        header.kind = kind
        header.flags = flags
        header.segments = 0
        header.aux = aux
        header.id = id
        header.length = 0
        self.size += HEADER_SIZE
        return mark

    cdef int end(self, Py_ssize_t mark) except -1:
        (<Header*>(self.data + mark)).length = self.size - mark - HEADER_SIZE
        return self.pending()

    cdef int frame(self, Kind kind, uint8_t flags, uint32_t aux, uint64_t id,
                   const char* body, Py_ssize_t n, list segments) except -1:
        """Write one whole frame. The segments are contiguous buffers; a large one is kept, not
        copied, and must not change until it has been sent."""
        cdef Py_ssize_t mark = self.size
        cdef Py_ssize_t count = 0 if segments is None else len(segments)
        cdef Py_ssize_t i, detours = 0
        cdef uint64_t size
        cdef Py_buffer view
        if count > SEGMENT_COUNT_LIMIT:
            raise ValueError(f"{count} segments in a frame; at most {SEGMENT_COUNT_LIMIT}")
        cdef Header* header = <Header*>self.reserve(HEADER_SIZE + 8 * count)
        header.kind = kind
        header.flags = flags
        header.segments = <uint16_t>count
        header.aux = aux
        header.id = id
        header.length = n
        try:
            self.size += HEADER_SIZE
            for i in range(count):
                PyObject_GetBuffer(segments[i], &view, PyBUF_SIMPLE)
                size = view.len
                PyBuffer_Release(&view)
                if size >= <uint64_t>self.bypass_bytes:
                    size |= BY_BYPASS
                    detours += 1
                if type(segments[i]) is bytes:
                    size |= AS_BYTES
                self.put(<const char*>&size, 8)
        except BaseException:
            self.size = mark
            raise
        if n >= PART_BYTES:
            self._add_part(PyBytes_FromStringAndSize(body, n), n)
        else:
            self.put(body, n)
        for i in range(count):
            PyObject_GetBuffer(segments[i], &view, PyBUF_SIMPLE)
            try:
                if view.len >= self.bypass_bytes:
                    pass
                elif view.len >= PART_BYTES:
                    self._add_part(segments[i], view.len)
                else:
                    self.put(<const char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        if detours:
            self._add_detours(segments)
        return self.pending()

    cdef int _add_detours(self, list segments) except -1:
        cdef Detour detour
        for segment in segments:
            detour = Detour(segment)
            if detour.view.len >= self.bypass_bytes:
                self._add_part(detour, detour.view.len)
        return 0

    cdef int _add_part(self, object part, Py_ssize_t n) except -1:
        if self.size:
            self.parts.append(self._take_bytes())
        self.parts.append(part)
        self.parts_bytes += n
        return 0

    cdef object _take_bytes(self):
        cdef object data = PyBytes_FromStringAndSize(self.data, self.size)
        self.release(KEEP_BYTES)
        return data

    cdef int pending(self) except -1:
        """Called after each frame; a connection overrides it to arrange for a flush."""
        return 0

    cdef bint congested(self):
        """Whether the peer takes less than it is sent. A connection overrides it."""
        return False

    cdef int poll(self) except -1:
        """Take in what comes within a moment, without the loop. A connection overrides it."""
        return 0

    # --- what a bypass asks for; a connection overrides it

    cdef int write_ahead(self, bytes frame) except -1:
        """Write a frame now, before what waits for room."""
        return 0

    cdef int write_on(self) except -1:
        """The bypass may have room again."""
        return 0

    cdef int write_soon(self) except -1:
        """Let it have more in the loop's next turn."""
        return 0

    cdef int read_soon(self) except -1:
        """Ask it for more in the loop's next turn."""
        return 0

    def take(self):
        """The buffers written since the last call, in order; they are the caller's now."""
        cdef list parts = self.parts
        if self.size:
            parts.append(self._take_bytes())
        if parts:
            self.parts = []
            self.parts_bytes = 0
        return parts

    def write(self, int kind, int flags, unsigned int aux, unsigned long long id,
              const unsigned char[::1] body not None, list segments=None):
        """Write one frame of Python objects: for control messages and tests."""
        cdef const char* data = <const char*>&body[0]
        self.frame(<Kind>kind, <uint8_t>flags, aux, id, data, body.shape[0], segments)


cdef class FrameHandler:
    """What receives frames. Compiled handlers override the cdef methods; one written in Python
    overrides control() and gets copies."""

    cdef int on_frame(self, Header* header, const char* body, list segments) except -1:
        """One frame; body holds header.length bytes that are valid until this returns."""
        self.control(header.kind, header.flags, header.aux, header.id,
                     PyBytes_FromStringAndSize(body, header.length), segments or [])
        return 0

    cdef int on_batch_end(self) except -1:
        """All the frames of one read have been handed over."""
        return 0

    def control(self, kind, flags, aux, id, body, segments):
        """One frame as Python objects."""
        raise ProtocolError(f"a frame of kind {kind} has no place here")

    def connected(self, connection):
        """The connection stands."""

    def disconnected(self, exc):
        """The connection is gone; exc says why, None for an orderly end."""

    def writable(self):
        """The peer takes data again after the connection was congested."""


cdef object new_segment(uint64_t size, const char* data):
    """The object that a segment is received into; size as in the table."""
    cdef Py_ssize_t n = <Py_ssize_t>(size & LENGTH)
    if size & AS_BYTES:
        return PyBytes_FromStringAndSize(data, n)
    if data == NULL and n >= BLOCK_BYTES:
        return Block(n)
    return PyByteArray_FromStringAndSize(data, n)


cdef class FrameReader:
    """Splits what is received into frames.

    A peer that breaks the grammar or a limit gets ProtocolError; after that the reader must not
    be used again.

    Args:
        limit: bytes that the body and the segments of one frame may have together.
    """

    def __cinit__(self, limit=DEFAULT_LIMIT_BYTES):
        self.limit = limit
        self.capacity = FIRST_BUFFER_BYTES
        self.buffer = <char*>PyMem_RawMalloc(self.capacity)
        if self.buffer == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)

    def set_limit(self, limit):
        """Change the limit, in bytes, from the next frame on."""
        self.limit = limit

    cdef int space(self, char** data, Py_ssize_t* n) except -1:
        """Where the next bytes are to be put, and how many fit; n is at least 1."""
        if self.targets is not None and not self.awaits_detour:
            data[0] = self.target_data + self.target_filled
            n[0] = self.target_size - self.target_filled
        else:
            if self.capacity - self.end < 4096:
                self._make_room()
            data[0] = self.buffer + self.end
            n[0] = self.capacity - self.end
        return 0

    cdef int received(self, Py_ssize_t n, FrameHandler handler) except -1:
        """n bytes have been put at space(): hand every frame that is complete to the handler."""
        cdef bint filled
        if n < 0:
            raise ValueError("received less than nothing")
        if self.targets is not None and not self.awaits_detour:
            if n > self.target_size - self.target_filled:
                raise ValueError("received more than there was space for")
            self.target_filled += n
            if self.target_filled == self.target_size and self._fill_targets():
                self._finish_large(handler)
        else:
            if n > self.capacity - self.end:
                raise ValueError("received more than there was space for")
            self.end += n
            filled = self.end == self.capacity
            self._parse(handler)
            if filled:  # a busy peer: fewer and larger reads
                self._make_room()
        return handler.on_batch_end()

    cdef int _parse(self, FrameHandler handler) except -1:
        cdef Header header
        cdef Py_ssize_t available, count, i
        cdef uint64_t total, here, size
        cdef const char* table
        cdef const char* data
        cdef list segments
        while True:
            if self.awaits_detour and self._fill_targets():
                self._finish_large(handler)
            available = self.end - self.start
            if available < HEADER_SIZE:
                break
            memcpy(&header, self.buffer + self.start, HEADER_SIZE)
            count = header.segments
            if header.kind == RING or header.kind == KICK:
                if self.bypass is None or count or header.length:
                    raise ProtocolError(f"a frame of kind {header.kind} has no place here")
                self.start += HEADER_SIZE
                self.bypass.on_frame(&header)
                continue
            if not HELLO <= header.kind <= RETURNED:
                raise ProtocolError(f"unknown frame kind {header.kind}")
            if self.awaits_detour:
                raise ProtocolError("a frame before the end of another one")
            if count > SEGMENT_COUNT_LIMIT:
                raise ProtocolError(f"{count} segments in a frame; at most {SEGMENT_COUNT_LIMIT}")
            if header.length > self.limit:
                raise ProtocolError(
                    f"a frame of {header.length} bytes is over the limit of {self.limit}")
            if available < HEADER_SIZE + 8 * count:
                break
            table = self.buffer + self.start + HEADER_SIZE
            total = header.length
            here = HEADER_SIZE + 8 * count + header.length  # bytes in the stream
            for i in range(count):
                memcpy(&size, table + 8 * i, 8)
                if size & LENGTH > self.limit - total:
                    raise ProtocolError(
                        f"the segments of a frame are over the limit of {self.limit} bytes")
                total += size & LENGTH
                if not size & BY_BYPASS:
                    here += size & LENGTH
                elif self.bypass is None or not self.bypass.is_open():
                    raise ProtocolError("a segment comes by a bypass that there is not")
            total += HEADER_SIZE + 8 * count
            if here > <uint64_t>available or here < total:
                if total <= LARGE_FRAME_BYTES and here == total:
                    break
                self._begin_large(&header, table)
                if self._fill_targets():
                    self._finish_large(handler)
                elif not self.awaits_detour:
                    break
                continue
            self.start += total
            data = table + 8 * count
            segments = None
            if count:
                segments = []
                data += header.length
                for i in range(count):
                    memcpy(&size, table + 8 * i, 8)
                    segments.append(new_segment(size, data))
                    data += size & LENGTH
                data = table + 8 * count
            handler.on_frame(&header, data, segments)
        if self.start == self.end:
            self.start = self.end = 0
        return 0

    cdef int _begin_large(self, Header* header, const char* table) except -1:
        """Make the objects that the frame is received into."""
        cdef list segments = [], detours = []
        cdef Py_ssize_t i
        cdef uint64_t size
        self.targets = [PyBytes_FromStringAndSize(NULL, header.length)]
        for i in range(header.segments):
            memcpy(&size, table + 8 * i, 8)
            segments.append(new_segment(size, NULL))
            (detours if size & BY_BYPASS else self.targets).append(segments[i])
        self.large = header[0]
        self.segments = segments
        self.first_detour = len(self.targets)
        self.targets += detours
        self.target = 0
        self.start += HEADER_SIZE + 8 * header.segments
        return self._open_target()

    cdef int _open_target(self) except -1:
        part = self.targets[self.target]
        self.target_size = len(part)
        if type(part) is bytes:
            self.target_data = PyBytes_AS_STRING(part)
            if self.target_size >= BLOCK_BYTES:
                distex_use_huge_pages(self.target_data, self.target_size)
        elif type(part) is Block:
            self.target_data = (<Block>part).data
        else:
            self.target_data = PyByteArray_AS_STRING(part)
        self.target_filled = 0
        if self.target < self.first_detour:
            self._fill_from_buffer()
        return 0

    cdef bint _fill_targets(self) except -1:
        """Fill the targets with what is here, one after the other; whether all are full."""
        while True:
            if self.target >= self.first_detour:
                self.awaits_detour = True
                self.target_filled += self.bypass.get(
                    self.target_data + self.target_filled, self.target_size - self.target_filled)
            if self.target_filled < self.target_size:
                return False
            self.target += 1
            if self.target == len(self.targets):
                self.awaits_detour = False
                return True
            self._open_target()

    cdef int _fill_from_buffer(self) except -1:
        """Move what is in the buffer to the target."""
        cdef Py_ssize_t n = min(self.end - self.start, self.target_size)
        memcpy(self.target_data, self.buffer + self.start, n)
        self.start += n
        if self.start == self.end:
            self.start = self.end = 0
        self.target_filled = n
        return 0

    cdef int _finish_large(self, FrameHandler handler) except -1:
        cdef bytes body = self.targets[0]
        cdef list segments = self.segments
        cdef Header header = self.large
        self.targets = self.segments = None
        return handler.on_frame(&header, PyBytes_AS_STRING(body), segments or None)

    cdef int _make_room(self) except -1:
        cdef Py_ssize_t kept = self.end - self.start
        cdef char* grown
        if self.start:
            memmove(self.buffer, self.buffer + self.start, kept)
            self.start = 0
            self.end = kept
        if self.capacity < LARGEST_BUFFER_BYTES:
            grown = <char*>PyMem_RawRealloc(self.buffer, self.capacity * 2)
            if grown == NULL:
                raise MemoryError()
            self.buffer = grown
            self.capacity *= 2
        return 0

    def feed(self, const unsigned char[::1] data not None, FrameHandler handler not None):
        """Take data in, however it is split, and hand the frames in it to the handler.

        Raises:
            ProtocolError: the data break the grammar or a limit.
        """
        cdef Py_ssize_t offset = 0, n = 0
        cdef char* target = NULL
        while offset < data.shape[0]:
            self.space(&target, &n)
            n = min(n, data.shape[0] - offset)
            memcpy(target, &data[offset], n)
            offset += n
            self.received(n, handler)
