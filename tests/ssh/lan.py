"""Hosts in network namespaces, each with an address and an sshd of its own, that can be cut off.

    this namespace: bridge .1 ──┬── cable ──> .2 namespace of host 0: sshd, nanny, workers
                                └── cable ──> .3 namespace of host 1: ...

They share this machine's files and processes. It takes root, and Linux with the ip command.
"""

import contextlib
import shutil

import psutil
from network import IP, ip, take_network

from .support import Sshd


class LanHost(Sshd):
    """A host on a Lan.

    Args:
        folder: for its sshd's files.
        lan: to which it is connected.
        number: of the host there, from 0.
    """

    def __init__(self, folder, lan, number, config=(), environment=None):
        self.namespace = f"{lan.bridge}h{number}"
        self.cable = f"{lan.bridge}c{number}"  # the bridge's end
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
        self.folder = folder
        self.hosts = []
        self.bridge, self.subnet = take_network("type", "bridge")
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
