"""The part of a running pool that lives on its loop: starts, watches, replaces and stops workers.

    launch.local ──> nanny ──fork──> worker ──connects back──> Greeter ──> Dispatcher
                       │                                          │
                       └─Started, Exited──> Supervisor <──────────┘ Hello, Ready, connection lost

A worker goes through: spawned -> connected (Hello, Welcome) -> ready (Ready) -> gone.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distex import messages, options, serializers
from distex._core.codec import Codec
from distex._core.dispatch import Dispatcher, Task, WorkerLink
from distex._core.lane import Lane
from distex._core.framing import DEFAULT_LIMIT_BYTES, HELLO_LIMIT_BYTES, FrameHandler
from distex._core.protocol import StreamConnection
from distex.errors import PoolClosed, PoolStartError, ProtocolError, WorkerLost, load_exception
from distex.launch import local

logger = logging.getLogger("distex")

HELLO, READY, WELCOME = 1, 2, 7  # as in framing.pyx
EXIT_GRACE = 2.0  # seconds between the two signs of a worker's end: its connection, its process


@dataclass(frozen=True)
class Settings:
    """What a pool was asked for, checked."""

    num_workers: int
    qsize: int = 2
    initializer: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    loop_type: int = options.LoopType.default
    func_pickle: int = options.PickleType.cloudpickle
    data_pickle: int = options.PickleType.pickle
    spin: float = 0.0


@dataclass(eq=False)
class WorkerRecord:
    """One worker, as errors and the supervisor know it."""

    number: int
    nanny: "NannyRecord"
    supervisor: "Supervisor"
    pid: int = 0
    connection: Any = None
    link: WorkerLink | None = None
    ready: bool = False
    connected_once: bool = False
    exited: messages.Exited | None = None
    timer: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"worker {self.pid or self.number} on {self.nanny.host}"

    def disconnected(self, exc: Exception | None) -> None:
        """Its connection is gone."""
        self.connection = None
        self.supervisor.worker_changed(self)

    def obituary(self) -> str:
        """How it ended."""
        if self.exited is None:
            return self.nanny.gone or "its connection was cut"
        code = self.exited.exitcode
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", perhaps for lack of memory" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"its process was ended by {name}{hint}"


@dataclass(eq=False)
class NannyRecord:
    """One nanny; the listener of its stream."""

    supervisor: "Supervisor"
    nanny: local.LocalNanny | None = None
    gone: str = ""
    workers: dict[int, WorkerRecord] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Name of the host it is on."""
        return local.LocalNanny.host

    def send(self, message: messages.Message) -> None:
        """Tell it something."""
        if self.nanny is not None:
            self.nanny.stream.send(message)

    def nanny_says(self, message: Any) -> None:
        """See launch.stream.NannyListener."""
        self.supervisor.nanny_says(self, message)

    def nanny_gone(self, reason: str) -> None:
        """See launch.stream.NannyListener."""
        self.gone = reason
        self.supervisor.nanny_gone(self)


class Greeter(FrameHandler):
    """Meets whoever connects. Nothing of it is unpickled, and it gets nothing, before it has shown
    the pool's token."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._record: WorkerRecord | None = None
        self.connection: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connected(self, connection: Any) -> None:
        self.connection = connection
        supervisor = self._supervisor
        if (len(supervisor.strangers) >= options.MAX_UNKNOWN_CONNECTIONS
                or not _same_user(connection.transport)):
            supervisor.drop(connection, "it is not of this user, or one of too many")
            return
        supervisor.strangers.add(self)
        self._timer = supervisor.loop.call_later(
            options.HELLO_TIMEOUT, supervisor.drop, connection, "it did not say who it is")

    def disconnected(self, exc: Exception | None) -> None:
        self._forget()
        if self._record is not None:
            self._record.disconnected(exc)

    def _forget(self) -> None:
        self._supervisor.strangers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def control(
        self, kind: int, flags: int, aux: int, id: int, body: bytes, segments: list[Any]
    ) -> None:
        message = messages.decode_handshake(body)
        if kind == HELLO and isinstance(message, messages.Hello) and message.lane:
            self._supervisor.take_lane(message, self.connection)
        elif kind == HELLO and isinstance(message, messages.Hello) and self._record is None:
            self._record = self._supervisor.recognise(message)
            self._forget()
            self._record.connection = self.connection
            self._record.pid = message.pid
            self.connection.reader.set_limit(DEFAULT_LIMIT_BYTES)
            refusal = messages.refusal(message)
            if refusal is not None:
                self._supervisor.start_failed(refusal)
                return
            initializer, buffers = self._supervisor.initializer
            self.connection.write(
                WELCOME, 0, 0, 0, messages.encode(messages.Welcome(initializer)), buffers)
        elif kind == READY and isinstance(message, messages.Ready) and self._record is not None:
            self._supervisor.worker_ready(self._record, message)
        else:
            raise ProtocolError(f"{type(message).__name__} does not belong here")


def _same_user(transport: Any) -> bool:
    """Whether the peer at a Unix socket is this user, as far as the system tells."""
    sock = transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux" or sock.family != socket.AF_UNIX:
        return True
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


class Supervisor:
    """The workers of one pool.

    Everything happens on the loop that is running when it is made.

    Args:
        settings: what is wanted.
    """

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.get_running_loop()
        self.settings = settings
        data = serializers.for_data(settings.data_pickle)
        self.dispatcher = Dispatcher(
            self.loop, Codec(data.dumps, data.loads, data.keeps_types), settings.qsize,
            settings.spin)
        self.strangers: set[Greeter] = set()
        self.violations = 0  # connections that were dropped for what they sent
        self.initializer: tuple[bytes, list[Any]] = (b"", [])
        self.pid = os.getpid()
        self._token = secrets.token_bytes(32)
        self._folder: str | None = None
        self._server: asyncio.AbstractServer | None = None
        self._address: tuple[str, int] = ("", 0)
        self._nannies: list[NannyRecord] = []
        self._workers: dict[int, WorkerRecord] = {}
        self._next_number = 1
        self._deaths_in_series = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: asyncio.Future[None] = self.loop.create_future()
        # a failure is told to whoever waits; that nobody does is no reason to log it
        self._started.add_done_callback(lambda future: future.exception())
        self._stopping: asyncio.Task[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self.running = False

    # --- starting

    async def start(self) -> None:
        """Start all workers, and wait until they are ready.

        Raises:
            PoolStartError: why they can't be started. Nothing is left then.
        """
        try:
            await self._prepare()
            await asyncio.wait_for(asyncio.shield(self._started), options.START_TIMEOUT)
            self.running = True
        except BaseException as exc:
            error = exc
            if isinstance(exc, TimeoutError):
                error = PoolStartError(
                    f"the workers were not ready within {options.START_TIMEOUT:.0f} s")
            elif not isinstance(exc, (PoolStartError, asyncio.CancelledError)):
                error = PoolStartError(f"the pool can't be started: {exc!r}")
                error.__cause__ = exc
            await asyncio.shield(self.stop_soon(error))
            raise error from error.__cause__

    async def _prepare(self) -> None:
        if self.settings.initializer is not None:
            segments: list[Any] = []
            functions = serializers.for_functions(self.settings.func_pickle)
            self.initializer = functions.dumps(self.settings.initializer, segments), segments
        await self._listen()
        nanny = await self._launch()
        for _ in range(self.settings.num_workers):
            self._spawn(nanny)

    async def _listen(self) -> None:
        backlog = min(4096, self.settings.num_workers + 16)
        if hasattr(socket, "AF_UNIX"):
            self._folder = tempfile.mkdtemp(prefix="distex-")  # only this user may enter
            path = str(Path(self._folder, "pool"))
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            sock.listen(backlog)
            sock.setblocking(False)
            self._server = await self.loop.create_unix_server(
                self._meet, sock=sock, backlog=backlog)
        else:  # Windows; untested
            self._server = await self.loop.create_server(
                self._meet, "127.0.0.1", 0, backlog=backlog)
            self._address = self._server.sockets[0].getsockname()[:2]

    def _meet(self) -> Any:
        connection = StreamConnection(self.loop, Greeter(self), HELLO_LIMIT_BYTES)
        connection.on_violation = lambda exc: self._count_violation(connection, exc)
        return connection

    def _count_violation(self, connection: Any, exc: Exception) -> None:
        self.violations += 1
        logger.warning("distex: a connection was dropped: %s", exc)

    def drop(self, connection: Any, reason: str) -> None:
        """Drop a connection that is not one of the pool's."""
        self._count_violation(connection, ProtocolError(reason))
        connection.abort()

    async def _launch(self) -> NannyRecord:
        record = NannyRecord(self)
        self._nannies.append(record)
        record.nanny = await local.launch(record)
        record.send(messages.Configure(
            wire=options.WIRE_VERSION,
            token=self._token,
            unix_path=str(Path(self._folder, "pool")) if self._folder else "",
            host=self._address[0],
            port=self._address[1],
            sys_path=[entry or os.getcwd() for entry in sys.path],
            argv=list(sys.argv),
            loop_type=self.settings.loop_type,
            func_pickle=self.settings.func_pickle,
            data_pickle=self.settings.data_pickle,
            spin=self.settings.spin,
        ))
        return record

    def _spawn(self, nanny: NannyRecord) -> None:
        record = WorkerRecord(self._next_number, nanny, self)
        self._next_number += 1
        self._workers[record.number] = nanny.workers[record.number] = record
        nanny.send(messages.Spawn(record.number))

    def recognise(self, hello: messages.Hello) -> WorkerRecord:
        """The worker that says hello; ProtocolError if it is none of ours."""
        record = self._check_token(hello)
        if record.connected_once:
            raise ProtocolError(f"worker {hello.number} is here already")
        record.connected_once = True
        return record

    def _check_token(self, hello: messages.Hello) -> WorkerRecord:
        if not hmac.compare_digest(hello.token, self._token):
            raise ProtocolError("it does not know the pool's token")
        record = self._workers.get(hello.number)
        if record is None:
            raise ProtocolError(f"there is no worker {hello.number}")
        return record

    def take_lane(self, hello: messages.Hello, connection: Any) -> None:
        """A worker's second connection: its socket, without the loop."""
        record = self._check_token(hello)
        if record.link is None or record.link.lane is not None:
            raise ProtocolError(f"worker {hello.number} was not asked for a lane")
        fd = os.dup(connection.transport.get_extra_info("socket").fileno())
        connection.abort()
        os.set_blocking(fd, True)
        record.link.lane = Lane(fd, self.dispatcher.codec, record, self.settings.spin)

    def worker_ready(self, record: WorkerRecord, ready: messages.Ready) -> None:
        """The worker's initializer is done."""
        if ready.error is not None:
            cause = load_exception(ready.error, record)
            self.start_failed(f"the initializer failed: {ready.error[0]}", cause)
            return
        record.ready = True
        self._deaths_in_series = 0
        record.link = self.dispatcher.connect(record.connection, record)
        record.connection.handler = record.link
        if not self._started.done() and all(r.ready for r in self._workers.values()):
            self._started.set_result(None)

    def start_failed(self, reason: str, cause: BaseException | None = None) -> None:
        """Workers can't be had: the pool is no use."""
        error = PoolStartError(reason)
        error.__cause__ = cause
        if not self._started.done():
            self._started.set_exception(error)
        elif self._stopping is None:
            logger.error("distex: the pool is broken: %s", reason)
            self.stop_soon(error)

    # --- watching

    def nanny_says(self, nanny: NannyRecord, message: Any) -> None:
        """A nanny has a message."""
        if isinstance(message, messages.Failed):
            self.start_failed(f"the nanny on {nanny.host} can't start workers: {message.reason}")
            return
        record = self._workers.get(message.number)
        if record is None:
            return
        record.pid = message.pid
        if isinstance(message, messages.Exited):
            record.exited = message
            self.worker_changed(record)

    def nanny_gone(self, nanny: NannyRecord) -> None:
        """A nanny's stream has ended; its workers die with it."""
        for record in list(nanny.workers.values()):
            self._bury(record)
        if self._stopping is not None:
            return
        if not self._started.done():
            self.start_failed(f"the nanny on {nanny.host} ended before its workers were ready")
            return
        logger.warning("distex: the nanny on %s is gone and is started anew", nanny.host)
        self._nannies.remove(nanny)
        self._background(self._replace_nanny(nanny))

    async def _replace_nanny(self, old: NannyRecord) -> None:
        if old.nanny is not None:
            await old.nanny.wait(EXIT_GRACE)
        await self._back_off()
        nanny = await self._launch()
        for _ in range(self.settings.num_workers):
            self._spawn(nanny)

    def worker_changed(self, record: WorkerRecord) -> None:
        """Its connection or its process is gone: wait a moment for the other, which tells more."""
        if record.exited is not None and record.connection is None:
            self._bury(record)
        elif record.timer is None:
            record.timer = self.loop.call_later(EXIT_GRACE, self._bury, record)

    def _bury(self, record: WorkerRecord) -> None:
        """The worker is gone for good."""
        if record.timer is not None:
            record.timer.cancel()
        if self._workers.pop(record.number, None) is None:
            return
        del record.nanny.workers[record.number]
        if record.connection is not None:
            record.connection.abort()
        if record.exited is None:  # it may still be there, cut off
            record.nanny.send(messages.Kill(record.number, signal.SIGTERM))
        if record.link is not None:
            started = record.exited.started_id if record.exited is not None else None
            record.link.lose(started, lambda task: self._lost(record, task))
        if self._stopping is not None:
            return
        if not record.ready:
            self._deaths_in_series += 1
            reason = f"{record} was not ready yet when it was lost: {record.obituary()}"
            if not self._started.done() or self._deaths_in_series > options.RESPAWN_LIMIT:
                self.start_failed(reason)
                return
        if not record.nanny.gone:
            logger.warning("distex: %s is lost: %s", record, record.obituary())
            self._background(self._replace_worker(record.nanny))

    async def _replace_worker(self, nanny: NannyRecord) -> None:
        await self._back_off()
        if not nanny.gone and self._stopping is None:
            self._spawn(nanny)

    async def _back_off(self) -> None:
        if self._deaths_in_series:
            await asyncio.sleep(options.RESPAWN_DELAY * 2 ** (self._deaths_in_series - 1))

    def _background(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.start_failed(f"a worker can't be replaced: {task.exception()!r}")

    def _lost(self, record: WorkerRecord, task: Task) -> WorkerLost:
        exitcode = record.exited.exitcode if record.exited is not None else None
        return WorkerLost(
            f"{record} was lost while it ran {task.name}: {record.obituary()}. "
            "The pool goes on; submit the task again if it is safe to run it twice",
            record.nanny.host, record.pid, exitcode, task.name)

    # --- stopping

    def stop_soon(self, error: BaseException | None = None) -> "asyncio.Task[None]":
        """Begin to end the pool, if that has not begun yet; what is to be awaited for the end."""
        if self._stopping is None:
            self._stopping = self.loop.create_task(self._end(error))
        return self._stopping

    async def drained(self) -> None:
        """Wait until no task waits or runs, or the pool is being ended."""
        while self.dispatcher.outstanding and self._stopping is None:
            if self._drain is None:
                self._drain = self.loop.create_future()
                self.dispatcher.on_drained = self._wake_drained
            await asyncio.shield(self._drain)

    def _wake_drained(self) -> None:
        if self._drain is not None:
            self._drain.set_result(None)
            self._drain = None

    async def stop(self, drain: bool = True, cancel_queued: bool = False) -> None:
        """End the pool.

        Args:
            drain: let tasks that run, or wait, come to their end first.
            cancel_queued: cancel those that no worker has yet.
        """
        with contextlib.suppress(PoolStartError):
            await asyncio.shield(self._started)
            if cancel_queued:
                self.dispatcher.cancel_queued()
            if drain:
                await self.drained()
        await asyncio.shield(self.stop_soon())

    async def _end(self, error: BaseException | None) -> None:
        """Take everything down. Afterwards no task is pending, and nothing is left anywhere."""
        self._wake_drained()
        if not self._started.done():
            self._started.set_exception(
                error if isinstance(error, PoolStartError)
                else PoolStartError("the pool was shut down before it was ready"))
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None:
            self._server.close()
        for greeter in list(self.strangers):
            greeter.connection.abort()
        grace = options.STOP_TIMEOUT if error is None and not self.dispatcher.outstanding else 0.0
        for record in self._workers.values():
            if record.link is not None and grace:
                record.link.say_goodbye()
        self.dispatcher.close(self._closed_error(error))
        for nanny in self._nannies:
            nanny.send(messages.Stop(grace))
        for nanny in self._nannies:
            if nanny.nanny is not None:
                await nanny.nanny.wait(grace + EXIT_GRACE)
                nanny.nanny.stream.close()
        for record in list(self._workers.values()):
            if record.connection is not None:
                record.connection.abort()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.initializer = (b"", [])
        self.running = False
        await asyncio.sleep(0)  # let transports close

    @staticmethod
    def _closed_error(error: BaseException | None) -> Callable[[Task], BaseException]:
        def make(task: Task) -> BaseException:
            if isinstance(error, PoolStartError):
                again = PoolStartError(*error.args)
                again.__cause__ = error.__cause__
                return again
            return PoolClosed(f"the pool was ended before {task.name} was done")

        return make

    def kill(self) -> None:
        """End every process at once, when there is no loop any more to do it in order."""
        for nanny in self._nannies:
            if nanny.nanny is not None:
                nanny.nanny.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def started(self) -> "asyncio.Future[None]":
        """Done once the workers are ready, or can't be started."""
        return self._started

    @property
    def total_workers(self) -> int:
        """Workers that are ready."""
        return sum(record.ready for record in self._workers.values())

    def links(self) -> list[WorkerLink]:
        """The workers that are ready, in the order in which they were started."""
        records = sorted(self._workers.values(), key=lambda record: record.number)
        return [record.link for record in records if record.link is not None]
