"""Hosts in network namespaces, each with an address and an sshd of its own, that can be cut off.

    this namespace: bridge .1 ──┬── cable ──> .2 namespace of host 0: sshd, nanny, workers
                                └── cable ──> .3 namespace of host 1: ...

They share this machine's files and processes. It takes root, and Linux with the ip command.
"""

import contextlib
import itertools
import os
import shutil
import subprocess

import psutil

from .support import Sshd

IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
_numbers = itertools.count()


def ip(*words):
    """Run the ip command."""
    done = subprocess.run([IP, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def why_not():
    """Why there can be no such hosts here; empty if there can."""
    if IP is None:
        return "there is no ip command: apt-get install iproute2"
    if os.getuid() != 0:
        return "network namespaces take root"
    name = f"dx{os.getpid()}try"
    try:
        ip("netns", "add", name)
        try:
            ip("netns", "exec", name, "true")
        finally:
            ip("netns", "delete", name)
    except OSError as exc:
        return f"no network namespaces here: {exc}"
    return ""


class LanHost(Sshd):
    """A host on a Lan.

    Args:
        folder: for its sshd's files.
        lan: to which it is connected.
        number: of the host there, from 0.
    """

    def __init__(self, folder, lan, number, config=(), environment=None):
        self.namespace = f"{lan.name}h{number}"
        self.cable = f"{lan.name}c{number}"  # the bridge's end
        super().__init__(
            folder, config, environment, address=f"{lan.subnet}.{number + 2}", port=2200,
            inside=(IP, "netns", "exec", self.namespace))
        ip("netns", "add", self.namespace)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0",
           "netns", self.namespace)
        ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("link", "set", self.cable, "master", lan.bridge, "up")

    def pull(self):
        """Cut it off: nobody is told."""
        ip("link", "set", self.cable, "down")

    def plug(self):
        """Connect it again."""
        ip("link", "set", self.cable, "up")

    def power_off(self):
        """Have all that runs there be gone, with nothing said on the net, and its files too."""
        self.pull()
        found = self.processes()
        self.stop()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.tmp)

    def power_on(self):
        """Have it run again."""
        self.tmp.mkdir()
        self.plug()
        self.start()

    def remove(self):
        """End what runs there, and take it off the net."""
        self.stop()
        for words in (("link", "delete", self.cable), ("netns", "delete", self.namespace)):
            with contextlib.suppress(OSError):
                ip(*words)


class Lan:
    """A bridge, and the hosts that are connected to it.

    Args:
        folder: for files.
    """

    def __init__(self, folder):
        number = next(_numbers)
        self.name = f"dx{os.getpid()}n{number}"[:11]
        self.bridge = f"{self.name}b"
        # 198.18.0.0/15 is for tests of networks; several runs at a time don't meet
        which = (os.getpid() + number) % 512
        self.subnet = f"198.{18 + which // 256}.{which % 256}"
        self.folder = folder
        self.hosts = []
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")

    def add(self, *config, **environment):
        """One more host, whose sshd runs."""
        number = len(self.hosts)
        folder = self.folder / f"host{number}"
        folder.mkdir()
        host = LanHost(folder, self, number, config, environment)
        self.hosts.append(host)
        return host.start()

    def remove(self):
        """Take everything down."""
        for host in self.hosts:
            host.remove()
        ip("link", "delete", self.bridge)
