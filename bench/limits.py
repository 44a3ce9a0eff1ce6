"""What the machine can do at best, measured beside the pools: see raw.c, and fork()."""

import functools
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from bench import usage
from bench.child import Session
from bench.measurements import Figures, describe


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


def ping(session: Session, calls: int, seconds: float, apart: bool = False) -> Figures:
    """64 bytes to another process and back."""
    cpus = session.two_cpus() if apart else ()
    return describe(_raw("ping", *cpus, calls + 200)[200:])


def _repeats(size: int) -> int:
    return max(4, min(1000, (256 << 20) // size))


def memcpy(session: Session, size: int, seconds: float) -> Figures:
    """Bytes copied in memory."""
    return {"bytes_per_second": size / statistics.median(_raw("memcpy", size, _repeats(size)))}


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
