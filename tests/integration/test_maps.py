"""Every way in which a map can end: it ends at once, leaves nothing behind, and ends with the pool."""

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import threading
import time
import weakref

import pytest

from distex import PoolClosed

from . import tasks
from .support import Script, wait_until, wait_until_async

# --- what the input raises that ends a program comes at once


def ending(error, after):
    """An input that raises after some items."""
    yield from range(after)
    raise error


async def ending_async(error, after):
    for item in range(after):
        yield item
    raise error


URGENT = pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])


@URGENT
@pytest.mark.parametrize("after", [0, 1, 3])
def test_the_end_of_the_program_does_not_wait_for_what_is_on_its_way(pool, gate, error, after):
    with pytest.raises(error):
        list(pool.map(tasks.pass_gate, [gate.path] * 99, ending(error, after)))
    gate.open()


@URGENT
@pytest.mark.parametrize("after", [0, 3])
async def test_so_it_is_where_results_are_awaited(loop_type, make_pool, gate, error, after):
    async with make_pool(2) as pool:
        for source in (ending, ending_async):
            results = pool.map_async(tasks.pass_gate, itertools.repeat(gate.path), source(error, after))
            with pytest.raises(error):
                await anext(results)
        gate.open()


# --- the end of the pool ends it


def test_shutdown_ends_an_endless_map_of_another_thread(make_pool):
    pool = make_pool(2)
    begun, ended = threading.Event(), []

    def consume():
        try:
            for _ in pool.map(abs, itertools.count()):
                begun.set()
        except PoolClosed as exc:
            ended.append(str(exc))

    thread = threading.Thread(target=consume)
    thread.start()
    begun.wait(20)
    pool.shutdown()
    thread.join(20)
    assert len(ended) == 1 and "map of builtins.abs" in ended[0]


@pytest.mark.parametrize("pause", [False, True])
async def test_shutdown_ends_an_endless_map_that_is_awaited(loop_type, make_pool, pause):
    got = []
    closed = []

    async def endless():
        try:
            for number in itertools.count():
                yield number
                if pause and number == 3:
                    await asyncio.get_running_loop().create_future()  # nothing more comes
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def consume(pool):
        with pytest.raises(PoolClosed, match="had all its input"):
            async for result in pool.map_async(abs, endless()):
                got.append(result)

    async with make_pool(2) as pool:
        consumer = asyncio.create_task(consume(pool))
        await wait_until_async(lambda: len(got) == 4 if pause else got)
    await asyncio.wait_for(consumer, 20)
    assert closed and got == list(range(len(got)))


def test_a_map_whose_input_was_all_taken_gives_the_rest(make_pool):
    with make_pool(2) as pool:
        results = pool.map(abs, [-1, -2])
    assert list(results) == [1, 2]


AT_EXIT = """
import itertools, threading
from distex import Pool

pool = Pool(1)
begun = threading.Event()

def consume():
    for _ in pool.map(abs, itertools.count()):
        begun.set()

threading.Thread(target=consume, daemon=True).start()
begun.wait()
print("over", flush=True)
"""


def test_an_endless_map_does_not_keep_the_interpreter_from_its_end(tmp_path):
    with Script(AT_EXIT, tmp_path) as script:
        assert script.read_line() == "over"
        script.finish()
        assert script.process.returncode == 0


# --- a map in synchronous code over asynchronous input


async def numbers():
    for number in itertools.count():
        yield number
        await asyncio.sleep(0)


def test_its_iterator_may_be_collected_on_the_pools_own_thread(pool):
    results = [pool.map(abs, numbers())]
    assert next(results[0]) == 0

    async def let_go():
        results.clear()
        gc.collect()

    pool._home.submit(let_go()).result(20)
    assert pool.submit(abs, -1).result(20) == 1
    assert list(itertools.islice(pool.map(abs, numbers()), 3)) == [0, 1, 2]


INTERRUPTED = """
import asyncio, os, signal, threading
from distex import Pool

closed = []

async def numbers():
    try:
        yield 1
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
        await asyncio.sleep(60)
    finally:
        closed.append(True)

with Pool(1) as pool:
    try:
        list(pool.map(abs, numbers()))
    except KeyboardInterrupt:
        print("interrupted", closed, pool.run(abs, -1), flush=True)
left = pool = Pool(1)
results = pool.map(abs, numbers())
next(results)
"""


def test_ctrl_c_ends_it_and_so_does_the_end_of_the_program(tmp_path):
    with Script(INTERRUPTED, tmp_path) as script:
        assert script.read_line() == "interrupted [True] 1"
        script.finish()
        assert script.stderr == ""


# --- nothing is left of it, without a collection


class Source:
    """An input that can be watched."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)


def fail_at_ten(number):
    if number == 10:
        raise ValueError(number)
    return number


def exhausted(pool, source):
    assert len(list(pool.map(abs, source))) == 30


def failed(pool, source):
    with pytest.raises(ValueError, match="10"):
        list(pool.map(fail_at_ten, source))


def failed_unordered(pool, source):
    with pytest.raises(ValueError, match="10"):
        list(pool.map(fail_at_ten, source, ordered=False))


def late(pool, source):
    with pytest.raises(TimeoutError):
        list(pool.map(time.sleep, source, timeout=0.1))


def left(pool, source):
    for _ in pool.map(abs, source):
        break


def closed(pool, source):
    results = pool.map(abs, source)
    next(results)
    results.close()


def never_begun(pool, source):
    pool.map(abs, source)


def failed_by_its_input(pool, source):
    source.items = itertools.chain(source.items, map(int, ["no number"]))
    with pytest.raises(ValueError, match="no number"):
        list(pool.map(abs, source))


def interrupted(pool, source):
    source.items = itertools.chain(source.items, ending(KeyboardInterrupt, 0))
    with pytest.raises(KeyboardInterrupt):
        list(pool.map(abs, source))


def not_pickled(pool, source):
    source.items = itertools.chain([1, 2, threading.Lock()], source.items)
    with pytest.raises(TypeError, match="cannot pickle"):
        list(pool.map(id, source, chunksize=3))


def run(coroutine):
    """On a loop of its own, and without a trace of it."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(coroutine)
        loop.run_until_complete(loop.shutdown_asyncgens())


def exhausted_async(pool, source):
    async def main():
        assert len([result async for result in pool.map_async(abs, source)]) == 30
    run(main())


def failed_async(pool, source):
    async def main():
        with pytest.raises(ValueError, match="10"):
            async for _ in pool.map_async(fail_at_ten, source):
                pass
    run(main())


def closed_async(pool, source):
    async def main():
        results = pool.map_async(abs, source)
        await anext(results)
        await results.aclose()
    run(main())


def cancelled_async(pool, source):
    async def main():
        results = pool.map_async(time.sleep, source)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(results), 0.05)
        await results.aclose()
    source.items = iter([0.2] * 30)
    run(main())


ENDS = [
    exhausted, failed, failed_unordered, late, left, closed, never_begun, failed_by_its_input,
    interrupted, not_pickled, exhausted_async, failed_async, closed_async, cancelled_async]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_nothing_is_left_of_a_map(pool, end):
    end(pool, Source(range(30)))  # what is made once is made
    source = Source([0.01] * 30 if end is late else range(30))
    gone = weakref.ref(source)
    gc.collect()
    gc.disable()
    try:
        end(pool, source)
        del source
        wait_until(lambda: gone() is None, what="the input to be let go of")
    finally:
        gc.enable()
    assert pool.submit(abs, -1).result(20) == 1


def test_nor_of_one_whose_pool_was_shut_down(make_pool):
    pool = make_pool(2)
    source = Source(itertools.count())
    gone = weakref.ref(source)
    results = pool.map(abs, source)
    next(results)
    pool.shutdown()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(PoolClosed):
            list(results)
        del results, source
        assert gone() is None
    finally:
        gc.enable()


def test_that_of_a_pool_whose_waiting_tasks_were_cancelled(make_pool):
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(make_pool(1, qsize=1))
        results = pool.map(time.sleep, itertools.repeat(0.05), chunksize=1)
        next(results)
        pool.shutdown(cancel_futures=True)
        with pytest.raises((concurrent.futures.CancelledError, PoolClosed)):
            list(results)


