"""Large data, which go through shared memory: they arrive whole, and nothing hangs when a side dies.
"""

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
from effort import so_much
from machine import mapped_rings

from distex import Pool, WorkerLost
from distex._core.buffer_pool import Block
from distex.machine import resident_bytes

from .support import open_lanes, wait_until

KB, MB = 1 << 10, 1 << 20
SIZES = [60 * KB, 64 * KB, 200 * KB, 256 * KB, MB, 3 * MB, 4 * MB, 9 * MB, 40 * MB]
SENT = so_much(plain=24, thorough=60) * MB  # while somebody goes
SENDING = SENT / (3000 * MB)  # seconds that it takes or so


def filled(size, value):
    return np.full(size, value, np.uint8)


def identity(value):
    return value


def add_one(array):
    array += 1
    return array


@pytest.mark.parametrize("size", SIZES)
def test_sizes(pool, size):
    array = np.random.default_rng(size).integers(0, 255, size, np.uint8)
    for call in (pool.run, lambda f, x: pool.submit(f, x).result()):
        for _ in range(3):
            back = call(add_one, array)
            assert (back == array + 1).all()
            assert back.flags.writeable


async def test_both_ways_at_once(make_pool):
    arrays = [filled(size, k) for k, size in enumerate(SIZES * so_much(plain=1, thorough=3))]
    async with make_pool(2, qsize=4) as pool:
        pool.run_async(identity, arrays[-1])  # nobody waits for it
        results = await asyncio.gather(*(pool.run_async(add_one, array) for array in arrays))
        for k, (array, result) in enumerate(zip(arrays, results, strict=True)):
            assert len(result) == len(array) and (result == k + 1).all() and (array == k).all()


async def test_a_map_of_them(make_pool):
    number = so_much(plain=15, thorough=30)
    async with make_pool(2) as pool:
        k = 0
        async for result in pool.map_async(add_one, (filled(5 * MB, k) for k in range(number))):
            assert (result == k + 1).all()
            k += 1
        assert k == number


def test_others_come_meanwhile(make_pool):
    """Small tasks of another thread, by another worker."""
    with make_pool(2) as pool:
        done = threading.Event()

        def large():
            for k in range(so_much(plain=10, thorough=20)):
                assert (pool.run(add_one, filled(20 * MB, k)) == k + 1).all()
            done.set()

        thread = threading.Thread(target=large)
        thread.start()
        while not done.is_set():
            assert pool.run(identity, 5) == 5
        thread.join()


# --- what has arrived is the receiver's alone


def test_results_are_kept_apart(pool):
    kept = []
    for k in range(12):
        kept.append(pool.run(identity, filled(8 * MB, k)))
        kept[-1][0] = 100 + k
    for k, array in enumerate(kept):
        assert array[0] == 100 + k and (array[1:] == k).all()


KEPT = []


def keep(array):
    KEPT.append(array)
    return [(int(one.min()), int(one.max())) for one in KEPT]


def test_what_a_worker_keeps_stays_as_it_is(make_pool):
    with make_pool(1) as pool:
        for k in range(12):
            seen = pool.run(keep, filled(8 * MB, k))
        assert seen == [(k, k) for k in range(12)]


def test_memory_that_is_kept_for_next_time_is_not_counted():
    blocks = [Block(64 * MB) for _ in range(3)]
    for block in blocks:
        np.frombuffer(block, np.uint8)[:] = 1
    used = resident_bytes(os.getpid())
    del block, blocks
    assert used - resident_bytes(os.getpid()) > 180 * MB


# --- somebody goes


def die_while_it_is_sent(size, seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return filled(size, 1)


@pytest.mark.parametrize("way", ["run", "submit"])
def test_the_worker_is_killed(make_pool, way):
    outcomes = set()
    with make_pool(1) as pool:
        for part in so_much(plain=(0, 0.75, 1.5), thorough=(0, 0.25, 0.5, 0.75, 1, 1.5)):
            with contextlib.suppress(WorkerLost):
                if way == "run":
                    result = pool.run(die_while_it_is_sent, SENT, part * SENDING)
                else:
                    result = pool.submit(die_while_it_is_sent, SENT, part * SENDING).result()
                assert len(result) == SENT and (result == 1).all()
                outcomes.add("whole")
                continue
            outcomes.add("lost")
            assert (pool.run(identity, filled(5 * MB, 2)) == 2).all()
    assert "lost" in outcomes


@pytest.mark.skipif(sys.platform != "linux", reason="there is no shared memory elsewhere")
def test_the_shared_memory_goes_with_the_worker(make_pool):
    """At once, not when the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        with make_pool(1) as pool:
            open_lanes(pool)
            before = mapped_rings()
            for way in (pool.run, lambda f, x: pool.submit(f, x).result()):
                for _ in range(3):
                    way(add_one, filled(MB, 0))
            assert mapped_rings() == before + 4
            with pytest.raises(WorkerLost):
                pool.run(os.kill, pool.workers()[0].pid, signal.SIGKILL)
            wait_until(lambda: mapped_rings() == before, "their end", mapped_rings)
    finally:
        gc.enable()


def test_it_is_killed_while_it_is_sent_something(make_pool):
    with make_pool(1) as pool:
        pool.run(identity, filled(MB, 0))
        for _ in range(so_much(plain=3, thorough=5)):
            pid = pool.run(os.getpid)
            future = pool.submit(identity, filled(SENT, 3))
            time.sleep(random.uniform(0, SENDING / 2))
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(WorkerLost):
                assert (future.result() == 3).all()
            assert (pool.run(identity, filled(5 * MB, 2)) == 2).all()


async def test_who_waits_is_cancelled(make_pool):
    async with make_pool(1) as pool:
        await pool.run_async(identity, filled(MB, 0))
        for _ in range(5):
            call = pool.run_async(add_one, filled(SENT, 3))
            await asyncio.sleep(random.uniform(0, 1.5 * SENDING))
            call.cancel()
            assert (await pool.run_async(identity, filled(5 * MB, 2)) == 2).all()


@pytest.mark.parametrize("end", [Pool.kill, Pool.shutdown])
def test_the_pool_ends(make_pool, end):
    for _ in range(so_much(plain=2, thorough=3)):
        with make_pool(2) as pool:
            futures = [pool.submit(add_one, filled(SENT // 2, k)) for k in range(6)]
            time.sleep(random.uniform(0, SENDING))
            end(pool)
        for k, future in enumerate(futures):
            if future.exception() is None:
                assert (future.result() == k + 1).all()
            else:
                assert end is Pool.kill
