"""Listen by TCP for peers that have the secret: mutual TLS, limits on handshakes.

    accept ──> Admission ──> TLS handshake ──in time──> a protocol of the caller's
                   └────────────────┴─ else: dropped and counted

Both the pool and the spawn server listen in this way. What a connection speaks is agreed on
in the handshake (ALPN).
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

from distex import options
from distex.errors import HostError, ProtocolError
from distex.wire.admission import Admission
from distex.wire.client_hello import DENIED
from distex.wire.drops import Left
from distex.wire.secret import Secret

logger = logging.getLogger("distex")

NANNY = "distex-nanny"  # the stream between a pool and a nanny
WORKER = "distex-worker"  # a worker that connects to its pool
PROBE = "distex-probe"  # nothing: a nanny has looked whether workers could connect

BACKLOG = 4096  # connections that wait to be accepted, so many as the system allows
PORTS_TRIED = 10  # to find one that is free on all addresses
ACCEPTED_AT_ONCE = 32  # before the loop does something else
RETRY_DELAY = 0.1  # seconds until accepting is tried again when it fails, as with too many files


class TlsListener:
    """Listens on one TCP address, or on those of a name.

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
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._retrying: asyncio.TimerHandle | None = None
        self.admission = Admission(self._loop, secret.mark, self._shake_hands, count_drop)

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen: on all addresses of the name, of IPv4 and IPv6, so that nobody else can take one
        of them.

        Args:
            host: name or address of this machine; empty: all its addresses.
            port: or 0: any that is free.

        Returns:
            the first numeric address, and the port.

        Raises:
            HostError: that is not possible.
        """
        try:
            found = await self._loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for last in reversed(range(1 if port else PORTS_TRIED)):
                try:
                    self._bind([(family, address) for family, _, _, _, address in found], port)
                    break
                except OSError:  # another address has not the port free that the first one got
                    self._close_sockets()
                    if not last:
                        raise
        except OSError as exc:
            raise HostError(
                f"can't listen on {host or 'any address'}, port {port}: {exc}") from exc
        self._watch()
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    def _bind(self, addresses: list[tuple[int, Any]], port: int) -> None:
        error: OSError | None = None
        for family, address in dict.fromkeys(addresses):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as exc:  # the system has no IPv6, say
                error = error or exc
                continue
            self._sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _keep_alive(sock, self._keepalive)  # what is accepted inherits it
            try:
                sock.bind((address[0], port, *address[2:]))
            except OSError as exc:
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise
                error = error or exc  # IPv6 is switched off, say
                self._sockets.pop().close()
                continue
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]
        if not self._sockets and error is not None:
            raise error

    def _watch(self) -> None:
        self._retrying = None
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    # no coroutine does so: what it has accepted is lost if it is cancelled in that moment
    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # there are too many files, say
                if not self.admission.make_room():
                    logger.warning("distex: a connection can't be accepted: %s", exc)
                self._loop.remove_reader(sock)
                if self._retrying is None:
                    self._retrying = self._loop.call_later(RETRY_DELAY, self._watch)
                return
            self.admission.accepted(connection, peer[0])

    async def _shake_hands(self, connection: socket.socket, source: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._context,
                ssl_handshake_timeout=options.HELLO_TIMEOUT)
        except (OSError, EOFError) as exc:  # TLS errors are of these
            left = isinstance(exc, (ConnectionError, EOFError, ssl.SSLEOFError))
            error = Left if left else ProtocolError
            self._count_drop(error(f"{source} has not shown the secret: {exc}"))
            # asyncio's frames in it refer to it, and to buffers of 256 kB, which then would stay
            # until the garbage collector comes
            exc.__traceback__ = None

    def close(self) -> None:
        """Listen no more. Connections that have come through stay."""
        if self._retrying is not None:
            self._retrying.cancel()
        self._close_sockets()
        self.admission.close()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    async def closed(self) -> None:
        """Wait, after close(), until nothing is left of it."""
        await self.admission.closed()


def keep_alive(transport: Any, keepalive: float) -> None:
    """Have a connection end within this many seconds when the peer's machine is cut off."""
    ours = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(ours.fileno())) as sock:
        _keep_alive(sock, keepalive)


def _keep_alive(sock: socket.socket, keepalive: float) -> None:
    # the kernel takes no more: 9 hours, and 24 days
    third = min(max(1, int(keepalive / 3)), 32_767)
    unanswered_ms = min(max(1, int(1000 * keepalive * 2 / 3)), 2**31 - 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
            ("TCP_KEEPIDLE", third), ("TCP_KEEPINTVL", third), ("TCP_KEEPCNT", 2),
            # with data on their way there are no probes
            ("TCP_USER_TIMEOUT", unanswered_ms)):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def tells_another_secret(exc: Exception) -> bool:
    """Whether a connection failed because the two ends have different secrets."""
    return (isinstance(exc, ssl.SSLCertVerificationError)
            or (isinstance(exc, ssl.SSLError) and exc.reason == DENIED))


def negotiated_protocol(transport: Any) -> str | None:
    """What was agreed on for a connection."""
    protocol: str | None = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    return protocol
