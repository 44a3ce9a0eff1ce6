"""Machines that are cut off, in network namespaces of their own: no end of any connection comes."""

import os
import subprocess

import pytest
from machine import is_alive, not_here, wait_until

from distex import PoolStartError, TcpOptions, WorkerLost
from distex import options as pool_options
from distex.launch import stream

from . import tasks
from .support import Joiner, Server


def ip(*arguments):
    try:
        return subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True)
    except FileNotFoundError:
        not_here("there is no ip command: apt-get install iproute2")


@pytest.fixture(scope="module")
def namespace():
    """A machine with a link to this one: its name, our address and its own."""
    name = f"dt{os.getpid()}"
    made = ip("netns", "add", name)
    if made.returncode:
        not_here(f"no network namespaces here: {made.stderr.strip()}")
    # of the networks for benchmarks, so that it is nobody's
    ours, theirs = (f"198.18.{os.getpid() % 250}.{host}" for host in (1, 2))
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{ours}/24", "dev", name)
        ip("link", "set", name, "up")
        for device in ("eth0", "lo"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "address", "add", f"{theirs}/24", "dev", "eth0")
        yield name, ours, theirs
    finally:
        ip("netns", "delete", name)


class Machine:
    """The other machine."""

    def __init__(self, namespace):
        self.name, self.ours, self.theirs = namespace
        self.prefix = ["ip", "netns", "exec", self.name]

    def cut(self):
        ip("link", "set", self.name, "down")

    def mend(self):
        ip("link", "set", self.name, "up")
        ip("address", "add", f"{self.ours}/24", "dev", self.name)


@pytest.fixture
def machine(namespace):
    machine = Machine(namespace)
    yield machine
    machine.mend()


@pytest.fixture
def server(machine, tmp_path, secret):
    with Server(tmp_path, secret, "--host", "0.0.0.0", prefix=machine.prefix) as server:
        yield server


def options(secret):
    return TcpOptions(secret=secret, keepalive=1.5)


def test_work_there(machine, server, make_pool):
    with make_pool(0, f"{machine.theirs}:{server.port}/2") as pool:
        assert pool.address[0] == machine.ours
        assert list(pool.map(tasks.double, range(100))) == [2 * x for x in range(100)]


def test_workers_that_cant_connect_back(machine, server, make_pool):
    with pytest.raises(PoolStartError, match=r"can't connect to the pool at 127\.0\.0\.1") as info:
        make_pool(0, f"{machine.theirs}:{server.port}/2", localhost="127.0.0.1")
    assert "Give the pool a localhost" in str(info.value)


def test_a_host_is_cut_off(machine, server, make_pool, secret, monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "ALONE_FACTOR", 2)
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.2)
    with make_pool(1, f"{machine.theirs}:{server.port}/1", tcp=options(secret)) as pool:
        path = tmp_path / "go"
        futures = [pool.submit(tasks.wait_for, str(path)) for _ in range(2)]
        wait_until(lambda: tasks.runs(path) == 2, "both to run")
        there = server.children()
        machine.cut()
        wait_until(lambda: any(future.done() for future in futures), "the loss to be noticed")
        path.touch()
        outcomes = [future.exception() for future in futures]
        assert [type(outcome) for outcome in outcomes if outcome] == [WorkerLost]
        assert pool.run(tasks.double, 1) == 2  # the pool goes on
        wait_until(lambda: not any(is_alive(child.pid) for child in there), "their end")
        machine.mend()
        wait_until(lambda: pool.total_workers() == 2, "the host to be back")


def test_joined_workers_are_cut_off(machine, make_pool, secret, monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "ALONE_FACTOR", 2)
    with make_pool(0, localhost=machine.ours, tcp=options(secret)) as pool, Joiner(
            tmp_path, secret, pool.address, "--workers", 2, "--wait", "inf",
            prefix=machine.prefix) as joiner:
        wait_until(lambda: pool.total_workers() == 2, "them to join")
        there = joiner.children()
        machine.cut()
        wait_until(lambda: not pool.workers(), "the loss to be noticed")
        wait_until(lambda: not any(is_alive(child.pid) for child in there[1:]), "their end")
        machine.mend()
        wait_until(lambda: pool.total_workers() == 2, "them to be back")
