"""Workers that are not what they say: the pool goes on, and each task comes to its end."""

import mmap

import pytest
from machine import is_alive

from distex import WorkerLost
from distex.worker.status_page import CAN_WITHHOLD, ITEM, STARTED

from . import dishonest, tasks
from .support import wait_until

HIGHEST = 2**64 - 1
ALLOWED = 9  # workers that a task may lose which none of them seems to have started


@pytest.mark.parametrize("number", [0, 1, 2**62, 2**63 - 1, 2**63, HIGHEST])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_may_note_any_number(make_pool, number, retries):
    with make_pool(2) as pool:
        calls = pool.options(retries=retries)
        waiting = [calls.submit(dishonest.note_and_die, number, places)
                   for places in ([ITEM], [STARTED, ITEM])]
        assert all(isinstance(future.exception(20), WorkerLost) for future in waiting)
        with pytest.raises(WorkerLost):
            list(calls.map(dishonest.note_item_and_die, range(10), [number] * 10, chunksize=10))
        assert pool.run(tasks.double, 1) == 2


def test_a_task_that_no_worker_seems_to_have_started_is_not_run_without_end(make_pool, gate):
    with make_pool(1) as pool:
        with pytest.raises(WorkerLost):
            pool.submit(dishonest.deny_and_die, gate.path).result()
        assert gate.arrived() == ALLOWED
        assert pool.run(tasks.double, 1) == 2


@pytest.mark.skipif(not CAN_WITHHOLD, reason="needs Linux")
def test_a_worker_has_its_own_status_page_alone(make_pool):
    with make_pool(3) as pool:
        assert pool.run_on_all(dishonest.pages) == [[mmap.PAGESIZE]] * 3
        for worker in pool.workers():
            assert pool.submit(dishonest.note_and_die, 1, []).exception(20), worker
        wait_until(lambda: pool.total_workers() == 3, "new workers")
        assert pool.run_on_all(dishonest.pages) == [[mmap.PAGESIZE]] * 3


def test_a_worker_that_has_left_its_process_group_ends_with_its_pool(make_pool, gate):
    with make_pool(1) as pool:
        pool.submit(dishonest.leave_group, gate.path)
        (pid,) = (worker.pid for worker in pool.workers())
        wait_until(lambda: gate.marks(f"pid{pid}"), "it to leave")
        pool.kill()
    wait_until(lambda: not is_alive(pid), "its end")
