"""Workers that come and go while the pool runs: scale, workers, and no task lost or run twice."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from machine import is_alive

from distex import HostError, Pool, PoolClosed, PoolStartError, WorkerInfo, WorkerLost

from . import tasks
from .support import DEADLINE, Gate, wait_until, wait_until_async

HERE = socket.gethostname()


def states(pool):
    """How many workers are in each state."""
    found = [worker.state for worker in pool.workers()]
    return {state: found.count(state) for state in found}


def pids(pool):
    return {worker.pid for worker in pool.workers()}


def wait_for_end(pids):
    wait_until(lambda: not any(map(is_alive, pids)), what="the processes to end")


# --- scale


def test_more_workers_and_fewer(make_pool):
    with make_pool(1) as pool:
        pool.scale(3)
        assert pool.total_workers() == 3
        assert len(set(pool.run_on_all(tasks.pid))) == 3
        before = pids(pool)
        pool.scale(1)
        assert pool.total_workers() == len(pool.workers()) == 1
        wait_for_end(before - pids(pool))
        assert pool.run(tasks.double, 4) == 8


async def test_more_workers_and_fewer_in_async_code(make_pool):
    async with make_pool(1) as pool:
        await pool.scale_async(3)
        assert len(set(await pool.run_on_all_async(tasks.pid))) == 3
        await pool.scale_async(2)
        assert pool.total_workers() == 2
        assert await pool.run_async(tasks.double, 4) == 8


def test_the_same_number_changes_nothing(make_pool):
    with make_pool(2) as pool:
        before = pool.run_on_all(tasks.pid)
        pool.scale(2)
        assert pool.run_on_all(tasks.pid) == before


def test_waiting_tasks_go_to_new_workers(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path, n) for n in range(3)]
        gate.wait_for(1)
        pool.scale(3)
        gate.wait_for(3)
        gate.open()
        assert [future.result() for future in futures] == [0, 1, 2]


def test_no_workers_and_then_some_again(make_pool):
    with make_pool(2) as pool:
        nanny = pool._home.supervisor.hosts[0].nanny.pid
        pool.scale(0)
        assert pool.workers() == []
        assert not is_alive(nanny)
        future = pool.submit(tasks.double, 4)
        results = pool.map(tasks.double, range(10))
        assert not future.done()
        pool.scale(2)
        assert future.result() == 8
        assert list(results) == [2 * n for n in range(10)]


def test_what_waits_for_workers_that_never_come_ends_with_the_pool(make_pool):
    pool = make_pool(1)
    pool.scale(0)
    future = pool.submit(tasks.double, 4)
    pool.shutdown()
    with pytest.raises(PoolClosed):
        future.result()


def test_a_shutdown_that_waits_is_not_left_alone(make_pool, gate):
    """What waits behind the last worker can't be done once that is gone."""
    pool = make_pool(1, qsize=1)
    running = pool.submit(tasks.pass_gate, gate.path, "done")
    waiting = pool.submit(tasks.double, 4)
    gate.wait_for()
    scaling = threading.Thread(target=pool.scale, args=(0,))
    scaling.start()
    wait_until(lambda: states(pool) == {"retiring": 1}, what="the worker to retire")
    stopping = threading.Thread(target=pool.shutdown)
    stopping.start()
    gate.open()
    scaling.join()
    stopping.join()
    assert running.result() == "done"
    with pytest.raises(PoolClosed):
        waiting.result()


def test_a_worker_that_retires_ends_what_it_runs(make_pool, gate):
    with make_pool(2, qsize=1) as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path, n) for n in range(2)]
        gate.wait_for(2)
        scaling = threading.Thread(target=pool.scale, args=(1,))
        scaling.start()
        wait_until(lambda: states(pool) == {"busy": 1, "retiring": 1}, what="one to retire")
        assert pool.total_workers() == 1
        assert len(pool._home.supervisor.links()) == 1
        gate.open()
        scaling.join()
        assert [future.result() for future in futures] == [0, 1]
        assert states(pool) == {"idle": 1}


def test_coroutines_of_a_worker_that_retires_end(make_pool, gate):
    with make_pool(1, qsize=5) as pool:
        futures = [pool.submit(tasks.pass_gate_async, gate.path, n) for n in range(5)]
        gate.wait_for(5)
        scaling = threading.Thread(target=pool.scale, args=(0,))
        scaling.start()
        wait_until(lambda: states(pool) == {"retiring": 1}, what="it to retire")
        gate.open()
        scaling.join()
        assert [future.result() for future in futures] == list(range(5))


def test_what_a_retiring_worker_has_not_started_goes_to_others(make_pool):
    with make_pool(1, qsize=1) as pool:
        results = pool.map(tasks.slow_pid_of, range(80), chunksize=80)
        first = next(results)
        scaling = threading.Thread(target=pool.scale, args=(0,))
        scaling.start()
        scaling.join()  # before all are done
        pool.scale(1)
        rest = list(results)
        assert len(rest) == 79
        assert set(rest) - {first} == pids(pool)


def test_a_scale_is_overtaken_by_another(make_pool, gate):
    """Nobody waits for a long task to have workers again."""
    with make_pool(1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path, "done")
        gate.wait_for()
        first = threading.Thread(target=pool.scale, args=(0,))
        first.start()
        wait_until(lambda: states(pool) == {"retiring": 1}, what="it to retire")
        pool.scale(2)
        assert pool.total_workers() == 2
        assert pool.run(tasks.double, 4) == 8
        first.join()
        gate.open()
        assert running.result() == "done"
        wait_until(lambda: states(pool) == {"idle": 2}, what="the other one to leave")


async def test_a_scale_does_not_wait_until_no_worker_is_being_replaced(make_pool, tmp_path):
    """They may be replaced sooner than they start."""
    gates = [Gate(tmp_path, f"gate-{n}") for n in range(3)]
    gates[0].open()
    async with make_pool(
            1, max_tasks_per_child=1, initializer=tasks.pass_own_gate,
            initargs=(str(tmp_path), [gate.path for gate in gates])) as pool:
        scaling = asyncio.ensure_future(pool.scale_async(2))
        await gates[1].wait_for_async()
        assert await pool.run_async(tasks.double, 4) == 8
        await gates[2].wait_for_async()
        gates[1].open()
        await scaling
        # the one that was replaced may still be there, as it ends
        await wait_until_async(
            lambda: states(pool) == {"idle": 1, "starting": 1}, "one ready, one to come")
        gates[2].open()


async def test_who_stops_waiting_does_not_stop_the_scaling(make_pool, gate):
    async with make_pool(1) as pool:
        running = pool.run_async(tasks.pass_gate, gate.path, "done")
        await gate.wait_for_async()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.scale_async(0), 0.05)
        assert states(pool) == {"retiring": 1}
        gate.open()
        assert await running == "done"
        await wait_until_async(lambda: not pool.workers(), what="the worker to leave")


def test_a_worker_that_retires_and_dies_is_not_replaced(make_pool, gate):
    with make_pool(2, qsize=1) as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path) for _ in range(2)]
        gate.wait_for(2)
        scaling = threading.Thread(target=pool.scale, args=(1,))
        scaling.start()
        wait_until(lambda: "retiring" in states(pool), what="one to retire")
        (retiring,) = (worker for worker in pool.workers() if worker.state == "retiring")
        os.kill(retiring.pid, signal.SIGKILL)
        scaling.join()
        gate.open()
        outcomes = [future.exception() for future in futures]
        (lost,) = (outcome for outcome in outcomes if outcome is not None)
        assert isinstance(lost, WorkerLost) and lost.pid == retiring.pid
        assert pool.total_workers() == 1


def test_more_workers_than_the_initializer_allows(make_pool, tmp_path):
    """They can't be had; the pool goes on with those it has."""
    with make_pool(2, initializer=tasks.one_of, initargs=(str(tmp_path), 3)) as pool:
        with pytest.raises(PoolStartError, match="only 3"):
            pool.scale(8)
        assert pool.run(tasks.double, 4) == 8
        assert {worker.state for worker in pool.workers()} <= {"idle"}
        assert 2 <= pool.total_workers() <= 3
        pool.scale(2)
        assert len(pool.run_on_all(tasks.pid)) == 2


def test_new_workers_that_die_while_they_start(make_pool, tmp_path):
    with make_pool(1, initializer=tasks.die_from, initargs=(str(tmp_path), 1)) as pool:
        with pytest.raises(PoolStartError, match="exit code 3"):
            pool.scale(3)
        assert pool.total_workers() == len(pool.workers()) == 1
        assert pool.run(tasks.double, 4) == 8


def test_the_pool_ends_while_it_grows(make_pool, gate):
    pool = make_pool(1, initializer=tasks.pass_gate_but_first, initargs=(gate.path,))
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        scaling = thread.submit(pool.scale, 3)
        gate.wait_for(3)
        pool.shutdown()
        assert isinstance(scaling.exception(), PoolClosed)


def test_tasks_go_on_while_workers_come_and_go(make_pool, tmp_path):
    """None is lost, none is done twice."""
    numbers = [1, 4, 2, 0, 3, 1, 5, 2]
    with make_pool(2) as pool:
        done = threading.Event()

        def scale():
            for number in numbers:
                pool.scale(number)
            done.set()

        scaling = threading.Thread(target=scale)
        scaling.start()
        count = 0
        while not done.is_set() or count < 200:
            futures = [pool.submit(tasks.marked, str(tmp_path), n) for n in range(50)]
            mapped = list(pool.map(tasks.double, range(500)))
            assert [future.result() for future in futures] == list(range(50))
            assert mapped == [2 * n for n in range(500)]
            count += 50
        scaling.join()
        assert pool.total_workers() == numbers[-1]
        assert len(list(tmp_path.iterdir())) == count


async def test_a_short_way_while_workers_come_and_go(make_pool):
    """run() leases workers: one that retires lets no caller hang."""
    with make_pool(2) as pool:
        stop = threading.Event()
        counts = []

        def call():
            count = 0
            while not stop.is_set():
                assert pool.run(tasks.double, count) == 2 * count
                count += 1
            counts.append(count)

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        for number in (1, 3, 0, 2, 1, 2):
            await asyncio.to_thread(pool.scale, number)
        stop.set()
        for caller in callers:
            await asyncio.to_thread(caller.join)
        assert len(counts) == 2


def test_none_while_the_first_are_started_again(make_pool, gate):
    """What is being added is removed: nothing is left of it."""
    with make_pool(1, initializer=tasks.pass_gate_but_first, initargs=(gate.path,)) as pool:
        pool.scale(0)
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            scaling = thread.submit(pool.scale, 2)
            gate.wait_for(3)
            pool.scale(0)
            assert scaling.result() is None  # overtaken
        assert pool._home.supervisor.hosts == []
        gate.open()
        pool.scale(1)
        assert pool.run(tasks.double, 4) == 8


@pytest.mark.parametrize("numbers", [(3, 0), (0, 3), (2, 0, 2), (3, 1), (1, 3, 2), (0, 0), (3, 3)])
async def test_of_several_scales_in_one_tick_the_last_wins(make_pool, numbers):
    async with make_pool(1) as pool:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(pool.scale_async, numbers))
        assert pool.total_workers() == len(pool.workers()) == numbers[-1]
        await pool.scale_async(1)
        assert await pool.run_async(tasks.double, 4) == 8


def test_of_scales_in_many_threads_the_last_wins(make_pool):
    with make_pool(1) as pool, concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            scales = [threads.submit(pool.scale, number) for number in (2, 0, 3, 1, 2, 3, 0, 1)]
            for scale in scales:
                assert scale.result(DEADLINE) is None
            pool.scale(2)
            assert pool.total_workers() == len(pool.workers()) == 2


def test_workers_that_are_ended_while_they_start_are_no_strangers(make_pool):
    """Whichever step of their start they have come to."""
    with make_pool(1) as pool, concurrent.futures.ThreadPoolExecutor(2) as threads:
        for n in range(15):
            growing = threads.submit(pool.scale, 4)
            time.sleep(n * 0.003)
            pool.scale(1)
            growing.result(DEADLINE)
        pool.scale(1)
        wait_until(lambda: states(pool) == {"idle": 1}, what="the others to leave")
        assert pool.statistics().connections_dropped == 0


def test_callers_that_ask_for_the_same_all_wait_for_it(make_pool, gate):
    with make_pool(1, initializer=tasks.pass_gate_but_first, initargs=(gate.path,)) as pool:
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            scales = [threads.submit(pool.scale, 2) for _ in range(2)]
            gate.wait_for(2)
            assert not any(scale.done() for scale in scales)
            gate.open()
            for scale in scales:
                scale.result(DEADLINE)
        assert pool.total_workers() == 2


def test_one_that_fails_and_is_overtaken_says_nothing(make_pool, gate, tmp_path):
    """The failure is told to the last caller, whose number it concerns."""
    with make_pool(1, initializer=tasks.one_of, initargs=(str(tmp_path), 2)) as pool:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            scales = [threads.submit(pool.scale, number) for number in (3, 4, 5, 6, 5, 4, 3, 8)]
            outcomes = [scale.exception(DEADLINE) for scale in scales]
        assert all(outcome is None or isinstance(outcome, PoolStartError) for outcome in outcomes)
        assert any(outcomes)
        wait_until(lambda: states(pool).keys() == {"idle"}, what="the others to leave")
        assert pool.run(tasks.double, 4) == 8


def test_no_nanny_can_be_started(make_pool, monkeypatch):
    """What scale() raises is what it says that it raises."""
    def refuse(*args, **kwargs):
        raise OSError("no more processes")

    with make_pool(1) as pool:
        pool.scale(0)
        with monkeypatch.context() as patch:
            patch.setattr("distex.launch.local.start_nanny", refuse)
            with pytest.raises(PoolStartError, match="no more processes"):
                pool.scale(2)
        assert pool._home.supervisor.hosts == []
        pool.scale(1)
        assert pool.run(tasks.double, 4) == 8


@pytest.mark.parametrize(("number", "error"), [(-1, ValueError), ("2", TypeError), (True, TypeError)])
def test_numbers_that_make_no_sense(make_pool, number, error):
    with make_pool(1) as pool, pytest.raises(error):
        pool.scale(number)


def test_not_before_the_start_nor_after_the_end(make_pool):
    with make_pool(1, lazy_create=True) as pool:
        assert len(pool.workers()) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.scale(2)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.add_host("ssh://maxi")
    assert pool.workers() == []


async def test_it_starts_a_pool_that_has_not_started(make_pool):
    pool = make_pool(1)
    assert pool.workers() == []
    await pool.scale_async(2)
    assert pool.total_workers() == 2
    await pool.shutdown_async()


async def test_waiting_on_the_pools_own_loop_is_refused(make_pool):
    async with make_pool(1) as pool:
        for call in (lambda: pool.scale(2), lambda: pool.remove_host(HERE)):
            with pytest.raises(RuntimeError, match=r"use the \.\.\._async"):
                call()


# --- hosts


def test_a_host_that_the_pool_does_not_have(make_pool):
    with make_pool(1) as pool:
        for host in ("ssh://maxi", "maxi", "ssh://maxi/8"):
            with pytest.raises(HostError, match="no host"):
                pool.remove_host(host)
        with pytest.raises(HostError, match="does not name a host"):
            pool.remove_host("no such host")


def test_this_machine_is_a_host_too(make_pool):
    with make_pool(2) as pool:
        pool.remove_host(HERE)
        assert pool.workers() == []
        with pytest.raises(HostError, match="no host"):
            pool.remove_host(HERE)
        pool.scale(1)
        assert pool.run(tasks.double, 4) == 8


def test_a_host_is_removed_at_once(make_pool, gate):
    with make_pool(1, qsize=2) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for()
        waiting = [pool.submit(tasks.double, n) for n in range(3)]
        pool.remove_host(HERE, drain=False)
        with pytest.raises(WorkerLost, match="removed from the pool"):
            running.result()
        assert not any(future.done() for future in waiting)
        pool.scale(1)
        assert [future.result() for future in waiting] == [0, 2, 4]


def test_a_removal_that_takes_too_long_is_hurried(make_pool, gate):
    with make_pool(1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for()
        draining = threading.Thread(target=pool.remove_host, args=(HERE,))
        draining.start()
        wait_until(lambda: states(pool) == {"retiring": 1}, what="it to retire")
        pool.remove_host(HERE, drain=False)
        draining.join()
        with pytest.raises(WorkerLost, match="removed from the pool"):
            running.result()


def test_the_nanny_dies_while_its_host_is_removed(make_pool, gate):
    with make_pool(1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for()
        draining = threading.Thread(target=pool.remove_host, args=(HERE,))
        draining.start()
        wait_until(lambda: states(pool) == {"retiring": 1}, what="it to retire")
        os.kill(pool._home.supervisor.hosts[0].nanny.pid, signal.SIGKILL)
        draining.join()
        with pytest.raises(WorkerLost):
            running.result()
        assert pool._home.supervisor.hosts == []


# --- workers


def test_what_the_workers_are_doing(make_pool, gate):
    with make_pool(2) as pool:
        assert all(isinstance(worker, WorkerInfo) for worker in pool.workers())
        assert [worker.pid for worker in pool.workers()] == pool.run_on_all(tasks.pid)
        assert {worker.host for worker in pool.workers()} == {HERE}
        assert all(worker.memory > 1_000_000 for worker in pool.workers())
        wait_until(lambda: states(pool) == {"idle": 2}, what="both to be idle")
        before = sum(worker.tasks_done for worker in pool.workers())
        future = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for()
        assert states(pool) == {"idle": 1, "busy": 1}
        gate.open()
        future.result()
        assert list(pool.map(tasks.double, range(1000))) == [2 * n for n in range(1000)]
        for _ in range(9):
            pool.run(tasks.double, 1)
        wait_until(lambda: states(pool) == {"idle": 2}, what="both to be idle")
        assert sum(worker.tasks_done for worker in pool.workers()) == before + 1010


def test_memory_is_that_of_the_worker(make_pool):
    with make_pool(1) as pool:
        (before,) = pool.workers()
        pool.run(tasks.remember, "memory", b"x" * 50_000_000)
        (after,) = pool.workers()
        assert after.memory > before.memory + 40_000_000
        assert after.pid == before.pid


def test_workers_are_listed_from_any_thread_while_they_change(make_pool):
    with make_pool(1) as pool:
        stop = threading.Event()
        failures = []

        def look():
            try:
                while not stop.is_set():
                    pool.workers()
            except BaseException as exc:
                failures.append(exc)

        looking = threading.Thread(target=look)
        looking.start()
        for number in (4, 1, 3):
            pool.scale(number)
        stop.set()
        looking.join()
        assert not failures


def test_a_pool_that_fails_to_start_has_no_workers():
    with contextlib.suppress(PoolStartError):
        Pool(1, initializer=tasks.fail)
