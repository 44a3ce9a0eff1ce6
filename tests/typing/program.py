"""A program as a user would write it, for the type checker alone: it is never run."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, Future
from typing import assert_type

from distex import HostSpec, LoopType, PickleType, Pool


def square(x: int) -> int:
    return x * x


def takes_executor(executor: Executor) -> None: ...


def synchronous() -> None:
    with Pool(4, qsize=8, worker_loop=LoopType.uvloop, data_pickle=PickleType.pickle) as pool:
        assert_type(takes_executor(pool), None)
        assert_type(pool.submit(square, 2), Future[int])
        assert_type(pool.run(square, 2), int)
        assert_type(pool.map(square, [1, 2], chunksize=2, ordered=False), Iterator[int])
        assert_type(pool.ready.wait(1.0), bool)


async def asynchronous() -> None:
    async with Pool(hosts=[HostSpec("ssh://maxi/8"), "mini"]) as pool:
        await pool.run_async(square, 2)
        assert_type(pool.map_async(square, [1, 2]), AsyncIterator[int])
        async for number in pool.map_async(square, [1, 2]):
            assert_type(number, int)
