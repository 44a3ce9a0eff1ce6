"""Options of tasks: retries, deadlines, contexts; cancelling a task that runs frees its worker.

Also the bound on the tasks that are under way."""

import _thread
import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import signal
import threading
import time
import weakref

import pytest
from machine import is_alive

from distex import Pool, PoolClosed, PoolFull, TaskOptions, WorkerLost

from . import tasks
from .support import Gate, open_lanes, run_script, wait_until, wait_until_async

SOON = 10.0  # seconds; less than what is interrupted would take, more than a slow machine needs


# --- Retries


@pytest.mark.parametrize("call", [
    pytest.param(lambda calls, *args: calls.submit(*args).result(), id="submit"),
    pytest.param(lambda calls, *args: calls.run(*args), id="run"),
])
def test_a_task_whose_worker_is_lost_is_run_again(make_pool, gate, call):
    with make_pool(1) as pool:
        calls = pool.options(retries=1)
        assert call(calls, tasks.die_at_first, gate.path, 1, [1]) == 1
        assert gate.marks("ran1") == 2
        assert pool.statistics().tasks_retried == 1
        with pytest.raises(WorkerLost):  # the others are not
            call(pool, tasks.die_for, gate.path, 2, 2)


def test_run_is_tried_again_by_its_lane_too(make_pool, gate):
    with make_pool(1, retries=1) as pool:
        open_lanes(pool)
        assert pool.run(tasks.die_at_first, gate.path, 1, [1]) == 1
        assert gate.marks("ran1") == 2


async def test_an_asynchronous_call_is_run_again(make_pool, gate):
    async with make_pool(1, retries=1) as pool:
        assert await pool.run_async(tasks.die_at_first, gate.path, 1, [1]) == 1
        assert gate.marks("ran1") == 2


def test_a_task_that_kills_its_workers_is_given_up_and_named(make_pool, gate):
    with make_pool(1, retries=2) as pool:
        with pytest.raises(WorkerLost, match=r"die_for.* has lost 3 workers and is given up") as lost:
            pool.submit(tasks.die_for, gate.path, 1, 1).result()
        assert gate.marks("ran1") == 3
        assert "die_for" in lost.value.task and lost.value.task_id > 0
        assert pool.run(tasks.double, 1) == 2


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
def test_each_item_of_a_map_may_lose_a_worker(make_pool, gate, ordered, chunksize):
    doomed = [3, 4, 30, 99]
    with make_pool(2) as pool:
        results = list(pool.options(retries=1).map(
            tasks.die_at_first, [gate.path] * 100, range(100), [doomed] * 100,
            ordered=ordered, chunksize=chunksize))
        assert (results if ordered else sorted(results)) == list(range(100))
        assert all(gate.marks(f"ran{item}") == 2 for item in doomed)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_item_of_a_map_that_kills_its_workers_is_to_blame_alone(make_pool, gate, ordered):
    results = []
    with make_pool(1) as pool:
        with pytest.raises(WorkerLost, match="has lost 2 workers and is given up"):
            for item in pool.options(retries=1).map(
                    tasks.die_for, [gate.path] * 20, range(20), [11] * 20, ordered=ordered,
                    chunksize=20):
                results.append(item)
        assert gate.marks("ran11") == 2
        if ordered:
            assert results == list(range(11))
        assert pool.run(tasks.double, 1) == 2


@pytest.mark.parametrize("workers", [1, 3])
async def test_of_coroutines_on_one_worker_only_that_which_kills_it_is_given_up(
        make_pool, gate, workers):
    async with make_pool(workers, qsize=10) as pool:
        calls = [
            pool.options(retries=3).run_async(tasks.die_beside_others, gate.path, item, 4, 10)
            for item in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results.pop(4), WorkerLost)
        assert results == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        assert await pool.run_async(tasks.double, 1) == 2


def test_what_is_cancelled_is_not_run_again(make_pool, gate):
    with make_pool(1, retries=100) as pool:
        future = pool.submit(tasks.pass_gate_async, gate.path)
        gate.wait_for(1)
        assert future.cancel()
        pid, = (record.pid for record in pool._home.supervisor._workers.values())
        os.kill(pid, signal.SIGKILL)
        assert pool.run(tasks.double, 1) == 2
        assert gate.arrived() == 1


def test_tasks_end_with_the_pool_and_are_not_tried_again(make_pool, gate):
    with make_pool(1, retries=100) as pool:
        future = pool.submit(tasks.spin, gate.path)
        gate.wait_for(1)
        pool.kill()
        with pytest.raises(PoolClosed):
            future.result()
    assert gate.arrived() == 1


# --- Deadlines


def test_what_is_not_done_in_time_raises_timeout_error(make_pool, gate):
    with make_pool(1) as pool:
        future = pool.options(timeout=0.1).submit(tasks.pass_gate, gate.path)
        with pytest.raises(TimeoutError, match=r"pass_gate was not done within 0.1 s: it was on"):
            future.result()
        gate.open()
        assert pool.options(timeout=20).run(tasks.double, 2) == 4


async def test_the_same_for_an_asynchronous_call(make_pool, gate):
    async with make_pool(1) as pool:
        with pytest.raises(TimeoutError, match=r"pass_gate was not done within 0.1 s: it was on"):
            await pool.options(timeout=0.1).run_async(tasks.pass_gate, gate.path)
        gate.open()
        assert await pool.options(timeout=20).run_async(tasks.double, 2) == 4


def test_a_coroutine_that_is_not_done_in_time_is_cancelled(make_pool, gate):
    with make_pool(1) as pool:
        with pytest.raises(TimeoutError):
            pool.options(timeout=0.2).run(tasks.wait_for_cancel, gate.path)
        wait_until(lambda: gate.marks("cancelled") == gate.arrived(), what="it to be cancelled")


def test_what_waits_too_long_is_never_run(make_pool, gate, tmp_path):
    never = Gate(tmp_path, "never")
    with make_pool(1, qsize=1) as pool:
        blocker = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        late = [pool.options(timeout=0.1).submit(tasks.marked, never.path) for _ in range(3)]
        for future in late:
            with pytest.raises(TimeoutError, match="it waited for a worker"):
                future.result()
        gate.open()
        blocker.result()
        assert pool.run(tasks.double, 1) == 2
        assert never.arrived() == 0


async def test_what_has_expired_while_the_loop_was_busy_is_not_sent(make_pool, gate, tmp_path):
    never = Gate(tmp_path, "never")
    async with make_pool(1, qsize=1) as pool:
        blocker = pool.run_async(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        late = pool.options(timeout=0.05).run_async(tasks.marked, never.path)
        gate.open()
        time.sleep(0.1)  # noqa: ASYNC251  the loop gets to know of both at once
        with pytest.raises(TimeoutError):
            await late
        await blocker
        assert await pool.run_async(tasks.double, 1) == 2
        assert never.arrived() == 0


def test_of_many_with_the_same_time_only_the_late_ones_expire(make_pool, gate):
    with make_pool(2, qsize=1) as pool:
        calls = pool.options(timeout=0.5)
        blockers = [pool.submit(tasks.pass_gate, gate.path) for _ in range(1)]
        gate.wait_for(1)
        late = calls.submit(tasks.pass_gate, gate.path)
        in_time = [calls.submit(tasks.double, x) for x in range(300)]
        gate.wait_for(2)
        behind = [calls.submit(tasks.double, x) for x in range(300)]
        for future in (late, *in_time, *behind):
            future.exception()
        expired = [future for future in (late, *in_time, *behind) if future.exception()]
        assert late in expired
        assert all(isinstance(future.exception(), TimeoutError) for future in expired)
        assert all(future.exception() or future.result() == 2 * x
                   for futures in (in_time, behind) for x, future in enumerate(futures))
        gate.open()
        blockers[0].result()
        assert calls.run(tasks.double, 1) == 2


async def test_different_times_end_in_their_own_order(make_pool, gate):
    async with make_pool(1, qsize=1) as pool:
        blocker = pool.run_async(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        ended = []
        for seconds in (0.3, 0.1, 60, 0.2, 0.1):
            call = pool.options(timeout=seconds).run_async(tasks.double, 1)
            call.add_done_callback(lambda call, seconds=seconds: ended.append(seconds))
        await wait_until_async(lambda: len(ended) == 4, what="four to expire")
        assert ended == [0.1, 0.1, 0.2, 0.3]
        gate.open()
        await blocker
        await wait_until_async(lambda: len(ended) == 5, what="the one that has the time")


def test_a_call_made_as_another_expires_has_its_own_time(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        blocker = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        calls = pool.options(timeout=0.1)
        more = []
        first = calls.submit(tasks.double, 1)
        first.add_done_callback(lambda _: more.append(calls.submit(tasks.double, 2)))
        assert isinstance(first.exception(SOON), TimeoutError)
        wait_until(lambda: more, what="the second call")
        assert isinstance(more[0].exception(SOON), TimeoutError)
        gate.open()
        blocker.result()
        assert calls.run(tasks.double, 3) == 6


@pytest.mark.parametrize("end", ["done", "cancelled", "failed"])
def test_nothing_is_kept_of_a_task_that_has_ended_before_its_time(make_pool, gate, end):
    with make_pool(1, qsize=1) as pool:
        calls = pool.options(timeout=3600)
        if end == "cancelled":
            blocker = pool.submit(tasks.pass_gate, gate.path)
            gate.wait_for(1)
            future = calls.submit(tasks.double, 1)
            assert future.cancel()
            gate.open()
            blocker.result()
        else:
            future = calls.submit(tasks.double if end == "done" else tasks.fail, 1)
            future.exception()
        assert pool.run(tasks.double, 1) == 2
        ended = weakref.ref(future)
        del future
        wait_until(lambda: ended() is None, what="the future to be forgotten")


def test_calls_with_options_end_with_the_pool(make_pool):
    with make_pool(1) as pool:
        calls, unused = pool.options(retries=1), pool.options(retries=2)
        assert calls.run(tasks.double, 1) == 2
    for call in (calls.submit, calls.run, unused.submit, unused.run):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call(tasks.double, 1)


def test_the_timeout_of_a_map_is_for_all_its_results(make_pool, gate):
    with make_pool(1) as pool:
        calls = pool.options(timeout=0.2)
        with pytest.raises(TimeoutError):
            list(calls.map(tasks.pass_gate, [gate.path]))
        gate.open()
        assert list(calls.map(tasks.double, range(3), timeout=20)) == [0, 2, 4]


# --- Cancelling


@pytest.mark.parametrize("sent", [True, False], ids=["on the worker", "in the pool"])
async def test_what_is_cancelled_before_it_begins_is_not_run(make_pool, gate, tmp_path, sent):
    never = Gate(tmp_path, "never")
    async with make_pool(1, qsize=4 if sent else 1) as pool:
        blocker = pool.run_async(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        waiting = [pool.run_async(tasks.marked, never.path) for _ in range(3)]
        assert (waiting[0].link is not None) == sent
        for call in waiting:
            call.cancel()
        gate.open()
        await blocker
        assert await pool.run_async(tasks.double, 1) == 2
        assert never.arrived() == 0


def test_a_future_of_a_running_coroutine_can_be_cancelled(make_pool, gate):
    with make_pool(1) as pool:
        future = pool.submit(tasks.wait_for_cancel, gate.path)
        told = []
        future.add_done_callback(told.append)
        gate.wait_for(1)
        assert future.running() and future.cancel() and future.cancelled()
        assert told == [future]
        assert concurrent.futures.wait([future]).done == {future}
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        wait_until(lambda: gate.marks("cancelled"), what="the coroutine to be cancelled")
        assert pool.run(tasks.double, 1) == 2


def test_a_future_of_a_running_function_can_not_be_cancelled_unless_asked_for(make_pool, gate):
    with make_pool(1) as pool:
        future = pool.submit(tasks.pass_gate, gate.path, 5)
        gate.wait_for(1)
        assert not future.cancel()
        gate.open()
        assert future.result() == 5


class Alarm(BaseException):
    """Raised by a handler of a signal, as KeyboardInterrupt is."""


def raise_alarm(number, frame):
    raise Alarm


@pytest.mark.parametrize("by_lane", [False, True], ids=["first", "lane"])
@pytest.mark.parametrize(("func", "mark"), [
    (tasks.spin, "interrupted"), (tasks.wait_for_cancel, "cancelled")])
def test_a_call_is_cancelled_when_the_wait_for_it_is_interrupted(
        make_pool, gate, func, mark, by_lane):
    def interrupt():
        gate.wait_for(1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_alarm)
    try:
        with make_pool(1) as pool:
            if by_lane:
                open_lanes(pool)
            calls = pool.options(cancel_running="interrupt", grace=60)
            interrupter = threading.Thread(target=interrupt)
            interrupter.start()
            with pytest.raises(Alarm):
                calls.run(func, gate.path)
            wait_until(lambda: gate.marks(mark) == 1, f"the task to be {mark}")
            interrupter.join()
            assert pool.run(tasks.double, 2) == 4
            assert pool.statistics().workers_lost == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_heard_of_that_came_just_before_the_wait(make_pool, gate):
    def interrupt():
        gate.wait_for(1)
        sent.append(time.monotonic())
        _thread.interrupt_main(signal.SIGUSR1)  # as then, no system call is interrupted

    sent = []
    before = signal.signal(signal.SIGUSR1, raise_alarm)
    try:
        with make_pool(1) as pool:
            open_lanes(pool)
            interrupter = threading.Thread(target=interrupt)
            interrupter.start()
            with pytest.raises(Alarm):
                pool.run(tasks.pass_gate, gate.path)
            assert time.monotonic() - sent[0] < tasks.GATE_TIMEOUT - 1  # not when the task ended
            gate.open()
            interrupter.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("func", [tasks.spin, tasks.sleep_behind])
def test_a_running_function_is_interrupted_where_asked_to(make_pool, gate, func):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        future = pool.options(cancel_running="interrupt", grace=60).submit(func, gate.path)
        gate.wait_for(1)
        began = time.monotonic()
        assert future.cancel()
        assert pool.run(tasks.pid) == pid  # the worker is free, and the same
        assert time.monotonic() - began < SOON
        assert gate.marks("interrupted") == (func is tasks.spin)
        assert pool.statistics().workers_lost == 0


async def test_a_running_call_is_interrupted_when_its_time_is_over(make_pool, gate):
    async with make_pool(1) as pool:
        pid = await pool.run_async(tasks.pid)
        calls = pool.options(cancel_running="interrupt", grace=60)
        for limit in (lambda call: asyncio.wait_for(call, 0.2), _in_timeout, _in_cancelled_task):
            arrived = gate.arrived()
            with pytest.raises((TimeoutError, asyncio.CancelledError)):
                await limit(calls.run_async(tasks.spin, gate.path))
            assert await pool.run_async(tasks.pid) == pid
            assert gate.marks("interrupted") == gate.arrived() <= arrived + 1


async def _in_timeout(call):
    async with asyncio.timeout(0.2):
        await call


async def _in_cancelled_task(call):
    task = asyncio.create_task(call)
    await asyncio.sleep(0.2)
    task.cancel()
    await task


def test_a_timeout_interrupts_too(make_pool, gate):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        with pytest.raises(TimeoutError):
            pool.options(timeout=0.2, cancel_running="interrupt", grace=60).run(
                tasks.spin, gate.path)
        assert pool.run(tasks.pid) == pid


def test_a_function_that_does_not_end_is_ended_with_its_worker(make_pool, gate):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        future = pool.options(cancel_running="interrupt", grace=0.3).submit(
            tasks.spin_stubbornly, gate.path)
        gate.wait_for(1)
        assert future.cancel()
        assert pool.run(tasks.pid) != pid
        assert not is_alive(pid)
        assert gate.marks("interrupted") == 1
        assert pool.statistics().workers_lost == 0  # the pool wanted it


def test_a_running_function_is_killed_where_asked_to(make_pool, gate):
    with make_pool(1, cancel_running="kill") as pool:
        pid = pool.run(tasks.pid)
        future = pool.submit(tasks.spin, gate.path)
        gate.wait_for(1)
        assert future.cancel()
        assert pool.run(tasks.pid) != pid
        assert gate.marks("interrupted") == 0


def test_leaving_a_map_ends_what_runs_where_asked_to(make_pool, gate):
    with make_pool(2) as pool:
        pids = set(pool.run_on_all(tasks.pid))
        results = pool.options(cancel_running="interrupt", grace=60).map(
            tasks.spin, [gate.path] * 10)
        gate.wait_for(2)
        results.close()
        assert set(pool.run_on_all(tasks.pid)) == pids
        assert gate.marks("interrupted") == gate.arrived() == 2


async def test_what_is_interrupted_is_the_task_that_is_meant(make_pool, gate, tmp_path):
    """Those before and behind it on the same worker are done as if nothing had been."""
    async with make_pool(1, qsize=10) as pool:
        await pool.run_async(tasks.pid)
        calls = pool.options(cancel_running="interrupt", grace=60)
        before = [calls.run_async(tasks.double, x) for x in range(3)]
        meant = [calls.run_async(tasks.spin, gate.path) for _ in range(3)]
        behind = [calls.run_async(tasks.double, x) for x in range(3)]
        await gate.wait_for_async(1)
        for call in meant:
            call.cancel()
        assert [await call for call in before + behind] == [0, 2, 4, 0, 2, 4]
        assert gate.arrived() == 1


def test_cancelling_what_is_done_already_harms_nobody(make_pool):
    """The interrupt comes when another task runs, or none."""
    with make_pool(1, cancel_running="kill") as pool:
        pid = pool.run(tasks.pid)
        for _ in range(200):
            future = pool.submit(tasks.double, 1)
            while not (future.running() or future.done()):
                time.sleep(0)
            future.cancel()
            assert pool.submit(tasks.double, 2).result() == 4
        if pool.run(tasks.pid) == pid:
            assert pool.statistics().workers_lost == 0


# --- Contexts


@pytest.fixture
def level():
    root = logging.getLogger()
    before = root.level
    yield root.setLevel
    root.setLevel(before)


def test_context_variables_travel_on_request(pool):
    token = tasks.request.set("mine")
    try:
        assert pool.run(tasks.request_here) == "none"
        calls = pool.options(context=True)
        assert calls.run(tasks.request_here) == "mine"
        assert calls.submit(tasks.request_here).result() == "mine"
        assert list(calls.map(tasks.request_for, [1, 2])) == [(1, "mine"), (2, "mine")]
        assert pool.run(tasks.request_here) == "none"
    finally:
        tasks.request.reset(token)


def test_a_function_that_takes_its_context_along_is_let_go_of(make_pool):
    def func():
        return 1

    reference = weakref.ref(func)
    with make_pool(1) as pool:
        assert pool.options(context=True).run(func) == 1
    del func
    gc.collect()
    assert reference() is None


def test_a_task_does_not_change_the_context_of_others(make_pool):
    with make_pool(1) as pool:
        pool.options(context=True).run(tasks.change_request, "changed")
        assert pool.run(tasks.request_here) == "none"


async def test_coroutines_that_overlap_have_contexts_of_their_own(make_pool):
    async with make_pool(1, qsize=10) as pool:
        async def ask(name):
            tasks.request.set(name)
            return await pool.options(context=True).run_async(tasks.request_after, 0.05)

        names = [f"request {n}" for n in range(10)]
        assert await asyncio.gather(*map(ask, names)) == names


def test_the_level_of_logging_travels_on_request(pool, level):
    for number in logging.DEBUG, logging.ERROR:
        level(number)
        assert pool.options(context=True).run(tasks.log_level) == number


def test_a_context_variable_of_a_script_travels(tmp_path):
    assert run_script("""
import contextvars
from distex import Pool

user = contextvars.ContextVar("user", default="nobody")

def ask():
    return user.get()

with Pool(1) as pool:
    user.set("me")
    print(pool.run(ask), pool.options(context=True).run(ask))
""", tmp_path) == ["nobody me"]


def test_a_warning_in_a_worker_is_seen(tmp_path):
    from .support import Script

    with Script("""
import warnings
from distex import Pool

with Pool(1) as pool:
    pool.run(warnings.warn, "look here", UserWarning)
""", tmp_path) as script:
        script.finish()
        assert "UserWarning: look here" in script.stderr


# --- A bound on what is under way


def test_a_full_pool_lets_callers_wait(make_pool, gate):
    with make_pool(1, max_pending=3) as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path, x) for x in range(3)]
        more = threading.Thread(target=lambda: futures.append(pool.submit(tasks.double, 5)))
        more.start()
        gate.wait_for(1)
        more.join(0.05)
        assert more.is_alive() and len(futures) == 3
        gate.open()
        more.join(SOON)
        assert [future.result() for future in futures] == [0, 1, 2, 10]
        assert pool.run(tasks.double, 1) == 2


def test_a_full_pool_refuses_where_asked_to(make_pool, gate):
    with make_pool(1, max_pending=2, when_full="raise") as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path, x) for x in range(2)]
        for call in (pool.submit, pool.run, pool.options(retries=1).submit):
            with pytest.raises(PoolFull, match="has 2 tasks already"):
                call(tasks.double, 1)
        gate.open()
        assert [future.result() for future in futures] == [0, 1]
        wait_until(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")
        assert pool.run(tasks.double, 1) == 2


def test_room_is_neither_lost_nor_made_up(make_pool):
    """However many threads take it, and however their tasks end."""
    with make_pool(2, max_pending=3) as pool:
        def use(number):
            for x in range(60):
                future = pool.submit(tasks.fail if x % 7 == 0 else tasks.double, x)
                if (x + number) % 3 == 0:
                    future.cancel()
                elif x % 7:
                    with contextlib.suppress(concurrent.futures.CancelledError):
                        assert future.result() == 2 * x
                assert pool._home.dispatcher.semaphore.held <= 3

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(use, range(8)))
        wait_until(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")
        with pytest.raises(Exception, match="pickle"):
            pool.run(threading.Lock())
        wait_until(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")


def test_room_is_left_by_calls_whose_loop_was_closed(make_pool, gate):
    with make_pool(1, max_pending=2) as pool:
        async def leave_alone():
            return pool.run_async(tasks.pass_gate, gate.path)

        loop = asyncio.new_event_loop()
        call = loop.run_until_complete(leave_alone())
        loop.close()
        assert not call.done()
        assert pool._home.dispatcher.semaphore.held == 1
        gate.open()
        wait_until(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")


async def test_a_full_pool_lets_coroutines_wait(make_pool, gate):
    async with make_pool(1, max_pending=2) as pool:
        waiting = [asyncio.create_task(pool.run_async(tasks.pass_gate, gate.path, x))
                   for x in range(20)]
        await gate.wait_for_async(1)
        assert pool._home.dispatcher.semaphore.held == 2
        for task in waiting[5:10]:
            task.cancel()
        gate.open()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [x for x in results if isinstance(x, int)] == [*range(5), *range(10, 20)]
        await wait_until_async(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")


def test_the_time_of_a_task_runs_while_it_waits_in_a_full_pool(make_pool, gate):
    with make_pool(1, max_pending=1) as pool:
        first = pool.submit(tasks.pass_gate, gate.path, 1)
        gate.wait_for(1)
        late = pool.options(timeout=0.05)
        with pytest.raises(TimeoutError, match="full"):
            late.run(tasks.double, 1)
        with pytest.raises(TimeoutError, match="full"):
            late.submit(tasks.double, 1).result()

        async def wait():
            with pytest.raises(TimeoutError):
                await late.run_async(tasks.double, 1)

        asyncio.run(wait())
        gate.open()
        assert first.result() == 1
        assert pool.run(tasks.double, 4) == 8
        wait_until(lambda: pool._home.dispatcher.semaphore.held == 0, what="room")


async def test_the_time_that_a_task_has_waited_counts(make_pool, gate):
    async with make_pool(1, max_pending=1) as pool:
        first = pool.run_async(tasks.pass_gate, gate.path, 1)
        # those that wait longest end first, whichever came last to the worker
        waiting = [pool.options(timeout=timeout).run_async(tasks.double, 1)
                   for timeout in (0.3, 0.2, 0.1)]
        ended = []
        for task in waiting:
            task.add_done_callback(ended.append)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert ended == waiting[::-1]
        assert all(isinstance(task.exception(), TimeoutError) for task in waiting)
        gate.open()
        assert await first == 1


def test_what_waits_on_a_loop_that_is_closed_takes_no_place(make_pool, gate):
    with make_pool(1, max_pending=1) as pool:
        first = pool.submit(tasks.pass_gate, gate.path, 1)
        gate.wait_for(1)

        async def leave():
            return [pool.run_async(tasks.double, x) for x in range(3000)]

        left = asyncio.run(leave())
        gate.open()
        assert first.result() == 1
        assert pool.submit(tasks.double, 4).result(timeout=20) == 8
        assert pool.run(tasks.double, 4) == 8
        assert not any(task.done() for task in left)


async def test_what_waits_in_a_full_pool_ends_with_the_pool(make_pool, gate):
    async with make_pool(1, max_pending=1) as pool:
        calls = [pool.run_async(tasks.pass_gate, gate.path, x) for x in range(50)]
        await gate.wait_for_async(1)
        await pool.kill_async()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, PoolClosed) for result in results)


async def test_what_waits_in_a_full_pool_is_done_before_it_shuts_down(make_pool):
    async with make_pool(1, max_pending=2) as pool:
        calls = [pool.run_async(tasks.double, x) for x in range(200)]
    assert [call.result() for call in calls] == [2 * x for x in range(200)]


async def test_a_full_pool_refuses_calls_of_coroutines_where_asked_to(make_pool, gate):
    async with make_pool(1, max_pending=1, when_full="raise") as pool:
        first = pool.run_async(tasks.pass_gate, gate.path, 1)
        with pytest.raises(PoolFull):
            pool.run_async(tasks.double, 1)
        gate.open()
        assert await first == 1
        await asyncio.sleep(0)
        assert await pool.run_async(tasks.double, 1) == 2


async def test_waiting_for_room_on_the_pools_own_loop_is_refused(make_pool, gate):
    async with make_pool(1, max_pending=1) as pool:
        first = pool.submit(tasks.pass_gate, gate.path)
        with pytest.raises(RuntimeError, match="block the event loop"):
            pool.submit(tasks.double, 1)
        gate.open()
        await asyncio.wrap_future(first)


# --- Workers that are replaced


@pytest.mark.parametrize("limit", [1, 3])
def test_a_worker_is_replaced_after_a_number_of_tasks(make_pool, limit):
    with make_pool(1, max_tasks_per_child=limit) as pool:
        futures = [pool.submit(tasks.pid) for _ in range(12)]
        pids = [future.result() for future in futures]
        assert all(pids.count(pid) <= limit for pid in pids)
        pids = [pool.run(tasks.pid) for _ in range(12)]
        assert all(pids.count(pid) <= limit for pid in pids)
        statistics = pool.statistics()
        assert statistics.workers_recycled >= 12 // limit
        assert statistics.workers_lost == 0
        assert pool.total_workers() <= 1


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_loses_nothing_when_workers_are_replaced(make_pool, ordered):
    with make_pool(2, max_tasks_per_child=20) as pool:
        results = list(pool.map(tasks.double, range(500), ordered=ordered))
        assert sorted(results) == list(range(0, 1000, 2))
        assert pool.statistics().workers_recycled >= 20


async def test_coroutines_end_before_their_worker_is_replaced(make_pool):
    async with make_pool(1, qsize=10, max_tasks_per_child=5) as pool:
        calls = [pool.run_async(tasks.sleep_and_give, 0.05, x) for x in range(20)]
        assert await asyncio.gather(*calls) == list(range(20))
        assert pool.statistics().workers_recycled >= 3


def test_each_new_worker_runs_the_initializer(make_pool):
    with make_pool(1, initializer=tasks.remember, initargs=("key", "value"),
                   max_tasks_per_child=1) as pool:
        assert [pool.submit(tasks.recall, "key").result() for _ in range(3)] == ["value"] * 3


def test_a_worker_that_uses_too_much_memory_is_replaced(make_pool, monkeypatch):
    from distex import options

    monkeypatch.setattr(options, "MEMORY_INTERVAL", 0.02)
    with make_pool(1, max_memory_per_child=200 * 2**20) as pool:
        pid = pool.run(tasks.pid)
        assert pool.run(tasks.keep_bytes, 10) == pid
        assert pool.run(tasks.keep_bytes, 300 * 2**20) == pid
        wait_until(lambda: pool.statistics().workers_recycled == 1, what="it to be replaced")
        assert pool.run(tasks.pid) != pid
        assert pool.statistics().workers_lost == 0
    assert not is_alive(pid)


@pytest.mark.parametrize("name", ["max_tasks_per_child", "max_memory_per_child"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_limits_of_workers_that_make_no_sense(name, value, error):
    with pytest.raises(error, match=name):
        Pool(1, **{name: value})


# --- What a service wants to know, and to do


def test_each_lost_worker_is_told(make_pool):
    told = []
    with make_pool(1, on_worker_lost=told.append) as pool:
        pid = pool.run(tasks.pid)
        with pytest.raises(WorkerLost):
            pool.run(tasks.exit_worker, 5)
        assert pool.run(tasks.double, 1) == 2
        (lost,) = told
        assert (lost.pid, lost.exitcode, lost.out_of_memory) == (pid, 5, False)
        statistics = pool.statistics()
        assert (statistics.workers_lost, statistics.tasks_lost) == (1, 1)
        assert statistics.tasks_done >= 2
    assert len(told) == 1


def test_a_hook_that_fails_harms_nobody(make_pool, caplog):
    def hook(lost):
        raise ValueError("the hook's own")

    with make_pool(1, on_worker_lost=hook) as pool:
        with pytest.raises(WorkerLost):
            pool.run(tasks.exit_worker, 5)
        assert pool.run(tasks.double, 1) == 2
    assert "on_worker_lost failed" in caplog.text


def test_kill_ends_everything_at_once(make_pool, gate):
    with make_pool(2) as pool:
        pids = pool.run_on_all(tasks.pid)
        futures = [pool.submit(tasks.spin_stubbornly, gate.path) for _ in range(5)]
        gate.wait_for(2)
        pool.kill()
        assert not any(map(is_alive, pids))
        assert all(isinstance(future.exception(), PoolClosed) for future in futures)
        with pytest.raises(RuntimeError):
            pool.submit(abs, 1)


async def test_kill_of_an_asynchronous_pool(make_pool, gate):
    async with make_pool(2) as pool:
        calls = [pool.run_async(tasks.spin_stubbornly, gate.path) for _ in range(5)]
        await gate.wait_for_async(2)
        await pool.kill_async()
        for call in calls:
            with pytest.raises(PoolClosed):
                await call


# --- Wrong options


@pytest.mark.parametrize(("options", "error"), [
    ({"retries": -1}, ValueError), ({"retries": 1.5}, TypeError), ({"retries": True}, TypeError),
    ({"timeout": 0}, ValueError), ({"timeout": -1}, ValueError),
    ({"timeout": float("nan")}, ValueError), ({"cancel_running": "stop"}, ValueError),
    ({"grace": 0}, ValueError),
])
def test_options_that_make_no_sense(pool, options, error):
    with pytest.raises(error):
        pool.options(**options)
    with pytest.raises(error):
        TaskOptions(**options)


@pytest.mark.parametrize(("arguments", "error"), [
    ({"retries": -1}, ValueError), ({"cancel_running": "stop"}, ValueError),
    ({"max_pending": 0}, ValueError), ({"max_pending": 1.5}, TypeError),
    ({"when_full": "explode"}, ValueError), ({"on_worker_lost": 5}, TypeError),
])
def test_arguments_of_a_pool_that_make_no_sense(arguments, error):
    with pytest.raises(error):
        Pool(1, **arguments)
