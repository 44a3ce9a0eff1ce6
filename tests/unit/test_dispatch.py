"""Which task goes to which worker, and which answer belongs to which task."""

import gc
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import (
    BYE,
    CALL,
    CANCEL,
    CANCELLED,
    CHUNK,
    FORGET,
    FROM_COROUTINE,
    FUNCTION,
    MS,
    PART,
    RESULT,
    US,
    Pool,
    Worker,
    values,
)
from reference.framing import Frame

from distex._core.dispatch import LAG_DELAY, Machine
from distex.errors import ProtocolError
from distex.remote_errors import RemoteTraceback


def kinds(frames):
    return [frame.kind for frame in frames]


# --- the way there and back


def test_a_task_and_its_answer():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit(1, "two", key=None)
        function, call = worker.frames()
        assert (function.kind, function.id, function.body) == (FUNCTION, pool.function.id,
                                                               b"function")
        assert (call.kind, call.aux) == (CALL, pool.function.id)
        assert values(call) == ((1, "two"), {"key": None})
        assert not task.done()
        worker.answers(call.id, {"any": "value"})
        assert task.result() == {"any": "value"}
        assert pool.dispatcher.outstanding == 0


def test_what_keeps_a_worker_waiting_is_written_at_once_and_the_rest_together():
    with Pool(qsize=100) as pool:
        (worker,) = pool.workers
        for _ in range(3):
            pool.submit()
        assert kinds(worker.transport.take()) == [FUNCTION, CALL]
        pool.turn()
        assert kinds(worker.transport.take()) == [CALL, CALL]


def test_arguments_that_need_the_serializer_go_as_one_value():
    with Pool() as pool:
        shared = [1]
        pool.submit(shared, also=shared)
        args, kwargs = values(pool.workers[0].frames()[-1])
        assert (args, kwargs) == (([1],), {"also": [1]})
        assert args[0] is kwargs["also"]


def test_large_buffers_go_as_segments():
    numpy = pytest.importorskip("numpy")
    with Pool() as pool:
        array = numpy.arange(100_000)
        pool.submit(array)
        call = pool.workers[0].frames()[-1]
        assert [len(segment) for segment in call.segments] == [array.nbytes]
        assert (values(call)[0][0] == array).all()


def test_a_function_is_sent_once_to_each_worker_that_needs_it():
    with Pool(qsize=100, workers=2) as pool:
        first, second = pool.workers
        for _ in range(10):
            pool.submit()
        other = pool.make_function("other")
        pool.submit(function=other)
        pool.submit()
        pool.submit(function=other)
        for worker in (first, second):
            frames = worker.frames()
            sent = [frame.id for frame in frames if frame.kind == FUNCTION]
            assert len(sent) == len(set(sent))
            assert {frame.aux for frame in frames if frame.kind == CALL} == set(sent)


def test_answers_may_come_in_any_order():
    with Pool(qsize=5) as pool:
        (worker,) = pool.workers
        tasks = [pool.submit(i) for i in range(5)]
        for id, (i,) in reversed(worker.calls()):
            worker.answers(id, i * 10)
        assert [task.result() for task in tasks] == [0, 10, 20, 30, 40]


def test_ids_rise_in_the_order_of_the_frames():
    """The nanny's report of the last task started relies on it."""
    with Pool(qsize=3) as pool:
        (worker,) = pool.workers
        ids = []
        for i in range(20):
            pool.submit(i)
            ids += [id for id, _ in worker.calls()]
            if i % 3 == 2:
                worker.answers(ids[-1])
        assert ids == sorted(set(ids))


def test_an_error_comes_with_the_traceback_of_the_worker():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit()
        try:
            raise LookupError("there")
        except LookupError as exc:
            worker.fails(worker.calls()[0][0], exc)
        with pytest.raises(LookupError, match="there") as info:
            task.result()
        assert isinstance(info.value.__cause__, RemoteTraceback)
        assert "test_an_error_comes" in str(info.value.__cause__)
        assert "worker 0" in str(info.value.__cause__)


def test_a_result_that_cant_be_read_fails_its_task_alone():
    with Pool() as pool:
        (worker,) = pool.workers
        bad, good = pool.submit(), pool.submit()
        (bad_id, _), (good_id, _) = worker.calls()
        not_a_pickle = b"\x08" + bytes(4) + (1).to_bytes(8, "little") + b"?"
        worker.says(Frame(RESULT, id=bad_id, body=not_a_pickle))
        with pytest.raises(pickle.UnpicklingError) as info:
            bad.result()
        assert "function" in info.value.__notes__[0]
        worker.answers(good_id, "good")
        assert good.result() == "good"


class Unpicklable:
    def __reduce__(self):
        raise ValueError("not me")


def test_arguments_that_cant_be_pickled_fail_their_task_alone():
    with Pool(qsize=3) as pool:
        other = pool.make_function("other")
        before, bad, after = (
            pool.submit(1), pool.submit(Unpicklable(), function=other), pool.submit(2))
        with pytest.raises(ValueError, match="not me") as info:
            bad.result()
        assert "other" in info.value.__notes__[-1]
        (worker,) = pool.workers
        calls = [frame for frame in worker.frames() if frame.kind == CALL]
        assert [values(call)[0] for call in calls] == [(1,), (2,)]
        assert {call.aux for call in calls} == {pool.function.id}
        assert not before.done()
        assert not after.done()


def test_a_task_submitted_while_arguments_are_pickled():
    """Code of the user's runs then, and may use the pool."""
    with Pool(qsize=5) as pool:
        class Nested:
            def __reduce__(self):
                pool.submit("inner")
                return int, (7,)

        pool.submit(Nested())
        calls = pool.workers[0].calls()
        assert [args for _, args in calls] == [("inner",), (7,)]
        assert [id for id, _ in calls] == sorted(id for id, _ in calls)


# --- whom to give it


def test_each_idle_worker_gets_a_task_then_the_rest_waits():
    with Pool(qsize=1, workers=3) as pool:
        for i in range(5):
            pool.submit(i)
        calls = [worker.calls() for worker in pool.workers]
        assert [len(each) for each in calls] == [1, 1, 1]
        assert sorted(args for each in calls for _, args in each) == [(0,), (1,), (2,)]
        assert len(pool.dispatcher.queue) == 2
        assert pool.dispatcher.outstanding == 5
        # who is free gets the next, in the order of submission
        pool.workers[1].answers(calls[1][0][0])
        assert [args for _, args in pool.workers[1].calls()] == [(3,)]
        assert not pool.workers[0].calls()


@pytest.mark.parametrize("ns", [0, 5 * MS])
@pytest.mark.parametrize("qsize", [1, 2, 7])
def test_a_worker_has_at_most_qsize_tasks_that_are_slow_or_unknown(qsize, ns):
    with Pool(qsize=qsize) as pool:
        if ns:
            pool.learn(ns)
        (worker,) = pool.workers
        for i in range(20):
            pool.submit(i)
        assert len(worker.calls()) == qsize == worker.link.in_flight


def test_tiny_tasks_are_sent_ahead():
    with Pool(qsize=2) as pool:
        pool.learn(1 * US)
        for i in range(1000):
            pool.submit(i)
        assert 100 < len(pool.workers[0].calls()) <= 1000


def test_with_a_qsize_of_one_nothing_is_sent_ahead():
    with Pool(qsize=1) as pool:
        pool.learn(1 * US)
        for i in range(1000):
            pool.submit(i)
        assert len(pool.workers[0].calls()) == 1


def test_what_is_sent_ahead_is_bounded_in_time():
    with Pool(qsize=2) as pool:
        pool.learn(500 * US)
        for i in range(100):
            pool.submit(i)
        assert 2 <= len(pool.workers[0].calls()) <= 5


def test_tiny_tasks_are_packed_onto_one_worker():
    with Pool(qsize=2, workers=4) as pool:
        pool.learn(1 * US)
        for i in range(20):
            pool.submit(i)
        assert sorted(len(worker.calls()) for worker in pool.workers) == [0, 0, 0, 20]


@pytest.mark.parametrize(("local", "busy"), [(True, 4), (False, 1)])
def test_more_of_them_are_packed_where_it_costs_more_to_wake_another(local, busy):
    with Pool(qsize=2, workers=4, local=local) as pool:
        pool.learn(1 * US)
        for i in range(300):
            pool.submit(i)
        assert sum(bool(worker.calls()) for worker in pool.workers) == busy


def test_tiny_tasks_do_not_wake_more_workers_than_there_are_cpus():
    with Pool(qsize=2, workers=20, cpus=2) as pool:
        pool.learn(1 * US)
        for i in range(1000):
            pool.submit(i)
        calls = {worker: worker.calls() for worker in pool.workers}
        counts = sorted(map(len, calls.values()))
        assert sum(counts) == 1000
        assert counts[:-2] == [0] * 18
        assert counts[-2] > 400
        # one that is done gets the next, and not one that would have to be woken
        done = next(worker for worker in pool.workers if calls[worker])
        for id, _ in calls[done]:
            done.answers(id, ns=1 * US)
        pool.submit("next")
        assert [args for _, args in done.calls()] == [("next",)]


def test_more_of_them_get_tiny_tasks_when_one_does_not_get_on_with_them():
    """Each has got as much as a worker may be sent ahead, which is 2 ms."""
    with Pool(qsize=2, workers=20, cpus=2) as pool:
        pool.learn(1 * US)
        for i in range(9000):
            pool.submit(i)
        busy = {worker: calls for worker in pool.workers if (calls := worker.calls())}
        assert len(busy) == 2
        assert all(1900 <= len(calls) <= 2000 for calls in busy.values())
        gets_on, lags = busy
        for id, _ in busy[gets_on][:100]:
            gets_on.answers(id, ns=1 * US)
        assert len(gets_on.calls()) == 100

        pool.turn()
        others = set(pool.workers) - set(busy)
        assert not any(worker.calls() for worker in others)
        pool.pass_time(LAG_DELAY)
        woken = [worker for worker in others if worker.calls()]
        assert len(woken) == 1
        assert not gets_on.calls()
        assert not lags.calls()
        pool.pass_time(LAG_DELAY)  # now nobody answers
        assert not pool.dispatcher.queue


def busy_with_slow_tasks(pool, ns):
    """Five workers with a task each that takes this long; 0: it is not known. Others are tiny."""
    slow = pool.make_function("slow")
    pool.learn(1 * US)
    if ns:
        pool.learn(ns, slow)
    for i in range(5):
        pool.submit(i, function=slow)
    busy = [worker for worker in pool.workers if worker.calls()]
    assert len(busy) == 5
    return busy


def test_who_has_slow_tasks_is_not_one_that_does_not_get_on_with_tiny_ones():
    with Pool(qsize=2, workers=20, cpus=2) as pool:
        busy = busy_with_slow_tasks(pool, 4000 * MS)
        for i in range(9000):
            pool.submit(i)
        calls = {worker: calls for worker in pool.workers if (calls := worker.calls())}
        assert len(calls) == 2 and not set(busy) & set(calls)
        for worker, sent in calls.items():
            worker.answers(sent[0][0], ns=1 * US)
        assert pool.dispatcher.queue
        pool.pass_time(LAG_DELAY)
        assert not [worker for worker in pool.workers
                    if worker not in calls and worker.calls()]


@pytest.mark.parametrize("ns", [0, 4000 * MS], ids=["not known", "4 s"])
def test_a_tiny_task_does_not_wait_behind_others_while_there_are_workers_without_any(ns):
    with Pool(qsize=10, workers=20, cpus=2) as pool:
        busy = busy_with_slow_tasks(pool, ns)
        for i in range(10):
            pool.submit(i)
        assert not any(worker.calls() for worker in busy)


def test_a_tiny_task_goes_to_a_worker_that_has_become_idle_not_behind_a_slow_one():
    with Pool(qsize=10, workers=2, cpus=2) as pool:
        slow = pool.make_function("slow")
        pool.learn(1 * US)
        pool.learn(100 * MS, slow)
        for i in range(2):
            pool.submit(i, function=slow)
        calls = {worker: worker.calls() for worker in pool.workers}
        pool.submit("behind one of them")
        first, other = pool.workers
        if first.link.in_flight != 2:
            first, other = other, first
        other.answers(calls[other][0][0], ns=100 * MS)
        other.calls()
        first.calls()
        pool.submit("next")
        assert [args for _, args in other.calls()] == [("next",)]


@pytest.mark.parametrize("ns", [0, 100 * US])
def test_tasks_that_are_not_tiny_may_have_more_workers_than_there_are_cpus(ns):
    """They may wait for something, or sleep."""
    with Pool(qsize=2, workers=20, cpus=2) as pool:
        if ns:
            pool.learn(ns)
        for i in range(20):
            pool.submit(i)
        assert [len(worker.calls()) for worker in pool.workers] == [1] * 20


def test_workers_of_another_machine_have_cpus_of_their_own():
    with Pool(qsize=2, workers=2, cpus=2) as pool:
        pool.workers.append(Worker(pool.dispatcher, "far", Machine(is_local=False, cpus=1)))
        pool.learn(1 * US)
        for i in range(1000):
            pool.submit(i)
        assert all(worker.calls() for worker in pool.workers)


def test_tasks_that_are_not_tiny_are_spread():
    with Pool(qsize=4, workers=4) as pool:
        pool.learn(100 * US)
        for i in range(8):
            pool.submit(i)
        assert [len(worker.calls()) for worker in pool.workers] == [2, 2, 2, 2]


def test_the_least_loaded_worker_gets_the_next():
    with Pool(qsize=100, workers=2) as pool:
        slow = pool.make_function("slow")
        pool.learn(10 * MS, slow)
        pool.learn(1 * MS)
        pool.submit("slow", function=slow)
        for i in range(8):
            pool.submit(i)
        counts = sorted(len(worker.calls()) for worker in pool.workers)
        assert counts == [1, 8]


def test_the_time_of_coroutines_says_nothing():
    with Pool(qsize=3) as pool:
        task = pool.submit()
        (worker,) = pool.workers
        worker.answers(worker.calls()[0][0], ns=1, flags=FROM_COROUTINE)
        assert task.done()
        assert pool.function.is_async
        for i in range(10):
            pool.submit(i)
        assert len(worker.calls()) == 3


def test_a_congested_worker_gets_nothing():
    with Pool(qsize=10, workers=2) as pool:
        slow_reader, other = pool.workers
        slow_reader.connection.pause_writing()
        for i in range(4):
            pool.submit(i)
        assert not slow_reader.calls()
        assert len(other.calls()) == 4
        other.connection.pause_writing()
        pool.submit("later")
        assert not slow_reader.calls()
        assert not other.calls()
        slow_reader.connection.resume_writing()
        assert [args for _, args in slow_reader.calls()] == [("later",)]


def test_a_worker_that_was_congested_while_it_had_nothing_to_do_is_not_forgotten():
    with Pool(qsize=1, workers=2) as pool:
        busy, congested = pool.workers
        congested.connection.pause_writing()
        pool.submit("first")
        assert [args for _, args in busy.calls()] == [("first",)]
        congested.connection.resume_writing()
        pool.submit("second")
        assert [args for _, args in congested.calls()] == [("second",)]


def test_a_retiring_worker_gets_nothing_more_and_ends_what_it_has():
    with Pool(qsize=1) as pool:
        (old,) = pool.workers
        task, waiting = pool.submit("old"), pool.submit("new")
        ((id, _),) = old.calls()
        old.link.retire()
        old.answers(id, "done")
        assert task.result() == "done"
        assert not old.calls()
        new = Worker(pool.dispatcher)
        assert [args for _, args in new.calls()] == [("new",)]
        assert not waiting.done()
        old.link.say_goodbye()
        assert kinds(old.frames()) == [BYE]


def test_a_worker_without_work_is_retired_at_once():
    with Pool() as pool:
        (old,) = pool.workers
        retired = []
        old.link.retire(lambda: retired.append(True))
        assert retired == [True]
        assert not old.frames()


def test_a_retiring_worker_that_is_lost_does_not_say_that_it_is_retired():
    with Pool() as pool:
        (old,) = pool.workers
        pool.submit("lost")
        ((id, _),) = old.calls()
        retired = []
        old.link.retire(lambda: retired.append(True))
        lose(old, id)
        assert not retired


def test_the_calls_of_a_chunk_are_counted_one_by_one():
    with Pool() as pool:
        (worker,) = pool.workers
        pool.chunk(range(5))
        (id,) = (frame.id for frame in worker.frames() if frame.kind == CHUNK)
        worker.sends_part(id, [0, 1, 2, 3, 4], kind=RESULT, ns=1)
        assert worker.link.tasks_done == 5


def test_tasks_wait_for_the_first_worker():
    with Pool(workers=0) as pool:
        pool.submit("early")
        worker = Worker(pool.dispatcher)
        assert [args for _, args in worker.calls()] == [("early",)]


def test_a_task_for_one_certain_worker():
    with Pool(qsize=1, workers=2) as pool:
        for _ in range(4):
            pool.submit("any")
        for worker in pool.workers:
            worker.calls()
            pool.dispatcher.send_to(worker.link, pool.task(worker.name))
            assert [args for _, args in worker.calls()] == [(worker.name,)]


def test_submitting_from_another_thread():
    with Pool(qsize=100) as pool:
        thread = threading.Thread(target=lambda: [pool.submit(i) for i in range(10)])
        thread.start()
        thread.join()
        assert pool.dispatcher.on_home_thread()
        assert not pool.workers[0].calls()
        pool.turn()
        assert [args for _, args in pool.workers[0].calls()] == [(i,) for i in range(10)]


def test_it_tells_when_all_is_done():
    with Pool(qsize=1) as pool:
        (worker,) = pool.workers
        drained = []
        tasks = [pool.submit(i) for i in range(2)]
        pool.dispatcher.on_drained = lambda: drained.append(True)
        worker.answers(worker.calls()[0][0])
        assert not drained
        worker.answers(worker.calls()[0][0])
        assert drained == [True]
        assert all(task.done() for task in tasks)


# --- cancelling


def test_a_cancelled_task_that_waits_is_dropped():
    with Pool(qsize=1) as pool:
        (worker,) = pool.workers
        first, second, third = (pool.submit(i) for i in range(3))
        ((id, _),) = worker.calls()
        assert second.cancel()
        assert second.cancelled()
        worker.answers(id)
        ((id, args),) = worker.calls()
        assert args == (2,)
        worker.answers(id)
        assert first.done()
        assert third.done()
        assert pool.dispatcher.outstanding == 0


def test_a_cancelled_task_on_a_worker_keeps_its_place_until_the_worker_answers():
    with Pool(qsize=1) as pool:
        (worker,) = pool.workers
        task, waiting = pool.submit(1), pool.submit(2)
        ((id, _),) = worker.calls()
        assert task.cancel()
        (request,) = worker.frames()
        assert (request.kind, request.id) == (CANCEL, id)
        assert task.cancelled()
        assert worker.link.in_flight == 1
        worker.says(Frame(CANCELLED, id=id))
        assert [args for _, args in worker.calls()] == [(2,)]
        assert not waiting.done()


def test_the_answer_to_a_cancelled_task_that_came_too_late_is_dropped():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit()
        ((id, _),) = worker.calls()
        task.cancel()
        worker.answers(id, "too late")
        assert task.cancelled()
        assert pool.dispatcher.outstanding == 0


def test_cancel_queued():
    with Pool(qsize=1) as pool:
        sent, waiting = pool.submit(1), pool.submit(2)
        pool.dispatcher.cancel_queued()
        assert waiting.cancelled()
        assert not sent.done()
        assert pool.dispatcher.outstanding == 1


def test_what_comes_after_cancel_queued_is_cancelled():
    """From the inbox, or from a map whose results are still being taken."""
    with Pool(qsize=2) as pool:
        running = pool.submit("running")
        pool.dispatcher.cancel_queued()
        late = pool.submit("late")
        chunk, news = pool.chunk([1, 2])
        assert late.cancelled()
        assert chunk.done and chunk.dropped and news == [chunk]
        (worker,) = pool.workers
        ((id, args),) = worker.calls()
        assert args == ("running",)
        worker.answers(id, "done")
        assert running.result() == "done"


# --- functions that are gone


def test_a_function_that_nobody_refers_to_is_forgotten():
    with Pool(workers=2) as pool:
        first, second = pool.workers
        function = pool.make_function("short-lived")
        id = function.id
        pool.submit(function=function)
        worker = first if first.link.in_flight else second
        call = worker.frames()[-1]
        del function
        gc.collect()
        pool.turn()
        assert not worker.frames()  # the task still needs it
        worker.answers(call.id)
        pool.turn()
        (frame,) = worker.frames()
        assert (frame.kind, frame.id) == (FORGET, id)
        other = second if worker is first else first
        assert not other.frames()  # it never had it


def test_the_id_of_a_forgotten_function_means_the_new_one():
    with Pool() as pool:
        (worker,) = pool.workers
        old = pool.make_function("old")
        id = old.id
        pool.submit(function=old)
        worker.answers(worker.calls()[0][0])
        del old
        pool.turn()
        new = pool.make_function("new")
        assert new.id == id
        pool.submit(function=new)
        forget, sent, call = worker.frames()
        assert (forget.kind, forget.id) == (FORGET, id)
        assert (sent.kind, sent.id, sent.body) == (FUNCTION, id, b"new")
        assert (call.kind, call.aux) == (CALL, id)


def test_functions_that_live_have_ids_of_their_own():
    with Pool() as pool:
        alive = []
        for i in range(50):
            alive.append(pool.make_function(f"kept {i}"))
            pool.make_function("dropped")
            if i % 7 == 0:
                pool.turn()
        ids = [function.id for function in [*alive, pool.function]]
        assert len(ids) == len(set(ids))


# --- the end of a worker


class Lost(Exception):
    pass


def lose(worker, started_id):
    worker.link.lose(started_id, lambda task: Lost(task.name))


def failed(task):
    return task.done() and isinstance(task.exception(), Lost)


def test_what_a_lost_worker_had_started_fails_and_the_rest_moves_in_order():
    with Pool(qsize=4) as pool:
        (old,) = pool.workers
        tasks = [pool.submit(i) for i in range(6)]
        ids = [id for id, _ in old.calls()]
        lose(old, started_id=ids[1])
        assert [failed(task) for task in tasks] == [True, True] + [False] * 4
        assert pool.dispatcher.outstanding == 4
        new = Worker(pool.dispatcher, "new")
        calls = new.calls()
        assert [args for _, args in calls] == [(2,), (3,), (4,), (5,)]
        for id, (i,) in calls:
            new.answers(id, i)
        assert [task.result() for task in tasks[2:]] == [2, 3, 4, 5]
        assert pool.dispatcher.outstanding == 0


def test_what_moves_goes_to_a_worker_that_is_there():
    with Pool(qsize=2, workers=2) as pool:
        first, second = pool.workers
        tasks = [pool.submit(i) for i in range(2)]
        first.calls(), second.calls()
        lose(first, started_id=0)
        moved = second.calls()
        assert len(moved) == 1
        assert not any(task.done() for task in tasks)


def test_nothing_moves_when_it_is_not_known_what_had_started():
    with Pool(qsize=2) as pool:
        tasks = [pool.submit(i) for i in range(3)]
        lose(pool.workers[0], started_id=None)
        assert [failed(task) for task in tasks] == [True, True, False]


def test_a_task_for_one_certain_worker_ends_with_it():
    with Pool() as pool:
        task = pool.task()
        pool.dispatcher.send_to(pool.workers[0].link, task)
        lose(pool.workers[0], started_id=0)
        assert failed(task)


def test_a_lost_worker_is_lost_once():
    with Pool() as pool:
        task = pool.submit()
        lose(pool.workers[0], None)
        lose(pool.workers[0], None)
        assert failed(task)
        assert pool.dispatcher.links == []
        assert pool.dispatcher.outstanding == 0


def test_what_a_lost_worker_still_says_is_not_held_against_it():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit()
        ((id, _),) = worker.calls()
        lose(worker, None)
        worker.answers(id)
        assert failed(task)


def test_a_task_that_was_cancelled_is_not_moved():
    with Pool(qsize=2) as pool:
        tasks = [pool.submit(i) for i in range(2)]
        tasks[0].cancel()
        lose(pool.workers[0], started_id=0)
        assert [args for _, args in Worker(pool.dispatcher).calls()] == [(1,)]


def test_closing_fails_all_that_is_left_and_all_that_comes():
    with Pool(qsize=1) as pool:
        tasks = [pool.submit(i) for i in range(3)]
        pool.dispatcher.close(lambda task: Lost(task.name))
        tasks.append(pool.submit(3))
        assert all(map(failed, tasks))
        assert pool.dispatcher.outstanding == 0


# --- a worker that does not speak as it should


def test_answers_to_no_task_are_refused():
    with Pool() as pool:
        (worker,) = pool.workers
        pool.submit()
        ((id, _),) = worker.calls()
        worker.answers(id)
        for wrong in (id, id + 1, 0, 2**64 - 1):
            with pytest.raises(ProtocolError, match="does not have"):
                worker.answers(wrong)


def test_a_part_of_what_is_no_chunk_is_refused():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit()
        ((id, _),) = worker.calls()
        with pytest.raises(ProtocolError, match="not a chunk"):
            worker.says(Frame(PART, id=id))
        lose(worker, None)
        assert failed(task)


@pytest.mark.parametrize("kind", [1, 2, FUNCTION, CALL, BYE])
def test_frames_that_a_worker_does_not_send_are_refused(kind):
    with Pool() as pool, pytest.raises(ProtocolError):
        pool.workers[0].says(Frame(kind))


# --- all of it, at random


@given(st.integers(1, 4), st.lists(st.tuples(
    st.sampled_from(["submit", "chunk", "answer", "fail", "cancel", "lose", "connect", "retire"]),
    st.integers(0, 1000)), max_size=60))
def test_every_task_ends_exactly_once(qsize, steps):
    with Pool(qsize, workers=2) as pool:
        tasks, ended = [], []
        on_workers = []  # (worker, id, kind)

        def look():
            for worker in pool.workers:
                for frame in worker.frames():
                    if frame.kind in (CALL, CHUNK):
                        on_workers.append((worker, frame.id, frame))
                    elif frame.kind == CANCEL:
                        pass  # answered with a result as any other

        def answer(number, fails):
            worker, id, frame = on_workers.pop(number % len(on_workers))
            if fails:
                worker.fails(id, ValueError())
            elif frame.kind == CALL:
                worker.answers(id, number, ns=number * US)
            else:
                n = int.from_bytes(frame.body[:4], "little")
                worker.sends_part(id, list(range(n)), kind=RESULT, ns=number * US)

        def lose_one(number):
            worker = pool.workers.pop(number % len(pool.workers))
            started = [id for each, id, _ in on_workers if each is worker]
            on_workers[:] = [entry for entry in on_workers if entry[0] is not worker]
            lose(worker, started[number % len(started)] if started else 0)

        for step, number in steps:
            if step == "submit":
                task = pool.submit(number)
                task.add_done_callback(ended.append)
                tasks.append(task)
            elif step == "chunk":
                chunk, _ = pool.chunk(range(number % 5 + 1))
                tasks.append(chunk)
            elif step in ("answer", "fail") and on_workers:
                answer(number, step == "fail")
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "lose" and pool.workers:
                lose_one(number)
            elif step == "connect":
                pool.workers.append(Worker(pool.dispatcher))
            elif step == "retire" and pool.workers:
                pool.workers[number % len(pool.workers)].link.retire()
            look()
            for worker in pool.workers:
                assert worker.link.in_flight == sum(each is worker for each, _, _ in on_workers)
            assert pool.dispatcher.in_flight == len(on_workers)
        pool.workers.append(Worker(pool.dispatcher))
        look()
        while on_workers:
            answer(0, fails=False)
            look()
        assert pool.dispatcher.outstanding == 0
        pool.turn()
        singles = [task for task in tasks if not hasattr(task, "take")]
        assert len(ended) == len(singles)
        assert set(map(id, ended)) == set(map(id, singles))
        for task in tasks:
            assert task.done if hasattr(task, "take") else task.done()
            if task in singles and not task.cancelled():
                task.exception()  # seen
