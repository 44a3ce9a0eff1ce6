"""``python -m distex.server``: start a nanny here for each pool that connects.

    pool ──TLS, the secret──> TlsListener ──> Relay ──starts──> nanny ──fork──> worker 1 .. N

Nothing is started for who does not have the secret, and nothing listens without one.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

from distex._version import __version__
from distex.errors import HostError
from distex.launch.relay import Relay
from distex.options import SERVER_PORT
from distex.wire.drops import Drops
from distex.wire.secret import VARIABLE, Secret, default_path, make
from distex.wire.tls import NANNY, TlsListener

logger = logging.getLogger("distex.server")


class Server:
    """Serves pools on one address.

    Args:
        secret: they have to have it.
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._relays: set[Relay] = set()
        self._drops = Drops(logger)  # connections that were not of a pool with the secret
        self._listener = TlsListener(secret, [NANNY], self._accept, self._drops.count)

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; see TlsListener.open()."""
        return await self._listener.open(host, port)

    def _accept(self) -> Relay:
        return Relay(self._secret, connected=self._connected)

    def _connected(self, relay: Relay) -> None:
        self._relays.add(relay)
        relay.ended.add_done_callback(lambda ended: self._relay_ended(relay, ended.result()))

    def _relay_ended(self, relay: Relay, code: int) -> None:
        self._relays.discard(relay)
        if relay.has_begun:
            logger.info("the nanny for the pool on %s has ended with exit code %d: %s",
                        relay.peer, code, relay.reason)
        else:
            self._drops.count(HostError(f"{relay.peer}: {relay.reason}"))

    @property
    def dropped(self) -> int:
        """Connections that were dropped so far."""
        return self._drops.number

    async def close(self) -> None:
        """Serve no more: the nannies and their workers are ended."""
        self._listener.close()
        await self._listener.closed()
        relays = list(self._relays)
        for relay in relays:
            relay.close()
        if relays:
            await asyncio.wait([relay.ended for relay in relays])


async def serve(secret: Secret, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM comes; HostError: it can't be done."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    server = Server(secret)
    address, port = await server.open(host, port)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, ended.set)
    try:
        logger.info("distex %s serves pools on %s, port %d; the secret is %s",
                    __version__, address, port, secret.path)
        await ended.wait()
    finally:
        await server.close()
    logger.info("ended, after %d connections were dropped", server.dropped)


def log_to_stderr() -> None:
    """Have what is going on here be told there."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")


def main(arguments: list[str]) -> int:
    """The command; its exit code: 0 after a signal, 2 if it can't serve."""
    parser = argparse.ArgumentParser(
        prog="python -m distex.server",
        description="Have workers started here for pools on other machines: Pool(0, 'mini/2'). "
                    "Pool and server need the same secret file; who has it can run code here.")
    parser.add_argument("-H", "--host", default="127.0.0.1", metavar="ADDRESS",
                        help="where to listen (default %(default)s: this machine alone)")
    parser.add_argument("-p", "--port", type=int, default=SERVER_PORT,
                        help="default %(default)s; 0: any that is free")
    parser.add_argument("--secret", default="", metavar="FILE",
                        help=f"default {default_path()}, or what {VARIABLE} names")
    parser.add_argument("--make-secret", nargs="?", const="", metavar="FILE",
                        help="make a new secret in this file, and do nothing else")
    given = parser.parse_args(arguments)
    log_to_stderr()
    if given.make_secret is not None:
        path = os.path.expanduser(given.make_secret) or default_path()
        try:
            make(path)
        except OSError as exc:
            parser.error(f"no secret can be made: {exc}")
        print(f"{path} has a new secret. Copy it, with mode 0600, to the machines that are to "
              "have it, and to no other")
        return 0
    try:
        asyncio.run(serve(Secret(given.secret), given.host, given.port))
    except HostError as exc:
        parser.error(str(exc))
    return 0
