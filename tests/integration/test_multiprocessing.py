"""Objects of multiprocessing as arguments: proxies of a manager work, others say why they can't."""

import asyncio
import gc
import multiprocessing
import os
from multiprocessing import resource_tracker

import pytest

from . import tasks


def put(queue, x):
    queue.put((os.getpid(), x))
    return queue.qsize()


def count(shared, lock, key):
    with lock:
        shared[key] = shared.get(key, 0) + 1
    return shared[key]


def import_multiprocessing():
    import multiprocessing

    return bytes(multiprocessing.current_process().authkey)


def send(connection):
    connection.send("hello")


@pytest.fixture(scope="module", autouse=True)
def no_tracker_stays():
    """End the process that multiprocessing keeps for what is shared: other tests count children."""
    yield
    gc.collect()  # what is still to be unregistered would start it again
    resource_tracker._resource_tracker._stop()


@pytest.fixture(scope="module")
def manager(no_tracker_stays):
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager


async def awaited(pool, func, *args):
    return await pool.run_async(func, *args)


CALLS = {
    "run": lambda pool, func, *args: pool.run(func, *args),
    "submit": lambda pool, func, *args: pool.submit(func, *args).result(),
    "map": lambda pool, func, *args: next(pool.map(func, [args], star=True)),
    "run_on_all": lambda pool, func, *args: pool.run_on_all(func, *args)[0],
    "run_async": lambda pool, func, *args: asyncio.run(awaited(pool, func, *args)),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


def test_a_queue_of_a_manager(pool, manager, call):
    queue = manager.Queue()
    assert call(pool, put, queue, "x") >= 1
    pid, x = queue.get(timeout=10)
    assert x == "x"
    assert pid != os.getpid()


def test_a_dictionary_and_a_lock_of_a_manager(pool, manager, call):
    shared, lock = manager.dict(), manager.Lock()
    call(pool, count, shared, lock, "key")
    call(pool, count, shared, lock, "key")
    assert shared["key"] >= 2


def test_workers_have_the_callers_key_whenever_they_import_it(pool):
    ours = bytes(multiprocessing.current_process().authkey)
    assert pool.run_on_all(import_multiprocessing) == [ours] * 2


@pytest.mark.parametrize("end", [0, 1])
def test_the_end_of_a_pipe_is_refused(pool, call, end):
    ends = multiprocessing.Pipe()
    try:
        with pytest.raises(TypeError, match="Connection can't be sent to a worker"):
            call(pool, send, ends[end])
    finally:
        for one in ends:
            one.close()
    assert call(pool, tasks.double, 4) == 8


@pytest.mark.parametrize("make", [
    multiprocessing.Lock, multiprocessing.Queue, multiprocessing.Event])
def test_what_is_only_inherited_is_refused(pool, call, make):
    shared = make()
    with pytest.raises((RuntimeError, TypeError), match=r"inheritance|pickle"):
        call(pool, tasks.give_back, shared)
    assert call(pool, tasks.double, 4) == 8
