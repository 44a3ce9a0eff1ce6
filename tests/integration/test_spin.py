"""Busy polling, Pool(spin=...): all is as without it but for the latency and the CPU it costs."""

import asyncio
import time

import pytest

from distex import WorkerLost

from . import tasks
from .support import wait_until

SPIN = 0.05  # seconds


def cpu_seconds(pid):
    """CPU time that a process has used, by its clock as clock_getcpuclockid(3) names it."""
    return time.clock_gettime(~pid << 3 | 2)


async def test_calls_one_by_one_and_together(make_pool):
    async with make_pool(2, spin=SPIN) as pool:
        for x in range(300):
            assert await pool.run_async(tasks.double, x) == 2 * x
        calls = [pool.run_async(tasks.double, x) for x in range(1000)]
        assert await asyncio.gather(*calls) == list(range(0, 2000, 2))
        assert await pool.run_async(tasks.double_async, 4) == 8
        data = bytes(range(256)) * 10_000
        assert (await pool.run_async(tasks.give_back, data))[0] == (data,)
        values = [value async for value in pool.map_async(tasks.double, range(1000))]
        assert values == list(range(0, 2000, 2))


async def test_the_callers_loop_goes_on(make_pool):
    async with make_pool(1, spin=10) as pool:
        call = pool.run_async(asyncio.sleep, 3600)
        for _ in range(100):
            await asyncio.sleep(0.0001)
        assert not call.done()
        call.cancel()


def test_synchronous_calls(make_pool):
    with make_pool(2, spin=SPIN) as pool:
        for x in range(100):
            assert pool.run(tasks.double, x) == 2 * x
        futures = [pool.submit(tasks.double, x) for x in range(1000)]
        assert [future.result() for future in futures] == list(range(0, 2000, 2))
        assert list(pool.map(tasks.double, range(1000))) == list(range(0, 2000, 2))


async def test_a_worker_that_dies_while_it_is_polled(make_pool):
    async with make_pool(1, spin=SPIN) as pool:
        assert await pool.run_async(tasks.double, 1) == 2
        with pytest.raises(WorkerLost):
            await pool.run_async(tasks.kill_worker)
        assert await pool.run_async(tasks.double, 2) == 4


def test_a_pool_with_nothing_to_do_sleeps(make_pool):
    with make_pool(1, spin=SPIN) as pool:
        worker = pool.run(tasks.pid)

        def sleeps():
            begin, own, its = time.monotonic(), time.process_time(), cpu_seconds(worker)
            time.sleep(2 * SPIN)
            limit = 0.2 * (time.monotonic() - begin)
            return time.process_time() - own < limit and cpu_seconds(worker) - its < limit

        wait_until(sleeps, what="the end of polling")
