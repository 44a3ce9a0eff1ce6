from distex._core.dispatch cimport Function


cpdef object look_up(object place, str name)


cdef class Kept:
    cdef readonly object func
    cdef readonly Function function
    cdef readonly list uses

    cpdef bint is_fresh(self) except -1
