"""In asyncio: the pool's futures work as asyncio's own do, gather and timeouts included.

Also maps over asynchronous input; and both faces at once, from any loop and any thread."""

import asyncio
import concurrent.futures
import itertools
import threading

import pytest

from distex import PoolClosed, WorkerLost

from . import tasks
from .support import DEADLINE, wait_until, wait_until_async

# --- run_async and what asyncio does with it


async def test_what_run_async_gives_can_be_awaited_more_than_once(make_pool):
    async with make_pool(1) as pool:
        call = pool.run_async(tasks.double, 4)
        assert await call == 8
        assert await call == 8
        assert call.done() and call.result() == 8 and call.exception() is None


async def test_calls_begin_at_once_and_run_together(make_pool, gate):
    async with make_pool(2) as pool:
        calls = [pool.run_async(tasks.pass_gate, gate.path, n) for n in range(2)]
        await gate.wait_for_async(2)  # nobody awaits them yet
        gate.open()
        assert [await call for call in calls] == [0, 1]


async def test_coroutine_functions_and_other_awaitables_are_awaited_on_the_worker(make_pool):
    async with make_pool(1) as pool:
        assert await pool.run_async(tasks.double_async, 4) == 8
        assert await pool.run_async(tasks.Collectable(1).method_async, 2) == 3
        assert await pool.run_async(asyncio.sleep, 0, "slept") == "slept"


async def test_gather(make_pool):
    async with make_pool(2) as pool:
        results = await asyncio.gather(*[pool.run_async(tasks.double, x) for x in range(500)])
        assert results == list(range(0, 1000, 2))
        results = await asyncio.gather(
            pool.run_async(tasks.double, 1), pool.run_async(tasks.fail, "gathered"),
            return_exceptions=True)
        assert results[0] == 2 and isinstance(results[1], ValueError)


async def test_task_group(make_pool):
    async with make_pool(2) as pool:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(pool.run_async(tasks.double, x)) for x in range(10)]
        assert [call.result() for call in calls] == list(range(0, 20, 2))


async def test_a_failure_in_a_task_group_cancels_the_other_calls(make_pool, gate):
    async with make_pool(1) as pool:
        with pytest.raises(ExceptionGroup) as failure:
            async with asyncio.TaskGroup() as group:
                other = group.create_task(pool.run_async(tasks.wait_for_cancel, gate.path))
                await gate.wait_for_async(1)
                group.create_task(pool.run_async(tasks.fail, "in the group"))
        assert [str(exc) for exc in failure.value.exceptions] == ["in the group"]
        assert other.cancelled()
        await wait_until_async(lambda: gate.marks("cancelled") == 1)


async def test_create_task_and_ensure_future(make_pool):
    async with make_pool(1) as pool:
        assert await asyncio.create_task(pool.run_async(tasks.double, 1)) == 2
        call = pool.run_async(tasks.double, 2)
        assert asyncio.isfuture(call) and asyncio.iscoroutine(call)
        assert await asyncio.ensure_future(call) == 4


async def test_wait_and_as_completed(make_pool):
    async with make_pool(2) as pool:
        # asyncio.wait() refuses all that counts as a coroutine
        calls = [asyncio.create_task(pool.run_async(tasks.double, x)) for x in range(5)]
        done, pending = await asyncio.wait(calls)
        assert {call.result() for call in done} == {0, 2, 4, 6, 8} and not pending
        calls = [pool.run_async(tasks.double, x) for x in range(5)]
        assert sorted([await call for call in asyncio.as_completed(calls)]) == [0, 2, 4, 6, 8]


async def test_done_callbacks(make_pool):
    async with make_pool(1) as pool:
        seen = []
        call = pool.run_async(tasks.double, 1)
        call.add_done_callback(lambda c: seen.append((1, c.result())))
        call.add_done_callback(lambda c: seen.append((2, c.result())))
        call.add_done_callback(seen.append)
        assert call.remove_done_callback(seen.append) == 1
        await call
        await wait_until_async(lambda: len(seen) == 2)
        assert seen == [(1, 2), (2, 2)]


async def test_an_exception_nobody_asked_for_is_reported_to_the_loop(make_pool):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    async with make_pool(1) as pool:
        call = pool.run_async(tasks.fail, "unseen")
        await wait_until_async(call.done)
        del call
        await wait_until_async(lambda: reports)
    assert "never retrieved" in reports[0]["message"]
    assert str(reports[0]["exception"]) == "unseen"


async def test_run_async_needs_a_running_loop(make_pool):
    async with make_pool(1) as pool:
        with pytest.raises(RuntimeError, match="no running event loop"):
            await asyncio.to_thread(pool.run_async, tasks.nothing)


# --- asyncio.wait_for, asyncio.timeout and cancel() on queued work drop it; on a running coroutine
# --- cancel it; on a running plain function leave the worker healthy


async def cancel(call):
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def wait_for(call):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.02)


async def timeout(call):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await call


async def cancel_task(call):
    await cancel(asyncio.create_task(call))


giving_up = pytest.mark.parametrize("give_up", [cancel, wait_for, timeout, cancel_task])


@giving_up
async def test_giving_up_queued_calls_drops_them(make_pool, gate, give_up):
    async with make_pool(1) as pool:
        running = pool.run_async(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        queued = [pool.run_async(tasks.marked, gate.path) for _ in range(4)]
        for call in queued:
            await give_up(call)
            assert call.cancelled()
        gate.open()
        await running
        assert await pool.run_async(tasks.double, 1) == 2
    # one had been sent to the worker, which may have begun it before it read the cancellation
    assert gate.arrived() <= 2


@giving_up
async def test_giving_up_a_running_coroutine_cancels_it(make_pool, gate, give_up):
    async with make_pool(1) as pool:
        call = pool.run_async(tasks.wait_for_cancel, gate.path)
        await gate.wait_for_async(1)
        await give_up(call)
        await wait_until_async(lambda: gate.marks("cancelled") == 1)
        assert await pool.run_async(tasks.double, 1) == 2


@giving_up
async def test_giving_up_a_running_function_leaves_the_worker_healthy(make_pool, gate, give_up):
    async with make_pool(1) as pool:
        worker = await pool.run_async(tasks.pid)
        call = pool.run_async(tasks.pass_gate, gate.path)
        await gate.wait_for_async(1)
        await give_up(call)
        gate.open()
        assert await pool.run_async(tasks.pid) == worker


async def test_shield_protects_a_call(make_pool, gate):
    async with make_pool(1) as pool:
        call = pool.run_async(tasks.pass_gate_async, gate.path, "shielded")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(call), 0.02)
        assert not call.done()
        gate.open()
        assert await call == "shielded"


async def test_a_coroutine_may_clean_up_while_it_is_cancelled(make_pool, gate):
    async with make_pool(1) as pool:
        call = pool.run_async(tasks.wait_for_cancel, gate.path)
        await gate.wait_for_async(1)
        assert call.cancel("a reason") is True
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancel() is False and call.cancelled()
    assert gate.marks("cancelled") == 1  # the shutdown let it


# --- from foreign loops and many threads; both faces at once


async def test_a_pool_is_used_from_the_loop_of_another_thread(make_pool, gate):
    async with make_pool(2) as pool:
        async def elsewhere():
            assert await pool.run_async(tasks.double, 1) == 2
            with pytest.raises(ValueError, match="elsewhere"):
                await pool.run_async(tasks.fail, "elsewhere")
            results = await asyncio.gather(*[pool.run_async(tasks.double, x) for x in range(300)])
            assert results == list(range(0, 600, 2))
            mapped = [x async for x in pool.map_async(tasks.negate, counting(300))]
            assert mapped == [-x for x in range(300)]
            assert len(set(await pool.run_on_all_async(tasks.pid))) == 2
            call = pool.run_async(tasks.wait_for_cancel, gate.path)
            await gate.wait_for_async(1)
            await cancel(call)
            await wait_until_async(lambda: gate.marks("cancelled") == 1)
            await pool.create()
            await pool.ready
            return "done"

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == "done"
        assert await pool.run_async(tasks.double, 2) == 4


async def test_a_foreign_loop_may_go_before_its_calls_are_done(make_pool, gate):
    async with make_pool(1) as pool:
        async def elsewhere():
            pool.run_async(tasks.pass_gate, gate.path)
            await gate.wait_for_async(1)

        await asyncio.to_thread(asyncio.run, elsewhere())
        gate.open()
        assert await pool.run_async(tasks.double, 2) == 4


async def test_a_pool_with_its_own_thread_is_used_from_a_loop(make_pool):
    with make_pool(2) as pool:
        assert await pool.run_async(tasks.double, 2) == 4
        assert [x async for x in pool.map_async(tasks.double, range(100))] == list(range(0, 200, 2))
        assert len(await pool.run_on_all_async(tasks.pid)) == 2
        assert pool.run(tasks.double, 3) == 6


async def test_both_faces_at_once(make_pool):
    async with make_pool(2) as pool:
        def synchronous(n):
            futures = [pool.submit(tasks.add, n, x) for x in range(100)]
            mapped = list(pool.map(tasks.add, [n] * 100, range(100)))
            return [future.result() for future in futures], mapped

        async with asyncio.TaskGroup() as group:
            threads = [group.create_task(asyncio.to_thread(synchronous, n)) for n in range(4)]
            calls = [group.create_task(pool.run_async(tasks.double, x)) for x in range(200)]
            mapped = [x async for x in pool.map_async(tasks.negate, range(200))]
        for n, thread in enumerate(threads):
            assert thread.result() == ([n + x for x in range(100)],) * 2
        assert [call.result() for call in calls] == list(range(0, 400, 2))
        assert mapped == [-x for x in range(200)]


async def test_blocking_the_pools_own_loop_is_an_error_not_a_deadlock(make_pool):
    async with make_pool(1) as pool:
        future = pool.submit(tasks.sleep_and_give, 0.05, 1)
        with pytest.raises(RuntimeError, match="would block"):
            future.result()
        with pytest.raises(RuntimeError, match="would block"):
            list(pool.map(tasks.double, [1]))
        with pytest.raises(RuntimeError, match="would block"):
            pool.run_on_all(tasks.pid)
        assert await asyncio.wrap_future(future) == 1


def test_many_threads_submit_and_map(make_pool):
    with make_pool(2) as pool, concurrent.futures.ThreadPoolExecutor(16) as threads:
        def work(n):
            futures = [pool.submit(tasks.double, x) for x in range(n, n + 300)]
            return [f.result() for f in futures] + list(pool.map(tasks.double, range(n, n + 300)))

        for n, results in enumerate(threads.map(work, range(16))):
            assert results == [2 * x for x in range(n, n + 300)] * 2


# --- run_on_all


async def test_run_on_all_async_calls_once_on_each_worker(make_pool):
    async with make_pool(3) as pool:
        pids = await pool.run_on_all_async(tasks.pid)
        assert len(pids) == len(set(pids)) == 3
        await pool.run_on_all_async(tasks.remember, "key", "value")
        assert await pool.run_on_all_async(tasks.recall, key="key") == ["value"] * 3
        assert await pool.run_on_all_async(tasks.double_async, 2) == [4] * 3
        with pytest.raises(ValueError, match="on all"):
            await pool.run_on_all_async(tasks.fail, "on all")


def test_run_on_all_calls_once_on_each_worker(make_pool, gate):
    with make_pool(2) as pool:
        busy = [pool.submit(tasks.pass_gate, gate.path) for _ in range(2)]
        gate.wait_for(2)
        results = []
        thread = threading.Thread(target=lambda: results.extend(pool.run_on_all(tasks.pid)))
        thread.start()  # behind what the workers are doing
        gate.open()
        thread.join(20)
        assert len(set(results)) == 2
        assert [future.result() for future in busy] == [None, None]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_run_on_all_while_workers_are_replaced(make_pool, number):
    """Each worker makes the call, or the one that has taken its place."""
    with make_pool(2, max_tasks_per_child=number) as pool:
        for _ in range(4):
            pids = pool.run_on_all(tasks.pid)
            assert len(pids) == len(set(pids)) == 2
            assert [pool.run(tasks.double, n) for n in range(3)] == [0, 2, 4]


async def test_run_on_all_while_workers_are_replaced_and_have_enough_to_do(make_pool):
    async with make_pool(2, max_tasks_per_child=1) as pool:
        others = [pool.run_async(tasks.double, n) for n in range(20)]
        for _ in range(3):
            assert await pool.run_on_all_async(tasks.double, 1) == [2, 2]
        assert await asyncio.gather(*others) == [2 * n for n in range(20)]


def test_run_on_all_waits_for_a_worker_where_there_is_none(make_pool, gate):
    with make_pool(1, initializer=tasks.pass_gate_but_first, initargs=(gate.path,)) as pool:
        with pytest.raises(WorkerLost):
            pool.run(tasks.exit_worker, 1)
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(pool.run_on_all, tasks.double, 1)
            gate.wait_for(2)
            assert not waiting.done()
            gate.open()
            assert waiting.result(DEADLINE) == [2]
        pool.scale(0)
        assert pool.run_on_all(tasks.double, 1) == []


def replacement_to_come(make_pool, gate):
    """A pool of two workers, of which one is to take the place of one that has retired."""
    pool = make_pool(2, initializer=tasks.pass_gate_but_first_two, initargs=(gate.path,))
    supervisor = pool._home.supervisor
    supervisor.loop.call_soon_threadsafe(supervisor.membership.recycle, supervisor.workers()[0])
    gate.wait_for(3)
    return pool


@pytest.mark.parametrize("number", [1, 0])
def test_run_on_all_does_not_wait_for_what_will_never_come(make_pool, gate, number):
    """The replacement is not wanted any more."""
    with (replacement_to_come(make_pool, gate) as pool,
          concurrent.futures.ThreadPoolExecutor(2) as threads):
        waiting = threads.submit(pool.run_on_all, tasks.double, 1)
        wait_until(lambda: pool._home.supervisor.everywhere._calls, what="the call to wait")
        scaling = threads.submit(pool.scale, number)
        assert waiting.result(DEADLINE) == [2]
        gate.open()
        scaling.result(DEADLINE)


def test_run_on_all_ends_with_the_pool(make_pool, gate):
    with (replacement_to_come(make_pool, gate) as pool,
          concurrent.futures.ThreadPoolExecutor(1) as threads):
        waiting = threads.submit(pool.run_on_all, tasks.double, 1)
        wait_until(lambda: pool._home.supervisor.everywhere._calls, what="the call to wait")
        pool.kill()
        assert isinstance(waiting.exception(DEADLINE), PoolClosed)


# --- maps over synchronous and asynchronous iterables, in any combination


async def counting(n):
    for x in range(n):
        if x % 3 == 0:
            await asyncio.sleep(0)
        yield x


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("ordered", [True, False])
async def test_map_async(make_pool, ordered, chunksize):
    async with make_pool(2) as pool:
        for func in tasks.double, tasks.double_async:
            for items in range(100), counting(100):
                results = [x async for x in pool.map_async(
                    func, items, ordered=ordered, chunksize=chunksize)]
                assert (results if ordered else sorted(results)) == list(range(0, 200, 2))


async def test_map_async_mixes_synchronous_and_asynchronous_iterables(make_pool):
    async with make_pool(2) as pool:
        results = [x async for x in pool.map_async(tasks.add, counting(50), range(100, 200))]
        assert results == [x + 100 + x for x in range(50)]
        results = [x async for x in pool.map_async(tasks.add, range(50), counting(20))]
        assert results == [2 * x for x in range(20)]
        pairs = ((x, x) for x in range(10))
        results = [x async for x in pool.map_async(tasks.add, pairs, star=True)]
        assert results == [2 * x for x in range(10)]


def test_map_takes_asynchronous_iterables(pool):
    assert list(pool.map(tasks.double, counting(100))) == list(range(0, 200, 2))
    assert list(pool.map(tasks.add, counting(100), range(50))) == [2 * x for x in range(50)]
    assert sorted(pool.map(tasks.double, counting(100), ordered=False)) == list(range(0, 200, 2))
    results = pool.map(tasks.double, counting(10**9))
    assert [next(results), next(results)] == [0, 2]
    results.close()


def test_map_over_an_asynchronous_iterable_that_ends_after_a_pause(pool):
    async def pausing():
        yield 1
        await asyncio.sleep(0.02)
        yield 2
        await asyncio.sleep(0.02)

    assert list(pool.map(tasks.double, pausing())) == [2, 4]


async def test_an_iterable_that_raises_comes_after_the_results_before_it(make_pool):
    def bad():
        yield 1
        yield 2
        raise KeyError("in the input")

    async def bad_async():
        yield 1
        await asyncio.sleep(0)
        yield 2
        raise KeyError("in the input")

    async with make_pool(1) as pool:
        for items in bad(), bad_async():
            results = pool.map_async(tasks.double, items)
            assert [await anext(results), await anext(results)] == [2, 4]
            with pytest.raises(KeyError, match="in the input"):
                await anext(results)
    with make_pool(1) as pool:
        for items in bad(), bad_async():
            results = pool.map(tasks.double, items)
            assert [next(results), next(results)] == [2, 4]
            with pytest.raises(KeyError, match="in the input"):
                next(results)


async def test_an_exception_in_map_async_comes_in_its_place_and_ends_it(make_pool):
    async with make_pool(2) as pool:
        for items in range(20), counting(20):
            seen = []
            with pytest.raises(ValueError, match="no 5"):
                async for x in pool.map_async(tasks.fail_at, [5] * 20, items):
                    seen.append(x)
            assert seen == [0, 1, 2, 3, 4]


async def test_leaving_map_async_early_stops_the_input(make_pool):
    taken = []
    closed = []

    async def endless():
        try:
            while True:
                taken.append(None)
                yield len(taken)
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async with make_pool(2) as pool:
        results = pool.map_async(tasks.double, endless())
        async for x in results:
            if x >= 20:
                break
        await results.aclose()
        await wait_until_async(lambda: closed)
        assert len(taken) < 100_000
        assert await pool.run_async(tasks.double, 1) == 2


async def test_cancelling_a_task_in_map_async_cancels_its_calls(make_pool, gate):
    async with make_pool(1, qsize=3) as pool:
        async def consume():
            async for _ in pool.map_async(tasks.wait_for_cancel, [gate.path] * 3, chunksize=1):
                pass

        consumer = asyncio.create_task(consume())
        await gate.wait_for_async(3)
        await cancel(consumer)
        await wait_until_async(lambda: gate.marks("cancelled") == 3)


async def test_several_maps_at_once(make_pool):
    async with make_pool(2) as pool:
        async def collect(n):
            return [x async for x in pool.map_async(tasks.add, [n] * 200, counting(200))]

        results = await asyncio.gather(*[collect(n) for n in range(8)])
        assert results == [[n + x for x in range(200)] for n in range(8)]


# --- create, ready, is_ready, total_workers


async def test_ready_and_total_workers(make_pool):
    pool = make_pool(2)  # inside a loop: they start when they are needed
    assert not pool.is_ready() and not pool.ready.is_set() and pool.total_workers() == 0
    await pool.create()
    assert pool.is_ready() and pool.ready and pool.total_workers() == 2
    await pool.ready
    await pool.create()  # again: nothing happens
    await pool.shutdown_async()
    assert not pool.is_ready() and pool.total_workers() == 0
    with pytest.raises(RuntimeError, match="after shutdown"):
        await pool.create()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await pool.run_async(tasks.nothing)
    await pool.shutdown_async()


def test_ready_can_be_waited_for_without_a_loop(make_pool):
    pool = make_pool(2, lazy_create=True)
    assert not pool.is_ready()
    assert pool.ready.wait(20) is True
    assert pool.is_ready() and pool.total_workers() == 2
    pool.shutdown()
    wait_until(lambda: not pool.is_ready())


async def test_run_async_creates_the_pool(make_pool):
    pool = make_pool(1)
    assert await pool.run_async(tasks.double, 2) == 4
    assert pool.is_ready()
    await pool.shutdown_async()


async def test_leaving_the_context_lets_calls_end(make_pool):
    async with make_pool(1) as pool:
        calls = [pool.run_async(tasks.sleep_and_give, 0.01, x) for x in range(10)]
    assert [call.result() for call in calls] == list(range(10))


async def test_what_was_submitted_before_a_shutdown_is_done_although_the_loop_does_not_know_it(
        make_pool, monkeypatch):
    """A thread that wakes the loop for several may be held up before it does."""
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe
    is_held, goes_on = threading.Event(), threading.Event()

    def hold(*args, **kwargs):
        is_held.set()
        assert goes_on.wait(20)
        return wake(*args, **kwargs)

    async with make_pool(1) as pool:
        first = concurrent.futures.Future()
        monkeypatch.setattr(loop, "call_soon_threadsafe", hold)
        thread = threading.Thread(target=lambda: first.set_result(pool.submit(tasks.double, 1)))
        thread.start()
        assert is_held.wait(20)
        monkeypatch.undo()
        second = await asyncio.to_thread(pool.submit, tasks.double, 2)
        await pool.shutdown_async()
        goes_on.set()
        assert second.result(0) == 4
        thread.join()
        assert first.result().result(0) == 2


async def test_shutdown_async_can_cancel_what_waits(make_pool, gate):
    pool = make_pool(1, qsize=1)
    await pool.create()
    calls = [pool.run_async(tasks.pass_gate, gate.path, x) for x in range(10)]
    await gate.wait_for_async(1)
    stopping = asyncio.create_task(pool.shutdown_async(cancel_futures=True))
    await wait_until_async(lambda: all(call.cancelled() for call in calls[1:]))
    gate.open()
    await stopping
    assert calls[0].result() == 0
    assert gate.arrived() == 1


async def test_shutdown_async_can_cancel_a_map(make_pool, gate):
    pool = make_pool(1, qsize=1)
    await pool.create()
    queue = pool._home.dispatcher.queue
    results = pool.map_async(tasks.pass_gate, itertools.repeat(gate.path), range(10))
    first = asyncio.create_task(anext(results))
    await gate.wait_for_async(1)
    stopping = asyncio.create_task(pool.shutdown_async(cancel_futures=True))
    await wait_until_async(lambda: not queue)
    gate.open()
    assert await first == 0
    with pytest.raises(asyncio.CancelledError):
        await anext(results)
    await stopping
    assert gate.arrived() == 1
