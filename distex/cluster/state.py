"""Records of hosts and workers: their states, and the statistics that users see."""

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from distex._core.dispatch import Dispatcher, Machine, WorkerLink
from distex.cluster.settings import Settings
from distex.launch.base import Launcher, Nanny, WorkerEndpoint
from distex.machine import resident_bytes
from distex.wire import messages

T = TypeVar("T")


@dataclass(frozen=True)
class Statistics:
    """What has happened in a pool so far.

    Attributes:
        tasks_done: that workers have answered, whatever the outcome; each item of a map is one.
        tasks_lost: that failed with WorkerLost; a chunk of a map is one. A task that was cancelled,
            or whose time was over, is not lost with its worker.
        tasks_retried: that were sent again after a loss; a chunk of a map is one.
        workers_lost: that died or were cut off, but for those that the pool itself ended.
        workers_recycled: that were replaced for their number of tasks or their memory.
        connections_dropped: that were none of the pool's, or did not speak as they should.
    """

    tasks_done: int = 0
    tasks_lost: int = 0
    tasks_retried: int = 0
    workers_lost: int = 0
    workers_recycled: int = 0
    connections_dropped: int = 0


class Watcher(Protocol):
    """The object that is told what happens to hosts and workers; the supervisor."""

    def on_nanny_message(self, host: "HostRecord", message: Any) -> None:
        """A message from a nanny came in."""

    def on_nanny_lost(self, host: "HostRecord") -> None:
        """A nanny's stream has ended."""

    def on_worker_change(self, worker: "WorkerRecord") -> None:
        """A worker's connection or its process is gone."""

    def on_worker_exhausted(self, worker: "WorkerRecord") -> None:
        """A worker has been sent all the tasks that it may have."""


class Cluster(Watcher, Protocol):
    """What the modules that change a pool's hosts need of its supervisor; see there."""

    loop: asyncio.AbstractEventLoop
    dispatcher: Dispatcher
    settings: Settings
    hosts: "list[HostRecord]"
    running: bool
    workers_recycled: int

    @property
    def listener(self) -> WorkerEndpoint:
        """Where workers come in."""

    @property
    def expected_workers(self) -> int:
        """Workers that there should be, as far as is known."""

    def workers(self) -> "list[WorkerRecord]":
        """All workers, in the order in which they were started."""

    @property
    def is_stopping(self) -> bool:
        """Whether the pool is being ended, or has ended."""

    def check_not_stopping(self) -> None:
        """Raise PoolClosed if the pool is being ended, or has ended."""

    def raise_file_limit(self) -> None:
        """Make sure that enough files can be open for all workers."""

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Have a task cancelled, and waited for, if the pool ends before it does."""

    async def until_stopped(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine; PoolClosed if the pool ends before it is done."""
        raise NotImplementedError

    async def launch(self, host: "HostRecord") -> None:
        """Start a nanny on the host, which then starts its workers."""

    def fill(self, host: "HostRecord", successors: int = 0) -> None:
        """Have as many workers started on the host as it lacks."""

    def refill(self, host: "HostRecord") -> None:
        """Have the host's workers completed, after a delay if some failed to start."""

    def expect_leaver(self) -> None:
        """A connection of the pool's own may end before it has shown that it is."""

    def end_worker(self, worker: "WorkerRecord", number: int) -> None:
        """Have the nanny send a signal to a worker that ends it."""

    def forget_worker(self, worker: "WorkerRecord") -> None:
        """A worker is gone for good."""

    def check_drained(self) -> None:
        """Wake those that wait for tasks that can't be done any more."""

    def count_drop(self, exc: Exception) -> None:
        """Count a connection that was dropped."""

    def start_failed(self, reason: str, cause: BaseException | None) -> None:
        """Tell those who wait for the pool to be ready that it can't be."""

    def give_up(self, reason: str, cause: BaseException | None) -> None:
        """End a running pool that can have no workers."""


@dataclass(frozen=True)
class WorkerInfo:
    """A worker, as ``Pool.workers()`` tells of it.

    Attributes:
        host: name of its host.
        pid: its process id there; 0: it has none yet.
        state: "starting", "idle", "busy", or "retiring" (it ends what it has and then leaves).
        tasks_done: calls that it has answered, each item of a map counted.
        memory: resident set size in bytes, pages shared with other workers included. On another
            host as its nanny last said, which it does every few seconds; None: not known yet.
    """

    host: str
    pid: int
    state: str
    tasks_done: int
    memory: int | None


@dataclass(eq=False)
class HostRecord:
    """One host, and the nanny that is on it or was last; the listener of the nanny's stream."""

    watcher: Watcher
    launcher: Launcher | None  # None: the nanny came by itself, and is not started anew
    nanny: Nanny | None = None
    name: str = ""
    is_serving: bool = False  # the nanny has said what it is
    has_spawned: bool = False  # it has started a worker
    had: int | None = None  # workers that were all ready once; None: they never were
    leaving: bool = False  # it is being removed
    refusal: str = ""  # why it is being sent away
    unfit: bool = False  # it would be sent away again
    unusable: str = ""  # why the nanny that is there is of no use
    gone: str = ""  # why there is no nanny any more
    wanted: int | None = None  # workers that should be there; None: not known before it says
    failures_in_series: int = 0  # to start a worker or the nanny
    deadline: asyncio.TimerHandle | None = None  # for the nanny to say that it serves
    workers: dict[int, "WorkerRecord"] = field(default_factory=dict)
    adding: "asyncio.Task[None] | None" = None  # its first nanny is being started
    failure: Exception | None = None  # why it could not be added
    replacing: "asyncio.Task[None] | None" = None  # the nanny is being started anew
    refilling: "asyncio.Task[None] | None" = None  # workers are about to be started
    machine: Machine = field(init=False)
    removed: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.machine = Machine(self.launcher is not None and self.launcher.is_local)
        if self.launcher is not None:
            self.name = self.launcher.host
            self.wanted = self.launcher.num_workers

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.machine.is_local

    @property
    def established(self) -> bool:
        """Whether all its workers were ready once."""
        return self.had is not None

    @property
    def staying(self) -> list["WorkerRecord"]:
        """Its workers without those that are being retired."""
        return [worker for worker in self.workers.values() if not worker.leaving]

    @property
    def is_complete(self) -> bool:
        """Whether it has all the workers that it should have, and they are ready, or were until
        others were to take their place."""
        staying = self.staying
        return (self.wanted is not None and self.wanted <= len(staying)
                and all(worker.is_proven for worker in staying))

    def send(self, message: messages.Message) -> None:
        """Tell the nanny something."""
        if self.nanny is not None:
            self.nanny.stream.send(message)

    def on_nanny_message(self, message: Any) -> None:
        """See launch.stream.NannyListener."""
        self.watcher.on_nanny_message(self, message)

    def on_nanny_lost(self, reason: str) -> None:
        """See launch.stream.NannyListener."""
        self.gone = reason
        self.watcher.on_nanny_lost(self)


@dataclass(eq=False)
class WorkerRecord:
    """One worker: spawned -> connected (Hello, Welcome) -> ready (Ready) -> leaving -> gone."""

    number: int
    host: HostRecord
    pid: int = 0
    connection: Any = None
    said_hello: bool = False
    ready: bool = False
    succeeds: bool = False  # it takes the place of one that was ready and is replaced
    leaving: bool = False  # it is being retired
    memory: int | None = None  # bytes, as its nanny last said
    link: WorkerLink | None = None
    exited: messages.Exited | None = None
    timer: asyncio.TimerHandle | None = None
    deadline: asyncio.TimerHandle | None = None  # for it to be ready
    runs_since: float | None = None  # time of the loop at which its process ran
    failure: str = ""  # why it could not start, as far as the pool was told
    cause: BaseException | None = None  # of that
    gone: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future())

    def __str__(self) -> str:
        return f"worker {self.pid or self.number} on {self.host.name}"

    def disconnected(self, exc: Exception | None) -> None:
        """Its connection is gone."""
        self.connection = None
        self.host.watcher.on_worker_change(self)

    def exhausted(self) -> None:
        """It has got all the tasks that it is for."""
        self.host.watcher.on_worker_exhausted(self)

    def interrupt(self, task_id: int, grace: float, cancels: int) -> None:
        """Have a task ended that it may be running, and the worker itself if that takes longer than
        grace seconds. It was told of that cancellation as the last one of so many."""
        self.host.send(messages.Revoke(self.number, task_id, grace, cancels))

    def withdraw(self, last_id: int) -> None:
        """Have it not begin what it has not begun yet of the tasks up to this one, if it is too
        busy to hear of that."""
        self.host.send(messages.Withdraw(self.number, last_id))

    @property
    def is_proven(self) -> bool:
        """Whether there has been a worker in its place that was ready: they may be replaced sooner
        than they start, and never be ready all at a time."""
        return self.ready or self.succeeds

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

    @property
    def state(self) -> str:
        """As WorkerInfo has it."""
        if self.leaving:
            return "retiring"
        if self.link is None:
            return "starting"
        return "busy" if self.link.in_flight else "idle"

    @property
    def resident(self) -> int | None:
        """Memory that it uses, in bytes; None: not known."""
        return resident_bytes(self.pid) if self.host.is_local else self.memory

    def info(self) -> "WorkerInfo":
        """What users are told of it; may be called from any thread."""
        link = self.link
        done = link.tasks_done if link is not None else 0
        return WorkerInfo(self.host.name, self.pid, self.state, done, self.resident)

    def exit_reason(self) -> str:
        """Return how it ended, for errors."""
        code = self.exitcode
        if self.failure:
            return self.failure
        if self.revoked:
            return "its process was ended together with a task that was cancelled there"
        if self.host.leaving and code in (None, -signal.SIGKILL):
            return "its host was removed from the pool"
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
