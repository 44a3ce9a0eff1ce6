"""What every test gets: both event loops where it asks for them, and a look at what it left behind.

A test that takes ``loop`` runs twice, under uvloop and under asyncio's own event loop::

    def test_something(loop):
        async def main():
            async with Pool(2, worker_loop=loop.worker_loop) as pool:
                ...
        loop.run(main())
"""

import asyncio
import gc
import glob
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import uvloop
from hypothesis import settings

from distex import LoopType

LEAVE_SECONDS = 10.0  # how long what a test used may take to be gone
MARK = f"DISTEX_TESTS_{os.getpid()}"  # in the environment of every process that a test starts

settings.register_profile("local", deadline=None, max_examples=200)
settings.register_profile("ci", deadline=None, max_examples=10_000)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


# --- the two loops


@dataclass(frozen=True)
class Loop:
    """An event loop for the test and for its workers."""

    worker_loop: LoopType
    factory: Callable[[], asyncio.AbstractEventLoop]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """As asyncio.run(), on this kind of loop."""
        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(coroutine)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each kind of event loop in turn."""
    if request.param == "uvloop":
        return Loop(LoopType.uvloop, uvloop.new_event_loop)
    return Loop(LoopType.asyncio, asyncio.SelectorEventLoop)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes a thousand processes, unless that is asked for."""
    if os.environ.get("PROFILE") != "ci":
        large = [item for item in items if item.get_closest_marker("large")]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


# --- nothing is left behind


def pytest_configure(config: pytest.Config) -> None:
    """Mark all processes to come, and give the run a folder for temporary files of its own."""
    uvloop.new_event_loop().close()  # the first one opens a pipe for the whole process
    os.environ[MARK] = "1"
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="dt-")  # short: sockets in it have paths
    tempfile.tempdir = None


def pytest_unconfigure(config: pytest.Config) -> None:
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
    """Temporary folders of pools."""
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "distex-*")))


LOOKS = [threads, folders] + ([open_files] if sys.platform == "linux" else [])


def everything() -> set[str]:
    """All that a test could leave behind, but for processes."""
    return set().union(*(look() for look in LOOKS))


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a process, a thread, an open file or a folder of a pool behind."""
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
            pytest.fail("left behind:\n" + "\n".join(sorted(left)))
        time.sleep(0.01)
