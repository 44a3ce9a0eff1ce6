from distex._core.functions cimport Function


cpdef object current_value(object place, str name)


cdef class CachedFunction:
    cdef readonly object func
    cdef readonly Function function
    cdef readonly list uses

    cpdef bint is_current(self) except -1
