cdef class Results:
    # generator of the lists to come, and what is left of the present one
    cdef object lists
    cdef list values
    cdef Py_ssize_t next
    cdef Py_ssize_t end

    cdef int load(self, list values) except -1


cdef class ResultIterator(Results):
    cdef object on_close


cdef class AsyncResultIterator(Results):
    pass
