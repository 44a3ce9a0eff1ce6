"""What a supervisor knows of its hosts and of their workers, and how errors call them."""

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Any, Protocol

from distex import messages
from distex._core.dispatch import WorkerLink
from distex.launch.stream import Launcher, Nanny


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

    @property
    def exitcode(self) -> int | None:
        """Exit code of its process, negative for a signal; None: not known."""
        return None if self.exited is None else self.exited.exitcode

    def obituary(self) -> str:
        """How it ended."""
        code = self.exitcode
        if code is None:
            return self.host.gone or "its connection was cut"
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
