from distex._core.codec cimport Codec
from distex._core.framing cimport Detour, FrameHandler, FrameReader, FrameWriter
from distex._core.ring cimport RingPair


cdef class Wire(FrameWriter):
    cdef int fd
    cdef FrameReader reader
    # None: large segments go by the socket
    cdef RingPair rings
    # the rings have broken off in between, for a loop's sake
    cdef bint broken_off
    # nanoseconds to poll for an answer before sleeping
    cdef long long spin_ns

    cdef int write_out(self, FrameHandler handler) except -1
    cdef int read(self, FrameHandler handler) except -1
    cdef int close(self) except -1
    cdef int send(self, object part) except -1
    cdef int send_detour(self, Detour detour, FrameHandler handler) except -1


cdef class Lane(FrameHandler):
    cdef Wire out
    cdef Codec codec
    cdef object worker
    # functions that the worker has by this way, by id; held here, so that ids stay theirs
    cdef dict known
    # of the call that is on its way
    cdef str name
    cdef bint answered
    cdef object value
    cdef object error

    cdef int prepare(self, object function) except -1
    cdef int exchange(self) except -1
