"""Plain functions see no running event loop, as in ProcessPoolExecutor; coroutines see the worker's.
"""

import asyncio

import pytest

from distex import Pool

from . import tasks


async def sleep_and_double(x):
    await asyncio.sleep(0)
    return 2 * x


def has_running_loop(x=0):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def coroutine_has_running_loop(x=0):
    await asyncio.sleep(0)
    return asyncio.get_running_loop() is not None and asyncio.current_task() is not None


def by_asyncio_run(x):
    return asyncio.run(sleep_and_double(x))


def by_uvloop_run(x):
    uvloop = pytest.importorskip("uvloop")
    return uvloop.run(sleep_and_double(x))


def by_loop_of_its_own(x):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(sleep_and_double(x))
    finally:
        loop.close()


def by_runner(x):
    with asyncio.Runner() as runner:
        return [runner.run(sleep_and_double(x)) for _ in range(3)][-1]


def by_loop_that_stays(x):
    """As programs do that keep a loop in the policy."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return asyncio.get_event_loop().run_until_complete(sleep_and_double(x))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def raises_in_a_loop(x):
    async def fail():
        raise LookupError(x)

    asyncio.run(fail())


WAYS_TO_RUN = [by_asyncio_run, by_uvloop_run, by_loop_of_its_own, by_runner, by_loop_that_stays]

CALLS = {
    "run": lambda pool, func, x: pool.run(func, x),
    "submit": lambda pool, func, x: pool.submit(func, x).result(),
    "map": lambda pool, func, x: next(pool.map(func, [x])),
    "chunk": lambda pool, func, x: next(pool.map(func, [x] * 50, chunksize=50)),
    "run_on_all": lambda pool, func, x: pool.run_on_all(func, x)[0],
    "run_async": lambda pool, func, x: asyncio.run(awaited(pool, func, x)),
}


async def awaited(pool, func, x):
    return await pool.run_async(func, x)


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


def test_a_plain_function_sees_no_loop_and_a_coroutine_does(pool, call):
    assert call(pool, has_running_loop, 0) is False
    assert call(pool, coroutine_has_running_loop, 0) is True
    assert call(pool, has_running_loop, 0) is False


@pytest.mark.parametrize("func", WAYS_TO_RUN, ids=lambda func: func.__name__)
def test_a_plain_function_runs_a_loop_of_its_own(pool, call, func):
    assert call(pool, func, 21) == 42
    assert call(pool, sleep_and_double, 21) == 42


def test_a_loop_that_fails_in_a_plain_function_harms_no_coroutine(pool, call):
    with pytest.raises(LookupError):
        call(pool, raises_in_a_loop, 1)
    assert call(pool, sleep_and_double, 1) == 2
    assert call(pool, has_running_loop, 0) is False


async def test_coroutines_that_run_go_on_between_plain_functions(make_pool):
    async with make_pool(1, qsize=50) as pool:
        calls = []
        for x in range(60):
            calls.append(pool.run_async(sleep_and_double, x))
            calls.append(pool.run_async(by_asyncio_run, x))
            calls.append(pool.run_async(has_running_loop))
            calls.append(pool.run_async(coroutine_has_running_loop))
        results = await asyncio.gather(*calls)
        assert results == [value for x in range(60) for value in (2 * x, 2 * x, False, True)]


async def test_a_map_of_both_kinds(make_pool):
    async with make_pool(1) as pool:
        results = [value async for value in pool.map_async(tasks.sometimes_async, range(100))]
        assert results == list(range(100))


def initialize_by_loop():
    assert not has_running_loop()
    tasks.remember("initialized", asyncio.run(sleep_and_double(21)))


async def initialize_in_coroutine():
    tasks.remember("initialized", await sleep_and_double(21))


@pytest.mark.parametrize("initializer", [initialize_by_loop, initialize_in_coroutine])
def test_an_initializer_of_either_kind(loop_type, initializer):
    with Pool(1, worker_loop=loop_type, initializer=initializer) as pool:
        assert pool.run(tasks.recall, "initialized") == 42
        assert pool.run(coroutine_has_running_loop) is True
