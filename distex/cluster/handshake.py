"""The handshake: the pool authenticates each connection before it becomes a worker's.

    connected ──> Hello: the token, a number that is expected ──> Welcome ──> Ready ──> a worker
        │             │
        └ too many,   └ anything else: dropped and counted
          another user, silence
"""

import asyncio
import os
from typing import Any, Protocol

from distex import options
from distex._core.framing import DEFAULT_LIMIT_BYTES, FrameHandler
from distex._core.ring import peer_credentials
from distex.errors import ProtocolError
from distex.wire import messages
from distex.wire.drops import Left

HELLO, READY, WELCOME = 1, 2, 7  # as in framing.pyx


class Host(Protocol):
    """What a Handshake needs of the supervisor."""

    initializer: tuple[bytes, list[Any]]

    def authenticate(self, hello: messages.Hello) -> Any:
        """The record of the worker that says hello; None if it is to go; or ProtocolError."""

    def attach_lane(self, hello: messages.Hello, connection: Any) -> None:
        """A worker's second connection."""

    def on_worker_ready(self, record: Any, ready: messages.Ready) -> None:
        """The worker can take tasks, or its initializer failed."""


class Door(Protocol):
    """What a Handshake needs of the listener that has accepted its connection."""

    loop: asyncio.AbstractEventLoop
    unauthenticated: "set[Handshake]"

    def drop(self, connection: Any, reason: str) -> None:
        """Drop a connection that is not one of the pool's."""

    def count_drop(self, exc: Exception) -> None:
        """Count a connection that was dropped."""


class Handshake(FrameHandler):
    """Meets whoever connects. Nothing of it is unpickled, and it gets nothing, before it has shown
    the pool's token."""

    def __init__(self, listener: Door, host: Host) -> None:
        self._listener = listener
        self._host = host
        self._record: Any = None
        self.connection: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_done = False  # what else has come with the end of it is not to be dealt with here

    def connected(self, connection: Any) -> None:
        self.connection = connection
        listener = self._listener
        if (len(listener.unauthenticated) >= options.MAX_UNKNOWN_CONNECTIONS
                or not _same_user(connection.transport)):
            listener.drop(connection, "it is not of this user, or one of too many")
            return
        listener.unauthenticated.add(self)
        self._timer = listener.loop.call_later(
            options.HELLO_TIMEOUT, self._drop, "it did not say who it is")

    def _drop(self, reason: str) -> None:
        self._forget()
        self._listener.drop(self.connection, reason)

    def violated(self, exc: Exception) -> None:
        """What came by the connection is not allowed; it has been aborted."""
        self._forget()
        self._listener.count_drop(exc)

    def disconnected(self, exc: Exception | None) -> None:
        if self in self._listener.unauthenticated:
            self.violated(Left("it left without saying who it is"))
        if self._record is not None:
            self._record.disconnected(exc)

    def close(self) -> None:
        """Nobody is let in any more."""
        self._forget()
        self.connection.abort()

    def _forget(self) -> None:
        self._listener.unauthenticated.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def control(
        self, kind: int, flags: int, aux: int, id: int, body: bytes, segments: list[Any]
    ) -> None:
        message = messages.decode_handshake(body)
        if self._is_done:
            raise ProtocolError(f"{type(message).__name__} after Ready, in one read with it")
        if (kind == HELLO and isinstance(message, messages.Hello) and message.lane
                and self._record is None):
            self._forget()
            self._is_done = True
            self._host.attach_lane(message, self.connection)
        elif kind == HELLO and isinstance(message, messages.Hello) and self._record is None:
            self._record = self._host.authenticate(message)
            if self._record is None:
                self.close()
                return
            self._forget()
            self._record.connection = self.connection
            self._record.pid = message.pid
            self.connection.reader.set_limit(DEFAULT_LIMIT_BYTES)
            if self._record.host.is_local:
                self.connection.share_memory()
            initializer, buffers = self._host.initializer
            self.connection.write(
                WELCOME, 0, 0, 0, messages.encode(messages.Welcome(initializer)), buffers)
        elif kind == READY and isinstance(message, messages.Ready) and self._record is not None:
            self._is_done = True
            self._host.on_worker_ready(self._record, message)
        else:
            raise ProtocolError(f"{type(message).__name__} does not belong here")


def _same_user(transport: Any) -> bool:
    """Whether the peer at a Unix socket is this user, as far as the system tells."""
    credentials = peer_credentials(transport.get_extra_info("socket"))
    return credentials is None or credentials[1] == os.geteuid()
