"""``python -m distex check ssh://maxi/8``: try a host step by step; how to mend what fails."""

import argparse
import asyncio
import contextlib
import os
import time
from typing import Any

from distex.errors import DistexError
from distex.launch.hosts import HostSpec, SshOptions
from distex.launch.ssh import STEPS, SshError, SshLauncher
from distex.pool import Pool


class _Report:
    """Prints how each of the STEPS went, in their order."""

    def __init__(self) -> None:
        self._left = list(STEPS)

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


class _Silence:
    """Listens to a nanny that is given nothing to do."""

    def nanny_says(self, message: Any) -> None:
        pass

    def nanny_gone(self, reason: str) -> None:
        pass


class _Closed:
    """Lets nobody in."""

    def meet(self) -> Any:
        raise ConnectionRefusedError("no worker was started")

    async def open_local(self) -> tuple[str, tuple[str, int]]:
        raise ConnectionRefusedError("no worker was started")

    async def open_tcp(self, ours: str) -> tuple[str, int]:
        raise ConnectionRefusedError("no worker was started")


async def check(spec: HostSpec) -> bool:
    """Try the host, and print what comes of it.

    Args:
        spec: of a host that is reached by ssh.

    Returns:
        whether it can be worked with.
    """
    report = _Report()
    step = "reach"
    try:
        nanny = await SshLauncher(spec).launch(_Silence(), _Closed())
        found = nanny.session.found
        report.ok("reach", str(spec))
        report.ok("authenticate", f"as {nanny.connection.get_extra_info('username')}")
        report.ok("Python", f"{found['python']} at {found['executable']}")
        report.ok("distex", found["distex"])
        report.ok("tunnel", f"from {nanny.unix_path}")
        await nanny.wait(0.0)
        step = "task"
        since = time.perf_counter()
        async with Pool(0, spec) as pool:
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


def main(arguments: list[str]) -> int:
    """The command; its exit code: 0 if all is well, 1 if a step failed, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m distex check",
        description="Try a host step by step, and say how to mend what fails.")
    parser.add_argument("host", help="ssh://[user@]host[:port][/workers]")
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
        spec = HostSpec(given.host, SshOptions(
            client_keys=given.key, known_hosts=given.known_hosts, config=given.config,
            python=given.python, working_directory=given.directory,
            connect_timeout=given.timeout))
        if not spec.is_ssh:
            parser.error(f"only hosts with ssh:// can be tried: ssh://{given.host}")
    except DistexError as exc:
        parser.error(str(exc))
    return 0 if asyncio.run(check(spec)) else 1
