"""What memory processes of this machine use, and whether the kernel has killed for lack of it."""

import contextlib
import os

LOOK_CLOSER_BYTES = 48 * 1024 * 1024  # of memory; to look whether all is used takes 0.2 ms


def resident_bytes(pid: int) -> int | None:
    """Resident set size of a process, without what it keeps for the case that nobody else wants it
    (see _core/blocks.pyx); None: it is gone, or this is not Linux."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > LOOK_CLOSER_BYTES:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"LazyFree:"):
                        resident -= 1024 * int(line.split()[1])
        return resident
    except (OSError, IndexError, ValueError):
        return None


def killed_processes() -> int:
    """How many the kernel has killed for lack of memory, of the machine or of a group; 0 where it
    does not say."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as lines:
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
