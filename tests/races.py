"""Races: many threads and several event loops use one pool at once, and shut it down under each
other's hands; then the next pool.

    threads, loops ──submit, run, map, run_async, map_async, cancel, leave──> one pool
    any of them ──shutdown──> all end, by results, cancellations, or a refusal that says so
"""

import asyncio
import concurrent.futures
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import uvloop

from distex import LoopType, Pool
from distex.errors import PoolClosed

DEADLINE = 60.0  # seconds for everybody to come to an end once the pool is shut down
THREADS = 6  # that use the pool synchronously
LOOPS = 3  # with a thread each, beside the pool's own


def square(x: int) -> int:
    return x * x


async def square_async(x: int) -> int:
    await asyncio.sleep(0.001)
    return x * x


def fail(x: int) -> int:
    raise LookupError(x)


class Closed(Exception):
    """The pool refuses: it was shut down."""


class Race:
    """One pool, used by all at once until somebody shuts it down."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ending = False
        self._lock = threading.Lock()

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Turns the refusal of a pool that was shut down into Closed."""
        try:
            yield
        except (PoolClosed, asyncio.CancelledError, concurrent.futures.CancelledError) as exc:
            if not self.ending:
                raise
            raise Closed from exc
        except RuntimeError as exc:
            if self.ending and ("after shutdown" in str(exc) or "loop is closed" in str(exc)):
                raise Closed from exc
            raise

    # --- what a thread may do

    def submit(self, rng: random.Random) -> None:
        futures = {n: self.pool.submit(square, n) for n in range(rng.randrange(1, 50))}
        for n, future in futures.items():
            if rng.random() < 0.2:
                future.cancel()
            try:
                assert future.result(DEADLINE) == n * n
            except concurrent.futures.CancelledError:
                assert future.cancelled()

    def fail(self, rng: random.Random) -> None:
        future = self.pool.submit(fail, 1)
        error = future.exception(DEADLINE)
        assert isinstance(error, (LookupError, PoolClosed)), repr(error)

    def run(self, rng: random.Random) -> None:
        for n in range(10):
            assert self.pool.run(square, n) == n * n

    def wait(self, rng: random.Random) -> None:
        futures = [self.pool.submit(square_async, n) for n in range(5)]
        _, pending = concurrent.futures.wait(futures, DEADLINE)
        assert not pending

    def map(self, rng: random.Random) -> None:
        size = rng.randrange(1, 500)
        ordered = rng.random() < 0.5
        results = self.pool.map(square, range(size), ordered=ordered)
        if rng.random() < 0.3:  # leave early
            next(results)
            results.close()  # type: ignore[attr-defined]
            return
        found = list(results)
        assert (found if ordered else sorted(found)) == [n * n for n in range(size)]

    def all(self, rng: random.Random) -> None:
        assert set(self.pool.run_on_all(square, 3)) == {9}

    # --- what a loop may do

    async def gather(self, rng: random.Random) -> None:
        calls = [self.pool.run_async(square_async, n) for n in range(20)]
        assert await asyncio.gather(*calls) == [n * n for n in range(20)]

    async def cancel(self, rng: random.Random) -> None:
        calls = [self.pool.run_async(square, n) for n in range(20)]
        for call in calls[::3]:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if not isinstance(outcome, BaseException):
                assert outcome == n * n
            elif not isinstance(outcome, asyncio.CancelledError) or n % 3:
                raise outcome

    async def time_out(self, rng: random.Random) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.random() * 0.003):
                await self.pool.run_async(square_async, 1)

    async def map_async(self, rng: random.Random) -> None:
        results = self.pool.map_async(square, range(200), ordered=False)
        found = []
        async for result in results:
            found.append(result)
            if rng.random() < 0.002:
                await results.aclose()  # type: ignore[attr-defined]
                return
        assert sorted(found) == [n * n for n in range(200)]

    async def wrap(self, rng: random.Random) -> None:
        assert await asyncio.wrap_future(self.pool.submit(square, 4)) == 16

    # --- the race itself

    def thread(self, seed: int) -> None:
        """One of the threads."""
        rng = random.Random(seed)
        steps: list[Callable[[random.Random], None]] = [
            self.submit, self.fail, self.run, self.wait, self.map, self.all]
        with self._guard("thread"):
            while True:
                step = rng.choice(steps)
                with self.refused():
                    step(rng)
                self._count(step.__name__)

    def loop(self, seed: int, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """One of the loops, with several tasks that use the pool."""
        async def user(rng: random.Random) -> None:
            steps = [self.gather, self.cancel, self.time_out, self.map_async, self.wrap]
            with self._guard("loop"):
                while True:
                    step = rng.choice(steps)
                    with self.refused():
                        await step(rng)
                    self._count(step.__name__)

        async def main() -> None:
            await asyncio.gather(*[user(random.Random(seed + i)) for i in range(3)])

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    @contextlib.contextmanager
    def _guard(self, who: str) -> Iterator[None]:
        try:
            yield
        except Closed:
            return
        except BaseException as exc:
            cause = exc.__cause__ or exc.__context__
            self.faults.append(f"{who}: {exc!r} from {cause!r}")

    def run_for(self, seconds: float) -> None:
        """Use the pool for so long, shut it down from several threads at once, and wait for all."""
        factories = [uvloop.new_event_loop, asyncio.SelectorEventLoop]
        threads = [threading.Thread(target=self.thread, args=(random.randrange(2**32),), name=f"t{i}")
                   for i in range(THREADS)]
        threads += [threading.Thread(
            target=self.loop, args=(random.randrange(2**32), factories[i % 2]), name=f"l{i}")
            for i in range(LOOPS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.ending = True
        enders = [threading.Thread(target=self.pool.shutdown, kwargs={
            "wait": random.random() < 0.7, "cancel_futures": random.random() < 0.5}, name=f"e{i}")
            for i in range(2)]
        for thread in enders:
            thread.start()
        self.pool.shutdown()
        deadline = time.monotonic() + DEADLINE
        for thread in threads + enders:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.faults.append(f"thread {thread.name} hangs")


def race(worker_loop: LoopType, seconds: float, pools: float = 0.25) -> str:
    """Races with one pool after the other, for so many seconds each; what was done.

    Raises:
        AssertionError: what went wrong.
    """
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    made = 0
    while time.monotonic() < end:
        made += 1
        running = Race(Pool(2, worker_loop=worker_loop, lazy_create=random.random() < 0.3))
        running.run_for(random.random() * 2 * pools)
        counts += running.counts
        assert not running.faults, running.faults
    return f"{made} pools; {dict(counts)}"


if __name__ == "__main__":
    import sys

    print(race(LoopType[sys.argv[1]], float(sys.argv[2])))
