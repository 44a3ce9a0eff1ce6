"""A real pool: tasks, exceptions, cancellations, maps and lost workers, here and in a worker."""

import asyncio
import logging
import os
import signal
import time

from measure import blocks, must_stay_flat

from distex import Pool, WorkerLost

logging.getLogger("distex").setLevel(logging.CRITICAL)  # each lost worker is a warning
pool = Pool(2, qsize=4)
loop = asyncio.new_event_loop()


def identity(x):
    return x


async def identity_async(x):
    await asyncio.sleep(0)
    return x


async def forever():
    await asyncio.sleep(1000)


def fail(x):
    raise ValueError(x)


def idle():
    """Wait for what comes behind the answers, such as the pool's own callbacks."""
    while pool._home.dispatcher.outstanding:
        time.sleep(0.001)
    pool._home.submit(asyncio.sleep(0)).result()


def tasks():
    for future in [pool.submit(identity, [x]) for x in range(1000)]:
        future.result()
    pool.run(identity, "x")
    idle()


def exceptions():
    for future in [pool.submit(fail, x) for x in range(20)]:
        assert isinstance(future.exception(), ValueError)
    idle()


def cancellations():
    futures = [pool.submit(time.sleep, 0) for _ in range(50)]
    for future in futures:
        future.cancel()

    async def main():
        calls = [pool.run_async(func, *args) for func, *args in [(forever,), (identity, 1)] * 5]
        await calls[1]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    loop.run_until_complete(main())
    idle()


def asynchronous():
    async def main():
        calls = [pool.run_async(func, x) for func in (identity, identity_async) for x in range(20)]
        await asyncio.gather(*calls)
        assert [x async for x in pool.map_async(identity, range(50))] == list(range(50))

    loop.run_until_complete(main())
    idle()


def maps():
    assert sum(pool.map(identity, range(1000))) == 499500
    results = pool.map(identity, range(1000), ordered=False)
    next(results)
    results.close()
    idle()


def fleeting_functions():
    """Each is kept for a while, as it may be called again."""
    x = 1
    for calls in pool, pool.options(context=True), pool.options(timeout=60):
        futures = [calls.submit(lambda: x) for _ in range(10)]
        assert [future.result() for future in futures] == [1] * 10
    idle()


def lost_workers():
    futures = [pool.submit(identity, x) for x in range(50)]
    for pid in pool.run_on_all(os.getpid):
        os.kill(pid, signal.SIGKILL)
    for future in futures:
        future.exception()
    while True:
        try:
            if pool.total_workers() == len(pool.run_on_all(identity, 1)) == 2:
                break
        except WorkerLost:
            pass
    idle()


for step, rounds in [(tasks, 1000), (exceptions, 400), (cancellations, 400), (asynchronous, 200),
                     (maps, 200), (fleeting_functions, 200), (lost_workers, 100)]:
    must_stay_flat(step, rounds=rounds)


# --- the worker's side


def new_functions():
    changes = []  # so that the function is not kept
    pool.run(lambda: changes)
    idle()


pool.shutdown()
with Pool(1, qsize=4) as pool:
    for step, rounds in [(tasks, 200), (exceptions, 200), (asynchronous, 200),
                         (maps, 200), (new_functions, 200)]:
        must_stay_flat(step, f"{step.__name__} in the worker", rounds, lambda: pool.run(blocks))
