"""A real sshd for the tests, both event loops, and a look for what was left on the far side."""

import asyncio
import inspect
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import uvloop
from machine import not_here, wait_until
from network import why_not

from distex import HostSpec, LoopType, Pool

from .lan import Lan
from .support import SSHD, Proxy, Sshd

LOOP_FACTORIES = {
    LoopType.uvloop: uvloop.new_event_loop,
    LoopType.asyncio: asyncio.SelectorEventLoop,
}


@pytest.fixture(scope="session", autouse=True)
def there_is_an_sshd():
    """Nothing here works without."""
    if SSHD is None:
        not_here("there is no sshd: apt-get install openssh-server")


def pytest_generate_tests(metafunc):
    if "loop_type" in metafunc.fixturenames:
        metafunc.parametrize(
            "loop_type", list(LOOP_FACTORIES), ids=lambda kind: kind.name, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is a coroutine function, on a fresh loop of the kind it is run for."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    kind = arguments.get("loop_type", LoopType.uvloop)
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[kind]) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory):
    """One sshd for all tests that leave it as it is."""
    sshd = Sshd(tmp_path_factory.mktemp("sshd")).start()
    yield sshd
    sshd.stop()


@pytest.fixture
def sshd(shared_sshd):
    """The shared sshd; after the test nothing that it started may be there."""
    yield shared_sshd
    wait_until(lambda: not shared_sshd.left(), "an end of what was there", shared_sshd.left)


@pytest.fixture
def make_sshd(tmp_path):
    """Makes sshds for the test alone, with lines for the configuration and an environment."""
    made = []

    def make(*config, **environment):
        folder = tmp_path / f"sshd{len(made)}"
        folder.mkdir()
        made.append(Sshd(folder, config, environment))
        return made[-1].start()

    yield make
    for sshd in made:
        try:
            wait_until(lambda: not sshd.left(), "an end of what was there", sshd.left)
        finally:
            sshd.stop()


@pytest.fixture
def lan(tmp_path):
    """A network for hosts, of which the test adds as many as it needs."""
    if reason := why_not():
        not_here(reason)
    lan = Lan(tmp_path)
    yield lan
    try:
        for host in lan.hosts:
            wait_until(lambda host=host: not host.left(), "an end of what was there", host.left)
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def pool_sshd(tmp_path_factory, loop_type):
    """The sshd of the shared pool."""
    sshd = Sshd(tmp_path_factory.mktemp("sshd")).start()
    yield sshd
    sshd.stop()


@pytest.fixture(scope="module")
def pool(pool_sshd, loop_type):
    """A pool of two workers behind ssh, shared by the tests of a module that leave it as it was."""
    with Pool(0, pool_sshd.spec(2), worker_loop=loop_type) as shared:
        yield shared


@pytest.fixture
def network(sshd):
    """A network between client and sshd that can fail."""
    proxy = Proxy(sshd.port)
    yield proxy
    proxy.close()


@pytest.fixture
def behind_network(sshd, network):
    """Makes specifications of the host as seen through it."""
    def make(workers=2, **options):
        known = sshd.folder / "known_behind_network"
        known.write_text(sshd.known_hosts.read_text().replace(str(sshd.port), str(network.port)))
        url = sshd.url(workers).replace(str(sshd.port), str(network.port))
        return HostSpec(url, sshd.options(known_hosts=known, **options))
    return make


@pytest.fixture
def small_disk():
    """Mounts a disk with room for so many files and folders, its root included."""
    mounted = []

    def mount(inodes):
        disk = Path(tempfile.mkdtemp())  # not tmp_path: a socket's path must not be too long
        command = ["mount", "-t", "tmpfs", "-o", f"nr_inodes={inodes}", "none", disk]
        if os.getuid() != 0 or subprocess.run(command).returncode:
            not_here("a disk can't be mounted here: it takes root")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        wait_until(lambda: subprocess.run(["umount", disk]).returncode == 0, "nobody to use it")
        disk.rmdir()
