"""The supervisor: starts, watches, replaces and stops nannies and workers, on the pool's loop.

    Launcher ──> nanny ──fork──> worker ──connects back──> Listener, Handshake ──> Dispatcher
                   │                                           │
                   └─Started, Exited──> Supervisor <───────────┘ Hello, Ready, connection lost
                                            ▲
     hosts and workers that ──> Membership ─┘
     come and go                    ▲
                                 Scaling: how many workers on this machine
"""

import asyncio
import hmac
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from distex import machine, options
from distex._core.codec import Codec
from distex._core.dispatch import Dispatcher, WorkerLink
from distex._core.lane import Lane
from distex._core.ring import peer_process
from distex._core.task import Task
from distex.cluster.everywhere import Everywhere
from distex.cluster.listener import Listener
from distex.cluster.loop_calls import call_on_loop
from distex.cluster.losses import own_copy, start_error, worker_lost
from distex.cluster.membership import Membership
from distex.cluster.recovery import Recovery
from distex.cluster.scaling import Scaling
from distex.cluster.settings import Settings
from distex.cluster.starting import StartWatch
from distex.cluster.state import HostRecord, Statistics, WorkerRecord
from distex.errors import HostError, PoolClosed, PoolStartError, ProtocolError, WorkerLost
from distex.remote_errors import load_exception
from distex.wire import messages, proxies, serializers, versions
from distex.wire.output import OutputLine, sink

logger = logging.getLogger("distex")
T = TypeVar("T")

EXIT_GRACE = 2.0  # seconds between the two signs of a worker's end: its connection, its process


class Supervisor:
    """The workers of one pool.

    Everything happens on the loop that is running when it is made.

    Args:
        settings: what is wanted.
    """

    def __init__(self, settings: Settings) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.settings = settings
        data = serializers.for_data(settings.data_pickle)
        self.dispatcher: Dispatcher = Dispatcher(
            self.loop, Codec(data.dumps, data.loads, data.keeps_types), settings.qsize,
            settings.spin, settings.max_tasks_per_child, settings.max_pending,
            settings.waits_when_full)
        self.workers_lost: int = 0
        self.workers_recycled: int = 0
        self.tasks_lost: int = 0
        self.initializer: tuple[bytes, list[Any]] = (b"", [])
        # pickles an object with all that it needs of __main__; the pool's home replaces it
        self.pack: Callable[[Any, list[Any]], bytes] = serializers.for_functions(
            settings.func_pickle).dumps
        self.membership: Membership = Membership(self)
        self.scaling: Scaling = Scaling(self, self.membership)
        self.everywhere: Everywhere = Everywhere(self)
        self.recovery: Recovery = Recovery(self, self.membership)
        self.start_watch: StartWatch = StartWatch(self, self.recovery, settings.start_timeout)
        self.listener: Listener = Listener(
            self.loop, self, settings.localhost, settings.localport, settings.tcp,
            self.membership.accept_nanny, settings.hash_seed)
        self.hosts: list[HostRecord] = [
            HostRecord(self, launcher) for launcher in settings.launchers]
        self._token = secrets.token_bytes(32)
        self._sink = sink(settings.output)
        self._workers: dict[int, WorkerRecord] = {}
        self._next_number = 1
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: asyncio.Future[None] = self.loop.create_future()
        # a failure is told to whoever waits; that nobody does is no reason to log it
        self._started.add_done_callback(lambda future: future.exception())
        self._stopping: asyncio.Task[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self.running: bool = False

    # --- starting

    async def start(self) -> None:
        """Start all workers, and wait until they are ready.

        Raises:
            PoolStartError: why they can't be started. Nothing is left then.
            PoolClosed: the pool was ended before they were ready. Nothing is left then either.
        """
        try:
            await self._prepare()
            self.check_ready()
            await asyncio.shield(self._started)
        except BaseException as exc:
            error = exc
            if isinstance(exc, HostError):
                error = PoolStartError(str(exc))
                error.__cause__ = exc
            elif not isinstance(exc, (PoolStartError, PoolClosed, asyncio.CancelledError)):
                error = PoolStartError(f"the pool can't be started: {exc!r}")
                error.__cause__ = exc
            await asyncio.shield(self.stop_soon(error))
            raise error from error.__cause__

    async def _prepare(self) -> None:
        if self.settings.initializer is not None:
            segments: list[Any] = []
            self.initializer = self.pack(self.settings.initializer, segments), segments
        self.raise_file_limit()
        if self.settings.may_be_joined:
            await self.listener.open_tcp()
        try:
            async with asyncio.TaskGroup() as launches:
                for host in self.hosts:
                    self.keep(launches.create_task(self.launch(host)))
        except BaseExceptionGroup as group:  # the others have been cancelled
            raise group.exceptions[0] from group.exceptions[0].__cause__

    @property
    def expected_workers(self) -> int:
        """Workers that there should be, as far as is known."""
        return sum(1 if host.wanted is None else host.wanted for host in self.hosts)

    def raise_file_limit(self) -> None:
        """See that there can be files open for all workers; OSError: there can't."""
        machine.raise_file_limit(3 * self.expected_workers)

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Have a task cancelled, and waited for, if the pool ends before it does."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until_stopped(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as a task that the pool's end cancels; that is PoolClosed then."""
        if self.is_stopping:
            coroutine.close()
        self.check_not_stopping()
        task = self.loop.create_task(coroutine)
        self.keep(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self.is_stopping:
                raise PoolClosed("the pool was ended before that was done") from None
            raise

    async def launch(self, host: HostRecord) -> None:
        """Start a nanny on the host, which then starts its workers; HostError: why it can't be."""
        assert host.launcher is not None
        host.gone = host.unusable = ""
        host.nanny = None
        host.is_serving = host.has_spawned = False
        self.start_watch.begin_reports()
        host.nanny = await host.launcher.launch(host, self.listener)
        if host.is_serving:  # its message was here sooner
            self._configure(host)
        elif host.unusable:
            self.recovery.end_nanny(host)
        else:
            self.start_watch.launched(host)

    def _configure(self, host: HostRecord) -> None:
        """The nanny serves: tell it what its workers need to know, and have them started."""
        assert host.nanny is not None
        host.send(messages.Configure(
            token=self._token,
            unix_path=host.nanny.unix_path,
            host=host.nanny.address[0],
            port=host.nanny.address[1],
            modules=self.settings.modules,
            versions=versions.needed(
                self.settings.func_pickle, self.settings.data_pickle),
            output=self.settings.output is not None or not host.nanny.prints,
            argv=[os.fsencode(str(argument)) for argument in sys.argv],
            loop_type=self.settings.loop_type,
            func_pickle=self.settings.func_pickle,
            data_pickle=self.settings.data_pickle,
            spin=self.settings.spin,
            shares_memory=host.is_local,
            authkey=proxies.authkey(),
        ))
        self.fill(host)

    def fill(self, host: HostRecord, successors: int = 0) -> None:
        """Have as many workers started on the host as it lacks; so many of them take the place of
        others that were ready."""
        if self._stopping is not None or host.nanny is None:  # launch() is about to give it
            return
        assert host.wanted is not None
        if not host.nanny.is_reachable():
            self.recovery.reopen(host, successors)
            return
        for n in range(host.wanted - len(host.staying)):
            worker = WorkerRecord(self._next_number, host, succeeds=n < successors)
            self._next_number += 1
            self._workers[worker.number] = host.workers[worker.number] = worker
            host.send(messages.Spawn(worker.number, host.nanny.unix_path))
            self.start_watch.spawned(worker)

    def authenticate(self, hello: messages.Hello) -> WorkerRecord | None:
        """The worker that says hello; None: it is not wanted any more; ProtocolError: it is none of
        ours."""
        record = self._check_token(hello)
        if record is None:
            return None
        if record.said_hello:
            raise ProtocolError(f"worker {hello.number} is here already")
        record.said_hello = True
        self.start_watch.connected(record)
        return record

    def _check_token(self, hello: messages.Hello) -> WorkerRecord | None:
        if not hmac.compare_digest(hello.token, self._token):
            raise ProtocolError("it does not know the pool's token")
        record = self._workers.get(hello.number)
        if record is None and not 0 < hello.number < self._next_number:
            raise ProtocolError(f"there is no worker {hello.number}")
        return record

    def attach_lane(self, hello: messages.Hello, connection: Any) -> None:
        """A worker's second connection: its socket, without the loop."""
        record = self._check_token(hello)
        # a link that is lost already would keep the lane
        if record is None or self._stopping is not None:
            connection.abort()
            return
        if (record.link is None or record.link.lane is not None
                or not record.host.is_local):
            raise ProtocolError(f"worker {hello.number} was not asked for a lane")
        sock = connection.transport.get_extra_info("socket")
        if sock is None:
            raise ProtocolError(f"the lane of worker {hello.number} is no socket")
        fd, peer = os.dup(sock.fileno()), peer_process(sock)
        connection.abort()
        os.set_blocking(fd, True)
        record.link.lane = Lane(fd, peer, self.dispatcher.codec, record, self.settings.spin)

    def on_worker_ready(self, record: WorkerRecord, ready: messages.Ready) -> None:
        """The worker's initializer is done."""
        if record.gone.done():  # just now
            return
        if ready.error is not None:
            record.host.unfit = True
            record.cause = load_exception(ready.error, record)
            record.failure = f"its initializer failed: {ready.error[0]}"
            self.forget_worker(record)
            return
        record.ready = True
        self.start_watch.forget(record)
        self.recovery.on_worker_ready(record)
        record.link = self.dispatcher.connect(
            record.connection, record, record.host.machine, self.everywhere.first_tasks(record))
        record.connection.handler = record.link
        if self.settings.spin and record.host.is_local:
            record.connection.enable_polling()
        self.check_ready()
        self.membership.check_complete(record.host)

    def check_ready(self) -> None:
        """Say so once all workers that were asked for at first are ready."""
        if not self._started.done() and all(
                host.is_complete for host in self.hosts if host.launcher is not None):
            for host in self.hosts:
                if host.is_complete:
                    host.had = host.wanted
            self.running = True
            self._started.set_result(None)
            if self.settings.max_memory_per_child:
                self.keep(self.loop.create_task(self._watch_memory()))

    def start_failed(self, reason: str, cause: BaseException | None = None) -> None:
        """Tell those who wait for the pool to be ready that it can't be."""
        if not self._started.done():
            self._started.set_exception(start_error(reason, cause))

    def give_up(self, reason: str, cause: BaseException | None = None) -> None:
        """End a running pool that can have no workers; only recovery.py decides that."""
        if self._stopping is None:
            logger.error("distex: the pool is broken: %s", reason)
            self.stop_soon(start_error(reason, cause))

    # --- watching

    def on_nanny_message(self, host: HostRecord, message: Any) -> None:
        """A nanny has a message."""
        if isinstance(message, messages.NannyHello):
            refusal = messages.refusal(message)
            if refusal is not None:
                host.unfit = True
                self.recovery.on_nanny_failed(host, refusal)
                return
            self.start_watch.forget(host)
            host.machine.cpus = message.cpus
            if host.wanted is None:
                host.wanted = message.cpus
                try:
                    self.raise_file_limit()
                except OSError as exc:
                    self.recovery.on_nanny_failed(host, f"there is no room for {host.name}: {exc}")
                    return
            if host.launcher is None:
                self.membership.on_nanny_joined(host, message)
            host.is_serving = True
            if host.nanny is not None:
                self._configure(host)
            return
        if isinstance(message, messages.Printed):
            self._print(host, message)
            return
        if isinstance(message, messages.Failed) and not message.number:
            host.unfit = not message.again
            self.recovery.on_nanny_failed(
                host, f"the nanny on {host.name} can't start workers: {message.reason}")
            return
        if isinstance(message, messages.Leaving):
            self.membership.on_nanny_leaving(host)
            return
        if isinstance(message, messages.Memory):
            for number, memory in message.resident.items():
                if number in host.workers:
                    host.workers[number].memory = memory
            return
        worker = host.workers.get(message.number)
        if worker is None:
            return
        if isinstance(message, messages.Failed):
            worker.failure = message.reason
            self.forget_worker(worker)
            return
        if isinstance(message, messages.Withdrawn):
            if worker.link is not None:
                worker.link.on_withdrawn(
                    message.last, message.started, -1 if message.item is None else message.item)
            return
        worker.pid = message.pid
        self.start_watch.runs(worker)
        if isinstance(message, messages.Exited):
            worker.exited = message
            self.on_worker_change(worker)

    def count_drop(self, exc: Exception) -> None:
        """Count a connection that was dropped."""
        self.listener.count_drop(exc)

    def _print(self, host: HostRecord, printed: messages.Printed) -> None:
        """A worker has printed something."""
        stream = "stderr" if printed.stream == 2 else "stdout"
        for text in printed.lines.decode(errors="replace").split("\n"):
            call_on_loop(self.loop, "the function of Pool(output=...)", self._sink,
                         OutputLine(host.name, printed.pid, stream, text))

    def on_worker_exhausted(self, record: WorkerRecord) -> None:
        """It has got all the tasks that it is for."""
        self.membership.recycle(record)

    async def _watch_memory(self) -> None:
        """Replace workers that use too much."""
        while True:
            await asyncio.sleep(options.MEMORY_INTERVAL)
            try:
                for record in self.workers():
                    if (record.resident or 0) > self.settings.max_memory_per_child:
                        self.membership.recycle(record)
            except Exception:  # no files are to be had just now, say
                logger.exception("distex: the memory of workers can't be read")

    def on_nanny_lost(self, host: HostRecord) -> None:
        """A nanny's stream has ended; its workers die with it."""
        self.start_watch.forget(host)
        if not host.is_serving or not all(worker.ready for worker in host.workers.values()):
            host.failures_in_series += 1
        for worker in list(host.workers.values()):
            self.forget_worker(worker)
        if self._stopping is not None or host.leaving or self.membership.drop_joined(host):
            return
        self.recovery.on_nanny_lost(host)

    def on_worker_change(self, record: WorkerRecord) -> None:
        """Its connection or its process is gone: wait a moment for the other, which tells more."""
        if record.exited is not None and record.connection is None:
            self.forget_worker(record)
        elif record.timer is None:
            record.timer = self.loop.call_later(EXIT_GRACE, self.forget_worker, record)

    def expect_leaver(self) -> None:
        """See Listener.expect_leaver()."""
        self.listener.expect_leaver()

    def end_worker(self, record: WorkerRecord, number: int) -> None:
        """Have the nanny send a signal to a worker that ends it."""
        record.host.send(messages.Kill(record.number, number))
        if not record.said_hello:
            self.expect_leaver()

    def forget_worker(self, record: WorkerRecord) -> None:
        """The worker is gone for good."""
        if record.timer is not None:
            record.timer.cancel()
        self.start_watch.forget(record)
        if self._workers.pop(record.number, None) is None:
            return
        del record.host.workers[record.number]
        if record.connection is not None:
            record.connection.abort()
        if record.exited is None:  # it may still be there, cut off
            self.end_worker(record, signal.SIGTERM)
        if record.link is not None:
            exited = record.exited
            record.link.lose(
                exited.started_id if exited is not None else None,
                lambda task: self._task_lost(record, task),
                exited.item if exited is not None else -1)
        if not record.gone.done():
            record.gone.set_result(None)
        self.everywhere.on_change()
        if self._stopping is not None or record.leaving or record.host.leaving:
            return
        if not record.revoked:
            self._report_lost(record)
        self.recovery.on_worker_lost(record)

    def refill(self, host: HostRecord) -> None:
        """Have the host's workers completed."""
        self.recovery.refill(host)

    def _report_lost(self, record: WorkerRecord) -> None:
        """Count the loss, and tell the user's function."""
        self.workers_lost += 1
        if self.settings.on_worker_lost is not None:
            call_on_loop(
                self.loop, "on_worker_lost", self.settings.on_worker_lost, worker_lost(record))

    def _task_lost(self, record: WorkerRecord, task: Task) -> WorkerLost:
        self.tasks_lost += 1
        return worker_lost(record, task)

    # --- stopping

    @property
    def is_stopping(self) -> bool:
        """Whether the pool is being ended, or has ended."""
        return self._stopping is not None

    def check_not_stopping(self) -> None:
        """Raise PoolClosed if the pool is being ended, or has ended."""
        if self.is_stopping:
            raise PoolClosed("the pool was ended before that")

    def stop_soon(self, error: BaseException | None = None) -> "asyncio.Task[None]":
        """Begin to end the pool, if that has not begun yet; what is to be awaited for the end.
        An end that was cut off, as all tasks of the loop were cancelled, begins once more."""
        if self._stopping is None or self._stopping.cancelled():
            self._stopping = self.loop.create_task(self._end(error))
        return self._stopping

    async def drained(self) -> None:
        """Wait until no task waits or runs, or none of them can be done, or the pool is being
        ended."""
        while self.dispatcher.outstanding and self.can_work and self._stopping is None:
            if self._drain is None:
                self._drain = self.loop.create_future()
                self.dispatcher.on_drained = self._wake_drained
            await asyncio.shield(self._drain)

    @property
    def can_work(self) -> bool:
        """Whether there are workers, or some are to come."""
        return bool(self._workers) or any(host.wanted != 0 for host in self.hosts)

    def check_drained(self) -> None:
        """A host is gone: who waits for tasks to be done may do so in vain."""
        self.dispatcher.on_drained = None
        self._wake_drained()
        self.everywhere.on_change()

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
        if cancel_queued:
            self.dispatcher.cancel_queued()
        self.dispatcher.inbox.handle_all()
        if drain:
            if self.dispatcher.outstanding:  # else there is nothing to start for
                await asyncio.wait([self._started])
            if not self._started.done() or self._started.exception() is None:
                await self.drained()
        await asyncio.shield(self.stop_soon())

    async def _end(self, error: BaseException | None) -> None:
        """Take everything down. Afterwards no task is pending, and nothing is left anywhere."""
        self._wake_drained()
        self.start_watch.close()
        if not self._started.done():
            self._started.set_exception(
                error if isinstance(error, PoolStartError)
                else PoolClosed("the pool was ended before it was ready"))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:  # a nanny that was being launched is taken down
            await asyncio.wait(self._tasks)
        for launcher in self.settings.launchers:
            launcher.give_up()
        await self.listener.close()
        idle = error is None and self.running and not self.dispatcher.outstanding
        grace = options.STOP_TIMEOUT if idle else 0.0
        for record in self._workers.values():
            if record.link is not None and grace:
                record.link.say_goodbye()
            elif record.link is None:  # it would not hear of it before it is ready
                record.host.send(messages.Kill(record.number, signal.SIGTERM))
        self.dispatcher.close(self._closed_error(error))
        for host in self.hosts:
            host.send(messages.Stop(grace))
        nannies = [host.nanny for host in self.hosts if host.nanny is not None]
        await asyncio.gather(
            *(nanny.wait(grace + EXIT_GRACE) for nanny in nannies), return_exceptions=True)
        for nanny in nannies:
            nanny.stream.close()
        for record in list(self._workers.values()):
            if record.connection is not None:
                record.connection.abort()
        self.listener.remove()
        self.initializer = (b"", [])
        self.running = False
        await self.listener.close_connections()

    @staticmethod
    def _closed_error(error: BaseException | None) -> Callable[[Task], BaseException]:
        def make(task: Task) -> BaseException:
            if isinstance(error, PoolStartError):
                return own_copy(error)
            return PoolClosed(f"the pool was ended before {task.name} was done")

        return make

    def abort(self) -> None:
        """End all at once, where an end in good order was cut off."""
        self.dispatcher.close(self._closed_error(None))
        self.kill()

    def kill(self) -> None:
        """End every process at once, when there is no loop any more to do it in order."""
        for launcher in self.settings.launchers:
            launcher.give_up()
        for host in self.hosts:
            if host.nanny is not None:
                host.nanny.kill()
        self.listener.remove()

    def statistics(self) -> Statistics:
        """What has happened so far; from any thread."""
        dispatcher = self.dispatcher
        return Statistics(
            tasks_done=dispatcher.tasks_done + sum(link.tasks_done for link in dispatcher.links),
            tasks_lost=self.tasks_lost,
            tasks_retried=dispatcher.tasks_retried,
            workers_lost=self.workers_lost,
            workers_recycled=self.workers_recycled,
            connections_dropped=self.listener.dropped,
        )

    async def wait_started(self) -> None:
        """Wait for the workers. A failure is raised only when nothing of the pool is left. Others
        may wait too, so cancelling the wait leaves the pool alone."""
        await asyncio.wait([self._started])
        error = self._started.exception()
        if error is not None:
            await asyncio.shield(self.stop_soon())
            raise own_copy(error)

    @property
    def total_workers(self) -> int:
        """Workers that are ready for tasks."""
        return sum(record.ready and not record.leaving for record in self.workers())

    def workers(self) -> list[WorkerRecord]:
        """All workers, in the order in which they were started. May be called from any thread."""
        return sorted(self._workers.values(), key=lambda record: record.number)

    def links(self) -> list[WorkerLink]:
        """The workers that are ready for tasks, in the order in which they were started."""
        return [record.link for record in self.workers()
                if record.link is not None and not record.leaving]
