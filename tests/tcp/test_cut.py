"""Machines that are cut off, in network namespaces of their own: no end of any connection comes."""

import os

import pytest
from machine import is_alive, not_here, wait_until
from network import IP, ip, take_network, why_not

from distex import PoolStartError, TcpOptions, WorkerLost
from distex import options as pool_options
from distex.launch import base

from . import tasks
from .support import Joiner, Server


@pytest.fixture(scope="module")
def network():
    """A machine with a link to this one: the link's name, its namespace, our address and its own."""
    if reason := why_not():
        not_here(reason)
    namespace = f"dt{os.getpid()}"
    ip("netns", "add", namespace)
    try:
        link, subnet = take_network("type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("address", "add", f"{subnet}.1/24", "dev", link)
        ip("link", "set", link, "up")
        for device in ("eth0", "lo"):
            ip("-n", namespace, "link", "set", device, "up")
        ip("-n", namespace, "address", "add", f"{subnet}.2/24", "dev", "eth0")
        yield link, namespace, f"{subnet}.1", f"{subnet}.2"
    finally:
        ip("netns", "delete", namespace)


class Machine:
    """The other machine."""

    def __init__(self, network):
        self.link, namespace, self.ours, self.theirs = network
        self.prefix = [IP, "netns", "exec", namespace]

    def cut(self):
        ip("link", "set", self.link, "down")

    def mend(self):
        ip("link", "set", self.link, "up")


@pytest.fixture
def machine(network):
    machine = Machine(network)
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
    monkeypatch.setattr(base, "ALONE_FACTOR", 2)
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
    monkeypatch.setattr(base, "ALONE_FACTOR", 2)
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
