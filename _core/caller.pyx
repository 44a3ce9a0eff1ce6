# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The short way from Pool's run_async, submit and run to the dispatcher.

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

from distex._core.dispatch cimport Dispatcher, Function, Inbox, Limits, Task, WorkerLink
from distex._core.framing cimport CALL, Buffer
from distex._core.futures cimport FAILED, AsyncTask, ConcurrentTask
from distex._core.kept cimport Kept
from distex._core.lane cimport Lane
from distex._core.room cimport Room

from distex._core.lane import LaneClosed
from distex.errors import annotate

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
        cache: gives the Function for a callable, see functions.py.
        future_class: what call() makes: ConcurrentTask and concurrent.futures.Future in one.
        limits: what is asked of each task, or None.
        room: the bound on the tasks that are under way, or None. If it is full,
            ``room.wait(dispatcher)`` is called, which comes back once room has been taken, or
            raises; or ``room.call_async(make, func, args, kwargs)`` gives what call_async()
            returns.
    """

    def __init__(self, Dispatcher dispatcher, cache, future_class, Limits limits=None,
                 Room room=None):
        self.limits = limits
        self.room = room
        self.dispatcher = dispatcher
        self.cache = cache
        self.kept = cache.kept
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
            kept = self.kept.get(func)
            if kept is not None and (<Kept>kept).is_fresh():
                return (<Kept>kept).function
        return self.cache.get(func)

    cdef bint _goes_by_name(self, object func) except -1:
        kept = self.kept.get(func) if type(func) is FunctionType else None
        if kept is not None:
            return not (<Kept>kept).uses
        return self.cache.goes_by_name(func)

    def call_async(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: the AsyncTask for the running loop, or what
        a full room makes of it."""
        if self.room is None or self.room.take():
            return self._make_async(func, args, kwargs)
        return self.room.call_async(self.make_async, func, args, kwargs)

    def make_async(self, func, tuple args, dict kwargs):
        """As call_async(), with room that has been taken."""
        return self._make_async(func, args, kwargs)

    cdef AsyncTask _make_async(self, object func, tuple args, dict kwargs):
        cdef AsyncTask task = AsyncTask.__new__(AsyncTask)
        task.room = self.room
        try:
            loop = get_running_loop()
        except RuntimeError:
            task.leave_room()
            raise
        task.loop = loop
        if loop is not self.dispatcher.loop:
            task.inbox = self.inboxes.get(loop)
            if task.inbox is None:
                task.inbox = self.inboxes.setdefault(loop, Inbox(loop, _deliver))
        try:
            self._prepare(task, func, args, kwargs)
        except Exception as exc:
            task._set(FAILED, exc)
            return task
        # Out of the garbage collector's sight: a million that wait would be walked through again
        # and again. While it waits nothing but its caller's own callbacks can make a cycle of it,
        # and those are dropped at its end; see _set().
        PyObject_GC_UnTrack(<void*>task)
        self._submit(task, task.inbox is None)
        return task

    cdef int _submit(self, Task task, bint at_home=False) except -1:
        try:
            return self.dispatcher.add(task) if at_home else self.dispatcher.submit(task)
        except BaseException:
            task.leave_room()
            raise

    def run(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: what it returns, or raises.

        By the lane of a worker that has nothing to do, if there is one: without the pool's loop.
        """
        if self.room is None:
            return self._run(func, args, kwargs)
        if not self.room.take():
            self.room.wait(self.dispatcher)
        try:
            return self._run(func, args, kwargs)
        finally:
            self.room.give_back()

    cdef object _run(self, object func, tuple args, dict kwargs):
        cdef ConcurrentTask task = self._make()
        cdef WorkerLink link = None
        cdef Lane lane
        self._prepare(task, func, args, kwargs)
        # a lane knows no deadline; and on the thread of the pool's loop waiting raises
        if (task.function.takes_lane and not (self.limits is not None and self.limits.timeout > 0)
                and not self.dispatcher.on_home_thread()):
            link = self.dispatcher.lease(task)
        if link is None:
            self._submit(task)
            return task.result()
        task._state = RUNNING
        lane = link.lane
        try:
            if not self._is_answered(link, lane, task):
                return task.result()  # how the worker died, or that of another try
            value, lane.value = lane.value, None
            error, lane.error = lane.error, None
        except BaseException:
            link.lane = None  # an interrupt: the answer will come when nobody asks any more
            link.lane_wanted = False
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
            lane.out.frame(CALL, task.flags, task.function.id, id, scratch.data, scratch.size,
                           segments)
        return lane.exchange()

    def call(self, func, tuple args, dict kwargs):
        """Have a worker call ``func(*args, **kwargs)``: its future."""
        if self.room is not None and not self.room.take():
            self.room.wait(self.dispatcher)
        return self._call(func, args, kwargs, self.room)

    cdef ConcurrentTask _call(self, object func, tuple args, dict kwargs, Room room):
        cdef ConcurrentTask task = self._make()
        try:
            self._prepare(task, func, args, kwargs)
        except Exception as exc:
            task._exception = exc
            task._state = FINISHED
            if room is not None:
                room.give_back()
            return task
        task.room = room
        self._submit(task)
        return task

    cdef ConcurrentTask _make(self):
        cdef ConcurrentTask task = self.future_class.__new__(self.future_class)
        task._state = PENDING
        return task
