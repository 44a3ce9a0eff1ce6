"""Connect a nanny on this machine to a pool on another one.

    pool <──TLS──> Relay <──socket pair──> nanny process ──fork──> worker 1 .. N
      ▲                                                                │
      └────────────────────────── TLS ─────────────────────────────────┘

The spawn server (commands/server.py) has one for each pool that connects to it, `distex worker`
(commands/worker.py) one for the pool that it connects to. The nanny is started after the first
valid message of the pool, and lives and dies with the connection.
"""

import asyncio
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from distex.errors import ProtocolError
from distex.launch.base import hash_seed
from distex.launch.local import end_process, start_nanny
from distex.options import HELLO_TIMEOUT, KEEPALIVE
from distex.wire.messages import CUT_OFF, Begin, Unpacker
from distex.wire.secret import Secret
from distex.wire.tls import NANNY, keep_alive, negotiated_protocol

FIRST_LIMIT_BYTES = 256  # of what a pool says before there is a nanny
END_GRACE = 5.0  # seconds for a nanny to end its workers


class Relay(asyncio.Protocol):
    """The pool's end of it; the protocol of the connection to the pool.

    Args:
        secret: with which the workers connect to the pool.
        arguments: of nanny.main(), after the secret.
        connected: told once there is a connection.
    """

    def __init__(
        self, secret: Secret, *arguments: str, connected: Callable[["Relay"], object] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._connected = connected
        self._secret = secret
        self._arguments = arguments
        self._pool: Any = None  # transport
        self._nanny: Any = None  # transport
        self._process: subprocess.Popen[bytes] | None = None
        self._first = b""  # from the pool, before there is a nanny
        self._timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.peer = ""
        self.reason = ""  # why there is no connection any more
        # the nanny's exit code, once it and the connection are gone
        self.ended: asyncio.Future[int] = loop.create_future()

    @property
    def has_begun(self) -> bool:
        """Whether there is, or was, a nanny."""
        return self._starting is not None

    def connection_made(self, transport: Any) -> None:
        self._pool = transport
        self.peer = str(transport.get_extra_info("peername")[0])
        if self._connected is not None:
            self._connected(self)
        if negotiated_protocol(transport) != NANNY:
            self._refuse("a pool was expected")
            return
        keep_alive(transport, KEEPALIVE)
        self._timer = self._loop.call_later(HELLO_TIMEOUT, self._refuse, "it says nothing")

    def _refuse(self, reason: str) -> None:
        self.reason = reason
        self._pool.abort()

    def data_received(self, data: bytes) -> None:
        if self._nanny is not None:
            self._nanny.write(data)
            return
        self._first += data
        if self._starting is not None:
            return
        try:
            said = Unpacker(to_nanny=True).feed(self._first[:FIRST_LIMIT_BYTES])
            if not said:
                if len(self._first) >= FIRST_LIMIT_BYTES:
                    raise ProtocolError("it says too much")
                return
        except ProtocolError as exc:
            self._refuse(str(exc))
            return
        self._forget_timer()
        seed = said[0].hash_seed if isinstance(said[0], Begin) else hash_seed()
        self._starting = self._loop.create_task(self._start_nanny(seed))

    def pause_writing(self) -> None:
        """The pool takes no more for now."""
        if self._nanny is not None:
            self._nanny.pause_reading()

    def resume_writing(self) -> None:
        if self._nanny is not None:
            self._nanny.resume_reading()

    def pool_may_speak(self, may: bool) -> None:
        """Whether the nanny takes more from the pool."""
        if self._pool is not None:
            if may:
                self._pool.resume_reading()
            else:
                self._pool.pause_reading()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _start_nanny(self, hash_seed: int) -> None:
        try:
            with self._secret.opened() as fd:
                self._process, ours = start_nanny(
                    str(fd), *self._arguments, hash_seed=hash_seed, inherits=[fd])
        except OSError as exc:
            self._refuse(f"a nanny can't be started: {exc}")
            return
        self._nanny, _ = await self._loop.create_connection(lambda: _NannyEnd(self), sock=ours)
        if self._pool is None:  # it has gone meanwhile
            self._nanny.abort()
            return
        self._nanny.write(self._first)
        self._first = b""

    def on_nanny_message(self, data: bytes) -> None:
        """The nanny has something for the pool."""
        if self._pool is not None:
            self._pool.write(data)

    def on_nanny_lost(self) -> None:
        """The nanny has closed its end: it ends, or has died."""
        self._nanny = None
        if self._pool is not None:
            self._closing = self._loop.create_task(self._close_when_ended())

    async def _close_when_ended(self) -> None:
        """Let the pool know when nothing is left here, not sooner."""
        assert self._process is not None
        await end_process(self._process, END_GRACE)
        if self._pool is not None:
            self._pool.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool = None
        self._forget_timer()
        if not self.reason:
            self.reason = str(exc) if exc is not None else "it was closed there"
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._nanny is not None:
            self._nanny.close()
        code = CUT_OFF
        if self._process is not None:
            code = await end_process(self._process, END_GRACE)
        if not self.ended.done():
            self.ended.set_result(code)

    def leave(self) -> None:
        """Have the nanny tell the pool that this machine wants to leave; see nanny.main()."""
        if self._process is not None:
            self._process.terminate()
        else:
            self.close()

    def close(self) -> None:
        """End the connection, and with it nanny and workers."""
        if self._pool is not None:
            self._pool.abort()


class _NannyEnd(asyncio.Protocol):
    """The nanny's end of a relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self._relay.on_nanny_message(data)

    def pause_writing(self) -> None:
        self._relay.pool_may_speak(False)

    def resume_writing(self) -> None:
        self._relay.pool_may_speak(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.on_nanny_lost()


def socket_address(text: str) -> tuple[str, int]:
    """``host:port`` or ``[ipv6]:port``, as a pair.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    elif ":" in host:
        raise ValueError("an IPv6 address goes in brackets: [host]:port")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("it is not of the form host:port")
    return host, int(port)
