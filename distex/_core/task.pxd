from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from distex._core.codec cimport Codec, Cursor
from distex._core.framing cimport Buffer
from distex._core.functions cimport Function
from distex._core.semaphore cimport Semaphore


cdef class Limits:
    # workers that a task may lose and yet be tried again
    cdef readonly int retries
    # seconds from its submission in which it has to be done; 0: any time
    cdef readonly double timeout
    # seconds between the interrupt of a plain function whose task is cancelled and the end of its
    # worker; 0: its end at once; negative: it is left alone
    cdef readonly double grace
    # of the tasks that have a time
    cdef Deadlines deadlines


cdef class Deadlines:
    # whose loop has the timer, the set of those that have one, and what is called with a task
    cdef object loop
    cdef double timeout
    cdef readonly set timed
    cdef object expire
    # the tasks, from the one whose time ends first to the last; each is kept alive by a reference
    cdef PyObject* first
    cdef PyObject* last
    cdef object timer

    cdef int add(self, Task task) except -1
    cdef int wake_in(self, double delay) except -1
    cdef int remove(self, Task task) except -1


cdef class Task:
    cdef public Function function
    cdef readonly tuple args
    cdef readonly dict kwargs
    # where it is: on a worker under wire_id, or waiting (None)
    cdef readonly object link
    cdef readonly uint64_t wire_id
    # number of calls in it, and the cost that was booked for them at dispatch
    cdef readonly uint32_t calls
    cdef double booked_ns
    # meant for the one worker that it was sent to
    cdef bint pinned
    cdef int kind
    cdef int flags
    # what it was submitted with, or None; workers that it has lost
    cdef public Limits limits
    cdef readonly int losses
    # workers that were lost with it on them, for which it was not to blame as far as is known
    cdef readonly int spared
    # its worker was asked to cancel it; it had started on one that was lost, and waits
    cdef bint is_unwanted
    cdef bint is_retried
    # among those that have the same time, or None; when it is over; who comes before and after
    cdef Deadlines deadlines
    cdef double deadline
    cdef PyObject* before
    cdef PyObject* after
    # where it holds a permit until its end, or None
    cdef Semaphore semaphore

    cdef int begin_timeout(self) except -1
    cdef bint start(self) except -1
    cdef bint put_native(self, Buffer out, Codec codec) except -1
    cdef int put(self, Buffer out, Codec codec, list segments) except -1
    cdef int on_result(self, Cursor* cursor, list segments, Codec codec) except -1
    cdef int on_part(self, Cursor* cursor, list segments, Codec codec,
                     double spent_ns) except -1
    cdef int learn(self, uint32_t done, double spent_ns) except -1
    cdef list on_returned(self, uint32_t done, double spent_ns)
    cdef Task find_suspect(self, Py_ssize_t item, list parts)
    cdef int retries(self) noexcept
    cdef uint32_t answered(self) noexcept
    cdef bint is_ended(self)
    cdef int succeed(self, object value) except -1
    cdef int fail(self, object exc) except -1
    cdef int expire(self, object exc) except -1
    cdef int drop(self) except -1
    cdef int cancelled_remotely(self) except -1
    cdef int forget_deadline(self) except -1
    cdef int release_permit(self) except -1
