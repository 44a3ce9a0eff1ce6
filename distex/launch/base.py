"""The interface of all launchers (add a scheduler here), and the stream to a nanny."""

import asyncio
import os
import secrets
from typing import Any, Protocol

from distex.errors import ProtocolError
from distex.wire.messages import Heartbeat, Message, Unpacker, pack

ALONE_FACTOR = 8  # times the interval of heartbeats: when a nanny takes a silent pool for gone


class NannyListener(Protocol):
    """Who is told what a nanny says; called on the pool's loop."""

    def on_nanny_message(self, message: Any) -> None:
        """A message came in: NannyHello, Started, Exited or Failed."""

    def on_nanny_lost(self, reason: str) -> None:
        """The stream has ended. Called once."""


def hash_seed() -> int:
    """Return the PYTHONHASHSEED for all workers of a pool: the user's, or any."""
    seed = os.environ.get("PYTHONHASHSEED", "")
    if seed.isdecimal() and int(seed) < 2**32:
        return int(seed)
    return secrets.randbelow(2**32 - 1) + 1  # 0 would mean no randomization


class WorkerEndpoint(Protocol):
    """The address at which the workers of a nanny connect to the pool."""

    hash_seed: int  # see hash_seed()

    def accept(self) -> Any:
        """The protocol for a connection that comes in another way."""

    def local_is_open(self) -> bool:
        """Whether workers of this machine find the socket."""

    async def open_local(self) -> tuple[str, tuple[str, int]]:
        """Listen for workers of this machine: path of the Unix socket; where it is empty, address
        and port."""

    async def open_tcp(self, local_address: str) -> tuple[str, int]:
        """Listen for workers of other machines: address and port.

        Args:
            local_address: address of this machine by which another one has been reached.
        """


class Nanny(Protocol):
    """A nanny that was launched."""

    stream: "NannyStream"
    unix_path: str  # where its workers connect to the pool; empty: at the address
    address: tuple[str, int]
    prints: bool  # what its workers print is seen where they are, unless the pool wants it

    def is_reachable(self) -> bool:
        """Whether workers find the pool, as far as that is known without asking."""
        return True

    async def reopen(self, endpoint: "WorkerEndpoint") -> None:
        """See that workers find the pool: a socket may have been cleaned away.

        Raises:
            OSError, HostError: they can't.
        """
        return

    async def wait(self, timeout: float) -> None:
        """Wait until nothing is left of it, and end it by force after timeout seconds."""

    def kill(self) -> None:
        """End it at once, without the loop. Its workers die with it."""


class Launcher(Protocol):
    """A way to start a nanny on one host, again and again."""

    host: str  # for messages
    num_workers: int | None  # None: as many as the host has CPUs
    is_local: bool  # the host has this machine's files and sockets
    key: object  # the same for launchers of the same host

    def begin(self) -> None:
        """Begin with what takes long and needs nothing of the pool; launch() or give_up() follow.
        May be called from any thread."""
        return

    def give_up(self) -> None:
        """There will be no launch(): end what was begun, if anything was."""
        return

    async def launch(self, listener: NannyListener, endpoint: WorkerEndpoint) -> Nanny:
        """Start a nanny.

        Args:
            listener: who is told what it says.
            endpoint: where its workers are to come in.

        Raises:
            HostError: why that is not possible, and what to do.
        """


class NannyStream(asyncio.Protocol):
    """Messages to and from one nanny."""

    def __init__(self, listener: NannyListener) -> None:
        self._listener = listener
        self._unpacker = Unpacker(to_nanny=False)
        self.transport: Any = None
        self.reason: str = "its nanny process is gone"
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._unpacker.feed(data)
        except ProtocolError as exc:
            self.reason = str(exc)
            self.transport.abort()
            return
        for message in messages:
            self._listener.on_nanny_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._listener.on_nanny_lost(self.reason if exc is None else f"{self.reason}: {exc}")

    def send(self, message: Message) -> None:
        """Tell the nanny something; nothing happens if it is gone."""
        if self.transport is not None:
            self.transport.write(pack(message))

    def close(self) -> None:
        """End the stream; the nanny kills its workers and ends too."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """As close(), but what was not sent yet is lost."""
        if self.transport is not None:
            self.transport.abort()


class HeartbeatSender:
    """Tells a nanny now and then that the pool is there.

    Args:
        stream: to the nanny.
        interval: seconds between that; after ALONE_FACTOR times as long the nanny takes the pool
            for gone.
    """

    def __init__(self, stream: NannyStream, interval: float) -> None:
        self._stream = stream
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin, now."""
        if self._stopped or self._stream.closed.done():
            return
        self._stream.send(Heartbeat(ALONE_FACTOR * self._interval))
        self._timer = asyncio.get_running_loop().call_later(self._interval, self.start)

    def stop(self) -> None:
        """End."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
