"""What is counted of tasks: each by what became of it, whatever happens in between."""

from hypothesis import given
from hypothesis import strategies as st
from peers import CALL, CANCEL, CANCELLED, CHUNK, RESULT, Pool, Worker
from reference.framing import Frame

from distex._core.task import Limits


class Lost(Exception):
    pass


class Counted:
    """A pool, and what should be counted of what its workers do."""

    def __init__(self):
        self.pool = Pool(qsize=3, workers=2)
        self.workers = self.pool.workers
        self.tasks = []
        self.had_started = set()  # on a worker that was lost
        self.on_workers = []  # worker, frame, what the task was submitted with
        self.done = self.lost = self.retried = 0

    def submit(self, number):
        task = self.pool.task(number)
        task.limits = Limits(retries=number % 3)
        self.tasks.append(task)
        self.pool.dispatcher.submit(task)

    def chunk(self, number):
        chunk, _ = self.pool.chunk(range(number % 5 + 1))
        self.tasks.append(chunk)

    def look(self):
        """See what the workers have got."""
        for worker in self.workers:
            for frame in worker.frames():
                if frame.kind in (CALL, CHUNK):
                    (task,) = (task for task in self.tasks
                               if task.link is worker.link and task.wire_id == frame.id)
                    self.on_workers.append((worker, frame, task))
                    self.retried += task in self.had_started
                    self.had_started.discard(task)

    def take(self, number):
        return self.on_workers.pop(number % len(self.on_workers))

    def answer(self, number):
        worker, frame, task = self.take(number)
        if frame.kind == CALL:
            worker.answers(frame.id, number)
        else:
            worker.sends_part(frame.id, [0] * task.calls, kind=RESULT)
        self.done += task.calls

    def fail(self, number):
        worker, frame, task = self.take(number)
        if frame.kind == CHUNK:
            values = number % task.calls
            worker.sends_part(frame.id, [0] * values)
            self.done += values
        worker.fails(frame.id, ValueError())
        self.done += 1

    def cancel(self, number):
        if self.tasks:
            self.tasks[number % len(self.tasks)].cancel()

    def lose(self, number):
        place = number % len(self.workers)
        worker = self.workers[place]
        there = [(frame.id, task) for each, frame, task in self.on_workers if each is worker]
        self.on_workers = [entry for entry in self.on_workers if entry[0] is not worker]
        started_id = there[number % len(there)][0] if there else 0
        self.had_started.update(task for id, task in there if id <= started_id)
        self.workers[place] = Worker(self.pool.dispatcher)
        worker.link.lose(started_id, self._lost)

    def _lost(self, task):
        self.lost += 1
        return Lost()


def is_lost(task):
    error = task.error if hasattr(task, "items") else (
        task.done() and not task.cancelled() and task.exception())
    return isinstance(error, Lost)


@given(st.lists(st.tuples(
    st.sampled_from(["submit", "chunk", "answer", "fail", "cancel", "lose"]),
    st.integers(0, 1000)), max_size=60))
def test_each_task_is_counted_once_by_its_outcome(steps):
    counted = Counted()
    with counted.pool as pool:
        for step, number in steps:
            if counted.on_workers or step not in ("answer", "fail"):
                getattr(counted, step)(number)
            counted.look()
        while counted.on_workers:
            counted.answer(0)
            counted.look()
        dispatcher = pool.dispatcher
        assert dispatcher.outstanding == 0
        assert dispatcher.tasks_done + sum(link.tasks_done for link in dispatcher.links) == (
            counted.done)
        assert counted.lost == sum(map(is_lost, counted.tasks))
        assert dispatcher.tasks_retried == counted.retried


def test_what_was_done_of_a_lost_chunk_is_counted():
    with Pool() as pool:
        (worker,) = pool.workers
        pool.chunk(range(10))
        (id,) = (frame.id for frame in worker.frames() if frame.kind == CHUNK)
        worker.sends_part(id, [0, 1, 2])
        worker.link.lose(id, lambda task: Lost())
        assert pool.dispatcher.tasks_done == 3


def test_a_chunk_that_is_cancelled_counts_with_what_was_done_of_it():
    with Pool() as pool:
        (worker,) = pool.workers
        chunk, _ = pool.chunk(range(10))
        (id,) = (frame.id for frame in worker.frames() if frame.kind == CHUNK)
        worker.sends_part(id, [0, 1, 2])
        chunk.cancel()
        assert [frame.kind for frame in worker.frames()] == [CANCEL]
        worker.says(Frame(CANCELLED, id=id))
        assert worker.link.tasks_done == 3
