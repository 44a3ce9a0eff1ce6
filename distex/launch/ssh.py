"""Start a nanny on another machine over ssh, with the tunnel by which its workers connect.

    pool ──one ssh connection──> sshd
      ├── exec channel: stdin, stdout ──> nanny ──fork──> worker 1 .. N
      └── a channel for each worker <──── socket in a fresh folder <─┘

The command that is run there tells in one line what it has found: Python, distex, the folder. Only
when that is what is needed the socket is forwarded, and the nanny's messages, which follow that
line on the same channel, are handed to the pool. The nanny lives until its stdin ends, or until the
pool has not been heard of for long; it removes the folder.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distex._version import __version__
from distex.errors import HostError
from distex.launch import ssh_login
from distex.launch.base import (
    HeartbeatSender,
    Launcher,
    Nanny,
    NannyListener,
    NannyStream,
    WorkerEndpoint,
)
from distex.launch.hosts import HostSpec
from distex.options import WIRE_VERSION
from distex.wire import versions
from distex.wire.messages import PYTHON

if TYPE_CHECKING:
    import asyncssh

logger = logging.getLogger("distex")
output = logging.getLogger("distex.output")  # what nannies on other machines print

WINDOW_BYTES = 16 * 1024 * 1024  # that a worker may send before we have taken it
NOISE_LIMIT_BYTES = 64 * 1024  # that a login script may print before the nanny speaks
TAIL_LINES = 20  # of stderr, kept for errors
LINE_LIMIT_BYTES = 4096
DRAIN_DELAY = 2.0  # seconds for the last output of a nanny that has exited
REOPEN_TIMEOUT = 10.0  # seconds to have a socket there again
CLEAN_TIMEOUT = 3.0  # seconds for what is run there to clean up
MARK = b"\ndistex-nanny "
STEPS = ("reach", "authenticate", "Python", "distex", "tunnel", "task")

# Runs on any Python, with any distex or none: says what there is, then becomes the nanny. Without
# exclamation marks, which csh would not leave alone, and backslashes, which fish would not.
BOOT = """
import json, os, sys
found = {"python": "%d.%d" % sys.version_info[:2], "executable": sys.executable,
         "pid": os.getpid()}
def tell():
    sys.stdout.write(chr(10) + "distex-nanny " + json.dumps(found) + chr(10))
    sys.stdout.flush()
try:
    import distex
    found["distex"] = getattr(distex, "__version__", "of an unknown version")
    from distex.options import WIRE_VERSION
    found["wire"] = WIRE_VERSION
    import cloudpickle
    found["cloudpickle"] = cloudpickle.__version__
    from distex.worker.nanny import serve
except Exception:
    found["error"] = "%s: %s" % (sys.exc_info()[0].__name__, sys.exc_info()[1])
    tell()
else:
    sys.exit(serve(found, tell))
"""

# The Python that distex_proc names in its first line, or else prints (the line names a shell where
# there are spaces in the path), or python3.
FIND_PYTHON = (
    'p=$(command -v distex_proc) && { read -r l < "$p"; l=${l#??}; l=${l%% *}; '
    'case $l in *python*) p=$l ;; *) p=$("$p" --executable) ;; esac; test -x "$p"; } || '
    'p=$(command -v python3) || '
    '{ echo "there is no distex_proc and no python3 on PATH=$PATH" >&2; exit 127; }')


class SshError(HostError):
    """Raised when a host can't be worked with over ssh.

    Args:
        step: at which of the STEPS.
        message: why, and what to do.
    """

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


def _quote_path(path: str) -> str:
    """For a shell that may be in another directory than the home directory."""
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(path)


def _as_typed(login: str, *words: str) -> str:
    """The command for a shell here that runs these words there, where another shell reads them."""
    command = shlex.join(words)
    if command == " ".join(words):
        return f"ssh {login} {command}"
    if not set(command) & set('"$`\\!'):  # easier to read
        return f'ssh {login} "{command}"'
    return f"ssh {login} {shlex.quote(command)}"


class SshLauncher(Launcher):
    """Starts nannies on one host that is reached by ssh; see launch.stream.Launcher.

    Args:
        spec: the host.
    """

    is_local = False

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec
        self.options = spec.ssh
        self.host = str(spec)
        self.num_workers = spec.num_workers
        self.key: object = spec.key

    @property
    def login(self) -> str:
        """What the ssh command calls the host."""
        spec = self.spec
        where = shlex.quote(spec.host if spec.user is None else f"{spec.user}@{spec.host}")
        return where if spec.port is None else f"-p {spec.port} {where}"

    def error(self, step: str, reason: str, mend: str) -> SshError:
        """An error that says where, why, and what to do."""
        return SshError(step, f"{self.host}: {reason}\nTo mend it: {mend}")

    # --- the connection

    async def connect(self) -> "asyncssh.SSHClientConnection":
        """Connect and log in.

        Raises:
            SshError: it can't be done.
        """
        try:
            import asyncssh
        except ImportError as exc:
            raise self.error(
                "reach", f"asyncssh can't be imported here: {exc}",
                "pip install 'asyncssh>=2.24.1'") from exc
        reached = False

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: Any) -> None:
                nonlocal reached
                reached = True

        step, timeout = "reach", self.options.connect_timeout
        try:
            async with asyncio.timeout(timeout):
                return await ssh_login.log_in(self.spec, Client)
        except TimeoutError as exc:
            if reached:
                step = "authenticate"
                reason = f"it answered, but did not let us log in within {timeout:g} s"
                mend = f"see whether 'ssh {self.login} true' does, and what sshd logs there"
            else:
                reason = f"no answer within {timeout:g} s"
                mend = f"see whether the host is up and 'ssh {self.login} true' reaches it"
            cause: Exception = exc
        except ssh_login.HostKeyUnchecked as exc:
            step, reason, cause = "authenticate", str(exc), exc
            mend = ("remove that line, or name a file with the keys of known hosts by "
                    "SshOptions(known_hosts=...)")
        except HostError as exc:
            reason, cause = f"ProxyJump in the ssh configuration: {exc}", exc
            mend = "name hosts there, each as [user@]host[:port]"
        except asyncssh.HostKeyNotVerifiable as exc:
            step, reason, cause = "authenticate", f"its host key is not trusted: {exc}", exc
            mend = (f"'ssh {self.login} true' shows the key and notes it if you confirm it; if the "
                    f"host has got a new key, first 'ssh-keygen -R {self._known_name}'")
        except asyncssh.PermissionDenied as exc:
            step, reason, cause = "authenticate", f"it does not let us log in: {exc}", exc
            mend = (f"'ssh-copy-id {self.login}', or have the agent (ssh-add), ~/.ssh/config or "
                    "SshOptions(client_keys=...) give a key that it accepts")
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
            step, reason, cause = "authenticate", f"a key can't be read: {exc}", exc
            mend = ("SshOptions(passphrase=...), or load the key into the agent with ssh-add; "
                    "encrypted keys need 'pip install bcrypt'")
        except FileNotFoundError as exc:
            step, reason, cause = "authenticate", f"there is no file {exc.filename}", exc
            mend = "name the file that is meant, see SshOptions"
        except (OSError, asyncssh.Error, asyncssh.ConfigParseError) as exc:
            reason, cause = f"no ssh connection: {exc or type(exc).__name__}", exc
            mend = f"see whether 'ssh {self.login} true' works"
        raise self.error(step, reason, mend) from cause

    @property
    def _known_name(self) -> str:
        spec = self.spec
        return shlex.quote(
            spec.host if spec.port in (None, 22) else f"[{spec.host}]:{spec.port}")

    # --- the nanny

    def command(self, hash_seed: int) -> str:
        """What starts a nanny there, in whatever shell the user has."""
        python = self.options.python
        script = f"p={_quote_path(python)}" if python else FIND_PYTHON
        directory = self.options.working_directory
        if directory:
            script += f"; cd {_quote_path(directory)} || exit 125"
        script += (f"; h=${{PYTHONHASHSEED-}}; PYTHONHASHSEED={hash_seed}; export PYTHONHASHSEED; "
                   f'exec "$p" -c {shlex.quote(_one_line(BOOT))} "$h"')
        return f"exec /bin/sh -c {shlex.quote(script)}"

    async def launch(self, listener: NannyListener, endpoint: WorkerEndpoint) -> "SshNanny":
        """See launch.stream.Launcher."""
        connection = await self.connect()
        session = _NannySession(self.host, NannyStream(listener))
        nanny = SshNanny(self, connection, session)
        timeout = self.options.connect_timeout
        try:
            async with asyncio.timeout(timeout):
                await self._start_nanny(nanny, endpoint)
        except BaseException as exc:
            try:
                await asyncio.shield(nanny.wait(0.0))
            finally:  # even if the loop ends
                connection.abort()
            if isinstance(exc, TimeoutError):
                step = "Python" if not session.found else "tunnel"
                raise self.error(
                    step, f"logged in, but no nanny came up within {timeout:g} s{session.tail()}",
                    f"see whether 'ssh {self.login} python3 -m distex' answers") from exc
            raise
        return nanny

    async def _start_nanny(self, nanny: "SshNanny", endpoint: WorkerEndpoint) -> None:
        import asyncssh

        connection, session = nanny.connection, nanny.session
        try:
            nanny.starting = asyncio.ensure_future(
                connection.create_session(
                    _giving(session), self.command(endpoint.hash_seed), encoding=None))
            await asyncio.shield(nanny.starting)
            await session.answered
            self._check(session)
            nanny.unix_path = session.found["folder"] + "/pool"
            await nanny.forward(endpoint.accept)
        except asyncssh.ChannelListenError as exc:
            raise self.error(
                "tunnel", f"sshd there does not forward a socket in {session.found['folder']}",
                "in its /etc/ssh/sshd_config set 'AllowStreamLocalForwarding yes', with no "
                "'DisableForwarding'; the key's line in ~/.ssh/authorized_keys must not say "
                "'restrict' or 'no-port-forwarding'; and the disk must have room") from exc
        except asyncssh.Error as exc:  # the connection is lost, or no session is to be had
            step = "tunnel" if session.found else "Python"
            raise self.error(
                step, f"the nanny can't be started: {exc}{session.tail()}",
                f"see whether 'ssh {self.login} true' works, and what sshd logs there") from exc
        nanny.take_up()

    def _check(self, session: "_NannySession") -> None:
        """Whether what was found is what is needed."""
        found = session.found
        named = self.options.python
        if not found:
            reason = f"{session.exit_reason()}{session.tail()}"
            if session.status == 125 and self.options.working_directory:
                raise self.error(
                    "Python", f"no working directory {self.options.working_directory}: {reason}",
                    _as_typed(self.login, "mkdir", "-p", self.options.working_directory))
            raise self.error(
                "Python", f"found no working Python: {reason}",
                f"install Python {PYTHON} there, or name it with SshOptions(python='/path/to/it')"
                + (f" in place of {named!r}" if named else ""))
        python, there = found.get("executable") or "python3", found.get("distex")
        pip = _as_typed(self.login, python, "-m", "pip", "install", f"distex=={__version__}")
        if found.get("python") != PYTHON:
            raise self.error(
                "Python", f"found Python {found.get('python')} ({python}), and Python {PYTHON} is "
                "needed, as here",
                f"install Python {PYTHON} with distex {__version__} there and name it with "
                "SshOptions(python='/path/to/it')")
        if there is None:
            raise self.error(
                "distex", f"found no distex for {python} ({found.get('error')}), and distex "
                f"{__version__} is needed", pip)
        if found.get("wire") != WIRE_VERSION:
            raise self.error(
                "distex", f"found distex {there} for {python}, and distex {__version__} is needed, "
                "as here", pip)
        ours = versions.needed()["cloudpickle"]
        problem = versions.mismatch("cloudpickle", found.get("cloudpickle", ""), ours)
        if problem:
            raise self.error(
                "distex", f"{problem} (for {python})",
                _as_typed(self.login, python, "-m", "pip", "install", f"cloudpickle=={ours}"))
        if "folder" not in found:
            step = "tunnel" if str(found.get("error", "")).startswith("no folder") else "distex"
            raise self.error(
                step, f"{found.get('error')}{session.tail()}",
                "make room there" if step == "tunnel" else pip)


def _one_line(code: str) -> str:
    """Python code without line breaks, which csh does not take in quotes."""
    return f"exec({json.dumps(code)})"


def _giving(session: "_NannySession") -> Any:
    return lambda: session


def _making_workers(accept: Callable[[], Any]) -> Any:
    return lambda: _WorkerSession(accept())


class _NannySession:
    """The exec channel: the nanny's first line, then its stream; and what it writes to stderr.

    The methods are those of an asyncssh.SSHClientSession.
    """

    def __init__(self, host: str, stream: NannyStream) -> None:
        self._host = host
        self.stream = stream
        self.found: dict[str, Any] = {}
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()  # found is known, or it ended
        self.closed: asyncio.Future[None] = loop.create_future()
        self.status: int | None = None  # exit code
        self._signal = ""
        self._lost: Exception | None = None
        self._channel: Any = None
        self.started = False
        self._taken_up = False
        self._ended = False
        self._data = b"\n"
        self._line = b""  # of stderr, not complete
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)

    def connection_made(self, channel: Any) -> None:
        self._channel = channel

    def session_started(self) -> None:
        self.started = True

    def end_input(self) -> None:
        """Have the nanny end at once."""
        with contextlib.suppress(OSError):
            self._channel.write_eof()

    async def ends_within(self, timeout: float) -> bool:
        """Wait for its end, at most for timeout seconds; whether it came."""
        await asyncio.wait([self.closed], timeout=timeout)
        return self.closed.done()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self._take_output(data)
        elif self._taken_up:
            self.stream.data_received(data)
        else:
            self._data += data
            if not self.answered.done():
                self._look_for_answer()

    def _look_for_answer(self) -> None:
        _noise, mark, rest = self._data.partition(MARK)
        line, end, rest = rest.partition(b"\n")
        if mark and end:
            with contextlib.suppress(ValueError):
                self.found = json.loads(line)
            self._data = rest
            self.answered.set_result(None)
        elif len(self._data) > NOISE_LIMIT_BYTES:
            self._channel.abort()

    def take_up(self) -> None:
        """Hand all that comes to the stream, from now on."""
        self._taken_up = True
        self.stream.connection_made(self._channel)
        if self._data:
            self.stream.data_received(self._data)
            self._data = b""
        if self._ended:
            self.stream.connection_lost(self._reason())

    def eof_received(self) -> bool:
        return True  # the exit code is still to come

    def exit_status_received(self, status: int) -> None:
        self.status = status
        self._end_soon()

    def exit_signal_received(self, name: str, core: bool, message: str, lang: str) -> None:
        self._signal = name
        self._end_soon()

    def _end_soon(self) -> None:
        """Don't wait until each process that still has the nanny's stderr has closed it."""
        asyncio.get_running_loop().call_later(DRAIN_DELAY, self._channel.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc
        self._ended = True
        if self._line:
            self._take_output(b"\n")
        if not self.answered.done():
            self.answered.set_result(None)
        if not self.closed.done():
            self.closed.set_result(None)
        if self._taken_up:
            self.stream.connection_lost(self._reason())

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def _take_output(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LINE_LIMIT_BYTES:
            lines.append(self._line)
            self._line = b""
        for line in lines:
            text = line[:LINE_LIMIT_BYTES].decode(errors="replace").rstrip("\r")
            self._lines.append(text)
            output.info("%s: %s", self._host, text, extra={"worker_host": self._host})

    def tail(self) -> str:
        """The last that was written to stderr there, for errors."""
        lines = [*self._lines, *([self._line.decode(errors="replace")] if self._line else [])]
        return "; the last it wrote:\n    " + "\n    ".join(lines) if lines else ""

    def exit_reason(self) -> str:
        """How it ended."""
        if self.status is not None:
            return f"the command ended with exit code {self.status}"
        if self._signal:
            return f"the command was ended by SIG{self._signal}"
        return f"the ssh connection was lost: {self._lost}" if self._lost else "it was closed"

    def _reason(self) -> Exception:
        return HostError(f"{self.exit_reason()}{self.tail()}")


class _WorkerSession:
    """One channel of the tunnel: to asyncssh the session, to the pool's Connection its transport.

    The methods are those of an asyncssh.SSHUNIXSession, and those of a transport that are used.
    """

    __slots__ = ("_channel", "_connection", "_loop", "pause_writing", "resume_writing")

    def __init__(self, connection: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._channel: Any = None
        self.pause_writing = connection.pause_writing
        self.resume_writing = connection.resume_writing

    def connection_made(self, channel: Any) -> None:
        self._channel = channel

    def session_started(self) -> None:
        self._connection.connection_made(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        try:
            self._connection.data_received(data)
        except Exception as exc:  # a matter of this channel, which it has closed, not of all
            self._loop.call_exception_handler({
                "message": "a worker's channel was closed for an error", "exception": exc})

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def write(self, data: Any) -> None:
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        with contextlib.suppress(BrokenPipeError):  # closed, as the connection is told soon
            self._channel.write(data)

    def close(self) -> None:
        self._channel.close()

    def abort(self) -> None:
        self._channel.abort()

    def is_closing(self) -> bool:
        return bool(self._channel.is_closing())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default  # the connection's socket is that of all channels


class SshNanny(Nanny):
    """A nanny reached by ssh, and the connection to its host; see launch.stream.Nanny."""

    prints = False

    def __init__(
        self, launcher: SshLauncher, connection: "asyncssh.SSHClientConnection",
        session: _NannySession,
    ) -> None:
        self.connection = connection
        self.session = session
        self.stream = session.stream
        self.unix_path = ""
        self.address = ("", 0)
        self.starting: asyncio.Future[Any] | None = None
        self._forwarded: Any = None
        self._heartbeat = HeartbeatSender(self.stream, launcher.options.keepalive)

    def take_up(self) -> None:
        """Let the pool have the stream, once it knows of this nanny."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self.session.take_up)
        loop.call_soon(self._heartbeat.start)

    async def forward(self, accept: Callable[[], Any]) -> None:
        """Have workers there find a socket."""
        self._forwarded = await self.connection.create_unix_server(
            _making_workers(accept), self.unix_path, window=WINDOW_BYTES)

    async def reopen(self, endpoint: WorkerEndpoint) -> None:
        """See launch.base.Nanny."""
        folder, path = map(shlex.quote, (self.session.found["folder"], self.unix_path))
        script = (f"test -S {path} && exit 0; mkdir -m 700 {folder} 2>/dev/null; "
                  f"test -O {folder} && exit 3")
        try:
            async with asyncio.timeout(REOPEN_TIMEOUT):
                found = await self.connection.run(f"exec /bin/sh -c {shlex.quote(script)}")
                if found.exit_status == 3:
                    if self._forwarded is not None:
                        self._forwarded.close()
                        await self._forwarded.wait_closed()
                    await self.forward(endpoint.accept)
                elif found.exit_status != 0:
                    raise HostError(f"the folder {folder} can't be made")
        except Exception as exc:
            raise HostError(f"their socket is gone: {exc or type(exc).__name__}") from exc

    async def wait(self, timeout: float) -> None:
        """Wait for it to end, end it after timeout seconds, remove what it left, and hang up."""
        self._heartbeat.stop()
        session = self.session
        if self.starting is not None:  # sshd may have started it, and not told so yet
            await asyncio.wait([self.starting], timeout=CLEAN_TIMEOUT)
            if self.starting.done() and not self.starting.cancelled():
                self.starting.exception()
        if session.started and not await session.ends_within(timeout):
            session.end_input()
            await session.ends_within(CLEAN_TIMEOUT)
        if session.found.get("folder") and session.status != 0:
            await self._clean(session.found)
        self.connection.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLEAN_TIMEOUT):
                await self.connection.wait_closed()
        self.connection.abort()

    async def _clean(self, found: dict[str, Any]) -> None:
        """A nanny that had no time to clean up, or has not ended when it should."""
        kill = "" if self.session.closed.done() else f"kill -9 {int(found['pid'])}; "
        command = f"{kill}rm -rf {shlex.quote(found['folder'])}"
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLEAN_TIMEOUT):
                await self.connection.run(f"exec /bin/sh -c {shlex.quote(command)}")

    def kill(self) -> None:
        """Cut the connection, without the loop: the nanny sees the end of its stdin."""
        ours = self.connection.get_extra_info("socket")
        if ours is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(ours.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)
