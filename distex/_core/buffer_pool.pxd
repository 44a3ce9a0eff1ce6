cdef class Block:
    cdef char* data
    cdef Py_ssize_t size
