"""A pool that fails to start leaves no object behind, in whichever way it fails."""

import asyncio
import concurrent.futures
import gc
import os
import threading
import time

import pytest

from distex import Pool, PoolClosed, PoolStartError
from distex.client.home import Home
from distex.client.loop_thread import LoopThread
from distex.client.running_pool import RunningPool
from distex.cluster.listener import Listener
from distex.cluster.state import HostRecord, WorkerRecord
from distex.cluster.supervisor import Supervisor

from . import tasks
from .conftest import LOOP_FACTORIES
from .support import wait_until

KINDS = (Pool, Home, RunningPool, LoopThread, Supervisor, Listener, HostRecord, WorkerRecord)


def objects():
    """All that belong to pools of these tests."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, KINDS)]


@pytest.fixture(scope="module", autouse=True)
def others_are_left_alone():
    """What other tests and pytest have is not looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def leaves_no_object(leaves_nothing_behind):
    yield
    wait_until(lambda: not objects(), "all objects of pools to be freed",
               lambda: [type(found).__name__ for found in objects()])


def refuse(*args, **kwargs):
    raise OSError("no more processes")


# how a pool can fail to start: arguments of Pool
WAYS = {
    "initializer raises": {"initializer": tasks.fail},
    "initializer ends the worker": {"initializer": os._exit, "initargs": (3,)},
    "initializer can't be pickled": {"initializer": threading.Lock().acquire},
    "initializer takes too long": {"initializer": time.sleep, "initargs": (100,), "start_timeout": 0.05},
    "no such host": {"hosts": "ssh://127.0.0.1:1/2"},
    "no such server": {"hosts": "127.0.0.1:1/2"},
    "no address to listen at": {"localhost": "203.0.113.1"},
}


@pytest.fixture(params=[*WAYS, "no nanny"])
def failing_pool(make_pool, request, monkeypatch):
    """Makes a pool that fails to start in one of the ways."""
    if request.param == "no nanny":
        monkeypatch.setattr("distex.launch.local.start_nanny", refuse)
    arguments = WAYS.get(request.param, {})

    def make(**kwargs):
        return make_pool(0 if "hosts" in arguments else 1, **arguments, **kwargs)

    return make


def test_in_synchronous_code(failing_pool):
    with pytest.raises(PoolStartError):
        failing_pool()
    pool = failing_pool(lazy_create=True)
    with pytest.raises(PoolStartError):
        pool.submit(tasks.double, 1).result()
    with pytest.raises(PoolStartError):
        pool.run(tasks.double, 1)


async def test_in_asynchronous_code(failing_pool):
    with pytest.raises(PoolStartError):
        async with failing_pool():
            pass
    with pytest.raises(PoolStartError):
        await failing_pool()


def test_several_threads_wait_for_it(make_pool):
    pool = make_pool(1, initializer=tasks.fail, lazy_create=True)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.ready.wait) for _ in range(3)]
        # those that come late find a pool that has been shut down
        assert {type(future.exception()) for future in waiting} <= {PoolStartError, RuntimeError}


async def test_a_task_and_a_map_wait_for_it(make_pool):
    pool = make_pool(1, initializer=tasks.fail)
    task = pool.run_async(tasks.double, 1)
    with pytest.raises(PoolStartError):
        async for _ in pool.map_async(tasks.double, range(10)):
            pass
    with pytest.raises(PoolStartError):
        await task


def test_it_is_ended_while_it_starts(make_pool, gate):
    pool = make_pool(1, initializer=tasks.pass_gate, initargs=(gate.path,), lazy_create=True)
    task = pool.submit(tasks.double, 1)
    gate.wait_for()
    pool.kill()
    with pytest.raises(PoolClosed):
        task.result()


async def test_it_is_cancelled_while_it_starts(make_pool, gate):
    pool = make_pool(1, initializer=tasks.pass_gate, initargs=(gate.path,))
    entering = asyncio.ensure_future(pool.__aenter__())
    await gate.wait_for_async()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


def test_its_loop_ends_while_it_starts(make_pool, gate, loop_type):
    async def main():
        pool = make_pool(1, initializer=tasks.pass_gate, initargs=(gate.path,))
        starting = asyncio.ensure_future(pool.create())
        await gate.wait_for_async()
        return starting.done()

    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_type]) as runner:
        assert runner.run(main()) is False
