"""What the tests ask of the machine they run on: waiting for conditions, processes, ports."""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from pathlib import Path

import psutil
import pytest

DEADLINE = 30.0  # seconds; how long anything may take before it counts as hung
POLL = 0.005  # seconds between looks at a condition


def wait_until(condition, what="the condition", details=None, timeout=DEADLINE):
    """Wait for ``condition()`` to be true; its value."""
    deadline = time.monotonic() + timeout
    while True:
        is_late = time.monotonic() > deadline  # asked first, as the machine may pause in between
        if value := condition():
            return value
        if is_late:
            more = f": {details()}" if details is not None else ""
            raise AssertionError(f"waited {timeout} s in vain for {what}{more}")
        time.sleep(POLL)


def all_gone(pool):
    """Return a condition: the pool has none of its present workers any more. It holds also if their
    replacements came before anybody could look."""
    before = {(worker.host, worker.pid) for worker in pool.workers()}
    return lambda: before.isdisjoint((worker.host, worker.pid) for worker in pool.workers())


async def wait_until_async(condition, what="the condition", timeout=DEADLINE):
    """As wait_until(), without blocking the loop."""
    deadline = time.monotonic() + timeout
    while True:
        is_late = time.monotonic() > deadline
        if value := condition():
            return value
        assert not is_late, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(POLL)


def not_here(reason):
    """Skip the test: it needs what this machine does not have. Where all has to be tested, as in
    .ci/run, that is a failure."""
    if os.environ.get("DISTEX_TEST_ALL"):
        pytest.fail(f"DISTEX_TEST_ALL is set, but {reason}")
    pytest.skip(reason)


def free_port():
    """A port of this machine on which nobody listens now, and that is given to no connection which
    somebody opens until the test listens there: those have ports from 32768 on."""
    while True:
        port = secrets.randbelow(20_000) + 10_000  # hypothesis has random give the same again
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def mapped_rings():
    """How many rings of shared memory are mapped in this process; both ends of one are."""
    return Path("/proc/self/maps").read_text().count("memfd:distex")


def is_alive(pid):
    """Whether a process is there and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
