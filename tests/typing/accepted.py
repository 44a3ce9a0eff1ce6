"""A program as a user would write it, for type checkers alone: it is never run.

What is assigned, passed or asserted here has just these types. See test_typing.py for ``# E``.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import math
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, assert_type

import distex
from distex import (
    AsyncTask,
    BoundPool,
    HostSpec,
    LoopType,
    OutputLine,
    PickleType,
    Pool,
    PoolStartError,
    RemoteException,
    SshOptions,
    Statistics,
    TaskOptions,
    TcpOptions,
    WorkerInfo,
    WorkerLost,
)

T = TypeVar("T")

# --- what is called


def square(x: int) -> int:
    return x * x


async def fetch(url: str, retries: int = 3, *, verbose: bool = False) -> bytes:
    return url.encode() * retries


def find(name: str) -> Path | None:
    return Path(name)


async def find_later(name: str) -> Path | None:
    return Path(name)


def either(x: int) -> int | str:
    return x


def nothing() -> None: ...


async def nothing_later() -> None: ...


def area(*, width: float, height: float = 1.0) -> float:
    return width * height


def total(first: int, *others: int, scale: float = 1.0, **named: str) -> float:
    return (first + sum(others)) * scale + len(named)


def first_of(items: list[T]) -> T:
    return items[0]


async def same_later(item: T) -> T:
    return item


def returns_future() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()


def untyped_result() -> Any: ...


def two(a: int, b: str) -> float:
    return a + len(b)


async def two_later(a: int, b: str) -> float:
    return a + len(b)


def three(a: int, b: str, c: bytes) -> tuple[int, str, bytes]:
    return a, b, c


async def three_later(a: int, b: str, c: bytes) -> tuple[int, str, bytes]:
    return a, b, c


def four(a: int, b: str, c: bytes, d: float) -> complex:
    return complex(a, d)


async def four_later(a: int, b: str, c: bytes, d: float) -> complex:
    return complex(a, d)


def five(a: int, b: str, c: bytes, d: float, e: bool) -> list[int]:
    return [a]


async def five_later(a: int, b: str, c: bytes, d: float, e: bool) -> list[int]:
    return [a]


def seven(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> str:
    return str(a + b + c + d + e + f + g)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def letters() -> AsyncGenerator[str, None]:
    yield "a"


@dataclass
class Point:
    x: int
    y: int = 0

    def shifted(self, by: int) -> "Point":
        return Point(self.x + by, self.y)

    async def shifted_later(self, by: int) -> "Point":
        return Point(self.x + by, self.y)

    @classmethod
    def origin(cls) -> Self:
        return cls(0)

    @staticmethod
    def distance(a: "Point", b: "Point") -> float:
        return math.dist((a.x, a.y), (b.x, b.y))


class Scaler:
    def __call__(self, x: float) -> float:
        return x


class AsyncScaler:
    async def __call__(self, x: float) -> float:
        return x


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item


# --- single calls: submit, run, run_async


def plain_functions(pool: Pool) -> None:
    assert_type(pool.submit(square, 2), Future[int])
    assert_type(pool.submit(square, x=2), Future[int])
    assert_type(pool.submit(square, 2).result(1.0), int)
    assert_type(pool.run(square, 2), int)
    assert_type(pool.run(find, "a"), Path | None)
    assert_type(pool.run(either, 2), int | str)
    assert_type(pool.submit(nothing), Future[None])
    pool.run(nothing)
    assert_type(pool.run(area, width=2.0), float)
    assert_type(pool.run(area, width=2.0, height=3), float)
    assert_type(pool.run(total, 1, 2, 3, scale=2.0, unit="m"), float)
    assert_type(pool.run(first_of, [1, 2]), int)
    assert_type(pool.run(first_of, ["a"]), str)
    assert_type(pool.run(untyped_result), Any)
    for future in as_completed([pool.submit(square, n) for n in range(3)]):
        assert_type(future.result(), int)


def coroutine_functions(pool: Pool) -> None:
    assert_type(pool.submit(fetch, "a"), Future[bytes])
    assert_type(pool.run(fetch, "a", 2, verbose=True), bytes)
    assert_type(pool.run(find_later, "a"), Path | None)
    assert_type(pool.submit(nothing_later), Future[None])
    future: Future[bytes | None] = pool.submit(fetch, "a")
    assert_type(future.result(), bytes | None)
    assert_type(pool.run(same_later, 1), int)
    assert_type(pool.run(returns_future), int)
    later: Callable[[int], Coroutine[Any, Any, str]] | Callable[[int], Awaitable[str]]
    later = AsyncText().get
    assert_type(pool.run(later, 1), str)


class AsyncText:
    async def get(self, n: int) -> str:
        return str(n)


def other_callables(pool: Pool) -> None:
    assert_type(pool.run(print, "a", 1, sep=""), None)
    assert_type(pool.run(len, "abc"), int)
    assert_type(pool.run(max, 2, 3), int)
    pool.run(pow, 2, 3)  # Any: it is overloaded, and what gives Any might give an awaitable
    assert_type(pool.run(math.sqrt, 2), float)
    assert_type(pool.run(os.getpid), int)
    assert_type(pool.run(sorted, [2, 1]), list[int])
    assert_type(pool.run(list, "ab"), list[str])
    assert_type(pool.run(list[int], [1]), list[int])
    assert_type(pool.run(int, "1"), int)
    assert_type(pool.run(json.dumps, {"a": 1}, indent=2), str)
    assert_type(pool.run(Point, 1, y=2), Point)
    assert_type(pool.run(Box[int], 1), Box[int])
    assert_type(pool.run(Point(1).shifted, 1), Point)
    assert_type(pool.run(Point(1).shifted_later, 1), Point)
    assert_type(pool.run(Point.shifted, Point(1), by=2), Point)
    assert_type(pool.run(Point.origin), Point)
    assert_type(pool.run(Point.distance, Point(1), Point(2)), float)
    assert_type(pool.run(Scaler(), 1), float)
    assert_type(pool.run(AsyncScaler(), 1), float)
    assert_type(pool.run(functools.partial(square, 2)), int)
    assert_type(pool.run(functools.partial(two, b="a"), 2), float)
    assert_type(pool.run(functools.partial(fetch, "a")), bytes)
    assert_type(pool.run(lambda: 1), int)
    # what a lambda gets does not follow from what comes after it, for pyright
    pool.run(lambda n: n + 1, 1)  # E: pyright


async def tasks(pool: Pool) -> None:
    task = pool.run_async(square, 2)
    assert_type(task, AsyncTask[int])
    assert_type(pool.run_async(fetch, "a", verbose=True), AsyncTask[bytes])
    assert_type(pool.run_async(find_later, "a"), AsyncTask[Path | None])
    assert_type(pool.run_async(first_of, ["a"]), AsyncTask[str])
    assert_type(pool.run_async(Point(1).shifted_later, 2), AsyncTask[Point])
    assert_type(await task, int)
    assert_type(await pool.run_async(fetch, "a"), bytes)
    await pool.run_async(nothing)
    assert_type(task.cancel(), bool)
    assert_type(task.cancel("too late"), bool)
    assert_type(task.cancelled(), bool)
    assert_type(task.done(), bool)
    assert_type(task.result(), int)
    assert_type(task.exception(), BaseException | None)
    assert_type(task.get_loop(), asyncio.AbstractEventLoop)
    task.add_done_callback(on_done)
    task.add_done_callback(lambda done: print(done.result() + 1))
    assert_type(task.remove_done_callback(on_done), int)
    pool.run_async(square, 2)  # and forget


def on_done(task: AsyncTask[int]) -> None:
    assert_type(task.result(), int)


class Downloads:
    """AsyncTask in annotations; one of bytes is one of ``bytes | None``, too."""

    def __init__(self) -> None:
        self.running: dict[str, AsyncTask[bytes]] = {}

    def start(self, pool: Pool, url: str) -> AsyncTask[bytes | None]:
        task = self.running[url] = pool.run_async(fetch, url)
        return task

    def awaitables(self) -> list[Awaitable[bytes]]:
        return [*self.running.values()]


async def tasks_in_asyncio(pool: Pool) -> None:
    one, two, three = await asyncio.gather(
        pool.run_async(square, 2), pool.run_async(fetch, "a"), pool.run_async(find, "a"))
    assert_type(one, int)
    assert_type(two, bytes)
    assert_type(three, Path | None)
    assert_type(await asyncio.gather(*[pool.run_async(square, n) for n in range(3)]), list[int])
    assert_type(
        await asyncio.gather(pool.run_async(square, 2), return_exceptions=True),
        tuple[int | BaseException])
    assert_type(await asyncio.wait_for(pool.run_async(fetch, "a"), 1.0), bytes)
    assert_type(await asyncio.shield(pool.run_async(square, 2)), int)
    async with asyncio.timeout(1.0):
        assert_type(await pool.run_async(square, 2), int)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pool.run_async(square, 2), name="square")
        assert_type(task, asyncio.Task[int])
        assert_type(group.create_task(pool.run_async(fetch, "a")), asyncio.Task[bytes])
    assert_type(task.result(), int)
    done, pending = await asyncio.wait({asyncio.create_task(pool.run_async(square, 2))})
    assert_type(done, set[asyncio.Task[int]])
    assert_type(pending, set[asyncio.Task[int]])
    for first in asyncio.as_completed([pool.run_async(square, n) for n in range(3)]):
        assert_type(await first, int)


# --- on all workers


def on_all(pool: Pool) -> None:
    assert_type(pool.run_on_all(square, 2), list[int])
    assert_type(pool.run_on_all(fetch, "a", verbose=True), list[bytes])
    assert_type(pool.run_on_all(os.getpid), list[int])
    assert_type(pool.run_on_all(find, name="a"), list[Path | None])
    pool.run_on_all(nothing_later)


async def on_all_async(pool: Pool) -> None:
    assert_type(await pool.run_on_all_async(square, 2), list[int])
    assert_type(await pool.run_on_all_async(fetch, "a", 2), list[bytes])
    assert_type(await pool.run_on_all_async(first_of, ["a"]), list[str])
    assert_type(await asyncio.create_task(pool.run_on_all_async(os.getpid)), list[int])


# --- maps


def maps(pool: Pool) -> None:
    ints, texts, blobs, floats, bools = [1], ("a", "b"), {b"a"}, iter([1.0]), [True]
    assert_type(pool.map(square, ints), Iterator[int])
    assert_type(pool.map(fetch, texts), Iterator[bytes])
    assert_type(pool.map(find, texts), Iterator[Path | None])
    assert_type(pool.map(find_later, texts), Iterator[Path | None])
    assert_type(pool.map(either, ints), Iterator[int | str])
    assert_type(pool.map(first_of, [[1], [2]]), Iterator[int])
    assert_type(pool.map(same_later, texts), Iterator[str])
    assert_type(pool.map(two, ints, texts), Iterator[float])
    assert_type(pool.map(two_later, ints, texts), Iterator[float])
    assert_type(pool.map(three, ints, texts, blobs), Iterator[tuple[int, str, bytes]])
    assert_type(pool.map(three_later, ints, texts, blobs), Iterator[tuple[int, str, bytes]])
    assert_type(pool.map(four, ints, texts, blobs, floats), Iterator[complex])
    assert_type(pool.map(four_later, ints, texts, blobs, floats), Iterator[complex])
    assert_type(pool.map(five, ints, texts, blobs, floats, bools), Iterator[list[int]])
    assert_type(pool.map(five_later, ints, texts, blobs, floats, bools), Iterator[list[int]])
    assert_type(pool.map(seven, ints, ints, ints, ints, ints, ints, ints), Iterator[str])
    for number in pool.map(square, itertools.count(), timeout=1, chunksize=8, ordered=False):
        assert_type(number, int)
    pool.map(square, range(9), timeout=None, chunksize=None, buffersize=None, ordered=True)
    pool.map(square, range(9), buffersize=100, star=False)


def maps_of_other_callables(pool: Pool) -> None:
    assert_type(pool.map(len, ["a"]), Iterator[int])
    assert_type(pool.map(str, [1]), Iterator[str])
    assert_type(pool.map(int, ["1"]), Iterator[int])
    assert_type(pool.map(Point, [1]), Iterator[Point])
    assert_type(pool.map(Point, [1], [2]), Iterator[Point])
    assert_type(pool.map(Point(1).shifted_later, [1]), Iterator[Point])
    assert_type(pool.map(Point.shifted, [Point(1)], [2]), Iterator[Point])
    assert_type(pool.map(str.upper, ["a"]), Iterator[str])
    assert_type(pool.map(math.pow, [1.0], [2.0]), Iterator[float])
    assert_type(pool.map(Scaler(), [1]), Iterator[float])
    assert_type(pool.map(AsyncScaler(), [1]), Iterator[float])
    assert_type(pool.map(functools.partial(two, 1), ["a"]), Iterator[float])
    assert_type(pool.map(functools.partial(fetch, retries=1), ["a"]), Iterator[bytes])
    assert_type(pool.map(lambda n: n + 1, [1]), Iterator[int])
    assert_type(pool.map(lambda n, text: text * n, [1], ["a"]), Iterator[str])
    pool.map(print, [1])


def starred_maps(pool: Pool) -> None:
    pairs = [(1, "a"), (2, "b")]
    assert_type(pool.map(two, pairs, star=True), Iterator[float])
    assert_type(pool.map(two_later, pairs, star=True, chunksize=2), Iterator[float])
    assert_type(pool.map(two, zip([1], ["a"], strict=True), star=True), Iterator[float])
    assert_type(pool.map(two, enumerate(["a"]), star=True, ordered=False), Iterator[float])
    assert_type(pool.map(two, {1: "a"}.items(), star=True), Iterator[float])
    assert_type(pool.map(square, [(1,)], star=True), Iterator[int])
    assert_type(pool.map(three, [(1, "a", b"a")], star=True), Iterator[tuple[int, str, bytes]])
    assert_type(pool.map(Point, [(1, 2)], star=True), Iterator[Point])
    assert_type(pool.map(math.pow, [(1.0, 2.0)], star=True, timeout=1), Iterator[float])


def maps_of_asynchronous_input(pool: Pool, source: AsyncIterable[int] | Iterable[int]) -> None:
    assert_type(pool.map(square, numbers()), Iterator[int])
    assert_type(pool.map(fetch, letters()), Iterator[bytes])
    assert_type(pool.map(two, numbers(), ["a"]), Iterator[float])
    assert_type(pool.map(two_later, [1], letters()), Iterator[float])
    assert_type(
        pool.map(three, numbers(), letters(), [b""]), Iterator[tuple[int, str, bytes]])
    assert_type(pool.map(square, source), Iterator[int])


async def async_maps(pool: Pool) -> None:
    ints, texts, blobs, floats, bools = [1], ("a", "b"), {b"a"}, iter([1.0]), [True]
    async for number in pool.map_async(square, numbers(), timeout=1.0, chunksize=2):
        assert_type(number, int)
    async for blob in pool.map_async(fetch, texts, ordered=False, buffersize=9):
        assert_type(blob, bytes)
    async for path in pool.map_async(find_later, letters()):
        assert_type(path, Path | None)
    async for number in pool.map_async(first_of, [[1]]):
        assert_type(number, int)
    async for value in pool.map_async(two, numbers(), texts):
        assert_type(value, float)
    async for value in pool.map_async(two_later, ints, letters()):
        assert_type(value, float)
    async for row in pool.map_async(three, numbers(), letters(), blobs):
        assert_type(row, tuple[int, str, bytes])
    async for row in pool.map_async(three_later, ints, texts, blobs):
        assert_type(row, tuple[int, str, bytes])
    async for z in pool.map_async(four, numbers(), texts, blobs, floats):
        assert_type(z, complex)
    async for z in pool.map_async(four_later, numbers(), texts, blobs, floats):
        assert_type(z, complex)
    async for items in pool.map_async(five, numbers(), texts, blobs, floats, bools):
        assert_type(items, list[int])
    async for items in pool.map_async(five_later, numbers(), texts, blobs, floats, bools):
        assert_type(items, list[int])
    async for text in pool.map_async(seven, ints, ints, ints, ints, ints, ints, numbers()):
        assert_type(text, str)
    async for value in pool.map_async(two, pairs(), star=True):
        assert_type(value, float)
    async for value in pool.map_async(two_later, [(1, "a")], star=True, ordered=False):
        assert_type(value, float)
    async for text in pool.map_async(lambda n: "a" * n, numbers()):
        assert_type(text, str)
    assert_type([n async for n in pool.map_async(square, ints)], list[int])
    results = pool.map_async(square, numbers())
    assert_type(await anext(results), int)
    await results.aclose()
    as_iterator: AsyncIterator[int] = results
    async with contextlib.aclosing(pool.map_async(square, as_iterator)) as squares:
        async for number in squares:
            assert_type(number, int)
    # one pool's results are another's input
    async for blob in pool.map_async(fetch, pool.map_async(str, numbers())):
        assert_type(blob, bytes)


async def pairs() -> AsyncIterator[tuple[int, str]]:
    yield 1, "a"


# --- options: the same methods


def with_options(pool: Pool) -> None:
    careful = pool.options(
        retries=2, timeout=60, cancel_running="interrupt", grace=0.5, context=True)
    assert_type(careful, BoundPool)
    assert_type(careful.submit(square, 2), Future[int])
    assert_type(careful.submit(fetch, "a"), Future[bytes])
    assert_type(careful.run(find, "a"), Path | None)
    assert_type(careful.run(fetch, "a", verbose=True), bytes)
    assert_type(careful.map(square, [1], timeout=1), Iterator[int])
    assert_type(careful.map(two_later, numbers(), ["a"]), Iterator[float])
    assert_type(careful.map(two, [(1, "a")], star=True), Iterator[float])
    pool.options()
    TaskOptions(retries=1, timeout=1.0, cancel_running="kill", grace=1.0, context=True)


async def with_options_async(pool: Pool) -> None:
    careful = pool.options(retries=2)
    assert_type(careful.run_async(square, 2), AsyncTask[int])
    assert_type(await careful.run_async(fetch, "a"), bytes)
    async for number in careful.map_async(square, numbers(), ordered=False):
        assert_type(number, int)
    async for value in careful.map_async(two_later, pairs(), star=True):
        assert_type(value, float)


# --- pools


def initialize(level: int, name: str, strict: bool = False) -> None: ...


def initialize_lightly(level: int = 0) -> None: ...


async def initialize_later(level: int) -> str:
    return str(level)


def on_lost(lost: WorkerLost) -> None:
    assert_type(lost.host, str)
    assert_type(lost.pid, int)
    assert_type(lost.exitcode, int | None)
    assert_type(lost.out_of_memory, bool)


def on_output(line: OutputLine) -> None:
    assert_type(line.host, str)
    assert_type(line.text, str)


def kinds_of_pools(names: list[str], specs: tuple[HostSpec, ...], kind: LoopType) -> None:
    Pool()
    Pool(4, "ssh://maxi/8", 8)
    Pool(max_workers=None, mp_context=None)
    Pool(initializer=nothing)
    Pool(initializer=nothing_later, initargs=())
    Pool(initializer=initialize_lightly)
    Pool(initializer=initialize_lightly, initargs=(1,))
    Pool(initializer=initialize, initargs=(1, "a"))
    Pool(initializer=initialize, initargs=(1, "a", True))
    Pool(initializer=initialize_later, initargs=(1,))
    Pool(initializer=print, initargs=("a", 1))
    Pool(initializer=None)
    Pool(hosts="mini")
    Pool(hosts=["ssh://maxi/8", HostSpec("mini")])
    Pool(hosts=names)
    Pool(hosts=specs)
    Pool(hosts=HostSpec("ssh://maxi", ssh=SshOptions(
        client_keys=["id", Path("id")], passphrase=lambda name: name, known_hosts=Path("hosts"))))
    Pool(localhost="10.0.0.1", localport=8899, tcp=TcpOptions(secret=Path("secret"), keepalive=5))
    Pool(worker_loop=LoopType.uvloop, func_pickle=PickleType.dill, data_pickle=PickleType.msgspec)
    Pool(worker_loop=kind, lazy_create=True, qsize=1, spin=0.001)
    Pool(retries=1, cancel_running="leave", max_pending=10, when_full="raise")
    Pool(on_worker_lost=on_lost, max_tasks_per_child=10, max_memory_per_child=2**30)
    Pool(on_worker_lost=lambda lost: print(lost.host), ship=[json])
    Pool(output="terminal")
    Pool(output="log")
    Pool(output=on_output)
    Pool(output=lambda line: print(line.text))


class MyPool(Pool):
    """Stays what it is, whatever way it is started."""


def synchronous() -> None:
    with Pool(4) as pool:
        assert_type(pool, Pool)
        assert_type(pool.ready.wait(1.0), bool)
        assert_type(pool.ready.is_set(), bool)
        assert_type(pool.is_ready(), bool)
        assert_type(pool.qsize, int)
        assert_type(pool.total_workers(), int)
        assert_type(pool.address, tuple[str, int] | None)
        assert_type(pool.workers(), list[WorkerInfo])
        assert_type(pool.workers()[0].memory, int | None)
        assert_type(pool.statistics(), Statistics)
        assert_type(pool.statistics().tasks_done, int)
        assert_type(pool.add_host("mini"), str)
        pool.remove_host(HostSpec("mini"), drain=False)
        pool.scale(8)
        pool.shutdown(wait=True, cancel_futures=True)
        pool.kill()
    with MyPool() as mine:
        assert_type(mine, MyPool)


async def asynchronous() -> None:
    pool = await Pool(4)
    assert_type(pool, Pool)
    assert_type(await pool.create(), Pool)
    assert_type(await pool.ready, Pool)
    assert_type(await pool.add_host_async(HostSpec("mini")), str)
    await pool.remove_host_async("mini", drain=True)
    await pool.scale_async(2)
    await pool.shutdown_async(cancel_futures=True)
    await pool.kill_async()
    async with Pool(2) as pool:
        assert_type(pool, Pool)
    async with MyPool() as mine:
        assert_type(mine, MyPool)
    assert_type(await MyPool(), MyPool)
    assert_type(await MyPool().ready, MyPool)
    async with contextlib.AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(Pool()), Pool)


def takes_executor(executor: Executor) -> None:
    assert_type(executor.submit(square, 2), Future[int])


async def as_an_executor(pool: Pool) -> None:
    takes_executor(pool)
    executor: Executor = pool
    executor.shutdown()
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(pool, square, 2), int)
    assert_type(await asyncio.wrap_future(pool.submit(fetch, "a")), bytes)


def errors(pool: Pool) -> None:
    try:
        pool.run(square, 2)
    except PoolStartError as error:
        broken: BrokenProcessPool = error
        raise RuntimeError from broken
    except RemoteException as error:
        assert_type(error.traceback, str)
    except (distex.HostError, distex.PoolFull, distex.PoolClosed, distex.DistexError):
        assert_type(distex.__version__, str)
