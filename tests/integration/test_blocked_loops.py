"""Coroutines that block the loop of their worker are ended as plain functions are."""

import pytest
from machine import is_alive

from . import tasks
from .support import Gate, wait_until

INTERRUPT = {"cancel_running": "interrupt", "grace": 60}
KILL = {"cancel_running": "kill"}


def cancelled(pool, options, gate, func, *args):
    future = pool.options(**options).submit(func, gate.path, *args)
    gate.wait_for(1)
    assert future.cancel()


def timed_out(pool, options, gate, func, *args):
    with pytest.raises(TimeoutError):
        pool.options(timeout=0.3, **options).run(func, gate.path, *args)


BLOCK = pytest.mark.parametrize(("func", "args"), [
    (tasks.block, ()), (tasks.block, (3,)), (tasks.block_behind, ())],
    ids=["at first", "later", "in a coroutine that it awaits"])


@BLOCK
@pytest.mark.parametrize("end", [cancelled, timed_out])
def test_a_coroutine_that_blocks_is_interrupted_where_asked_to(make_pool, gate, end, func, args):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        end(pool, INTERRUPT, gate, func, *args)
        assert pool.submit(tasks.pid).result() == pid  # the worker is free, and the same
        assert gate.marks("interrupted") == 1


@pytest.mark.parametrize("end", [cancelled, timed_out])
def test_a_coroutine_that_blocks_is_killed_where_asked_to(make_pool, gate, end):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        end(pool, KILL, gate, tasks.block, 1)
        assert pool.submit(tasks.pid).result() != pid
        assert gate.marks("interrupted") == 0


def test_one_that_goes_on_after_the_interrupt_is_ended_with_its_worker(make_pool, gate):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        cancelled(pool, {**INTERRUPT, "grace": 0.3}, gate, tasks.block_stubbornly)
        assert pool.submit(tasks.pid).result() != pid
        assert not is_alive(pid)
        assert gate.marks("interrupted") == 1


async def test_each_of_several_that_block_one_after_the_other_is_ended(make_pool, gate, tmp_path):
    blocked = Gate(tmp_path, "blocked")
    async with make_pool(1, qsize=10) as pool:
        pid = await pool.run_async(tasks.pid)
        bystander = pool.run_async(tasks.pass_gate_async, gate.path, "passed")
        await gate.wait_for_async(1)
        calls = pool.options(**INTERRUPT)
        blocking = [calls.run_async(tasks.block, blocked.path) for _ in range(5)]
        await blocked.wait_for_async(1)
        for call in blocking:
            call.cancel()
        gate.open()
        assert await bystander == "passed"
        assert await pool.run_async(tasks.pid) == pid


@pytest.mark.parametrize("options", [{**INTERRUPT, "grace": 0.01}, KILL],
                         ids=["interrupt", "kill"])
def test_one_that_does_not_block_is_left_to_clean_up(make_pool, gate, options):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        cancelled(pool, options, gate, tasks.clean_up_slowly)
        wait_until(lambda: gate.marks("cleaned"), what="it to clean up")
        assert pool.submit(tasks.pid).result() == pid
