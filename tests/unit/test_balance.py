"""Work that is given back by a worker that has too much, and shared out anew."""

import struct

import pytest
from peers import CALL, CHUNK, MS, RECALL, RESULT, RETURNED, US, Pool, Worker
from reference.framing import Frame

from distex._core.dispatch import BALANCE_DELAY
from distex.errors import ProtocolError


def let_it_look(pool):
    """Long enough for the dispatcher to see who has nothing to do."""
    for _ in range(3):
        pool.pass_time(BALANCE_DELAY)


def give_back(worker, id, done=0, spent_ns=0):
    worker.says(Frame(RETURNED, aux=done, id=id, body=struct.pack("<q", spent_ns)))


def kinds(frames):
    return [frame.kind for frame in frames]


def unequal_pool():
    """Two workers: the first has ten tasks that were thought to be tiny, the other had one."""
    pool = Pool(qsize=2, workers=2)
    pool.learn(1 * US)
    busy = None
    tasks = [pool.submit(i) for i in range(10)]
    for worker in pool.workers:
        calls = worker.calls()
        if calls:
            assert busy is None
            busy, ids = worker, [id for id, _ in calls]
    (idle,) = [worker for worker in pool.workers if worker is not busy]
    return pool, tasks, busy, ids, idle


def test_a_worker_with_too_much_is_asked_once_when_another_has_nothing_to_do():
    pool, tasks, busy, ids, idle = unequal_pool()
    with pool:
        busy.answers(ids[0], "done")
        other = pool.task("other")
        pool.dispatcher.send_to(idle.link, other)
        idle.answers(idle.calls()[0][0])
        let_it_look(pool)
        assert kinds(busy.frames()) == [RECALL]
        assert not idle.frames()
        # what comes back goes to whom there is, the least one first
        for id in ids[2:]:
            give_back(busy, id)
        let_it_look(pool)
        moved = idle.calls()
        again = busy.calls()
        assert moved
        assert sorted(args for _, args in moved + again) == [(i,) for i in range(2, 10)]
        for worker, calls in ((idle, moved), (busy, again), (busy, [(ids[1], (1,))])):
            for id, args in calls:
                worker.answers(id, args)
        assert [task.result() for task in tasks] == ["done"] + [(i,) for i in range(1, 10)]
        assert pool.dispatcher.outstanding == 0


def test_nobody_is_asked_for_the_only_task():
    with Pool(qsize=2, workers=2) as pool:
        first, second = pool.workers
        pool.dispatcher.send_to(first.link, pool.task("long"))
        first.calls()
        pool.dispatcher.send_to(second.link, pool.task("short"))
        second.answers(second.calls()[0][0])
        let_it_look(pool)
        assert not first.frames()


def test_the_rest_of_a_chunk_goes_on_as_smaller_ones():
    with Pool(qsize=1, workers=1) as pool:
        (worker,) = pool.workers
        chunk, news = pool.chunk(range(100))
        (frame,) = [frame for frame in worker.frames() if frame.kind == CHUNK]
        worker.sends_part(frame.id, list(range(20)))
        give_back(worker, frame.id, done=20, spent_ns=20 * MS)
        assert chunk.done
        assert chunk.error is None
        assert chunk.take() == list(range(20))
        assert news
        rest = chunk.successors
        assert [item for piece in rest for item in piece.items] == list(range(20, 100))
        assert len(rest) > 1
        assert pool.function.cost_ns == 1 * MS
        # the pieces are on their way by themselves
        for piece in rest:
            (frame,) = [frame for frame in worker.frames() if frame.kind == CHUNK]
            worker.sends_part(frame.id, piece.items, kind=RESULT)
            assert piece.done
        assert pool.dispatcher.outstanding == 0


def late_chunk(workers, n=100):
    """A chunk of tiny calls, of which the last that were done took 10 ms each."""
    pool = Pool(qsize=1, workers=workers)
    pool.learn(10 * US)
    chunk, _ = pool.chunk(range(n))
    (busy, frame), = [(worker, frame) for worker in pool.workers for frame in worker.frames()
                      if frame.kind == CHUNK]
    busy.sends_part(frame.id, list(range(50)), ns=500 * US)
    assert not busy.frames()  # all is as it should be
    busy.sends_part(frame.id, [50], ns=500 * US + 10 * MS)
    return pool, chunk, busy, frame


def test_a_chunk_that_takes_far_longer_than_it_was_meant_to_is_asked_back_at_once():
    pool, chunk, busy, frame = late_chunk(workers=2)
    with pool:
        assert kinds(busy.frames()) == [RECALL]
        busy.sends_part(frame.id, [51], ns=500 * US + 20 * MS)
        assert not busy.frames()  # once is enough
        give_back(busy, frame.id, done=52, spent_ns=500 * US + 20 * MS)
        # by what the latest calls took, not by the average of them all
        assert [piece.items for piece in chunk.successors] == [[i] for i in range(52, 100)]
        assert chunk.take() == list(range(52))


def test_with_one_worker_there_is_nobody_to_share_with():
    pool, _, busy, _ = late_chunk(workers=1)
    with pool:
        assert not busy.frames()


def test_a_chunk_that_was_cancelled_does_not_go_on():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, _ = pool.chunk(range(100))
        (frame,) = [frame for frame in worker.frames() if frame.kind == CHUNK]
        chunk.cancel()
        worker.frames()
        give_back(worker, frame.id)
        assert not worker.frames()
        assert pool.dispatcher.outstanding == 0


def test_a_task_for_one_certain_worker_stays_there():
    with Pool(workers=2) as pool:
        first, second = pool.workers
        task = pool.task("pinned")
        pool.dispatcher.send_to(first.link, task)
        ((id, _),) = first.calls()
        give_back(first, id)
        ((id, args),) = first.calls()
        assert args == ("pinned",)
        assert not second.calls()
        first.answers(id, "value")
        assert task.result() == "value"


def test_a_cancelled_task_that_is_given_back_is_dropped():
    with Pool() as pool:
        (worker,) = pool.workers
        task = pool.submit()
        ((id, _),) = worker.calls()
        task.cancel()
        worker.frames()
        give_back(worker, id)
        assert task.cancelled()
        assert CALL not in kinds(worker.frames())
        assert pool.dispatcher.outstanding == 0


@pytest.mark.parametrize("wrong", [
    {"body": b""}, {"body": bytes(9)}, {"body": bytes(8), "aux": 2},
    {"body": bytes(8), "id": 12345},
], ids=repr)
def test_a_return_that_cant_be(wrong):
    with Pool() as pool:
        (worker,) = pool.workers
        pool.submit()
        ((id, _),) = worker.calls()
        with pytest.raises(ProtocolError):
            worker.says(Frame(RETURNED, **{"id": id, **wrong}))


def test_a_retiring_worker_is_asked_for_what_it_has_not_started():
    with Pool(qsize=3) as pool:
        (old,) = pool.workers
        started, waiting = pool.submit("started"), pool.submit("waiting")
        (first, _), (second, _) = old.calls()
        retired = []
        old.link.retire(lambda: retired.append(True))
        assert kinds(old.frames()) == [RECALL]
        give_back(old, second)
        assert not retired
        new = Worker(pool.dispatcher)
        ((id, args),) = new.calls()
        assert args == ("waiting",)
        new.answers(id, 1)
        old.answers(first, 2)
        assert retired == [True]
        assert (started.result(), waiting.result()) == (2, 1)
        assert (old.link.tasks_done, new.link.tasks_done) == (1, 1)


def test_one_that_retires_is_no_reason_to_ask_others():
    pool, _, busy, ids, idle = unequal_pool()
    with pool:
        idle.link.retire()
        busy.answers(ids[0], "done")
        let_it_look(pool)
        assert RECALL not in kinds(busy.frames())


def test_the_part_of_a_chunk_that_was_done_counts():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, _ = pool.chunk(range(8))
        (id,) = (frame.id for frame in worker.frames() if frame.kind == CHUNK)
        worker.sends_part(id, [0, 1, 2])
        worker.link.retire()
        give_back(worker, id, done=3, spent_ns=3 * MS)
        assert worker.link.tasks_done == 3
        assert chunk.done
