"""Helpers for the tests: waiting for conditions, scripts in processes of their own, gates."""

import concurrent.futures
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import psutil
from machine import is_alive

DEADLINE = 20.0  # seconds; how long anything here may take before it counts as hung

wait_until = functools.partial(machine.wait_until, timeout=DEADLINE)
wait_until_async = functools.partial(machine.wait_until_async, timeout=DEADLINE)


def descendants(pid):
    """Pids of all living processes below this one."""
    try:
        return [p.pid for p in psutil.Process(pid).children(recursive=True) if is_alive(p.pid)]
    except psutil.NoSuchProcess:
        return []


def distex_folders():
    """The private folders of pools that exist now, of the tests' processes."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("distex-*")}


def open_lanes(pool):
    """Have the pool open what it opens at the first calls of run()."""
    links = pool._home.supervisor.links()
    with concurrent.futures.ThreadPoolExecutor(len(links)) as threads:
        wait_until(
            lambda: list(threads.map(pool.run, [time.sleep] * len(links), [0.002] * len(links)))
            and all(link.lane is not None for link in links), "the lanes")


class Gate:
    """Where tasks wait until the test lets them go.

    Tasks pass it with ``tasks.pass_gate(gate.path, ...)``, which says that it has arrived.
    """

    def __init__(self, folder, name="gate"):
        self._folder = Path(folder, name)
        self._folder.mkdir()
        self.path = str(self._folder)

    def arrived(self):
        """How many have arrived so far."""
        return len(list(self._folder.glob("arrived-*")))

    def marks(self, word):
        """How many have left this mark."""
        return len(list(self._folder.glob(f"{word}-*")))

    def wait_for(self, number=1):
        """Wait until so many have arrived."""
        wait_until(lambda: self.arrived() >= number, what=f"{number} tasks to arrive",
                   details=self.arrived)

    async def wait_for_async(self, number=1):
        """As wait_for(), without blocking the loop."""
        await wait_until_async(lambda: self.arrived() >= number, what=f"{number} tasks to arrive")

    def open(self):
        """Let all pass, also those to come."""
        (self._folder / "open").touch()

    def close(self):
        """Let nobody pass any more."""
        (self._folder / "open").unlink()


class Script:
    """A Python program in a process (group) of its own, ended with the ``with`` block.

    Args:
        source: the program; written to a file in the folder.
        folder: where.
        arguments: for sys.argv[1:].
        command: what runs it; ``[sys.executable, file]`` if not given.
        options: for subprocess.Popen.
    """

    def __init__(self, source, folder, *arguments, command=None, **options):
        self.file = Path(folder, "script.py")
        self.file.write_text(source)
        command = command or [sys.executable, str(self.file)]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, **options)
        self.stderr = ""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):
            self.process.communicate(timeout=DEADLINE)

    @property
    def pid(self):
        return self.process.pid

    def read_line(self):
        """The next line that it prints."""
        return self.process.stdout.readline().rstrip("\n")

    def finish(self, text=None, timeout=DEADLINE):
        """Let it come to its end: the rest of what it prints. Its errors are in ``stderr`` then."""
        output, self.stderr = self.process.communicate(text, timeout=timeout)
        return output

    def signal_group(self, number):
        """Send a signal to its process group, as a terminal does."""
        os.killpg(self.process.pid, number)


def run_script(source, folder, *arguments, **options):
    """Run a program to its end, which has to be a good and quiet one; what it printed."""
    with Script(source, folder, *arguments, **options) as script:
        output = script.finish()
        assert (script.process.returncode, script.stderr) == (0, ""), script.stderr
        return output.splitlines()
