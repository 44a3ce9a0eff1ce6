"""pool.statistics(): what is counted is what happened."""

import pytest

from . import tasks
from .support import wait_until


def counted(pool):
    statistics = pool.statistics()
    return statistics.tasks_done, statistics.tasks_lost, statistics.tasks_retried


def timed_out(pool, gate):
    calls = pool.options(timeout=0.2, cancel_running="kill", retries=3)
    with pytest.raises(TimeoutError):
        calls.run(tasks.spin, gate.path)


async def timed_out_elsewhere(pool, gate):
    calls = pool.options(timeout=0.2, cancel_running="kill", retries=3)
    with pytest.raises(TimeoutError):
        await calls.run_async(tasks.spin, gate.path)


def cancelled(pool, gate):
    future = pool.options(cancel_running="kill", retries=3).submit(tasks.spin, gate.path)
    gate.wait_for(1)
    assert future.cancel()


@pytest.mark.parametrize("end", [timed_out, cancelled])
def test_a_task_that_is_ended_with_its_worker_is_neither_lost_nor_retried(make_pool, gate, end):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        done = counted(pool)[0]
        end(pool, gate)
        wait_until(lambda: pool.submit(tasks.pid).result() != pid, what="another worker")
        assert gate.arrived() == 1
        assert counted(pool)[1:] == (0, 0)
        assert counted(pool)[0] >= done


async def test_so_is_one_that_another_loop_waits_for(make_pool, gate):
    with make_pool(1) as pool:
        pid = await pool.run_async(tasks.pid)
        await timed_out_elsewhere(pool, gate)
        assert await pool.run_async(tasks.pid) != pid
        assert counted(pool)[1:] == (0, 0)


def test_of_a_chunk_that_fails_the_calls_that_were_made_are_done(make_pool):
    with make_pool(1) as pool:
        with pytest.raises(ValueError, match="no 10"):
            list(pool.map(tasks.fail_at, [10] * 1000, range(1000), chunksize=1000))
        assert counted(pool) == (11, 0, 0)
