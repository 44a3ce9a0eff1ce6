"""Pool: its life cycle and the public methods. See supervisor.py for what runs behind it."""

import asyncio
import atexit
import concurrent.futures
import contextlib
import dataclasses
import os
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from types import ModuleType
from typing import Any, Literal, TypeVar

from distex import mapping, serializers, shipping
from distex._core.caller import Caller
from distex._core.dispatch import Dispatcher, Function, Limits
from distex._core.flatten import AsyncFlatten
from distex._core.futures import AsyncTask
from distex.admission import Admission
from distex.calls import Calls, CancelRunning, TaskOptions
from distex.elastic import Elastic
from distex.errors import HostError
from distex.executor import Future, LoopThread, check_may_block, run_on
from distex.failures import PoolClosed, PoolStartError, WorkerLost
from distex.functions import FunctionCache
from distex.launch.hosts import HostSpec, TcpOptions, parse_hosts
from distex.launch.local import LocalLauncher
from distex.launch.server import ServerLauncher
from distex.launch.stream import Launcher
from distex.options import LoopType, PickleType, usable_cpus
from distex.output import Output, sink
from distex.records import HostRecord, Statistics, WorkerInfo
from distex.supervisor import Settings, Supervisor
from distex.worker import loop_factory

T = TypeVar("T")

CALLS_KEPT = 64  # sets of options that are kept ready
_CLOSED = "cannot schedule new futures after shutdown"


class _Home:
    """Where a pool runs: its supervisor, and the thread of its loop if that is the pool's own.

    It knows nothing of the Pool, so that one that nobody refers to any more can be ended.
    """

    def __init__(self, supervisor: Supervisor, thread: LoopThread | None) -> None:
        self.supervisor = supervisor
        self.thread = thread
        self.pid = os.getpid()
        self._sentinel: AsyncGenerator[None, None] | None = None
        if thread is not None:
            thread.on_closed = supervisor.dispatcher.inbox.close
        else:
            self._sentinel = self._end_with_loop()
            with contextlib.suppress(StopIteration):  # it has come to its yield
                self._sentinel.__anext__().send(None)

    def submit(self, coroutine: Any) -> "concurrent.futures.Future[Any]":
        """Run a coroutine on the pool's loop, from another thread."""
        if self.thread is not None:
            return self.thread.submit(coroutine)
        return run_on(self.supervisor.loop, coroutine)

    def abandon(self) -> None:
        """The Pool is garbage: let its tasks end, then stop. Does not wait."""
        if self.pid != os.getpid():  # in a fork; the pool is the parent's
            return
        loop = self.supervisor.loop
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: loop.create_task(self._stop_and_leave()))
            return
        self.leave_at_once()

    async def _end_with_loop(self) -> AsyncGenerator[None, None]:
        """End the pool if its loop ends before: asyncio.run() closes asynchronous generators then,
        and in no other way one hears of it."""
        try:
            yield
        finally:
            self._sentinel = None
            # an end that was under way was cancelled with the other tasks of the loop
            with contextlib.suppress(asyncio.CancelledError):
                await self.supervisor.stop(drain=False)
            self.supervisor.abort()
            _homes.discard(self)

    async def stop(self, drain: bool = True, cancel_queued: bool = False) -> None:
        """End the pool, see Supervisor.stop()."""
        await self.supervisor.stop(drain, cancel_queued)
        _homes.discard(self)
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            await sentinel.aclose()

    def is_over(self) -> bool:
        """Whether its loop is closed; what is left of the pool then is ended at once."""
        if not self.supervisor.loop.is_closed():
            return False
        if self in _homes:
            self.leave_at_once()
        return True

    async def _stop_and_leave(self) -> None:
        await self.stop()
        if self.thread is not None:
            self.supervisor.loop.stop()

    def at_exit(self) -> None:
        """The interpreter ends: finish what was submitted, as the standard library does."""
        if self.pid != os.getpid():
            return
        if self.thread is None:
            self.leave_at_once()
            return
        try:
            self.submit(self.supervisor.stop()).result()
            self.thread.stop()
        except BaseException:
            self.leave_at_once()
            raise

    def leave_at_once(self) -> None:
        """End all processes without the loop."""
        _homes.discard(self)
        self.supervisor.kill()


_homes: set[_Home] = set()
_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _in_forked_child() -> None:
    for pool in _pools:
        pool._refuse_calls()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


@atexit.register
def _at_exit() -> None:
    for home in list(_homes):
        home.at_exit()


class Ready:
    """Whether a pool's workers are ready; can be awaited, or waited for in a thread.

    Both raise PoolStartError if the workers can't be started, and PoolClosed if the pool is ended
    before they are ready.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    def is_set(self) -> bool:
        """Whether the workers are ready."""
        return self._pool.is_ready()

    def __bool__(self) -> bool:
        return self.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the workers are ready, at most for timeout seconds; whether they are."""
        return self._pool._wait_ready(timeout)

    def __await__(self) -> Generator[Any, None, "Pool"]:
        return self._pool.create().__await__()


class Pool(concurrent.futures.Executor):
    """A pool of worker processes, usable from asynchronous and from synchronous code.

    In synchronous code the pool runs an event loop in a thread of its own. In asynchronous code it
    runs on the caller's loop, and ends with it at the latest, if the loop is closed as
    ``asyncio.run`` does it. What is used first decides: ``with``, ``submit``, ``map`` and ``run``
    mean the former, ``async with`` and the ``..._async`` methods the latter; afterwards both kinds
    of methods work, from any thread and any loop.

    Args:
        num_workers: local workers; 0: one for each usable CPU, or none if there are hosts, or if
            workers may join (see localport).
        hosts: where remote workers run, one or several: ``"ssh://[user@]host[:port][/workers]"``,
            ``"host[:port][/workers]"`` where ``python -m distex.server`` runs, or a HostSpec with
            options.
        qsize: tasks that a worker may have at a time, one that runs and those that wait there;
            coroutines overlap up to this number. More of them are sent ahead when they are known
            to be tiny; with 1 there is no sending ahead at all.
        initializer: called in each worker before it gets tasks; may be a coroutine function.
        initargs: its arguments.
        localhost: address of this machine on which the pool listens by TCP for the workers of
            hosts without ssh, and for those that join by ``python -m distex worker``; empty: the
            one from which such a host is reached or, with a localport, every one.
        localport: the port there; 0: any that is free. If either is given, the pool listens from
            the start, and workers may join; else only once it has such a host.
        lazy_create: start the workers when the first task comes, not at once. In asynchronous
            code they always start then, or with ``async with``.
        worker_loop: event loop of the workers, and of the pool's own thread.
        func_pickle: serializer for functions.
        data_pickle: serializer for arguments and results.
        max_workers: as num_workers, for code that was written for ProcessPoolExecutor: at least 1,
            None for one for each usable CPU.
        mp_context: accepted for the same reason; workers are always fresh processes.
        spin: seconds for which the pool's loop and the workers poll, instead of sleeping, after
            the last task was sent or done; 0: not at all. To wake a sleeping process takes longer
            than a small task. It costs a CPU for each worker and one for the loop for this long.
        tcp: what else there is to say about hosts without ssh: the secret, the keepalive time.
        retries: how often a task is run again when the worker that ran it is lost; see TaskOptions.
        cancel_running: what becomes of a plain function that runs when its task is cancelled:
            ``"leave"``, ``"interrupt"`` or ``"kill"``; see TaskOptions.
        max_pending: tasks from submit, run and run_async that may be under way at a time; None: any
            number. Maps are bounded by themselves.
        when_full: what a call does when there are so many: ``"wait"`` until there is room (submit
            and run block their thread, what run_async then returns is a coroutine that waits),
            or ``"raise"`` PoolFull.
        on_worker_lost: called with a WorkerLost, on the thread of the pool's loop, for each worker
            that is lost.
        max_tasks_per_child: calls after which a worker is replaced by a new one; None: never. It
            ends what it has, and nothing is lost.
        max_memory_per_child: bytes of memory (resident set) from which on a worker is replaced in
            the same way, between tasks; None: any amount. It is looked at each second.
        ship: modules that are only here. Their files, as they are now, are copied to the hosts for
            as long as the pool lives, and imported from there; a module of a package stands for
            the whole package. On other hosts they come before what is installed there.
        output: where lines go that workers print to stdout and stderr. ``"terminal"``: to this
            process's stdout and stderr, each line with its worker's host and pid before it;
            ``"log"``: to the logger ``distex.output``, as INFO, with the same; or a function, which
            is called on the pool's loop with an OutputLine. None: local workers write where this
            process does, those behind a server or that have joined where that was started, and
            what is printed by ssh is logged.

    Raises:
        ValueError, TypeError: an argument makes no sense.
        PoolStartError: the workers can't be started (with lazy_create the first task raises it).
    """

    def __init__(
        self,
        num_workers: int = 0,
        hosts: str | HostSpec | list[str | HostSpec] | None = None,
        qsize: int = 2,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        localhost: str = "",
        localport: int = 0,
        lazy_create: bool = False,
        worker_loop: int = LoopType.default,
        func_pickle: int = PickleType.cloudpickle,
        data_pickle: int = PickleType.pickle,
        *,
        max_workers: int | None = None,
        mp_context: Any = None,
        spin: float = 0.0,
        tcp: TcpOptions | None = None,
        retries: int = 0,
        cancel_running: CancelRunning = "leave",
        max_pending: int | None = None,
        when_full: Literal["wait", "raise"] = "wait",
        on_worker_lost: Callable[[WorkerLost], object] | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        ship: Sequence[ModuleType] = (),
        output: Output = None,
    ) -> None:
        if max_workers is not None:
            if num_workers:
                raise TypeError("num_workers and max_workers are the same: give one of them")
            _check_int("max_workers", max_workers)
            if max_workers <= 0:
                raise ValueError("max_workers must be greater than 0")
            num_workers = max_workers
        num_workers = num_workers or 0
        _check_count(num_workers)
        _check_int("qsize", qsize)
        if qsize < 1:
            raise ValueError("qsize must be at least 1")
        tcp = tcp or TcpOptions()
        _check_int("localport", localport)
        if not 0 <= localport < 65536:
            raise ValueError("localport must be between 0 and 65535")
        if not 0 <= spin < float("inf"):
            raise ValueError("spin must be a number of seconds, 0 or more")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if on_worker_lost is not None and not callable(on_worker_lost):
            raise TypeError("on_worker_lost must be a callable")
        if when_full not in ("wait", "raise"):
            raise ValueError("when_full must be 'wait' or 'raise'")
        if max_pending is not None:
            _check_int("max_pending", max_pending)
            if max_pending < 1:
                raise ValueError("max_pending must be at least 1")
        for name, limit in (("max_tasks_per_child", max_tasks_per_child),
                            ("max_memory_per_child", max_memory_per_child)):
            if limit is not None:
                _check_int(name, limit)
                if limit < 1:
                    raise ValueError(f"{name} must be >= 1")
        self._admission = None if max_pending is None else Admission(
            max_pending, waits=when_full == "wait")
        self._options = TaskOptions(retries=retries, cancel_running=cancel_running)
        self._limits = self._options.limits()
        self._calls: dict[TaskOptions, Calls] = {}
        self._handed_out: weakref.WeakSet[Calls] = weakref.WeakSet()
        sink(output)
        if LoopType(worker_loop) != LoopType.default:  # is it to be had? the default one always is
            loop_factory(worker_loop)
        serializers.for_data(data_pickle)
        self._settings = Settings(
            launchers=_launchers(num_workers, parse_hosts(hosts), tcp,
                                 may_be_joined=bool(localhost or localport)),
            qsize=qsize,
            initializer=(initializer, tuple(initargs)) if initializer is not None else None,
            loop_type=LoopType(worker_loop),
            func_pickle=PickleType(func_pickle),
            data_pickle=PickleType(data_pickle),
            spin=float(spin),
            localhost=localhost,
            localport=localport,
            tcp=tcp,
            on_worker_lost=on_worker_lost,
            max_tasks_per_child=max_tasks_per_child or 0,
            max_memory_per_child=max_memory_per_child or 0,
            modules=shipping.pack(ship),
            output=output,
        )
        self._functions_serializer = serializers.for_functions(func_pickle)
        self._lock = threading.RLock()
        self._closed = False
        self._pid = os.getpid()
        self._home: _Home | None = None
        self._dispatcher: Dispatcher | None = None
        self._functions: FunctionCache | None = None
        # how single calls are sent: replaced once the pool has started, and when it is shut down
        self._call_async: Callable[..., Any] = self._start_and_call_async
        self._call: Callable[..., Any] = self._start_and_call
        self._run: Callable[..., Any] = self._start_and_run
        _pools.add(self)
        self._start_task: asyncio.Task[None] | None = None
        if not lazy_create and asyncio._get_running_loop() is None:
            self._start_thread()
            self._wait_ready(None)

    # --- starting

    def _start_thread(self) -> None:
        """Make a thread the pool's home, unless it has one; does not wait for the workers."""
        with self._lock:
            self._check_open()
            if self._home is not None:
                return
            with contextlib.ExitStack() as failed:
                for launcher in self._settings.launchers:
                    failed.callback(launcher.give_up)
                    launcher.begin()
                thread = LoopThread(loop_factory(self._settings.loop_type))
                failed.callback(thread.stop)
                supervisor = thread.submit(_make_supervisor(self._settings)).result()
                failed.pop_all()
            self._settle(_Home(supervisor, thread))

    def _start_here(self) -> None:
        """Make the running loop the pool's home, unless it has one."""
        with self._lock:
            self._check_open()
            if self._home is not None:
                return
            self._settle(_Home(Supervisor(self._settings), None))

    def _settle(self, home: _Home) -> None:
        _homes.add(home)
        supervisor = home.supervisor
        self._functions = FunctionCache(
            supervisor.dispatcher.functions,
            self._functions_serializer,
            unwraps=serializers.is_as_able(
                self._settings.data_pickle, self._settings.func_pickle),
        )
        self._home = home
        weakref.finalize(self, home.abandon).atexit = False
        if home.thread is not None:
            home.thread.submit(_quietly(supervisor.start))
        else:
            self._start_task = supervisor.loop.create_task(_quietly(supervisor.start))
            # who cancels all tasks of the loop may do so before it has begun
            self._start_task.add_done_callback(
                lambda task: task.cancelled() and supervisor.stop_soon())
        self._dispatcher = supervisor.dispatcher
        caller = self.make_caller(self._limits)
        self._call_async = caller.call_async
        self._call = caller.call
        self._run = caller.run

    def start(self, here: bool) -> None:
        """Start, if that has not begun; does not wait for the workers.

        Args:
            here: on the running loop, else on a loop in a thread of its own.

        Raises:
            RuntimeError: the pool was shut down, or no loop is running.
        """
        if here:
            self._start_here()
        else:
            self._start_thread()

    def make_caller(self, limits: Limits | None) -> Caller:
        """For the other modules of distex: what makes single calls, on a pool that has started."""
        assert self._functions is not None
        return Caller(self.dispatcher, self._functions, Future, limits, self._admission)

    def _check_open(self, *call: Any) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this pool belongs to process {self._pid}, which this one was forked from: "
                "make a new one here")
        if self._closed:
            raise RuntimeError(_CLOSED)

    def _refuse_calls(self) -> None:
        """From now on single calls get the exception that says why there can be none."""
        self._call_async = self._call = self._run = self._check_open
        for calls in list(self._handed_out):
            calls.refuse(self._check_open)

    def _wait_ready(self, timeout: float | None) -> bool:
        self._start_thread()
        assert self._home is not None
        self.check_may_block()
        waiting = self._home.submit(_started(self._home.supervisor))
        try:
            waiting.result(timeout)
        except TimeoutError:
            waiting.cancel()
            return False
        except BaseException:  # PoolStartError, PoolClosed, or KeyboardInterrupt
            if self._home.thread is not None:
                self.kill()
            raise
        return True

    def _start_and_wait(self) -> None:
        """For synchronous methods that wait for the pool."""
        self._start_thread()
        self.check_may_block()
        self._wait_ready(None)

    async def create(self) -> "Pool":
        """Start the workers, if that has not begun, and wait until they are ready.

        Returns:
            this pool; ``pool = await Pool(4)`` does the same.

        Raises:
            PoolStartError: they can't be started.
            PoolClosed: the pool was ended before they were ready.
            RuntimeError: the pool was shut down.
        """
        self._start_here()
        assert self._home is not None
        await self._at_home(_started(self._home.supervisor))
        return self

    def __await__(self) -> Generator[Any, None, "Pool"]:
        return self.create().__await__()

    async def _at_home(self, coroutine: Any) -> Any:
        """Run a coroutine on the pool's loop, from whatever loop."""
        assert self._home is not None
        if self._home.supervisor.loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(self._home.submit(coroutine))

    @property
    def ready(self) -> Ready:
        """To wait for the workers: ``await pool.ready`` or ``pool.ready.wait()``."""
        return Ready(self)

    def is_ready(self) -> bool:
        """Whether the workers are ready for tasks."""
        return self._home is not None and self._home.supervisor.running

    def total_workers(self) -> int:
        """Number of workers that are ready."""
        return 0 if self._home is None else self._home.supervisor.total_workers

    def statistics(self) -> Statistics:
        """What has happened so far, for monitoring."""
        return Statistics() if self._home is None else self._home.supervisor.statistics()

    @property
    def qsize(self) -> int:
        """Tasks that a worker may have at a time."""
        return self._settings.qsize

    def capacity(self) -> int:
        """Number of workers that are ready or, before that, that were asked for; at least 1."""
        return len(self.dispatcher.links) or max(1, sum(
            launcher.num_workers or 1 for launcher in self._settings.launchers))

    # --- hosts and workers that come and go

    def workers(self) -> list[WorkerInfo]:
        """What the workers are doing, in the order in which they were started."""
        if self._home is None:
            return []
        return [record.info() for record in self._home.supervisor.workers()]

    @property
    def address(self) -> tuple[str, int] | None:
        """Address and port on which the pool listens by TCP; None: on none."""
        addresses = [] if self._home is None else self._home.supervisor.listener.addresses
        return addresses[0] if addresses else None

    async def add_host_async(self, host: str | HostSpec) -> str:
        """Add a host while the pool runs, and wait until its workers are ready.

        Args:
            host: as in Pool's ``hosts``.

        Returns:
            its name, for remove_host().

        Raises:
            HostError: the pool has it already, or it can't be reached; the message says why.
            PoolStartError: its workers can't be started.
            PoolClosed: the pool was ended before that.

        When it fails, or is cancelled, nothing is left there, and the pool goes on as before.
        """
        launcher = self._launcher(host)
        await self.create()
        try:
            name: str = await self._at_home(self._elastic.add(launcher))
        except asyncio.CancelledError:  # of this loop: the pool's may not have come to know in time
            self._submit_home(self._elastic.take_back(launcher))
            raise
        return name

    def add_host(self, host: str | HostSpec) -> str:
        """As add_host_async(), for synchronous code."""
        launcher = self._launcher(host)
        self._start_and_wait()
        name: str = self._submit_home(self._elastic.add(launcher)).result()
        return name

    async def remove_host_async(self, host: str | HostSpec, *, drain: bool = True) -> None:
        """Remove a host while the pool runs, and wait until nothing is left there.

        Its workers get no further tasks. What they have started they end; what they have not goes
        to others, and waits if there are none. It goes on if the caller stops waiting for it.

        Args:
            host: a name as add_host() gives it and workers() shows it, or as in Pool's ``hosts``.
            drain: let tasks that have started come to their end; else they fail with WorkerLost.

        Raises:
            HostError: the pool has no such host.
        """
        await self.create()
        hosts = self._hosts_named(host)
        await self._at_home(self._elastic.remove(hosts, drain))

    def remove_host(self, host: str | HostSpec, *, drain: bool = True) -> None:
        """As remove_host_async(), for synchronous code."""
        self._start_and_wait()
        hosts = self._hosts_named(host)
        self._submit_home(self._elastic.remove(hosts, drain)).result()

    async def scale_async(self, num_workers: int) -> None:
        """Have so many workers on this machine; wait until they are ready, or the others gone.

        A worker that takes the place of one that was ready, see max_tasks_per_child, is not waited
        for. Those that are too many end what they have started, as with remove_host(). With 0 and
        no other hosts tasks wait until there are workers again.

        Raises:
            PoolStartError: they can't be started; the pool goes on with those that could.
            PoolClosed: the pool was ended before that.
        """
        _check_count(num_workers)
        await self.create()
        await self._at_home(self._elastic.scale(LocalLauncher(num_workers), num_workers))

    def scale(self, num_workers: int) -> None:
        """As scale_async(), for synchronous code."""
        _check_count(num_workers)
        self._start_and_wait()
        self._submit_home(
            self._elastic.scale(LocalLauncher(num_workers), num_workers)).result()

    def _launcher(self, host: str | HostSpec) -> Launcher:
        (launcher,) = _launchers(0, parse_hosts(host), self._settings.tcp, may_be_joined=False)
        return launcher

    @property
    def _elastic(self) -> Elastic:
        assert self._home is not None
        return self._home.supervisor.elastic

    def _hosts_named(self, host: str | HostSpec) -> list[HostRecord]:
        assert self._home is not None
        named = [record for record in list(self._home.supervisor.hosts) if record.name == host]
        if not named:
            key = parse_hosts(host)[0].key
            named = [record for record in list(self._home.supervisor.hosts)
                     if record.launcher is not None and record.launcher.key == key]
        if not named:
            raise HostError(f"the pool has no host {host}: Pool.workers() shows those that it has")
        return named

    # --- single tasks

    @property
    def dispatcher(self) -> Dispatcher:
        """For the other modules of distex."""
        assert self._dispatcher is not None
        return self._dispatcher

    def _function(self, func: Callable[..., Any]) -> Function:
        assert self._functions is not None
        return self._functions.get(func)

    def _start_and_call_async(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._start_here()
        return self._call_async(func, args, kwargs)

    def _start_and_call(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._start_thread()
        return self._call(func, args, kwargs)

    def _start_and_run(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._start_thread()
        return self._run(func, args, kwargs)

    def run_async(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a worker call ``func(*args, **kwargs)``; if that gives an awaitable, await it there.

        The call is on its way at once; await the result when it is wanted.

        Returns:
            an awaitable of the running loop, a future and a coroutine of asyncio's at once.

        Raises:
            RuntimeError: no loop is running, or the pool was shut down.

        The awaitable raises what the call raised; PoolStartError, WorkerLost; what pickle raises
        for arguments or a result that it can't take.
        """
        return self._call_async(func, args, kwargs)

    def submit(
        self, func: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[T]":
        """Have a worker call ``func(*args, **kwargs)``. May be called from any thread.

        Returns:
            its ``concurrent.futures.Future``.

        Raises:
            RuntimeError: the pool was shut down.
        """
        future: concurrent.futures.Future[T] = self._call(func, args, kwargs)
        return future

    def run(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``submit(func, *args, **kwargs).result()``, but with less delay."""
        result: T = self._run(func, args, kwargs)
        return result

    def options(
        self,
        *,
        retries: int | None = None,
        timeout: float | None = None,
        cancel_running: CancelRunning | None = None,
        grace: float | None = None,
        context: bool = False,
    ) -> Calls:
        """This pool, with options for the tasks that are made through what this returns::

            pool.options(retries=2, timeout=60).submit(f, x)

        Args: see TaskOptions; those that are not given are as the pool has them.

        Returns:
            an object with the methods ``submit``, ``run``, ``run_async``, ``map``, ``map_async``;
            may be kept.

        Raises:
            TypeError, ValueError: an option makes no sense.
        """
        given: dict[str, Any] = {
            "retries": retries, "timeout": timeout, "cancel_running": cancel_running,
            "grace": grace, "context": context}
        options = dataclasses.replace(
            self._options, **{name: value for name, value in given.items() if value is not None})
        calls = self._calls.get(options)
        if calls is None:
            if len(self._calls) >= CALLS_KEPT:
                self._calls.clear()
            calls = self._calls[options] = Calls(self, options)
            self._handed_out.add(calls)
        return calls

    async def run_on_all_async(
        self, func: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Call ``func(*args, **kwargs)`` once on each worker that is ready, behind its other tasks.

        Returns:
            the results, in the order in which the workers were started.

        Raises:
            RuntimeError: the pool was shut down.
            PoolClosed, PoolStartError: it ended, or broke, in the meantime.
            BaseException: what the first call raised that failed, once all have ended.
        """
        await self.create()
        function = self._function(func)
        result: list[Any] = await self._at_home(self._run_on_all(function, args, kwargs))
        return result

    def run_on_all(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        """As run_on_all_async(), for synchronous code."""
        self._start_and_wait()
        running = self._submit_home(self._run_on_all(self._function(func), args, kwargs))
        result: list[Any] = running.result()
        return result

    async def _run_on_all(self, function: Function, args: Any, kwargs: Any) -> list[Any]:
        assert self._home is not None
        loop = asyncio.get_running_loop()
        closed = self.dispatcher.closed
        if closed is not None:  # since the call
            raise closed(AsyncTask(function, args, kwargs, loop))
        tasks = []
        for link in self._home.supervisor.links():
            task = AsyncTask(function, args, kwargs, loop)
            self.dispatcher.send_to(link, task)
            tasks.append(task)
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()
        return results

    # --- maps

    def map(
        self,
        func: Callable[..., T],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        star: bool = False,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call func with the items of the iterables, as the built-in map does, in the workers.

        Input is taken as there is room, a bounded number of items ahead of the results, so it may
        be endless. The first tasks are sent before this returns.

        Args:
            func: the function; if it gives an awaitable, that is awaited in the worker.
            iterables: iterables and asynchronous iterables, in any combination.
            timeout: seconds from now within which all results have to come.
            chunksize: items sent together; None: by how long the calls are measured to take.
            ordered: results in the order of the items, else as they come.
            star: each item is a tuple of arguments: ``func(*item)``.
            buffersize: calls, or chunks if a chunksize is given, whose results may be on the way
                or wait to be taken; None: as many as keep the workers busy.

        Returns:
            an iterator over the results. When it is left early, what has not started is cancelled.

        Raises:
            ValueError, TypeError: an argument makes no sense.
            RuntimeError: the pool was shut down.

        The iterator raises what a call raised in the place of its result, and ends; TimeoutError;
        ``concurrent.futures.CancelledError`` where the pool was shut down with cancel_futures; and
        what the iterables raise, behind the results for what they had given before.
        """
        return self.start_map(func, iterables, mapping.map_options(
            iterables, timeout=timeout, chunksize=chunksize, ordered=ordered, star=star,
            buffersize=buffersize, limits=self._limits))

    def start_map(
        self, func: Callable[..., Any], iterables: tuple[Any, ...], options: mapping.MapOptions
    ) -> Iterator[Any]:
        """For the other modules of distex: see map()."""
        self._start_thread()
        function = self._function(func)
        if mapping.has_async(iterables):
            self.check_may_block()
            batches = mapping.map_batches(self, function, iterables, options)
            return mapping.map_bridged(batches, self._submit_home)
        return mapping.map_sync(self, function, iterables, options)

    def map_async(
        self,
        func: Callable[..., T],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        star: bool = False,
        buffersize: int | None = None,
    ) -> AsyncIterator[T]:
        """As map(), for ``async for``; the first tasks are sent when the first result is asked for.

        Returns:
            an asynchronous iterator. Leave it early with ``aclose()``, or let go of it.
        """
        return self.start_map_async(func, iterables, mapping.map_options(
            iterables, timeout=timeout, chunksize=chunksize, ordered=ordered, star=star,
            buffersize=buffersize, limits=self._limits))

    def start_map_async(
        self, func: Callable[..., Any], iterables: tuple[Any, ...], options: mapping.MapOptions
    ) -> AsyncIterator[Any]:
        """For the other modules of distex: see map_async()."""
        self._start_here()
        return AsyncFlatten(
            mapping.map_batches(self, self._function(func), iterables, options))

    # --- waiting

    def check_may_block(self) -> None:
        """RuntimeError if this thread must not wait for the pool, as it is the one that runs it."""
        if self._dispatcher is not None:
            check_may_block(self._dispatcher)

    def _submit_home(self, coroutine: Any) -> "concurrent.futures.Future[Any]":
        assert self._home is not None
        return self._home.submit(coroutine)

    # --- the end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the workers when all that were submitted are done.

        On the thread of the loop that runs the pool this can't wait, and returns at once.

        Args:
            wait: return only when the workers have ended.
            cancel_futures: cancel what no worker has yet.
        """
        self._end(wait, drain=True, cancel_queued=cancel_futures)

    def kill(self) -> None:
        """End the workers at once, whatever they do; what waits or runs fails with PoolClosed."""
        self._end(wait=True, drain=False, cancel_queued=False)

    def _end(self, wait: bool, drain: bool, cancel_queued: bool) -> None:
        home = self._close()
        if home is None:
            return
        if home.is_over():
            pass
        elif self.dispatcher.on_home_thread():
            self._start_task = home.supervisor.loop.create_task(  # kept alive
                self._stop(home, drain, cancel_queued, leave=True))
            return
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed just now: it has ended
                stopping = home.submit(self._stop(home, drain, cancel_queued, leave=not wait))
                if wait:
                    stopping.result()
        if wait and home.thread is not None:
            home.thread.stop()

    async def shutdown_async(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As shutdown(), without blocking the loop."""
        await self._end_async(wait, drain=True, cancel_queued=cancel_futures)

    async def kill_async(self) -> None:
        """As kill(), without blocking the loop."""
        await self._end_async(wait=True, drain=False, cancel_queued=False)

    async def _end_async(self, wait: bool, drain: bool, cancel_queued: bool) -> None:
        home = self._close()
        if home is None or home.is_over():
            return
        stopping = self._stop(home, drain, cancel_queued, leave=True)
        if wait:
            await self._at_home(stopping)
        else:
            home.submit(stopping)

    def _close(self) -> _Home | None:
        with self._lock:
            self._closed = True
            self._refuse_calls()
            if self._pid != os.getpid():  # a fork of the process whose pool it is
                return None
            return self._home

    async def _stop(self, home: _Home, drain: bool, cancel_queued: bool, leave: bool) -> None:
        await home.stop(drain, cancel_queued)
        if self._functions is not None:
            self._functions.clear()
        if leave and home.thread is not None:
            home.supervisor.loop.call_soon(home.supervisor.loop.stop)

    def __enter__(self) -> "Pool":
        self._start_thread()
        if not self.dispatcher.on_home_thread():
            self._wait_ready(None)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.shutdown()

    async def __aenter__(self) -> "Pool":
        try:
            return await self.create()
        except asyncio.CancelledError:  # there is nobody who would end it
            await self.kill_async()
            raise

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.shutdown_async()

    def __repr__(self) -> str:
        if self._closed:
            state = "shut down"
        elif self._home is None:
            state = "not started"
        else:
            state = f"{self.total_workers()} workers ready"
        return f"<{type(self).__name__}: {state}>"


def _launchers(
    num_workers: int, hosts: list[HostSpec], tcp: TcpOptions, *, may_be_joined: bool
) -> tuple[Launcher, ...]:
    launchers: list[Launcher] = []
    if num_workers or not (hosts or may_be_joined):
        launchers.append(LocalLauncher(num_workers or usable_cpus()))
    for spec in hosts:
        if spec.is_ssh:
            from distex.launch.ssh import SshLauncher  # most pools don't need it

            launchers.append(SshLauncher(spec))
        else:
            launchers.append(ServerLauncher(spec, tcp))
    return tuple(launchers)


def _check_count(num_workers: int) -> None:
    _check_int("num_workers", num_workers)
    if num_workers < 0:
        raise ValueError("num_workers must not be negative")


def _check_int(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")


async def _make_supervisor(settings: Settings) -> Supervisor:
    return Supervisor(settings)


async def _started(supervisor: Supervisor) -> None:
    """Wait for the workers; a failure is raised only when nothing of the pool is left. To cancel
    the wait leaves the pool alone: others may wait for it too."""
    try:
        await asyncio.shield(supervisor.started)
    except (PoolStartError, PoolClosed):
        await asyncio.shield(supervisor.stop_soon())
        raise


async def _quietly(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it; who is concerned learns of a failure in other ways."""
    with contextlib.suppress(Exception):
        await function()
