"""What the pools are given to do. Imported by all clients and workers: standard library only."""

import fcntl
import functools
import os
import time
from typing import Any


def double(x: int) -> int:
    """The tiny function."""
    return x * 2


def identity(value: Any) -> Any:
    """There and back."""
    return value


def is_writable(array: Any) -> bool:
    """Whether an array can be changed in place where it arrived."""
    return bool(array.flags.writeable)


def length(array: Any) -> int:
    """There, and hardly anything back."""
    return len(array)


@functools.cache
def ones(count: int) -> Any:
    """Hardly anything there, and an array back, the same each time."""
    import numpy

    return numpy.ones(count)


def nap(seconds: float) -> None:
    """Take time, but no CPU."""
    time.sleep(seconds)


def spend(seconds: float) -> float:
    """Take that long, precisely, and mostly without using CPU; how long it has really taken."""
    start = time.perf_counter()
    if seconds > 1e-3:
        time.sleep(seconds - 0.5e-3)
    while (taken := time.perf_counter() - start) < seconds:
        pass
    return taken


def arrive(folder: str) -> int:
    """Report in at the FIFO 'arrived', then wait until nobody locks the file 'gate'."""
    fifo = os.open(os.path.join(folder, "arrived"), os.O_WRONLY)
    os.write(fifo, b"x")
    os.close(fifo)
    with open(os.path.join(folder, "gate")) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    return os.getpid()


def clock() -> float:
    """When this runs, on a clock that all processes of the machine share."""
    return time.monotonic()


def spin(path: str) -> None:
    """Make a file, and then never end by itself."""
    open(path, "w").close()
    while True:
        pass


def spin_stubbornly(path: str) -> None:
    """The same, whatever is raised in it."""
    open(path, "w").close()
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


class Constant:
    """Large data that count, in each process, how often they are pickled and unpickled."""

    pickled = 0
    unpickled = 0

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __getstate__(self) -> bytes:
        Constant.pickled += 1
        return self.data

    def __setstate__(self, data: bytes) -> None:
        Constant.unpickled += 1
        self.data = data


def use_constant(constant: Constant, x: int) -> tuple[int, int, int]:
    """The worker's pid, how often it has unpickled the constant, and something of x."""
    return os.getpid(), Constant.unpickled, len(constant.data) + x
