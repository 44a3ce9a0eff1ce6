from distex._core.functions cimport Function


cpdef object current_value(object place, str name)


cdef class Check:
    cdef bint check(self) except -1


cdef class FunctionCheck(Check):
    cdef object func
    cdef object code
    cdef object defaults
    cdef object kwdefaults
    cdef Py_ssize_t attributes


cdef class ClassCheck(Check):
    cdef object cls
    cdef dict content
    cdef unsigned int version

    cdef int _note_version(self) except -1


cdef class Snapshot(Check):
    cdef list parts


cdef class CachedFunction:
    cdef readonly object func
    cdef readonly Function function
    cdef readonly list uses
    cdef list in_dicts
    cdef list checks
    cdef list elsewhere
    # whether the workers know it by a name
    cdef public bint by_name

    cpdef bint is_current(self) except -1
