"""Strangers on the port of a pool, or of a server: those with the secret come in all the same, and
nothing ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from machine import wait_until

from distex import TcpOptions

from . import attackers, tasks
from .support import TESTS

CONNECTIONS = 600  # that each attack keeps open
SOON = 6.0  # seconds; the bar is 3, on a machine that does nothing else


@contextlib.contextmanager
def attack(kind, port, secret):
    """The attack goes on during the block. Who has listened takes a share that is its source's."""
    source = "127.0.0.2" if kind == "has listened" else "127.0.0.1"
    with subprocess.Popen(
            [sys.executable, "-m", "tcp.attackers", kind, str(port), str(secret),
             str(CONNECTIONS), source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS) as process:
        assert process.stdout.readline() == b"begins\n"
        yield process
        assert process.poll() is None


@pytest.mark.parametrize("kind", attackers.KINDS)
def test_a_pool_under_attack(listening, join, secret, kind):
    """A host joins, a lost worker is replaced, tasks go on."""
    with listening(1) as pool:
        with attack(kind, pool.address[1], secret):
            wait_until(lambda: pool.statistics().connections_dropped > CONNECTIONS
                       or kind == "has listened", "the attack to be on")
            since = time.monotonic()
            joiner = join(pool.address, workers=2)
            wait_until(lambda: pool.total_workers() == 3, "the host to join", lambda: joiner.log)
            assert time.monotonic() - since < SOON
            victim = next(worker.pid for worker in pool.workers() if worker.pid in {
                child.pid for child in joiner.children()})
            since = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: pool.total_workers() == 3 and victim not in {
                worker.pid for worker in pool.workers()}, "another worker")
            assert time.monotonic() - since < SOON
            assert list(pool.map(tasks.double, range(100))) == [2 * x for x in range(100)]
            assert joiner.process.poll() is None
        ((tls_listener, _),) = pool._home.supervisor.listener.tls_listeners.values()
        wait_until(lambda: not tls_listener.admission.silent and not tls_listener.admission.marked,
                   "nothing to be left of it")
    assert joiner.wait() == 0


@pytest.mark.parametrize("kind", ["silent", "has listened"])
def test_a_server_under_attack(make_server, make_pool, secret, kind):
    """Pools start, and a nanny that is lost comes again."""
    server = make_server()
    with attack(kind, server.port, secret), make_pool(0, server.url(1)) as pool:
        nanny = pool.run(os.getppid)
        os.kill(nanny, signal.SIGKILL)
        wait_until(lambda: [worker.state for worker in pool.workers()] != ["idle"], "its loss")
        since = time.monotonic()
        assert pool.submit(tasks.double, 2).result() == 4
        assert time.monotonic() - since < SOON
    assert server.stop() == 0


def test_a_nanny_is_started_again_while_the_pool_is_attacked(server, listening, secret):
    """Its workers have to come to the pool's port."""
    with listening(0, hosts=server.url(1)) as pool, attack("silent", pool.address[1], secret):
        nanny = pool.run(os.getppid)
        os.kill(nanny, signal.SIGKILL)
        wait_until(lambda: [worker.state for worker in pool.workers()] != ["idle"], "its loss")
        assert pool.submit(tasks.double, 2).result() == 4


def test_what_is_no_pool_does_not_end_who_wants_to_join(listening, join, other_secret):
    """It may have taken the port before the pool does."""
    with listening() as squatter:
        port = squatter.address[1]
        joiner = join(squatter.address, "--wait", "inf", workers=1, secret=other_secret)
        joiner.says("has another secret")
        assert joiner.process.poll() is None
    with listening(localport=port, tcp=TcpOptions(secret=other_secret)) as pool:
        assert pool.submit(tasks.double, 2).result() == 4
        assert joiner.process.poll() is None
