# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Single calls: the short way from run_async, submit and run to the dispatcher.

    run_async ─> call_async ─> AsyncTask      ─┐
    submit    ─> call       ─> ConcurrentTask ─┴─> Dispatcher.submit
    run       ─> run        ─> a worker's lane, if one has nothing to do, else as submit

A bound method of a class that workers import is called as the plain function that it is, with the
object in front of the other arguments; so is a partial. Else it would be pickled as another
function for each call, of which nobody knows how long it takes.
"""
import functools
from asyncio import get_running_loop
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from weakref import WeakKeyDictionary

from libc.stdint cimport uint64_t

from distex._core.dispatch cimport Dispatcher, WorkerLink, complete
from distex._core.framing cimport CALL, Buffer
from distex._core.function_cache cimport CachedFunction
from distex._core.functions cimport Function
from distex._core.futures cimport FAILED, AsyncTask, ConcurrentTask
from distex._core.inbox cimport Inbox
from distex._core.lane cimport Lane
from distex._core.names cimport any_noted
from distex._core.semaphore cimport Semaphore
from distex._core.task cimport Limits, Task

from distex._core.lane import LaneClosed
from distex.errors import PoolFull
from distex.remote_errors import annotate

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(void* obj)


# in a partial: what takes the place of an argument that is yet to come; CPython 3.14 has it
cdef object GAP = getattr(functools, "Placeholder", object())


cdef bint has_gaps(tuple args):
    for arg in args:
        if arg is GAP:
            return True
    return False


def _deliver(item):
    """Take the outcome of a task out of the inbox of its caller's loop."""
    cdef AsyncTask task = item[0]
    task._set(item[1], item[2])


cdef class Caller:
    """The short way from Pool.run_async and Pool.submit to the dispatcher.

    Args:
        dispatcher: the pool's.
        cache: gives the Function for a callable, see client/functions.py.
        future_class: what call() makes: ConcurrentTask and concurrent.futures.Future in one.
        limits: what is asked of each task, or None.

    If the dispatcher has a semaphore and none of its permits is free, ``call`` and ``run`` block
    their thread until one is, and what ``call_async`` returns waits in line; or all raise PoolFull.
    """

    def __init__(self, Dispatcher dispatcher, cache, future_class, Limits limits=None):
        self.limits = limits
        self.semaphore = dispatcher.semaphore
        self.dispatcher = dispatcher
        self.cache = cache
        self.cached = cache.cached
        self.unwraps = cache.unwraps
        self.future_class = future_class
        self.inboxes = WeakKeyDictionary()

    cdef int _prepare(self, Task task, object func, tuple args, dict kwargs) except -1:
        """Give the task its function and arguments. Raises what pickling the function raises."""
        kind = type(func)
        while self.unwraps:
            if kind is partial:
                if has_gaps(func.args):
                    break
                args = func.args + args
                kwargs = {**func.keywords, **kwargs}
                func = func.func
            elif kind is MethodType and self._goes_by_name(func.__func__):
                args = (func.__self__, *args)
                func = func.__func__
            else:
                break
            kind = type(func)
        task.function = self._function(func)
        task.args = args
        if kwargs:
            task.kwargs = kwargs
        task.limits = self.limits
        return 0

    cdef Function _function(self, object func):
        kind = type(func)
        if kind is FunctionType or kind is BuiltinFunctionType:
            cached = self.cached.get(func)
            if cached is not None and (<CachedFunction>cached).is_current():
                return (<CachedFunction>cached).function
        return self.cache.get(func)

    cdef bint _goes_by_name(self, object func) except -1:
        cached = self.cached.get(func) if type(func) is FunctionType else None
        if cached is not None:
            return (<CachedFunction>cached).by_name
        return self.cache.goes_by_name(func)

    def call_async(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: the AsyncTask for the running loop."""
        cdef AsyncTask task = AsyncTask.__new__(AsyncTask)
        cdef Semaphore semaphore = self.semaphore
        loop = get_running_loop()
        task.loop = loop
        if loop is not self.dispatcher.loop:
            task.inbox = self.inboxes.get(loop)
            if task.inbox is None:
                task.inbox = self.inboxes.setdefault(loop, Inbox(loop, _deliver))
        if semaphore is not None and not semaphore.waits and semaphore.held >= semaphore.limit:
            self._refuse()
        try:
            self._prepare(task, func, args, kwargs)
        except Exception as exc:
            task._set(FAILED, exc)
            return task
        # Out of the garbage collector's sight: a million that wait would be walked through again
        # and again. While it waits nothing but its caller's own callbacks can make a cycle of it,
        # and those are dropped at its end; see _set().
        PyObject_GC_UnTrack(<void*>task)
        if semaphore is not None:
            if not semaphore.try_acquire():
                return self._wait_in_line(task)
            task.semaphore = semaphore
        self._submit(task, task.inbox is None)
        return task

    cdef AsyncTask _wait_in_line(self, AsyncTask task):
        """Have the task submitted once there is a permit for it; its time runs meanwhile."""
        task.begin_timeout()
        if task.deadline != 0:
            self.dispatcher.begin_timeout(task)
        self.semaphore.wait_in_line(task)
        return task

    cdef int _submit(self, Task task, bint at_home=False) except -1:
        try:
            return self.dispatcher.add(task) if at_home else self.dispatcher.submit(task)
        except BaseException:
            task.release_permit()
            raise

    cdef int _refuse(self) except -1:
        raise PoolFull(f"the pool has {self.semaphore.limit} tasks already: try again later, or "
                       "allow it more with max_pending")

    cdef bint _acquire(self, Task task) except -1:
        """Take a permit, and block the thread for it if callers wait: False if the task's time is
        over."""
        cdef Semaphore semaphore = self.semaphore
        if semaphore.try_acquire():
            return True
        if not semaphore.waits:
            self._refuse()
        self.dispatcher.check_may_block()
        task.begin_timeout()
        return semaphore.acquire(self.limits.timeout if task.deadline != 0 else None)

    cdef object _timeout_error(self, Task task):
        return TimeoutError(f"{task.name} was not done within {self.limits.timeout:g} s: "
                            "the pool was full")

    def run(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: what it returns, or raises.

        By the lane of a worker that has nothing to do, if there is one: without the pool's loop.
        """
        cdef ConcurrentTask task = self._make()
        self._prepare(task, func, args, kwargs)
        if self.semaphore is None:
            return self._run(task)
        if not self._acquire(task):
            raise self._timeout_error(task)
        try:
            return self._run(task)
        finally:
            self.semaphore.release()

    cdef object _run(self, ConcurrentTask task):
        cdef WorkerLink link = None
        cdef Lane lane
        # a lane knows no deadline; and on the thread of the pool's loop waiting raises
        if (task.function.takes_lane and not (self.limits is not None and self.limits.timeout > 0)
                and not self.dispatcher.on_home_thread()):
            link = self.dispatcher.lease(task)
        if link is None:
            self._submit(task)
            try:
                return task.result()
            except BaseException:
                task.cancel()  # an interrupt: nobody else can ask for the result
                raise
        task._state = RUNNING
        lane = link.lane
        try:
            if not self._is_answered(link, lane, task):
                return task.result()  # how the worker died, or that of another try
            value, lane.value = lane.value, None
            error, lane.error = lane.error, None
        except BaseException:
            # an interrupt: the answer will come when nobody asks any more; a coroutine is cancelled
            # as its lane closes
            link.lane = None
            link.lane_wanted = False
            if self.limits is not None and self.limits.grace >= 0:
                self.dispatcher.inbox.put(
                    partial(link.cancel_leased, task.wire_id, self.limits.grace))
            raise
        finally:
            self.dispatcher.release(link)
        if error is None:
            return value
        try:
            raise error
        finally:
            error = None

    cdef bint _is_answered(self, WorkerLink link, Lane lane, Task task) except -1:
        try:
            self._exchange(lane, task)
        except LaneClosed:
            link.lane = None
            self.dispatcher.inbox.put(link.lane_closed)
            return False
        return True

    cdef int _exchange(self, Lane lane, Task task) except -1:
        cdef Py_ssize_t mark
        cdef Buffer scratch
        cdef list segments
        cdef uint64_t id = task.wire_id  # another one if it moves to another worker meanwhile
        lane.prepare(task.function)
        mark = lane.out.begin(CALL, 0, task.function.id, id)
        if task.put_native(lane.out, self.dispatcher.codec):
            lane.out.end(mark)
        else:
            lane.out.size = mark
            scratch = Buffer.__new__(Buffer)
            segments = []
            try:
                task.put(scratch, self.dispatcher.codec, segments)
            except BaseException as exc:
                annotate(
                    exc, f"raised while the arguments of {task.function.name} were being pickled")
                lane.error = exc
                return 0
            if any_noted():
                task.function = complete(task.function)
                lane.prepare(task.function)
            lane.out.frame(CALL, task.flags, task.function.id, id, scratch.data, scratch.size,
                           segments)
        return lane.exchange()

    def call(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: its future."""
        cdef ConcurrentTask task = self._make()
        try:
            self._prepare(task, func, args, kwargs)
        except Exception as exc:
            task._exception = exc
            task._state = FINISHED
            return task
        if self.semaphore is not None:
            if not self._acquire(task):
                task.fail(self._timeout_error(task))
                return task
            task.semaphore = self.semaphore
        self._submit(task)
        return task

    cdef ConcurrentTask _make(self):
        cdef ConcurrentTask task = self.future_class.__new__(self.future_class)
        task._state = PENDING
        return task
