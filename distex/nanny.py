"""The nanny: one process per host that forks the workers, watches them and reports how they died.

    pool <──Serving─────────────────────── nanny
    pool ──Configure, Spawn, Kill, Stop──> nanny ──fork──> worker 1 .. N
    pool <──Started, Exited, Failed─────── nanny <─SIGCHLD─┘

It imports once what workers need and stays without threads and without an event loop, so a fork is
cheap and safe. When the stream from the pool ends, or the pool's process is gone, it kills its
workers: nothing is orphaned. Each worker leads a process group of its own, which is killed as a
whole once the worker is gone.

Where there is no fork (Windows) it starts each worker as a fresh interpreter. That path is
untested.
"""

import contextlib
import gc
import mmap
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from distex import __version__
from distex.messages import (
    PYTHON,
    Alive,
    Configure,
    Exited,
    Failed,
    Kill,
    Serving,
    Spawn,
    Started,
    Stop,
    Unpacker,
    pack,
)
from distex.options import WIRE_VERSION, usable_cpus

LOOK_INTERVAL = 1.0  # seconds between looks whether the parent is still there
NOTES_BYTES = 64  # shared with each worker; a cache line, so that none is shared by two workers
NOTES_AT_ONCE = 1024  # workers whose notes lie in one mapping
MAX_FOLDER_LENGTH = 80  # the name of a socket in it can't be longer than 107 bytes
HAS_FORK = hasattr(os, "fork")

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Linux' prctl; does nothing elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Child:
    """A worker as its nanny sees it."""

    def __init__(self, number: int, page: memoryview) -> None:
        self.number = number
        self.page = page
        self.process: Any = None  # a subprocess.Popen, where there is no fork

    def task_ids(self) -> tuple[int, int]:
        """Ids of the last task that it started, and of the last one it had done."""
        with self.page.cast("Q") as ids:
            return ids[0], ids[1]


class Notes:
    """Memory shared with the workers, a piece for each.

    In few mappings: each mapping that there is makes each fork dearer, which would make the start
    of thousands of workers quadratic.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A zeroed piece."""
        if not self._free:
            memory = memoryview(mmap.mmap(-1, NOTES_BYTES * NOTES_AT_ONCE))
            self._free = [memory[start : start + NOTES_BYTES]
                          for start in range(0, memory.nbytes, NOTES_BYTES)]
        page = self._free.pop()
        page[:] = bytes(NOTES_BYTES)
        return page

    def give_back(self, page: memoryview) -> None:
        """The worker that had it is gone."""
        self._free.append(page)


class Pipes:
    """Two file descriptors, as the socket that a Nanny wants."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target

    def fileno(self) -> int:
        """What to wait for input on."""
        return self._source

    def recv(self, size: int) -> bytes:
        """The next bytes, at most size; none: the end."""
        return os.read(self._source, size)

    def sendall(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view):]

    def close(self) -> None:
        """Close both."""
        os.close(self._source)
        os.close(self._target)


class Nanny:
    """Does what the pool says on one stream.

    Args:
        stream: to the pool.
        parent: process id whose end is this one's end too; None: not watched.
    """

    def __init__(self, stream: socket.socket | Pipes, parent: int | None) -> None:
        self.stream = stream
        self.parent = parent
        self.config: Configure | None = None
        self.children: dict[int, Child] = {}  # by pid
        self.notes = Notes()
        self.unpacker = Unpacker(to_nanny=True)
        self.stop_at: float | None = None
        self.alone_at: float | None = None  # when the pool is to be taken for gone
        self.selector = selectors.DefaultSelector()
        self.selector.register(stream, selectors.EVENT_READ)
        self.wake: tuple[socket.socket, socket.socket] | None = None

    def run(self) -> None:
        """Serve until the pool says so or is gone."""
        if HAS_FORK:
            self.wake = socket.socketpair()
            for end in self.wake:
                end.setblocking(False)
            self.selector.register(self.wake[0], selectors.EVENT_READ)
            signal.set_wakeup_fd(self.wake[1].fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda signum, frame: None)
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._send(Serving(WIRE_VERSION, __version__, PYTHON, socket.gethostname(), os.getpid(),
                           usable_cpus()))
        try:
            while self._serve():
                pass
        finally:
            self._kill_all()
            self._remove_folder()
            self.selector.close()
            for end in self.wake or ():
                end.close()

    def _serve(self) -> bool:
        """One round; False when all is done."""
        timeout = LOOK_INTERVAL if HAS_FORK else 0.02
        if self.stop_at is not None:
            if not self.children:
                return False
            timeout = min(timeout, self.stop_at - time.monotonic())
            if timeout <= 0:
                return False
        ready = {key.fileobj for key, _ in self.selector.select(timeout)}
        if self.parent is not None and os.getppid() != self.parent:
            return False
        if self.alone_at is not None and time.monotonic() > self.alone_at and not ready:
            return False
        if self.wake is not None and self.wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                self.wake[0].recv(4096)
        self._reap()
        if self.stream in ready:
            try:
                data = self.stream.recv(65536)
            except OSError:  # the pool died with our messages unread
                data = b""
            if not data:
                return False
            for message in self.unpacker.feed(data):
                self._obey(message)
        return True

    def _obey(self, message: Any) -> None:
        if isinstance(message, Configure):
            self._configure(message)
        elif isinstance(message, Spawn):
            self._spawn(message.number)
        elif isinstance(message, Kill):
            for pid, child in self.children.items():
                if child.number == message.number:
                    os.kill(pid, message.signal)
        elif isinstance(message, Stop):
            self.stop_at = time.monotonic() + message.grace
        elif isinstance(message, Alive):
            self.alone_at = time.monotonic() + message.timeout

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # the pool is gone, as the next read will tell
            self.stream.sendall(pack(message))

    def _configure(self, config: Configure) -> None:
        """Import what the workers will need, and keep it out of the garbage collector's way: what
        it does not touch stays shared."""
        self.config = config
        if config.sys_path:
            sys.path[:] = config.sys_path
        sys.argv[:] = config.argv
        try:
            from distex import worker

            worker.preload(config)
        except Exception:
            self._send(Failed(traceback.format_exc()))
            return
        gc.freeze()
        gc.enable()

    def _spawn(self, number: int) -> None:
        if self.config is None or self.stop_at is not None:
            return
        child = Child(number, self.notes.take())
        try:
            pid = self._fork(child) if HAS_FORK else self._popen(child)
        except OSError as exc:
            self._send(Failed(f"worker {number} can't be started: {exc}"))
            return
        self.children[pid] = child
        self._send(Started(number, pid))

    def _fork(self, child: Child) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        nanny = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # the child does it too: whoever comes first
                os.setpgid(pid, pid)
            return pid
        status = 1
        try:
            self._become_worker(nanny)
            from distex import worker

            assert self.config is not None
            worker.main(self.config, child.number, child.page)
            status = 0
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            _leave(status)

    def _become_worker(self, nanny: int) -> None:
        """Leave behind in the child what is the nanny's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        self.stream.close()
        assert self.wake is not None
        for end in self.wake:
            end.close()
        self.children.clear()
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nanny:  # it died before that
            os._exit(1)

    def _popen(self, child: Child) -> int:
        import subprocess

        assert self.config is not None
        child.process = process = subprocess.Popen(
            [sys.executable, "-c", "from distex.worker import spawned; spawned()"],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(pack(self.config) + pack(Spawn(child.number)))
        process.stdin.close()
        return process.pid

    def _reap(self) -> None:
        while True:
            try:
                pid, exitcode = self._next_exit()
            except ChildProcessError:
                return
            child = self.children.pop(pid, None)
            if child is None:  # a worker's child that lost its parent
                continue
            _kill_group(pid)
            self._send(Exited(child.number, pid, exitcode, *child.task_ids()))
            self.notes.give_back(child.page)

    def _next_exit(self) -> tuple[int, int]:
        """Pid and exit code of a child that has ended; ChildProcessError if there is none."""
        if HAS_FORK:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                return pid, os.waitstatus_to_exitcode(status)
        for pid, child in self.children.items():
            if child.process is not None and child.process.poll() is not None:
                return pid, int(child.process.returncode)
        raise ChildProcessError

    def _remove_folder(self) -> None:
        """Remove the pool's socket, if the pool is gone and could not."""
        if self.stop_at is None and self.config is not None and self.config.unix_path:
            with contextlib.suppress(OSError):
                os.unlink(self.config.unix_path)
                os.rmdir(os.path.dirname(self.config.unix_path))

    def _kill_all(self) -> None:
        for pid, child in self.children.items():
            if child.process is not None:
                child.process.kill()
            else:
                _kill_group(pid)
        for pid, child in self.children.items():
            if child.process is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    if HAS_FORK:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _leave(status: int) -> NoReturn:
    """End a forked worker: without going through what the nanny would clean up."""
    import atexit

    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    finally:
        os._exit(status)


def main(fd: int) -> None:
    """Run a nanny on this machine, on the socket with this file descriptor."""
    with socket.socket(fileno=fd) as stream:
        Nanny(stream, os.getppid()).run()


def serve(found: dict[str, Any], tell: Callable[[], None]) -> int:
    """Run a nanny at the far end of an ssh connection, on stdin and stdout; see launch/ssh.py.

    Args:
        found: gets the folder in which the tunnel for the workers is to begin, or the error.
        tell: sends it to the pool.

    Returns:
        the exit code.
    """
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="distex-")  # only this user may enter
        if len(folder) > MAX_FOLDER_LENGTH:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix="distex-", dir="/tmp")
    except OSError as exc:
        found["error"] = f"no folder can be made for temporary files: {exc}"
        tell()
        return 1
    try:
        found["folder"] = folder
        tell()
        stream = Pipes(os.dup(0), os.dup(1))
        # what workers and tasks print goes to stderr, and they find stdin at its end
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        with contextlib.closing(stream):
            Nanny(stream, None).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def script() -> None:
    """``distex_proc``: tell that the installation is in order; with ``--executable`` only by which
    Python it is run."""
    if sys.argv[1:] == ["--executable"]:
        print(sys.executable)
        return
    from distex import worker

    worker.preload(None)
    print(f"distex {__version__} is installed and works, "
          f"with Python {sys.version.split()[0]} at {sys.executable}")
