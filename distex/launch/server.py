"""Start a nanny on another machine by TCP, through a spawn server there.

    pool ──one TLS connection──> python -m distex.server ──starts──> nanny ──fork──> worker 1 .. N
      ▲                                                                                  │
      └──────────────────────────────── TLS ─────────────────────────────────────────────┘
"""

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any

from distex.errors import HostError
from distex.launch.base import (
    HeartbeatSender,
    Launcher,
    Nanny,
    NannyListener,
    NannyStream,
    WorkerEndpoint,
)
from distex.launch.hosts import HostSpec, TcpOptions
from distex.options import SERVER_PORT
from distex.wire.messages import Begin
from distex.wire.secret import Secret
from distex.wire.tls import NANNY, keep_alive, tells_another_secret


class TcpNanny(Nanny):
    """A nanny at the other end of a TCP connection; see launch.stream.Nanny.

    Args:
        stream: to it; connected.
        address: where its workers connect to the pool.
        keepalive: seconds in which it is noticed that its machine is cut off.
        hash_seed: the PYTHONHASHSEED with which it is started.
    """

    unix_path = ""
    prints = True

    def __init__(
        self, stream: NannyStream, address: tuple[str, int], keepalive: float, hash_seed: int
    ) -> None:
        self.stream = stream
        self.address = address
        keep_alive(stream.transport, keepalive)
        stream.send(Begin(hash_seed))
        self._heartbeat = HeartbeatSender(stream, keepalive)
        self._heartbeat.start()

    async def wait(self, timeout: float) -> None:
        """Wait until the stream has ended, and end it after timeout seconds."""
        await asyncio.wait([self.stream.closed], timeout=timeout)
        self._heartbeat.stop()
        self.stream.abort()
        await asyncio.wait([self.stream.closed])

    def kill(self) -> None:
        """Cut the connection, without the loop; there the nanny and its workers end."""
        transport = self.stream.transport
        ours = None if transport is None else transport.get_extra_info("socket")
        if ours is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(ours.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)


class ServerLauncher(Launcher):
    """Starts nannies behind the spawn server of one host; see launch.stream.Launcher.

    Args:
        spec: the host.
        options: the pool's.
    """

    is_local = False

    def __init__(self, spec: HostSpec, options: TcpOptions) -> None:
        self._where = (spec.host, spec.port or SERVER_PORT)
        self._options = options
        self.host = str(spec)
        self.num_workers = spec.num_workers
        self.key: object = spec.key

    def _error(self, reason: str, mend: str) -> HostError:
        return HostError(f"{self.host}: {reason}\nTo mend it: {mend}")

    async def launch(self, listener: NannyListener, endpoint: WorkerEndpoint) -> TcpNanny:
        """See launch.stream.Launcher."""
        secret = Secret(self._options.secret)
        stream = NannyStream(listener)
        await self._connect(secret, stream)
        try:
            ours = stream.transport.get_extra_info("sockname")[0]
            address = await endpoint.open_tcp(ours)
            if stream.transport is None:
                raise self._error(f"the connection was lost: {stream.reason}", "try again")
            return TcpNanny(stream, address, self._options.keepalive, endpoint.hash_seed)
        except BaseException:
            stream.abort()
            raise

    async def _connect(self, secret: Secret, stream: NannyStream) -> None:
        """Connect to the server; HostError: why that is not possible."""
        host, port = self._where
        timeout = self._options.connect_timeout
        context = secret.context([NANNY], server_side=False)
        loop = asyncio.get_running_loop()
        start = f"start 'python -m distex.server --host ADDRESS --port {port}' there"
        copy = f"copy {secret.path} to that machine, for the server that runs there"
        cause: Exception
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(
                    lambda: stream, host, port, ssl=context, ssl_handshake_timeout=timeout)
            return
        except TimeoutError as exc:
            reason, mend, cause = f"no answer within {timeout:g} s", (
                f"see whether the host is up, and whether a firewall lets port {port} through"), exc
        except ssl.SSLError as exc:
            cause = exc
            if tells_another_secret(exc):
                reason, mend = "the server there has another secret", copy
            else:
                reason = f"what answers on port {port} is no server of distex: {exc}"
                mend = f"{start}; servers of distex 0.7 can't be used any more"
        except ConnectionRefusedError as exc:
            reason, mend, cause = f"nothing listens on port {port}", start, exc
        except OSError as exc:
            reason, mend, cause = f"no connection: {exc or type(exc).__name__}", (
                "see whether the name is right and the host is up"), exc
        raise self._error(reason, mend) from cause


def peer_name(transport: Any) -> str:
    """Address of the machine at the other end."""
    return str(transport.get_extra_info("peername")[0])
