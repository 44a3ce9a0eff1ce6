from distex._core.functions cimport Function


cpdef object current_value(object place, str name)


cdef class Check:
    pass


cdef class Snapshot(Check):
    cdef list parts


cdef class CachedFunction:
    cdef readonly object func
    cdef readonly Function function
    cdef readonly list uses
    # whether the workers know it by a name
    cdef public bint by_name

    cpdef bint is_current(self) except -1
