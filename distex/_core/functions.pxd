from libc.stdint cimport uint32_t

from distex._core.inbox cimport Inbox


cdef class Function:
    # what the workers know it by; unique among the functions that are alive
    cdef readonly uint32_t id
    # never used again, unlike the id: a worker may hear of it by two connections
    cdef readonly uint32_t serial
    cdef readonly str name
    cdef readonly bytes payload
    cdef readonly list segments
    # runs on the worker's loop, so tasks overlap and their time says nothing
    cdef public bint is_async
    # small enough, and likely to be called again
    cdef public bint takes_lane
    # what one call costs a worker, in nanoseconds, from what was measured; 0: not known yet
    cdef readonly double cost_ns
    # definitions that the worker has to have before it calls it, each a Function too, and the names
    # in __main__ that they define; which entry of a cache it is from
    cdef public list needs
    cdef public object names
    cdef public object key
    cdef FunctionTable table
    # the workers that have been sent it
    cdef list links

    cdef int measured(self, double ns, uint32_t calls) except -1


cdef class FunctionTable:
    # ids to use again, and the next one that never was
    cdef list free_ids
    cdef uint32_t next_id
    cdef uint32_t serial
    # gives a Function that has the definitions of more names: extend(function, names), or None
    cdef public object extend
    # of the pool's loop
    cdef Inbox inbox
    cdef unsigned long thread
