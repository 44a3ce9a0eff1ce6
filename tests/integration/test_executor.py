"""The Executor contract (PEP 3148), and what code for ProcessPoolExecutor relies on."""

import asyncio
import concurrent.futures
import gc
import itertools
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from concurrent.futures.process import BrokenProcessPool

import pytest

from distex import Pool, WorkerLost

from . import tasks
from .support import Gate, descendants, open_lanes, run_script, wait_until

# --- Pool is a concurrent.futures.Executor: isinstance holds


def test_a_pool_is_an_executor_and_what_submit_gives_is_a_future(pool):
    assert isinstance(pool, concurrent.futures.Executor)
    assert isinstance(pool.submit(tasks.nothing), concurrent.futures.Future)


# --- submit works from any thread with no loop running


def test_submit_gives_the_result(pool):
    assert pool.submit(pow, 2, 8).result() == 256
    assert pool.submit(tasks.give_back, 1, *"ab", self=2, fn=3, func=4, pool=5).result() == (
        (1, "a", "b"), {"self": 2, "fn": 3, "func": 4, "pool": 5})


def test_submit_needs_a_function(pool):
    with pytest.raises(TypeError):
        pool.submit()
    with pytest.raises(TypeError):
        pool.submit(func=tasks.nothing)


def test_submit_works_from_any_thread(pool):
    results = {}

    def work(number):
        futures = [pool.submit(tasks.add, number, x) for x in range(200)]
        results[number] = [future.result() for future in futures]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [n + x for x in range(200)] for n in range(8)}


def test_submit_of_a_coroutine_function_gives_what_it_returns(pool):
    assert pool.submit(tasks.double_async, 4).result() == 8


def test_the_first_submit_starts_a_lazy_pool(make_pool):
    pool = make_pool(1, lazy_create=True)
    assert not pool.is_ready() and pool.total_workers() == 0
    assert pool.submit(tasks.double, 2).result() == 4
    pool.shutdown()


# --- result, add_done_callback, wait, as_completed, cancel: what the standard library says


def test_the_states_of_a_future(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path, 1)
        pending = pool.submit(tasks.double, 2)
        gate.wait_for(1)
        assert running.running() and not running.done() and not running.cancelled()
        assert not pending.running() and not pending.done()
        assert "running" in repr(running) and "pending" in repr(pending)
        gate.open()
        assert running.result() == 1 and running.done() and not running.running()
        assert running.exception() is None
        assert pending.result() == 4
        assert "finished returned int" in repr(pending)


def test_timeouts_of_result_and_exception(pool, gate):
    future = pool.submit(tasks.pass_gate, gate.path, 1)
    for timeout in 0, 0.02, -1:
        with pytest.raises(TimeoutError):
            future.result(timeout=timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout)
    gate.open()
    assert future.result(timeout=20) == 1
    assert future.result(timeout=0) == 1


def test_an_exception_comes_with_the_traceback_on_the_worker_as_its_cause(pool):
    future = pool.submit(tasks.fail, "no luck")
    with pytest.raises(ValueError, match=r"^no luck$") as failure:
        future.result()
    assert future.exception() is failure.value
    text = str(failure.value.__cause__)
    assert "Traceback (most recent call last)" in text
    assert 'raise ValueError(message)' in text and "tasks.py" in text
    assert "execute.pyx" not in text
    assert "no luck" in "".join(traceback.format_exception(failure.value))


def test_the_remote_traceback_shows_the_exceptions_own_cause(pool):
    future = pool.submit(raise_with_cause)
    assert "ZeroDivisionError" in str(future.exception().__cause__)


def raise_with_cause():
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as exc:
        raise KeyError("from it") from exc


def test_a_pending_task_can_be_cancelled(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        pending = [pool.submit(tasks.marked, gate.path) for _ in range(5)]
        assert all(future.cancel() for future in pending)
        assert all(future.cancel() for future in pending)  # again: still true
        assert all(future.cancelled() and future.done() for future in pending)
        with pytest.raises(concurrent.futures.CancelledError):
            pending[0].result()
        with pytest.raises(concurrent.futures.CancelledError):
            pending[0].exception()
        last = pool.submit(tasks.double, 1)
        gate.open()
        assert running.result() is None and last.result() == 2
    assert gate.arrived() == 1  # none of the cancelled ones was run


def test_a_running_or_finished_task_cannot_be_cancelled(pool, gate):
    future = pool.submit(tasks.pass_gate, gate.path, "done")
    gate.wait_for(1)
    assert not future.cancel()
    assert future.running()
    gate.open()
    assert future.result() == "done"
    assert not future.cancel() and not future.cancelled()


def test_callbacks_are_called_with_the_future_in_the_order_they_were_added(pool, gate):
    calls = []
    done = threading.Event()
    future = pool.submit(tasks.pass_gate, gate.path, 7)
    for n in range(3):
        future.add_done_callback(lambda f, n=n: calls.append((n, f.result())))
    future.add_done_callback(lambda f: done.set())
    gate.open()
    assert done.wait(20)
    assert calls == [(0, 7), (1, 7), (2, 7)]
    future.add_done_callback(lambda f: calls.append("at once"))
    assert calls[-1] == "at once"


def test_callbacks_are_called_for_failures_and_cancellations(make_pool, gate):
    seen = []
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        cancelled = pool.submit(tasks.nothing)
        cancelled.add_done_callback(lambda f: seen.append(f.cancelled()))
        cancelled.cancel()
        assert seen == [True]
        failing = pool.submit(tasks.fail)
        failing.add_done_callback(lambda f: seen.append(type(f.exception())))
        gate.open()
        running.result()
    assert seen == [True, ValueError]


def test_a_callback_that_raises_harms_nobody(pool, gate, caplog):
    calls = []
    future = pool.submit(tasks.pass_gate, gate.path)

    def bad(f):
        raise RuntimeError("a bad callback")

    future.add_done_callback(bad)
    future.add_done_callback(calls.append)
    gate.open()
    future.result()
    wait_until(lambda: calls == [future])
    assert "calling callback" in caplog.text and "a bad callback" in caplog.text
    assert pool.submit(tasks.double, 1).result() == 2


def test_a_callback_may_submit(pool):
    got = []
    done = threading.Event()

    def again(future):
        follow_up = pool.submit(tasks.double, future.result())
        follow_up.add_done_callback(lambda f: (got.append(f.result()), done.set()))

    pool.submit(tasks.double, 3).add_done_callback(again)
    assert done.wait(20) and got == [12]


def test_waiting_in_a_callback_for_another_task_is_an_error_not_a_deadlock(pool):
    errors = []
    done = threading.Event()

    def wait_here(future):
        try:
            pool.submit(tasks.double, 3).result()
        except RuntimeError as exc:
            errors.append(str(exc))
        finally:
            done.set()

    pool.submit(tasks.sleep_and_give, 0.01).add_done_callback(wait_here)
    assert done.wait(20)
    assert errors == [] or "block" in errors[0]  # it was done before the callback was added, or so


@pytest.mark.parametrize("when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait_returns_when_it_should(make_pool, tmp_path, when):
    ok, bad, late = (Gate(tmp_path, name) for name in ("ok", "bad", "late"))
    with make_pool(3) as pool:
        good = pool.submit(tasks.pass_gate, ok.path)
        failing = pool.submit(fail_behind, bad.path)
        slow = pool.submit(tasks.pass_gate, late.path)
        futures = {good, failing, slow}
        assert concurrent.futures.wait(futures, timeout=0, return_when=when) == (set(), futures)
        ok.open()
        if when == FIRST_COMPLETED:
            expected = {good}
        else:
            good.result()
            bad.open()
            expected = {good, failing}
            if when == ALL_COMPLETED:
                assert failing.exception()
                assert concurrent.futures.wait(futures, timeout=0.02)[0] == expected
                late.open()
                expected = futures
        done, pending = concurrent.futures.wait(futures, timeout=20, return_when=when)
        assert done == expected and pending == futures - expected
        for gate in ok, bad, late:
            gate.open()
        assert concurrent.futures.wait(futures, return_when=when).done


def fail_behind(gate):
    tasks.pass_gate(gate)
    raise ValueError("behind the gate")


def test_wait_counts_cancelled_futures_as_done(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        pending = pool.submit(tasks.nothing)
        waiting = threading.Thread(target=concurrent.futures.wait, args=([pending],))
        waiting.start()
        pending.cancel()
        waiting.join(20)
        assert not waiting.is_alive()
        gate.open()
        running.result()


def test_as_completed_yields_each_future_once_as_they_end(make_pool, tmp_path):
    first, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
    with make_pool(2) as pool:
        slow = pool.submit(tasks.pass_gate, second.path)
        quick = pool.submit(tasks.pass_gate, first.path)
        done = concurrent.futures.Future()
        done.set_result(None)
        results = concurrent.futures.as_completed([slow, quick, done, quick])
        assert next(results) is done
        first.open()
        assert next(results) is quick
        second.open()
        assert next(results) is slow
        assert list(results) == []


def test_as_completed_with_a_timeout(pool, gate):
    future = pool.submit(tasks.pass_gate, gate.path)
    for timeout in 0, 0.02:
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed([future], timeout=timeout))
    gate.open()
    assert list(concurrent.futures.as_completed([future], timeout=20)) == [future]


# --- map


def test_map_is_as_the_built_in(pool):
    assert list(pool.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(pool.map(tasks.add, range(5), range(3))) == [0, 2, 4]
    assert list(pool.map(tasks.double, iter([1, 2]))) == [2, 4]


@pytest.mark.parametrize("chunksize", [1, 2, 3, 10, 1000])
def test_map_with_a_chunksize(pool, chunksize):
    assert list(pool.map(pow, range(100), [2] * 100, chunksize=chunksize)) == [
        x**2 for x in range(100)]


def test_map_with_a_chunksize_that_makes_no_sense(pool):
    for chunksize in 0, -1:
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(tasks.double, [1], chunksize=chunksize)


def test_map_with_a_buffersize(pool):
    for buffersize in 1, 2, 5, 100:
        assert list(pool.map(tasks.double, range(50), buffersize=buffersize)) == list(
            range(0, 100, 2))
    for buffersize, error in (0, ValueError), (-1, ValueError), ("x", TypeError), (1.5, TypeError):
        with pytest.raises(error):
            pool.map(tasks.double, [1], buffersize=buffersize)


def test_map_raises_what_a_call_raised_in_its_place(pool):
    results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_with_a_timeout(pool, gate):
    calls = [tasks.double, tasks.double, wait_behind], [1, 2, gate.path]
    for timeout in 0.2, 2.0, 20.0:  # on a machine that is slow now the first may be too short
        results = []
        with pytest.raises(TimeoutError):
            for x in pool.map(call, *calls, timeout=timeout, chunksize=1):
                results.append(x)
        if len(results) == 2:
            break
        gate.open()
        pool.run_on_all(os.getpid)  # behind what waited at the gate
        gate.close()
    assert results == [2, 4]
    gate.open()


def call(func, arg):
    return func(arg)


def wait_behind(gate):
    tasks.pass_gate(gate)


def test_map_with_a_timeout_of_zero(pool, gate):
    with pytest.raises(TimeoutError):
        next(pool.map(tasks.pass_gate, [gate.path], timeout=0))
    gate.open()


def test_map_submits_at_once_up_to_its_bound_not_at_the_first_next(pool, gate):
    results = pool.map(tasks.marked, [gate.path] * 4, range(4), chunksize=1)
    gate.wait_for(4)
    assert list(results) == [0, 1, 2, 3]


def test_a_map_whose_results_nobody_asks_for_is_run(make_pool, gate):
    with make_pool(2) as pool:
        pool.map(tasks.marked, [gate.path] * 4, chunksize=1)
    assert gate.arrived() == 4


def test_map_works_inside_a_running_loops_thread(make_pool):
    async def main():
        with make_pool(2) as pool:
            first = list(pool.map(tasks.double, range(10)))
            second = pool.submit(tasks.double, 10).result()
            return first, second, pool.run(tasks.double, 11)

    assert asyncio.run(main()) == (list(range(0, 20, 2)), 20, 22)


# --- loop.run_in_executor, asyncio.wrap_future


async def test_run_in_executor(loop_type, pool):
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(pool, tasks.double, 4) == 8
    with pytest.raises(ValueError, match="in the executor"):
        await loop.run_in_executor(pool, tasks.fail, "in the executor")
    results = await asyncio.gather(*[
        loop.run_in_executor(pool, tasks.double, x) for x in range(100)])
    assert results == [2 * x for x in range(100)]


async def test_wrap_future(loop_type, pool):
    assert await asyncio.wrap_future(pool.submit(tasks.double, 4)) == 8
    with pytest.raises(ValueError, match="wrapped"):
        await asyncio.wrap_future(pool.submit(tasks.fail, "wrapped"))


async def test_cancelling_a_wrapped_future_cancels_the_pending_task(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        pending = pool.submit(tasks.marked, gate.path)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(pending), 0.01)
        assert pending.cancelled()
        gate.open()
        await asyncio.wrap_future(running)


# --- shutdown(wait, cancel_futures) and the context manager


def test_the_context_manager_waits_for_what_was_submitted(make_pool):
    with make_pool(2) as pool:
        futures = [pool.submit(tasks.sleep_and_give, 0.01, x) for x in range(20)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == list(range(20))


def test_the_context_manager_does_so_also_when_its_block_raises(make_pool):
    with pytest.raises(KeyError), make_pool(1) as pool:
        future = pool.submit(tasks.sleep_and_give, 0.01, 1)
        raise KeyError
    assert future.result(timeout=0) == 1


def test_after_shutdown_submit_and_map_raise_runtime_error(make_pool):
    pool = make_pool(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(tasks.nothing)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.map(tasks.double, [1])
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.run(tasks.nothing)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"), pool:
        pass
    pool.shutdown()  # again: nothing happens
    pool.shutdown(wait=False, cancel_futures=True)


def test_shutdown_of_a_pool_that_was_never_used(make_pool):
    make_pool(1, lazy_create=True).shutdown()
    make_pool(1).shutdown()
    with make_pool(1, lazy_create=True):
        pass


def test_shutdown_without_waiting_lets_pending_tasks_end(make_pool, gate):
    pool = make_pool(1)
    futures = [pool.submit(tasks.pass_gate, gate.path, x) for x in range(5)]
    pool.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        pool.submit(tasks.nothing)
    gate.open()
    assert [future.result(20) for future in futures] == list(range(5))


def test_shutdown_can_cancel_pending_tasks(make_pool, gate):
    pool = make_pool(1, qsize=1)
    futures = [pool.submit(tasks.pass_gate, gate.path, x) for x in range(20)]
    gate.wait_for(1)
    pool.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.cancelled() for future in futures[1:]))
    gate.open()
    pool.shutdown()
    assert futures[0].result(20) == 0
    assert gate.arrived() == 1


def test_a_worker_that_runs_a_leased_call_gets_another_task(make_pool, gate):
    """Whichever ends first, the pool knows whether the worker has something to do."""
    with make_pool(1) as pool:
        open_lanes(pool)
        (link,) = pool._home.dispatcher.links
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            leased = threads.submit(pool.run, tasks.pass_gate, gate.path, 1)
            gate.wait_for(1)
            everywhere = threads.submit(pool.run_on_all, tasks.double, 2)
            wait_until(lambda: link.in_flight == 2)
            gate.open()
            assert leased.result(20) == 1
            assert everywhere.result(20) == [4]
        assert list(pool.map(tasks.double, range(100))) == list(range(0, 200, 2))
        wait_until(lambda: link.in_flight == 0)
        assert pool.run(tasks.double, 3) == 6


def test_shutdown_can_cancel_a_map(make_pool, gate):
    """With the exception that code with futures expects, not the one of asyncio."""
    pool = make_pool(1, qsize=1)
    results = pool.map(tasks.pass_gate, itertools.repeat(gate.path), range(20))
    gate.wait_for(1)
    queue = pool._home.dispatcher.queue
    pool.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: not queue)
    gate.open()
    assert next(results) == 0
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    assert list(results) == []
    assert gate.arrived() == 1


def test_shutdown_from_several_threads(make_pool):
    pool = make_pool(2)
    futures = [pool.submit(tasks.double, x) for x in range(100)]
    threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [future.result(0) for future in futures] == [2 * x for x in range(100)]


def test_shutdown_from_a_callback(make_pool):
    pool = make_pool(1)
    done = threading.Event()
    future = pool.submit(tasks.sleep_and_give, 0.01)
    future.add_done_callback(lambda f: (pool.shutdown(), done.set()))
    assert done.wait(20)
    pool.shutdown()


def test_a_pool_that_is_garbage_ends_when_its_tasks_are_done(make_pool):
    pool = make_pool(1)
    worker = pool.run(tasks.pid)
    future = pool.submit(tasks.double, 2)
    del pool
    gc.collect()
    assert future.result(20) == 4
    wait_until(lambda: worker not in descendants(os.getpid()), what="its worker to be gone")


@pytest.mark.parametrize("ending", ["", "pool.shutdown(wait=False)", "del pool"])
def test_interpreter_exit_completes_pending_work(tmp_path, ending):
    run_script(f"""
import sys
from pathlib import Path
from distex import Pool

def work(folder, n):
    Path(folder, f"done-{{n}}").touch()

if __name__ == "__main__":
    pool = Pool(2)
    for n in range(50):
        pool.submit(work, sys.argv[1], n)
    {ending}
""", tmp_path, tmp_path)
    assert len(list(tmp_path.glob("done-*"))) == 50


def test_submit_during_interpreter_exit_is_refused_or_done(tmp_path):
    output = run_script("""
import atexit
from distex import Pool

def late():
    try:
        print(pool.submit(abs, -5).result(10))
    except RuntimeError as exc:
        print("refused", exc)

if __name__ == "__main__":
    pool = Pool(1)
    atexit.register(late)  # runs before what distex has registered
    print(pool.run(abs, -4))
""", tmp_path)
    assert output[0] == "4" and (output[1] == "5" or output[1].startswith("refused"))


# --- no stale references


def gone(reference):
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("func", [tasks.take_collectable, tasks.throw_collectable])
def test_arguments_and_results_are_released_once_a_task_is_done(pool, func):
    thing = tasks.Collectable(1)
    argument = weakref.ref(thing)
    future = pool.submit(func, thing)
    del thing
    concurrent.futures.wait([future])
    wait_until(lambda: gone(argument), what="the argument to be released")
    if future.exception() is None:
        result = weakref.ref(future.result())
        del future
        wait_until(lambda: gone(result), what="the result to be released")


def test_arguments_of_cancelled_tasks_are_released(make_pool, gate):
    with make_pool(1, qsize=1) as pool:
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        thing = tasks.Collectable(1)
        argument = weakref.ref(thing)
        future = pool.submit(tasks.take_collectable, thing)
        del thing
        future.cancel()
        gate.open()
        running.result()
        wait_until(lambda: gone(argument), what="the argument to be released")


def test_a_map_releases_results_as_they_are_taken(pool):
    things = [tasks.Collectable(n) for n in range(5)]
    references = [weakref.ref(thing) for thing in things]
    results = pool.map(tasks.take_collectable, things, chunksize=1)
    del things
    for n in range(5):  # enumerate() would hold the last one
        result = next(results)
        assert result.number == n + 1
        taken = weakref.ref(result)
        del result
        wait_until(lambda: gone(taken), what="the result to be released")
    del results
    assert all(gone(reference) for reference in references)


def test_methods_and_the_objects_they_belong_to_are_released(pool):
    thing = tasks.Collectable(1)
    reference = weakref.ref(thing)
    future = pool.submit(thing.method)
    del thing
    assert future.result() == 1
    wait_until(lambda: gone(reference), what="the method's object to be released")


# --- max_workers, idle workers, initializer, mp_context


def test_max_workers_is_checked(loop_type):
    for bad in 0, -1:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            Pool(max_workers=bad)
    with pytest.raises(TypeError):
        Pool(max_workers="2")
    with pytest.raises(ValueError, match="num_workers"):
        Pool(-1)
    with pytest.raises(TypeError):
        Pool(initializer=5)
    with pytest.raises(ValueError, match="qsize"):
        Pool(1, qsize=0)


def test_max_workers_is_the_number_of_workers(make_pool):
    with make_pool(max_workers=3) as pool:
        assert pool.total_workers() == 3
        assert len(set(pool.run_on_all(tasks.pid))) == 3


def test_idle_workers_are_used_before_busy_ones(make_pool, gate):
    with make_pool(3) as pool:
        busy = [pool.submit(tasks.pass_gate, gate.path) for _ in range(2)]
        gate.wait_for(2)
        # the third does all of these, though the others have room as well
        for _ in range(20):
            assert pool.submit(tasks.double, 1).result(20) == 2
        gate.open()
        assert [future.result() for future in busy] == [None, None]


def test_the_initializer_is_called_in_each_worker(make_pool):
    for initializer in tasks.remember, tasks.remember_async:
        with make_pool(2, initializer=initializer, initargs=("key", [1, 2])) as pool:
            assert pool.run_on_all(tasks.recall, "key") == [[1, 2]] * 2


def test_a_killed_child_breaks_its_task_with_broken_process_pool(make_pool, gate):
    with make_pool(1) as pool:
        worker = pool.run(tasks.pid)
        future = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool) as failure:
            future.result(20)
        assert isinstance(failure.value, WorkerLost)
        assert isinstance(failure.value, concurrent.futures.BrokenExecutor)
        # unlike with ProcessPoolExecutor, the pool goes on
        assert pool.submit(tasks.double, 4).result(20) == 8


def test_the_mp_context_is_accepted():
    import multiprocessing

    with Pool(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.run(tasks.double, 1) == 2


def test_a_script_written_for_process_pool_executor_runs_unchanged(tmp_path):
    source = """
import concurrent.futures
import math
{imports}

NUMBERS = [112272535095293, 112582705942171, 115280095190773, 1099726899285419]

def is_prime(n):
    return n > 1 and all(n % i for i in range(2, min(math.isqrt(n), 5000) + 1))

def main():
    with {executor}(max_workers=2) as executor:
        for number, prime in zip(NUMBERS, executor.map(is_prime, NUMBERS)):
            print(number, prime)
        futures = {{executor.submit(is_prime, n): n for n in NUMBERS}}
        print(sorted(futures[f] for f in concurrent.futures.as_completed(futures) if f.result()))

if __name__ == "__main__":
    main()
"""
    standard = "concurrent.futures.ProcessPoolExecutor"
    theirs = run_script(source.format(imports="", executor=standard), tmp_path)
    ours = run_script(source.format(imports="from distex import Pool", executor="Pool"), tmp_path)
    assert ours == theirs and len(ours) == 5


def test_waiting_takes_no_processor_time(make_pool, gate):
    with make_pool(1) as pool:
        future = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        began = time.process_time()
        with pytest.raises(TimeoutError):
            future.result(0.3)
        assert time.process_time() - began < 0.1
        gate.open()
        future.result()


def test_a_pool_may_be_shut_down_again_from_any_thread(make_pool):
    """A new thread may have the identity of the one that has run the pool's loop."""
    with make_pool(1) as pool:
        pool.run(tasks.nothing)
    for _ in range(20):
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(pool.shutdown).result(20)


def test_the_standard_librarys_shutdown_signature(make_pool):
    with pytest.raises(TypeError):
        make_pool(1, lazy_create=True).shutdown(True, True)


def test_a_call_may_be_cancelled_as_it_is_about_to_start(pool, caplog):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            futures = [pool.submit(abs, -1) for _ in range(20)]
            for future in futures:
                assert future._condition is not None  # as for one that somebody waits for
                future.cancel()
            assert not concurrent.futures.wait(futures, 20).not_done
    finally:
        sys.setswitchinterval(interval)
    assert not caplog.records
