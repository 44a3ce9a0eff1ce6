"""Hostile clients at every socket, before and after TLS: they are dropped and counted.

What they send is not unpickled, starts nothing, breaks nothing and stays nowhere.

10,000 byte strings with the profile "ci", fewer otherwise, shared out between the two event loops;
and a fifth as many again behind a TLS handshake, which takes its time.
"""

import asyncio
import contextlib
import gc
import os
import pickle
import random
import socket
import struct
import sys
import time
import warnings

import psutil
import pytest
from hypothesis import settings
from machine import wait_until

from distex import options
from distex.wire import messages
from distex.wire.secret import Secret
from distex.wire.tls import NANNY, PROBE, WORKER, TlsListener

from . import tasks
from .attackers import client_hello
from .support import Server

pytestmark = pytest.mark.timeout(600)

AT_ONCE = 50  # connections that are open at a time
SILENT = 0.3  # seconds for a connection to say who it is, in the tests of that


def count(client):
    """How many byte strings for each loop."""
    return settings().max_examples // (10 if isinstance(client, Tls) else 2)


# --- what is sent


class Bomb:
    """Leaves a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def frame(kind, body=b"", *, segments=(), flags=0, aux=0, id=0, length=None):
    """A frame, see _core/framing.pyx."""
    header = struct.pack("<BBHIQQ", kind, flags, len(segments), aux, id,
                         len(body) if length is None else length)
    return header + b"".join(struct.pack("<Q", n) for n in segments) + body


def strings(seed, bomb, number):
    """What a hostile client could send."""
    rng = random.Random(seed)
    pickled = pickle.dumps(Bomb(bomb))
    hello = messages.encode(messages.Hello(token=bytes(32), number=1, pid=1))
    whole = [
        frame(1, hello), frame(1, pickled), frame(1, b""), frame(2, hello), frame(7, pickled),
        frame(3, pickled), frame(5, pickled), frame(8, pickled), frame(10, pickled), frame(16),
        frame(1, messages.encode(messages.Hello(token=b"", number=-1, pid=0, lane=True))),
        frame(1, messages.encode(messages.Ready(("x", "y", pickled)))),
        frame(1, length=2**63), frame(1, length=257), frame(1, segments=[2**62] * 1000),
        frame(255, hello), pickled, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
        messages.pack(messages.Stop(0.0)), messages.pack(messages.Spawn(1)),
        b"\xff" * 4, b"\xff" * 100_000, b"\x00" * 100_000,
    ]
    for i in range(number):
        choice = i % 4
        if choice == 0:
            yield rng.randbytes(rng.randrange(1, 600))
        elif choice == 1:
            yield rng.choice(whole)
        elif choice == 2:  # truncated
            data = rng.choice(whole)
            yield data[: rng.randrange(len(data) + 1)]
        else:  # changed
            data = bytearray(rng.choice(whole))
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            yield bytes(data)


# --- the clients


class Raw:
    """Connects without TLS."""

    def __init__(self, address):
        self.address = address

    def connect(self):
        sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        sock.settimeout(60)
        sock.connect(self.address)
        return sock


class Tls(Raw):
    """Has the secret, but is hostile all the same."""

    def __init__(self, address, secret, protocol):
        super().__init__(address)
        self.context = Secret(secret).context([protocol] if protocol else [], server_side=False)

    def connect(self):
        return self.context.wrap_socket(super().connect())


def send(client, data):
    """Connect, send and say that this was all."""
    sock = client.connect()
    with contextlib.suppress(OSError):  # closed at the other end in the midst of it
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    return sock


def read_to_end(sock):
    """Wait until the other end has closed; how many bytes it sent."""
    n = 0
    with sock, contextlib.suppress(OSError):
        while data := sock.recv(65536):
            n += len(data)
    return n


def attack(client, data):
    """Send each of these byte strings on a connection of its own, some at a time."""
    waiting = []
    for string in data:
        waiting.append(send(client, string))
        if len(waiting) == AT_ONCE:
            for sock in waiting:
                read_to_end(sock)
            waiting.clear()
    for sock in waiting:
        read_to_end(sock)


# --- the pool's sockets


@pytest.fixture(params=["Unix", "TCP", "TLS, worker", "TLS, nanny", "TLS, nothing"])
def target(request, listening, secret):
    """A pool, and a client for one of its sockets."""
    with listening(1) as pool:
        kind = request.param
        listener = pool._home.supervisor.listener
        if kind == "Unix":
            client = Raw(listener._unix_path)
        elif kind == "TCP":
            client = Raw(pool.address)
        else:
            client = Tls(pool.address, secret,
                         {"TLS, worker": WORKER, "TLS, nanny": NANNY}.get(kind))
        yield pool, listener, client


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_what_is_sent_to_a_pool_harms_nothing(target, tmp_path):
    pool, listener, client = target
    bomb = str(tmp_path / "exploded")
    number = count(client)
    attack(client, strings(0, bomb, AT_ONCE))  # what is only made once
    wait_until(lambda: listener.dropped == AT_ONCE, "all to be dropped")
    gc.collect()
    blocks, files = sys.getallocatedblocks(), descriptors()
    resident = psutil.Process().memory_info().rss
    future = pool.submit(time.sleep, 0.1)
    attack(client, strings(1, bomb, number))
    future.result()
    wait_until(lambda: listener.dropped == AT_ONCE + number, "all to be dropped and counted",
               lambda: listener.dropped)
    assert not listener.unauthenticated
    assert not os.path.exists(bomb)
    wait_until(lambda: len(pool.workers()) == len(pool._home.supervisor.hosts) == 1,
               "nothing to be left of who joined")
    assert list(pool.map(tasks.double, range(100))) == [2 * x for x in range(100)]
    wait_until(lambda: descriptors() <= files + 2, "no descriptor more", descriptors)  # a lane
    gc.collect()
    # what was logged is kept by pytest: one in twenty
    assert sys.getallocatedblocks() - blocks < 20_000 + 3 * number
    assert psutil.Process().memory_info().rss - resident < 40_000_000


def test_a_probe_is_no_stranger(listening, secret):
    with listening(1) as pool:
        assert read_to_end(Tls(pool.address, secret, PROBE).connect()) == 0
        assert pool._home.supervisor.listener.dropped == 0


def trickle(sock):
    """Send a byte now and then, until the other end has closed."""
    with sock:
        data = iter(frame(1, b"x" * 200))
        sock.settimeout(0.02)
        while True:
            with contextlib.suppress(OSError):
                sock.sendall(bytes([next(data)]))
            try:
                if not sock.recv(100):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


@pytest.mark.parametrize("does", [read_to_end, trickle], ids=["silent", "trickle"])
def test_who_does_not_say_who_it_is_in_time_is_dropped(listening, secret, monkeypatch, does):
    with listening(1) as pool:
        listener = pool._home.supervisor.listener
        monkeypatch.setattr(options, "HELLO_TIMEOUT", SILENT)
        monkeypatch.setattr(options, "START_TIMEOUT", SILENT)
        clients = [Raw(listener._unix_path), Raw(pool.address)] + [
            Tls(pool.address, secret, protocol) for protocol in (WORKER, NANNY)]
        for client in clients:
            does(client.connect())
        wait_until(lambda: listener.dropped == len(clients), "all to be dropped and counted")
        assert pool.run(tasks.double, 1) == 2


def test_a_cap_on_strangers(listening, monkeypatch):
    with listening(1) as pool:
        listener = pool._home.supervisor.listener
        monkeypatch.setattr(options, "MAX_UNKNOWN_CONNECTIONS", 10)
        client = Raw(listener._unix_path)
        socks = [client.connect() for _ in range(30)]
        wait_until(lambda: listener.dropped == 20, "those beyond the cap to be dropped")
        assert len(listener.unauthenticated) == 10
        assert pool.submit(tasks.double, 1).result() == 2  # run() has the worker connect once more
        for sock in socks:
            sock.close()
        wait_until(lambda: listener.dropped == 30 and not listener.unauthenticated, "all to be gone")


def test_a_cap_on_handshakes(listening, join, secret, monkeypatch):
    """Those beyond it wait, and who belongs to the pool gets in as soon as the others are out."""
    monkeypatch.setattr(options, "MAX_HANDSHAKES", 4)
    monkeypatch.setattr(options, "HELLO_TIMEOUT", SILENT)
    hello = client_hello(secret)
    with listening() as pool:
        ((tls_listener, _),) = pool._home.supervisor.listener.tls_listeners.values()
        client = Raw(pool.address)
        socks = [client.connect() for _ in range(12)]
        for sock in socks:
            sock.sendall(hello)
        join(pool.address, workers=1)
        most = 0
        while not pool.total_workers():
            most = max(most, len(tls_listener.admission.handshakes))
            time.sleep(0.001)
        assert most == 4
        assert pool._home.supervisor.listener.dropped >= 12
        for sock in socks:
            sock.close()


async def _connect_and_close(secret, turns):
    """A listener that is closed so many turns of the loop after somebody has connected."""
    tls_listener = TlsListener(Secret(secret), [WORKER], asyncio.Protocol, lambda exc: None)
    with socket.create_connection(await tls_listener.open("127.0.0.1", 0)) as sock:
        for _ in range(turns):
            await asyncio.sleep(0)
        tls_listener.close()
        await tls_listener.closed()
        await asyncio.sleep(0)
        sock.settimeout(0)  # it has been closed, or reset
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


@pytest.mark.parametrize("turns", range(8))
def test_who_connects_in_the_moment_in_which_it_is_closed_is_let_go(secret, loop, turns):
    """By what does so, and not when some time the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings(action="error"):
            loop.run(_connect_and_close(secret, turns))
    finally:
        gc.enable()


# --- the spawn server

IMPATIENT = f"""
import distex.options
distex.options.HELLO_TIMEOUT = {SILENT}
"""


@pytest.mark.parametrize("kind", ["TCP", "TLS", "TLS, nothing"])
def test_what_is_sent_to_a_server_harms_nothing(tmp_path, secret, make_pool, kind):
    bomb = str(tmp_path / "exploded")
    with Server(tmp_path, secret) as server:
        address = "127.0.0.1", server.port
        client = Raw(address) if kind == "TCP" else Tls(
            address, secret, NANNY if kind == "TLS" else None)
        number = count(client)
        attack(client, strings(0, bomb, AT_ONCE))
        process = psutil.Process(server.process.pid)
        files, resident = process.num_fds(), process.memory_info().rss
        # without what a pool says, which has a nanny started
        attack(client, strings(1, bomb, number))
        wait_until(lambda: process.num_fds() <= files, "no descriptor more", process.num_fds)
        assert process.memory_info().rss - resident < 40_000_000
        wait_until(lambda: not server.children(), "the end of nannies")
        with make_pool(0, server.url(1)) as pool:
            assert pool.run(tasks.double, 1) == 2
        assert server.stop() == 0
        started = server.log.count("the nanny for the pool on") - 1
        assert server.dropped() + started == AT_ONCE + number
        assert kind == "TLS" or not started
    assert not os.path.exists(bomb)


@pytest.mark.parametrize("does", [read_to_end, trickle], ids=["silent", "trickle"])
def test_a_server_does_not_wait_for_ever(tmp_path, secret, does):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT)
    with Server(tmp_path, secret, environment={"PYTHONPATH": str(tmp_path)}) as server:
        address = "127.0.0.1", server.port
        for client in (Raw(address), Tls(address, secret, NANNY)):
            does(client.connect())
        assert server.stop() == 0
        assert server.dropped() == 2
