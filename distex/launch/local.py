"""A nanny on this machine: a fresh interpreter at the other end of a socket pair."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distex.launch.stream import NannyListener, NannyStream

POLL_INTERVAL = 0.005  # seconds between looks whether a process has ended that was told to
# the garbage collector finds nothing in what is being imported, and takes 12 of 100 ms for that;
# the nanny enables it when it has imported all
BOOT = ("import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); "
        "from distex.nanny import main; main({fd})")


class LocalNanny:
    """A nanny process and the stream to it; see launch.stream.Nanny."""

    def __init__(
        self, process: subprocess.Popen[bytes], stream: NannyStream, unix_path: str
    ) -> None:
        self._process = process
        self.stream = stream
        self.unix_path = unix_path

    @property
    def pid(self) -> int:
        """Process id of the nanny."""
        return self._process.pid

    async def wait(self, timeout: float) -> None:
        """Wait for the process to end, and kill it if it has not after timeout seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._process.poll() is None:
            if loop.time() > deadline:
                self._process.kill()
            await asyncio.sleep(POLL_INTERVAL)

    def kill(self) -> None:
        """End it at once, without the loop. Its workers die with it."""
        self._process.kill()
        self._process.wait()


def _interpreter_flags() -> list[str]:
    """The options this interpreter was started with, as multiprocessing passes them on."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


class LocalLauncher:
    """Starts nannies with this interpreter, in the present working directory.

    A nanny is the leader of a session of its own: a Ctrl-C in the terminal reaches the pool's
    process alone, which decides what becomes of the workers.
    """

    is_local = True

    def __init__(self, num_workers: int) -> None:
        self.host = socket.gethostname()
        self.num_workers: int | None = num_workers

    async def launch(
        self, listener: NannyListener, unix_path: str, meet: Callable[[], Any]
    ) -> LocalNanny:
        """See launch.stream.Launcher."""
        ours, theirs = socket.socketpair()
        try:
            boot = BOOT.format(fd=theirs.fileno())
            package_folder = str(Path(__file__).resolve().parents[2])
            process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", boot, package_folder],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=os.getcwd(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(lambda: NannyStream(listener), sock=ours)
        return LocalNanny(process, stream, unix_path)
