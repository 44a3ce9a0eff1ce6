"""The sockets on which a pool listens for its workers: a Unix socket, and TCP where needed.

    worker on this host ──Unix socket in a private folder──> accept ──> Handshake
    worker by ssh ────────channel of the tunnel────────────────┤
    worker by TCP ────────TlsListener: TLS, the secret─────────┘
    nanny that joins ─────TlsListener──> NannyStream ──> Membership

Connections are unauthenticated until their Handshake is done. Those that are dropped are counted.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import stat
from collections.abc import Callable
from typing import Any

from distex import machine
from distex._core.framing import HELLO_LIMIT_BYTES
from distex._core.protocol import StreamConnection
from distex.cluster.handshake import Handshake, Host
from distex.errors import ProtocolError
from distex.launch.hosts import TcpOptions
from distex.wire.drops import Drops, Left
from distex.wire.secret import Secret
from distex.wire.tls import BACKLOG, NANNY, PROBE, WORKER, TlsListener, negotiated_protocol

logger = logging.getLogger("distex")

WILDCARDS = ("0.0.0.0", "::")  # every address of this machine
LAST_TURNS = 4  # of the loop: one to accept a connection, two to have its protocol know of it
LEAVE_SECONDS = 5.0  # for a worker that is ended to be gone
CLOSE_GRACE = 2.0  # seconds for connections to be gone that were aborted


class Listener:
    """The sockets of one pool, and the connections that came by them.

    Args:
        loop: the pool's.
        host: whose workers are expected.
        localhost: where to listen by TCP; empty: where other machines are reached from.
        localport: the port there; 0: any that is free.
        tcp: what else there is to know about TCP.
        join: takes the stream of a nanny that comes by itself.
        hash_seed: what all workers have as PYTHONHASHSEED.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: Host, localhost: str, localport: int,
        tcp: TcpOptions, join: Callable[[Any], Any], hash_seed: int,
    ) -> None:
        self.loop = loop
        self.host = host
        self.hash_seed = hash_seed
        # with their addresses, by the address that was asked for
        self.tls_listeners: dict[str, tuple[TlsListener, tuple[str, int]]] = {}
        self._localhost = localhost
        self._localport = localport
        self._tcp = tcp
        self._join = join
        self._opening = asyncio.Lock()
        self._closed = False
        self.unauthenticated: set[Handshake] = set()
        self._leavers = 0  # workers that are ended and may just have connected
        self._drops = Drops(logger, "distex: ")
        self._unix_path = ""
        self._identity: tuple[int, int] | None = None  # of that socket
        self._address: tuple[str, int] = ("", 0)  # where there are no Unix sockets
        self._folder: str | None = None
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[Any] = set()

    async def open_local(self) -> tuple[str, tuple[str, int]]:
        """Listen for the workers of this machine, unless that is done already.

        Returns:
            path of the Unix socket; where it is empty, address and port.

        Raises:
            OSError: there is no folder for the socket.
        """
        async with self._opening:
            if self._closed:
                raise OSError("the pool has ended")
            if self._server is not None and self.local_is_open():
                pass
            elif hasattr(socket, "AF_UNIX"):
                if self._server is not None:
                    logger.warning("distex: %s was removed, and is made anew", self._unix_path)
                    self._server.close()
                sock = self._bind()
                sock.setblocking(False)
                # in two steps: who is cancelled in the second one has a server to close
                self._server = await self.loop.create_unix_server(
                    self.accept, sock=sock, backlog=BACKLOG, start_serving=False)
                await self._server.start_serving()
            else:  # Windows; untested
                self._server = await self.loop.create_server(
                    self.accept, "127.0.0.1", 0, backlog=BACKLOG)
                self._address = self._server.sockets[0].getsockname()[:2]
        return self._unix_path, self._address

    def _bind(self) -> socket.socket:
        """A socket in a folder that only this user may enter: the one that there was, for the sake
        of workers that know it, or a new one."""
        if self._folder is None or not _make_private(self._folder):
            self._folder = machine.private_folder()
        self._unix_path = os.path.join(self._folder, "pool")
        with contextlib.ExitStack() as failed:
            sock = socket.socket(socket.AF_UNIX)
            failed.callback(sock.close)
            sock.bind(self._unix_path)
            sock.listen(BACKLOG)
            self._identity = _identity(self._unix_path)
            failed.pop_all()
        return sock

    def local_is_open(self) -> bool:
        """Whether workers of this machine find the socket; the system may have cleaned it away, and
        somebody may have put another one in its place."""
        return self._closed or not self._unix_path or _identity(self._unix_path) == self._identity

    async def open_tcp(self, local_address: str = "") -> tuple[str, int]:
        """Listen for workers of other machines, unless that is done already.

        Args:
            local_address: address of this machine by which another one has been reached.

        Returns:
            the address and the port for workers there.

        Raises:
            HostError: that is not possible.
        """
        host = self._localhost or ("" if self._localport else local_address)
        async with self._opening:
            if host not in self.tls_listeners:
                tls_listener = TlsListener(
                    Secret(self._tcp.secret), [NANNY, WORKER, PROBE], lambda: _Arrival(self),
                    self.count_drop, self._tcp.keepalive)
                self.tls_listeners[host] = (
                    tls_listener, await tls_listener.open(host, self._localport))
        _, (address, port) = self.tls_listeners[host]
        return (local_address if local_address and address in WILDCARDS else address), port

    def arrived(self, transport: Any) -> None:
        """A connection has passed a TlsListener."""
        protocol = negotiated_protocol(transport)
        if self._closed:
            transport.abort()
            return
        if protocol == NANNY:
            arrival = self._join(transport)
        elif protocol == WORKER:
            arrival = self.accept()
        else:
            if protocol != PROBE:
                self.count_drop(ProtocolError("it does not say what it speaks"))
            transport.abort()
            return
        transport.set_protocol(arrival)
        arrival.connection_made(transport)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens by TCP."""
        return [address for _, address in self.tls_listeners.values()]

    def accept(self) -> Any:
        """The protocol for a connection that may be a worker's."""
        handshake = Handshake(self, self.host)
        connection = StreamConnection(self.loop, handshake, HELLO_LIMIT_BYTES)
        connection.on_violation = handshake.violated
        connection.on_lost = self._connections.discard
        self._connections.add(connection)
        return connection

    def drop(self, connection: Any, reason: str) -> None:
        """Drop a connection that is not one of the pool's."""
        self.count_drop(ProtocolError(reason))
        connection.abort()

    def count_drop(self, exc: Exception) -> None:
        """Count a connection that was dropped."""
        if self._leavers and isinstance(exc, Left):  # most likely one of them
            return
        self._drops.count(exc)

    @property
    def dropped(self) -> int:
        """Connections that were not the pool's, or broke the protocol."""
        return self._drops.number

    def expect_leaver(self) -> None:
        """A worker, or a nanny, is ended before it has shown that it is the pool's: it may leave
        without, and is no stranger."""
        self._leavers += 1
        self.loop.call_later(LEAVE_SECONDS, self._leaver_is_gone)

    def _leaver_is_gone(self) -> None:
        self._leavers -= 1

    async def close(self) -> None:
        """Listen no more, and drop those who have not said yet who they are."""
        self._closed = True
        if self._server is not None:
            # asyncio leaves a socket open that it has accepted when its server is closed in the
            # moment after: let nobody come any more, and have those let in who are at the door
            with contextlib.suppress(OSError):
                os.unlink(self._unix_path)
            for _ in range(LAST_TURNS):
                await asyncio.sleep(0)
            self._server.close()
        for tls_listener, _ in self.tls_listeners.values():
            tls_listener.close()
        for handshake in list(self.unauthenticated):
            handshake.close()

    async def close_connections(self) -> None:
        """Close all that are open, those too that came in at the last moment, such as lanes."""
        for tls_listener, _ in self.tls_listeners.values():
            await tls_listener.closed()
        deadline = self.loop.time() + CLOSE_GRACE
        while self._connections and self.loop.time() < deadline:
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    def remove(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from any other; None: there is none."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _make_private(folder: str) -> bool:
    """Make this folder again, if it is gone; whether it is one that only this user may enter."""
    with contextlib.suppress(OSError):
        os.mkdir(folder, 0o700)
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            and not stat.S_IMODE(found.st_mode) & 0o077)


class _Arrival(asyncio.Protocol):
    """A connection that passed a TlsListener, until its protocol is known."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: Any) -> None:
        self._listener.arrived(transport)
