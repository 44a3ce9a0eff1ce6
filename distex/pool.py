"""Pool: the public methods and their docs. client/home.py is behind them."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Executor
from types import ModuleType
from typing import Any, Literal, ParamSpec, Self, TypeVar, TypeVarTuple, overload

from distex._core.functions import Function
from distex._core.futures import AsyncTask
from distex.client.arguments import check_count, check_settings, launchers
from distex.client.home import Home
from distex.client.ready import Ready
from distex.client.task_options import CancelRunning, TaskOptions
from distex.client.tasks import BoundPool, TaskMethods
from distex.cluster.membership import Membership
from distex.cluster.state import Statistics, WorkerInfo
from distex.errors import WorkerLost
from distex.launch.base import Launcher
from distex.launch.hosts import HostSpec, TcpOptions, parse_hosts
from distex.options import LoopType, PickleType
from distex.wire.output import Output

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BOUND_POOLS_KEPT = 64  # sets of options that are kept ready


class Pool(TaskMethods, Executor):  # type: ignore[misc]  # map() takes more than Executor's
    """A pool of worker processes, usable from asynchronous and from synchronous code.

    In synchronous code the pool runs an event loop in a thread of its own. In asynchronous code it
    runs on the caller's loop, and ends with it at the latest, if the loop is closed as
    ``asyncio.run`` does it. What is used first decides: ``with``, ``submit``, ``map`` and ``run``
    mean the former, ``async with`` and the ``..._async`` methods the latter; afterwards both kinds
    of methods work, from any thread and any loop.

    Args:
        num_workers: local workers; 0: one for each usable CPU, by this process's affinity and the
            CPU quota of its control groups, or none if there are hosts, or if workers may join (see
            localport).
        hosts: where remote workers run, one or several: ``"ssh://[user@]host[:port][/workers]"``,
            ``"host[:port][/workers]"`` where ``python -m distex.server`` runs, or a HostSpec with
            options.
        qsize: tasks that a worker may have at a time, one that runs and those that wait there;
            coroutines overlap up to this number. More of them are sent ahead when they are known
            to be tiny; with 1 there is no sending ahead at all.
        initializer: called in each worker before it gets tasks; may be a coroutine function. If it
            raises, the pool can't be started; in a worker that replaces another one it is tried
            again with another one, after a while.
        initargs: its arguments.
        localhost: address of this machine on which the pool listens by TCP for the workers of
            hosts without ssh, and for those that join by ``python -m distex worker``; empty: the
            one from which such a host is reached or, with a localport, every one, of IPv4 and
            IPv6. Of a name, all its addresses.
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
        when_full: what a call does when that many are under way: ``"wait"`` for its turn (submit
            and run block their thread; run_async returns at once, and the task is sent when its
            turn comes), or ``"raise"`` PoolFull. The timeout of a task runs meanwhile.
        on_worker_lost: called with a WorkerLost, on the thread of the pool's loop, for each worker
            that is lost, or could not start; its ``__cause__`` is what the initializer raised, if
            that was the reason.
        start_timeout: seconds that a worker may take from when its process runs until it is ready,
            the initializer included; None: any number. One that takes longer is killed. While the
            pool starts that fails the start; later another worker is tried.
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

    Times, here and elsewhere, are seconds; infinity is a time too.

    Raises:
        ValueError, TypeError: an argument makes no sense.
        PoolStartError: the workers can't be started (with lazy_create the first task raises it).
    """

    def __init__(
        self,
        num_workers: int = 0,
        hosts: str | HostSpec | Sequence[str | HostSpec] | None = None,
        qsize: int = 2,
        initializer: Callable[[*Ts], object] | None = None,
        initargs: tuple[*Ts] = (),  # type: ignore[assignment]
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
        start_timeout: float | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        ship: Sequence[ModuleType] = (),
        output: Output = None,
    ) -> None:
        settings = check_settings(
            num_workers=num_workers, max_workers=max_workers, hosts=hosts, qsize=qsize,
            initializer=initializer, initargs=initargs, localhost=localhost, localport=localport,
            worker_loop=worker_loop, func_pickle=func_pickle, data_pickle=data_pickle, spin=spin,
            tcp=tcp, max_pending=max_pending, when_full=when_full, on_worker_lost=on_worker_lost,
            start_timeout=start_timeout, max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child=max_memory_per_child,
            ship=ship, output=output)
        super().__init__(
            Home(settings), TaskOptions(retries=retries, cancel_running=cancel_running))
        self._bound_pools: dict[TaskOptions, BoundPool] = {}
        if not lazy_create and asyncio._get_running_loop() is None:
            self._home.wait_ready(None)

    # --- starting

    async def create(self) -> Self:
        """Start the workers, if that has not begun, and wait until they are ready.

        Returns:
            this pool; ``pool = await Pool(4)`` does the same.

        Raises:
            PoolStartError: they can't be started.
            PoolClosed: the pool was ended before they were ready.
            RuntimeError: the pool was shut down.
        """
        await self._home.start_async()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.create().__await__()

    @property
    def ready(self) -> Ready[Self]:
        """To wait for the workers: ``await pool.ready`` or ``pool.ready.wait()``."""
        return Ready(self._home, self)

    def is_ready(self) -> bool:
        """Return whether the workers are ready for tasks."""
        return self._home.is_ready

    # --- what there is

    @property
    def qsize(self) -> int:
        """Tasks that a worker may have at a time."""
        return self._home.settings.qsize

    def total_workers(self) -> int:
        """Return the number of workers that are ready."""
        return self._home.supervisor.total_workers if self._home.is_started else 0

    def workers(self) -> list[WorkerInfo]:
        """Return what the workers are doing, in the order in which they were started."""
        if not self._home.is_started:
            return []
        return [record.info() for record in self._home.supervisor.workers()]

    def statistics(self) -> Statistics:
        """Return what has happened so far, for monitoring."""
        return self._home.supervisor.statistics() if self._home.is_started else Statistics()

    @property
    def address(self) -> tuple[str, int] | None:
        """Address and port on which the pool listens by TCP; None: on none."""
        if not self._home.is_started:
            return None
        addresses = self._home.supervisor.listener.addresses
        return addresses[0] if addresses else None

    # --- tasks: submit, run, run_async, map and map_async are in client/tasks.py

    def options(
        self,
        *,
        retries: int | None = None,
        timeout: float | None = None,
        cancel_running: CancelRunning | None = None,
        grace: float | None = None,
        context: bool = False,
    ) -> BoundPool:
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
        bound = self._bound_pools.get(options)
        if bound is None:
            if len(self._bound_pools) >= BOUND_POOLS_KEPT:
                self._bound_pools.clear()
            bound = self._bound_pools[options] = BoundPool(self._home, options)
        return bound

    @overload
    async def run_on_all_async(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    @overload
    async def run_on_all_async(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    async def run_on_all_async(
        self, func: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Call ``func(*args, **kwargs)`` once on each worker that is ready, after its other tasks.

        Where a worker has retired, see max_tasks_per_child, the one that takes its place makes the
        call as soon as it is ready. With no worker ready the call waits for one, as all tasks do.

        Returns:
            the results, in the order in which the workers were started.

        Raises:
            RuntimeError: the pool was shut down.
            PoolClosed, PoolStartError: it ended, or broke, in the meantime.
            BaseException: what the first call raised that failed, once all have ended.
        """
        await self._home.start_async()
        return await self._home.call(self._run_on_all(self._home.function(func), args, kwargs))

    @overload
    def run_on_all(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    @overload
    def run_on_all(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    def run_on_all(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        """As run_on_all_async(), for synchronous code."""
        self._home.start_and_wait()
        function = self._home.function(func)
        return self._home.submit(self._run_on_all(function, args, kwargs)).result()

    async def _run_on_all(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        dispatcher = self._home.dispatcher
        if dispatcher.closed is not None:  # since the call
            raise dispatcher.closed(AsyncTask(function, args, kwargs, loop))
        return await self._home.supervisor.everywhere.run(
            lambda: AsyncTask(function, args, kwargs, loop))

    # --- hosts and workers that come and go

    async def add_host_async(self, host: str | HostSpec) -> str:
        """Add a host while the pool runs, and wait until its workers are ready.

        Args:
            host: as in Pool's ``hosts``.

        Returns:
            its name, for remove_host().

        Raises:
            HostError: the pool has it already, it can't be reached, or another call has removed it
                meanwhile; the message says why.
            PoolStartError: its workers can't be started.
            PoolClosed: the pool was ended before that.

        When it fails, or is cancelled, nothing is left there, and the pool goes on as before.
        """
        launcher = self._launcher(host)
        await self._home.start_async()
        try:
            name: str = await self._home.call(self._membership.add(launcher))
        except asyncio.CancelledError:  # of this loop: the pool's may not have come to know in time
            self._home.submit(self._membership.undo_add(launcher))
            raise
        return name

    def add_host(self, host: str | HostSpec) -> str:
        """As add_host_async(), for synchronous code."""
        launcher = self._launcher(host)
        self._home.start_and_wait()
        name: str = self._home.submit(self._membership.add(launcher)).result()
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
        await self._home.start_async()
        await self._home.call(self._membership.remove(host, drain))

    def remove_host(self, host: str | HostSpec, *, drain: bool = True) -> None:
        """As remove_host_async(), for synchronous code."""
        self._home.start_and_wait()
        self._home.submit(self._membership.remove(host, drain)).result()

    async def scale_async(self, num_workers: int) -> None:
        """Have this number of workers on this machine; wait until they are ready and others gone.

        The number is a state, not a change: of several calls, from whichever threads and loops, the
        last one wins. A call that is overtaken by one with another number returns at once. What was
        asked for goes on if the caller stops waiting for it.

        A worker that takes the place of one that was ready, see max_tasks_per_child, is not waited
        for. Surplus workers end what they have started, as with remove_host(). With 0 and no other
        hosts tasks wait until there are workers again.

        Raises:
            PoolStartError: they can't be started; the pool goes on with those that could.
            PoolClosed: the pool was ended before that.
            RuntimeError: the pool was shut down.
        """
        check_count(num_workers)
        await self._home.start_async()
        await self._home.call(self._home.supervisor.scaling.scale(num_workers))

    def scale(self, num_workers: int) -> None:
        """As scale_async(), for synchronous code."""
        check_count(num_workers)
        self._home.start_and_wait()
        self._home.submit(self._home.supervisor.scaling.scale(num_workers)).result()

    def _launcher(self, host: str | HostSpec) -> Launcher:
        (launcher,) = launchers(
            0, parse_hosts(host), self._home.settings.tcp, 0, may_be_joined=False)
        return launcher

    @property
    def _membership(self) -> Membership:
        return self._home.supervisor.membership

    # --- the end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the workers when all that were submitted are done.

        On the thread of the loop that runs the pool this can't wait, and returns at once.

        Args:
            wait: return only when the workers have ended.
            cancel_futures: cancel what no worker has yet.
        """
        self._home.end(wait, drain=True, cancel_queued=cancel_futures)

    def kill(self) -> None:
        """End the workers at once, whatever they do; what waits or runs fails with PoolClosed."""
        self._home.end(wait=True, drain=False, cancel_queued=False)

    async def shutdown_async(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As shutdown(), without blocking the loop."""
        await self._home.end_async(wait, drain=True, cancel_queued=cancel_futures)

    async def kill_async(self) -> None:
        """As kill(), without blocking the loop."""
        await self._home.end_async(wait=True, drain=False, cancel_queued=False)

    def __enter__(self) -> Self:
        self._home.start(here=False)
        if not self._home.dispatcher.on_home_thread():
            self._home.wait_ready(None)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        try:
            await self._home.start_async()
        except asyncio.CancelledError:  # there is nobody who would end it
            await self.kill_async()
            raise
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.shutdown_async()

    def __repr__(self) -> str:
        if self._home.closed:
            state = "shut down"
        elif not self._home.is_started:
            state = "not started"
        else:
            state = f"{self.total_workers()} workers ready"
        return f"<{type(self).__name__}: {state}>"
