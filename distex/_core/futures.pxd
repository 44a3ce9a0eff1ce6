from distex._core.inbox cimport Inbox
from distex._core.task cimport Task


cdef enum:
    # states of an AsyncTask
    WAITING = 0
    SENT = 1
    DONE = 2
    FAILED = 3
    DROPPED = 4


cdef class AsyncTask(Task):
    # the caller's loop, and the way to it if it is not the pool's
    cdef object loop
    cdef Inbox inbox
    cdef int state
    # result, exception or cancel message
    cdef object value
    # None, one (callback, context), or a list of them
    cdef object callbacks
    cdef public bint _asyncio_future_blocking
    cdef bint unseen

    cdef int finish(self, int state, object value) except -1
    cdef int _hand_over(self, int state, object value) except -1
    cdef int _set(self, int state, object value) except -1


cdef class ConcurrentTask(Task):
    # the state as concurrent.futures names it
    cdef public object _state
    cdef public object _result
    cdef public object _exception
    # made when somebody waits, which few futures see
    cdef object condition
    cdef object waiters
    cdef object callbacks

    cdef int _release(self) except -1
    cdef bint _stop_running(self) except -1
    cdef bint _start_or_notify(self) except -1
