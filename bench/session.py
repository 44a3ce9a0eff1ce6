"""What stays in a child from round to round: the pool, and how many tasks make a measurement."""

import os
from typing import Any

from bench import peers


class Session:
    """What stays from round to round: the pool, and how many tasks make a measurement.

    Args:
        peer: name of a class of peers.py, or "limits".
        workers: of the pool.
        options: further arguments for it.
    """

    def __init__(self, peer: str, workers: int, options: dict[str, Any]) -> None:
        self.peer = peers.PEERS.get(peer)
        self.workers = workers
        self.options = options
        self.counts: dict[Any, int] = {}
        self.functions: dict[str, Any] = {}
        self._cpus = sorted(os.sched_getaffinity(0))
        self._pool: Any = None

    def two_cpus(self) -> list[int]:
        """Two of the CPUs that this process could run on when it started."""
        if len(self._cpus) < 2:
            raise NotImplementedError("there is one CPU only")
        return self._cpus[:2]

    def open(self, workers: int) -> Any:
        """A pool for one measurement alone; the caller closes it."""
        assert self.peer is not None
        return self.peer(workers, **self.options)

    def pool(self) -> Any:
        """The pool that stays."""
        if self._pool is None:
            self._pool = self.open(self.workers)
        return self._pool

    def close(self) -> None:
        """Close that, if it is open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
