"""Hosts that come and go while the pool runs."""

import asyncio
import os
import threading
import time

import pytest
from machine import wait_until

from distex import HostError, Pool, PoolStartError, WorkerLost
from distex import options as pool_options
from distex.cluster.membership import Membership
from distex.launch.ssh import _NannySession

from .tasks import double


def hang_until(path):
    """Runs until there is something at path, and says that it does."""
    import time
    from pathlib import Path

    Path(f"{path}-runs").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


def hosts(pool):
    """How many workers each host has."""
    names = [worker.host for worker in pool.workers()]
    return {name: names.count(name) for name in names}


def look_for_what_is_left(sshd):
    """sshd's own processes take a moment to end; ours have ended."""
    assert not sshd.processes()
    wait_until(lambda: not sshd.left(), "an end of what was there", sshd.left)


def refuse_elsewhere(here):
    """An initializer that fails on all machines but one; these are told apart by their parents."""
    if os.environ.get("TMPDIR", "") != here:
        raise RuntimeError("not here")


def test_a_host_is_added_and_removed(sshd):
    with Pool(1) as pool:
        name = pool.add_host(sshd.spec(2))
        assert pool.total_workers() == 3
        assert hosts(pool)[name] == 2
        assert len(set(pool.run_on_all(os.getpid))) == 3
        pool.remove_host(name)
        assert pool.total_workers() == 1
        look_for_what_is_left(sshd)
        assert pool.run(double, 1) == 2


def test_a_host_is_removed_by_its_url(sshd):
    with Pool(1, sshd.spec(2)) as pool:
        pool.remove_host(sshd.url())
        look_for_what_is_left(sshd)
        pool.add_host(sshd.spec(1))
        pool.remove_host(sshd.spec(3))
        look_for_what_is_left(sshd)


async def test_in_async_code(sshd, loop_type):
    async with Pool(1, worker_loop=loop_type) as pool:
        name = await pool.add_host_async(sshd.spec(2))
        assert len(set(await pool.run_on_all_async(os.getpid))) == 3
        await pool.remove_host_async(name)
        look_for_what_is_left(sshd)
        assert await pool.run_async(double, 1) == 2


def test_what_waits_goes_to_a_host_that_is_added(sshd, tmp_path):
    with Pool(1) as pool:
        pool.scale(0)
        future = pool.submit(double, 4)
        pool.add_host(sshd.spec(1))
        assert future.result() == 8


def test_what_runs_there_ends_before_the_host_is_removed(sshd, tmp_path):
    path = tmp_path / "go"
    with Pool(1, sshd.spec(1)) as pool:
        futures = [pool.submit(hang_until, str(path)) for _ in range(2)]
        wait_until(lambda: {w.state for w in pool.workers()} == {"busy"}, "both to be busy")
        removing = threading.Thread(target=pool.remove_host, args=(sshd.url(),))
        removing.start()
        wait_until(lambda: "retiring" in {w.state for w in pool.workers()}, "one to retire")
        assert pool.total_workers() == 1
        path.touch()
        removing.join()
        look_for_what_is_left(sshd)
        assert len({future.result() for future in futures}) == 2


def test_a_host_is_removed_at_once(sshd, tmp_path):
    with Pool(0, sshd.spec(1)) as pool:
        future = pool.submit(hang_until, str(tmp_path / "never"))
        wait_until((tmp_path / "never-runs").exists, "the task to run")
        pool.remove_host(sshd.url(), drain=False)
        with pytest.raises(WorkerLost, match="removed from the pool"):
            future.result()
        look_for_what_is_left(sshd)


def test_a_host_is_not_added_twice(sshd):
    with Pool(0, sshd.spec(1)) as pool:
        with pytest.raises(HostError, match="in the pool already"):
            pool.add_host(sshd.spec(2))
        assert pool.total_workers() == 1


def test_a_host_that_cant_be_reached(sshd):
    with Pool(1) as pool:
        with pytest.raises(HostError, match="To mend it"):
            pool.add_host("ssh://127.0.0.1:1/2")
        assert pool.run(double, 1) == 2
        assert len(pool.workers()) == 1


def test_workers_that_fail_there(sshd):
    """The host is left as it was, and the pool goes on."""
    here = os.environ["TMPDIR"]
    with Pool(1, initializer=refuse_elsewhere, initargs=(here,)) as pool:
        with pytest.raises(PoolStartError, match="not here"):
            pool.add_host(sshd.spec(2))
        look_for_what_is_left(sshd)
        assert pool.run(double, 1) == 2
        assert len(pool.workers()) == 1


def at_the_end_of_growth(monkeypatch, callback):
    """Have it called in the last step of the addition of a host."""
    tell = Membership._tell

    def tell_and_call(membership, host, error):
        told = tell(membership, host, error)
        if told:
            callback()
        return told

    monkeypatch.setattr(Membership, "_tell", tell_and_call)


@pytest.mark.parametrize("how", ["within", "after"])
async def test_who_stops_waiting_when_the_host_is_ready_leaves_nothing_there(
        sshd, loop_type, how, monkeypatch):
    """The cancellation comes within the last step of the addition, or between it and its caller's
    next one."""
    def cancel():
        if how == "within":
            adding.cancel()
        else:
            asyncio.get_running_loop().call_soon(adding.cancel)

    at_the_end_of_growth(monkeypatch, cancel)
    async with Pool(1, worker_loop=loop_type) as pool:
        adding = asyncio.ensure_future(pool.add_host_async(sshd.spec(2)))
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert not sshd.processes()
        assert len(pool.workers()) == 1


def test_who_stops_waiting_on_another_loop_leaves_nothing_there(sshd, monkeypatch):
    def cancel():
        loop.call_soon_threadsafe(adding.cancel)
        time.sleep(0.1)  # the pool's loop does not get to the cancellation before the end

    async def add():
        nonlocal loop, adding
        loop = asyncio.get_running_loop()
        adding = asyncio.ensure_future(pool.add_host_async(sshd.spec(2)))
        with pytest.raises(asyncio.CancelledError):
            await adding

    loop = adding = None
    at_the_end_of_growth(monkeypatch, cancel)
    with Pool(1) as pool:
        asyncio.run(add())
        wait_until(lambda: not sshd.left(), "an end of what was there", sshd.left)
        assert len(pool.workers()) == 1


async def test_who_stops_waiting_when_a_nanny_is_being_started_leaves_nothing_there(
        sshd, loop_type, monkeypatch):
    """sshd has been asked for it, and has not answered yet."""
    connection_made = _NannySession.connection_made

    def connection_made_and_cancel(session, channel):
        connection_made(session, channel)
        asyncio.get_running_loop().call_soon(adding.cancel)

    monkeypatch.setattr(_NannySession, "connection_made", connection_made_and_cancel)
    async with Pool(1, worker_loop=loop_type) as pool:
        adding = asyncio.ensure_future(pool.add_host_async(sshd.spec(2)))
        with pytest.raises(asyncio.CancelledError):
            await adding
        # by then what was started, and not waited for, would be there
        wait_until(lambda: not sshd.sessions(), "the end of the connection")
        assert not sshd.processes()


async def test_who_stops_waiting_for_a_host_leaves_nothing_there(sshd, loop_type):
    async with Pool(1, worker_loop=loop_type) as pool:
        for seconds in (0.01, 0.1, 0.3):
            adding = asyncio.ensure_future(pool.add_host_async(sshd.spec(2)))
            await asyncio.wait([adding], timeout=seconds)
            adding.cancel()
            try:
                name = await adding
            except asyncio.CancelledError:
                pass
            else:
                await pool.remove_host_async(name)
            assert not sshd.processes()
            assert len(pool.workers()) == 1
        assert await pool.run_async(double, 1) == 2


def test_a_host_that_is_away_is_removed(make_sshd, monkeypatch):
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.2)
    sshd = make_sshd()
    with Pool(1, sshd.spec(2)) as pool:
        sshd.stop()
        wait_until(lambda: len(pool.workers()) == 1, "the loss to be noticed")
        pool.remove_host(sshd.url())
        sshd.start()
        with pytest.raises(HostError, match="no host"):
            pool.remove_host(sshd.url())
        assert pool.total_workers() == 1


def test_memory_of_workers_there(sshd):
    with Pool(0, sshd.spec(2, keepalive=0.2)) as pool:
        wait_until(lambda: all(w.memory for w in pool.workers()), "the nanny to tell")
        assert all(worker.memory > 1_000_000 for worker in pool.workers())
