"""Servers that do what a real sshd can't be made to do: the pool copes, or says what is wrong."""

import asyncio
import time

import numpy as np
import pytest
from effort import so_much
from machine import is_alive, wait_until

from distex import Pool, PoolStartError, WorkerLost

from .asyncssh_server import AsyncSshd
from .tasks import double


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = AsyncSshd(tmp_path / "server").start()
    yield server
    server.stop()


def start_error(spec, within=15.0):
    """The message with which a pool with this host fails."""
    since = time.monotonic()
    with pytest.raises(PoolStartError) as caught:
        Pool(0, spec)
    assert time.monotonic() - since < within
    assert "\nTo mend it: " in str(caught.value)
    return str(caught.value)


def test_another_server_than_openssh_will_do(server):
    with Pool(0, server.spec(2)) as pool:
        assert list(pool.map(double, range(500))) == [double(x) for x in range(500)]
        array = np.arange(1_000_000)
        assert np.array_equal(pool.run(double, array), 2 * array)
    assert not list(server.tmp.iterdir())


def test_it_hangs_in_authentication(server):
    """It has shown its key, and then nothing more comes."""
    server.lets_in = False
    message = start_error(server.spec(connect_timeout=1.5))
    assert "did not let us log in within 1.5 s" in message


def test_it_refuses_to_forward(server):
    server.forwards = False
    assert "does not forward a socket" in start_error(server.spec())
    assert not server.processes()


def test_it_never_answers_the_request_to_forward(server):
    server.forwards_late = asyncio.Event()
    message = start_error(server.spec(connect_timeout=1.5))
    assert "no nanny came up within 1.5 s" in message
    server._loop.call_soon_threadsafe(server.forwards_late.set)


@pytest.mark.parametrize("direction", ["to_workers", "from_workers"])
@pytest.mark.parametrize("size", [1, 10, 5000, 1_000_000])
def test_a_channel_ends_in_the_midst_of_a_frame(server, direction, size):
    """The connection lives: one worker is lost, and replaced."""
    with Pool(0, server.spec(2)) as pool:
        array = np.arange(so_much(plain=250_000, thorough=1_000_000))
        assert np.array_equal(pool.run(double, array), 2 * array)
        pids = {process.pid for process in server.processes()}
        server.bytes_left[direction] = size
        if direction == "to_workers":  # it had not begun, as its end tells: another one does it
            assert np.array_equal(pool.run(double, array), 2 * array)
        else:
            with pytest.raises(WorkerLost):
                pool.run(double, array)
        assert np.array_equal(pool.run(double, array), 2 * array)
        wait_until(lambda: pool.total_workers() == 2, "the new worker")
        assert len(pids & {process.pid for process in server.processes()}) == 2  # nanny, the other


def test_a_slow_channel(server):
    """Large data crawl; what is small and goes to another worker does not wait for them."""
    with Pool(0, server.spec(2), qsize=1) as pool:
        array = np.arange(200_000)
        assert pool.run_on_all(abs, -1) == [1, 1]
        server.pause = 0.002
        slow = [pool.submit(double, array)]
        for x in range(20):
            assert pool.run(double, x) == 2 * x
        assert not slow[0].done()
        server.pause = 0.0
        assert np.array_equal(slow[0].result(), 2 * array)


def test_it_is_lost_and_comes_back(server):
    with Pool(0, server.spec(2)) as pool:
        old = server.processes()
        server.cut()
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        assert pool.run(double, 1) == 2
