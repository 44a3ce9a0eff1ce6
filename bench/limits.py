"""What the machine, and an event loop, can do at best, measured beside the pools; see raw.c too."""

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench import usage
from bench.measurements import Figures, describe
from bench.session import Session


@functools.cache
def _program() -> str:
    """The compiled raw.c; made anew when that has changed."""
    source = Path(__file__).with_name("raw.c").resolve()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NotImplementedError("no C compiler for the raw limits")
    program = Path(os.environ.get("BENCH_CACHE", ".")).resolve() / "raw"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-o", fresh, source], check=True)
        fresh.replace(program)
    return str(program)


def _raw(*args: str | int) -> list[float]:
    """The durations that raw.c prints, in seconds."""
    output = subprocess.run(
        [_program(), *map(str, args)], check=True, capture_output=True, text=True).stdout
    return [int(line) * 1e-9 for line in output.split()]


def ping(
    session: Session, calls: int, seconds: float, apart: bool = False, kind: str = "ping"
) -> Figures:
    """64 bytes to another process and back."""
    cpus = session.two_cpus() if apart else ()
    return describe(_raw(kind, *cpus, calls + 200)[200:])


def poll(session: Session, calls: int, seconds: float, apart: bool = False) -> Figures:
    """The same, where neither process waits but asks again and again, on a CPU each."""
    return ping(session, calls, seconds, True, "poll")


def loop_ping(session: Session, calls: int, seconds: float, apart: bool = False) -> Figures:
    """The same between two bare uvloop event loops: a protocol here, an echo there, no pool; the
    least that a call can take that is awaited and that an event loop serves."""
    import uvloop

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        with contextlib.suppress(BaseException):
            asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_echo(theirs))
        os._exit(0)
    theirs.close()
    if apart:
        here, there = session.two_cpus()
        usage.pin(os.getpid(), here)
        usage.pin(pid, there)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = runner.run(_time_pings(ours, calls + 200))
    os.waitpid(pid, 0)
    return describe(taken[200:])


class _Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def _echo(sock: socket.socket) -> None:
    _, protocol = await asyncio.get_running_loop().create_connection(_Echo, sock=sock)
    await protocol.ended


class _Pings(asyncio.Protocol):
    answer: "asyncio.Future[bytes]"

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(data)


async def _time_pings(sock: socket.socket, calls: int) -> list[float]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(_Pings, sock=sock)
    data, taken = bytes(64), []
    for _ in range(calls):
        start = time.perf_counter()
        protocol.answer = loop.create_future()
        transport.write(data)
        await protocol.answer
        taken.append(time.perf_counter() - start)
    transport.close()
    return taken


def go_through(
    session: Session, chunksize: int | None, seconds: float, asynchronous: bool = False
) -> Figures:
    """The caller's loop over the results of a map alone: all of them are there."""
    from distex._core.result_iterator import AsyncResultIterator, ResultIterator

    lists, size = max(1, int(1000 * seconds)), 8192

    async def come() -> AsyncIterator[list[int]]:
        for _ in range(lists):
            yield list(range(size))

    async def go() -> None:
        async for _ in AsyncResultIterator(come()):
            pass

    with usage.Meter() as meter:
        if asynchronous:
            asyncio.run(go())
        else:
            for _ in ResultIterator(list(range(size)) for _ in range(lists)):
                pass
    count = lists * size
    return {"per_second": count / meter.wall, "cpu": meter.cpu / count, "tasks": count}


def import_asyncio(session: Session) -> Figures:
    """A fresh interpreter that imports asyncio and uvloop, and ends: nothing that starts one and
    has an event loop in it answers sooner."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import asyncio, uvloop"], check=True)
    return {"first": time.perf_counter() - start}


def _repeats(size: int) -> int:
    return max(4, min(1000, (256 << 20) // size))


def memcpy(session: Session, size: int, seconds: float) -> Figures:
    """Bytes copied in memory."""
    return {"bytes_per_second": size / statistics.median(_raw("memcpy", size, _repeats(size)))}


def fresh(session: Session, size: int, seconds: float) -> Figures:
    """Bytes of memory that this process did not have before."""
    return {"bytes_per_second": size / statistics.median(_raw("fresh", size, _repeats(size)))}


def echo(session: Session, size: int, seconds: float) -> Figures:
    """Bytes through a Unix socket to another process and back, both ways counted."""
    taken = _raw("echo", size, _repeats(size))[1:]
    return {"bytes_per_second": 2 * size / statistics.median(taken)}


def fork(session: Session, count: int, naps: bool = False) -> Figures:
    """Bare forks of this small interpreter: until each has said a word."""
    word, says = os.pipe()
    gate, opener = os.pipe()
    pids = []
    begin = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.write(says, b"x")
            os.read(gate, 1)  # until the opener is closed, or its process has ended
            os._exit(0)
        pids.append(pid)
    said = 0
    while said < count:
        said += len(os.read(word, count))
    taken = time.perf_counter() - begin
    own = statistics.median([usage.private(pid) for pid in pids])
    for end in (opener, gate, word, says):
        os.close(end)
    for pid in pids:
        os.waitpid(pid, 0)
    return {"ready": taken, "private": own}
