"""What a pool does when workers end, or can't be had. No other module decides that.

The accidents, how the pool learns of each, and what it does about it once it runs. Each passes, or
may, so none ends a running pool by itself; tests/integration/test_accidents.py causes each one.

    accident                             learned by                    what is done
    a worker dies, idle or busy          Exited, its connection        another one at once
    a worker dies while it starts        the same                      another one, with back-off
    its initializer raises               Ready with an error           another one, with back-off
    it does not come to the pool, or is  StartWatch                    it is killed; another one,
      not ready within start_timeout                                     with back-off
    no process, memory or file for it    Failed with its number        another one, with back-off
    the pool's socket was cleaned away   look before workers start     a new socket, then workers
    shipped modules were cleaned away    the nanny, before it forks    they are unpacked again
    a nanny dies, or is cut off          the end of its stream         a new nanny, with back-off
    a nanny says nothing, or spawns      StartWatch                    it is ended; a new nanny,
      nothing                                                            with back-off
    a nanny can't prepare itself         Failed without a number       the same
    a nanny is of another version        NannyHello                    the same
    a nanny can't be started             launch() raises               tried again, with back-off
    the memory of workers can't be read  _watch_memory                 it is read again later

An accident before that, while the pool starts, fails the start; one on a host for which a call of
scale() or add_host() waits fails that call. A host that has joined by itself is not started anew.

Each failure to get a worker is logged and, with a worker at hand, told to ``on_worker_lost``. The
pool goes on with the workers it has. It breaks when it has none, and has had none for
RECONNECT_TIMEOUT seconds since the first failure.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from distex import options
from distex.cluster.membership import Membership
from distex.cluster.state import Cluster, HostRecord, WorkerRecord
from distex.wire import messages

logger = logging.getLogger("distex")

END_GRACE = 2.0  # seconds for a nanny that is lost or given up to be gone


class Recovery:
    """Replaces workers and nannies of a supervisor.

    Args:
        cluster: the supervisor.
        membership: knows the calls that wait for workers.
    """

    def __init__(self, cluster: Cluster, membership: Membership) -> None:
        self._cluster = cluster
        self._membership = membership
        self._without_workers_since: float | None = None  # and at least one could not be had

    # --- what happens

    def on_worker_ready(self, worker: WorkerRecord) -> None:
        """A worker can be had."""
        worker.host.failures_in_series = 0
        self._without_workers_since = None

    def on_worker_lost(self, worker: WorkerRecord) -> None:
        """A worker is gone for good, and the pool had not asked for that."""
        host = worker.host
        if worker.ready:
            if not host.gone:
                logger.log(logging.INFO if worker.revoked else logging.WARNING,
                           "distex: %s is lost: %s", worker, worker.exit_reason())
                self.refill(host)
            return
        reason = f"{worker} could not start: {worker.exit_reason()}"
        if host.gone and host.established:  # it shares the fate of its nanny
            return
        if not self._is_told(host, reason, worker.cause):
            self._note_failure(host, reason, worker.cause)
            self.refill(host, failed=True)

    def on_nanny_lost(self, host: HostRecord) -> None:
        """A nanny is gone, and its workers with it."""
        if not host.established:
            self._is_told(
                host, f"the nanny on {host.name} ended before its workers were ready: {host.gone}",
                None)
            return
        logger.warning("distex: the nanny on %s is gone and is started anew: %s",
                       host.name, host.gone)
        host.replacing = self._background(self._replace_nanny(host))

    def on_nanny_failed(self, host: HostRecord, reason: str) -> None:
        """A nanny is there, and is no use: end it, and have another one."""
        if (self._cluster.is_stopping or host.leaving or host.gone
                or self._is_told(host, reason, None)):
            return
        self._note_failure(host, reason, None)
        host.unusable = reason
        self.end_nanny(host)

    def end_nanny(self, host: HostRecord) -> None:
        """End a nanny that is of no use; a new one follows when it is gone."""
        if host.nanny is not None:  # else launch() is about to give it
            host.nanny.stream.reason = host.unusable
            host.send(messages.Stop(0.0))  # without it the nanny would take the pool for gone
            host.nanny.stream.close()

    # --- what is done

    def refill(self, host: HostRecord, failed: bool = False) -> None:
        """Have the host's workers completed; after a delay if the last ones failed to start.

        Those that fail together count as one failure.
        """
        if host.refilling is None and not self._cluster.is_stopping:
            if failed:
                host.failures_in_series += 1
            host.refilling = self._background(self._refill(host))

    async def _refill(self, host: HostRecord) -> None:
        try:
            await self._back_off(host)
            is_open = not host.failures_in_series or await self._reopen(host)
        finally:
            host.refilling = None
        self._fill(host, is_open)

    def reopen(self, host: HostRecord, successors: int) -> None:
        """Workers of the host would not find the pool: see that they do, then complete them."""
        async def complete() -> None:
            self._fill(host, await self._reopen(host), successors)

        self._background(complete())

    async def _reopen(self, host: HostRecord) -> bool:
        """See that workers of the host find the pool; whether they do."""
        if host.nanny is None or not _serves(host):
            return False
        try:
            await host.nanny.reopen(self._cluster.listener)
            return True
        except Exception as exc:
            reason = f"workers on {host.name} can't reach the pool: {exc}"
            if not self._is_told(host, reason, exc):
                self._note_failure(host, reason, exc)
            return False

    def _fill(self, host: HostRecord, is_open: bool, successors: int = 0) -> None:
        if not _serves(host):  # a new nanny will do it
            return
        if is_open:
            self._cluster.fill(host, successors)
        else:
            self.refill(host, failed=True)

    async def _replace_nanny(self, host: HostRecord) -> None:
        if host.nanny is not None:
            await host.nanny.wait(END_GRACE)
        while True:
            await self._back_off(host)
            try:
                await self._cluster.launch(host)
                return
            except Exception as exc:
                reason = f"no nanny can be started on {host.name}: {exc or type(exc).__name__}"
                host.failures_in_series += 1
                self._membership.on_start_failed(host, reason, exc)
                self._note_failure(host, reason, exc)

    async def _back_off(self, host: HostRecord) -> None:
        if host.failures_in_series:
            await asyncio.sleep(_delay(host))

    # --- whom it concerns

    def _is_told(self, host: HostRecord, reason: str, cause: BaseException | None) -> bool:
        """Whether the failure concerns only those who wait for the host's workers: a call, or all
        who wait for the pool to be ready. They are told."""
        if self._membership.on_start_failed(host, reason, cause):
            return True
        if not self._cluster.running:
            self._cluster.start_failed(reason, cause)
            return True
        return False

    def _note_failure(self, host: HostRecord, reason: str, cause: BaseException | None) -> None:
        """Log it, and break the pool if it has had no worker for long."""
        now = self._cluster.loop.time()
        if any(worker.ready for worker in self._cluster.workers()):
            self._without_workers_since = None
        elif self._without_workers_since is None:
            self._without_workers_since = now
        elif now - self._without_workers_since > options.RECONNECT_TIMEOUT:
            self._cluster.give_up(
                f"no worker could be had for {now - self._without_workers_since:.0f} s; the last "
                f"failure: {reason}", cause)
            return
        logger.error("distex: %s. The pool goes on with %d workers, and tries again",
                     reason, sum(worker.ready for worker in self._cluster.workers()))

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._cluster.loop.create_task(coroutine)
        self._cluster.keep(task)
        return task


def _serves(host: HostRecord) -> bool:
    return host.is_serving and not host.gone and not host.leaving


def _delay(host: HostRecord) -> float:
    delay: float = options.RESPAWN_DELAY * 2 ** min(host.failures_in_series - 1, 30)
    return min(delay, options.RECONNECT_DELAY_MAX)
