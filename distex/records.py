"""What a supervisor knows of its hosts and of their workers, and how errors call them."""

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Any, Protocol

from distex import messages
from distex._core.dispatch import WorkerLink
from distex.launch.stream import Launcher, Nanny


@dataclass(frozen=True)
class Statistics:
    """What has happened in a pool so far.

    Attributes:
        tasks_done: that workers have answered, whatever the outcome; a chunk of a map is one.
        tasks_lost: that failed with WorkerLost.
        tasks_retried: that were sent again after a loss.
        workers_lost: that died or were cut off, but for those that the pool itself ended.
        connections_dropped: that were none of the pool's, or did not speak as they should.
    """

    tasks_done: int = 0
    tasks_lost: int = 0
    tasks_retried: int = 0
    workers_lost: int = 0
    connections_dropped: int = 0


class Watcher(Protocol):
    """Who is told what happens to hosts and workers; the supervisor."""

    def nanny_says(self, host: "HostRecord", message: Any) -> None:
        """A nanny has a message."""

    def nanny_gone(self, host: "HostRecord") -> None:
        """A nanny's stream has ended."""

    def worker_changed(self, worker: "WorkerRecord") -> None:
        """A worker's connection or its process is gone."""


@dataclass(eq=False)
class HostRecord:
    """One host, and the nanny that is on it or was last; the listener of the nanny's stream."""

    watcher: Watcher
    launcher: Launcher
    nanny: Nanny | None = None
    name: str = ""
    serves: bool = False  # the nanny has said what it is
    gone: str = ""  # why there is no nanny any more
    wanted: int | None = None  # workers that should be there; None: not known before it says
    deaths_in_series: int = 0  # of workers before they were ready
    workers: dict[int, "WorkerRecord"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.launcher.host
        self.wanted = self.launcher.num_workers

    def send(self, message: messages.Message) -> None:
        """Tell the nanny something."""
        if self.nanny is not None:
            self.nanny.stream.send(message)

    def nanny_says(self, message: Any) -> None:
        """See launch.stream.NannyListener."""
        self.watcher.nanny_says(self, message)

    def nanny_gone(self, reason: str) -> None:
        """See launch.stream.NannyListener."""
        self.gone = reason
        self.watcher.nanny_gone(self)


@dataclass(eq=False)
class WorkerRecord:
    """One worker: spawned -> connected (Hello, Welcome) -> ready (Ready) -> gone."""

    number: int
    host: HostRecord
    pid: int = 0
    connection: Any = None
    said_hello: bool = False
    ready: bool = False
    link: WorkerLink | None = None
    exited: messages.Exited | None = None
    timer: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"worker {self.pid or self.number} on {self.host.name}"

    def disconnected(self, exc: Exception | None) -> None:
        """Its connection is gone."""
        self.connection = None
        self.host.watcher.worker_changed(self)

    def interrupt(self, task_id: int, grace: float) -> None:
        """Have a task ended that it may be running, and the worker itself if that takes longer than
        grace seconds."""
        self.host.send(messages.Revoke(self.number, task_id, grace))

    @property
    def exitcode(self) -> int | None:
        """Exit code of its process, negative for a signal; None: not known."""
        return None if self.exited is None else self.exited.exitcode

    @property
    def out_of_memory(self) -> bool:
        """Whether it was most likely killed for lack of memory: the kernel did so meanwhile."""
        return self.exited is not None and self.exited.out_of_memory

    @property
    def revoked(self) -> bool:
        """Whether it was killed in order to end a task, as was asked for."""
        return self.exited is not None and self.exited.revoked

    def obituary(self) -> str:
        """How it ended."""
        code = self.exitcode
        if self.revoked:
            return "its process was ended together with a task that was cancelled there"
        if code is None:
            return self.host.gone or "its connection was cut"
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", most likely for lack of memory" if self.out_of_memory else ""
        return f"its process was ended by {name}{hint}"
