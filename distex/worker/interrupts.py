"""How a plain function that runs is ended when its task is cancelled: signal, then kill.

    pool ──Interrupt──> nanny: Interrupts ──UNWANTED, SIGURG──> worker: TaskInterrupted is raised
                                  │                             in the function
                                  └──SIGKILL, after a grace period──> worker

A worker that runs a plain function reads nothing, so its nanny does it. The pool does not know
whether the task runs, or will, or is done; the nanny looks for a while, and the worker's notes
tell.
"""

import contextlib
import os
import signal
import time
from typing import Any, Protocol

from distex.errors import TaskInterrupted
from distex.worker.status_page import FINISHED, RUNNING, STARTED, UNWANTED

# one that does no harm where nothing handles it
SIGNAL = getattr(signal, "SIGURG", None)
LOOK_INTERVAL = 0.01  # seconds between looks whether a task that was to be interrupted runs now
LOOK_TIME = 1.0  # seconds in which a task that is not wanted may still begin


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
    """

    def __init__(self, child: Child, task: int, grace: float) -> None:
        self.child = child
        self.task = task
        self.grace = grace
        self.kill_at: float | None = None  # when it runs and has been interrupted
        self.give_up_at = time.monotonic() + LOOK_TIME

    def act(self, now: float) -> float | None:
        """Do what is due: when to look again, or None: all is done."""
        page = self.child.page
        # a chunk of coroutines may go on when others have been started
        if page[RUNNING] != self.task and (
                page[STARTED] > self.task or page[FINISHED] == self.task):
            return None
        if self.kill_at is None:
            if page[STARTED] < self.task:  # its turn has not come; most likely it never will
                return now + LOOK_INTERVAL if now < self.give_up_at else None
            self.kill_at = now + self.grace
            page[UNWANTED] = self.task
            if self.grace > 0 and SIGNAL is not None:
                _send(self.child.pid, SIGNAL)
        if now < self.kill_at:
            return min(self.kill_at, now + LOOK_INTERVAL)
        self.child.revoked = True
        _send(self.child.pid, signal.SIGKILL)
        return None


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
    """Have this process, a worker, interrupt the function that it runs when its nanny says so.

    Args:
        page: shared with the nanny.
    """
    def handle(signum: int, frame: Any) -> None:
        if page[RUNNING] and page[RUNNING] == page[UNWANTED]:
            page[RUNNING] = 0  # once
            raise TaskInterrupted

    if SIGNAL is not None:
        signal.signal(SIGNAL, handle)
