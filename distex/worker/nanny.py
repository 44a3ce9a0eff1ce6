"""The nanny: one process per host that forks the workers, watches them and reports how they died.

    pool <──NannyHello─────────────────────── nanny
    pool ──Configure, Spawn, Revoke, ... ─> nanny ──fork──> worker 1 .. N
    pool <──Started, Exited, Memory─────── nanny <─SIGCHLD─┤
    pool <──Printed─────────────────────── nanny <──pipes──┘ if the pool wants that
    pool <──Failed, Leaving─────────────── nanny

It imports once what workers need and stays without threads and without an event loop, so a fork is
cheap and safe. When the stream from the pool ends, or the pool's process is gone, it kills its
workers: nothing is orphaned. Each worker leads a process group of its own, which is killed as a
whole once the worker is gone.

Where there is no fork (Windows) it starts each worker as a fresh interpreter. That path is
untested.
"""

import contextlib
import gc
import io
import os
import selectors
import signal
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from distex import machine
from distex._core.prctl import adopt_orphans, end_with_parent
from distex._version import __version__
from distex.errors import DistexError, HostError
from distex.options import WIRE_VERSION
from distex.wire.messages import (
    CUT_OFF,
    PUT_OFF,
    PYTHON,
    REFUSED,
    STOPPED,
    Configure,
    Exited,
    Failed,
    Heartbeat,
    Kill,
    Leaving,
    Memory,
    NannyHello,
    Printed,
    Reject,
    Revoke,
    Spawn,
    Started,
    Stop,
    Unpacker,
    Withdraw,
    Withdrawn,
    pack,
)
from distex.wire.output import PIPE_BYTES, Pipe
from distex.worker.interrupts import Interrupt, Interrupts
from distex.worker.status_page import ITEM, STARTED, StatusPages, read, withdraw
from distex.worker.stream import Stream
from distex.worker.surroundings import put_in_order

if TYPE_CHECKING:
    from distex.worker.shipped import ShippedModules

FLUSH_TIMEOUT = 2.0  # seconds for the last messages to go out
# of messages that the pool has not taken; while there are more, nothing is taken from the workers
BACKLOG_LIMIT_BYTES = 256 * 1024
LOOK_INTERVAL = 1.0  # seconds between looks whether the parent is still there
REPORT_INTERVAL = 2.0  # seconds between reports to a pool on another machine
HAS_FORK = hasattr(os, "fork")
PARENT_TIMEOUT = 1.0  # seconds between the end of the stream and that of the pool's process
PROBE_TIMEOUT = 10.0  # seconds to see whether workers can connect to the pool


class Child:
    """A worker as its nanny sees it."""

    def __init__(self, number: int, page: memoryview) -> None:
        self.number = number
        self.page = page
        self.pid = 0
        self.revoked = False
        self.pipes: list[Pipe] = []  # for what it prints
        self.process: Any = None  # a subprocess.Popen, where there is no fork


@dataclass(frozen=True)
class Remote:
    """What is different where workers connect to the pool by TCP."""

    worker_tls: ssl.SSLContext
    probe_tls: ssl.SSLContext
    address: tuple[str, int] | None  # of the pool, as seen from here; None: as the pool says
    workers: int  # how many; 0: one for each CPU

    @property
    def has_joined(self) -> bool:
        """Whether it was not the pool that had this nanny started."""
        return self.address is not None


class Nanny:
    """Does what the pool says on one stream.

    Args:
        stream: to the pool.
        parent: process id whose end is this one's end too; None: not watched.
        remote: if the workers connect by TCP.
    """

    def __init__(self, stream: Stream, parent: int | None, remote: Remote | None = None) -> None:
        self.stream = stream
        self.parent = parent
        self.remote = remote
        self.exitcode = CUT_OFF
        self.leaves = False  # it was asked to
        self.stream_ended = False
        self.config: Configure | None = None
        self.children: dict[int, Child] = {}  # by pid
        self.pages = StatusPages()
        self.interrupts = Interrupts()
        self.killed_for_memory = machine.out_of_memory_kills()
        self.unpacker = Unpacker(to_nanny=True)
        self.stop_at: float | None = None
        self.silent_until: float | None = None  # when the pool is to be taken for gone
        self.report_at = 0.0  # when the pool is to be told next what the workers use
        self.selector = selectors.DefaultSelector()
        self.selector.register(stream.source, selectors.EVENT_READ)
        # what workers print; it is looked at by the other selector, as long as the pool keeps up
        self.printing = selectors.DefaultSelector()
        self.modules: ShippedModules | None = None
        self.wake: tuple[socket.socket, socket.socket] | None = None

    def run(self) -> int:
        """Serve until the pool says so or is gone; the exit code."""
        if HAS_FORK:
            self.wake = socket.socketpair()
            for end in self.wake:
                end.setblocking(False)
            self.selector.register(self.wake[0], selectors.EVENT_READ)
            signal.set_wakeup_fd(self.wake[1].fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda signum, frame: None)
            adopt_orphans()
            if self.remote is not None and self.remote.has_joined:
                signal.signal(signal.SIGTERM, self._leave)
        workers = self.remote.workers if self.remote is not None else 0
        self._send(NannyHello(WIRE_VERSION, __version__, PYTHON, socket.gethostname(), os.getpid(),
                           workers or machine.usable_cpus()))
        try:
            while self._serve():
                pass
        finally:
            self._kill_all()
            if self.stop_at is not None:
                self._flush()
            self._remove_folders()
            self.selector.close()
            self.printing.close()
            for end in self.wake or ():
                end.close()
        return self.exitcode

    def _leave(self, signum: int, frame: Any) -> None:
        self.leaves = True

    def _serve(self) -> bool:
        """One round; False when all is done."""
        timeout = min(LOOK_INTERVAL if HAS_FORK else 0.02, self.interrupts.act())
        if self.stop_at is not None:
            if not self.children:
                return False
            timeout = min(timeout, self.stop_at - time.monotonic())
            if timeout <= 0:
                return False
        ready = {key.fileobj for key, _ in self.selector.select(timeout)}
        if self.stream.target in ready:
            self._send_backlog()
        if self.parent is not None and os.getppid() != self.parent:
            return False
        if (self.silent_until is not None and time.monotonic() > self.silent_until
                and self.stream.source not in ready):
            return False
        if self.wake is not None and self.wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                self.wake[0].recv(4096)
        if self.printing in ready:
            for key, _ in self.printing.select(0):
                self._tell_output(key.fileobj)
        self._reap()
        if self.leaves:
            self.leaves = False
            self._send(Leaving())
        if self.silent_until is not None and time.monotonic() > self.report_at and self.children:
            self.report_at = time.monotonic() + REPORT_INTERVAL
            self._send(Memory({child.number: machine.resident_bytes(pid) or 0
                               for pid, child in self.children.items()}))
        if self.stream.source in ready:
            data = self.stream.recv()
            if data == b"":
                self.stream_ended = self.stop_at is None
                return False
            for message in self.unpacker.feed(data or b""):
                self._handle(message)
        return True

    def _handle(self, message: Any) -> None:
        if isinstance(message, Configure):
            self._configure(message)
        elif isinstance(message, Spawn):
            if self.config is not None and message.unix_path:
                self.config = msgspec.structs.replace(self.config, unix_path=message.unix_path)
            self._spawn(message.number)
        elif isinstance(message, Kill):
            child = self._child(message.number)
            if child is not None:
                os.kill(child.pid, message.signal)
        elif isinstance(message, Revoke):
            child = self._child(message.number)
            if child is not None:
                self.interrupts.add(Interrupt(
                    child, message.task, message.grace, message.cancels))
        elif isinstance(message, Withdraw):
            child = self._child(message.number)
            if child is not None:
                self._send(Withdrawn(
                    message.number, message.last, *withdraw(child.page, message.last)))
        elif isinstance(message, Stop):
            self.stop_at = time.monotonic() + message.grace
            if self.exitcode == CUT_OFF:
                self.exitcode = STOPPED
        elif isinstance(message, Reject):
            now = " now" if message.again else ""
            print(f"the pool does not want this host{now}: {message.reason}", file=sys.stderr)
            self.stop_at = time.monotonic()
            self.exitcode = PUT_OFF if message.again else REFUSED
        elif isinstance(message, Heartbeat):
            self.silent_until = time.monotonic() + message.timeout

    def _child(self, number: int) -> Child | None:
        for child in self.children.values():
            if child.number == number:
                return child
        return None

    def _send(self, message: Any) -> None:
        self._send_backlog(pack(message))

    def _send_backlog(self, data: bytes = b"") -> None:
        self.stream.send(data)
        waiting = len(self.stream.backlog)
        self._watch_file(self.stream.target, selectors.EVENT_WRITE, waiting > 0)
        if self.config is not None and self.config.output:
            self._watch_file(self.printing, selectors.EVENT_READ, waiting < BACKLOG_LIMIT_BYTES)

    def _watch_file(self, file: Any, events: int, wanted: bool) -> None:
        if wanted != (file in self.selector.get_map()):
            if wanted:
                self.selector.register(file, events)
            else:
                self.selector.unregister(file)

    def _flush(self) -> None:
        """Have the last messages go out."""
        deadline = time.monotonic() + FLUSH_TIMEOUT
        while self.stream.backlog and (left := deadline - time.monotonic()) > 0:
            self.selector.select(min(left, LOOK_INTERVAL))
            self._send_backlog()

    # --- what workers print

    def _tell_output(self, pipe: Any) -> None:
        """Tell the pool the lines that there are."""
        lines = pipe.read()
        if lines is not None:
            self._send(Printed(pipe.pid, pipe.stream, lines))
        if pipe.ended:
            self.printing.unregister(pipe)
            pipe.close()

    def _tell_last_output(self, child: Child, pid: int) -> None:
        """The worker is dead. A process that it left behind may go on to use its pipes."""
        for pipe in child.pipes:
            if not pipe.ended:
                for lines in (pipe.read(PIPE_BYTES), pipe.rest()):
                    if lines is not None:
                        self._send(Printed(pid, pipe.stream, lines))

    # --- what the pool wants

    def _configure(self, config: Configure) -> None:
        """Import what the workers will need, and keep it out of the garbage collector's way: what
        it does not touch stays shared."""
        if self.remote is not None:
            host, port = self.remote.address or (config.host, config.port)
            config = msgspec.structs.replace(config, host=host, port=port)
        self.config = config
        sys.argv[:] = map(os.fsdecode, config.argv)
        if self.remote is not None:
            try:
                self._probe(config, self.remote.probe_tls)
            except OSError as exc:
                self._send(Failed(
                    f"workers there can't connect to the pool at {config.host}, port "
                    f"{config.port}: {exc}. Give the pool a localhost, or a localport, that can "
                    "be reached from there, and open it in the firewalls between", again=True))
                return
        try:
            if config.modules:
                from distex.worker.shipped import ShippedModules

                # on the pool's own machine those that they were copied from come first
                self.modules = ShippedModules(config.modules, first=not config.shares_memory)
            from distex.worker import process

            process.preload(config)
        except DistexError as exc:
            self._send(Failed(str(exc), again=isinstance(exc.__cause__, OSError)))
            return
        except Exception:
            self._send(Failed(traceback.format_exc()))
            return
        gc.freeze()
        gc.enable()

    @staticmethod
    def _probe(config: Configure, tls: ssl.SSLContext) -> None:
        """See that workers will reach the pool, and that it has the secret there; OSError if not.
        Nothing that it has shipped is looked at before that."""
        with (socket.create_connection((config.host, config.port), PROBE_TIMEOUT) as sock,
              tls.wrap_socket(sock)):
            pass

    def _check_folders(self, config: Configure) -> None:
        """See that a worker will find what it needs: the system may clean temporary folders."""
        if config.unix_path and not os.path.exists(config.unix_path):
            raise DistexError(f"the pool's socket {config.unix_path} was removed")
        if self.modules is not None:
            self.modules.see_to_them()

    def _spawn(self, number: int) -> None:
        if self.config is None or self.stop_at is not None:
            return
        child = None
        try:
            self._check_folders(self.config)
            child = Child(number, self.pages.take())
            pid = self._fork(child) if HAS_FORK else self._popen(child)
        except (OSError, MemoryError, DistexError) as exc:  # too many processes or files, say
            self._send(Failed(f"its nanny can't start it: {exc or 'no memory'}", number))
            if child is not None:
                self.pages.give_back(child.page)
            return
        child.pid = pid
        self.children[pid] = child
        self._send(Started(number, pid))

    def _fork(self, child: Child) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        assert self.config is not None
        if self.config.output:
            machine.raise_file_limit(2 * len(self.printing.get_map()))
        nanny = os.getpid()
        try:
            if self.config.output:
                child.pipes.append(Pipe(1))
                child.pipes.append(Pipe(2))
            self.pages.lend(child.page)
            try:
                pid = os.fork()
            finally:
                if os.getpid() == nanny:
                    self.pages.keep(child.page)
        except BaseException:
            for pipe in child.pipes:
                pipe.close()
            raise
        if pid:
            with contextlib.suppress(OSError):  # the child does it too: whoever comes first
                os.setpgid(pid, pid)
            for pipe in child.pipes:
                pipe.belongs_to(pid)
                self.printing.register(pipe, selectors.EVENT_READ)
            return pid
        status = 1
        try:
            self._become_worker(nanny, child)
            from distex.worker import process

            assert self.config is not None
            tls = self.remote.worker_tls if self.remote is not None else None
            process.main(self.config, child.number, child.page, tls)
            status = 0
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            _leave(status)

    def _become_worker(self, nanny: int, child: Child) -> None:
        """Leave behind in the child what is the nanny's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for key in list(self.printing.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        for pipe in child.pipes:
            pipe.become()
            stream = sys.stdout if pipe.stream == 1 else sys.stderr
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)
        self.printing.close()
        self.selector.close()
        self.stream.close()
        assert self.wake is not None
        for end in self.wake:
            end.close()
        self.children.clear()
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        end_with_parent(signal.SIGKILL)
        if os.getppid() != nanny:  # it died before that
            os._exit(1)

    def _popen(self, child: Child) -> int:
        import subprocess

        assert self.config is not None
        child.process = process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!a}; "
             "from distex.worker.process import spawned; spawned()"],
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
            self.interrupts.forget(child)
            self._tell_last_output(child, pid)
            self._send(Exited(child.number, pid, exitcode,
                              read(child.page, STARTED), read(child.page, ITEM),
                              exitcode == -signal.SIGKILL and self._memory_ran_out(),
                              child.revoked))
            self.pages.give_back(child.page)

    def _memory_ran_out(self) -> bool:
        """Whether the kernel has killed for lack of memory since the last look."""
        before, self.killed_for_memory = self.killed_for_memory, machine.out_of_memory_kills()
        return self.killed_for_memory > before

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

    def _remove_folders(self) -> None:
        """Remove the modules; and the pool's socket, if the pool is gone and could not."""
        if self.modules is not None:
            self.modules.remove()
        if self.config is not None and self.config.unix_path and self._pool_is_gone():
            with contextlib.suppress(OSError):
                os.unlink(self.config.unix_path)
                os.rmdir(os.path.dirname(self.config.unix_path))

    def _pool_is_gone(self) -> bool:
        """Whether the pool's process is, which is the parent of a nanny on the same machine. Where
        it is killed, the stream may end a moment before."""
        if self.parent is None:
            return False
        deadline = time.monotonic() + (PARENT_TIMEOUT if self.stream_ended else 0.0)
        while os.getppid() == self.parent:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _kill_all(self) -> None:
        for pid, child in self.children.items():
            if child.process is not None:
                child.process.kill()
            else:
                _kill(pid)
        for pid, child in self.children.items():
            if child.process is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            if self.stop_at is not None:
                self._tell_last_output(child, pid)


def _kill_group(pid: int) -> None:
    if HAS_FORK:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _kill(pid: int) -> None:
    """Kill a worker that lives, and all in its group, which it may have left."""
    _kill_group(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _leave(status: int) -> NoReturn:
    """End this process. A worker does not go through what the nanny would clean up; and to take all
    modules apart takes 15 ms, for which a shutdown would wait."""
    import atexit

    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    finally:
        os._exit(status)


def main(
    fd: int, hash_seed: str, secret: str = "", host: str = "", port: str = "0", workers: str = "0"
) -> NoReturn:
    """Run a nanny on the socket with this file descriptor, and exit.

    Args:
        fd: the socket; the parent process has the other end.
        hash_seed: the user's, see surroundings.py.
        secret: file descriptor with the secret, if the pool is on another machine and workers
            connect by TCP.
        host: where they do; empty: the pool says it. Otherwise the pool did not have this nanny
            started: with SIGTERM it asks the pool to have its workers end what they do.
        port: the port there.
        workers: how many the pool is to have started, if it has no wish; 0: one for each CPU.
    """
    put_in_order(hash_seed)
    with contextlib.closing(Stream(fd, os.dup(fd))) as stream:
        try:
            remote = _remote(int(secret), host, int(port), int(workers)) if secret else None
        except HostError as exc:
            stream.send(pack(Failed(str(exc))))
            sys.exit(str(exc))
        status = Nanny(stream, os.getppid(), remote).run()
    _leave(status)


def _remote(secret_fd: int, host: str, port: int, workers: int) -> Remote:
    from distex.wire.secret import Secret
    from distex.wire.tls import PROBE, WORKER

    secret = Secret.inherited(secret_fd)
    return Remote(
        secret.context([WORKER], server_side=False), secret.context([PROBE], server_side=False),
        (host, port) if host else None, workers)


def serve(found: dict[str, Any], tell: Callable[[], None]) -> int:
    """Run a nanny at the far end of an ssh connection, on stdin and stdout; see launch/ssh.py.

    Args:
        found: gets the folder in which the tunnel for the workers is to begin, or the error.
        tell: sends it to the pool.

    Returns:
        the exit code.
    """
    import shutil

    put_in_order(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        folder = machine.private_folder()
    except OSError as exc:
        found["error"] = str(exc)
        tell()
        return 1
    try:
        found["folder"] = folder
        tell()
        stream = Stream(os.dup(0), os.dup(1))
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
