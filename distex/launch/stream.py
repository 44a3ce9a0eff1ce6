"""The pool's end of the stream to a nanny, over whatever the launcher brings it by."""

import asyncio
from typing import Any, Protocol

from distex.errors import ProtocolError
from distex.messages import Message, Unpacker, pack


class NannyListener(Protocol):
    """Who is told what a nanny says; called on the pool's loop."""

    def nanny_says(self, message: Any) -> None:
        """A message came in: Started, Exited or Failed."""

    def nanny_gone(self, reason: str) -> None:
        """The stream has ended. Called once."""


class NannyStream(asyncio.Protocol):
    """Messages to and from one nanny."""

    def __init__(self, listener: NannyListener) -> None:
        self._listener = listener
        self._unpacker = Unpacker(to_nanny=False)
        self._transport: Any = None
        self._reason = "its nanny process is gone"

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
        self._listener.nanny_gone(self._reason if exc is None else f"{self._reason}: {exc}")

    def send(self, message: Message) -> None:
        """Tell the nanny something; nothing happens if it is gone."""
        if self._transport is not None:
            self._transport.write(pack(message))

    def close(self) -> None:
        """End the stream; the nanny kills its workers and ends too."""
        if self._transport is not None:
            self._transport.close()
