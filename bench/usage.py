"""CPU time and memory of processes, from /proc; the CPU that they run on."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != b"Z":
                children[int(parent)].append(int(entry))
    found = [root]
    for pid in found:  # grows while we go
        found += children[pid]
    return found


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """CPU time that each process has used, all its threads together."""
    used = {}
    for pid in pids:
        try:
            # the id of a process's CPU clock, as clock_getcpuclockid(3) makes it
            used[pid] = time.clock_gettime(~pid << 3 | 2)
        except OSError:  # it has ended
            continue
    return used


def pin(pid: int, cpu: int) -> None:
    """Have all threads of a process run on this CPU alone."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cpu})


class Meter:
    """Wall time, and CPU time of this process with all that descend from it, of a with-block."""

    wall: float  # seconds
    cpu: float  # seconds

    def __enter__(self) -> "Meter":
        self._before = cpu_seconds(tree(os.getpid()))
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall = time.perf_counter() - self._start
        after = cpu_seconds(tree(os.getpid()))
        self.cpu = sum(used - self._before.get(pid, 0.0) for pid, used in after.items())


def _fields(path: str, *names: str) -> int:
    """The sum of the fields of a /proc file that are given in kB, in bytes."""
    total = 0
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in names:
                total += int(value.split()[0]) * 1024
    return total


def resident(pid: int) -> int:
    """Bytes of memory that the process has now."""
    return _fields(f"/proc/{pid}/status", "VmRSS")


def peak(pid: int) -> int:
    """Bytes of memory that the process had at most since reset_peak()."""
    return _fields(f"/proc/{pid}/status", "VmHWM")


def reset_peak(pid: int) -> None:
    """Begin anew with peak()."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def private(pid: int) -> int:
    """Bytes of memory that the process shares with nobody."""
    return _fields(f"/proc/{pid}/smaps_rollup", "Private_Clean", "Private_Dirty")


def available() -> int:
    """Bytes of memory that can be had without swapping."""
    return _fields("/proc/meminfo", "MemAvailable")
