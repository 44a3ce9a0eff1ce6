"""Streams an async iterator through a pool, with a coroutine as the task.

    ticks() in this process ──map_async──> nap() in 4 workers ──> printed here, in order

No end of the input is needed to get results, and no more of it is taken than there is room for.
"""

import asyncio
import time

from distex import Pool


def init():
    """Run in each worker before its first task: note when it was ready."""
    import builtins

    builtins.started = time.perf_counter()


async def nap(i):
    """A task that is a coroutine: with ``qsize`` greater than 1 several overlap in one worker."""
    import os

    await asyncio.sleep(0.2)
    return i, os.getpid(), time.perf_counter() - started  # noqa: F821


async def ticks():
    """The input: an async iterator in the caller's process."""
    for i in range(12):
        await asyncio.sleep(0.05)
        yield i


async def main():
    """Print each result as it comes."""
    async with Pool(4, initializer=init, qsize=1) as pool:
        async for i, pid, seconds in pool.map_async(nap, ticks()):
            print(f"tick {i:2} was done by worker {pid}, which has been up for {seconds:.2f} s")
        print("tasks may be plain functions too:", await pool.run_async(pow, 2, 100))


asyncio.run(main())
