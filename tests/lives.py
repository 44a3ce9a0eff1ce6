"""Short lives: pools with random options, under load, are ended at random moments in every way.

    life ──submit, run, map, run_async, map_async, kill a worker, scale──> pool
         ──shutdown, kill, leave, let go, close the loop──────────────────> all that was asked for
                                                                            comes to an end

Where races.py has one pool that many use at once, here one has many pools, one after the other.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvloop

from distex import LoopType, Pool, PoolClosed, WorkerLost

DEADLINE = 60.0  # seconds in which all has to come to an end once the pool was ended
LARGE_BYTES = 3_000_000  # goes by shared memory


# --- what the workers do; each gives its argument back


def quick(value: Any) -> Any:
    return value


def slow(value: Any) -> Any:
    time.sleep(0.02)
    return value


async def coroutine(value: Any) -> Any:
    await asyncio.sleep(0.01)
    return value


def die(value: Any) -> Any:
    os._exit(3)


FUNCTIONS = [quick, quick, slow, coroutine]


def options(rng: random.Random, worker_loop: LoopType) -> dict[str, Any]:
    """Those of a pool, drawn at random."""
    return {
        "num_workers": rng.randrange(1, 4),
        "qsize": rng.choice([1, 2, 50]),
        "worker_loop": worker_loop,
        "lazy_create": rng.random() < 0.2,
        "retries": rng.choice([0, 0, 2]),
        "max_tasks_per_child": rng.choice([None, None, None, 7, 500]),
        "spin": rng.choice([0, 0, 0.001]),
    }


def map_sizes(options: dict[str, Any]) -> list[int]:
    """Numbers of items that a map in a pool with these options does not need minutes for."""
    limit = options["max_tasks_per_child"]
    return [3, 100] if limit is not None and limit < 100 else [3, 500, 20_000]


def check(expected: Any, outcome: Any) -> str:
    """The kind of outcome of a task, which gives its argument back, or fails as it may.

    Raises:
        AssertionError: it must not end like this.
    """
    if isinstance(outcome, (asyncio.CancelledError, concurrent.futures.CancelledError)):
        return "cancelled"
    if isinstance(outcome, (WorkerLost, PoolClosed)):
        return type(outcome).__name__
    if isinstance(outcome, RuntimeError) and "after shutdown" in str(outcome):
        return "refused"
    assert not isinstance(outcome, BaseException) and outcome == expected, repr(outcome)
    return "done"


def kill_a_worker(pool: Pool, rng: random.Random) -> None:
    """One that has come up, if there is one."""
    pids = [worker.pid for worker in pool.workers() if worker.pid and worker.state != "starting"]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)


class Life:
    """One pool that is used by a thread."""

    def __init__(self, rng: random.Random, worker_loop: LoopType) -> None:
        self.rng = rng
        chosen = options(rng, worker_loop)
        self.map_sizes = map_sizes(chosen)
        self.pool: Pool | None = Pool(**chosen)
        self.futures: list[tuple[Any, concurrent.futures.Future[Any]]] = []
        self.maps: list[tuple[int, Iterator[Any]]] = []
        self.counts: Counter[str] = Counter()

    def _note(self, expected: Any, call: Callable[[], Any]) -> None:
        try:
            outcome = call()
        except (RuntimeError, concurrent.futures.CancelledError) as exc:
            outcome = exc
        self.counts[check(expected, outcome)] += 1

    # --- what may be done

    def submit(self, pool: Pool) -> None:
        function = self.rng.choice(FUNCTIONS)
        for n in range(self.rng.choice([1, 5, 300])):
            future = pool.submit(function, n)
            self.futures.append((n, future))
            if self.rng.random() < 0.1:
                future.cancel()

    def submit_large(self, pool: Pool) -> None:
        value = bytes(LARGE_BYTES)
        self.futures.append((value, pool.submit(quick, value)))

    def submit_death(self, pool: Pool) -> None:
        self.futures.append((die, pool.submit(die, 1)))

    def run(self, pool: Pool) -> None:
        self._note(7, lambda: pool.run(quick, 7))

    def map(self, pool: Pool) -> None:
        size = self.rng.choice(self.map_sizes)
        function = self.rng.choice(FUNCTIONS) if size < 1000 else quick
        results = pool.map(function, range(size))
        taken = 0
        for _ in range(self.rng.randrange(3)):
            with contextlib.suppress(WorkerLost):
                assert next(results) == taken
            taken += 1
        if self.rng.random() < 0.3:
            results.close()  # type: ignore[attr-defined]
        elif taken == 0:
            self.maps.append((size, results))

    def run_on_all(self, pool: Pool) -> None:
        with contextlib.suppress(WorkerLost):
            assert set(pool.run_on_all(quick, 3)) <= {3}

    def kill_a_worker(self, pool: Pool) -> None:
        kill_a_worker(pool, self.rng)

    def scale(self, pool: Pool) -> None:
        pool.scale(self.rng.randrange(1, 4))

    def wait(self, pool: Pool) -> None:
        time.sleep(self.rng.random() * 0.03)

    # --- how it may end

    def shutdown(self, pool: Pool) -> None:
        pool.shutdown(
            wait=self.rng.random() < 0.7, cancel_futures=self.rng.random() < 0.5)

    def kill(self, pool: Pool) -> None:
        pool.kill()

    def leave(self, pool: Pool) -> None:
        with pool:
            pass

    def shutdown_twice(self, pool: Pool) -> None:
        other = threading.Thread(target=pool.shutdown)
        other.start()
        pool.shutdown(cancel_futures=True)
        other.join(DEADLINE)
        assert not other.is_alive(), "a shutdown hangs"

    def drop_joined(self, pool: Pool) -> None:
        """It ends by itself, once what it was asked for is done."""
        self.maps.clear()

    def live(self) -> Counter[str]:
        """From its first task to its end.

        Raises:
            AssertionError: something went wrong, or hangs.
        """
        steps = [self.submit, self.submit, self.submit_large, self.submit_death, self.run, self.map,
                 self.map, self.run_on_all, self.kill_a_worker, self.scale, self.wait]
        ends = [self.shutdown, self.shutdown, self.shutdown, self.kill, self.leave,
                self.shutdown_twice, self.drop_joined]
        pool = self.pool
        assert pool is not None
        for _ in range(self.rng.randrange(1, 12)):
            self.rng.choice(steps)(pool)
        end = self.rng.choice(ends)
        end(pool)
        self.counts[end.__name__] += 1
        for size, results in self.maps:
            self._note(list(range(size)), lambda results=results: list(results))
        del pool
        self.pool = None
        gc.collect()
        _, hanging = concurrent.futures.wait([future for _, future in self.futures], DEADLINE)
        assert not hanging, f"after {end.__name__}: {len(hanging)} futures hang: {hanging}"
        for expected, future in self.futures:
            self._note(expected, future.result)
        return self.counts


class AsyncLife:
    """One pool that is used by the tasks of one event loop."""

    def __init__(self, rng: random.Random, worker_loop: LoopType) -> None:
        self.rng = rng
        self.options = options(rng, worker_loop)
        self.map_sizes = map_sizes(self.options)
        self.counts: Counter[str] = Counter()
        self.tasks: list[asyncio.Task[Any]] = []

    async def _note(self, expected: Any, awaitable: Awaitable[Any]) -> None:
        try:
            outcome = await awaitable
        except (RuntimeError, asyncio.CancelledError) as exc:
            outcome = exc
        self.counts[check(expected, outcome)] += 1

    def _start(self, expected: Any, awaitable: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(self._note(expected, awaitable))
        self.tasks.append(task)
        if self.rng.random() < 0.1:
            asyncio.get_running_loop().call_soon(task.cancel)

    # --- what may be done

    async def run_async(self, pool: Pool) -> None:
        function = self.rng.choice(FUNCTIONS)
        for n in range(self.rng.choice([1, 5, 300])):
            self._start(n, pool.run_async(function, n))

    async def run_large(self, pool: Pool) -> None:
        value = bytes(LARGE_BYTES)
        self._start(value, pool.run_async(quick, value))

    async def run_death(self, pool: Pool) -> None:
        self._start(die, pool.run_async(die, 1))

    async def await_one(self, pool: Pool) -> None:
        await self._note(1, pool.run_async(quick, 1))

    async def map_async(self, pool: Pool) -> None:
        size = self.rng.choice(self.map_sizes)
        function = self.rng.choice(FUNCTIONS) if size < 1000 else quick

        async def consume() -> list[Any]:
            return [result async for result in pool.map_async(function, range(size))]

        self._start(list(range(size)), consume())

    async def run_on_all(self, pool: Pool) -> None:
        async def consume() -> set[Any]:
            return set(await pool.run_on_all_async(quick, 3)) or {3}

        self._start({3}, consume())

    async def kill_a_worker(self, pool: Pool) -> None:
        kill_a_worker(pool, self.rng)

    async def scale(self, pool: Pool) -> None:
        await pool.scale_async(self.rng.randrange(1, 4))

    async def wait(self, pool: Pool) -> None:
        await asyncio.sleep(self.rng.random() * 0.03)

    # --- how it may end

    async def shutdown(self, pool: Pool) -> None:
        await pool.shutdown_async(
            wait=self.rng.random() < 0.7, cancel_futures=self.rng.random() < 0.5)

    async def kill(self, pool: Pool) -> None:
        await pool.kill_async()

    async def leave(self, pool: Pool) -> None:
        async with pool:
            pass

    async def close_the_loop(self, pool: Pool) -> None:
        """It ends with it: asyncio.Runner cancels all tasks first."""

    async def live(self) -> None:
        """From its first task to its end, or that of the loop."""
        steps = [self.run_async, self.run_async, self.run_large, self.run_death, self.await_one,
                 self.map_async, self.map_async, self.run_on_all, self.kill_a_worker, self.scale,
                 self.wait]
        ends = [self.shutdown, self.shutdown, self.kill, self.leave, self.close_the_loop]
        pool = Pool(**self.options)
        for _ in range(self.rng.randrange(1, 12)):
            await self.rng.choice(steps)(pool)
        end = self.rng.choice(ends)
        await end(pool)
        self.counts[end.__name__] += 1
        if end == self.close_the_loop or not self.tasks:
            return
        done, hanging = await asyncio.wait(self.tasks, timeout=DEADLINE)
        assert not hanging, f"after {end.__name__}: {len(hanging)} tasks hang: {hanging}"
        for task in done:
            if not task.cancelled():
                task.result()


def lives(worker_loop: LoopType, seconds: float, seed: int | None = None) -> Counter[str]:
    """Lives of pools, one after the other, for so many seconds; how their tasks and they ended.

    Raises:
        AssertionError: what went wrong, and the seed with which it does so again, if it does.
    """
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        drawn = random.randrange(2**32) if seed is None else seed
        rng = random.Random(drawn)
        try:
            if rng.random() < 0.5:
                counts += Life(rng, worker_loop).live()
            else:
                life = AsyncLife(rng, worker_loop)
                factory = rng.choice([uvloop.new_event_loop, asyncio.SelectorEventLoop])
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(life.live())
                counts += life.counts
        except (Exception, asyncio.CancelledError) as exc:
            raise AssertionError(f"seed {drawn}: {exc!r}") from exc
    return counts


if __name__ == "__main__":
    print(lives(LoopType[sys.argv[1]], float(sys.argv[2]), *map(int, sys.argv[3:])))
