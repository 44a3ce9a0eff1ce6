from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from distex._core.codec cimport Codec, Cursor
from distex._core.framing cimport Buffer, FrameHandler, FrameWriter, Header
from distex._core.steps cimport Steps


cdef class Entry:
    cdef object __weakref__
    # a function as the pool sent it; loaded when it is first called
    cdef bytes payload
    cdef list segments
    cdef object function
    # definitions that have to be in force when it is called, or None; when they were last
    cdef list needs
    cdef uint64_t epoch
    # what a slow call takes lately, in nanoseconds: results are sent before such a one
    cdef double slow_ns

    cdef object load(self, object loads)
    cdef int took(self, double ns) except -1


cdef class Job:
    # one CALL or CHUNK, with the frame it came in
    cdef uint64_t id
    cdef Entry entry
    cdef int kind
    cdef int flags
    cdef bytes body
    cdef list segments
    cdef Cursor cursor
    # of a chunk: its calls, and how many are done; 0 until it has begun
    cdef uint32_t calls
    cdef uint32_t done
    cdef int64_t spent_ns
    # results of a chunk that have not been sent
    cdef Buffer results
    cdef list result_segments
    cdef uint32_t unsent
    # cancelled and answered
    cdef bint cancelled
    # the coroutine that it waits for; whether there has been one
    cdef object task
    cdef Steps steps
    cdef bint from_coroutine


cdef class Runner(FrameHandler):
    cdef FrameWriter out
    cdef readonly object connection
    cdef readonly object loop
    cdef Codec codec
    cdef object load_function
    # read_definition(payload, segments) gives what define() takes a list of; define() says whether
    # anything has changed
    cdef public object read_definition
    cdef public object define
    cdef readonly object dump_error
    # those that may be called by this connection, by id; all that the worker has by any
    cdef dict functions
    cdef object entries
    # jobs that could not be done at once, oldest first; those and coroutines by id
    cdef object queue
    cdef dict jobs
    cdef bint scheduled
    # the time as it was last read, 0: long ago; when this turn has to end; when output was sent
    cdef int64_t now_ns
    cdef int64_t turn_end_ns
    cdef int64_t sent_ns
    # busy polling: for how long, until when, and whether it goes on
    cdef int64_t spin_ns
    cdef int64_t spin_end_ns
    cdef bint spinning
    # whether the running loop is hidden from plain functions, and which one that is
    cdef bint outside
    cdef object left_loop
    # shared with the nanny, see distex/worker/status_page.py
    cdef uint64_t[::1] page
    # this process is a fork that a task has made of the worker
    cdef public bint forked

    cdef int _leave_loop(self) except -1
    cdef int _enter_loop(self) except -1
    cdef Py_ssize_t _read_needs(self, Entry entry, const char* body, Py_ssize_t length) except -1
    cdef int _define(self, Entry entry) except -1
    cdef int _begin_turn(self) except -1
    cdef int _flush(self) except -1
    cdef bint _send_now(self, Entry entry)
    cdef int _flush_before(self, Entry entry) except -1
    cdef int _enqueue(self, Job job) except -1
    cdef int _schedule(self, object turn) except -1
    cdef int _failed(self, object exc) except -1
    cdef int _call(self, Entry entry, uint64_t id, int flags, Cursor* cursor,
                   list segments) except -1
    cdef bint _chunk(self, Job job) except -1
    cdef int _chunk_value(self, Job job, object value) except -1
    cdef int _send_results(self, Job job, int kind) except -1
    cdef int _send_value(self, uint64_t id, int flags, int64_t ns, object value) except -1
    cdef int _send_error(self, uint64_t id, int flags, object exc) except -1
    cdef int _leave_fork(self) except -1
    cdef int _await(self, Job job, object awaitable) except -1
    cdef int _cancel(self, uint64_t id) except -1
    cdef int _give_back(self) except -1
    cdef int _return(self, uint64_t id, uint32_t done, int64_t spent_ns) except -1
    cdef bint _stop(self, Job job, int64_t since) except -1
