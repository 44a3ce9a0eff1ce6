"""How a plain function that runs is ended when its task is cancelled: signal, then kill.

    pool ──Interrupt──> nanny: Interrupts ──UNWANTED, SIGURG──> worker: TaskInterrupted is raised
                                  │                             in the function
                                  └──SIGKILL, after a grace period──> worker

A worker that runs a plain function reads nothing, so its nanny does it. The pool does not know
whether the task runs, or will, or is done; the nanny looks for a while, and the worker's notes
tell. A coroutine is cancelled by the worker itself, once it has read of that. While a coroutine
blocks its loop, the worker does not; then it is ended as a plain function is.
"""

import contextlib
import os
import signal
import time
from typing import Any, Protocol

from distex.errors import TaskInterrupted
from distex.worker.status_page import (
    CANCELS,
    FINISHED,
    RUNNING,
    STARTED,
    STEPPING,
    UNWANTED,
)

# one that does no harm where nothing handles it
SIGNAL = getattr(signal, "SIGURG", None)
LOOK_INTERVAL = 0.01  # seconds between looks whether a task that was to be interrupted runs now
LOOK_TIME = 1.0  # seconds for which looks are so frequent; then the worker is busy with others
SLOW_INTERVAL = 0.1  # seconds between looks after that
BLOCK_TIME = 0.1  # seconds after which a worker has read that a coroutine is cancelled, or hangs


class Child(Protocol):
    """What is to be known of a worker."""

    pid: int
    page: memoryview
    revoked: bool  # it was killed in order to end a task


class Interrupt:
    """One task that is to be ended.

    Args:
        child: the worker that has it.
        task: its id.
        grace: seconds between the interrupt and the end of the worker; 0: its end at once.
        cancels: cancellations that the worker has read of, once it has read of this one.
    """

    def __init__(self, child: Child, task: int, grace: float, cancels: int) -> None:
        self.child = child
        self.task = task
        self.grace = grace
        self.cancels = cancels
        self.kill_at: float | None = None  # when it runs and has been interrupted
        self.since = time.monotonic()

    def act(self, now: float) -> float | None:
        """Do what is due: when to look again, or None: all is done."""
        page = self.child.page
        runs = page[RUNNING] == self.task
        is_told = page[CANCELS] >= self.cancels
        blocks = page[STEPPING] == self.task and not is_told
        if not runs and not blocks:
            if page[STARTED] < self.task:  # its turn has not come; most likely it never will
                return None if is_told else self._later(now)
            # a chunk of coroutines may go on when others have been started
            if page[STARTED] > self.task or page[FINISHED] == self.task:
                return None if is_told else self._later(now)  # a coroutine may go on
        if self.kill_at is None:
            if blocks and not runs and now < self.since + BLOCK_TIME:
                return now + LOOK_INTERVAL
            self.kill_at = now + self.grace
            page[UNWANTED] = self.task
            if self.grace > 0 and SIGNAL is not None:
                _send(self.child.pid, SIGNAL)
        if now < self.kill_at:
            return min(self.kill_at, now + LOOK_INTERVAL)
        self.child.revoked = True
        _send(self.child.pid, signal.SIGKILL)
        return None

    def _later(self, now: float) -> float:
        return now + (LOOK_INTERVAL if now < self.since + LOOK_TIME else SLOW_INTERVAL)


class Interrupts:
    """The tasks on one host that are to be ended."""

    def __init__(self) -> None:
        self._waiting: list[Interrupt] = []
        self._next = float("inf")

    def add(self, interrupt: Interrupt) -> None:
        """Begin with one."""
        self._waiting.append(interrupt)
        self._next = 0.0

    def forget(self, child: Child) -> None:
        """This worker is gone."""
        self._waiting = [one for one in self._waiting if one.child is not child]

    def act(self) -> float:
        """Do what is due: seconds until something is due again."""
        now = time.monotonic()
        if now >= self._next:
            left = [(one, when) for one in self._waiting
                    if (when := one.act(now)) is not None]
            self._waiting = [one for one, _ in left]
            self._next = min((when for _, when in left), default=float("inf"))
        return max(0.0, self._next - now)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def install_handler(page: memoryview) -> None:
    """Have this process, a worker, interrupt what it runs when its nanny says so.

    Args:
        page: shared with the nanny.
    """
    interrupted = 0

    def handle(signum: int, frame: Any) -> None:
        nonlocal interrupted
        unwanted = page[UNWANTED]
        if unwanted not in (0, interrupted) and unwanted in (page[RUNNING], page[STEPPING]):
            interrupted = unwanted  # once
            raise TaskInterrupted

    if SIGNAL is not None:
        signal.signal(SIGNAL, handle)
