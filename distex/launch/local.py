"""Start a nanny on this machine: a fresh interpreter at the other end of a socket pair."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from distex import machine
from distex.errors import PoolStartError
from distex.launch.base import Launcher, Nanny, NannyListener, NannyStream, WorkerEndpoint

SEED = "PYTHONHASHSEED"
POLL_INTERVAL = 0.005  # seconds between looks whether a process has ended that was told to
# the garbage collector finds nothing in what is being imported, and takes 12 of 100 ms for that;
# the nanny enables it when it has imported all
BOOT = ("import gc, sys; gc.disable(); sys.path[:] = {path!a}; "
        "from distex.worker.nanny import main; main({fd}, {seed!a}, *sys.argv[1:])")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start_nanny(
    *arguments: str, hash_seed: int, inherits: Sequence[int] = ()
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a nanny with this interpreter, in the present working directory.

    It is the leader of a session of its own: a Ctrl-C in the terminal reaches this process alone,
    which decides what becomes of the workers.

    Args:
        arguments: of nanny.main(), after the first two.
        hash_seed: what it has as PYTHONHASHSEED.
        inherits: further file descriptors for it.

    Returns:
        the process, and the socket to it, which does not block.

    Raises:
        OSError: it can't be started.
    """
    machine.open_standard_files()
    python = interpreter()
    ours, theirs = socket.socketpair()
    try:
        boot = BOOT.format(path=_import_path(), fd=theirs.fileno(), seed=os.environ.get(SEED, ""))
        process = subprocess.Popen(
            [python, *_interpreter_flags(), "-c", boot, *arguments],
            env={**os.environ, SEED: str(hash_seed)},
            pass_fds=[theirs.fileno(), *inherits],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return process, ours


async def end_process(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for a process to end, and kill it if it has not after timeout seconds; its exit code."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while (code := process.poll()) is None:
        if loop.time() > deadline:
            process.kill()
        await asyncio.sleep(POLL_INTERVAL)
    return code


class LocalNanny(Nanny):
    """A nanny process and the stream to it; see launch.stream.Nanny."""

    prints = True

    def __init__(
        self, process: subprocess.Popen[bytes], stream: NannyStream, unix_path: str,
        address: tuple[str, int], endpoint: WorkerEndpoint,
    ) -> None:
        self._endpoint = endpoint
        self._process = process
        self.stream = stream
        self.unix_path = unix_path
        self.address = address

    def is_reachable(self) -> bool:
        """See launch.base.Nanny."""
        return self._endpoint.local_is_open()

    async def reopen(self, endpoint: WorkerEndpoint) -> None:
        """See launch.base.Nanny."""
        self.unix_path, self.address = await endpoint.open_local()

    @property
    def pid(self) -> int:
        """Process id of the nanny."""
        return self._process.pid

    async def wait(self, timeout: float) -> None:
        """Wait for the process to end, and kill it if it has not after timeout seconds."""
        await end_process(self._process, timeout)
        await asyncio.wait([self.stream.closed], timeout=timeout)  # its last words are on the way

    def kill(self) -> None:
        """End it at once, without the loop. Its workers die with it."""
        self._process.kill()
        self._process.wait()


def _working_directory() -> str | None:
    """Return the working directory, or None if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _import_path() -> list[str]:
    """Where this process finds modules. A nanny with a path of its own would find others: those in
    the working directory first."""
    # if it was deleted: the empty path leads there, and stays first or where it is
    here = _working_directory() or ""
    return [*(entry or here for entry in sys.path if isinstance(entry, str)), ROOT]


def _interpreter_flags() -> list[str]:
    """The options this interpreter was started with, as multiprocessing passes them on, and those
    that it leaves out."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        flags.append("-u")
    for name, value in sys._xoptions.items():
        option = name if value is True else f"{name}={value}"
        if option not in flags:
            flags += ["-X", option]
    # the nanny sets its path itself; without -P CPython 3.13.0 looks for a working directory that
    # was deleted, and fails, whenever a module lacks an attribute
    if _working_directory() is None and "-P" not in flags:
        flags.append("-P")
    return flags


def interpreter() -> str:
    """Return the path of this Python interpreter.

    Raises:
        OSError: it has none.
    """
    if getattr(sys, "frozen", False):
        raise OSError(
            f"this is a frozen application: {sys.executable} is no Python interpreter, and would "
            "start the application again. Have the workers run on a host with Python, this one or "
            "another: Pool(0, 'ssh://localhost/8'), or Pool(localport=...) and "
            "'python -m distex worker'; or run the program with Python")
    beside = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable or os.path.join(sys.exec_prefix, beside)
    if not sys.executable and not os.path.exists(python):
        raise OSError("this program embeds Python, and no interpreter is beside it for workers: "
                      "set sys.executable to one")
    return python


class LocalLauncher(Launcher):
    """Starts nannies on this machine; see launch.stream.Launcher."""

    is_local = True
    key: object = "this machine"

    def __init__(self, num_workers: int, hash_seed: int) -> None:
        if num_workers:
            try:
                interpreter()
            except OSError as exc:
                raise PoolStartError(str(exc)) from None
        self._hash_seed = hash_seed
        self.host = socket.gethostname()
        self.num_workers = num_workers
        self._begun: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def begin(self) -> None:
        """Start the next nanny: until it serves, the pool can do all else that it has to."""
        if self._begun is None:
            with contextlib.suppress(OSError):  # launch() tries again, and says why it can't
                self._begun = start_nanny(hash_seed=self._hash_seed)

    def give_up(self) -> None:
        """See launch.stream.Launcher."""
        begun, self._begun = self._begun, None
        if begun is not None:
            _tear_down(*begun)

    async def launch(self, listener: NannyListener, endpoint: WorkerEndpoint) -> LocalNanny:
        """See launch.stream.Launcher."""
        begun, self._begun = self._begun, None
        process, ours = begun or start_nanny(hash_seed=self._hash_seed)
        loop = asyncio.get_running_loop()
        try:
            where = await endpoint.open_local()
            _, stream = await loop.create_connection(lambda: NannyStream(listener), sock=ours)
        except BaseException:  # it may be cancelled, as the pool is ended
            _tear_down(process, ours)
            raise
        return LocalNanny(process, stream, *where, endpoint)


def _tear_down(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    process.kill()
    process.wait()
    ours.close()
