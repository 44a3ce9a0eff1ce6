"""Tasks that were on a worker together when it was lost: which of them is to blame is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import Pool, Worker

from distex._core.dispatch import TRIAL_TIME
from distex._core.task import Limits

RETRIES = 3
SPARED_LIMIT = 8  # as in dispatch.pyx


class Lost(Exception):
    pass


def lose(worker, started_id):
    worker.link.lose(started_id, lambda task: Lost(task.name))


def failed(task):
    return task.done() and not task.cancelled() and isinstance(task.exception(), Lost)


def submit(pool, *args, retries=RETRIES):
    task = pool.task(*args, function=pool.coroutine)
    if retries:
        task.limits = Limits(retries=retries)
    pool.dispatcher.submit(task)
    return task


def make_pool(qsize=10, workers=1):
    pool = Pool(qsize, workers=workers)
    pool.coroutine = pool.make_function("coroutine", is_async=True)
    return pool


class Workers:
    """Workers that run coroutines side by side: one that has got a guilty one dies, and another one
    takes its place; else they answer."""

    def __init__(self, pool, guilty):
        self.pool = pool
        self.guilty = guilty
        self.lost = 0
        self.together = []  # what was on a worker that was lost

    def go_on(self):
        """Let something happen; whether it did."""
        for place, worker in enumerate(self.pool.workers):
            calls = worker.calls()
            if not calls:
                continue
            if any(number in self.guilty for _, (number,) in calls):
                self.lost += 1
                self.together.append([number for _, (number,) in calls])
                self.pool.workers[place] = Worker(self.pool.dispatcher)
                lose(worker, max(id for id, _ in calls))
            else:
                for id, args in calls:
                    worker.answers(id, args)
            return True
        return False


def test_the_one_that_ends_its_workers_is_found_and_the_others_are_done():
    with make_pool() as pool:
        tasks = [submit(pool, number) for number in range(10)]
        workers = Workers(pool, {4})
        while workers.go_on():
            pass
        assert [number for number, task in enumerate(tasks) if failed(task)] == [4]
        assert all(task.result() == (number,) for number, task in enumerate(tasks) if number != 4)
        assert tasks[4].losses == RETRIES + 1
        assert workers.together == [list(range(10)), [0, 1, 2, 3, 4]] + 4 * [[4]]
        assert pool.dispatcher.outstanding == 0


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=4), st.integers(1, 4),
       st.integers(1, 3))
def test_whatever_their_number_only_the_guilty_are_given_up(count, guilty, workers, retries):
    with make_pool(qsize=40, workers=workers) as pool:
        tasks = [submit(pool, number, retries=retries) for number in range(count)]
        crowd = Workers(pool, guilty)
        while crowd.go_on():
            pass
        assert {number for number, task in enumerate(tasks) if failed(task)} == (
            guilty & set(range(count)))
        assert all(task.done() for task in tasks)
        # each is found by halves, and then has its tries
        assert crowd.lost <= len(guilty) * (SPARED_LIMIT + retries + 1)
        assert pool.dispatcher.outstanding == 0


def test_those_without_retries_fail_and_are_not_run_again():
    with make_pool() as pool:
        (worker,) = pool.workers
        once, again = submit(pool, 1, retries=0), submit(pool, 2)
        (_, (last, _)) = worker.calls()
        lose(worker, last)
        assert failed(once)
        assert not again.done()
        new = Worker(pool.dispatcher)
        assert [args for _, args in new.calls()] == [(2,)]


def two_groups():
    """A pool in which two tasks that were lost together are tried apart, one worker for them, and a
    task that came later."""
    pool = make_pool()
    (lost,) = pool.workers
    suspects = [submit(pool, "first"), submit(pool, "last")]
    worker = Worker(pool.dispatcher)
    lose(lost, lost.calls()[-1][0])
    return pool, suspects, worker, submit(pool, "later")


def test_nothing_else_is_put_beside_those_that_are_tried():
    pool, suspects, worker, later = two_groups()
    with pool:
        ((id, args),) = worker.calls()
        assert args == ("last",)
        worker.answers(id, 1)
        ((id, args),) = worker.calls()
        assert args == ("first",)
        worker.answers(id, 2)
        ((id, args),) = worker.calls()
        assert args == ("later",)
        worker.answers(id, 3)
        assert [task.result() for task in (*suspects, later)] == [2, 1, 3]


def test_those_that_have_gone_well_for_a_while_may_have_others_beside_them():
    """They may be waiting for each other."""
    pool, suspects, worker, later = two_groups()
    with pool:
        calls = worker.calls()
        pool.pass_time(2 * TRIAL_TIME)
        calls += worker.calls()
        assert [args for _, args in calls] == [("last",), ("first",)]
        pool.pass_time(2 * TRIAL_TIME)
        calls += worker.calls()
        assert [args for _, args in calls] == [("last",), ("first",), ("later",)]
        for id, (name,) in calls:
            worker.answers(id, name)
        assert [task.result() for task in (*suspects, later)] == ["first", "last", "later"]


def test_a_busy_worker_is_emptied_for_those_that_are_to_be_tried():
    with make_pool(qsize=2, workers=2) as pool:
        tasks = [submit(pool, number) for number in range(6)]
        busy, lost = pool.workers
        ((a, _), (b, _)) = busy.calls()
        ((_, first), (last, second)) = lost.calls()
        lose(lost, last)
        busy.answers(a)
        assert not busy.calls()  # though others wait
        busy.answers(b)
        for suspect in (second, first):
            ((id, args),) = busy.calls()
            assert args == suspect
            busy.answers(id)
        others = busy.calls()
        assert len(others) == 2
        for id, _ in others:
            busy.answers(id)
        assert all(task.done() for task in tasks)


@pytest.mark.parametrize("end", ["cancel", "cancel_queued", "close"])
def test_those_that_wait_for_their_turn_end_with_the_pool_or_when_they_are_cancelled(end):
    with make_pool() as pool:
        (worker,) = pool.workers
        tasks = [submit(pool, number) for number in range(10)]
        lose(worker, worker.calls()[-1][0])
        assert pool.dispatcher.outstanding == 10
        if end == "cancel":
            for task in tasks:
                task.cancel()
            assert not Worker(pool.dispatcher).calls()
        elif end == "cancel_queued":
            pool.dispatcher.cancel_queued()
        else:
            pool.dispatcher.close(lambda task: Lost(task.name))
        assert all(map(failed if end == "close" else lambda task: task.cancelled(), tasks))
        assert pool.dispatcher.outstanding == 0


@pytest.mark.parametrize("retries", [0, 2])
def test_a_task_whose_workers_are_lost_before_they_start_it_is_given_up_in_the_end(retries):
    with make_pool(workers=0) as pool:
        task = submit(pool, retries=retries)
        workers = 0
        while not task.done():
            worker = Worker(pool.dispatcher)
            workers += 1
            assert len(worker.calls()) == 1
            lose(worker, started_id=0)
        assert failed(task)
        assert workers == SPARED_LIMIT + retries + 1
