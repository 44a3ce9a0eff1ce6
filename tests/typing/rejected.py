"""What a user should not be able to write, for type checkers alone: it is never run.

Each line that ends in ``# E`` has to be reported, and no other. See test_typing.py.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future

import distex
from distex import AsyncTask, HostSpec, OutputLine, Pool, SshOptions, TaskOptions, WorkerLost


def square(x: int) -> int:
    return x * x


async def fetch(url: str, retries: int = 3, *, verbose: bool = False) -> bytes:
    return url.encode() * retries


def find(name: str) -> str | None:
    return name


def area(*, width: float, height: float = 1.0) -> float:
    return width * height


def two(a: int, b: str) -> float:
    return a + len(b)


async def two_later(a: int, b: str) -> float:
    return a + len(b)


def three(a: int, b: str, c: bytes) -> str:
    return b


def five(a: int, b: str, c: bytes, d: float, e: bool) -> str:
    return b


async def numbers() -> AsyncIterator[int]:
    yield 1


async def pairs() -> AsyncIterator[tuple[int, str]]:
    yield 1, "a"


# --- single calls


def calls(pool: Pool) -> None:
    pool.submit(square)  # E
    pool.submit(square, "a")  # E
    pool.submit(square, 1, 2)  # E
    pool.submit(square, y=1)  # E
    pool.submit(square, 1, x=1)  # E
    pool.submit(square, 1, timeout=1)  # E
    pool.submit(5)  # E
    pool.submit(square(2))  # E
    pool.submit()  # E
    pool.submit(fetch)  # E
    pool.submit(fetch, 1)  # E
    pool.submit(fetch, "a", 1, True)  # E
    pool.submit(fetch, "a", verbose="yes")  # E
    pool.submit(fetch("a"))  # E
    pool.run(square)  # E
    pool.run(square, None)  # E
    pool.run(square, 1, 2)  # E
    pool.run(area, 1.0)  # E
    pool.run(area, height=1.0)  # E
    pool.run(area, width="a")  # E
    pool.run(area, width=1.0, depth=1.0)  # E
    pool.run(fetch, b"a")  # E
    pool.run(find, "a").upper()  # E
    pool.run(len, 5)  # E
    pool.run(HostSpec, 5)  # E
    pool.run(lambda: 1, 2)  # E


def results(pool: Pool) -> None:
    a: str = pool.run(square, 2)  # E
    b: Future[str] = pool.submit(square, 2)  # E
    c: Future[str] = pool.submit(fetch, "a")  # E
    d: str = pool.run(fetch, "a")  # E
    e: list[str] = pool.run_on_all(square, 2)  # E
    print(a, b, c, d, e)


async def tasks(pool: Pool) -> None:
    pool.run_async(square, "a")  # E
    pool.run_async(square, 1, 2)  # E
    pool.run_async(square, y=2)  # E
    pool.run_async(fetch)  # E
    pool.run_async(fetch, "a", verbos=True)  # E
    await pool.run_async(two, 1)  # E
    task = pool.run_async(square, 2)
    a: str = await task  # E
    b: str = task.result()  # E
    c: AsyncTask[str] = task  # E
    d: asyncio.Future[int] = task  # E
    e: str = await asyncio.wait_for(task, 1.0)  # E
    task.result(1.0)  # E
    task.set_result(1)  # E
    task.add_done_callback(square)  # E
    await asyncio.wait({task})  # E
    await pool.run(square, 2)  # E
    await pool.submit(square, 2)  # E
    async with asyncio.TaskGroup() as group:
        f: asyncio.Task[str] = group.create_task(pool.run_async(square, 2))  # E
    print(a, b, c, d, e, f)


async def on_all(pool: Pool) -> None:
    pool.run_on_all(square)  # E
    pool.run_on_all(square, "a")  # E
    pool.run_on_all(fetch, "a", verbose=1)  # E
    await pool.run_on_all_async(square, 1, 2)  # E
    await pool.run_on_all_async(fetch, 1)  # E
    a: list[str] = await pool.run_on_all_async(square, 1)  # E
    await pool.run_on_all(square, 1)  # E
    print(a)


# --- maps


def maps(pool: Pool) -> None:
    pool.map(square, ["a"])  # E
    pool.map(square, 5)  # E
    pool.map(square)  # E
    pool.map(square, [1], [2])  # E
    pool.map(square, [None, 1])  # E
    pool.map(fetch, [1])  # E
    pool.map(fetch, ["a"], ["b"])  # E
    pool.map(area, [1.0])  # E
    pool.map(two, [1])  # E
    pool.map(two, ["a"], [1])  # E
    pool.map(two_later, [1], [2])  # E
    pool.map(two, numbers(), numbers())  # E
    pool.map(two_later, numbers(), numbers())  # E
    pool.map(three, [1], ["a"], ["b"])  # E
    pool.map(five, [1], ["a"], [b""], [1.0], ["e"])  # E
    pool.map(five, [1], ["a"], [b""], [1.0])  # E
    pool.map(5, [1])  # E
    pool.map(square, [1], timeout="1")  # E
    pool.map(square, [1], chunksize=1.5)  # E
    pool.map(square, [1], ordered=None)  # E
    pool.map(square, [1], buffersize="all")  # E
    pool.map(square, [1], chunk_size=1)  # E
    pool.map(square, [1]).result()  # E
    for a in pool.map(find, ["a"]):
        a.upper()  # E
    for _ in pool.map_async(square, [1]):  # E
        pass


def starred_maps(pool: Pool) -> None:
    pool.map(two, [(1, "a")])  # E
    pool.map(two, [("a", 1)], star=True)  # E
    pool.map(two, [(1,)], star=True)  # E
    pool.map(two, [(1, "a", 2)], star=True)  # E
    pool.map(two, [1], star=True)  # E
    pool.map(two, [(1, "a")], star=False)  # E
    pool.map(two, [1], ["a"], star=True)  # E
    pool.map(two_later, [("a", 1)], star=True)  # E
    pool.map(square, [1, 2], star=True)  # E
    pool.map(two, pairs(), star="yes")  # E


async def async_maps(pool: Pool) -> None:
    pool.map_async(square, ["a"])  # E
    pool.map_async(square, [1], numbers())  # E
    pool.map_async(two, numbers(), numbers())  # E
    pool.map_async(two_later, ["a"], numbers())  # E
    pool.map_async(two, pairs())  # E
    pool.map_async(square, pairs(), star=True)  # E
    pool.map_async(two_later, [("a", 1)], star=True)  # E
    pool.map_async(square, [1], order=False)  # E
    await pool.map_async(square, [1])  # E
    async for _ in pool.map(square, [1]):  # E
        pass
    async for a in pool.map_async(find, ["a"]):
        a.upper()  # E
    async for b in pool.map_async(square, numbers()):
        b.upper()  # E
    async for c in pool.map_async(fetch, ["a"]):
        await c  # E


# --- options


async def options(pool: Pool) -> None:
    pool.options(2)  # E
    pool.options(retries="2")  # E
    pool.options(cancel_running="later")  # E
    pool.options(timeout=1).submit(square, "a")  # E
    pool.options(timeout=1).run(fetch)  # E
    pool.options(timeout=1).run_async(square, 1, 2)  # E
    pool.options(timeout=1).map(square, ["a"])  # E
    pool.options(timeout=1).map_async(two, [(1, 2)], star=True)  # E
    pool.options(timeout=1).shutdown()  # E
    await pool.options(timeout=1).run(square, 1)  # E
    TaskOptions(1)  # E
    TaskOptions(retries=1).retries = 2  # E


# --- pools


def initialize(level: int, name: str, strict: bool = False) -> None: ...


async def initialize_later(level: int) -> None: ...


def on_number(number: int) -> None: ...


def kinds_of_pools(other: distex.BoundPool) -> None:
    distex.Poll()  # E
    Pool("4")  # E
    Pool(workers=4)  # E
    Pool(initializer=5)  # E
    Pool(initializer=initialize, initargs=("a", 1))  # E
    Pool(initializer=initialize, initargs=(1,))  # E
    Pool(initializer=initialize, initargs=(1, "a", True, 2))  # E
    # mypy does not hold the default of initargs against the initializer
    Pool(initializer=initialize)  # E: pyright
    Pool(initializer=initialize, initargs=[1, "a"])  # E
    Pool(initializer=initialize_later, initargs=("a",))  # E
    Pool(hosts=5)  # E
    Pool(hosts=["mini", 5])  # E
    Pool(hosts=HostSpec("ssh://mini", SshOptions("id")))  # E
    Pool(worker_loop="uvloop")  # E
    Pool(when_full="drop")  # E
    Pool(cancel_running="later")  # E
    Pool(output="file")  # E
    Pool(output=on_number)  # E
    Pool(on_worker_lost=on_number)  # E
    Pool(ship=["json"])  # E
    Pool(ship=distex)  # E
    Pool(tcp="secret.pem")  # E


async def states(pool: Pool, lost: WorkerLost, line: OutputLine) -> None:
    pool.ready.wait("1")  # E
    await pool.is_ready()  # E
    await pool.shutdown()  # E
    pool.shutdown(cancel=True)  # E
    pool.add_host(5)  # E
    pool.scale("2")  # E
    pool.address[0]  # E
    pool.qsize = 2  # E
    pool.statistics().tasks_done = 1  # E
    pool.workers()[0].cpu  # E  # noqa: B018
    lost.exitcode + 1  # E
    line.pid.upper()  # E
    async with pool.options():  # E
        pass
