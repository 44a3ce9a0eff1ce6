from distex._core.dispatch cimport Dispatcher, WorkerLink
from distex._core.functions cimport Function
from distex._core.futures cimport AsyncTask, ConcurrentTask
from distex._core.lane cimport Lane
from distex._core.semaphore cimport Semaphore
from distex._core.task cimport Limits, Task


cdef class Caller:
    cdef Dispatcher dispatcher
    # finds functions; those that it has pickled, and whether to call what is bound as plain ones
    cdef object cache
    cdef dict cached
    cdef bint unwraps
    cdef object future_class
    # the ways to the callers' loops that are not the pool's
    cdef object inboxes
    # what is asked of tasks, if nothing else is said
    cdef readonly Limits limits
    # the bound on the tasks that are under way, or None
    cdef Semaphore semaphore

    cdef int _prepare(self, Task task, object func, tuple args, dict kwargs) except -1
    cdef Function _function(self, object func)
    cdef bint _goes_by_name(self, object func) except -1
    cdef AsyncTask _wait_in_line(self, AsyncTask task)
    cdef int _refuse(self) except -1
    cdef bint _acquire(self, Task task) except -1
    cdef object _timeout_error(self, Task task)
    cdef ConcurrentTask _make(self)
    cdef int _submit(self, Task task, bint at_home=*) except -1
    cdef object _run(self, ConcurrentTask task)
    cdef bint _is_answered(self, WorkerLink link, Lane lane, Task task) except -1
    cdef int _exchange(self, Lane lane, Task task) except -1
