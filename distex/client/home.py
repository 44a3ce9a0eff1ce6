"""Where a pool lives: it is started on a loop or in a thread of its own, used, and ended.

    Pool, BoundPool, maps ──> Home ──starts──> RunningPool: Supervisor, LoopThread
                               └──makes──> Caller, for single calls

The first call decides where a pool lives. When nobody refers to its Home any more, it is ended.
"""

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future as ConcurrentFuture
from typing import Any, Protocol, TypeVar

from distex._core.caller import Caller
from distex._core.dispatch import Dispatcher
from distex._core.functions import Function
from distex._core.task import Limits
from distex.client.functions import FunctionCache
from distex.client.loop_thread import Future, LoopThread
from distex.client.running_pool import RunningPool
from distex.cluster.settings import Settings
from distex.cluster.supervisor import Supervisor
from distex.machine import loop_factory, open_standard_files
from distex.options import PickleType, seconds
from distex.wire import serializers

T = TypeVar("T")

_homes: "weakref.WeakSet[Home]" = weakref.WeakSet()


def _in_forked_child() -> None:
    for home in list(_homes):
        home.refuse_calls()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class Connected(Protocol):
    """An object whose calls go straight to the workers; see client/tasks.py."""

    limits: Limits | None

    def connect(self, caller: Caller) -> None:
        """Make calls with this from now on."""

    def refuse(self, refusal: Callable[..., Any]) -> None:
        """Make calls raise what this raises from now on."""


class Home:
    """The life of one pool.

    Args:
        settings: what the pool was asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._running: RunningPool | None = None
        self._dispatcher: Dispatcher | None = None
        self._functions: FunctionCache | None = None
        self._connected: weakref.WeakSet[Any] = weakref.WeakSet()
        self._feeders: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.closed: bool = False
        self._start_task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        _homes.add(self)

    # --- starting

    def start(self, here: bool) -> None:
        """Start the pool if that has not begun. Does not wait for the workers.

        Args:
            here: on the running loop; else on a loop in a thread of its own.

        Raises:
            RuntimeError: the pool was shut down, or no loop is running.
        """
        with self._lock:
            self.check_open()
            if self._running is None:
                open_standard_files()
                if here:
                    self._settle(RunningPool(Supervisor(self.settings), None))
                else:
                    self._settle(self._in_thread())

    def _in_thread(self) -> RunningPool:
        with contextlib.ExitStack() as failed:
            for launcher in self.settings.launchers:
                failed.callback(launcher.give_up)
                launcher.begin()
            thread = LoopThread(loop_factory(self.settings.loop_type))
            failed.callback(thread.stop)
            supervisor = thread.submit(_make_supervisor(self.settings)).result()
            failed.pop_all()
        return RunningPool(supervisor, thread)

    def _settle(self, running: RunningPool) -> None:
        supervisor = running.supervisor
        self._functions = FunctionCache(
            supervisor.dispatcher.functions,
            serializers.for_functions(self.settings.func_pickle),
            unwraps=serializers.is_as_able(self.settings.data_pickle, self.settings.func_pickle),
            mirrored=self.settings.func_pickle != PickleType.dill,
        )
        supervisor.pack = self._functions.pack
        self._running = running
        weakref.finalize(self, running.abandon).atexit = False
        this = weakref.ref(self)
        running.on_exit = lambda: (home := this()) and home._close()
        if running.thread is not None:
            running.thread.submit(_quietly(supervisor.start))
        else:
            self._start_task = supervisor.loop.create_task(_quietly(supervisor.start))
            # whoever cancels all tasks of the loop may do so before it has begun
            self._start_task.add_done_callback(
                lambda task: task.cancelled() and supervisor.stop_soon())
        self._dispatcher = supervisor.dispatcher

    def start_and_wait(self) -> None:
        """Start the pool, and block until it is ready; for synchronous methods."""
        self.start(here=False)
        self.dispatcher.check_may_block()
        self.wait_ready(None)

    def wait_ready(self, timeout: float | None) -> bool:
        """Block until the workers are ready, at most for timeout seconds; return whether they
        are."""
        if timeout is not None:
            timeout = seconds("timeout", timeout, least=-math.inf)
        self.start(here=False)
        self.dispatcher.check_may_block()
        waiting = self.submit(self.supervisor.wait_started())
        try:
            waiting.result(timeout)
        except TimeoutError:
            waiting.cancel()
            return False
        except BaseException:  # PoolStartError, PoolClosed, or KeyboardInterrupt
            if self.running.thread is not None:
                self.end(wait=True, drain=False, cancel_queued=False)
            raise
        return True

    async def start_async(self) -> None:
        """Start the pool, and wait until it is ready."""
        self.start(here=True)
        await self.call(self.supervisor.wait_started())

    # --- in use

    @property
    def is_started(self) -> bool:
        """Whether it has been started, ready or not."""
        return self._running is not None

    @property
    def is_ready(self) -> bool:
        """Whether the workers are ready for tasks."""
        return self._running is not None and self._running.supervisor.running

    @property
    def running(self) -> RunningPool:
        """The pool, which has been started."""
        assert self._running is not None
        return self._running

    @property
    def supervisor(self) -> Supervisor:
        """The pool's supervisor; it has been started."""
        return self.running.supervisor

    @property
    def dispatcher(self) -> Dispatcher:
        """The pool's dispatcher; it has been started."""
        assert self._dispatcher is not None
        return self._dispatcher

    def capacity(self) -> int:
        """Return the number of workers that are ready or, before that, asked for; at least 1."""
        return len(self.dispatcher.links) or max(1, sum(
            launcher.num_workers or 1 for launcher in self.settings.launchers))

    def function(self, func: Callable[..., Any]) -> Function:
        """Return a function in the form that workers are sent; it has been started."""
        assert self._functions is not None
        return self._functions.get(func)

    def connect(self, calls: Connected) -> None:
        """Have calls go straight to the workers until the pool is shut down; it has been
        started."""
        with self._lock:
            self.check_open()
            assert self._functions is not None
            calls.connect(Caller(self.dispatcher, self._functions, Future, calls.limits))
            self._connected.add(calls)

    def cancel_at_shutdown(self, feeder: "asyncio.Task[None]") -> None:
        """Have a task that makes others, on whichever loop, cancelled when the pool is shut
        down."""
        with self._lock:
            self._feeders.add(feeder)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "ConcurrentFuture[T]":
        """Run a coroutine on the pool's loop, from another thread."""
        return self.running.submit(coroutine)

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the pool's loop, from any loop."""
        if self.supervisor.loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(self.submit(coroutine))

    # --- the end

    def check_open(self, *call: Any) -> None:
        """Raise RuntimeError if the pool was shut down, or is that of another process."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this pool belongs to process {self._pid}, which this one was forked from: "
                "make a new one here")
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def refuse_calls(self) -> None:
        """Make all calls raise what says why there can be none."""
        for calls in list(self._connected):
            calls.refuse(self.check_open)

    def _close(self) -> RunningPool | None:
        with self._lock:
            self.closed = True
            self.refuse_calls()
            if self._pid != os.getpid():  # a fork of the process that has the pool
                return None
            for feeder in list(self._feeders):
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    feeder.get_loop().call_soon_threadsafe(feeder.cancel)
            self._feeders.clear()
            return self._running

    def end(self, wait: bool, drain: bool, cancel_queued: bool) -> None:
        """End the pool.

        Args:
            wait: return only when the workers have ended; not on the pool's own thread.
            drain: let tasks that wait or run come to their end first.
            cancel_queued: cancel those that no worker has yet.
        """
        running = self._close()
        if running is None:
            return
        if running.has_ended():
            pass
        elif self.dispatcher.on_home_thread():
            self._stop_task = running.supervisor.loop.create_task(  # kept alive
                self._stop(running, drain, cancel_queued, leave=True))
            return
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed just now: it has ended
                stopping = running.submit(
                    self._stop(running, drain, cancel_queued, leave=not wait))
                if wait:
                    stopping.result()
        if wait and running.thread is not None:
            running.thread.stop()

    async def end_async(self, wait: bool, drain: bool, cancel_queued: bool) -> None:
        """As end(), without blocking the loop."""
        running = self._close()
        if running is None or running.has_ended():
            return
        stopping = self._stop(running, drain, cancel_queued, leave=True)
        if wait:
            await self.call(stopping)
        else:
            running.submit(stopping)

    async def _stop(
        self, running: RunningPool, drain: bool, cancel_queued: bool, leave: bool
    ) -> None:
        await running.stop(drain, cancel_queued)
        if self._functions is not None:
            self._functions.clear()
        if leave and running.thread is not None:
            running.supervisor.loop.call_soon(running.supervisor.loop.stop)


async def _make_supervisor(settings: Settings) -> Supervisor:
    return Supervisor(settings)


async def _quietly(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it. A failure is known to those who wait for the pool."""
    with contextlib.suppress(Exception):
        await function()
