"""Networks in namespaces of this machine. It takes root, and Linux with the ip command."""

import os
import secrets
import shutil
import subprocess

IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
NETWORKS = 512  # in 198.18.0.0/15, which is for tests of networks


def ip(*words):
    """Run the ip command; OSError if it fails."""
    done = subprocess.run([IP, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def why_not():
    """Why there can be no networks here; empty if there can."""
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


def take_network(*link):
    """Make a link for a network that nobody else has: whoever has the link's name has the network.

    Args:
        link: what follows its name in ``ip link add``.

    Returns:
        name of the link, and the first three numbers of the network's addresses.

    Raises:
        OSError: the link can't be made, or all networks are taken.
    """
    start = secrets.randbelow(NETWORKS)  # hypothesis has random give the same again
    for which in (*range(start, NETWORKS), *range(start)):
        name = f"dxtest{which}"
        try:
            ip("link", "add", name, *link)
        except OSError as exc:
            if "File exists" not in str(exc):
                raise
        else:
            return name, f"198.{18 + which // 256}.{which % 256}"
    raise OSError("all networks are taken: ip link | grep dxtest")
