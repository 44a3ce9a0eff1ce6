from distex._core.codec cimport Codec
from distex._core.framing cimport FrameHandler, FrameReader, FrameWriter


cdef class Lane(FrameHandler):
    cdef int fd
    cdef FrameWriter out
    cdef FrameReader reader
    cdef Codec codec
    cdef object worker
    # functions that the worker has by this way, by id; held here, so that ids stay theirs
    cdef dict known
    # of the call that is on its way
    cdef str name
    cdef bint answered
    cdef object value
    cdef object error
    # nanoseconds to poll for an answer before sleeping
    cdef long long spin_ns

    cdef int prepare(self, object function) except -1
    cdef int exchange(self) except -1
    cdef int _send(self, const char* data, Py_ssize_t n) except -1
