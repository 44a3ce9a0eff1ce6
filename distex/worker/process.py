"""A worker: a process with one event loop that connects to its pool and runs its tasks.

It runs the initializer first, then the tasks that the pool sends (see _core/execute.pyx).

    Hello ──> pool        who I am, and the token that proves it
    <── Welcome           the initializer
    Ready ──>             from here on tasks
"""

import asyncio
import contextlib
import functools
import inspect
import os
import socket
import ssl
import sys
from collections.abc import Awaitable
from typing import Any

from distex._core.codec import Codec
from distex._core.execute import Runner
from distex._core.framing import DEFAULT_LIMIT_BYTES
from distex._core.protocol import StreamConnection
from distex.errors import ProtocolError
from distex.machine import loop_factory
from distex.remote_errors import dump_exception
from distex.wire import serializers, versions
from distex.wire.messages import (
    Configure,
    Hello,
    Ready,
    Spawn,
    Unpacker,
    Welcome,
    decode_handshake,
    encode,
)
from distex.wire.proxies import use_authkey
from distex.worker import interrupts
from distex.worker.main_module import Loader, read_definition
from distex.worker.main_module import main as main_module
from distex.worker.status_page import NUMBERS

HELLO, READY, WELCOME, BYE, LANE = 1, 2, 7, 13, 14  # as in framing.pyx
LEAVE_TIMEOUT = 1.0  # seconds for coroutines that are still running when the worker has to go


def preload(config: Configure | None) -> None:
    """Import what a worker with this configuration will need; HostError if it does not fit."""
    import cloudpickle  # noqa: F401

    if config is not None:
        versions.check(config.versions)
        loop_factory(config.loop_type)
        serializers.for_functions(config.func_pickle)
        serializers.for_data(config.data_pickle)


class LaneRunner(Runner):
    """Runs what comes by the worker's lane; see _core/lane.pyx."""

    def __new__(cls, *args: Any) -> "LaneRunner":
        return super().__new__(cls)

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: Configure, number: int, page: Any
    ) -> None:
        data = serializers.for_data(config.data_pickle)
        dumps = serializers.for_data(0).dumps
        self.load = Loader(serializers.for_functions(config.func_pickle)).loads
        super().__init__(
            loop,
            Codec(data.dumps, Loader(data).loads, data.keeps_types),
            self.load,
            functools.partial(dump_exception, dumps=lambda exc: dumps(exc, None)),
            page,
            config.spin,
        )
        self.read_definition = read_definition
        self.define = main_module.define
        self.config = config
        self.number = number
        self.shared_page = page

    def in_fork(self) -> None:
        """A task has forked. The child is cut off from the pool, as two would answer and two would
        read what comes; it ends where the task ends."""
        if self.forked:
            return
        self.forked = True
        transport = self.connection.transport
        if transport is not None:
            nobody, self.kept_open = socket.socketpair()
            os.dup2(nobody.fileno(), transport.get_extra_info("socket").fileno(), False)
            nobody.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed, or another thread's
            self.loop.call_soon(os._exit, 0)

    def _hello(self, lane: bool) -> None:
        if self.config.shares_memory:
            self.connection.share_memory()
        self._say(HELLO, Hello(
            token=self.config.token, number=self.number, pid=os.getpid(), lane=lane))

    def _say(self, kind: int, message: Any) -> None:
        self.connection.write(kind, 0, 0, 0, encode(message))

    def connected(self, connection: Any) -> None:
        super().connected(connection)
        self._hello(lane=True)

    def disconnected(self, exc: Exception | None) -> None:
        self.cancel_all()  # the thread that waited was interrupted


class Worker(LaneRunner):
    """Runs what comes by the worker's main connection, and does what else the pool says."""

    gone = False  # the connection, and with it the worker's purpose

    def connected(self, connection: Any) -> None:
        Runner.connected(self, connection)
        self._hello(lane=False)

    def disconnected(self, exc: Exception | None) -> None:
        self.gone = True
        self.loop.stop()

    def control(
        self, kind: int, flags: int, aux: int, id: int, body: bytes, segments: list[Any]
    ) -> None:
        if kind == WELCOME:
            message = decode_handshake(body)
            if not isinstance(message, Welcome):
                raise ProtocolError("no welcome where one was expected")
            if message.initializer:
                self.loop.call_soon(self._initialize, message.initializer, segments)
            else:
                self._say(READY, Ready())
        elif kind == LANE:
            lane = LaneRunner(self.loop, self.config, self.number, self.shared_page)
            lane.share_functions(self)
            self.loop.create_task(self._open(lane))
        elif kind == BYE:
            self.connection.close()
        else:
            super().control(kind, flags, aux, id, body, segments)

    async def _open(self, lane: LaneRunner) -> None:
        watch_forks(lane)
        with contextlib.suppress(OSError):  # the pool has ended in the meantime
            await connect(self.config, lane)

    def _initialize(self, initializer: bytes, segments: list[Any]) -> None:
        """Call the initializer as a plain function, which sees no running loop."""
        try:
            function, args = main_module.unpack(initializer, segments, self.load)
            asyncio._set_running_loop(None)
            try:
                result = function(*args)
            finally:
                asyncio._set_running_loop(self.loop)
        except BaseException as exc:
            self._say(READY, Ready(self.dump_error(exc)))
            return
        if inspect.isawaitable(result):
            self.loop.create_task(self._await_initializer(result))
        else:
            self._say(READY, Ready())

    async def _await_initializer(self, awaitable: Awaitable[Any]) -> None:
        error = None
        try:
            await awaitable
        except BaseException as exc:
            error = self.dump_error(exc)
        self._say(READY, Ready(error))


async def connect(config: Configure, worker: Runner, tls: ssl.SSLContext | None = None) -> None:
    """Connect to the pool."""
    loop = asyncio.get_running_loop()
    connection = StreamConnection(loop, worker, DEFAULT_LIMIT_BYTES)
    if config.unix_path:
        _check_private(os.path.dirname(config.unix_path))
        await loop.create_unix_connection(lambda: connection, config.unix_path)
        if config.spin:
            connection.enable_polling()
    else:
        await loop.create_connection(lambda: connection, config.host, config.port, ssl=tls)


def _check_private(folder: str) -> None:
    """Raise ConnectionRefusedError if others than this user may enter the folder: the pool's was
    cleaned away then, and somebody else has made one of that name."""
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConnectionRefusedError(f"{folder} is not the pool's")


def watch_forks(runner: LaneRunner) -> None:
    """Have it told of the forks of this process, in them."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=runner.in_fork)


def run(worker: Worker) -> None:
    """Run its loop until its connection is gone, whatever tasks do to the loop meanwhile."""
    while not worker.gone:
        try:
            worker.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as exc:  # not in a task of the pool's: it has those
            worker.loop.call_exception_handler(
                {"message": "raised in a callback, or a task, that was left behind",
                 "exception": exc})


def main(
    config: Configure, number: int, page: Any, tls: ssl.SSLContext | None = None
) -> None:
    """Be a worker until the pool says goodbye or is gone.

    Args:
        config: what the nanny was told.
        number: the worker's number in its pool.
        page: shared with the nanny, see status_page.py.
        tls: for a pool that is reached by TCP.
    """
    main_module.install()
    use_authkey(config.authkey)
    loop = loop_factory(config.loop_type)()
    worker = Worker(loop, config, number, page)
    watch_forks(worker)
    interrupts.install_handler(page)
    try:
        loop.run_until_complete(connect(config, worker, tls))
    except (ConnectionError, FileNotFoundError):  # the pool is gone already
        return
    except OSError as exc:
        print(f"distex: a worker can't connect to its pool: {exc}", file=sys.stderr)
        return
    run(worker)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(BaseException):
            loop.run_until_complete(asyncio.wait(tasks, timeout=LEAVE_TIMEOUT))


def spawned() -> None:
    """Be a worker in a fresh interpreter, where there is no fork; untested."""
    config, spawn = Unpacker(to_nanny=True).feed(sys.stdin.buffer.read())
    assert isinstance(config, Configure)
    assert isinstance(spawn, Spawn)
    sys.argv[:] = map(os.fsdecode, config.argv)
    main(config, spawn.number, memoryview(bytearray(8 * NUMBERS)).cast("Q"))
