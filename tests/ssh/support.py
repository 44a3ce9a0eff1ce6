"""A real sshd for the tests: its own port, keys and configuration, nothing of the user's."""

import contextlib
import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
from machine import DEADLINE, free_port, is_alive, wait_until

from distex import HostSpec, SshOptions

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
TESTS = str(Path(__file__).parents[1])  # here workers find the tests' modules


def make_key(path):
    """A new key pair in path and path.pub."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


class Sshd:
    """An sshd that listens on a port of its own, and what a client needs to log in.

    Args:
        folder: for its files.
        config: further lines for its configuration.
        environment: of what it runs.
        address: where it listens.
        port: None: one that is free on this machine.
        inside: the beginning of the command that runs it, such as that which enters a namespace.
    """

    def __init__(
            self, folder, config=(), environment=None, address="127.0.0.1", port=None, inside=()):
        self.folder = folder
        self.address = address
        self.port = port or free_port()
        self.inside = inside
        # TMPDIR on the far side; not in the folder: with a longer path the nanny would take another
        self.tmp = Path(tempfile.mkdtemp(prefix="far-"))
        self.host_key = make_key(folder / "host_key")
        self.user_key = make_key(folder / "user_key")
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        self.known_hosts = folder / "known_hosts"
        self.know(self.host_key)
        self.client_config = folder / "ssh_config"
        self.client_config.write_text("")
        self.home = folder / "home"  # an empty one: nobody's login scripts
        self.home.mkdir()
        environment = {
            "TMPDIR": str(self.tmp), "HOME": str(self.home), **(environment or {})}
        (folder / "sshd_config").write_text("\n".join([
            f"ListenAddress {self.address}:{self.port}",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {folder}/authorized_keys",
            f"PidFile {folder}/pid",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 100",
            # one line: sshd takes the first it finds
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
            *config,
        ]) + "\n")
        self.process = None  # of psutil

    def know(self, key):
        """Have the client trust this host key, alone."""
        public = Path(f"{key}.pub").read_text()
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {public}")

    def start(self):
        """Run it in the background, where it is nobody's child, and wait until it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd has to be able to go
        pid = self.folder / "pid"
        pid.unlink(missing_ok=True)
        subprocess.run(
            [*self.inside, SSHD, "-E", self.folder / "log", "-f", self.folder / "sshd_config"],
            env={}, check=True)
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "sshd to run",
                   details=(self.folder / "log").read_text)
        self.process = psutil.Process(int(pid.read_text()))
        wait_until(self._listens, "sshd to listen")
        return self

    def _listens(self):
        assert self.process.is_running(), (self.folder / "log").read_text()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((self.address, self.port), DEADLINE).close()
            return True
        return False

    def stop(self):
        """End it, and the sessions that it has."""
        if self.process is not None:
            self.process.suspend()  # no new ones, while those that there are are killed
            self.cut()
            self.process.kill()
            wait_until(lambda: not is_alive(self.process.pid), "sshd to end")
            self.process = None

    def sessions(self):
        """The processes that serve connections."""
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self.process.children(recursive=True)
            with contextlib.suppress(psutil.NoSuchProcess):
                return [child for child in children if child.name().startswith("sshd")
                        and child.status() != psutil.STATUS_ZOMBIE]
        return []

    def cut(self):
        """Kill the processes that serve connections; how many there were."""
        sessions = self.sessions()
        for session in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()
        return len(sessions)

    def processes(self):
        """Nannies and workers that run for this sshd, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (process.environ().get("TMPDIR") == str(self.tmp)
                        and process.status() != psutil.STATUS_ZOMBIE):
                    found.append(process)
        return found

    def nanny_pids(self):
        """Process ids of the nannies: those of processes() whose parents are not among them."""
        parents = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                parents[process.pid] = process.ppid()
        return [pid for pid, parent in parents.items() if parent not in parents]

    def left(self):
        """What there should not be any more when no pool uses this host."""
        return ([str(process) for process in [*self.processes(), *self.sessions()]]
                + [str(path) for path in self.tmp.iterdir()])

    def url(self, workers=None):
        """Of this host, for Pool."""
        end = "" if workers is None else f"/{workers}"
        return f"ssh://{getpass.getuser()}@{self.address}:{self.port}{end}"

    def options(self, **options):
        """With what the client reaches this host."""
        return SshOptions(**{
            "client_keys": self.user_key, "known_hosts": self.known_hosts,
            "config": self.client_config, "python": sys.executable,
            "working_directory": TESTS, **options})

    def spec(self, workers=2, **options):
        """This host, for Pool."""
        return HostSpec(self.url(workers), self.options(**options))


def make_command(path, script):
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class Proxy:
    """Stands between a client and an sshd, as a network that can fail.

    Args:
        port: where the sshd listens.
    """

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._sockets = []
        self._threads = []
        self.bytes_left = None  # until the connections are cut
        self._run(self._accept)

    def _run(self, function, *args):
        self._threads.append(threading.Thread(target=function, args=args))
        self._threads[-1].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self._run(self._pump, near, far)
                self._run(self._pump, far, near)

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                self._flows.wait()
                if self.bytes_left is not None:
                    self.bytes_left -= len(data)
                    if self.bytes_left < 0:
                        self.cut()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def stall(self):
        """Let nothing through any more, and say so to nobody."""
        self._flows.clear()

    def flow(self):
        """Let all through again."""
        self._flows.set()

    def cut(self):
        """Break the connections that there are."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End everything."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.flow()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
