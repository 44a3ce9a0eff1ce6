"""Add, remove and replace hosts and workers while a pool runs: scale, add_host, joining.

    add:     launch ──> its workers start ──> all ready: it is established; or all is undone
    remove:  its workers retire ──> each ends what it has, and leaves ──> the nanny ends
    scale:   more workers start, or some retire
    recycle: a worker retires, and another one takes its place
    join:    a nanny comes by itself ──> its workers start; it is never started anew

A worker that retires gets no further tasks. What it has not started goes to others; with none left
it waits for workers that are to come.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from distex import options
from distex.cluster.state import Cluster, HostRecord, WorkerRecord
from distex.errors import HostError, PoolClosed, PoolStartError, ProtocolError
from distex.launch.base import Launcher, NannyStream
from distex.launch.server import TcpNanny, peer_name
from distex.wire import messages

logger = logging.getLogger("distex")
T = TypeVar("T")

END_GRACE = 2.0  # seconds for a nanny without work to end by itself


class Scaling:
    """Changes what a supervisor has.

    Args:
        supervisor: whose hosts they are.
    """

    def __init__(self, supervisor: Cluster) -> None:
        self._supervisor = supervisor
        # who waits for all workers of a host to be ready
        self._waiting: dict[HostRecord, list[asyncio.Future[None]]] = {}

    async def _until_the_pool_ends(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it as a task that the pool's end cancels."""
        supervisor = self._supervisor
        if supervisor.is_stopping:
            coroutine.close()
            raise PoolClosed("the pool was ended before that")
        task = supervisor.loop.create_task(coroutine)
        supervisor.keep(task)
        try:
            return await task
        except asyncio.CancelledError:
            if supervisor.is_stopping:
                raise PoolClosed("the pool was ended before that was done") from None
            raise

    # --- more

    async def add(self, launcher: Launcher) -> str:
        """Add a host, and wait until its workers are ready.

        Returns:
            its name.

        Raises:
            HostError: the pool has it already, or it can't be reached.
            PoolStartError: its workers can't be started. Nothing is left there then.
            PoolClosed: the pool ended before that.
        """
        try:
            return await self._until_the_pool_ends(self._add(launcher))
        except asyncio.CancelledError:
            await self.undo_add(launcher)
            raise

    async def undo_add(self, launcher: Launcher) -> None:
        """Remove the host that was ready in the moment in which who waited for it was cancelled."""
        for host in self._supervisor.hosts:
            if host.launcher is launcher and host.adding is None and not host.leaving:
                await asyncio.shield(self._tear_down(host, 0.0))
                return

    async def _add(self, launcher: Launcher) -> str:
        supervisor = self._supervisor
        for host in supervisor.hosts:
            if (host.launcher is not None and host.launcher.key == launcher.key
                    and not host.leaving):
                raise HostError(f"{host.name} is in the pool already: to have another number of "
                                "workers there, remove it first")
        host = HostRecord(supervisor, launcher)
        host.adding = asyncio.current_task()
        supervisor.hosts.append(host)
        # what goes wrong from now on concerns this host alone
        complete = self._expect_complete(host)
        try:
            supervisor.raise_file_limit()
            await supervisor.launch(host)
            await self._until(complete, host)
        except BaseException as exc:
            removed = host.leaving
            await asyncio.shield(self._tear_down(host, 0.0))
            if removed and isinstance(exc, asyncio.CancelledError):
                raise HostError(f"{host.name} was removed before its workers were ready") from None
            raise
        finally:
            host.adding = None
            self._stop_waiting(complete, host)
        return host.name

    def _expect_complete(self, host: HostRecord) -> "asyncio.Future[None]":
        """Done once all workers of the host are ready, or have been, or can't be had."""
        complete: asyncio.Future[None] = self._supervisor.loop.create_future()
        complete.add_done_callback(lambda complete: complete.cancelled() or complete.exception())
        self._waiting.setdefault(host, []).append(complete)
        return complete

    def _stop_waiting(self, complete: "asyncio.Future[None]", host: HostRecord) -> None:
        """Nobody waits for that any more."""
        waiters = self._waiting.get(host, [])
        if complete in waiters:
            waiters.remove(complete)
        if not waiters:
            self._waiting.pop(host, None)

    async def _until(self, complete: "asyncio.Future[None]", host: HostRecord) -> None:
        """Wait for that."""
        self.check_complete(host)
        await complete

    def is_awaited(self, host: HostRecord) -> bool:
        """Whether somebody waits for its workers to be ready."""
        return any(not complete.done() for complete in self._waiting.get(host, ()))

    def check_complete(self, host: HostRecord) -> None:
        """Tell who waits for that, if all its workers are ready."""
        if host.is_complete and self._supervisor.running:
            host.established = True
            for complete in self._waiting.pop(host, ()):
                if not complete.done():
                    complete.set_result(None)

    def on_start_failed(self, host: HostRecord, reason: str, cause: BaseException | None) -> bool:
        """Its workers can't be started: tell whom it concerns, unless that is the whole pool:
        False then."""
        if host.launcher is None and not host.established:
            self._reject(host, reason)
            return True
        # who was told is in the list until the host is taken back: its other workers fail as well
        waiters = self._waiting.get(host, ())
        for complete in waiters:
            if not complete.done():
                error = PoolStartError(reason)
                error.__cause__ = cause
                complete.set_exception(error)
        return bool(waiters)

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

    async def remove(self, hosts: list[HostRecord], drain: bool) -> None:
        """Remove hosts, and wait until nothing is left there.

        Args:
            hosts: which.
            drain: let their workers end what they have started; else it fails with WorkerLost.

        Raises:
            PoolClosed: the pool ended before that.
        """
        if self._supervisor.is_stopping:
            raise PoolClosed("the pool was ended before that")
        for host in hosts:
            self._start_removal(host)
            for worker in list(host.workers.values()):
                if drain:
                    self._retire(worker)
                else:
                    self._kill(worker)
        if hosts:  # it goes on if the caller does not wait for it
            await asyncio.wait([host.removed for host in hosts])

    def _start_removal(self, host: HostRecord) -> None:
        """Have the host taken down once its workers are gone; it gets no new ones."""
        if host.leaving or self._supervisor.is_stopping:
            return
        host.leaving = True
        host.wanted = 0
        if host.adding is not None:
            host.adding.cancel()
        else:
            self._supervisor.keep(self._supervisor.loop.create_task(self._remove(host)))

    async def _remove(self, host: HostRecord) -> None:
        try:
            if host.replacing is not None:
                host.replacing.cancel()
                await asyncio.wait([host.replacing])
            await _ended(list(host.workers.values()))
            await self._tear_down(host, END_GRACE)
        finally:  # also if the pool ends, and with it the host
            self._removed(host)

    def _removed(self, host: HostRecord) -> None:
        if not host.removed.done():
            host.removed.set_result(None)
        for complete in self._waiting.pop(host, ()):
            if not complete.done():
                complete.set_exception(HostError(f"{host.name} was removed"))

    async def _tear_down(self, host: HostRecord, grace: float) -> None:
        """End a host's nanny and what is left of its workers."""
        supervisor = self._supervisor
        host.leaving = True
        host.wanted = 0
        for worker in list(host.workers.values()):
            supervisor.forget_worker(worker)
        host.send(messages.Reject(host.refusal) if host.refusal else messages.Stop(grace))
        if host.nanny is not None:
            with contextlib.suppress(Exception):
                await host.nanny.wait(grace + END_GRACE)
            host.nanny.stream.close()
        supervisor.hosts.remove(host)
        self._removed(host)
        supervisor.check_drained()

    def _kill(self, worker: WorkerRecord) -> None:
        """End a worker at once; its nanny then says which task it ran."""
        worker.leaving = True
        if worker.link is not None:
            worker.link.retire()
        worker.host.send(messages.Kill(worker.number, signal.SIGKILL))
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

    # --- a number

    async def scale(self, launcher: Launcher, number: int) -> None:
        """Have so many workers on this machine; wait until they are ready, or the others gone.

        Args:
            launcher: of that many.
            number: how many; 0: none, and no nanny.

        Raises:
            PoolStartError: they can't be started; the pool has as many as could be then.
            PoolClosed: the pool ended before that.
        """
        local = [host for host in self._supervisor.hosts if host.is_local and not host.leaving]
        if not number:
            await self.remove(local, drain=True)
        elif not local:
            await self.add(launcher)
        else:
            await self._until_the_pool_ends(self._scale(local[0], number))

    async def _scale(self, host: HostRecord, number: int) -> None:
        supervisor = self._supervisor
        before, wanted = len(host.staying), host.wanted or 0
        host.wanted = number
        if number > before:
            complete = self._expect_complete(host)
            try:
                supervisor.raise_file_limit()
                if host.is_serving and not host.gone:
                    supervisor.fill(host)
                await self._until(complete, host)
            except BaseException:
                # a worker that was to replace another one is tried again
                host.wanted = max(wanted, sum(worker.is_proven for worker in host.staying))
                for worker in host.staying:
                    if not worker.is_proven:
                        self._retire(worker)
                supervisor.refill(host)
                raise
            finally:
                self._stop_waiting(complete, host)
        elif number < before:
            # those that have least to do, and of these the youngest
            surplus = sorted(host.staying, key=_readiness_to_go)[: before - number]
            for worker in surplus:
                self._retire(worker)
            self.check_complete(host)
            await _ended(surplus)


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


async def _ended(workers: list[WorkerRecord]) -> None:
    """Wait until they are gone."""
    if workers:
        await asyncio.wait([worker.gone for worker in workers])
