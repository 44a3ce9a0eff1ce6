cdef class Turn:
    cdef object event


cdef class Semaphore:
    # how many permits there are, and how many are taken
    cdef readonly Py_ssize_t limit
    cdef readonly Py_ssize_t held
    cdef readonly bint waits
    cdef readonly object submit
    # those that wait for one, in the order in which they came; whether grant() is running
    cdef object line
    cdef bint granting

    cdef bint try_acquire(self)
    cpdef int wait_in_line(self, waiter) except -1
    cpdef bint leave_line(self, waiter) except -1
    cpdef int release(self) except -1
    cdef int grant(self) except -1
