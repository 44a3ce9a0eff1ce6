"""What a task is to whoever waits for it: in asyncio, as a concurrent future, as part of a map."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import threading
import time

import pytest
from peers import (
    CALL,
    CANCEL,
    CHUNK,
    FUNCTION,
    MS,
    PART,
    RESULT,
    RETURNED,
    SPREAD,
    Pool,
    Worker,
    codec,
)
from reference.framing import Frame

from distex._core.caller import Caller
from distex.client.functions import FunctionCache
from distex.client.loop_thread import Future
from distex.errors import ProtocolError
from distex.wire.serializers import for_functions


def answer_next(pool, value=None, exc=None):
    """Have the first worker answer the call that it has just got."""
    (worker,) = pool.workers
    ((id, _),) = worker.calls()
    if exc is None:
        worker.answers(id, value)
    else:
        worker.fails(id, exc)


# --- AsyncTask


@pytest.mark.parametrize("value", [None, 1, "text", (), (1, 2), ValueError("as a value"),
                                   StopIteration(3)], ids=repr)
def test_awaiting_gives_the_value_whatever_it_is(value):
    with Pool() as pool:
        task = pool.submit()

        async def main():
            pool.loop.call_soon(answer_next, pool, value)
            return await task

        result = pool.loop.run_until_complete(main())
        assert type(result) is type(value)
        assert repr(result) == repr(value)
        assert task.exception() is None


@pytest.mark.parametrize("exc", [ValueError("v"), KeyboardInterrupt(), SystemExit(3),
                                 GeneratorExit(), asyncio.CancelledError("by the task")], ids=repr)
def test_result_raises_what_the_call_raised(exc):
    with Pool() as pool:
        task = pool.submit()
        answer_next(pool, exc=exc)
        with pytest.raises(type(exc)) as info:
            task.result()
        assert info.value.args == exc.args
        assert isinstance(task.exception(), type(exc))


def test_a_stop_iteration_is_wrapped_as_asyncio_does():
    with Pool() as pool:
        task = pool.submit()
        answer_next(pool, exc=StopIteration(1))
        with pytest.raises(RuntimeError, match="StopIteration"):
            task.result()


def test_what_asyncio_does_with_futures():
    with Pool(qsize=20) as pool:
        (worker,) = pool.workers

        async def main():
            tasks = [pool.submit(i) for i in range(7)]
            for id, (i,) in worker.calls():
                pool.loop.call_soon(worker.answers, id, i)
            assert await asyncio.gather(*tasks[:2]) == [0, 1]
            assert await asyncio.wait_for(tasks[2], 10) == 2
            assert await asyncio.shield(tasks[3]) == 3
            async with asyncio.timeout(10):
                assert await tasks[4] == 4
            assert [await each for each in asyncio.as_completed([tasks[5]])] == [5]
            async with asyncio.TaskGroup() as group:
                inner = group.create_task(tasks[6])
            assert inner.result() == 6
            return [await task for task in tasks]  # as often as one likes

        assert pool.loop.run_until_complete(main()) == list(range(7))
        assert all(asyncio.isfuture(task) for task in [pool.task()])


def test_many_may_await_one():
    with Pool() as pool:
        task = pool.submit()

        async def wait():
            return await task

        async def main():
            waiting = [asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            answer_next(pool, "value")
            return await asyncio.gather(*waiting)

        assert pool.loop.run_until_complete(main()) == ["value"] * 3


def test_a_task_that_goes_on_has_no_result():
    with Pool() as pool:
        task = pool.submit()
        for method in (task.result, task.exception):
            with pytest.raises(asyncio.InvalidStateError):
                method()
        assert "pending" in repr(task)
        assert not task.done()
        assert not task.cancelled()
        assert task.get_loop() is pool.loop


@pytest.mark.parametrize("on_worker", [True, False])
def test_cancelling_wakes_whoever_awaits(on_worker):
    with Pool(qsize=1) as pool:
        if not on_worker:
            pool.submit("ahead of it")
        task = pool.submit()
        called = []
        task.add_done_callback(called.append)

        async def main():
            async def wait():
                return await task

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            assert task.cancel("a reason")
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError, match="a reason"):
                    await waiting

        pool.loop.run_until_complete(main())
        assert called == [task]
        assert not task.cancel()


@pytest.mark.parametrize("on_worker", [True, False])
def test_a_timeout_cancels(on_worker):
    with Pool(qsize=1) as pool:
        if not on_worker:
            pool.submit("ahead of it")
        task = pool.submit("the one")

        waiting = pool.loop.create_task(asyncio.wait_for(task, 1))
        pool.turn()
        assert not waiting.done()
        pool.pass_time(1)
        with pytest.raises(TimeoutError):
            waiting.result()
        assert task.cancelled()
        frames = pool.workers[0].frames()
        assert (CANCEL in [frame.kind for frame in frames]) == on_worker


def test_callbacks():
    with Pool() as pool:
        task = pool.submit()
        variable = contextvars.ContextVar("variable")
        called = []
        context = contextvars.copy_context()
        context.run(variable.set, "set")
        task.add_done_callback(lambda task: called.append(("in context", variable.get())),
                               context=context)
        task.add_done_callback(lambda task: called.append(("by itself", variable.get(None))))
        twice = lambda task: called.append("removed")  # noqa: E731
        task.add_done_callback(twice)
        task.add_done_callback(twice)
        assert task.remove_done_callback(twice) == 2
        assert task.remove_done_callback(twice) == 0
        answer_next(pool)
        assert not called  # by the loop, not at once
        pool.turn()
        assert called == [("in context", "set"), ("by itself", None)]
        task.add_done_callback(lambda task: called.append("late"))
        pool.turn()
        assert called[-1] == "late"


def test_an_exception_that_nobody_looked_at_is_reported():
    with Pool() as pool:
        reports = []
        pool.loop.set_exception_handler(lambda loop, context: reports.append(context))
        seen, unseen = pool.submit(), pool.submit()
        for id, _ in pool.workers[0].calls():
            pool.workers[0].fails(id, ValueError(id))
        assert seen.exception()
        del seen, unseen
        gc.collect()
        assert len(reports) == 1
        assert isinstance(reports[0]["exception"], ValueError)


# --- from another loop than the pool's


def make_caller(pool):
    cache = FunctionCache(pool.dispatcher.functions, for_functions(1))
    return Caller(pool.dispatcher, cache, Future)


class InThread:
    """Runs a function in a thread while this one runs the pool's loop."""

    def __init__(self, pool, function):
        self.pool = pool
        self.future = concurrent.futures.Future()
        self.thread = threading.Thread(target=self._run, args=[function])

    def _run(self, function):
        try:
            self.future.set_result(function())
        except BaseException as exc:
            self.future.set_exception(exc)

    def result(self, timeout=20):
        """What it gives; the pool's workers answer each call with its arguments meanwhile."""
        async def main():
            deadline = time.monotonic() + timeout
            while not self.future.done():
                assert time.monotonic() < deadline
                for worker in self.pool.workers:
                    for id, args in worker.calls():
                        worker.answers(id, args)
                await asyncio.sleep(0)

        self.thread.start()
        self.pool.loop.run_until_complete(main())
        self.thread.join()
        return self.future.result()


def test_awaiting_on_another_loop():
    with Pool(qsize=10) as pool:
        caller = make_caller(pool)

        async def main():
            return await asyncio.gather(*[caller.call_async(len, (i,), {}) for i in range(100)])

        assert InThread(pool, lambda: asyncio.run(main())).result() == [(i,) for i in range(100)]


@pytest.mark.parametrize("loop_is_busy", [True, False])
def test_cancelling_on_another_loop(loop_is_busy):
    with Pool(workers=0) as pool:
        caller = make_caller(pool)

        async def main():
            task = caller.call_async(len, (1,), {})
            if not loop_is_busy:
                await asyncio.sleep(0.01)  # so that it is in the queue already; either is right
            async with asyncio.timeout(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task, 0.001)
            return task

        task = InThread(pool, lambda: asyncio.run(main())).result()
        assert task.cancelled()
        pool.turn()
        assert not Worker(pool.dispatcher).calls()


def test_a_loop_that_is_closed_needs_no_answer():
    with Pool() as pool:
        caller = make_caller(pool)

        async def main():
            caller.call_async(len, (1,), {})

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
        pool.turn()
        answer_next(pool)
        assert pool.dispatcher.outstanding == 0


def test_a_function_that_cant_be_pickled_fails_the_call():
    with Pool() as pool:
        caller = make_caller(pool)
        lock = threading.Lock()

        async def main():
            task = caller.call_async(lambda: lock, (), {})
            with pytest.raises(TypeError, match="lock"):
                await task

        pool.loop.run_until_complete(main())
        future = caller.call(lambda: lock, (), {})
        assert isinstance(future.exception(), TypeError)
        assert not pool.workers[0].frames()


# --- the future of concurrent.futures


def make_future(pool, *args):
    future = Future(pool.function, args, {})
    pool.dispatcher.submit(future)
    return future


def test_a_future_is_one_of_the_standard_library():
    with Pool() as pool:
        future = make_future(pool)
        assert isinstance(future, concurrent.futures.Future)
        assert future.running()
        answer_next(pool, "value")
        assert future.done()
        assert not future.running()
        assert future.result() == future.result(0) == "value"
        assert future.exception() is None
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_result(1)


def lose_worker(pool, id):
    pool.workers[0].link.lose(0, lambda task: AssertionError("it had not started"))


def give_back(pool, id):
    pool.workers[0].link.retire()
    pool.workers[0].says(Frame(RETURNED, id=id, body=bytes(8)))


@pytest.mark.parametrize("come_back", [lose_worker, give_back])
@pytest.mark.parametrize("looked_at", [True, False])
def test_what_came_back_from_a_worker_can_be_cancelled_by_the_pool(come_back, looked_at):
    """It counts as running, which a standard future can't be cancelled from."""
    with Pool(qsize=4) as pool:
        futures = [make_future(pool, i) for i in range(2)]
        called = []
        if looked_at:
            for future in futures:
                future.add_done_callback(called.append)
        (_, (id, _)) = pool.workers[0].calls()
        come_back(pool, id)
        pool.dispatcher.cancel_queued()
        assert futures[1].cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            futures[1].result(0)
        assert called[-1:] == [futures[1]] * looked_at
        assert not pool.dispatcher.outstanding or come_back is give_back


@pytest.mark.parametrize("looked_at", [True, False])
def test_wait_as_completed_and_callbacks(looked_at):
    """With and without a condition that somebody had it make before it was done."""
    with Pool(qsize=4) as pool:
        futures = [make_future(pool, i) for i in range(4)]
        called = []
        if looked_at:
            for future in futures:
                future.add_done_callback(called.append)
        (worker,) = pool.workers
        calls = worker.calls()
        for id, (i,) in calls[:2]:
            worker.answers(id, i)
        done, pending = concurrent.futures.wait(futures, timeout=0)
        assert (done, pending) == (set(futures[:2]), set(futures[2:]))
        for id, (i,) in calls[2:]:
            worker.fails(id, ValueError(i))
        if not looked_at:
            for future in futures:
                future.add_done_callback(called.append)
        assert called == futures
        assert set(concurrent.futures.as_completed(futures)) == set(futures)
        assert [future.exception() is None for future in futures] == [True, True, False, False]


def test_waiting_in_another_thread():
    with Pool() as pool:
        futures = []

        def wait():
            futures.append(make_future(pool, "argument"))
            return futures[0].result(20)

        assert InThread(pool, wait).result() == ("argument",)


def test_waiting_on_the_pools_own_thread_is_refused():
    with Pool() as pool:
        future = make_future(pool)
        for method in (future.result, future.exception):
            with pytest.raises(RuntimeError, match="would block"):
                method()
            with pytest.raises(RuntimeError, match="would block"):
                method(1.0)
            with pytest.raises(TimeoutError):
                method(0)


def test_wrap_future():
    with Pool() as pool:
        future = make_future(pool)

        async def main():
            pool.loop.call_soon(answer_next, pool, "value")
            return await asyncio.wrap_future(future)

        assert pool.loop.run_until_complete(main()) == "value"


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_future_can_be_cancelled_until_it_is_sent(looked_at):
    with Pool(qsize=1) as pool:
        sent, waiting = make_future(pool, 1), make_future(pool, 2)
        called = []
        if looked_at:
            waiting.add_done_callback(called.append)
        assert not sent.cancel()
        assert waiting.cancel()
        assert waiting.cancelled()
        assert waiting.done()
        assert called == [waiting][:looked_at]
        assert concurrent.futures.wait([waiting], timeout=0).done == {waiting}
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()
        answer_next(pool)
        assert sent.done()
        assert not pool.workers[0].calls()


def test_a_future_on_a_lost_worker_goes_on_elsewhere():
    with Pool() as pool:
        future = make_future(pool, "argument")
        pool.workers[0].link.lose(0, lambda task: ValueError())
        assert future.running()
        assert not future.cancel()
        pool.workers[0] = Worker(pool.dispatcher)
        answer_next(pool, "value")
        assert future.result() == "value"


def test_an_exception_of_a_callback_harms_nothing(caplog):
    with Pool() as pool:
        future = make_future(pool)
        future.add_done_callback(lambda future: 1 / 0)
        answer_next(pool, "value")
        assert future.result() == "value"
        assert "exception calling callback" in caplog.text


# --- the chunk of a map


def chunk_frame(worker):
    (frame,) = [frame for frame in worker.frames() if frame.kind == CHUNK]
    return frame


def items_of(frame):
    """What is in a CHUNK of native values of the same size, here: int."""
    n = int.from_bytes(frame.body[:4], "little")
    return [codec.decode(frame.body[at:at + 9]) for at in range(4, 4 + 9 * n, 9)]


def test_a_chunk_and_its_results():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, news = pool.chunk(range(5))
        frame = chunk_frame(worker)
        assert items_of(frame) == [0, 1, 2, 3, 4]
        assert frame.flags != SPREAD
        assert chunk.take() is None
        worker.sends_part(frame.id, ["a", "b"])
        assert news == [chunk]
        assert chunk.take() == ["a", "b"]
        assert chunk.take() is None
        worker.sends_part(frame.id, ["c"])
        worker.sends_part(frame.id, ["d", "e"], kind=RESULT, ns=5 * MS)
        assert chunk.done
        assert chunk.error is None
        assert chunk.take() == ["c", "d", "e"]
        assert pool.function.cost_ns == 1 * MS
        assert pool.dispatcher.outstanding == 0


def test_a_chunk_of_tuples_of_arguments():
    with Pool() as pool:
        pool.chunk([(1, 2), (3, 4)], spread=True)
        assert chunk_frame(pool.workers[0]).flags == SPREAD


def test_items_of_a_chunk_share_no_objects():
    with Pool() as pool:
        shared = [1, 2, 3]
        pool.chunk([shared, shared])
        frame = chunk_frame(pool.workers[0])
        once, _ = codec.encode(shared)
        assert frame.body[4:] == once * 2


def test_results_before_an_error_are_kept():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, _ = pool.chunk(range(3))
        frame = chunk_frame(worker)
        worker.sends_part(frame.id, ["a"])
        worker.fails(frame.id, ValueError("second"))
        assert chunk.done
        assert chunk.take() == ["a"]
        assert isinstance(chunk.error, ValueError)


class Unpicklable:
    """One that fails behind a large buffer, which must not stay in the frame."""

    def __reduce__(self):
        raise ValueError("not me")


@pytest.mark.parametrize("place", [0, 1, 3])
def test_items_before_one_that_cant_be_pickled_are_done(place):
    import numpy

    with Pool() as pool:
        (worker,) = pool.workers
        items = [0, 1, 2, 3]
        items[place] = [numpy.zeros(10_000), Unpicklable()]
        chunk, _ = pool.chunk(items)
        if place > 0:
            frame = chunk_frame(worker)
            assert items_of(frame) == items[:place]
            assert not frame.segments
            assert not chunk.done
            worker.sends_part(frame.id, list(range(place)), kind=RESULT)
        else:
            assert not [frame for frame in worker.frames() if frame.kind == CHUNK]
        assert chunk.done
        assert chunk.take() == (list(range(place)) or None)
        assert isinstance(chunk.error, ValueError)
        assert pool.dispatcher.outstanding == 0


def test_a_cancelled_chunk_takes_no_more():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, news = pool.chunk(range(3))
        frame = chunk_frame(worker)
        worker.sends_part(frame.id, ["a"])
        chunk.cancel()
        (request,) = worker.frames()
        assert (request.kind, request.id) == (CANCEL, frame.id)
        worker.sends_part(frame.id, ["b"])
        worker.sends_part(frame.id, ["c"], kind=RESULT)
        assert chunk.take() is None
        assert len(news) == 1
        assert pool.dispatcher.outstanding == 0


def test_a_chunk_that_was_cancelled_in_the_queue_is_not_sent():
    with Pool(workers=0) as pool:
        chunk, _ = pool.chunk(range(3))
        chunk.cancel()
        worker = Worker(pool.dispatcher)
        assert FUNCTION not in [frame.kind for frame in worker.frames()]
        assert pool.dispatcher.outstanding == 0


@pytest.mark.parametrize("body", [b"", b"\1", b"\1\0\0", b"\xff\xff\xff\xff", b"\2\0\0\0\1"])
@pytest.mark.parametrize("kind", [PART, RESULT])
def test_results_of_a_chunk_that_are_none(kind, body):
    """The task fails, or the connection is dropped and the task with it."""
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, _ = pool.chunk(range(3))
        frame = chunk_frame(worker)
        with contextlib.suppress(ProtocolError):
            worker.says(Frame(kind, id=frame.id, body=body))
        worker.link.lose(None, lambda task: ValueError())
        assert chunk.done
        assert chunk.error is not None


def test_a_task_is_sent_with_its_call():
    with Pool() as pool:
        pool.submit()
        assert [frame.kind for frame in pool.workers[0].frames()] == [FUNCTION, CALL]
