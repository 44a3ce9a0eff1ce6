"""No task waits behind a slow one while another worker has nothing to do: a model of the workers.

Each does its calls one after the other, and reads nothing while one takes long. Its nanny does what
worker/status_page.py says.
"""

import struct
from collections import Counter, deque

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from peers import CALL, CHUNK, RESULT, RETURNED, US, Pool, Worker, codec, values
from reference.framing import Frame

from distex._core.dispatch import BALANCE_DELAY
from distex.errors import ProtocolError


class BusyWorker(Worker):
    """Runs what it gets; slow ones take until the end of the test."""

    def __init__(self, pool, slow, runs):
        self.slow = slow
        self.runs = runs
        self.inbox = deque()
        self.items = []  # of the chunk that runs, those that are left
        self.chunk = 0
        self.done = 0
        self.started = self.withdrawn = 0
        self.hangs = False
        self.asked = []
        super().__init__(pool.dispatcher)

    def withdraw(self, last):
        self.asked.append(last)

    def nanny(self):
        """Answer what the pool has asked."""
        for last in self.asked:
            self.withdrawn = max(self.withdrawn, last)
            item = self.done if self.hangs and self.chunk == self.started else -1
            self.link.on_withdrawn(last, self.started, item)
        self.asked.clear()

    def begins(self, number):
        """Begin a call: whether it is done at once."""
        self.runs[number] += 1
        self.hangs = number in self.slow
        return not self.hangs

    def go_on(self):
        """Do all that does not take long."""
        self.inbox.extend(self.frames())
        while not self.hangs:
            if self.chunk:
                self.go_on_with_chunk()
            elif self.inbox:
                self.take(self.inbox.popleft())
            else:
                return

    def take(self, frame):
        if frame.kind == CALL:
            self.started = frame.id
            if frame.id <= self.withdrawn:
                self.returns(frame.id, 0)
            elif self.begins(values(frame)[0][0]):
                self.answers(frame.id, True, ns=1 * US)
            else:
                self.current = frame.id
        elif frame.kind == CHUNK:
            self.started = self.chunk = frame.id
            (count,) = struct.unpack_from("<I", frame.body)
            self.items = deque(read_numbers(frame.body[4:], count))
            self.done = 0

    def go_on_with_chunk(self):
        id = self.chunk
        if self.items and id <= self.withdrawn:
            self.chunk = 0
            self.returns(id, self.done)
        elif not self.items:
            self.chunk = 0
            self.sends_part(id, [], kind=RESULT)
        elif self.begins(self.items.popleft()):
            self.done += 1
            self.sends_part(id, [True])

    def returns(self, id, done):
        self.says(Frame(RETURNED, aux=done, id=id, body=struct.pack("<q", 0)))

    def wake(self):
        """The slow call comes to its end."""
        if self.hangs:
            self.hangs = False
            if self.chunk:
                self.done += 1
                self.sends_part(self.chunk, [True])
            else:
                self.answers(self.current, True)


def read_numbers(body, count):
    size = len(codec.encode(0)[0])
    return [codec.decode(body[i * size:(i + 1) * size]) for i in range(count)]


def make_pool(workers, slow):
    pool = Pool(qsize=2, workers=0)
    runs = Counter()
    pool.workers = [BusyWorker(pool, slow, runs) for _ in range(workers)]
    task = pool.submit(-1)
    go_on(pool, 1)
    assert task.done() and pool.function.cost_ns > 0
    runs.clear()
    return pool, runs


def go_on(pool, looks):
    for _ in range(looks):
        for worker in pool.workers:
            worker.go_on()
            worker.nanny()
            worker.go_on()
        pool.pass_time(BALANCE_DELAY)


def values_of(chunk, tails):
    """How many values have come of it, and of all that it was split into.

    Args:
        tails: what was cut off each chunk, as far as it is known.
    """
    tail = tails.setdefault(chunk, [])
    tail += chunk.take_tail() or []
    return chunk.received + sum(values_of(each, tails) for each in (chunk.successors or []) + tail)


slow_ones = st.sets(st.integers(0, 79), max_size=3)


@given(slow_ones, st.integers(0, 2), st.integers(1, 80), st.lists(st.integers(0, 79), max_size=5))
def test_what_is_behind_a_slow_call_moves_to_who_has_nothing_to_do(slow, more, count, pauses):
    pool, runs = make_pool(len(slow) + 1 + more, slow)
    with pool:
        tasks = []
        for number in range(count):
            tasks.append(pool.submit(number))
            if number in pauses:
                go_on(pool, 1)
        go_on(pool, 60)
        assert {number for number, task in enumerate(tasks) if not task.done()} == (
            slow & set(range(count)))
        for worker in pool.workers:
            worker.wake()
        go_on(pool, 3)
        assert all(task.result() for task in tasks)
        assert runs == Counter(range(count))  # each once
        assert pool.dispatcher.outstanding == 0
        assert all(not worker.link.in_flight for worker in pool.workers)


@given(slow_ones, st.integers(0, 2), st.lists(st.integers(1, 40), min_size=1, max_size=4))
@example({0, 60}, 0, [1, 1, 19, 40])  # one that hangs has nothing to give back, and got more
def test_so_does_the_rest_of_a_chunk(slow, more, sizes):
    pool, runs = make_pool(len(slow) + 1 + more, slow)
    with pool:
        chunks, items = [], 0
        for size in sizes:
            chunks.append(pool.chunk(range(items, items + size))[0])
            items += size
        go_on(pool, 80)
        tails = {}
        assert sum(values_of(chunk, tails) for chunk in chunks) == len(set(range(items)) - slow)
        for worker in pool.workers:
            worker.wake()
        go_on(pool, 3)
        assert sum(values_of(chunk, tails) for chunk in chunks) == items
        assert runs == Counter(range(items))
        assert pool.dispatcher.outstanding == 0


def hanging():
    """A worker that hangs in the first of three tasks, and one without any."""
    pool, _ = make_pool(2, slow={0})
    tasks = [pool.submit(number) for number in range(3)]
    go_on(pool, 1)
    busy, idle = sorted(pool.workers, key=lambda worker: not worker.hangs)
    return pool, tasks, busy, idle


def test_one_that_hangs_gets_nothing_more_until_it_has_answered():
    pool, _, busy, idle = hanging()
    with pool:
        go_on(pool, 20)
        assert busy.link.in_flight == 1
        more = [pool.submit(number) for number in range(3, 50)]
        assert not [frame for frame in busy.frames() if frame.kind == CALL]
        go_on(pool, 2)
        assert all(task.done() for task in more)
        pool.dispatcher.send_to(idle.link, pool.task(200))
        idle.slow = {200}
        idle.go_on()
        busy.wake()
        later = pool.submit(50)
        go_on(pool, 20)
        assert later.done()


def test_what_was_withdrawn_must_be_given_back():
    pool, _, busy, _ = hanging()
    with pool:
        withdrawn = [frame.id for frame in busy.inbox if frame.kind == CALL]
        go_on(pool, 20)
        assert busy.withdrawn >= max(withdrawn)
        with pytest.raises(ProtocolError, match="does not have"):
            busy.answers(withdrawn[0])


def test_a_chunk_that_came_after_the_nanny_was_asked_is_not_cut():
    pool, tasks, busy, idle = hanging()
    with pool:
        for _ in range(20):  # the nanny is slow
            busy.go_on()
            pool.pass_time(BALANCE_DELAY)
        assert busy.asked
        busy.wake()
        busy.go_on()
        assert all(task.done() for task in tasks)
        pool.dispatcher.send_to(idle.link, pool.task(200))
        busy.slow = {0}
        chunk, _ = pool.chunk(range(3))
        busy.go_on()
        assert busy.hangs and busy.chunk == busy.started > busy.asked[0]
        busy.nanny()
        assert chunk.take_tail() is None
        busy.wake()
        busy.go_on()
        assert chunk.done and chunk.received == 3


@pytest.mark.parametrize(("started", "item"), [
    (0, 2**64 - 1), (0, -5), (2**64 - 1, 0), (2**63, -1)])
def test_what_a_worker_notes_may_be_anything(started, item):
    pool, tasks, busy, _ = hanging()
    with pool:
        busy.link.on_withdrawn(2**64 - 1, started, item)
        assert pool.dispatcher.outstanding == 3
        assert not any(task.done() for task in tasks)


def test_one_that_retires_gives_back_what_it_has_though_it_hangs():
    pool, _, busy, idle = hanging()
    with pool:
        pool.dispatcher.send_to(idle.link, pool.task(200))
        idle.slow = {200}
        idle.go_on()
        waiting = pool.submit(7)
        retired = []
        busy.link.retire(lambda: retired.append(True))
        go_on(pool, 20)
        assert busy.link.in_flight == 1 and not retired
        idle.wake()
        go_on(pool, 2)
        assert waiting.done()
        busy.wake()
        assert retired
