# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Tasks as the dispatcher sees them, their limits (retries, timeout) and deadlines.

    Task ──submitted with──> Limits ──if there is a timeout──> Deadlines ──in time order──> Task
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t

from distex._core.clock cimport seconds, seconds_at_least
from distex._core.codec cimport Codec, Cursor
from distex._core.framing cimport CALL, Buffer
from distex._core.semaphore cimport Semaphore

from distex.errors import ProtocolError
from distex.remote_errors import annotate

cdef enum:
    # flags of CALL: arguments and keyword arguments are one value
    PACKED = 1


cdef class Limits:
    """What is asked of a task beyond its result; shared by all tasks of which the same is asked.

    Args:
        retries: workers that it may lose and yet be tried again.
        timeout: seconds from its submission in which it has to be done; 0: any time.
        grace: seconds between the interrupt of a plain function whose task is cancelled and the
            end of its worker; 0: its end at once; negative: it is left alone.
    """

    def __init__(self, int retries=0, double timeout=0, double grace=-1):
        self.retries = retries
        self.timeout = timeout
        self.grace = grace


cdef class Deadlines:
    """Tasks that all have the same time from their submission, in the order in which it ends: one
    timer of the loop for all of them, as one for each would cost more than the task itself.

    Args:
        loop: the event loop that has the timer.
        timeout: seconds.
        timed: a set, which these are in while there is a timer.
        expire: called with each task whose time is over.
    """

    def __init__(self, loop, double timeout, set timed, expire):
        self.loop = loop
        self.timeout = timeout
        self.timed = timed
        self.expire = expire

    cdef int add(self, Task task) except -1:
        """Have the task expire when its time is over, which began now if nothing else is known."""
        cdef PyObject* before = self.last
        cdef double now = seconds() if self.timeout < 1 else seconds_at_least()
        if task.deadline == 0:
            task.deadline = now + self.timeout
        else:  # it has waited for a permit, while others came
            while before != NULL and (<Task>before).deadline > task.deadline:
                before = (<Task>before).before
        task.deadlines = self
        task.before = before
        task.after = self.first if before == NULL else (<Task>before).after
        if before != NULL:
            (<Task>before).after = <PyObject*>task
        else:
            self.first = <PyObject*>task
        if task.after != NULL:
            (<Task>task.after).before = <PyObject*>task
        else:
            self.last = <PyObject*>task
        Py_INCREF(task)
        if self.timer is not None and task.before == NULL and task.after != NULL:
            self.close()  # it ends before all others
        return self.wake_in(max(task.deadline - now, 0))

    cdef int wake_in(self, double delay) except -1:
        if self.timer is None:
            self.timer = self.loop.call_later(delay, self._look)
            self.timed.add(self)
        return 0

    cdef int remove(self, Task task) except -1:
        """It has ended."""
        if task.before != NULL:
            (<Task>task.before).after = task.after
        else:
            self.first = task.after
        if task.after != NULL:
            (<Task>task.after).before = task.before
        else:
            self.last = task.before
        task.before = task.after = NULL
        task.deadlines = None
        Py_DECREF(task)
        return 0

    def _look(self):
        """Expire those whose time is over."""
        cdef Task task
        self.timer = None
        self.timed.discard(self)
        while self.first != NULL:
            task = <Task>self.first
            left = task.deadline - seconds()
            if left > 0:
                self.wake_in(left)
                return
            self.expire(task)

    def close(self):
        """Nothing will be expired any more."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


cdef class Task:
    """One call on its way. What it ends as is up to its subclasses, see futures.pyx."""

    def __cinit__(self):
        self.calls = 1
        self.kind = CALL

    cdef int begin_timeout(self) except -1:
        """Its time begins, though it is not submitted yet."""
        if self.limits is not None and self.limits.timeout > 0:
            self.deadline = seconds() + self.limits.timeout
        return 0

    cdef bint start(self) except -1:
        """Called once, as it is about to be sent; False: it was cancelled, drop it."""
        return True

    cdef bint put_native(self, Buffer out, Codec codec) except -1:
        """Write the body if that runs no code of the user's; else write nothing: False."""
        self.flags = 0
        return codec.put_call(out, self.args, self.kwargs, None)

    cdef int put(self, Buffer out, Codec codec, list segments) except -1:
        """Write the body to a private buffer."""
        cdef Py_ssize_t before = len(segments)
        self.flags = 0
        if codec.put_call(out, self.args, self.kwargs, segments):
            return 0
        del segments[before:]
        self.flags = PACKED
        return codec.put_pickled(out, (self.args, self.kwargs or {}), segments)

    cdef int on_result(self, Cursor* cursor, list segments, Codec codec) except -1:
        try:
            value = codec.get(cursor, segments)
        except BaseException as exc:
            annotate(exc, f"raised while the result of {self.function.name} was being read")
            self.fail(exc)
        else:
            self.succeed(value)
        return 0

    cdef int on_part(self, Cursor* cursor, list segments, Codec codec,
                     double spent_ns) except -1:
        raise ProtocolError("part of a result for a task that is not a chunk")

    cdef int learn(self, uint32_t done, double spent_ns) except -1:
        """The first calls of it, this many, took that long together."""
        return self.function.measured(spent_ns / done, done)

    cdef list on_returned(self, uint32_t done, double spent_ns):
        """The worker gives it back, with done calls of a chunk answered: what to send instead."""
        return [self]

    cdef Task find_suspect(self, Py_ssize_t item, list parts):
        """The worker that may have started it is gone, at this item of a chunk (-1: not known):
        return the part of it that may be to blame, if there is one. All parts are added to the
        list, which are to be sent instead."""
        parts.append(self)
        return self

    cdef uint32_t answered(self) noexcept:
        """Calls of it whose results have come, while it is on a worker."""
        return 0

    cdef bint is_ended(self):
        """Whether nobody waits for it any more."""
        return self.is_unwanted

    cdef int retries(self) noexcept:
        """Workers that it may lose and yet be tried again."""
        return 0 if self.limits is None else self.limits.retries

    cdef int succeed(self, object value) except -1:
        return 0

    cdef int fail(self, object exc) except -1:
        return 0

    cdef int expire(self, object exc) except -1:
        """Its time is over; it may be on a worker, which has still to answer."""
        return 0

    cdef int drop(self) except -1:
        """The pool cancels the task, which has not been sent."""
        return 0

    cdef int cancelled_remotely(self) except -1:
        """The worker says that it dropped or cancelled the task as it was asked to."""
        return 0

    cdef int forget_deadline(self) except -1:
        if self.deadlines is not None:
            self.deadlines.remove(self)
        return 0

    cdef int release_permit(self) except -1:
        # taken out first: another thread may be at it too
        cdef Semaphore semaphore = self.semaphore
        self.semaphore = None
        if semaphore is not None:
            semaphore.release()
        return 0

    @property
    def name(self):
        """What errors call the function."""
        return self.function.name
