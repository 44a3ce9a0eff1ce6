"""Real spawn servers and real joining workers, in processes of their own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from machine import DEADLINE, is_alive, wait_until

from distex import TcpOptions

TESTS = str(Path(__file__).parents[1])  # here workers find the tests' modules


class Command:
    """A command of distex in a process of its own.

    Args:
        folder: for what it writes.
        arguments: of ``python -m``.
        prefix: what runs it, such as ``ip netns exec``.
        environment: further variables.
    """

    def __init__(self, folder, *arguments, prefix=(), environment=None, name="command"):
        self.log_file = Path(folder, f"{name}-{time.monotonic_ns()}.log")
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *map(str, arguments)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=TESTS, env={**os.environ, **(environment or {})})

    @property
    def log(self):
        """What it has written."""
        return self.log_file.read_text()

    def says(self, pattern):
        """Wait until it has written this; the match."""
        def found():
            assert self.process.poll() is None or re.search(pattern, self.log), self.log
            return re.search(pattern, self.log)

        return wait_until(found, f"{pattern!r}", lambda: self.log)

    def children(self):
        """All living processes below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.process.pid).children(recursive=True)
                    if is_alive(child.pid)]
        return []

    def wait(self):
        """Wait for its end; its exit code."""
        return self.process.wait(DEADLINE)

    def stop(self, number=signal.SIGTERM):
        """End it; its exit code. Afterwards nothing that it has started is there."""
        children = self.children()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.wait()
        wait_until(lambda: not any(is_alive(child.pid) for child in children), "its children's end")
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)


class Server(Command):
    """``python -m distex.server``, listening."""

    def __init__(self, folder, secret, *arguments, port=0, **options):
        super().__init__(folder, "distex.server", "--secret", secret, "--port", port, *arguments,
                         name="server", **options)
        self.port = int(self.says(r"serves pools on \S+, port (\d+)")[1])
        self.secret = secret

    def url(self, workers=2):
        """For Pool."""
        return f"127.0.0.1:{self.port}/{workers}"

    def tcp(self, **options):
        """For Pool."""
        return TcpOptions(secret=self.secret, **options)

    def dropped(self):
        """How many connections it has dropped, once it has ended."""
        return int(re.search(r"ended, after (\d+) connections were dropped", self.log)[1])


class Joiner(Command):
    """``python -m distex worker``."""

    def __init__(self, folder, secret, address, *arguments, **options):
        host, port = address
        super().__init__(folder, "distex", "worker", "--connect", f"{host}:{port}",
                         "--secret", secret, *arguments, name="joiner", **options)


# In a folder on PYTHONPATH it makes another version of distex of what is started with it.
OTHER_VERSION = """
import distex._version, distex.options
distex._version.__version__ = "99.0"
distex.options.WIRE_VERSION = 99
"""


def other_version(folder):
    """Variables for the environment of a process that is to have another version of distex."""
    Path(folder, "sitecustomize.py").write_text(OTHER_VERSION)
    return {"PYTHONPATH": str(folder)}
