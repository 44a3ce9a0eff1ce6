"""Listen by TCP for peers that have the secret: mutual TLS, limits on handshakes.

    accept ──at most so many at a time──> TLS handshake ──in time──> a protocol of the caller's
                                                └─ else: dropped and counted

Both the pool and the spawn server listen in this way. What a connection speaks is agreed on
in the handshake (ALPN).
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from distex import options
from distex.errors import HostError, ProtocolError
from distex.wire.secret import Secret

logger = logging.getLogger("distex")

NANNY = "distex-nanny"  # the stream between a pool and a nanny
WORKER = "distex-worker"  # a worker that connects to its pool
PROBE = "distex-probe"  # nothing: a nanny has looked whether workers could connect

BACKLOG = 4096  # connections that wait to be accepted, so many as the system allows
RETRY_DELAY = 0.1  # seconds until accepting is tried again when it fails, as with too many files


class TlsListener:
    """Listens on one TCP address.

    Args:
        secret: what connects has to have it.
        protocols: what may be spoken.
        make_protocol: makes the protocol for a connection that has come through.
        count_drop: told of each that has not.
        keepalive: seconds in which a peer that is cut off is noticed.
    """

    def __init__(
        self, secret: Secret, protocols: list[str], make_protocol: Callable[[], Any],
        count_drop: Callable[[Exception], None], keepalive: float = options.KEEPALIVE,
    ) -> None:
        self._context = secret.context(protocols, server_side=True)
        self._make_protocol = make_protocol
        self._count_drop = count_drop
        self._keepalive = keepalive
        self._socket: socket.socket | None = None
        self._accepts = False
        self._retrying: asyncio.TimerHandle | None = None
        # with the connection, until the loop has taken it over
        self._handshakes: dict[asyncio.Task[None], socket.socket | None] = {}

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen.

        Args:
            host: name or address of this machine.
            port: or 0: any that is free.

        Returns:
            the numeric address and the port.

        Raises:
            HostError: that is not possible.
        """
        loop = asyncio.get_running_loop()
        try:
            family, kind, proto, _, address = (await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))[0]
            self._socket = sock = socket.socket(family, kind, proto)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _keep_alive(sock, self._keepalive)  # what is accepted inherits it
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as exc:
            self.close()
            raise HostError(
                f"can't listen on {host or 'any address'}, port {port}: {exc}") from exc
        self._watch()
        name = sock.getsockname()
        return name[0], name[1]

    def _watch(self) -> None:
        """Accept while there is room; those beyond that wait in the system, which gives up on them
        in its own time."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        wanted = self._retrying is None and len(self._handshakes) < options.MAX_HANDSHAKES
        if wanted and not self._accepts:
            loop.add_reader(self._socket, self._accept)
        elif self._accepts and not wanted:
            loop.remove_reader(self._socket)
        self._accepts = wanted

    # no coroutine does so: what it has accepted is lost if it is cancelled in that moment
    def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        try:
            connection, peer = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            logger.warning("distex: a connection can't be accepted: %s", exc)
            self._retrying = loop.call_later(RETRY_DELAY, self._retry)
        else:
            task = loop.create_task(self._shake_hands(connection, peer))
            self._handshakes[task] = connection
            task.add_done_callback(self._handshake_done)
        self._watch()

    def _retry(self) -> None:
        self._retrying = None
        self._watch()

    def _handshake_done(self, task: "asyncio.Task[None]") -> None:
        connection = self._handshakes.pop(task)
        if connection is not None:  # it was cancelled before it began
            connection.close()
        self._watch()

    async def _shake_hands(self, connection: socket.socket, peer: Any) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._handshakes[task] = None
        connection.setblocking(False)
        try:
            await loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._context,
                ssl_handshake_timeout=options.HELLO_TIMEOUT)
        except (OSError, EOFError) as exc:  # TLS errors are of these
            self._count_drop(ProtocolError(f"{peer[0]} has not shown the secret: {exc}"))
            # asyncio's frames in it refer to it, and to buffers of 256 kB, which then would stay
            # until the garbage collector comes
            exc.__traceback__ = None

    def close(self) -> None:
        """Listen no more. Connections that have come through stay."""
        if self._retrying is not None:
            self._retrying.cancel()
        for task in self._handshakes:
            task.cancel()
        sock, self._socket = self._socket, None
        if sock is not None:
            if self._accepts:
                asyncio.get_running_loop().remove_reader(sock)
                self._accepts = False
            sock.close()

    async def closed(self) -> None:
        """Wait, after close(), until nothing is left of it."""
        if self._handshakes:
            await asyncio.wait(list(self._handshakes))


def keep_alive(transport: Any, keepalive: float) -> None:
    """Have a connection end within this many seconds when the peer's machine is cut off."""
    ours = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(ours.fileno())) as sock:
        _keep_alive(sock, keepalive)


def _keep_alive(sock: socket.socket, keepalive: float) -> None:
    third = max(1, int(keepalive / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
            ("TCP_KEEPIDLE", third), ("TCP_KEEPINTVL", third), ("TCP_KEEPCNT", 2),
            # with data on their way there are no probes
            ("TCP_USER_TIMEOUT", max(1, int(1000 * keepalive * 2 / 3)))):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def negotiated_protocol(transport: Any) -> str | None:
    """What was agreed on for a connection."""
    protocol: str | None = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    return protocol
