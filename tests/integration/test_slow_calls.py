"""Tasks behind a slow one of the same function are done by other workers meanwhile."""

import functools
import threading

import pytest

from . import tasks
from .support import open_lanes, wait_until, wait_until_async


def learn(pool, func):
    """Have the pool know that calls are short."""
    assert list(pool.map(func, range(1000, 1500))) == list(range(1000, 1500))
    for item in range(20):
        pool.submit(func, 2000 + item).result()


@pytest.mark.parametrize(("workers", "slow"), [(2, 0), (2, 100), (3, 0)])
def test_short_calls_do_not_wait_behind_a_slow_one(make_pool, gate, workers, slow):
    func = functools.partial(tasks.pass_gate_at, folder=gate.path, slow=slow)
    with make_pool(workers) as pool:
        learn(pool, func)
        futures = [pool.submit(func, item) for item in range(500)]
        wait_until(lambda: all(future.done() for future in futures[slow + 1:]), "those behind it",
                   details=lambda: sum(future.done() for future in futures))
        assert not futures[slow].done()
        gate.open()
        assert [future.result() for future in futures] == list(range(500))
        assert gate.arrived() == 1
        assert pool.statistics().tasks_lost == pool.statistics().tasks_retried == 0


@pytest.mark.parametrize("chunksize", [None, 250])
def test_items_of_a_map_do_not_wait_behind_a_slow_one(make_pool, gate, chunksize):
    func = functools.partial(tasks.pass_gate_at, folder=gate.path, slow=0)
    with make_pool(2) as pool:
        learn(pool, func)
        results = pool.map(func, range(500), ordered=False, chunksize=chunksize)
        others = [next(results) for _ in range(499)]
        assert sorted(others) == list(range(1, 500))
        gate.open()
        assert list(results) == [0]
        assert gate.arrived() == 1


async def test_tasks_that_nobody_knows_do_not_wait_behind_a_slow_one(make_pool, gate):
    async with make_pool(2, qsize=20) as pool:
        slow = pool.run_async(tasks.pass_gate, gate.path, "slow")
        await gate.wait_for_async(1)
        others = [pool.run_async(tasks.double, item) for item in range(100)]
        await wait_until_async(lambda: all(call.done() for call in others), "the others")
        gate.open()
        assert await slow == "slow"
        assert [call.result() for call in others] == [2 * item for item in range(100)]


def test_a_worker_that_hung_in_a_call_by_its_lane_gets_others_again(make_pool, gate):
    with make_pool(1) as pool:
        open_lanes(pool)
        caller = threading.Thread(target=pool.run, args=(tasks.pass_gate, gate.path))
        caller.start()
        wait_until(lambda: gate.arrived() == 1, "the call to run")

        async def take_it_to_hang():
            (link,) = pool._home.supervisor.links()
            link.on_withdrawn(0, 0, -1)

        pool._home.submit(take_it_to_hang()).result(20)
        gate.open()
        caller.join(20)
        assert pool.submit(abs, -1).result(20) == 1
