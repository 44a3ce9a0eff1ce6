"""Workers that join a pool: python -m distex worker, as a scheduler would start it."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from machine import DEADLINE, free_port, is_alive, wait_until

from distex import HostError, PoolClosed, PoolStartError, TcpOptions, WorkerLost, machine, options
from distex.commands.worker import Joiner
from distex.launch.relay import socket_address
from distex.options import CONNECT_TIMEOUT
from distex.wire.secret import Secret

from . import tasks
from .support import Command, other_version


def wait_for_workers(pool, number):
    wait_until(lambda: pool.total_workers() == number, f"{number} workers", pool.workers)


# --- coming


def test_workers_join(listening, join):
    with listening() as pool:
        assert pool.total_workers() == 0
        future = pool.submit(tasks.double, 4)
        joiner = join(pool.address, workers=2)
        assert future.result() == 8
        wait_for_workers(pool, 2)
        assert set(pool.run_on_all(os.getpid)) <= {child.pid for child in joiner.children()}
        assert list(pool.map(tasks.double, range(1000))) == [2 * x for x in range(1000)]
        assert [worker.host for worker in pool.workers()] == [os.uname().nodename] * 2
    assert joiner.wait() == 0
    assert "connected to the pool" in joiner.log and "has ended" in joiner.log


@pytest.fixture
def few_files():
    """As few as may be open, until somebody asks for more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = machine.SPARE_FILES + 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_there_is_made_room_for_the_files_of_workers_that_join(listening, join, few_files):
    with listening() as pool:
        join(pool.address, workers=3)
        wait_for_workers(pool, 3)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= few_files + 3 * 2


def test_workers_for_which_there_can_be_no_files_are_sent_away(listening, join, monkeypatch):
    with listening(1) as pool:
        def refuse(more):
            raise OSError("the hard limit is too low")

        monkeypatch.setattr(machine, "raise_file_limit", refuse)
        joiner = join(pool.address, "--wait", "0.3", workers=2)
        assert joiner.wait() == 1  # there may be some later
        assert "the hard limit is too low" in joiner.log
        assert pool.submit(tasks.double, 1).result() == 2
        assert len(pool.workers()) == 1


def look_at_hash():
    return hash("distex"), os.environ.get("PYTHONHASHSEED")


@pytest.mark.parametrize("there", [{}, {"PYTHONHASHSEED": "5"}], ids=["", "5"])
def test_all_agree_on_hashes(listening, join, server, there):
    """Those that are here, those that join, and those behind a server."""
    with listening(1) as pool:
        join(pool.address, workers=1, environment=there)
        wait_for_workers(pool, 2)
        pool.add_host(server.url(1))
        here, joined, behind_server = pool.run_on_all(look_at_hash)
        assert here == behind_server
        assert joined == (here[0], there.get("PYTHONHASHSEED"))


def test_a_worker_that_has_joined_is_replaced_when_its_initializer_fails_for_a_while(
        listening, join, tmp_path, monkeypatch):
    """It is not sent away."""
    monkeypatch.setattr(options, "RECONNECT_DELAY_MAX", 0.2)
    losses, trouble = [], tmp_path / "trouble"
    with listening(
            initializer=tasks.fail_while_there, initargs=(str(trouble),),
            on_worker_lost=losses.append) as pool:
        join(pool.address, workers=1)
        wait_for_workers(pool, 1)
        trouble.touch()
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        wait_until(lambda: len(losses) >= 3, "it to be tried again")
        trouble.unlink()
        assert pool.submit(tasks.double, 1).result() == 2


def test_in_async_code(listening, join, loop):
    async def main():
        async with listening() as pool:
            join(pool.address, workers=1)
            results = [result async for result in pool.map_async(tasks.double, range(100))]
            assert results == [2 * x for x in range(100)]

    loop.run(main())


def test_they_join_those_that_are_here(listening, join):
    with listening(1) as pool:
        one, two = join(pool.address, workers=1), join(pool.address, workers=2)
        wait_for_workers(pool, 4)
        assert len(set(pool.run_on_all(os.getpid))) == 4
    assert one.wait() == two.wait() == 0


def test_the_working_directory(listening, join, tmp_path):
    with listening() as pool:
        join(pool.address, "--directory", tmp_path, workers=1)
        assert pool.run(lambda: os.getcwd()) == str(tmp_path)


def test_a_map_begins_before_there_are_workers(listening, join):
    with listening() as pool:
        results = pool.map(tasks.double, range(100))
        join(pool.address, workers=1)
        assert list(results) == [2 * x for x in range(100)]


def test_they_wait_for_the_pool(listening, join):
    port = free_port()
    joiner = join(("127.0.0.1", port), "--wait", "inf", workers=1)
    joiner.says("no pool at 127.0.0.1, port .* yet")
    with listening(localport=port) as pool:
        assert pool.run(tasks.double, 4) == 8


# --- going


def test_one_goes_and_the_others_go_on(listening, join, tmp_path):
    with listening() as pool:
        stays = join(pool.address, workers=1)
        wait_for_workers(pool, 1)
        goes = join(pool.address, workers=1)
        wait_for_workers(pool, 2)
        path = tmp_path / "go"
        futures = [pool.submit(tasks.wait_for, str(path)) for _ in range(2)]
        wait_until(lambda: tasks.runs(path) == 2, "both to run")
        goes.stop(signal.SIGKILL)
        wait_for_workers(pool, 1)
        path.touch()
        outcomes = [future.exception() for future in futures]
        assert [type(outcome) for outcome in outcomes if outcome] == [WorkerLost]
        assert pool.run(tasks.double, 1) == 2
        assert [host.launcher for host in pool._home.supervisor.hosts] == [None]
        assert stays.children()


def test_the_last_one_goes_and_another_comes(listening, join):
    with listening() as pool:
        first = join(pool.address, workers=1)
        wait_for_workers(pool, 1)
        first.stop(signal.SIGKILL)
        wait_until(lambda: not pool.workers(), "its loss to be noticed")
        future = pool.submit(tasks.double, 4)
        join(pool.address, workers=1)
        assert future.result() == 8


def test_a_worker_of_theirs_that_dies_is_replaced(listening, join):
    with listening() as pool:
        join(pool.address, workers=1)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            pool.run(lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert pool.run(tasks.double, 1) == 2


def test_a_signal_while_it_connects(join):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        joiner = join(silent.getsockname())
        with silent.accept()[0]:
            since = time.monotonic()
            assert joiner.stop() == 0
            assert time.monotonic() - since < CONNECT_TIMEOUT / 2


def test_a_signal_when_it_has_just_connected(listening, secret, loop, monkeypatch):
    connect = Joiner._connect

    async def connect_and_leave(joiner):
        connected = await connect(joiner)
        asyncio.get_running_loop().call_soon(joiner.leave)
        return connected

    async def join_and_leave(address):
        async with asyncio.timeout(DEADLINE):
            return await Joiner(Secret(secret), address, 1, 0.0).run()

    monkeypatch.setattr(Joiner, "_connect", connect_and_leave)
    with listening() as pool:
        assert loop.run(join_and_leave(pool.address)) == 0
        assert not pool.workers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_tasks_end(listening, join, tmp_path, number):
    with listening() as pool:
        joiner = join(pool.address, workers=1)
        path = tmp_path / "go"
        running = pool.submit(tasks.wait_for, str(path), "done")
        wait_until(lambda: tasks.runs(path), "it to run")
        waiting = pool.submit(tasks.double, 4)
        joiner.process.send_signal(number)
        wait_until(lambda: [w.state for w in pool.workers()] == ["retiring"], "it to retire")
        assert joiner.process.poll() is None
        path.touch()
        assert running.result() == "done"
        assert joiner.wait() == 0
        assert not pool.workers()
        join(pool.address, workers=1)
        assert waiting.result() == 8


def test_a_second_signal_does_not(listening, join, tmp_path):
    with listening() as pool:
        joiner = join(pool.address, workers=1)
        path = tmp_path / "go"
        running = pool.submit(tasks.wait_for, str(path))
        wait_until(lambda: tasks.runs(path), "it to run")
        joiner.process.terminate()
        wait_until(lambda: [w.state for w in pool.workers()] == ["retiring"], "it to retire")
        assert joiner.stop() == 0
        with pytest.raises(WorkerLost):
            running.result()


def test_a_signal_while_they_wait_for_the_pool(join):
    joiner = join(("127.0.0.1", free_port()), "--wait", "inf")
    joiner.says("no pool")
    assert joiner.stop() == 0


def test_the_pool_removes_them(listening, join):
    with listening(1) as pool:
        joiner = join(pool.address, workers=1)
        wait_for_workers(pool, 2)
        name = next(host.name for host in pool._home.supervisor.hosts if not host.is_local)
        pool.remove_host(name)  # and the workers of this machine, which has the same name
        assert joiner.wait() == 0
        assert not pool.workers()
        with pytest.raises(HostError, match="no host"):
            pool.remove_host(name)


POOL = """
import os, sys, time
from distex import Pool, TcpOptions
with Pool(0, localhost="127.0.0.1", localport=int(sys.argv[1]),
          tcp=TcpOptions(secret=sys.argv[2])) as pool:
    print("listens", flush=True)
    print(pool.run(os.getpid), flush=True)
    time.sleep(1000)
"""


def test_the_pool_is_killed_and_another_comes(listening, join, secret):
    port = free_port()
    joiner = join(("127.0.0.1", port), "--wait", "inf", workers=1)
    with subprocess.Popen([sys.executable, "-c", POOL, str(port), str(secret)],
                          stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        worker = int(process.stdout.readline())
        process.kill()
    wait_until(lambda: not is_alive(worker), "the worker to end")
    with listening(localport=port) as pool:
        assert pool.run(os.getpid) != worker
        assert joiner.children()


def test_the_pool_does_not_come_back(join, secret):
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", POOL, str(port), str(secret)],
                          stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        joiner = join(("127.0.0.1", port), "--wait", "0.5", workers=1)
        process.stdout.readline()  # a worker has joined
        process.kill()
    assert joiner.wait() == 1
    assert "no pool at 127.0.0.1" in joiner.log and "within 0.5 s" in joiner.log


def test_what_waits_when_the_pool_ends(listening):
    with listening() as pool:
        future = pool.submit(tasks.double, 4)
    with pytest.raises(PoolClosed):
        future.result()


def test_they_come_and_go_while_tasks_run(listening, join):
    """No result is lost or doubled."""
    with listening() as pool:
        first = join(pool.address, workers=2)
        first.says("connected")
        results = []
        mapping = threading.Thread(
            target=lambda: results.extend(pool.map(tasks.double, range(20_000))))
        mapping.start()
        second = join(pool.address, workers=2)
        second.says("connected")
        wait_until(lambda: pool.total_workers() >= 3 or not mapping.is_alive(), "more workers")
        assert first.stop() == 0
        mapping.join()
        assert results == [2 * x for x in range(20_000)]


# --- what can't be


def test_no_pool(join):
    joiner = join(("127.0.0.1", free_port()), "--wait", "0.3")
    assert joiner.wait() == 1
    assert "refused" in joiner.log or "Connect call failed" in joiner.log


def test_another_secret(listening, join, other_secret):
    with listening() as pool:
        joiner = join(pool.address, "--wait", "0.3", secret=other_secret)
        assert joiner.wait() == 1
        assert "has another secret" in joiner.log
        assert not pool.workers()
        assert pool._home.supervisor.listener.dropped >= 1


def test_another_version(listening, join, tmp_path):
    with listening(1) as pool:
        joiner = join(pool.address, environment=other_version(tmp_path))
        assert joiner.wait() == 3
        assert "wire version 99" in joiner.log
        assert "install the same distex" in joiner.log
        assert pool.run(tasks.double, 1) == 2
        assert pool.total_workers() == 1


def test_an_initializer_that_fails_there(listening, join):
    with listening(1, initializer=tasks.fail_if_unfit) as pool:
        joiner = join(pool.address, environment={"UNFIT": "1"})
        assert joiner.wait() == 3
        assert "this host will not do" in joiner.log
        assert pool.run(tasks.double, 1) == 2
        assert pool.total_workers() == 1


def test_a_pool_that_may_be_joined_needs_a_secret(listening, tmp_path):
    with pytest.raises(PoolStartError, match="there is no secret"):
        listening(tcp=TcpOptions(secret=tmp_path / "none"))


@pytest.mark.parametrize(("arguments", "text"), [
    ([], "--connect"),
    (["--connect", "maxi"], "host:port"),
    (["--connect", "maxi:0"], "host:port"),
    (["--connect", "::1:80"], "brackets"),
    (["--connect", "maxi:80", "--workers", "-1"], "--workers"),
    (["--connect", "maxi:80", "--wait", "-1"], "--wait"),
    (["--connect", "maxi:80", "--wait", "nan"], "--wait"),
    (["--connect", "maxi:80", "--directory", "/no such directory"], "--directory"),
    (["--connect", "maxi:80", "--secret", "/no such secret"], "there is no secret"),
])
def test_wrong_arguments(tmp_path, secret, arguments, text):
    with Command(tmp_path, "distex", "worker", "--secret", secret, *arguments) as command:
        assert command.wait() == 2
        assert text in command.log


@pytest.mark.parametrize(("text", "address"), [
    ("maxi:80", ("maxi", 80)), ("10.0.0.2:8899", ("10.0.0.2", 8899)), ("[::1]:80", ("::1", 80)),
])
def test_addresses(text, address):
    assert socket_address(text) == address
