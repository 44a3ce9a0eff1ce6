"""``python -m distex worker``: start workers that join a pool which listens.

They are started by a person, systemd, Slurm, Kubernetes, or any other scheduler.

    pool, listening <──TLS, the secret── Relay ──starts──> nanny ──fork──> worker 1 .. N

It tries for a while to reach the pool, again when the pool is lost, and ends when the pool says
that it is over. With SIGTERM or SIGINT the workers end what they have, with a second one they
don't.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal

from distex.commands.server import log_to_stderr
from distex.errors import HostError
from distex.launch.relay import Relay, socket_address
from distex.options import CONNECT_TIMEOUT, seconds
from distex.wire.messages import PUT_OFF, REFUSED, STOPPED
from distex.wire.secret import VARIABLE, Secret, default_path
from distex.wire.tls import NANNY, tells_another_secret

logger = logging.getLogger("distex.worker")

OVER, UNREACHABLE, UNUSABLE, UNWANTED = 0, 1, 2, 3  # exit codes

FIRST_DELAY = 0.2  # seconds until the pool is tried again, doubled each time
LONGEST_DELAY = 5.0  # seconds


class Joiner:
    """Joins one pool, again and again.

    Args:
        secret: as the pool has it.
        address: where the pool listens.
        workers: how many; 0: one for each CPU.
        wait: seconds to wait for the pool to come, or to come back.
    """

    def __init__(
        self, secret: Secret, address: tuple[str, int], workers: int, wait: float
    ) -> None:
        self._secret = secret
        self._address = address
        self._workers = workers
        self._wait = wait
        self._connecting: asyncio.Task[tuple[Relay | None, str]] | None = None
        self._relay: Relay | None = None
        self._signals = 0
        self._leave = asyncio.Event()

    def leave(self) -> None:
        """Let the workers end what they have, and end; called again: end at once."""
        self._signals += 1
        self._leave.set()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._relay is not None:
            if self._signals == 1:
                logger.info("leaving the pool once the workers have ended what they have")
                self._relay.leave()
            else:
                self._relay.close()

    async def run(self) -> int:
        """Do so; the exit code."""
        where = "{}, port {}".format(*self._address)
        loop = asyncio.get_running_loop()
        since, delay, last = loop.time(), FIRST_DELAY, ""
        while not self._leave.is_set():
            self._connecting = loop.create_task(self._connect())
            await asyncio.wait([self._connecting])
            if self._connecting.cancelled():
                logger.info("left before the pool was reached")
                return OVER
            relay, reason = self._connecting.result()
            self._connecting = None
            if relay is not None:
                code = await self._serve(relay)
                if code == STOPPED or self._leave.is_set():
                    logger.info(
                        "the pool has ended, or let these workers go" if code == STOPPED
                        else "left")
                    return OVER
                if code == REFUSED:
                    logger.error("the pool at %s does not want these workers", where)
                    return UNWANTED
                reason = f"the connection was lost: {relay.reason}"
                if code == PUT_OFF:
                    reason = "it does not want these workers now"
                elif relay.has_begun:
                    since, delay = loop.time(), FIRST_DELAY
            if loop.time() - since > self._wait:
                logger.error("no pool at %s within %g s: %s", where, self._wait, reason)
                return UNREACHABLE
            if reason != last:
                logger.info("no pool at %s yet: %s", where, reason)
                last = reason
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leave.wait(), delay)
            delay = min(2 * delay, LONGEST_DELAY)
        return OVER

    async def _connect(self) -> tuple[Relay | None, str]:
        """The connection, or why there is none."""
        host, port = self._address
        loop = asyncio.get_running_loop()
        context = self._secret.context([NANNY], server_side=False)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, relay = await loop.create_connection(
                    self._make_relay, host, port, ssl=context,
                    ssl_handshake_timeout=CONNECT_TIMEOUT)
        except OSError as exc:
            if tells_another_secret(exc):  # something else may be there before the pool is
                return None, (f"what is there has another secret than {self._secret.path}: if it "
                              "is the pool, copy it from there")
            return None, str(exc) or type(exc).__name__
        return relay, ""

    def _make_relay(self) -> Relay:
        host, port = self._address
        return Relay(self._secret, host, str(port), str(self._workers))

    async def _serve(self, relay: Relay) -> int:
        """Serve the pool until the end; the nanny's exit code."""
        logger.info("connected to the pool at %s, port %d", *self._address)
        self._relay = relay
        if self._leave.is_set():  # since there was a connection
            relay.close()
        try:
            return await relay.ended
        finally:
            self._relay = None


async def join(joiner_arguments: tuple[Secret, tuple[str, int], int, float]) -> int:
    """Run a Joiner, with signals."""
    joiner = Joiner(*joiner_arguments)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, joiner.leave)
    return await joiner.run()


def main(arguments: list[str]) -> int:
    """The command; its exit code: 0 the pool is over, or a signal came; 1 the pool can't be
    reached; 2 an argument or the secret is of no use; 3 the pool does not want these workers."""
    parser = argparse.ArgumentParser(
        prog="python -m distex worker",
        description="Start workers that join a pool which listens: Pool(localport=...).",
        epilog="Exit codes: 0 the pool is over, or SIGTERM or SIGINT came (the first lets tasks "
               "end, the second does not); 1 the pool can't be reached; 2 an argument or the "
               "secret is of no use; 3 the pool does not want these workers, so that trying "
               "again makes no sense.")
    parser.add_argument("--connect", required=True, metavar="HOST:PORT",
                        help="where the pool listens")
    parser.add_argument("--secret", default="", metavar="FILE",
                        help=f"as the pool has it (default {default_path()}, or what {VARIABLE} "
                             "names)")
    parser.add_argument("--workers", type=int, default=0, metavar="N",
                        help="default: one for each CPU that may be used")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS",
                        help="for the pool to come, or to come back (default %(default)g; "
                             "inf: for ever)")
    parser.add_argument("--directory", default="", help="working directory of the workers")
    given = parser.parse_args(arguments)
    log_to_stderr()
    if given.workers < 0:
        parser.error("--workers must not be negative")
    try:
        wait = seconds("--wait", given.wait, least=0)
    except ValueError as exc:
        parser.error(str(exc))
    try:
        address = socket_address(given.connect)
        secret = Secret(given.secret)
        if given.directory:
            os.chdir(given.directory)
    except ValueError as exc:  # HostError too
        parser.error(str(exc) if isinstance(exc, HostError) else f"--connect: {exc}")
    except OSError as exc:
        parser.error(f"--directory: {exc}")
    return asyncio.run(join((secret, address, given.workers, wait)))
