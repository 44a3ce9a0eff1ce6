"""Add, remove and replace hosts and workers while a pool runs: add_host, remove_host, joining.

    add:     launch ──> its workers start ──> all ready: it is established; or all is undone
    remove:  its workers retire ──> each ends what it has, and leaves ──> the nanny ends
    resize:  more workers start, or some retire; scaling.py says how many there should be
    recycle: a worker retires, and another one takes its place
    join:    a nanny comes by itself ──> its workers start; it is never started anew

A worker that retires gets no further tasks. What it has not started goes to others; with none left
it waits for workers that are to come.
"""

import asyncio
import contextlib
import logging
import signal
from typing import Any

from distex import options
from distex.cluster.losses import start_error
from distex.cluster.state import Cluster, HostRecord, WorkerRecord
from distex.errors import HostError, PoolStartError, ProtocolError
from distex.launch.base import Launcher, NannyStream
from distex.launch.hosts import HostSpec, parse_hosts
from distex.launch.server import TcpNanny, peer_name
from distex.wire import messages

logger = logging.getLogger("distex")

END_GRACE = 2.0  # seconds for a nanny without work to end by itself


class Membership:
    """Changes the hosts and workers that a supervisor has.

    Args:
        supervisor: whose hosts they are.
    """

    def __init__(self, supervisor: Cluster) -> None:
        self._supervisor = supervisor
        # who waits for all workers of a host to be ready
        self._waiting: dict[HostRecord, list[asyncio.Future[None]]] = {}

    # --- more

    async def add(self, launcher: Launcher) -> str:
        """Add a host, and wait until its workers are ready.

        Returns:
            its name.

        Raises:
            HostError: the pool has it already, it can't be reached, or is removed meanwhile.
            PoolStartError: its workers can't be started. Nothing is left there then.
            PoolClosed: the pool ended before that.
        """
        for host in self._supervisor.hosts:
            if (host.launcher is not None and host.launcher.key == launcher.key
                    and not host.leaving):
                raise HostError(f"{host.name} is in the pool already: to have another number of "
                                "workers there, remove it first")
        self._supervisor.check_not_stopping()
        host = self.begin(launcher)
        complete = self.expect_complete(host)
        try:
            await self._supervisor.until_stopped(_wait(complete))
        except asyncio.CancelledError:
            await self.undo_add(launcher)
            raise
        return host.name

    async def undo_add(self, launcher: Launcher) -> None:
        """Remove the host of this launcher, whose addition is not wanted any more."""
        for host in self._supervisor.hosts:
            if host.launcher is launcher and not host.leaving:
                self._take_back(host, HostError(f"the addition of {host.name} was cancelled"))
                await asyncio.shield(host.removed)
                return

    def begin(self, launcher: Launcher) -> HostRecord:
        """Begin to start a host's nanny and workers. If that fails, the host is removed."""
        supervisor = self._supervisor
        host = HostRecord(supervisor, launcher)
        supervisor.hosts.append(host)
        host.adding = supervisor.loop.create_task(self._launch(host))
        supervisor.keep(host.adding)
        return host

    async def _launch(self, host: HostRecord) -> None:
        try:
            self._supervisor.raise_file_limit()
            await self._supervisor.launch(host)
        except (HostError, PoolStartError) as exc:
            self._take_back(host, exc)
        except Exception as exc:  # no process can be had, say
            self._take_back(host, start_error(
                f"no nanny can be started on {host.name}: {exc or type(exc).__name__}", exc))

    def resize(self, host: HostRecord, number: int) -> list[WorkerRecord]:
        """Have so many workers on a host: start more, or have some leave.

        Returns:
            those that leave: they have the least to do, and of these they are the youngest.
        """
        host.wanted = number
        if host.had is not None:
            host.had = min(host.had, number)
        staying = sorted(host.staying, key=_readiness_to_go)
        surplus = staying[: max(0, len(staying) - number)]
        for worker in surplus:
            self._retire(worker)
        try:
            self._supervisor.raise_file_limit()
        except OSError as exc:
            self.on_start_failed(host, str(exc), exc)
        if host.is_serving and not host.gone and not host.leaving:
            self._supervisor.fill(host)  # else it is filled when it serves
        self.check_complete(host)
        return surplus

    # --- to wait for workers

    def expect_complete(self, host: HostRecord) -> "asyncio.Future[None]":
        """Return a future that is done once all workers of the host are ready, or were.

        It fails with PoolStartError or HostError if they can't be had, and with HostError if the
        host is removed. Nobody has to look at it; cancel it to hear no more.
        """
        complete: asyncio.Future[None] = self._supervisor.loop.create_future()
        complete.add_done_callback(_look_at)
        self._waiting.setdefault(host, []).append(complete)
        return complete

    def check_complete(self, host: HostRecord) -> None:
        """Tell those who wait for that, if all its workers are ready."""
        if host.is_complete and self._supervisor.running and not host.leaving:
            host.had = host.wanted
            self._tell(host, None)

    def _tell(self, host: HostRecord, error: Exception | None) -> bool:
        """Have those go on who wait for the host's workers; return whether there were any."""
        waiting = [complete for complete in self._waiting.pop(host, ()) if not complete.done()]
        for complete in waiting:
            if error is None:
                complete.set_result(None)
            else:
                complete.set_exception(error)
        return bool(waiting)

    def on_start_failed(self, host: HostRecord, reason: str, cause: BaseException | None) -> bool:
        """Workers of a host can't be started: take back what was asked for there, and tell those
        who asked.

        Returns:
            False: nobody did; it concerns the pool.
        """
        if host.established:
            if not self._tell(host, start_error(reason, cause)):
                return False
            self._fall_back(host)
        elif host.launcher is None:
            self._reject(host, reason)
        elif not self._supervisor.running:
            return False
        else:
            self._take_back(host, start_error(reason, cause))
        return True

    def _fall_back(self, host: HostRecord) -> None:
        """Have as many workers there as could be had."""
        # one that was to replace another one is tried again
        host.wanted = max(host.had or 0, sum(worker.is_proven for worker in host.staying))
        for worker in host.staying:
            if not worker.is_proven:
                self._retire(worker)
        self._supervisor.refill(host)

    def _take_back(self, host: HostRecord, error: Exception) -> None:
        """End a host that was being added; those who wait for it are told then."""
        if host.leaving or self._supervisor.is_stopping:
            return
        host.failure = error
        self._start_removal(host, 0.0)
        for worker in list(host.workers.values()):
            self._supervisor.forget_worker(worker)

    # --- by themselves

    def accept_nanny(self, transport: Any) -> NannyStream:
        """A nanny has come by itself: its stream."""
        supervisor = self._supervisor
        host = HostRecord(supervisor, None, name=peer_name(transport))
        supervisor.hosts.append(host)
        return _JoinedStream(
            host, supervisor.settings.tcp.keepalive, supervisor.settings.hash_seed)

    def on_nanny_joined(self, host: HostRecord, serving: messages.NannyHello) -> None:
        """It has said who it is."""
        host.name = serving.host
        logger.info("distex: %s joins with %d workers", host.name, serving.cpus)

    def _reject(self, host: HostRecord, reason: str) -> None:
        """Send it away."""
        logger.warning("distex: %s is sent away: %s", host.name, reason)
        host.refusal = reason
        self._start_removal(host)
        for worker in list(host.workers.values()):
            self._retire(worker)

    def on_nanny_leaving(self, host: HostRecord) -> None:
        """It wants to go: remove it."""
        logger.info("distex: %s leaves", host.name)
        self._start_removal(host)
        for worker in list(host.workers.values()):
            self._retire(worker)

    def drop_joined(self, host: HostRecord) -> bool:
        """A nanny is gone: whether it had come by itself, and is not to be started anew."""
        if host.launcher is not None:
            return False
        if host.is_serving:
            logger.warning("distex: %s, which had joined, is gone: %s",
                           host.name, host.gone)
        else:
            self._supervisor.count_drop(ProtocolError(f"{host.name}: {host.gone}"))
        self._start_removal(host)
        return True

    # --- less

    async def remove(self, host: str | HostSpec, drain: bool) -> None:
        """Remove a host, and wait until nothing is left there.

        Args:
            host: its name, or as in Pool's ``hosts``.
            drain: let its workers end what they have started; else it fails with WorkerLost.

        Raises:
            HostError: the pool has no such host.
            PoolClosed: the pool ended before that.
        """
        self._supervisor.check_not_stopping()
        records = self._named(host)
        self.begin_removal(records, drain)
        # it goes on if the caller does not wait for it
        await asyncio.wait([record.removed for record in records])

    def _named(self, host: str | HostSpec) -> list[HostRecord]:
        hosts = self._supervisor.hosts
        named = [record for record in hosts if record.name == host]
        if not named:
            key = parse_hosts(host)[0].key
            named = [record for record in hosts
                     if record.launcher is not None and record.launcher.key == key]
        if not named:
            raise HostError(f"the pool has no host {host}: Pool.workers() shows those that it has")
        return named

    def begin_removal(self, hosts: list[HostRecord], drain: bool) -> None:
        """As remove(), without waiting. One that drains can be hurried by one that does not."""
        for host in hosts:
            self._start_removal(host)
            for worker in list(host.workers.values()):
                if drain:
                    self._retire(worker)
                else:
                    self._kill(worker)

    def _start_removal(self, host: HostRecord, grace: float = END_GRACE) -> None:
        """Have the host taken down once its workers are gone; it gets no new ones."""
        if host.leaving or self._supervisor.is_stopping:
            return
        host.leaving = True
        host.wanted = 0
        if not host.has_spawned:  # its nanny may be trying whether workers can connect
            self._supervisor.expect_leaver()
        task = self._supervisor.loop.create_task(self._remove(host, grace))
        self._supervisor.keep(task)
        # in any case: the pool may end, and with it the host, before the task has begun
        task.add_done_callback(lambda task: self._removed(host))

    async def _remove(self, host: HostRecord, grace: float) -> None:
        starting = [task for task in (host.adding, host.replacing) if task is not None]
        for task in starting:
            task.cancel()
        if starting:
            await asyncio.wait(starting)
        if host.workers:
            await asyncio.wait([worker.gone for worker in host.workers.values()])
        host.send(messages.Reject(host.refusal, again=not host.unfit) if host.refusal
                  else messages.Stop(grace))
        if host.nanny is not None:
            with contextlib.suppress(Exception):
                await host.nanny.wait(grace + END_GRACE)
            host.nanny.stream.close()
        self._supervisor.hosts.remove(host)
        self._removed(host)
        self._supervisor.check_drained()

    def _removed(self, host: HostRecord) -> None:
        if not host.removed.done():
            host.removed.set_result(None)
        self._tell(host, host.failure or HostError(
            f"{host.name} was removed before its workers were ready"))

    def _kill(self, worker: WorkerRecord) -> None:
        """End a worker at once; its nanny then says which task it ran."""
        worker.leaving = True
        if worker.link is not None:
            worker.link.retire()
        self._supervisor.end_worker(worker, signal.SIGKILL)
        self._forget_later(worker, END_GRACE)

    def recycle(self, worker: WorkerRecord) -> None:
        """Have a worker end what it has, and another one take its place."""
        host = worker.host
        if worker.leaving or host.leaving or worker.link is None or self._supervisor.is_stopping:
            return
        self._supervisor.workers_recycled += 1
        worker.leaving = True
        worker.link.retire(lambda: self._say_goodbye(worker), give_back=False)
        if host.is_serving and not host.gone:
            self._supervisor.fill(host, successors=1)

    def _retire(self, worker: WorkerRecord) -> None:
        """Have a worker end what it has started, and leave."""
        if worker.leaving:
            return
        worker.leaving = True
        if worker.link is None:
            self._supervisor.forget_worker(worker)
        else:
            worker.link.retire(lambda: self._say_goodbye(worker))

    def _say_goodbye(self, worker: WorkerRecord) -> None:
        if worker.link is not None:
            worker.link.say_goodbye()
        self._forget_later(worker, options.STOP_TIMEOUT)

    def _forget_later(self, worker: WorkerRecord, delay: float) -> None:
        """Don't wait longer than this for the signs of its end."""
        if worker.timer is None:
            worker.timer = self._supervisor.loop.call_later(
                delay, self._supervisor.forget_worker, worker)


class _JoinedStream(NannyStream):
    """The stream of a nanny that came by itself, from the moment on when there is a connection."""

    def __init__(self, host: HostRecord, keepalive: float, hash_seed: int) -> None:
        super().__init__(host)
        self._host = host
        self._keepalive = keepalive
        self._hash_seed = hash_seed

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # it has its own idea of where its workers find the pool
        self._host.nanny = TcpNanny(
            self, ("", 0), self._keepalive, self._hash_seed)
        self._timer = asyncio.get_running_loop().call_later(
            options.START_TIMEOUT, self._abort_unless_it_serves)

    def _abort_unless_it_serves(self) -> None:
        if not self._host.is_serving:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)


def _readiness_to_go(worker: WorkerRecord) -> tuple[int, int]:
    return (-1 if worker.link is None else worker.link.in_flight), -worker.number


def _look_at(complete: "asyncio.Future[None]") -> None:
    """Nobody has to be interested in how it ended."""
    if not complete.cancelled():
        complete.exception()


async def _wait(complete: "asyncio.Future[None]") -> None:
    await complete
