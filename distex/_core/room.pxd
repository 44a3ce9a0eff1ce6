cdef class Room:
    # how many there may be, and how many there are
    cdef readonly Py_ssize_t limit
    cdef readonly Py_ssize_t inside
    # of those who wait: what wakes each, in the order of their coming
    cdef object waiting

    cdef bint take(self)
    cdef int give_back(self) except -1
    cdef int hand_out(self) except -1
