"""The worker's side: calls and chunks of functions and coroutines, errors, cancellations."""

import asyncio

from measure import must_stay_flat
from peers import CANCEL, FORGET
from reference.framing import Frame
from test_execute import (
    Worker,
    fail,
    fail_at_three,
    forever,
    identity,
    identity_async,
)

worker = Worker()
ids = {func: worker.function(func)
       for func in (identity, identity_async, fail, fail_at_three, forever)}


def calls():
    worker.answers(*[worker.packed_frame(ids[identity], [i]) for i in range(3)],
                   worker.call_frame(ids[identity], b"x" * 100))


def coroutines():
    worker.answers(worker.call_frame(ids[identity_async], 1))


def errors():
    worker.answers(worker.packed_frame(ids[fail], ValueError("v")))


def chunks():
    worker.answers(worker.chunk_frame(ids[identity], range(20)))
    worker.answers(worker.chunk_frame(ids[identity_async], range(3)))
    worker.answers(worker.chunk_frame(ids[fail_at_three], range(5)))


def cancellations():
    frame = worker.call_frame(ids[forever])
    worker.gets(frame)
    worker.loop.run_until_complete(asyncio.sleep(0))
    worker.answers(Frame(CANCEL, id=frame.id))


def functions():
    id = worker.function(identity)
    worker.answers(worker.call_frame(id, 1))
    worker.gets(Frame(FORGET, id=id))


for step in (calls, coroutines, errors, chunks, cancellations, functions):
    must_stay_flat(step)
