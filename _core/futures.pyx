# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Futures: AsyncTask for asyncio, ConcurrentTask for concurrent.futures; cancellation.

    Task                the dispatcher's view, see task.pyx
    ├── AsyncTask       awaitable in one event loop: run_async
    ├── ConcurrentTask  base of the concurrent.futures.Future that submit returns
    └── ChunkTask       several items of a map, see chunk.pyx

Task and future are one object: a million that wait cost little, and none is looked up.
"""
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF

from asyncio import CancelledError, InvalidStateError
from concurrent.futures import Future as _Future
from concurrent.futures._base import (
    CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING,
)
from logging import getLogger
from threading import Condition
from types import GenericAlias

from distex._core.functions cimport Function
from distex._core.iteration cimport get_iternext, hand_over, iternext, set_iternext
from distex._core.semaphore cimport Semaphore
from distex._core.task cimport Task

from distex.options import LONGEST as _LONGEST

logger = getLogger("concurrent.futures")  # as the base class does

cdef extern from "Python.h":
    void PyObject_GC_Track(void* obj)
    void PyObject_GC_UnTrack(void* obj)
    bint PyObject_GC_IsTracked(object obj)
    bint PyObject_IS_GC(object obj)


cdef class AsyncTask(Task):
    """One call as an awaitable; returned by ``Pool.run_async``.

    It has the methods of an ``asyncio.Future`` and works wherever asyncio takes one (``gather``,
    ``wait_for``, ``shield``, ``timeout``); it also has those of a coroutine, so that
    ``asyncio.create_task`` and ``TaskGroup.create_task`` take it; for ``asyncio.wait``, which takes
    no coroutines, wrap it in such a task.  The call is on its way as soon
    as the object exists.  ``cancel()`` drops a call that no worker has started, and cancels a
    coroutine that runs.
    """

    def __init__(self, Function function, tuple args, dict kwargs, loop):
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.loop = loop

    # AsyncTask[int] in annotations
    __class_getitem__ = classmethod(GenericAlias)

    def __del__(self):
        if self.state == FAILED and self.unseen:
            try:
                self.loop.call_exception_handler({
                    "message": "the exception of a distex task was never retrieved",
                    "exception": self.value,
                    "future": self,
                })
            except Exception:  # the interpreter is half gone
                pass

    def __repr__(self):
        names = ("pending", "pending", "finished", "failed", "cancelled")
        return f"<{type(self).__name__} {names[self.state]}>"

    # --- the dispatcher's side: the pool's thread

    cdef bint start(self) except -1:
        if self.state == WAITING:
            self.state = SENT
        return self.state == SENT

    cdef int succeed(self, object value) except -1:
        return self.finish(DONE, value)

    cdef bint is_ended(self):
        return self.is_unwanted or self.state >= DONE

    cdef int fail(self, object exc) except -1:
        if isinstance(exc, StopIteration):  # which an await can't raise
            error = RuntimeError(f"{self.function.name} raised StopIteration")
            error.__cause__ = exc
            exc = error
        return self.finish(FAILED, exc)

    cdef int drop(self) except -1:
        return self.finish(DROPPED, None)

    cdef int cancelled_remotely(self) except -1:
        return self.finish(DROPPED, None)

    cdef int expire(self, object exc) except -1:
        return self._hand_over(FAILED, exc)

    def admit(self, Semaphore semaphore):
        """Take the permit that it waited for, and be submitted; False if nobody waits for the call
        any more."""
        if self.state >= DONE or self.loop.is_closed():
            return False
        self.semaphore = semaphore
        try:
            semaphore.submit(self)
        except RuntimeError as exc:  # the pool's loop is closed
            self.fail(exc)
        return True

    cdef int finish(self, int state, object value) except -1:
        self.forget_deadline()
        self.args = None
        self.kwargs = None
        self.function = None
        return self._hand_over(state, value)

    cdef int _hand_over(self, int state, object value) except -1:
        if self.inbox is None:
            return self._set(state, value)
        try:
            self.inbox.put((self, state, value))
        except RuntimeError:  # the caller's loop is closed: nobody waits any more
            self.release_permit()
        return 0

    # --- the caller's side: its loop's thread

    cdef int _set(self, int state, object value) except -1:
        if self.state >= DONE:
            return 0
        if PyObject_IS_GC(value) and not PyObject_GC_IsTracked(self):
            PyObject_GC_Track(<void*>self)
        self.state = state
        self.value = value
        if self.semaphore is not None:
            self.release_permit()
        if state == FAILED:
            self.unseen = True
        callbacks = self.callbacks
        if callbacks is not None:
            self.callbacks = None
            if type(callbacks) is tuple:
                self.loop.call_soon(callbacks[0], self, context=callbacks[1])
            else:
                for callback, context in callbacks:
                    self.loop.call_soon(callback, self, context=context)
        return 0

    def cancel(self, msg=None):
        """Cancel the call if it has not ended: False if it has, else True."""
        cdef Function function
        if self.state >= DONE:
            return False
        # a task elsewhere may end at this moment and give its function up
        function = self.function
        self._set(DROPPED, msg)
        if function is not None:
            if self.inbox is None:
                self._cancel_on_worker()
            else:
                try:
                    function.table.inbox.put(self._cancel_on_worker)
                except RuntimeError:  # the pool's loop is closed, and with it the worker is gone
                    pass
        return True

    def _cancel_on_worker(self):
        self.forget_deadline()
        if self.link is not None:
            self.link.cancel(self)
        else:
            self.args = None
            self.kwargs = None

    def cancelled(self):
        """Whether the call was cancelled."""
        return self.state == DROPPED

    def done(self):
        """Whether the call has ended, in whatever way."""
        return self.state >= DONE

    def result(self):
        """What the call returned.

        Raises:
            BaseException: what the call raised.
            asyncio.CancelledError: it was cancelled.
            asyncio.InvalidStateError: it has not ended.
        """
        if self.state == DONE:
            return self.value
        if self.state == FAILED:
            self.unseen = False
            raise self.value
        if self.state == DROPPED:
            raise self._make_cancelled_error()
        raise InvalidStateError("Result is not ready.")

    def exception(self):
        """What the call raised, or None. Raises as result() if it was cancelled or goes on."""
        if self.state == FAILED:
            self.unseen = False
            return self.value
        if self.state == DONE:
            return None
        return self.result()

    def _make_cancelled_error(self):
        return CancelledError() if self.value is None else CancelledError(self.value)

    @property
    def _cancel_message(self):
        return self.value if self.state == DROPPED else None

    def get_loop(self):
        """The event loop that it belongs to."""
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        """Have the loop call ``callback(self)`` once the call has ended."""
        if context is None:
            context = PyContext_CopyCurrent()
        if self.state >= DONE:
            self.loop.call_soon(callback, self, context=context)
        elif self.callbacks is None:
            self.callbacks = (callback, context)
        elif type(self.callbacks) is tuple:
            self.callbacks = [self.callbacks, (callback, context)]
        else:
            self.callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Remove all instances of a callback: how many there were."""
        if self.callbacks is None:
            return 0
        if type(self.callbacks) is tuple:
            self.callbacks = [self.callbacks]
        kept = [pair for pair in self.callbacks if pair[0] != callback]
        removed = len(self.callbacks) - len(kept)
        self.callbacks = kept or None
        return removed

    # --- awaiting: as an iterator it keeps no state of its own, so many may await one task

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.state < DONE:
            self._asyncio_future_blocking = True
            return self
        if self.state == DONE:
            raise StopIteration(self.value)
        return self.result()  # raises

    def send(self, value):
        """Go on as a coroutine does."""
        return self.__next__()

    def throw(self, exc, value=None, traceback=None):
        """Raise exc, as a coroutine does that does not catch it; CancelledError ends the call too.

        So does asyncio with a task around it that is cancelled before it has begun.
        """
        if isinstance(exc, type):
            exc = exc() if value is None else value if isinstance(value, exc) else exc(value)
        if isinstance(exc, CancelledError):
            self.cancel()
        raise exc

    def close(self):
        """Nothing to do: a task is not suspended anywhere."""


cdef PyObject* next_of_task(PyObject* self) noexcept:
    if (<AsyncTask>self).state != DONE:
        return next_slowly(self)
    Py_INCREF((<AsyncTask>self).value)
    return hand_over(<PyObject*>(<AsyncTask>self).value)


cdef iternext next_slowly = get_iternext(AsyncTask)
set_iternext(AsyncTask, next_of_task)


cdef class ConcurrentTask(Task):
    """One call as the base of a ``concurrent.futures.Future`` whose lock, waiters and callbacks
    are made when somebody asks for them.

    While nobody has, the state changes without a lock: the interpreter runs these lines undivided.
    """

    def __init__(self, Function function, tuple args, dict kwargs):
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self._state = PENDING

    @property
    def _condition(self):
        if self.condition is None:
            condition = Condition()
            if self.condition is None:  # making it may have let another thread in
                self.condition = condition
        return self.condition

    @property
    def _waiters(self):
        if self.waiters is None:
            self.waiters = []
        return self.waiters

    @property
    def _done_callbacks(self):
        if self.callbacks is None:
            self.callbacks = []
        return self.callbacks

    cdef bint start(self) except -1:
        if self._state is RUNNING:  # sent before, to a worker that was lost
            return True
        if self._state is CANCELLED_AND_NOTIFIED or self._state is FINISHED:
            return False
        if self.condition is None and self._state is PENDING:
            self._state = RUNNING
            return True
        return self._start_or_notify()

    cdef bint _start_or_notify(self) except -1:
        """As the standard library does it; two threads may come here, if one of them cancels it."""
        with self._condition:
            if self._state is CANCELLED_AND_NOTIFIED:
                return False
            return _Future.set_running_or_notify_cancel(self)

    cdef int succeed(self, object value) except -1:
        self._release()
        if self._state is CANCELLED_AND_NOTIFIED or self._state is FINISHED:
            return 0
        if self.condition is None:
            self._result = value
            self._state = FINISHED
        else:
            _Future.set_result(self, value)
        self.release_permit()
        return 0

    cdef bint is_ended(self):
        return (self.is_unwanted or self._state is CANCELLED_AND_NOTIFIED
                or self._state is FINISHED)

    cdef int fail(self, object exc) except -1:
        self._release()
        return self.expire(exc)

    cdef int expire(self, object exc) except -1:
        if self._state is CANCELLED_AND_NOTIFIED or self._state is FINISHED:
            return 0
        if self.condition is None:
            self._exception = exc
            self._state = FINISHED
        else:
            _Future.set_exception(self, exc)
        self.release_permit()
        return 0

    cdef int drop(self) except -1:
        self._release()
        if not self.cancel():
            self._stop_running()  # it was on a worker before, and came back
        return 0

    cdef int cancelled_remotely(self) except -1:
        return self.fail(CancelledError())

    cdef int _release(self) except -1:
        self.forget_deadline()
        self.args = None
        self.kwargs = None
        self.function = None
        return 0

    def cancel(self):
        """Cancel the call: whether it is cancelled now.

        That can be done while it is not on a worker yet; later, if it is a coroutine, or if the
        interrupt of plain functions was asked for.
        """
        if self._state is RUNNING and self._cancel_running():
            return True
        if not _Future.cancel(self):
            return False
        self.release_permit()
        if self._state is CANCELLED:
            # tell those in wait() and as_completed() now, not when its turn would have come
            self._start_or_notify()
            self.args = None
            self.kwargs = None
        return True

    def _cancel_running(self):
        # it may end at this moment, in another thread, and give its function up
        cdef Function function = self.function
        if function is None or not (
                function.is_async or self.limits is not None and self.limits.grace >= 0):
            return False
        if not self._stop_running():
            return False
        try:
            function.table.inbox.put(self._cancel_on_worker)
        except RuntimeError:  # the pool's loop is closed, and with it the worker is gone
            pass
        return True

    cdef bint _stop_running(self) except -1:
        """From running to cancelled, which concurrent.futures doesn't know: whether it was so."""
        with self._condition:
            if self._state is not RUNNING:
                return False
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()
        self.release_permit()
        return True

    def _cancel_on_worker(self):
        self.forget_deadline()
        if self.link is not None:
            self.link.cancel(self)

    def _invoke_callbacks(self):
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:  # SystemExit too: it would end the loop that runs the pool
                logger.exception("exception calling callback for %r", self)

    def _check_thread(self):
        function = self.function
        if ((self._state is PENDING or self._state is RUNNING) and function is not None
                and PyThread_get_thread_ident() == (<Function>function).table.thread
                and not (<Function>function).table.inbox.loop.is_closed()):
            raise RuntimeError(
                "waiting here would block the event loop that runs this pool: "
                "await run_async(), or asyncio.wrap_future() of this future")

    def result(self, timeout=None):
        """What the call returned; see ``concurrent.futures.Future.result``.

        Raises:
            RuntimeError: it would block the loop that the result comes by.
        """
        if self._state is FINISHED and self._exception is None:
            return self._result
        if timeout is None or timeout > 0:
            self._check_thread()
        return _Future.result(self, None if timeout is None else min(timeout, _LONGEST))

    def exception(self, timeout=None):
        """What the call raised, or None; see ``concurrent.futures.Future.exception``."""
        if timeout is None or timeout > 0:
            self._check_thread()
        return _Future.exception(self, None if timeout is None else min(timeout, _LONGEST))
