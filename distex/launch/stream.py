"""What a launcher gives the pool: a nanny somewhere, and the stream to it."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from distex.errors import ProtocolError
from distex.messages import Message, Unpacker, pack


class NannyListener(Protocol):
    """Who is told what a nanny says; called on the pool's loop."""

    def nanny_says(self, message: Any) -> None:
        """A message came in: Serving, Started, Exited or Failed."""

    def nanny_gone(self, reason: str) -> None:
        """The stream has ended. Called once."""


class Nanny(Protocol):
    """A nanny that was launched."""

    stream: "NannyStream"
    unix_path: str  # where its workers connect to the pool; empty: the pool's TCP address

    async def wait(self, timeout: float) -> None:
        """Wait until nothing is left of it, and end it by force after timeout seconds."""

    def kill(self) -> None:
        """End it at once, without the loop. Its workers die with it."""


class Launcher(Protocol):
    """A way to start a nanny on one host, again and again."""

    host: str  # for messages
    num_workers: int | None  # None: as many as the host has CPUs
    is_local: bool  # the host has this machine's files and sockets

    async def launch(
        self, listener: NannyListener, unix_path: str, meet: Callable[[], Any]
    ) -> Nanny:
        """Start a nanny.

        Args:
            listener: who is told what it says.
            unix_path: the pool's own socket.
            meet: makes the protocol for a connection from a worker, where connections do not
                come by that socket.

        Raises:
            HostError: why that is not possible, and what to do.
        """


class NannyStream(asyncio.Protocol):
    """Messages to and from one nanny."""

    def __init__(self, listener: NannyListener) -> None:
        self._listener = listener
        self._unpacker = Unpacker(to_nanny=False)
        self._transport: Any = None
        self._reason = "its nanny process is gone"
        self.ended = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._unpacker.feed(data)
        except ProtocolError as exc:
            self._reason = str(exc)
            self._transport.abort()
            return
        for message in messages:
            self._listener.nanny_says(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.ended.set()
        self._listener.nanny_gone(self._reason if exc is None else f"{self._reason}: {exc}")

    def send(self, message: Message) -> None:
        """Tell the nanny something; nothing happens if it is gone."""
        if self._transport is not None:
            self._transport.write(pack(message))

    def close(self) -> None:
        """End the stream; the nanny kills its workers and ends too."""
        if self._transport is not None:
            self._transport.close()
