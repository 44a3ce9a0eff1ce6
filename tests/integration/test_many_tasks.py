"""Scale: a million tasks at once (fewer in a plain run), and input without an end in flat memory.

``DISTEX_SOAK_SECONDS`` sets how long the endless maps run; 1 if it is not set.
"""

import asyncio
import os
import time
from collections import deque

import psutil
import pytest
from effort import so_much

from . import tasks

MANY = so_much(plain=200_000, thorough=1_000_000)
SOAK_SECONDS = float(os.environ.get("DISTEX_SOAK_SECONDS", "1"))
GROWTH_LIMIT_BYTES = 5 * 2**20


def test_very_many_tasks_submitted_at_once_complete(make_pool):
    with make_pool(2) as pool:
        futures = [pool.submit(tasks.double, x) for x in range(MANY)]
        for x, future in enumerate(futures):
            assert future.result() == 2 * x


async def test_very_many_asynchronous_calls_complete(make_pool):
    async with make_pool(2) as pool:
        for start in range(0, MANY, 100_000):
            calls = [pool.run_async(tasks.double, x) for x in range(start, start + 100_000)]
            assert [await call for call in calls] == list(range(2 * start, 2 * start + 200_000, 2))


def numbers():
    n = 0
    while True:
        yield n
        n += 1


async def numbers_async():
    for n in numbers():
        if n % 1000 == 0:
            await asyncio.sleep(0)
        yield n


class Growth:
    """How much the memory of this process grows after it has warmed up. It may have to be looked at
    anew: on a busy machine it takes a while until as much is on the way as there can be."""

    TRIES = 5

    def __init__(self):
        self._process = psutil.Process()
        self._tries = 0
        self._begin()

    def _begin(self):
        self._began = time.monotonic()
        self._base = 0
        self._readings = deque(maxlen=5)
        self._tries += 1

    def go_on(self):
        """Take a reading; False once time is up."""
        elapsed = time.monotonic() - self._began
        if elapsed > SOAK_SECONDS / 3:
            self._readings.append(self._process.memory_info().rss)
            if not self._base:
                self._base = self._readings[0]
        if elapsed < SOAK_SECONDS:
            return True
        if self.bytes < GROWTH_LIMIT_BYTES or self._tries == self.TRIES:
            return False
        self._begin()
        return True

    @property
    def bytes(self):
        return min(self._readings) - self._base


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_map_keeps_memory_flat(make_pool, ordered):
    growth = Growth()
    with make_pool(2) as pool:
        total = 0
        for n, _ in enumerate(pool.map(tasks.double, numbers(), ordered=ordered)):
            total = n
            if n % 5000 == 0 and not growth.go_on():
                break
    assert total > 10_000
    assert growth.bytes < GROWTH_LIMIT_BYTES


async def test_an_endless_map_over_an_async_generator_keeps_memory_flat(make_pool):
    growth = Growth()
    async with make_pool(2) as pool:
        n = 0
        results = pool.map_async(tasks.double, numbers_async())
        async for _ in results:
            n += 1
            if n % 5000 == 0 and not growth.go_on():
                break
        await results.aclose()
    assert growth.bytes < GROWTH_LIMIT_BYTES


def test_a_slow_consumer_does_not_let_results_pile_up(make_pool):
    taken = 0

    def items():
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1000

    with make_pool(2) as pool:
        results = pool.map(tasks.length, items())
        for _ in range(1000):
            next(results)
        ahead = taken - 1000
        results.close()
    assert ahead < 100_000


def test_tasks_one_after_the_other_keep_memory_flat(make_pool):
    growth = Growth()
    with make_pool(1) as pool:
        while growth.go_on():
            for x in range(200):
                pool.submit(tasks.length, [x] * 100).result()
    assert growth.bytes < GROWTH_LIMIT_BYTES
