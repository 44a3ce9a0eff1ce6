# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A coroutine of a task, wrapped for the worker's loop so that it can be seen while it runs.

    loop ──step──> Steps ──step──> coroutine
                     └──STEPPING──> status page

While a step runs the loop reads nothing, not even that the task is cancelled. If the step does not
end, as the coroutine blocks, the nanny sees that in the page and ends it; see worker/interrupts.py.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from collections.abc import Coroutine
from inspect import iscoroutine

from distex._core.references cimport owned
from distex._core.status_page cimport STEPPING

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object iterator, object arg, PyObject** result) except PYGEN_ERROR


cdef Steps steps_of(object awaitable, uint64_t id, uint64_t[::1] page):
    """Return a coroutine that gives (True, value) or (False, exception), as SystemExit and
    KeyboardInterrupt raised out of a task would end the loop."""
    cdef Steps steps = Steps.__new__(Steps)
    steps.awaitable = awaitable
    steps.id = id
    steps.page = page
    return steps


cdef class Steps:
    """The steps of one task; made by steps_of()."""

    cdef object first(self):
        """Return what is stepped through."""
        awaitable = self.awaitable
        if self.iterator is None:
            self.iterator = awaitable if iscoroutine(awaitable) else (
                type(awaitable).__await__(awaitable))
            if not hasattr(self.iterator, "__next__") and not iscoroutine(self.iterator):
                raise TypeError("__await__() returned a non-iterator of type "
                                f"'{type(self.iterator).__name__}'")
        return self.iterator

    cdef object end(self, bint ok, object value):
        self.awaitable = self.iterator = None
        raise StopIteration((ok, value))

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        cdef uint64_t before = self.page[STEPPING]
        cdef PySendResult status = PYGEN_ERROR
        if not self.is_cancelled:
            self.page[STEPPING] = self.id
        try:
            status = PyIter_Send(self.first(), None, &result)
            error = None
        except BaseException as exc:
            error = exc
        self.page[STEPPING] = before
        if error is not None:
            return self.end(False, error)
        value = owned(result)
        if status == PYGEN_NEXT:
            return value
        return self.end(True, value)

    def send(self, value):
        """Make the next step; a loop sends None."""
        return self.__next__()

    def throw(self, exc):
        """Make the next step, with an exception that is raised in the coroutine."""
        if self.iterator is None:  # it was cancelled before it began
            self.close()
            raise exc
        throw = getattr(self.iterator, "throw", None)
        try:
            if throw is None:
                raise exc
            return throw(exc)
        except StopIteration as stop:
            ok, value = True, stop.value
        except BaseException as error:
            ok, value = False, error
        return self.end(ok, value)

    def close(self):
        """Give up."""
        awaitable, self.awaitable = self.awaitable, None
        self.iterator = None
        if hasattr(awaitable, "close"):
            awaitable.close()


Coroutine.register(Steps)
