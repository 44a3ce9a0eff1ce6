cdef class Inbox:
    # runs handle(item) on its loop for whatever other threads put in
    cdef object loop
    cdef object handle
    cdef object items
    cdef bint armed
    cdef bint closed

    cpdef int put(self, object item) except -1
