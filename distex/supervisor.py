"""The part of a running pool that lives on its loop: starts, watches, replaces and stops workers.

    Launcher ──> nanny ──fork──> worker ──connects back──> Greeter ──> Dispatcher
                   │                                          │
                   └─Started, Exited──> Supervisor <──────────┘ Hello, Ready, connection lost
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
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distex import messages, options, serializers
from distex._core.codec import Codec
from distex._core.dispatch import Dispatcher, Task, WorkerLink
from distex._core.framing import HELLO_LIMIT_BYTES
from distex._core.lane import Lane
from distex._core.protocol import StreamConnection
from distex.errors import HostError, ProtocolError, load_exception
from distex.failures import PoolClosed, PoolStartError, WorkerLost
from distex.greeter import Greeter
from distex.launch.stream import Launcher
from distex.records import HostRecord, WorkerRecord

logger = logging.getLogger("distex")

EXIT_GRACE = 2.0  # seconds between the two signs of a worker's end: its connection, its process


@dataclass(frozen=True)
class Settings:
    """What a pool was asked for, checked."""

    launchers: tuple[Launcher, ...]  # one for each host
    qsize: int = 2
    initializer: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    loop_type: int = options.LoopType.default
    func_pickle: int = options.PickleType.cloudpickle
    data_pickle: int = options.PickleType.pickle
    spin: float = 0.0


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
        self._token = secrets.token_bytes(32)
        self._folder: str | None = None
        self._server: asyncio.AbstractServer | None = None
        self._address: tuple[str, int] = ("", 0)
        self._hosts = [HostRecord(self, launcher) for launcher in settings.launchers]
        self._workers: dict[int, WorkerRecord] = {}
        self._next_number = 1
        self._connections: set[Any] = set()
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
            await asyncio.wait_for(asyncio.shield(self._started), self._start_timeout)
        except BaseException as exc:
            error = exc
            if isinstance(exc, TimeoutError):
                error = PoolStartError(
                    f"the workers were not ready within {self._start_timeout:.0f} s")
            elif isinstance(exc, HostError):
                error = PoolStartError(str(exc))
                error.__cause__ = exc
            elif not isinstance(exc, (PoolStartError, asyncio.CancelledError)):
                error = PoolStartError(f"the pool can't be started: {exc!r}")
                error.__cause__ = exc
            await asyncio.shield(self.stop_soon(error))
            raise error from error.__cause__

    @property
    def _start_timeout(self) -> float:
        return options.START_TIMEOUT + options.START_TIMEOUT_PER_WORKER * self.expected_workers

    async def _prepare(self) -> None:
        if self.settings.initializer is not None:
            segments: list[Any] = []
            functions = serializers.for_functions(self.settings.func_pickle)
            self.initializer = functions.dumps(self.settings.initializer, segments), segments
        options.raise_file_limit(64 + 3 * self.expected_workers)
        await self._listen()
        try:
            async with asyncio.TaskGroup() as launches:
                for host in self._hosts:
                    task = launches.create_task(self._launch(host))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except BaseExceptionGroup as group:  # the others have been cancelled
            raise group.exceptions[0] from group.exceptions[0].__cause__

    @property
    def expected_workers(self) -> int:
        """Workers that there should be, as far as is known."""
        return sum(host.wanted or 1 for host in self._hosts)

    async def _listen(self) -> None:
        backlog = min(4096, self.expected_workers + 16)
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
        connection.on_lost = self._connections.discard
        self._connections.add(connection)
        return connection

    def _count_violation(self, connection: Any, exc: Exception) -> None:
        self.violations += 1
        logger.warning("distex: a connection was dropped: %s", exc)

    def drop(self, connection: Any, reason: str) -> None:
        """Drop a connection that is not one of the pool's."""
        self._count_violation(connection, ProtocolError(reason))
        connection.abort()

    async def _launch(self, host: HostRecord) -> None:
        host.gone = ""
        host.nanny = None
        host.serves = False
        host.nanny = await host.launcher.launch(host, self._unix_path, self._meet)
        if host.serves:  # its message was here sooner
            self._configure(host)

    @property
    def _unix_path(self) -> str:
        return str(Path(self._folder, "pool")) if self._folder else ""

    def _configure(self, host: HostRecord) -> None:
        """The nanny serves: tell it what its workers need to know, and have them started."""
        assert host.nanny is not None
        host.send(messages.Configure(
            token=self._token,
            unix_path=host.nanny.unix_path,
            host=self._address[0],
            port=self._address[1],
            sys_path=[entry or os.getcwd() for entry in sys.path] if host.launcher.is_local else [],
            argv=list(sys.argv),
            loop_type=self.settings.loop_type,
            func_pickle=self.settings.func_pickle,
            data_pickle=self.settings.data_pickle,
            spin=self.settings.spin,
        ))
        assert host.wanted is not None
        for _ in range(host.wanted - len(host.workers)):
            self._spawn(host)

    def _spawn(self, host: HostRecord) -> None:
        worker = WorkerRecord(self._next_number, host)
        self._next_number += 1
        self._workers[worker.number] = host.workers[worker.number] = worker
        host.send(messages.Spawn(worker.number))

    def recognise(self, hello: messages.Hello) -> WorkerRecord:
        """The worker that says hello; ProtocolError if it is none of ours."""
        record = self._check_token(hello)
        if record.said_hello:
            raise ProtocolError(f"worker {hello.number} is here already")
        record.said_hello = True
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
        if self._stopping is not None:  # the link is lost already, and would keep the lane
            connection.abort()
            return
        if (record.link is None or record.link.lane is not None
                or not record.host.launcher.is_local):
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
        record.host.deaths_in_series = 0
        record.link = self.dispatcher.connect(
            record.connection, record, record.host.launcher.is_local)
        record.connection.handler = record.link
        if self.settings.spin and record.host.launcher.is_local:
            record.connection.enable_polling()
        if not self._started.done() and all(
                host.wanted is not None and host.wanted <= len(host.workers)
                and all(worker.ready for worker in host.workers.values())
                for host in self._hosts):
            self.running = True
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

    def nanny_says(self, host: HostRecord, message: Any) -> None:
        """A nanny has a message."""
        if isinstance(message, messages.Serving):
            refusal = messages.refusal(message)
            if refusal is not None:
                self.start_failed(refusal)
                return
            if host.wanted is None:
                host.wanted = message.cpus
            host.serves = True
            if host.nanny is not None:
                self._configure(host)
            return
        if isinstance(message, messages.Failed):
            self.start_failed(f"the nanny on {host.name} can't start workers: {message.reason}")
            return
        worker = host.workers.get(message.number)
        if worker is None:
            return
        worker.pid = message.pid
        if isinstance(message, messages.Exited):
            worker.exited = message
            self.worker_changed(worker)

    def nanny_gone(self, host: HostRecord) -> None:
        """A nanny's stream has ended; its workers die with it."""
        if not all(worker.ready for worker in host.workers.values()):
            host.deaths_in_series += 1
        for worker in list(host.workers.values()):
            self._bury(worker)
        if self._stopping is not None:
            return
        if not self._started.done():
            self.start_failed(
                f"the nanny on {host.name} ended before its workers were ready: {host.gone}")
            return
        logger.warning("distex: the nanny on %s is gone and is started anew", host.name)
        self._background(self._replace_nanny(host))

    async def _replace_nanny(self, host: HostRecord) -> None:
        if host.nanny is not None:
            await host.nanny.wait(EXIT_GRACE)
        since = self.loop.time()
        while True:
            await self._back_off(host)
            try:
                await self._launch(host)
                return
            except HostError as exc:
                waited = self.loop.time() - since
                if not self._workers and waited > options.RECONNECT_TIMEOUT:
                    raise
                host.deaths_in_series += 1
                logger.warning("distex: %s; tried again in %.1f s", exc, self._delay(host))

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
        del record.host.workers[record.number]
        if record.connection is not None:
            record.connection.abort()
        if record.exited is None:  # it may still be there, cut off
            record.host.send(messages.Kill(record.number, signal.SIGTERM))
        if record.link is not None:
            started = record.exited.started_id if record.exited is not None else None
            record.link.lose(started, lambda task: self._lost(record, task))
        if self._stopping is not None:
            return
        host = record.host
        if not record.ready and not (host.gone and self._started.done()):
            host.deaths_in_series += 1
            reason = f"{record} was not ready yet when it was lost: {record.obituary()}"
            if not self._started.done() or host.deaths_in_series > options.RESPAWN_LIMIT:
                self.start_failed(reason)
                return
        if not host.gone:
            logger.warning("distex: %s is lost: %s", record, record.obituary())
            self._background(self._replace_worker(host))

    async def _replace_worker(self, host: HostRecord) -> None:
        await self._back_off(host)
        if not host.gone and self._stopping is None:
            self._spawn(host)

    async def _back_off(self, host: HostRecord) -> None:
        if host.deaths_in_series:
            await asyncio.sleep(self._delay(host))

    @staticmethod
    def _delay(host: HostRecord) -> float:
        delay: float = options.RESPAWN_DELAY * 2 ** min(host.deaths_in_series - 1, 30)
        return min(delay, options.RECONNECT_DELAY_MAX)

    def _background(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.start_failed(f"a worker can't be replaced: {task.exception()}", task.exception())

    def _lost(self, record: WorkerRecord, task: Task) -> WorkerLost:
        return WorkerLost(
            f"{record} was lost while it ran {task.name}: {record.obituary()}. "
            "The pool goes on; submit the task again if it is safe to run it twice",
            record.host.name, record.pid, record.exitcode, task.name)

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
        if self._tasks:  # a nanny that was being launched is taken down
            await asyncio.wait(self._tasks)
        if self._server is not None:
            self._server.close()
        for greeter in list(self.strangers):
            greeter.connection.abort()
        idle = error is None and self.running and not self.dispatcher.outstanding
        grace = options.STOP_TIMEOUT if idle else 0.0
        for record in self._workers.values():
            if record.link is not None and grace:
                record.link.say_goodbye()
            elif record.link is None:  # it would not hear of it before it is ready
                record.host.send(messages.Kill(record.number, signal.SIGTERM))
        self.dispatcher.close(self._closed_error(error))
        for host in self._hosts:
            host.send(messages.Stop(grace))
        nannies = [host.nanny for host in self._hosts if host.nanny is not None]
        await asyncio.gather(
            *(nanny.wait(grace + EXIT_GRACE) for nanny in nannies), return_exceptions=True)
        for nanny in nannies:
            nanny.stream.close()
        for record in list(self._workers.values()):
            if record.connection is not None:
                record.connection.abort()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.initializer = (b"", [])
        self.running = False
        await self._close_connections()

    async def _close_connections(self) -> None:
        """Close all that are open, those too that came in at the last moment, such as lanes."""
        deadline = self.loop.time() + EXIT_GRACE
        while self._connections and self.loop.time() < deadline:
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

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
        for host in self._hosts:
            if host.nanny is not None:
                host.nanny.kill()
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
