from libc.stdint cimport uint64_t


cdef class Steps:
    cdef object awaitable
    # what is stepped through; None before the first step
    cdef object iterator
    # of the task; where it is noted that a step of it runs, see distex/worker/status_page.py
    cdef uint64_t id
    cdef uint64_t[::1] page
    # the loop has read that the task is cancelled: from here on it is known not to hang
    cdef bint is_cancelled

    cdef object first(self)
    cdef object end(self, bint ok, object value)


cdef Steps steps_of(object awaitable, uint64_t id, uint64_t[::1] page)
