"""What this machine offers: CPUs to use, open files, memory, event loops."""

import contextlib
import math
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distex.options import LoopType

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# other places for folders, where the usual one is of no use
FOLDER_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
MAX_FOLDER_LENGTH = 80  # the name of a socket in it can't be longer than 107 bytes
SPARE_FILES = 64  # to be open beside those that are counted
LOOK_CLOSER_BYTES = 48 * 1024 * 1024  # of memory; to look whether all is used takes 0.2 ms


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "process_cpu_count"):
        cpus = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min([cpus, *map(math.ceil, cpu_quotas())]))


def cpu_quotas(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[float]:
    """Return the CPUs that the process's control groups grant, those around them included; none
    where there are no limits.

    Args:
        groups: file that tells the groups, of version 1 and 2.
        root: folder where their trees are mounted.
    """
    quotas: list[float] = []
    try:
        with open(groups, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:  # there are none on this system
        return quotas
    trees: tuple[str, ...]
    for line in lines:
        _, _, line = line.partition(":")
        controllers, _, path = line.partition(":")
        if not controllers:
            trees, read = ("", "unified"), _quota_of_version_2
        elif "cpu" in controllers.split(","):
            trees, read = (controllers, "cpu", "cpu,cpuacct"), _quota_of_version_1
        else:
            continue
        # in a container the path may be the host's; what is mounted at the root is its own then
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for tree in dict.fromkeys(trees):
            for end in range(len(parts), -1, -1):
                try:
                    quota = read(os.path.join(root, tree, *parts[:end]))
                except (OSError, ValueError, ZeroDivisionError):  # not this folder, or no limit
                    continue
                if quota > 0:
                    quotas.append(quota)
    return quotas


def _quota_of_version_2(folder: str) -> float:
    with open(os.path.join(folder, "cpu.max")) as file:
        quota, period = file.read().split()
    return int(quota) / int(period)  # ValueError for "max"


def _quota_of_version_1(folder: str) -> float:
    with (open(os.path.join(folder, "cpu.cfs_quota_us")) as quota,
          open(os.path.join(folder, "cpu.cfs_period_us")) as period):
        return int(quota.read()) / int(period.read())  # -1: no limit


def open_standard_files() -> None:
    """Open the null device in place of stdin, stdout and stderr where they are closed. A socket
    with such a number is taken for one of them by whatever is started, and uvloop aborts."""
    with contextlib.suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)


def raise_file_limit(more: int) -> None:
    """Raise the process's soft limit of open files if it is too low for so many more.

    Raises:
        OSError: the hard limit does not allow that.
    """
    needed = more + SPARE_FILES
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        with contextlib.suppress(OSError):
            if len(os.listdir("/proc/self/fd")) + more <= hard:  # it may just do
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                return
        raise OSError(f"this many workers need {needed} open files and the hard limit is {hard}: "
                      "raise it (ulimit -Hn, or /etc/security/limits.conf)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def folder_of_others(path: str) -> str:
    """Return the first folder above a path in which others than this user, and root, can put
    something else in its place; empty: there is none.

    Raises:
        OSError: one can't be looked at.
    """
    folder = os.path.realpath(path)
    while folder != (folder := os.path.dirname(folder)):
        found = os.stat(folder)
        if (found.st_uid not in (0, os.geteuid())
                # in one with the sticky bit, as /tmp, others can't replace what is not theirs
                or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX)):
            return folder
    return ""


def private_folder() -> str:
    """Make a folder for a socket that only this user may enter, in the folder for temporary files
    or, where that is of no use, in another one.

    Raises:
        OSError: none can be made.
    """
    import tempfile

    error: OSError | None = None
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), *FOLDER_PLACES]
    try:
        places.insert(0, tempfile.gettempdir())
    except OSError as exc:  # it can write nowhere
        error = exc
    for place in places:
        if os.path.isabs(place):
            try:
                folder = tempfile.mkdtemp(prefix="distex-", dir=place)
            except OSError as exc:
                error = error or exc
                continue
            if len(os.fsencode(folder)) <= MAX_FOLDER_LENGTH:
                return folder
            os.rmdir(folder)
            error = error or OSError(f"{place} is too long for the name of a socket")
    raise OSError(f"no folder can be made for temporary files: {error}; have TMPDIR name one that "
                  "can be written to, and has a short name") from error


def resident_bytes(pid: int) -> int | None:
    """Resident set size of a process, without what it keeps for the case that nobody else wants it
    (see _core/buffer_pool.pyx); None: it is gone, or this is not Linux."""
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


def out_of_memory_kills() -> int:
    """How many the kernel has killed for lack of memory, of the machine or of a group; 0 where it
    does not say."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as lines:
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def loop_factory(kind: int) -> "Callable[[], AbstractEventLoop]":
    """Return what makes event loops of this LoopType.

    Raises:
        ImportError: it is not installed, or not for this system.
    """
    import asyncio

    if kind in (LoopType.default, LoopType.uvloop):
        try:
            import uvloop
        except ImportError:
            if kind == LoopType.uvloop:
                raise
        else:
            return uvloop.new_event_loop
    if kind == LoopType.proactor:
        factory: Any = getattr(asyncio, "ProactorEventLoop", None)
        if factory is None:
            raise ImportError("the proactor event loop exists on Windows only")
        return factory  # type: ignore[no-any-return]
    return asyncio.SelectorEventLoop
