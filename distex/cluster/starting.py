"""Watches the workers that start: that each comes to the pool, and what a slow start waits for.

    Spawn ──────> Started ──────> Hello ──────> Ready
      │             │ start_timeout, the user's ──┘
      │             └─ options.start_timeout()
      └─ the same, or SPAWN_TIMEOUT if the nanny has had workers

A worker whose process does not come to the pool is lost soon. An initializer may take as long as it
takes, unless Pool(start_timeout=...) says otherwise.
"""

import asyncio
import logging
import signal

from distex import options
from distex.cluster.recovery import Recovery
from distex.cluster.state import Cluster, HostRecord, WorkerRecord
from distex.wire import messages

logger = logging.getLogger("distex")

NAMED = 3  # workers that a report calls by name


class StartWatch:
    """Deadlines and reports for the workers that start.

    Args:
        cluster: the supervisor.
        recovery: decides what becomes of what does not start.
        limit: seconds from when a worker's process runs until it is ready; 0: any number.
    """

    def __init__(self, cluster: Cluster, recovery: Recovery, limit: float) -> None:
        self._cluster = cluster
        self._recovery = recovery
        self._limit = limit
        self._since = 0.0
        self._interval = 0.0
        self._report: asyncio.TimerHandle | None = None

    # --- a nanny

    def launched(self, host: HostRecord) -> None:
        """A nanny has been started, and should say so soon."""
        host.deadline = self._cluster.loop.call_later(
            options.start_timeout(1), self._nanny_is_silent, host)

    def _nanny_is_silent(self, host: HostRecord) -> None:
        host.deadline = None
        if not host.is_serving and not host.gone:
            self._recovery.on_nanny_failed(
                host, f"the nanny on {host.name} did not say that it serves within "
                f"{options.start_timeout(1):.0f} s")

    # --- a worker

    def spawned(self, worker: WorkerRecord) -> None:
        """The nanny is told to start it."""
        self.begin_reports()
        # one that is new may have much to import first
        timeout = options.SPAWN_TIMEOUT if worker.host.has_spawned else options.START_TIMEOUT
        worker.deadline = self._cluster.loop.call_later(
            timeout + options.START_TIMEOUT_PER_WORKER * len(worker.host.workers),
            self._is_not_started, worker)

    def runs(self, worker: WorkerRecord) -> None:
        """Its process runs."""
        worker.host.has_spawned = True
        if worker.runs_since is None:
            worker.runs_since = self._cluster.loop.time()
            timeout = options.start_timeout(len(worker.host.workers))
            if self._limit and self._limit < timeout:
                self._until_ready(worker)
            else:
                self.forget(worker)
                worker.deadline = self._cluster.loop.call_later(
                    timeout, self._does_not_come, worker, timeout)

    def connected(self, worker: WorkerRecord) -> None:
        """It has come to the pool; what follows is the initializer."""
        if worker.runs_since is None:
            worker.runs_since = self._cluster.loop.time()
        self.forget(worker)
        if self._limit:
            self._until_ready(worker)

    def _until_ready(self, worker: WorkerRecord) -> None:
        self.forget(worker)
        assert worker.runs_since is not None
        worker.deadline = self._cluster.loop.call_at(
            worker.runs_since + self._limit, self._is_not_ready, worker)

    def _is_not_started(self, worker: WorkerRecord) -> None:
        worker.deadline = None
        self._recovery.on_nanny_failed(
            worker.host, f"the nanny on {worker.host.name} started no worker in time: it is "
            "stopped, or hangs")

    def _does_not_come(self, worker: WorkerRecord, timeout: float) -> None:
        worker.deadline = None
        self._lose(worker, f"it did not connect to the pool within {timeout:.0f} s")

    def _is_not_ready(self, worker: WorkerRecord) -> None:
        worker.deadline = None
        self._lose(worker, f"it was not ready within {self._limit:g} s, which Pool(start_timeout="
                   f"...) allows: {_stage(worker)}")

    def _lose(self, worker: WorkerRecord, reason: str) -> None:
        worker.failure = reason
        worker.host.send(messages.Kill(worker.number, signal.SIGKILL))
        self._cluster.forget_worker(worker)

    @staticmethod
    def forget(started: WorkerRecord | HostRecord) -> None:
        """It is ready, or gone."""
        if started.deadline is not None:
            started.deadline.cancel()
            started.deadline = None

    # --- reports

    def begin_reports(self) -> None:
        """Something starts: log how far it has come if that takes long."""
        if self._report is None and not self._cluster.is_stopping:
            self._since = self._cluster.loop.time()
            self._interval = options.START_REPORT
            self._report = self._cluster.loop.call_later(self._interval, self._tell)

    def _tell(self) -> None:
        """Log how far the start has come, unless all are ready."""
        self._report = None
        workers = [worker for worker in self._cluster.workers() if not worker.leaving]
        waits = [f"{worker}: {_stage(worker)}" for worker in workers if not worker.ready]
        waits += [f"the nanny on {host.name}" for host in self._cluster.hosts
                  if (host.gone or not host.is_serving) and not host.leaving]
        if not waits:
            return
        waited = self._cluster.loop.time() - self._since
        more = f", and {len(waits) - NAMED} more" if len(waits) > NAMED else ""
        logger.log(
            logging.WARNING if waited >= options.START_TIMEOUT else logging.INFO,
            "distex: %d of %d workers are ready after %.0f s; waiting for %s%s",
            sum(worker.ready for worker in workers), self._cluster.expected_workers, waited,
            "; ".join(waits[:NAMED]), more)
        self._interval = min(2 * self._interval, options.START_TIMEOUT)
        self._report = self._cluster.loop.call_later(self._interval, self._tell)

    def close(self) -> None:
        """The pool ends."""
        if self._report is not None:
            self._report.cancel()
            self._report = None
        for host in self._cluster.hosts:
            self.forget(host)
        for worker in self._cluster.workers():
            self.forget(worker)


def _stage(worker: WorkerRecord) -> str:
    if worker.said_hello:
        return "its initializer runs"
    return "it runs, and has not connected yet" if worker.pid else "its nanny has not started it"
