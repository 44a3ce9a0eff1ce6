"""Calls that every worker makes: Pool.run_on_all().

    run ──> a task for each worker that is ready
        └─> a place for each one that starts as another has retired ──ready──> its first task

A place is taken by the first worker of the host that gets ready, so that a worker which does not
come to life, and is tried again, costs nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from distex._core.futures import AsyncTask
from distex.cluster.state import Cluster, HostRecord, WorkerRecord


class _Call:
    """One call that every worker makes."""

    def __init__(self, make_task: Callable[[], AsyncTask[Any]]) -> None:
        self._make_task = make_task
        self.tasks: dict[int, AsyncTask[Any]] = {}  # by the numbers of the workers
        self.places: Counter[HostRecord | None] = Counter()  # to be taken; None: on any host

    def make(self, worker: WorkerRecord) -> AsyncTask[Any]:
        """Return the task for a worker."""
        task = self.tasks[worker.number] = self._make_task()
        return task

    def take_place(self, worker: WorkerRecord) -> bool:
        """Whether the worker, which is ready now, makes the call too."""
        for host in (worker.host, None):
            if self.places[host] > 0:
                self.places[host] -= 1
                return True
        return False


class Everywhere:
    """Has every worker of a pool make a call.

    Args:
        cluster: the supervisor.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._calls: list[_Call] = []  # with places that are not taken
        self._change: asyncio.Future[None] | None = None  # done when one is

    async def run(self, make_task: Callable[[], AsyncTask[Any]]) -> list[Any]:
        """Have each worker do a task of its own, and wait until all have ended.

        Returns:
            the results, in the order in which the workers were started.

        Raises:
            PoolClosed: the pool ended before that.
            BaseException: what the first task raised that failed.
        """
        cluster = self._cluster
        cluster.dispatcher.inbox.handle_all()  # it may say of a worker that it is exhausted
        call = _Call(make_task)
        for worker in cluster.workers():
            if worker.leaving:
                continue
            if worker.link is not None:
                cluster.dispatcher.send_to(worker.link, call.make(worker))
            elif worker.succeeds:
                call.places[worker.host] += 1
        if not call.tasks and not call.places and cluster.expected_workers:
            call.places[None] = 1  # it waits for a worker, as every task does
        self._calls.append(call)
        try:
            await cluster.until_stopped(self._all_places_taken(call))
        finally:
            self._calls.remove(call)
        tasks = [call.tasks[number] for number in sorted(call.tasks)]
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]

    async def _all_places_taken(self, call: _Call) -> None:
        while any(min(places, self._to_come(host)) > 0 for host, places in call.places.items()):
            if self._change is None:
                self._change = self._cluster.loop.create_future()
            await asyncio.wait([self._change])

    def _to_come(self, host: HostRecord | None) -> int:
        """Return how many workers may still get ready on a host, or anywhere."""
        if host is None:
            return self._cluster.expected_workers
        return (host.wanted or 0) - sum(worker.ready for worker in host.staying)

    def on_change(self) -> None:
        """A worker is ready, or is gone, or a host is."""
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    def first_tasks(self, worker: WorkerRecord) -> list[AsyncTask[Any]]:
        """Return what a worker that is ready now is to do before anything else."""
        self.on_change()
        return [call.make(worker) for call in self._calls if call.take_place(worker)]
