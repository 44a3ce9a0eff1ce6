"""Results: the right one, or a clear error, whatever is sent; nothing lost, doubled or mixed up."""

import array
import asyncio
import functools
import threading
import time

import numpy
import psutil
import pytest

from distex import PickleType, Pool

from . import tasks
from .support import Gate, wait_until, wait_until_async

# --- Arguments that fail to pickle, or a function that fails to load on the worker, fail that task
# --- alone with an error that names it; the next task runs the right function.


def test_arguments_that_fail_to_pickle_fail_that_task_alone(pool):
    before = pool.submit(tasks.double, 1)
    bad = pool.submit(tasks.negate, tasks.Unpicklable())
    after = pool.submit(tasks.double, 2)
    with pytest.raises(TypeError, match="this can't be pickled") as failure:
        bad.result()
    assert any("negate" in note for note in failure.value.__notes__)
    assert (before.result(), after.result()) == (2, 4)


def test_keyword_arguments_that_fail_to_pickle_fail_that_task_alone(pool):
    futures = [pool.submit(tasks.give_back, key=value)
               for value in (1, tasks.Unpicklable(), threading.Lock(), 2)]
    assert futures[0].result() == ((), {"key": 1})
    for bad in futures[1:3]:
        assert isinstance(bad.exception(), TypeError)
    assert futures[3].result() == ((), {"key": 2})


def test_a_function_that_fails_to_load_fails_that_task_alone(pool):
    bad = tasks.Unloadable("no such function there")
    functions = tasks.double, bad, tasks.negate, bad, tasks.double
    futures = [pool.submit(func, 3) for func in functions]
    for future in futures[1], futures[3]:
        with pytest.raises(LookupError, match="no such function there") as failure:
            future.result()
        assert any("Unloadable" in note for note in failure.value.__notes__)
    assert [futures[i].result() for i in (0, 2, 4)] == [6, -3, 6]


def test_a_function_that_fails_to_pickle_fails_that_task_alone(pool):
    lock = threading.Lock()
    before = pool.submit(tasks.double, 1)
    bad = pool.submit(lambda: lock)
    with pytest.raises(TypeError) as failure:
        bad.result()
    assert any("lambda" in note for note in failure.value.__notes__)
    assert pool.submit(tasks.negate, 2).result() == -2
    assert before.result() == 2


def test_an_argument_that_fails_to_load_fails_that_task_alone(pool):
    arguments = [1], tasks.Unloadable("no such thing"), [1, 2]
    futures = [pool.submit(tasks.length, x) for x in arguments]
    with pytest.raises(LookupError, match="no such thing"):
        futures[1].result()
    assert [futures[0].result(), futures[2].result()] == [1, 2]


def test_an_argument_of_a_map_that_fails_to_pickle_comes_after_the_results_before_it(pool):
    items = [1, 2, tasks.Unpicklable(), 4]
    for chunksize in None, 1, 4:
        results = pool.map(tasks.double, items, chunksize=chunksize)
        assert [next(results), next(results)] == [2, 4]
        with pytest.raises(TypeError, match="can't be pickled"):
            next(results)
        assert list(pool.map(tasks.negate, [1, 2])) == [-1, -2]


async def test_the_same_for_asynchronous_calls(make_pool):
    async with make_pool(1) as pool:
        calls = [
            pool.run_async(tasks.double, 1),
            pool.run_async(tasks.negate, tasks.Unpicklable()),
            pool.run_async(tasks.Unloadable(), 1),
            pool.run_async(tasks.length, tasks.Unloadable()),
            pool.run_async(tasks.double, 2),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [results[0], results[4]] == [2, 4]
        assert [type(exc) for exc in results[1:4]] == [TypeError, LookupError, LookupError]


# --- map(ordered=False) yields every result exactly once, also those that finish while the consumer
# --- is busy.


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_unordered_map_yields_every_result_exactly_once(pool, chunksize):
    results = list(pool.map(tasks.double, range(5000), ordered=False, chunksize=chunksize))
    assert sorted(results) == list(range(0, 10000, 2))


def test_unordered_map_yields_also_what_finishes_while_the_consumer_is_busy(pool, tmp_path):
    gate = Gate(tmp_path)
    results = pool.map(tasks.marked, [gate.path] * 6, range(6), ordered=False, chunksize=1)
    first = next(results)
    gate.wait_for(6)  # all others end while nobody waits for them
    assert sorted([first, *results]) == list(range(6))


async def test_unordered_map_async_yields_also_what_finishes_while_the_consumer_is_busy(
        make_pool, tmp_path):
    gate = Gate(tmp_path)
    seen = []
    async with make_pool(2) as pool:
        async for x in pool.map_async(tasks.marked, [gate.path] * 6, range(6), ordered=False,
                                      chunksize=1):
            if not seen:
                await gate.wait_for_async(6)
            seen.append(x)
    assert sorted(seen) == list(range(6))


def test_unordered_map_yields_the_quick_ones_first(make_pool, tmp_path):
    gate = Gate(tmp_path)
    items = [(tasks.pass_gate, gate.path), *[(tasks.double, x) for x in range(5)]]
    with make_pool(2, qsize=1) as pool:  # else some would wait on the worker with the slow one
        results = pool.map(call, items, star=True, ordered=False, chunksize=1)
        assert sorted(next(results) for _ in range(5)) == [0, 2, 4, 6, 8]
        gate.open()
        assert list(results) == [None]


def call(func, *args):
    return func(*args)


def test_unordered_map_with_an_exception_gives_each_other_result_at_most_once(pool):
    results = pool.map(tasks.fail_at, [5] * 20, range(20), ordered=False, chunksize=1)
    seen = []
    with pytest.raises(ValueError, match="no 5"):
        for x in results:
            seen.append(x)
    assert len(seen) == len(set(seen)) and 5 not in seen


# --- map over an async iterable that pauses, or ends after a pause, neither hangs nor withholds
# --- results that are ready. Input is taken lazily and bounded. (More in test_async, test_many_tasks.)


async def pausing(pauses):
    """Numbers with a pause before each, until the event for it is set."""
    for n, pause in enumerate(pauses):
        await pause.wait()
        if n < len(pauses) - 1:  # it ends after a pause
            yield n


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 10])
async def test_map_async_withholds_nothing_while_its_input_pauses(make_pool, ordered, chunksize):
    async with make_pool(2) as pool, asyncio.timeout(20):
        pauses = [asyncio.Event() for _ in range(4)]
        results = pool.map_async(tasks.double, pausing(pauses), ordered=ordered,
                                 chunksize=chunksize)
        for n in range(3):
            pauses[n].set()
            assert await anext(results) == 2 * n  # the input waits for the next pause
        pauses[3].set()
        with pytest.raises(StopAsyncIteration):
            await anext(results)


def test_map_takes_unbounded_input_lazily(pool):
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield len(taken)

    results = pool.map(tasks.double, endless())
    assert [next(results) for _ in range(3)] == [2, 4, 6]
    ahead = len(taken)
    results.close()
    assert ahead <= 100_000
    results = pool.map(tasks.pid_of, endless(), buffersize=8)
    taken.clear()
    for n in range(100):
        next(results)
        assert len(taken) <= n + 1 + 8
    results.close()


# --- A timeout that fires in one call leaves every other call and the pool unharmed.


def test_a_timeout_leaves_every_other_call_unharmed(pool, tmp_path):
    gate = Gate(tmp_path)
    slow = pool.submit(tasks.pass_gate, gate.path, "slow")
    others = [pool.submit(tasks.double, x) for x in range(20)]
    with pytest.raises(TimeoutError):
        slow.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        slow.exception(timeout=0)
    results = pool.map(tasks.pass_gate, [gate.path], ["mapped"], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    assert [future.result() for future in others] == [2 * x for x in range(20)]
    assert slow.result() == "slow"
    assert list(pool.map(tasks.negate, range(3))) == [0, -1, -2]


async def test_a_timeout_leaves_every_other_asynchronous_call_unharmed(make_pool, tmp_path):
    gate = Gate(tmp_path)
    async with make_pool(2) as pool:
        slow = pool.run_async(tasks.pass_gate, gate.path, "slow")
        await gate.wait_for_async(1)
        others = [pool.run_async(tasks.double, x) for x in range(20)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.run_async(tasks.pass_gate_async, gate.path), 0.02)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                async for _ in pool.map_async(tasks.pass_gate_async, [gate.path] * 3):
                    pass
        with pytest.raises(TimeoutError):
            async for _ in pool.map_async(tasks.pass_gate_async, [gate.path] * 3, timeout=0.02):
                pass
        gate.open()
        assert await asyncio.gather(*others) == [2 * x for x in range(20)]
        assert await slow == "slow"


# --- Leaving a map early (break, exception, aclose) cancels what was not started and releases
# --- everything.


def leave_by_break(results):
    for _ in results:
        break


def leave_by_exception(results):
    with pytest.raises(ZeroDivisionError):
        for _ in results:
            1 / 0  # noqa: B018


def leave_by_close(results):
    next(results)
    results.close()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_exception, leave_by_close])
def test_leaving_a_map_early_cancels_what_was_not_started(make_pool, tmp_path, leave):
    first, gate = Gate(tmp_path, "first"), Gate(tmp_path)
    with make_pool(1) as pool:
        results = [pool.map(tasks.pass_gate, [first.path] + [gate.path] * 50, chunksize=1)]
        first.wait_for(1)  # from here on the calls are known not to be tiny
        first.open()
        leave(results.pop())
        pool._home.submit(asyncio.sleep(0)).result()  # behind what cancels the rest
        gate.open()
        assert pool.submit(tasks.double, 1).result() == 2
        wait_until(lambda: pool._home.dispatcher.outstanding == 0, what="the dispatcher to be empty")
    assert gate.arrived() <= 2  # what had been sent to the worker


async def test_aclose_of_a_map_cancels_what_was_not_started(make_pool, tmp_path):
    first, gate = Gate(tmp_path, "first"), Gate(tmp_path)
    closed = []

    async def items():
        try:
            yield first.path
            while True:
                yield gate.path
        finally:
            closed.append(True)

    async with make_pool(1) as pool:
        results = pool.map_async(tasks.pass_gate, items(), chunksize=1)
        beginning = asyncio.ensure_future(anext(results))
        await first.wait_for_async(1)
        first.open()
        await beginning
        await results.aclose()
        gate.open()
        await wait_until_async(lambda: closed == [True], what="the input to be closed")
        assert await pool.run_async(tasks.double, 1) == 2
    assert gate.arrived() <= 2


def test_leaving_a_map_early_closes_its_input(pool):
    closed = []

    def items():
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.append(True)

    results = pool.map(tasks.double, items())
    next(results)
    results.close()
    del results
    assert closed == [True]


# --- An exception in one item of a batch fails that item alone.


def test_an_exception_in_one_item_fails_that_item_alone(pool):
    futures = [pool.submit(tasks.fail_at, 50, x) for x in range(100)]  # they share frames
    for x, future in enumerate(futures):
        if x == 50:
            with pytest.raises(ValueError, match="no 50"):
                future.result()
        else:
            assert future.result() == x


@pytest.mark.parametrize("chunksize", [None, 1, 4, 100])
def test_a_map_gives_all_results_before_the_item_that_fails(pool, chunksize):
    results = pool.map(tasks.fail_at, [50] * 100, range(100), chunksize=chunksize)
    assert [next(results) for _ in range(50)] == list(range(50))
    with pytest.raises(ValueError, match="no 50"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_a_result_that_fails_to_pickle_fails_that_item_alone(pool):
    futures = [pool.submit(tasks.generator if x == 5 else tasks.double, *([] if x == 5 else [x]))
               for x in range(10)]
    assert isinstance(futures[5].exception(), TypeError)
    assert [f.result() for x, f in enumerate(futures) if x != 5] == [
        2 * x for x in range(10) if x != 5]


# --- Tasks sent together do not share argument objects on the worker.


def test_tasks_sent_together_do_not_share_arguments(make_pool):
    with make_pool(1) as pool:
        shared = []
        futures = [pool.submit(tasks.grow, shared) for _ in range(20)]
        assert [future.result() for future in futures] == [[0]] * 20
        assert list(pool.map(tasks.grow, [shared] * 20, chunksize=20)) == [[0]] * 20
        assert list(pool.map(tasks.grow, [(shared,)] * 20, star=True, chunksize=20)) == [[0]] * 20
        array_ = numpy.zeros(3)
        for result in pool.map(add_one_in_place, [array_] * 5, chunksize=5):
            assert result.tolist() == [1, 1, 1]
    assert shared == [] and array_.tolist() == [0, 0, 0]


def add_one_in_place(array_):
    array_ += 1
    return array_


def test_an_object_that_occurs_twice_in_one_call_stays_one(pool):
    shared = [1]
    assert pool.run(tasks.same, shared, shared) is True
    assert pool.run(tasks.same, a=shared, b=shared) is True


# --- Async tasks on one worker overlap, up to qsize of them; five tasks that sleep 0.2 s take about
# --- 0.2 s.


def test_async_tasks_on_one_worker_overlap_up_to_qsize(make_pool):
    with make_pool(1, qsize=5) as pool:
        peaks = [pool.submit(tasks.meet, 5) for _ in range(20)]
        assert {future.result() for future in peaks} == {5}


def test_five_tasks_that_sleep_a_fifth_of_a_second_take_about_that(make_pool):
    with make_pool(1, qsize=5) as pool:
        pool.run(tasks.nothing)
        began = time.monotonic()
        futures = [pool.submit(asyncio.sleep, 0.2, x) for x in range(5)]
        assert [future.result() for future in futures] == list(range(5))
        assert 0.2 <= time.monotonic() - began < 1  # which they take one after the other


def test_async_tasks_of_a_map_overlap(make_pool):
    with make_pool(1, qsize=5) as pool:
        assert set(pool.map(tasks.meet, [5] * 20)) == {5}


# --- None, empty arguments, keyword arguments called func, self or fn, 1 GiB payloads, zero-length
# --- buffers, deep nesting, generators and other unpicklable results: right result, or a clear
# --- error, for each.


VALUES = [
    None, True, False, 0, -1, 2**63 - 1, 2**63, -2**63, -2**64, 10**400, 0.0, float("inf"), 1e-320,
    "", "x", "\0", "ünïcödé 🐍", "\ud800", b"", b"\0" * 10, b"x" * 100_000, bytearray(),
    bytearray(b"x" * 100_000), (), (None,), ((), ((), ())), (1, "a", b"b", 2.0, None, True),
    [], [None], {}, {1: 2}, set(), frozenset({1}), 1j, range(3), slice(1, 2), Ellipsis,
    NotImplemented, int, tasks.double, array.array("d"), array.array("d", [1.0]), "x" * 100_000,
    ValueError("as a value"), [[[[[1]]]]], (((((1,),),),),), PickleType.dill,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30].partition(" at ")[0]
                         .replace("\ud800", "?"))
def test_a_value_arrives_as_itself_and_comes_back_so(pool, value):
    args, kwargs = pool.submit(tasks.give_back, value, key=value).result()
    mapped, = pool.map(identity, [value])
    for back in (*args, kwargs["key"], mapped):
        assert type(back) is type(value)
        assert repr(back) == repr(value)


def identity(value):
    return value


def test_not_a_number_and_signed_zero_stay(pool):
    nan, zero = pool.run(tasks.give_back, float("nan"), -0.0)[0]
    assert nan != nan and str(zero) == "-0.0"


def test_empty_arguments(pool):
    assert pool.run(tasks.give_back) == ((), {})
    assert pool.submit(tasks.nothing).result() is None
    assert list(pool.map(tasks.double, [])) == []
    assert list(pool.map(tasks.add, [1, 2], [])) == []
    assert list(pool.map(tasks.nothing, [(), ()], star=True)) == [None, None]


async def test_empty_arguments_of_asynchronous_calls(make_pool):
    async with make_pool(1) as pool:
        assert await pool.run_async(tasks.give_back) == ((), {})
        assert [x async for x in pool.map_async(tasks.double, [])] == []
        assert await pool.run_on_all_async(tasks.nothing) == [None]


async def test_keyword_arguments_of_any_name(make_pool):
    async with make_pool(1) as pool:
        for name in "func", "self", "fn", "args", "kwargs", "function", "task":
            expected = ((), {name: 1})
            assert await pool.run_async(tasks.give_back, **{name: 1}) == expected
            assert await asyncio.wrap_future(pool.submit(tasks.give_back, **{name: 1})) == expected
            assert await pool.run_on_all_async(tasks.give_back, **{name: 1}) == [expected]
            assert await asyncio.to_thread(pool.run, tasks.give_back, **{name: 1}) == expected


@pytest.mark.large
def test_a_gibibyte_there_and_its_length_back():
    free = psutil.virtual_memory().available
    if free < 6 * 2**30:
        pytest.skip(f"needs 6 GiB of memory, {free / 2**30:.1f} GiB are available")
    with Pool(1) as pool:
        assert pool.run(tasks.length, bytes(2**30)) == 2**30
        assert pool.run(tasks.double, 1) == 2


def test_large_results_come_back_whole(pool):
    n = 64 * 2**20
    result = pool.run(tasks.zeros, n)
    assert len(result) == n and not any(result[::4096])


def test_zero_length_buffers(pool):
    for empty in numpy.empty(0), numpy.empty((0, 3), "f4"), array.array("i"), bytearray():
        back = pool.run(identity, empty)
        assert type(back) is type(empty) and len(back) == 0
    assert pool.run(identity, numpy.empty((0, 3), "f4")).shape == (0, 3)


def test_arrays_come_back_equal_and_can_be_written_to(pool):
    for n in 1, 1000, 10**6:
        for dtype in "u1", "f8":
            there = numpy.arange(n).astype(dtype)
            back = pool.run(add_one_in_place, there)
            assert back.dtype == there.dtype and (back == there + numpy.ones(1, dtype)).all()
            back += 1
    transposed = numpy.arange(10**5).reshape(100, -1).T
    assert (pool.run(identity, transposed) == transposed).all()
    every_other = numpy.arange(10**5)[::2]
    assert (pool.run(identity, every_other) == every_other).all()


def test_deep_nesting_gives_the_right_result_or_a_clear_error(pool):
    # what pickle can take depends on the recursion limit
    assert tasks.depth_of(pool.run(tasks.nest, 150)) == 150
    assert pool.run(tasks.depth_of, tasks.nest(150)) == 150
    with pytest.raises(RecursionError):
        pool.run(tasks.nest, 10**6)
    with pytest.raises(RecursionError):
        pool.run(tasks.depth_of, tasks.nest(10**6))
    deep = ()
    for _ in range(150):
        deep = (deep,)
    assert pool.run(identity, deep) == deep
    assert pool.run(tasks.double, 1) == 2


def test_circular_arguments(pool):
    circle = []
    circle.append(circle)
    back = pool.run(identity, circle)
    assert back[0] is back


@pytest.mark.parametrize("func", [tasks.generator, threading.Lock, tasks.Unpicklable],
                         ids=["generator", "lock", "unpicklable"])
def test_a_result_that_cannot_be_pickled_is_a_clear_error(pool, func):
    with pytest.raises(TypeError, match="pickle") as failure:
        pool.run(func)
    assert any("result" in note for note in failure.value.__notes__)
    assert pool.run(tasks.double, 1) == 2


def test_a_result_that_cannot_be_unpickled_is_a_clear_error(pool):
    with pytest.raises(LookupError, match="can't be unpickled") as failure:
        pool.run(tasks.give_unloadable)
    assert any("give_unloadable" in note for note in failure.value.__notes__)
    assert pool.run(tasks.double, 1) == 2


def test_what_else_can_be_called(pool):
    thing = tasks.Collectable(3)
    assert pool.run(thing.method, 4) == 7
    assert pool.run(thing.method_async, 4) == 7
    assert pool.run(str.upper, "x") == "X"
    assert pool.run(tasks.Collectable, 5).number == 5
    assert pool.run(lambda x: x + thing.number, 1) == 4
    thing.number = 10
    assert pool.run(lambda x: x + thing.number, 1) == 11
    assert pool.run(thing.method, 4) == 14


@pytest.mark.parametrize("functions", [0, 1, 2], ids=["pickle", "cloudpickle", "dill"])
@pytest.mark.parametrize("data", [0, 1, 2, 3], ids=["pickle", "cloudpickle", "dill", "msgspec"])
def test_methods_and_partials_with_any_serializers(make_pool, functions, data):
    with make_pool(1, func_pickle=functions, data_pickle=data) as pool:
        thing = tasks.Collectable(3)
        partial = functools.partial(thing.method, 4)
        for call in pool.run, lambda *args, **kwargs: pool.submit(*args, **kwargs).result():
            assert [call(thing.method, 4), call(partial), call(thing.method)] == [7, 7, 3]
            assert call(functools.partial(tasks.give_back, 1, a=2), 3, b=4)[1] == {"a": 2, "b": 4}
        assert list(pool.map(thing.method, range(3))) == [3, 4, 5]


def test_what_is_no_function_is_a_clear_error(pool):
    with pytest.raises(TypeError, match="not callable"):
        pool.run(3)
