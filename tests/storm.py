"""A storm: a pool under full load of every kind, while something of it is killed again and again.

    load ──> submit, run, run_async, map ──> each outcome is right, or WorkerLost, or it is a fault
                                             (with retries: is right, or it is a fault)
    killer ──every so often──> a worker, a nanny, an sshd ...
    calm ──> all workers are back, the rate is what it was

Used by the tests, in short, and by soak.py for as long as one likes.
"""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distex import Pool, WorkerLost

IN_FLIGHT = 300  # single tasks of each kind that are on their way at a time
DEADLINE = 60.0  # seconds for what was sent to end, and for the pool to be whole again


# --- what the workers do


def work(n: int) -> tuple[int, int]:
    if n % 64 == 0:
        time.sleep(0.002)
    return n, n * n


async def work_async(n: int) -> tuple[int, int]:
    await asyncio.sleep(0.001 if n % 16 == 0 else 0)
    return n, n * n


@dataclass
class Tally:
    """What has become of the tasks so far."""

    retried: bool = False  # whether the pool tries lost tasks again, so that none may be lost
    done: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)

    def take(self, kind: str, n: int, result: Any, exc: BaseException | None) -> None:
        """Note how one task ended; only one thread at a time may do so for one kind."""
        self.by_kind[kind] += 1
        if exc is None and result == (n, n * n):
            self.done += 1
        elif isinstance(exc, WorkerLost) and not self.retried:
            self.lost += 1
        else:
            self.faults.append(f"{kind} of {n}: {result!r}, {exc!r}")


class Load:
    """Keeps a pool busy with tasks of every kind, from threads of its own, until it is stopped."""

    def __init__(self, pool: Pool, retried: bool = False) -> None:
        self.pool = pool
        self.tally = Tally(retried)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._guard, args=(feed,), name=f"load-{feed.__name__}")
            for feed in (self.submit, self.run, self.run_async, self.map)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        deadline = time.monotonic() + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.tally.faults.append(f"{thread.name} hangs: a task never ends")

    def _guard(self, feed: Callable[[], None]) -> None:
        try:
            feed()
        except BaseException as exc:
            self.tally.faults.append(f"{feed.__name__} ended with {exc!r}")

    def _take(self, kind: str, n: int, result: Any, exc: BaseException | None) -> None:
        with self._lock:
            self.tally.take(kind, n, result, exc)

    def submit(self) -> None:
        """Futures, up to IN_FLIGHT of them."""
        room = threading.Semaphore(IN_FLIGHT)
        n = 0

        def ended(n: int, future: Any) -> None:
            exc = future.exception()
            self._take("submit", n, None if exc else future.result(), exc)
            room.release()

        while not self._stop.is_set():
            n += 1
            room.acquire()
            future = self.pool.submit(work, n)
            future.add_done_callback(lambda future, n=n: ended(n, future))
        for _ in range(IN_FLIGHT):  # all have ended
            room.acquire()

    def run(self) -> None:
        """One after the other."""
        n = 0
        while not self._stop.is_set():
            n += 1
            result = exc = None
            try:
                result = self.pool.run(work, n)
            except WorkerLost as failure:
                exc = failure
            self._take("run", n, result, exc)

    def run_async(self) -> None:
        """Coroutines, from a loop of its own; some are cancelled."""
        async def main() -> None:
            n = 0
            while not self._stop.is_set():
                calls = {}
                for _ in range(IN_FLIGHT // 4):
                    n += 1
                    calls[n] = self.pool.run_async(work_async, n)
                cancelled = random.sample(sorted(calls), 5)
                for key in cancelled:
                    calls.pop(key).cancel()
                outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
                for key, outcome in zip(calls, outcomes, strict=True):
                    failed = isinstance(outcome, BaseException)
                    self._take("run_async", key, None if failed else outcome,
                               outcome if failed else None)

        asyncio.run(main())

    def map(self) -> None:
        """Maps, in order and not."""
        ordered = True
        while not self._stop.is_set():
            seen = 0
            size = 2000
            expected = iter(range(size))
            try:
                for n, square in self.pool.map(work, range(size), ordered=ordered):
                    seen += 1
                    if ordered and n != next(expected):
                        self.tally.faults.append(f"map: {n} is out of order")
                    self._take("map", n, (n, square), None)
                if seen != size:
                    self.tally.faults.append(f"map: {seen} results of {size}")
            except WorkerLost as exc:
                self._take("map", -1, None, exc)
            ordered = not ordered


# --- what is killed


DYING_STARTS = 3  # the pool gives up when more workers than this die in series as they start


def worker_pids(pool: Pool) -> list[int]:
    """Process ids of the workers that there are now, also of those that start."""
    assert pool._home is not None
    return [worker.pid for worker in list(pool._home.supervisor._workers.values()) if worker.pid
            and (worker.ready or worker.host.failures_in_series < DYING_STARTS)]


def nanny_pids(pool: Pool) -> list[int]:
    """Process ids of the nannies on this machine."""
    assert pool._home is not None
    return [host.nanny.pid for host in pool._home.supervisor.hosts
            if host.launcher.is_local and host.nanny is not None]


def killer(pids: Callable[[], list[int]]) -> Callable[[], int]:
    """What kills one of these processes at random, and says how many it killed."""
    def kill() -> int:
        there = pids()
        if there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(there), signal.SIGKILL)
                return 1
        return 0

    return kill


def is_whole(pool: Pool) -> bool:
    """Whether as many workers as were asked for are there, and answer."""
    assert pool._home is not None
    try:
        return len(pool.run_on_all(work, 1)) == pool._home.supervisor.expected_workers
    except WorkerLost:
        return False


@dataclass
class Report:
    """How a storm went."""

    kills: int
    tally: Tally
    back_seconds: float  # from the last kill until all workers are there
    before: float  # tasks done each second before the first kill,
    after: float  # and within a second of the last one

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} by {kind}" for kind, n in sorted(self.tally.by_kind.items()))
        faults = "".join(f"\n  {fault}" for fault in self.tally.faults[:20])
        return (f"{self.kills} kills; {self.tally.done} tasks done and {self.tally.lost} lost "
                f"({kinds}); all workers back after {self.back_seconds:.2f} s; "
                f"{self.before:.0f} tasks/s before, {self.after:.0f} after; "
                f"{len(self.tally.faults)} faults{faults}")


def rate(tally: Tally, seconds: float) -> float:
    """Tasks that are done each second, over the next seconds."""
    begin, before = time.monotonic(), tally.done
    time.sleep(seconds)
    return (tally.done - before) / (time.monotonic() - begin)


def storm(
    pool: Pool, kill: Callable[[], int], seconds: float, interval: float = 0.05,
    calm: float = 0.5, retried: bool = False, progress: Callable[[int, Tally], object] | None = None,
) -> Report:
    """Have a pool work while something is killed, and look whether it recovers.

    Args:
        pool: synchronous, with all its workers.
        kill: kills something; how many it killed.
        seconds: how long.
        interval: seconds between kills.
        calm: seconds over which the rates before and after are measured.
        retried: whether the pool tries lost tasks again: then all have to succeed.
        progress: called every second with the number of kills and what has been done.
    """
    kills = 0
    with Load(pool, retried) as load:
        before = rate(load.tally, calm)
        end = time.monotonic() + seconds
        shown = time.monotonic()
        while time.monotonic() < end and not load.tally.faults:
            kills += kill()
            if progress is not None and time.monotonic() - shown > 1:
                shown = time.monotonic()
                progress(kills, load.tally)
            time.sleep(interval)
        last = time.monotonic()
        while not is_whole(pool) and not load.tally.faults:
            if time.monotonic() - last > DEADLINE:
                load.tally.faults.append(f"{pool.total_workers()} workers, and no more come")
            time.sleep(0.005)
        back = time.monotonic() - last
        after = rate(load.tally, calm)
    return Report(kills, load.tally, back, before, after)
