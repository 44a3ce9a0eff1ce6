# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The worker's side of a task: run those that come in, and answer each exactly once.

    frames ──on_frame──> run at once ──> RESULT, ERROR ──> FrameWriter
                  │          ^
                  └> queue ──┘ when this turn of the loop has taken long enough

Tasks start in the order in which they came.  A plain function blocks the worker, and sees no
running event loop, so ``asyncio.run`` works in it; a coroutine runs on the loop beside others.

Results are collected and sent together, but none waits for long: they go out before a call that is
likely to be slow, and whenever HOLD_NS have passed.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.string cimport memcpy

import os
from asyncio import _get_running_loop, _set_running_loop
from collections import deque
from functools import partial
from weakref import WeakValueDictionary

from distex._core.clock cimport clock_ns
from distex._core.codec cimport Codec, Cursor, get_number, put_number
from distex._core.framing cimport (
    CALL, CANCEL, CANCELLED, CHUNK, ERROR, FORGET, FUNCTION, PART, RECALL, RESULT, RETURNED,
    Buffer, FrameHandler, Header, Kind,
)
from distex._core.references cimport owned
from distex._core.status_page cimport (
    CANCELS, FINISHED, ITEM, PAGE_NUMBERS, RUNNING, STARTED, UNWANTED, WITHDRAWN, keep_order,
)
from distex._core.steps cimport steps_of
from distex.errors import ProtocolError, TaskInterrupted
from distex.remote_errors import annotate

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object obj)
    object PyObject_CallOneArg(object callable, object arg)

cdef enum:
    # a turn of the loop in which plain functions run; then it gets to its other work
    TURN_NS = 5_000_000
    # results are not held back for longer, nor before a call that is likely to take SLOW_NS
    HOLD_NS = 500_000
    SLOW_NS = 50_000
    # between two looks at the clock there are as many calls of a chunk as take this long, within
    # limits: a look costs as much as a tiny call
    LOOK_NS = 10_000
    LOOK_CALLS = 200
    # results of a chunk are sent on when they are this many bytes or segments
    RESULTS_BYTES = 256 * 1024
    RESULTS_SEGMENTS = 256
    # flags: see dispatch.pyx, task.pyx and chunk.pyx
    NEEDS = 1
    PACKED = 1
    SPREAD = 1
    FROM_COROUTINE = 1
    NOT_LOADED = 1
    # a larger call is not copied in order to wait for its turn
    LARGE_BODY_BYTES = 16 * 1024


# raised whenever a definition in __main__ is replaced; 0: never
cdef uint64_t main_epoch = 1


cdef class Entry:
    """A function, or a definition, that the pool sent."""

    cdef object load(self, object loads):
        if self.function is None:
            self.function = loads(self.payload, self.segments)
            self.payload = None
            self.segments = None
        return self.function

    cdef int took(self, double ns) except -1:
        self.slow_ns = max(ns, 0.9 * self.slow_ns)
        return 0


cdef class Job:
    """A task that could not be run on the spot."""


cdef bint is_awaitable(object value):
    return PyCoro_CheckExact(value) or hasattr(type(value), "__await__")


cdef class Runner(FrameHandler):
    """Runs the tasks of one worker.

    Args:
        loop: the worker's event loop.
        codec: how data are written.
        load_function: ``load_function(payload, buffers)`` gives the function.
        dump_error: ``dump_error(exc)`` gives what errors.load_exception takes.
        page: eight 64-bit numbers, writable, see distex/worker/status_page.py.
        spin: seconds to poll for more work before sleeping.
    """

    def __init__(self, loop, Codec codec, load_function, dump_error, page, double spin=0):
        self.spin_ns = <int64_t>(spin * 1e9)
        self.loop = loop
        self.codec = codec
        self.load_function = load_function
        self.dump_error = dump_error
        self.functions = {}
        self.entries = WeakValueDictionary()
        self.queue = deque()
        self.jobs = {}
        self.page = page
        if self.page.shape[0] < PAGE_NUMBERS:  # it is written to without a look at its bounds
            raise ValueError("the page has no room for all notes")

    def share_functions(self, Runner other):
        """Have what comes by this connection and by another one be the same function, if the pool
        says that it is: with one state."""
        self.entries = other.entries

    def connected(self, connection):
        self.connection = connection
        self.out = connection

    def writable(self):
        self._schedule(self._run_queue)

    # --- what comes in

    cdef int on_frame(self, Header* header, const char* body, list segments) except -1:
        cdef int kind = header.kind
        cdef Cursor cursor
        cdef Entry entry
        cdef Job job
        if kind == CALL or kind == CHUNK:
            entry = self.functions.get(header.aux)
            if entry is None:
                raise ProtocolError(f"a call of function {header.aux}, which was not sent")
            if self.now_ns == 0:
                self._begin_turn()
            # a slow call waits for the end of what has been received: it may be cancelled there
            if kind == CALL and not self.queue and self.now_ns < self.turn_end_ns \
                    and (entry.slow_ns < SLOW_NS or header.length > LARGE_BODY_BYTES) \
                    and not self.out.congested():
                cursor.data = body
                cursor.end = body + header.length
                cursor.segment = 0
                return self._call(entry, header.id, header.flags, &cursor, segments)
            job = Job.__new__(Job)
            job.id = header.id
            job.entry = entry
            job.kind = kind
            job.flags = header.flags
            job.body = PyBytes_FromStringAndSize(body, header.length)
            job.segments = segments
            job.cursor.data = PyBytes_AS_STRING(job.body)
            job.cursor.end = job.cursor.data + header.length
            job.cursor.segment = 0
            return self._enqueue(job)
        if kind == FUNCTION:
            entry = self.entries.get((header.id, header.aux))
            if entry is None:
                entry = Entry.__new__(Entry)
                if header.flags & NEEDS:
                    body += self._read_needs(entry, body, header.length)
                    entry.payload = PyBytes_FromStringAndSize(
                        body, header.length - 4 - 8 * len(entry.needs))
                else:
                    entry.payload = PyBytes_FromStringAndSize(body, header.length)
                entry.segments = segments
                entry.slow_ns = 2 * SLOW_NS
                self.entries[header.id, header.aux] = entry
            self.functions[header.id] = entry
            return 0
        if kind == FORGET:
            self.functions.pop(header.id, None)
            return 0
        if kind == CANCEL:
            self.page[CANCELS] += 1
            return self._cancel(header.id)
        if kind == RECALL:
            return self._give_back()
        return FrameHandler.on_frame(self, header, body, segments)

    cdef Py_ssize_t _read_needs(self, Entry entry, const char* body, Py_ssize_t length) except -1:
        """Read which definitions a function needs: how many bytes that takes."""
        cdef uint32_t count, i
        cdef uint32_t numbers[2]
        cdef Entry need
        if length >= 4:
            memcpy(&count, body, 4)
        if length < 4 or count > (length - 4) // 8:
            raise ProtocolError("a function ends before the definitions that it needs")
        entry.needs = []
        for i in range(count):
            memcpy(numbers, body + 4 + 8 * i, 8)
            need = self.entries.get((numbers[0], numbers[1]))
            if need is None:
                raise ProtocolError(f"a function needs definition {numbers[0]}, which was not sent")
            entry.needs.append(need)
        return 4 + 8 * <Py_ssize_t>count

    cdef int _define(self, Entry entry) except -1:
        """Have __main__ be what the function needs; see worker/main_module.py."""
        global main_epoch
        cdef Entry need
        if self.define is not None and self.define(
                [need.load(self.read_definition) for need in entry.needs]):
            main_epoch += 1
        entry.epoch = main_epoch
        return 0

    cdef int on_batch_end(self) except -1:
        if self.queue and not self.scheduled:
            self._run_queue()
        self._enter_loop()
        self.now_ns = 0
        if self.spin_ns:
            self.spin_end_ns = clock_ns() + self.spin_ns
            if not self.spinning:
                self.spinning = True
                self.loop.call_soon(self._spin)
        return 0

    def _spin(self):
        """Keep the loop from sleeping."""
        if clock_ns() < self.spin_end_ns:
            self.loop.call_soon(self._spin)
            self.out.poll()
        else:
            self.spinning = False

    cdef int _begin_turn(self) except -1:
        self.now_ns = clock_ns()
        self.turn_end_ns = self.now_ns + TURN_NS
        if self.out.size == 0:
            self.sent_ns = self.now_ns
        return 0

    cdef int _enqueue(self, Job job) except -1:
        if job.id in self.jobs:
            raise ProtocolError(f"task {job.id} has come twice")
        self.queue.append(job)
        self.jobs[job.id] = job
        return 0

    cdef int _schedule(self, object turn) except -1:
        """Have the turn come, unless nothing waits, or one comes anyway."""
        if self.queue and not self.scheduled and not self.out.congested():
            self.scheduled = True
            self.loop.call_soon(turn)
        return 0

    def _run_queue(self):
        """Run what waits, until the turn is over."""
        cdef Job job
        self.scheduled = False
        if self.now_ns == 0:
            self._begin_turn()
        while self.queue and self.now_ns < self.turn_end_ns and not self.out.congested():
            job = self.queue.popleft()
            if job.cancelled:
                continue
            if job.kind == CALL:
                del self.jobs[job.id]
                self._call(job.entry, job.id, job.flags, &job.cursor, job.segments)
            elif not self._chunk(job):
                if job.task is None:  # it goes on in the next turn
                    self.queue.appendleft(job)
            else:
                del self.jobs[job.id]
        self._enter_loop()
        self.now_ns = 0
        self._flush()
        self._schedule(self._after_input)

    def _after_input(self):
        """Go on in the next turn, not in this one: in between the loop reads what has come, and
        what waits here may have been cancelled."""
        self.loop.call_soon(self._run_queue)

    cdef int _cancel(self, uint64_t id) except -1:
        cdef Job job = self.jobs.get(id)
        if job is None:  # done before the request came
            return 0
        if job.task is not None:
            job.steps.is_cancelled = True
            job.task.cancel()
            return 0
        del self.jobs[id]
        job.cancelled = True
        job.body = None
        job.results = None
        return self.out.frame(CANCELLED, 0, 0, id, NULL, 0, None)

    def cancel_all(self):
        """Cancel all tasks: nobody waits for the answers any more."""
        for id in list(self.jobs):
            self._cancel(id)

    cdef int _give_back(self) except -1:
        """Another worker has nothing to do: return what has not been started, and of a chunk what
        is left of it."""
        cdef Job job
        jobs = self.queue
        self.queue = deque()
        for job in jobs:
            if job.cancelled:
                continue
            if job.kind == CHUNK and not job.from_coroutine or job.kind == CALL:
                if job.unsent:
                    self._send_results(job, PART)
                del self.jobs[job.id]
                self._return(job.id, job.done, job.spent_ns)
            else:
                self.queue.append(job)
        return 0

    cdef int _return(self, uint64_t id, uint32_t done, int64_t spent_ns) except -1:
        """Give a task back, or what is left of a chunk."""
        return self.out.frame(RETURNED, 0, done, id, <const char*>&spent_ns, 8, None)

    # --- running

    cdef int _leave_loop(self) except -1:
        """Have plain functions see no running loop, until the loop itself goes on."""
        if not self.outside:
            self.left_loop = _get_running_loop()
            _set_running_loop(None)
            self.outside = True
        return 0

    cdef int _enter_loop(self) except -1:
        if self.outside:
            self.outside = False
            _set_running_loop(self.left_loop)
        return 0

    cdef int _flush(self) except -1:
        self.sent_ns = self.now_ns
        self.connection.flush()
        return 0

    cdef bint _send_now(self, Entry entry):
        """Whether results should not wait for a call of this function."""
        return entry.slow_ns >= SLOW_NS or self.now_ns - self.sent_ns >= HOLD_NS

    cdef int _flush_before(self, Entry entry) except -1:
        if (self.out.size or self.out.parts) and self._send_now(entry):
            self._flush()
        return 0

    cdef int _call(self, Entry entry, uint64_t id, int flags, Cursor* cursor,
                   list segments) except -1:
        cdef int64_t began = self.now_ns
        cdef Py_ssize_t mark
        cdef Job job
        self._flush_before(entry)
        if self.page[STARTED] < id:
            self.page[STARTED] = id
        keep_order()
        if self.page[WITHDRAWN] >= id:
            return self._return(id, 0, 0)
        try:
            if entry.needs is not None and entry.epoch != main_epoch:
                self._define(entry)
            function = entry.function
            if function is None:
                function = entry.load(self.load_function)
                began = clock_ns()
            names = kwargs = None
            if flags & PACKED:
                args, kwargs = self.codec.get(cursor, segments)
            else:
                args = self.codec.get(cursor, segments)
                names = self.codec.get(cursor, segments)
                if names is not None:
                    kwargs = dict(zip(names[::2], names[1::2]))
            if type(args) is not tuple:
                if self.codec.native:
                    raise ProtocolError("the arguments of a call are no tuple")
                args = tuple(args)  # the serializer does not know them
            self.page[RUNNING] = id
            if self.page[UNWANTED] == id != 0:
                raise TaskInterrupted()
            self._leave_loop()
            if kwargs is None:
                value = function(*<tuple>args)
            else:
                value = function(*args, **kwargs)
            self.page[RUNNING] = 0
            args = kwargs = None
            self._leave_fork()
            self.now_ns = clock_ns()
            mark = self.out.begin(RESULT, 0, _clamp(self.now_ns - began), id)
            if self.codec.put_native(self.out, value):
                self.out.end(mark)
            else:
                self.out.size = mark
                if is_awaitable(value):
                    if id in self.jobs:
                        raise ProtocolError(f"task {id} has come twice")
                    job = Job.__new__(Job)
                    job.id = id
                    self.page[FINISHED] = id  # no plain function that could be interrupted
                    self._await(job, value)
                    self.jobs[id] = job
                    return 0
                self._send_value(id, 0, self.now_ns - began, value)
        except BaseException as exc:
            self._failed(exc)
            self._send_error(id, NOT_LOADED if entry.function is None else 0, exc)
        self.page[FINISHED] = id
        entry.took(<double>(self.now_ns - began))
        return 0

    cdef bint _chunk(self, Job job) except -1:
        """Run calls of a chunk: True once it is answered, False if it goes on later."""
        cdef int64_t before, elapsed
        cdef uint32_t n = 0, stride = 0
        cdef Entry entry = job.entry
        cdef Buffer results
        cdef PyObject* number
        cdef bint native = self.codec.native
        cdef uint64_t* page = &self.page[0]
        # else it goes on behind a coroutine, and others have been started meanwhile
        cdef bint newest = page[STARTED] <= job.id
        if newest:
            page[STARTED] = job.id
        try:
            if entry.needs is not None and entry.epoch != main_epoch:
                self._define(entry)
            function = entry.load(self.load_function)
            if job.results is None:
                if job.cursor.end - job.cursor.data < 4:
                    raise ProtocolError("a chunk without the count of its items")
                memcpy(&job.calls, job.cursor.data, 4)
                job.cursor.data += 4
                job.results = Buffer.__new__(Buffer)
                job.results.put(<const char*>&n, 4)
                job.result_segments = []
            results = job.results
            before = self.now_ns = clock_ns()
            n = 0
            self._leave_loop()
            while job.done < job.calls:
                if stride == 0:
                    if job.unsent and self._send_now(entry):
                        self._send_results(job, PART)
                    self._flush_before(entry)
                if newest:
                    page[ITEM] = job.done
                keep_order()
                if page[WITHDRAWN] >= job.id:
                    return self._stop(job, before)
                number = get_number(&job.cursor)
                if number != NULL:
                    item = owned(number)
                else:
                    item = self.codec.get(&job.cursor, job.segments)
                page[RUNNING] = job.id
                if page[UNWANTED] == job.id:
                    raise TaskInterrupted()
                if job.flags & SPREAD:
                    value = function(*item)
                else:
                    value = PyObject_CallOneArg(function, item)
                page[RUNNING] = 0
                item = None
                self._leave_fork()
                n += 1
                if native and put_number(results, <PyObject*>value):
                    job.done += 1
                    job.unsent += 1
                elif not self.codec.put_native(results, value):
                    if is_awaitable(value):
                        self.page[FINISHED] = job.id
                        self._await(job, value)
                        return False
                    self._chunk_value(job, value)
                else:
                    job.done += 1
                    job.unsent += 1
                if stride:
                    stride -= 1
                    continue
                self.now_ns = clock_ns()
                elapsed = self.now_ns - before
                job.spent_ns += elapsed
                before = self.now_ns
                entry.took(<double>elapsed / n)
                stride = <uint32_t>min(LOOK_CALLS, LOOK_NS * n // max(elapsed, 1))
                n = 0
                if self.now_ns >= self.turn_end_ns and job.done < job.calls:
                    return False
        except BaseException as exc:
            self._failed(exc)
            if job.unsent:
                self._send_results(job, PART)
            self._send_error(job.id, NOT_LOADED if entry.function is None else 0, exc)
        else:
            self.now_ns = clock_ns()
            job.spent_ns += self.now_ns - before
            self._send_results(job, RESULT)
        self.page[FINISHED] = job.id
        return True

    cdef bint _stop(self, Job job, int64_t since) except -1:
        """The rest of a chunk is withdrawn."""
        self.now_ns = clock_ns()
        job.spent_ns += self.now_ns - since
        if job.unsent:
            self._send_results(job, PART)
        self._return(job.id, job.done, job.spent_ns)
        self.page[FINISHED] = job.id
        return True

    cdef int _chunk_value(self, Job job, object value) except -1:
        try:
            self.codec.put(job.results, value, job.result_segments)
        except BaseException as exc:
            annotate_result(exc, value)
            raise
        self._leave_fork()
        job.done += 1
        job.unsent += 1
        if job.results.size > RESULTS_BYTES or len(job.result_segments) > RESULTS_SEGMENTS:
            self._send_results(job, PART)
        return 0

    cdef int _failed(self, object exc) except -1:
        """A call has raised this, or what is around it."""
        self.page[RUNNING] = 0
        self._leave_fork()
        self.now_ns = clock_ns()
        if type(exc) is TaskInterrupted:  # others may not be wanted either: read what has come
            self.turn_end_ns = self.now_ns
        return 0

    cdef int _leave_fork(self) except -1:
        """End a fork of the worker that comes back from a task: the worker answers for it."""
        if self.forked:
            os._exit(0)
        return 0

    cdef int _await(self, Job job, object awaitable) except -1:
        """Let a coroutine run on the loop; _awaited() answers for it."""
        job.from_coroutine = True
        self._enter_loop()
        try:
            job.steps = steps_of(awaitable, job.id, self.page)
            job.task = self.loop.create_task(job.steps)
        except BaseException:  # of a task factory that a task has set
            if hasattr(awaitable, "close"):
                awaitable.close()
            raise
        job.task.add_done_callback(partial(self._awaited, job, awaitable))
        return 0

    def _awaited(self, Job job, awaitable, task):
        self._leave_fork()
        job.task = job.steps = None
        if task.cancelled():  # before it began
            if hasattr(awaitable, "close"):
                awaitable.close()
            ok, value = False, None
        else:
            ok, value = task.result()
        if job.kind == CHUNK and ok:
            try:
                self._chunk_value(job, value)
            except BaseException as exc:
                ok, value = False, exc
            else:
                self.queue.appendleft(job)
                self._schedule(self._run_queue)
                return
        self.jobs.pop(job.id, None)
        if ok:
            self._send_value(job.id, FROM_COROUTINE, 0, value)
        elif value is None:
            self.out.frame(CANCELLED, 0, 0, job.id, NULL, 0, None)
        else:
            if job.unsent:
                self._send_results(job, PART)
            self._send_error(job.id, 0, value)

    # --- answers

    cdef int _send_value(self, uint64_t id, int flags, int64_t ns, object value) except -1:
        cdef Buffer scratch = Buffer.__new__(Buffer)
        cdef list segments = []
        try:
            self.codec.put(scratch, value, segments)
        except BaseException as exc:
            annotate_result(exc, value)
            return self._send_error(id, 0, exc)
        self._leave_fork()
        return self.out.frame(RESULT, flags, _clamp(ns), id, scratch.data, scratch.size, segments)

    cdef int _send_error(self, uint64_t id, int flags, object exc) except -1:
        cdef Buffer scratch = Buffer.__new__(Buffer)
        cdef list segments = []
        self.codec.put(scratch, self.dump_error(exc), segments)
        self._leave_fork()
        return self.out.frame(ERROR, flags, 0, id, scratch.data, scratch.size, segments)

    cdef int _send_results(self, Job job, int kind) except -1:
        cdef Buffer results = job.results
        cdef uint32_t none = 0
        memcpy(results.data, &job.unsent, 4)
        self.out.frame(<Kind>kind, job.from_coroutine, _clamp(job.spent_ns), job.id,
                       results.data, results.size, job.result_segments)
        results.size = 0
        results.put(<const char*>&none, 4)
        job.result_segments = []
        job.unsent = 0
        return 0


cdef int annotate_result(exc, value) except -1:
    annotate(exc, f"raised while the result, a {type(value).__name__}, was being pickled")
    return 0


cdef inline uint32_t _clamp(int64_t ns):
    return <uint32_t>min(max(ns, 0), 0xFFFFFFFF)
