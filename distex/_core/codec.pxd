from libc.stdint cimport uint32_t, uint64_t

from distex._core.framing cimport Buffer


cdef struct Cursor:
    # what is being read: from data to end
    const char* data
    const char* end
    # how many of the frame's segments have been used up
    Py_ssize_t segment


cdef class Codec:
    # dumps(obj, segments) -> bytes; loads(data, segments) -> obj
    cdef object dumps
    cdef object loads
    # whether exact built-in types bypass them
    cdef bint native

    cdef bint put_native(self, Buffer out, object value) except -1
    cdef int put(self, Buffer out, object value, list segments) except -1
    cdef int put_pickled(self, Buffer out, object value, list segments) except -1
    cdef bint put_call(self, Buffer out, tuple args, dict kwargs, list segments) except -1
    cdef object get(self, Cursor* cursor, list segments)
    cdef object _get(self, Cursor* cursor, list segments, int depth)
    cdef object _get_pickled(self, Cursor* cursor, list segments)
