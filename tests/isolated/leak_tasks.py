"""Tasks and futures of every kind, however they end."""

import asyncio
import concurrent.futures
import contextlib

from measure import must_stay_flat
from peers import RESULT, Pool, Worker

from distex.client.loop_thread import Future

pool = Pool(qsize=2)
(worker,) = pool.workers


class Lost(Exception):
    pass


def answer_all(exc=None):
    while calls := worker.calls():
        for id, _ in calls:
            if exc is None:
                worker.answers(id, "value")
            else:
                worker.fails(id, exc)


def async_tasks():
    tasks = [pool.submit(i) for i in range(3)]
    answer_all()
    for task in tasks:
        assert task.result() == "value"


def awaited_tasks():
    async def main():
        task = pool.submit(1)
        pool.loop.call_soon(answer_all)
        return await asyncio.gather(task, asyncio.wait_for(task, 10))

    pool.loop.run_until_complete(main())


def exceptions():
    task = pool.submit(1)
    answer_all(ValueError("v"))
    with contextlib.suppress(ValueError):
        task.result()


def exceptions_nobody_looks_at():
    pool.loop.set_exception_handler(lambda loop, context: None)
    pool.submit(1)
    answer_all(ValueError("v"))


def cancellations():
    tasks = [pool.submit(i) for i in range(4)]
    for task in tasks:
        task.add_done_callback(id)
        task.cancel()
    answer_all()
    pool.loop.run_until_complete(asyncio.sleep(0))


def concurrent_futures():
    futures = [Future(pool.function, (i,), {}) for i in range(4)]
    for future in futures:
        pool.dispatcher.submit(future)
    futures[0].add_done_callback(id)
    futures[3].cancel()
    answer_all()
    concurrent.futures.wait(futures)
    for future in futures[:3]:
        future.result()


def chunks():
    chunk, _ = pool.chunk(range(10))
    (frame,) = [frame for frame in worker.frames() if frame.body[4:]]
    worker.sends_part(frame.id, [1, 2, 3])
    worker.sends_part(frame.id, [4], kind=RESULT)
    assert chunk.take() == [1, 2, 3, 4]


def functions():
    function = pool.make_function("short-lived")
    pool.submit(function=function)
    answer_all()
    del function
    pool.loop.run_until_complete(asyncio.sleep(0))
    worker.frames()


def unpicklable_arguments():
    task = pool.submit(iter(()), (item for item in ()))
    with contextlib.suppress(TypeError):
        task.result()


def lost_workers():
    worker = Worker(pool.dispatcher)
    task = pool.task(1)
    pool.dispatcher.send_to(worker.link, task)
    worker.link.lose(None, lambda task: Lost())
    pool.loop.run_until_complete(asyncio.sleep(0))  # a write was due
    with contextlib.suppress(Lost):
        task.result()


for step in (async_tasks, awaited_tasks, exceptions, exceptions_nobody_looks_at, cancellations,
             concurrent_futures, chunks, functions, unpicklable_arguments, lost_workers):
    must_stay_flat(step)
