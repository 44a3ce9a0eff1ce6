"""What a test could leave behind: processes, threads, open files, folders of pools."""

import contextlib
import gc
import glob
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import psutil
import uvloop

LEAVE_SECONDS = 10.0  # how long what a test used may take to be gone
MARK = f"DISTEX_TESTS_{os.getpid()}"  # in the environment of every process that a test starts


@contextlib.contextmanager
def own_surroundings() -> Iterator[None]:
    """Mark all processes to come, and have a folder for temporary files that is nobody else's."""
    uvloop.new_event_loop().close()  # the first one opens a pipe for the whole process
    os.environ[MARK] = "1"
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="dt-")  # short: sockets in it have paths
    os.environ["XDG_CACHE_HOME"] = os.path.join(os.environ["TMPDIR"], "cache")
    tempfile.tempdir = None
    try:
        yield
    finally:
        shutil.rmtree(os.environ.pop("TMPDIR"), ignore_errors=True)
        tempfile.tempdir = None


def processes(before: set[int]) -> set[str]:
    """Those that tests have started since, and that go on, orphans included; zombies are dead.

    Only what was not there before is looked at: each look at a process takes time.
    """
    found = set()
    for pid in set(psutil.pids()) - before:
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and (
                    MARK in process.environ()
                    or os.getpid() in [parent.pid for parent in process.parents()]):
                found.add(f"process {pid}: {process.cmdline()}")
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def threads() -> set[str]:
    """Threads that keep the interpreter from ending, and the pools' own."""
    return {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()
            if not thread.daemon or thread.name.startswith("distex")}


def open_files() -> set[str]:
    """What the file descriptors refer to; a socket and a pipe have numbers of their own."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"descriptor {fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def folders() -> set[str]:
    """Folders of pools."""
    return {*glob.glob(os.path.join(tempfile.gettempdir(), "distex-*")),
            *glob.glob(os.path.join(os.environ["XDG_CACHE_HOME"], "distex", "*"))}


LOOKS = [threads, folders] + ([open_files] if sys.platform == "linux" else [])


def everything() -> set[str]:
    """All that a test could leave behind, but for processes."""
    return set().union(*(look() for look in LOOKS))


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """AssertionError if more is there some time after the block than was before."""
    pids = set(psutil.pids())
    before = everything()
    yield
    deadline = time.monotonic() + LEAVE_SECONDS
    gc_done = False
    while left := (everything() - before) | processes(pids):
        if not gc_done:  # only then: it takes long
            gc.collect()
            gc_done = True
            continue
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n" + "\n".join(sorted(left)))
        time.sleep(0.01)
