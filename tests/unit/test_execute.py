"""The worker's side: each task that comes is answered exactly once."""

import asyncio
import dataclasses
import functools
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import (
    CALL,
    CANCEL,
    CANCELLED,
    CHUNK,
    ERROR,
    FORGET,
    FROM_COROUTINE,
    FUNCTION,
    PACKED,
    PART,
    RESULT,
    SPREAD,
    Transport,
    codec,
    data,
)
from reference.framing import Frame, encode

from distex._core.execute import Runner
from distex._core.framing import DEFAULT_LIMIT_BYTES
from distex._core.protocol import Connection
from distex.errors import ProtocolError, RemoteException
from distex.remote_errors import dump_exception, load_exception
from distex.wire import serializers
from distex.worker.status_page import ITEM, NUMBERS, STARTED

functions = serializers.for_functions(1)
dump_error = functools.partial(dump_exception, dumps=lambda exc: data.dumps(exc, None))


class Worker:
    """A Runner on a loop, and the pool at the other end of its connection."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.page = memoryview(bytearray(8 * NUMBERS)).cast("Q")
        self.runner = Runner(self.loop, codec, functions.loads, dump_error, self.page)
        self.connection = Connection(self.loop, self.runner, DEFAULT_LIMIT_BYTES)
        self.transport = Transport()
        self.connection.connection_made(self.transport)
        self.violations = []
        self.connection.on_violation = self.violations.append
        self.tasks = 0
        self.functions = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.turn()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.turn()
        self.loop.close()

    def gets(self, *frames):
        """Frames that come in one read."""
        self.connection.data_received(b"".join(map(encode, frames)))

    def sent(self):
        self.connection.flush()
        return self.transport.take()

    def next_id(self):
        self.tasks += 1
        return self.tasks

    def function(self, func):
        """The id of a function, after it was sent."""
        self.functions += 1
        self.gets(Frame(FUNCTION, id=self.functions, body=functions.dumps(func, None)))
        return self.functions

    def call_frame(self, function_id, *args):
        """A call with arguments that need no serializer."""
        body = codec.encode(args)[0] + codec.encode(None)[0]
        return Frame(CALL, 0, function_id, self.next_id(), body)

    def packed_frame(self, function_id, *args, **kwargs):
        """A call with any arguments."""
        return Frame(CALL, PACKED, function_id, self.next_id(), codec.encode((args, kwargs))[0])

    def chunk_frame(self, function_id, items, spread=False):
        encoded = [codec.encode(item)[0] for item in items]
        return Frame(CHUNK, SPREAD if spread else 0, function_id, self.next_id(),
                     struct.pack("<I", len(items)) + b"".join(encoded))

    def answers(self, *frames, count=None):
        """Send frames in one read, run the loop until their tasks are answered (or so many tasks
        as count says), and give all that came."""
        if frames:
            self.gets(*frames)
        wanted = len(frames) if count is None else count
        answers = self.sent()

        async def main():
            deadline = self.loop.time() + 20
            while sum(answer.kind != PART for answer in answers) < wanted:
                assert self.loop.time() < deadline, answers
                await asyncio.sleep(0)
                answers.extend(self.sent())

        self.loop.run_until_complete(main())
        return answers

    def turn(self):
        """Let all happen that can."""
        for _ in range(10):
            self.loop.run_until_complete(asyncio.sleep(0))


def value_of(answer):
    """The value in an answer to a call."""
    value = codec.decode(answer.body, answer.segments)
    if answer.kind == ERROR:
        return load_exception(value, "worker")
    assert answer.kind == RESULT
    return value


def count_of(answer):
    """How many values are in an answer to a chunk."""
    return struct.unpack_from("<I", answer.body)[0]


def numbers_of(*answers):
    """The values in answers to a chunk, integers all."""
    numbers = []
    for answer in answers:
        assert len(answer.body) == 4 + 9 * count_of(answer)
        numbers += [codec.decode(answer.body[at:at + 9]) for at in range(4, len(answer.body), 9)]
    return numbers


def identity(value):
    return value


async def identity_async(value):
    await asyncio.sleep(0)
    return value


async def forever():
    await asyncio.Event().wait()


async def stubborn():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "not cancelled"


def fail(exc):
    raise exc


async def fail_async(exc):
    await asyncio.sleep(0)
    raise exc


def add(a, b=10):
    return a + b


def take_time(value):
    """As long as it has to be for a slow call, and no longer."""
    time.sleep(0.002)
    return value


# --- single calls


@pytest.mark.parametrize("func", [identity, identity_async])
@pytest.mark.parametrize("value", [None, 1, "text", (1, (2,)), [1], {"a": 1}], ids=repr)
def test_a_call_and_its_result(func, value):
    with Worker() as worker:
        frame = worker.packed_frame(worker.function(func), value)
        (answer,) = worker.answers(frame)
        assert (answer.kind, answer.id) == (RESULT, frame.id)
        assert (answer.flags == FROM_COROUTINE) == (func is identity_async)
        assert value_of(answer) == value


def test_keyword_arguments():
    with Worker() as worker:
        id = worker.function(add)
        natively = Frame(CALL, 0, id, worker.next_id(),
                         codec.encode((1,))[0] + codec.encode(("b", 2))[0])
        packed = worker.packed_frame(id, a=1, b=3)
        assert [value_of(answer) for answer in worker.answers(natively, packed)] == [3, 4]


def test_large_results_are_segments():
    numpy = pytest.importorskip("numpy")
    with Worker() as worker:
        (answer,) = worker.answers(worker.call_frame(worker.function(numpy.arange), 100_000))
        assert len(answer.segments) == 1
        assert (value_of(answer) == numpy.arange(100_000)).all()


def test_the_time_that_a_call_took_is_told():
    with Worker() as worker:
        (answer,) = worker.answers(worker.call_frame(worker.function(take_time), 1))
        assert answer.aux >= 2_000_000  # nanoseconds


def test_calls_are_done_in_the_order_in_which_they_came():
    with Worker() as worker:
        ids = [worker.function(identity), worker.function(take_time)]
        frames = [worker.call_frame(ids[i % 10 == 0], i) for i in range(100)]
        assert [value_of(answer) for answer in worker.answers(*frames)] == list(range(100))


@pytest.mark.parametrize("func", [fail, fail_async])
@pytest.mark.parametrize("exc", [
    ValueError("v"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(),
    asyncio.CancelledError("by itself"), StopAsyncIteration()], ids=repr)
def test_whatever_a_call_raises_is_the_answer(func, exc):
    with Worker() as worker:
        frame = worker.packed_frame(worker.function(func), exc)
        (answer,) = worker.answers(frame)
        assert (answer.kind, answer.id) == (ERROR, frame.id)
        raised = value_of(answer)
        assert type(raised) is type(exc)
        assert raised.args == exc.args
        assert func.__name__ in str(raised.__cause__)
        # and the worker lives
        (answer,) = worker.answers(worker.call_frame(worker.function(identity), 1))
        assert value_of(answer) == 1


class BadError(Exception):
    """One that can't be pickled, nor describe itself."""

    def __reduce__(self):
        raise TypeError("no pickle of me")

    def __str__(self):
        raise TypeError("no text of me")


def raise_bad_error():
    raise BadError


def give_unpicklable(_=None):
    return (item for item in [])


def test_an_exception_that_cant_be_pickled():
    with Worker() as worker:
        (answer,) = worker.answers(worker.call_frame(worker.function(raise_bad_error)))
        exc = value_of(answer)
        assert type(exc) is RemoteException
        assert "BadError" in str(exc)
        assert "raise_bad_error" in str(exc)


def test_a_result_that_cant_be_pickled():
    with Worker() as worker:
        (answer,) = worker.answers(worker.call_frame(worker.function(give_unpicklable)))
        exc = value_of(answer)
        assert isinstance(exc, TypeError)
        assert "generator" in str(exc)


def test_arguments_that_are_no_tuple():
    with Worker() as worker:
        frame = worker.call_frame(worker.function(identity), 1)
        unpacked = codec.encode(1)[0] + codec.encode(None)[0]
        packed = codec.encode((1, None))[0]
        for flags, body in (0, unpacked), (PACKED, packed):
            frame = dataclasses.replace(frame, id=worker.next_id(), flags=flags, body=body)
            (answer,) = worker.answers(frame)
            assert isinstance(value_of(answer), ProtocolError)


def test_arguments_that_cant_be_read():
    with Worker() as worker:
        id = worker.function(identity)
        not_a_pickle = b"\x08" + bytes(4) + (1).to_bytes(8, "little") + b"?"
        bad = Frame(CALL, PACKED, id, worker.next_id(), not_a_pickle)
        good = worker.call_frame(id, "good")
        first, second = worker.answers(bad, good)
        assert (first.kind, first.id) == (ERROR, bad.id)
        assert value_of(second) == "good"


def test_a_function_that_cant_be_loaded_fails_its_own_calls_alone():
    with Worker() as worker:
        good = worker.function(identity)
        worker.gets(Frame(FUNCTION, id=77, body=b"not a pickle"))
        bad_call, good_call = worker.call_frame(77, 1), worker.call_frame(good, 1)
        first, second = worker.answers(bad_call, good_call)
        assert (first.kind, first.id) == (ERROR, bad_call.id)
        assert value_of(second) == 1
        (again,) = worker.answers(worker.chunk_frame(77, [1]))
        assert again.kind == ERROR


def test_a_forgotten_function_is_gone():
    with Worker() as worker:
        id = worker.function(identity)
        worker.gets(Frame(FORGET, id=id), Frame(FORGET, id=12345))
        assert not worker.violations
        worker.gets(worker.call_frame(id, 1))
        assert "was not sent" in str(worker.violations[0])
        assert worker.transport.aborted


def test_a_function_that_comes_by_two_connections_is_one():
    def counter(count=0):
        def up():
            nonlocal count
            count += 1
            return count
        return up

    def function(worker, serial, func):
        worker.gets(Frame(FUNCTION, aux=serial, id=1, body=functions.dumps(func, None)))

    def call(worker):
        (answer,) = worker.answers(worker.call_frame(1))
        return value_of(answer)

    with Worker() as first, Worker() as second:
        second.runner.share_functions(first.runner)
        for worker in first, second:
            function(worker, 1, counter())
        assert [call(first), call(second), call(first)] == [1, 2, 3]
        first.gets(Frame(FORGET, id=1))
        assert call(second) == 4
        # the id is free, and another function has it: the worker hears of it by one connection
        # before it hears by the other that the old one is gone
        function(first, 2, counter(10))
        assert [call(first), call(second), call(first)] == [11, 5, 12]


def test_a_coroutine_that_the_loop_refuses_leaves_nothing_behind():
    with Worker() as worker:
        def refuse(loop, coroutine, **kwargs):
            loop.set_task_factory(None)
            coroutine.close()
            raise LookupError("no tasks here")

        worker.loop.set_task_factory(refuse)
        function = worker.function(forever)
        frame = worker.call_frame(function)
        (error,) = worker.answers(frame)
        assert error.kind == ERROR
        worker.gets(frame)  # nothing stands in the way of the same number: a lane has but one
        assert not worker.violations


@pytest.mark.parametrize("kind", [RESULT, ERROR, 1, 2])
def test_frames_that_a_pool_does_not_send_are_refused(kind):
    with Worker() as worker:
        worker.gets(Frame(kind))
        assert isinstance(worker.violations[0], ProtocolError)
        assert worker.transport.aborted


def test_the_page_says_what_has_started_and_what_is_done():
    with Worker() as worker:
        done = worker.call_frame(worker.function(identity), 1)
        worker.answers(done)
        assert worker.page[:2].tolist() == [done.id, done.id]
        started = worker.call_frame(worker.function(forever))
        worker.gets(started)
        # a coroutine is nothing that could be interrupted
        assert worker.page[:2].tolist() == [started.id, started.id]


def test_what_has_started_stays_started_when_an_older_chunk_goes_on():
    with Worker() as worker:
        chunk = worker.chunk_frame(worker.function(identity_async), [1, 2, 3])
        later = worker.call_frame(worker.function(identity), 4)
        worker.gets(chunk, later)
        assert worker.page[STARTED] == later.id
        worker.page[ITEM] = 77
        worker.answers(count=2)
        assert (worker.page[STARTED], worker.page[ITEM]) == (later.id, 77)


def test_between_slow_calls_the_loop_gets_to_its_other_work():
    with Worker() as worker:
        turns = []

        def count():
            turns.append(True)
            worker.loop.call_soon(count)

        worker.loop.call_soon(count)
        id = worker.function(take_time)
        answers = worker.answers(*[worker.call_frame(id, i) for i in range(20)])
        assert [value_of(answer) for answer in answers] == list(range(20))
        assert len(turns) >= 4


def test_a_peer_that_does_not_read_is_not_buried():
    with Worker() as worker:
        id = worker.function(identity)
        worker.connection.pause_writing()
        worker.gets(*[worker.call_frame(id, i) for i in range(10)])
        worker.turn()
        assert not worker.sent()
        worker.connection.resume_writing()
        assert [value_of(answer) for answer in worker.answers(count=10)] == list(range(10))


# --- coroutines


def test_coroutines_overlap():
    with Worker() as worker:
        waiting = [worker.call_frame(worker.function(forever)) for _ in range(3)]
        worker.gets(*waiting)
        (answer,) = worker.answers(worker.call_frame(worker.function(identity_async), "done"))
        assert value_of(answer) == "done"
        worker.gets(*[Frame(CANCEL, id=frame.id) for frame in waiting])
        answers = worker.answers(count=3)
        assert sorted(answer.id for answer in answers) == [frame.id for frame in waiting]


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_coroutine_can_be_cancelled(has_begun):
    with Worker() as worker:
        frame = worker.call_frame(worker.function(forever))
        worker.gets(frame)
        if has_begun:
            worker.turn()
        (answer,) = worker.answers(Frame(CANCEL, id=frame.id))
        assert answer.id == frame.id
        if answer.kind == ERROR:
            assert isinstance(value_of(answer), asyncio.CancelledError)
        else:
            assert answer.kind == CANCELLED


def test_a_coroutine_may_refuse_to_be_cancelled():
    with Worker() as worker:
        frame = worker.call_frame(worker.function(stubborn))
        worker.gets(frame)
        worker.turn()
        (answer,) = worker.answers(Frame(CANCEL, id=frame.id))
        assert value_of(answer) == "not cancelled"


# --- cancelling what waits


def test_a_call_that_waits_is_dropped():
    with Worker() as worker:
        worker.connection.pause_writing()  # so that it waits
        id = worker.function(identity)
        frames = [worker.call_frame(id, i) for i in range(3)]
        worker.gets(*frames, Frame(CANCEL, id=frames[1].id))
        worker.connection.resume_writing()
        answers = {answer.id: answer for answer in worker.answers(count=3)}
        assert answers[frames[0].id].kind == RESULT
        assert answers[frames[1].id].kind == CANCELLED
        assert answers[frames[2].id].kind == RESULT


def test_to_cancel_what_is_done_or_never_was_is_nothing():
    with Worker() as worker:
        frame = worker.call_frame(worker.function(identity), 1)
        worker.answers(frame)
        worker.gets(Frame(CANCEL, id=frame.id), Frame(CANCEL, id=99999))
        worker.turn()
        assert not worker.sent()
        assert not worker.violations


# --- chunks


@pytest.mark.parametrize("func", [identity, identity_async])
@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_chunk_gives_all_its_values_in_order(func, n):
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(func), range(n))
        answers = worker.answers(frame)
        assert {answer.id for answer in answers} == {frame.id}
        assert [answer.kind for answer in answers] == [PART] * (len(answers) - 1) + [RESULT]
        assert numbers_of(*answers) == list(range(n))


def test_a_chunk_of_tuples_of_arguments():
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(add), [(1, 2), (3, 4), (5,)], spread=True)
        assert numbers_of(*worker.answers(frame)) == [3, 7, 15]


def test_results_of_slow_calls_do_not_wait_for_the_end_of_the_chunk():
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(take_time), range(6))
        answers = worker.answers(frame)
        assert len(answers) > 2
        assert numbers_of(*answers) == list(range(6))


def test_large_results_of_a_chunk_are_sent_on():
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(bytes), [40_000] * 50)
        answers = worker.answers(frame)
        assert len(answers) > 1
        assert sum(map(count_of, answers)) == 50


def fail_at_three(i):
    if i == 3:
        raise LookupError(i)
    return i


async def fail_at_three_async(i):
    await asyncio.sleep(0)
    return fail_at_three(i)


def unpicklable_at_three(i):
    return give_unpicklable() if i == 3 else i


@pytest.mark.parametrize("func", [fail_at_three, fail_at_three_async, unpicklable_at_three])
def test_the_values_before_an_error_come_before_it(func):
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(func), range(10))
        *parts, error = worker.answers(frame)
        assert numbers_of(*parts) == [0, 1, 2]
        assert isinstance(value_of(error), (LookupError, TypeError))
        assert {answer.id for answer in [*parts, error]} == {frame.id}


def test_a_chunk_can_be_cancelled_between_its_turns():
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(take_time), range(1000))
        worker.gets(frame)
        *parts, answer = worker.answers(Frame(CANCEL, id=frame.id))
        assert answer.kind == CANCELLED
        assert len(numbers_of(*parts)) < 100
        worker.turn()
        assert not worker.sent()


def test_a_chunk_that_awaits_can_be_cancelled():
    with Worker() as worker:
        frame = worker.chunk_frame(worker.function(forever), [()] * 3, spread=True)
        worker.gets(frame)
        worker.turn()
        *_, answer = worker.answers(Frame(CANCEL, id=frame.id))
        assert answer.kind in (CANCELLED, ERROR)
        worker.turn()
        assert not worker.sent()


@pytest.mark.parametrize("body", [b"", b"\1", b"\5\0\0\0", b"\xff\xff\xff\xff\0"])
def test_a_chunk_that_is_none_is_an_error(body):
    with Worker() as worker:
        id = worker.function(identity)
        *_, answer = worker.answers(Frame(CHUNK, 0, id, worker.next_id(), body))
        assert isinstance(value_of(answer), ProtocolError)


# --- all of it, at random


CALLS = {"call": identity, "async": identity_async, "fail": fail_at_three, "forever": forever}
CHUNKS = {"chunk": identity, "async chunk": identity_async, "failing chunk": fail_at_three}


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.tuples(
    st.sampled_from([*CALLS, *CHUNKS]),
    st.booleans(),  # cancelled
    st.booleans(),  # in one read with the next
), max_size=20), st.booleans())
def test_every_task_is_answered_exactly_once(steps, congested):
    with Worker() as worker:
        ids = {kind: worker.function(func) for kind, func in [*CALLS.items(), *CHUNKS.items()]}
        if congested:
            worker.connection.pause_writing()
        wanted, batch = [], []
        for kind, cancelled, with_next in steps:
            if kind in CHUNKS:
                frame = worker.chunk_frame(ids[kind], range(5))
            else:
                frame = worker.call_frame(ids[kind], *[3] * (kind != "forever"))
            wanted.append(frame.id)
            batch.append(frame)
            if cancelled or kind == "forever":
                batch.append(Frame(CANCEL, id=frame.id))
            if not with_next:
                worker.gets(*batch)
                batch = []
        if batch:
            worker.gets(*batch)
        if congested:
            worker.connection.resume_writing()
        answers = worker.answers(count=len(wanted))
        worker.turn()
        answers += worker.sent()
        assert sorted(answer.id for answer in answers if answer.kind != PART) == wanted
        for id in wanted:  # and no part comes behind the answer
            kinds = [answer.kind for answer in answers if answer.id == id]
            assert PART not in kinds[-1:]
        assert not worker.violations
