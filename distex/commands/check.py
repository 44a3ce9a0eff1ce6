"""``python -m distex check``: try a host step by step, and say how to mend what fails."""

import argparse
import asyncio
import contextlib
import os
import time
from typing import Any

from distex.errors import DistexError
from distex.launch.hosts import HostSpec, SshOptions, TcpOptions
from distex.launch.server import ServerLauncher
from distex.launch.ssh import STEPS, SshError, SshLauncher
from distex.pool import Pool

TCP_STEPS = ("connect", "task")


class _Report:
    """Prints how each of the steps went, in their order."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        self._left = list(steps)

    def ok(self, step: str, text: str = "") -> None:
        """This step went well, and those before it."""
        while step in self._left:
            name = self._left.pop(0)
            print(f"{name:<14}ok  {text if name == step else ''}".rstrip(), flush=True)

    def failed(self, step: str, exc: Exception) -> None:
        """This step failed; those before it went well."""
        with contextlib.suppress(IndexError):
            while self._left[0] != step:
                self.ok(self._left[0])
        print(f"{step:<14}FAILED\n{exc}", flush=True)


class _IgnoreMessages:
    """Listens to a nanny that is given nothing to do."""

    def on_nanny_message(self, message: Any) -> None:
        pass

    def on_nanny_lost(self, reason: str) -> None:
        pass


class _NoWorkers:
    """Lets nobody in."""

    def accept(self) -> Any:
        raise ConnectionRefusedError("no worker was started")

    hash_seed = 0

    def local_is_open(self) -> bool:
        return True

    async def open_local(self) -> tuple[str, tuple[str, int]]:
        return "", ("", 0)

    async def open_tcp(self, local_address: str) -> tuple[str, int]:
        return local_address, 0


async def check(spec: HostSpec, tcp: TcpOptions) -> bool:
    """Try the host, and print what comes of it.

    Args:
        spec: of the host.
        tcp: if it is not reached by ssh.

    Returns:
        whether it can be worked with.
    """
    report = _Report(STEPS if spec.is_ssh else TCP_STEPS)
    step = "reach" if spec.is_ssh else "connect"
    try:
        await (_reach_by_ssh(spec, report) if spec.is_ssh else _connect(spec, tcp, report))
        step = "task"
        since = time.perf_counter()
        async with Pool(0, spec, tcp=tcp) as pool:
            ready = time.perf_counter() - since
            pid = await pool.run_async(os.getpid)
            since = time.perf_counter()
            await pool.run_async(os.getpid)
            milliseconds = 1000 * (time.perf_counter() - since)
            report.ok("task", f"done by worker {pid} in {milliseconds:.1f} ms; "
                              f"{pool.total_workers()} workers were ready in {ready:.1f} s")
    except SshError as exc:
        report.failed(exc.step, exc)
    except DistexError as exc:
        cause = exc.__cause__
        report.failed(cause.step if isinstance(cause, SshError) else step, exc)
    else:
        return True
    return False


async def _reach_by_ssh(spec: HostSpec, report: _Report) -> None:
    nanny = await SshLauncher(spec).launch(_IgnoreMessages(), _NoWorkers())
    found = nanny.session.found
    report.ok("reach", str(spec))
    report.ok("authenticate", f"as {nanny.connection.get_extra_info('username')}")
    report.ok("Python", f"{found['python']} at {found['executable']}")
    report.ok("distex", found["distex"])
    report.ok("tunnel", f"from {nanny.unix_path}")
    await nanny.wait(0.0)


async def _connect(spec: HostSpec, tcp: TcpOptions, report: _Report) -> None:
    nanny = await ServerLauncher(spec, tcp).launch(_IgnoreMessages(), _NoWorkers())
    await nanny.wait(0.0)
    report.ok("connect", f"{spec}, which has the same secret")


def main(arguments: list[str]) -> int:
    """The command; its exit code: 0 if all is well, 1 if a step failed, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m distex check",
        description="Try a host step by step, and say how to mend what fails.")
    parser.add_argument("host", help="ssh://[user@]host[:port][/workers], or host[:port][/workers] "
                                     "where python -m distex.server runs")
    parser.add_argument("--secret", default="", metavar="FILE", help="for a host without ssh")
    parser.add_argument("--python", default="", help="path of the Python there")
    parser.add_argument("--directory", default="", help="working directory there")
    parser.add_argument("--key", action="append", default=[], help="file with a private key")
    parser.add_argument("--known-hosts", action="append", default=[], metavar="FILE",
                        help="in place of ~/.ssh/known_hosts")
    parser.add_argument("--config", action="append", default=[], metavar="FILE",
                        help="in place of ~/.ssh/config")
    parser.add_argument("--timeout", type=float, default=SshOptions.connect_timeout,
                        metavar="SECONDS", help="for the connection (default %(default)g)")
    given = parser.parse_args(arguments)
    try:
        tcp = TcpOptions(secret=given.secret, connect_timeout=given.timeout)
        ssh = SshOptions(
            client_keys=given.key, known_hosts=given.known_hosts, config=given.config,
            python=given.python, working_directory=given.directory,
            connect_timeout=given.timeout)
        spec = HostSpec(given.host)
        if spec.is_ssh:
            spec = HostSpec(given.host, ssh)
    except DistexError as exc:
        parser.error(str(exc))
    return 0 if asyncio.run(check(spec, tcp)) else 1
