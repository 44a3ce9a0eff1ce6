"""Functions of the user that are called on the pool's loop, and raise what ends programs: the pool
goes on, and a loop of the user's own ends as by any callback."""

import asyncio

import pytest

from distex import WorkerLost

from . import tasks
from .conftest import LOOP_FACTORIES
from .support import wait_until

ENDS = [SystemExit(3), KeyboardInterrupt()]


class LoadsBadly:
    """Ends whoever unpickles it."""

    def __reduce__(self):
        return raises, (SystemExit(3),)


class FailsBadly(Exception):
    """As an exception."""

    def __reduce__(self):
        return raises, (SystemExit(3),)


def raises(exc):
    raise exc


def fail_badly():
    raise FailsBadly


def calls_to(exc):
    """A function that raises this, and the arguments with which it was called."""
    calls = []

    def function(argument):
        calls.append(argument)
        raise exc

    return function, calls


def goes_on(pool):
    assert list(pool.map(tasks.double, range(10))) == [2 * n for n in range(10)]
    assert pool.total_workers() == 2


@pytest.mark.parametrize("exc", ENDS, ids=repr)
def test_output(make_pool, exc):
    function, lines = calls_to(exc)
    with make_pool(2, output=function) as pool:
        for _ in range(3):
            pool.run(print, "line\nline")
        wait_until(lambda: len(lines) == 6, "all lines")
        goes_on(pool)


@pytest.mark.parametrize("exc", ENDS, ids=repr)
def test_output_while_the_pool_starts(make_pool, exc):
    function, lines = calls_to(exc)
    with make_pool(2, output=function, initializer=print, initargs=("line",)) as pool:
        goes_on(pool)
        wait_until(lambda: len(lines) == 2, "all lines")


@pytest.mark.parametrize("exc", ENDS, ids=repr)
def test_on_worker_lost(make_pool, exc):
    function, losses = calls_to(exc)
    with make_pool(2, on_worker_lost=function) as pool:
        for n in range(2):
            with pytest.raises(WorkerLost):
                pool.run(tasks.exit_worker, 1)
            wait_until(lambda: len(losses) == n + 1, "the loss to be told")
        wait_until(lambda: pool.total_workers() == 2, "the replacements")
        goes_on(pool)


@pytest.mark.parametrize("exc", ENDS, ids=repr)
def test_a_callback_of_a_future(make_pool, exc):
    function, _ = calls_to(exc)
    with make_pool(2) as pool:
        submitted = [pool.submit(tasks.double, n) for n in range(50)]
        for future in submitted:
            future.add_done_callback(function)
        assert [future.result() for future in submitted] == [2 * n for n in range(50)]
        goes_on(pool)


def test_a_result_that_is_unpickled(make_pool):
    with make_pool(2) as pool:
        with pytest.raises(SystemExit):
            pool.submit(LoadsBadly).result()
        with pytest.raises(SystemExit):
            pool.run(LoadsBadly)
        goes_on(pool)


def test_an_exception_that_is_unpickled(make_pool):
    with make_pool(2) as pool:
        assert pool.submit(fail_badly).exception() is not None
        goes_on(pool)


def test_a_loop_of_the_users_own_ends(make_pool, loop_type):
    """As by any callback that raises such a thing; the pool ends with it."""
    function, losses = calls_to(SystemExit(3))

    async def main():
        async with make_pool(1, on_worker_lost=function) as pool:
            with pytest.raises(WorkerLost):
                await pool.run_async(tasks.exit_worker, 1)
            await asyncio.sleep(60)

    with pytest.raises(SystemExit), asyncio.Runner(
            loop_factory=LOOP_FACTORIES[loop_type]) as runner:
        runner.run(main())
    assert len(losses) == 1
