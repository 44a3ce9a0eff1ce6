from distex._core.framing cimport FrameHandler, FrameReader, FrameWriter
from distex._core.ring cimport RingPair


cdef class Connection(FrameWriter):
    cdef readonly object loop
    cdef readonly object transport
    cdef readonly FrameReader reader
    # who gets the frames; changes once, when the peer has proved who it is
    cdef public FrameHandler handler
    # counted into when the peer broke the protocol
    cdef public object on_violation
    # called with the connection when it is gone
    cdef public object on_lost
    # output is held back while input is being processed, and flushed at its end
    cdef bint reading
    cdef bint flush_scheduled
    cdef bint paused
    cdef object flush_callback
    # bound once
    cdef object transport_write
    # for large segments, if it may be used; and what waits for room in it, with all that comes
    # after, and then the end
    cdef readonly RingPair rings
    cdef object held
    cdef bint closing
    # the socket, if it may be read without the transport; else -1
    cdef int poll_fd
    # the buffer that was handed out last, and what it is
    cdef object space
    cdef char* space_data
    cdef Py_ssize_t space_size

    cdef int pending(self) except -1
    cdef bint congested(self)
    cdef int write_out(self) except -1
    cdef int _write_held(self) except -1
    cdef int violated(self, object exc) except -1
