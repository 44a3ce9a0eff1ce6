"""Workers, nannies, connections and hosts that are lost: the pool goes on, nothing stays behind."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from machine import is_alive, wait_until

from distex import Pool, PoolStartError, WorkerLost
from distex import options as pool_options
from distex.launch import base

from .support import TESTS, make_command
from .tasks import double


def hang(path):
    """A task that is known to run once there is something at path."""
    import time
    from pathlib import Path

    Path(path).touch()
    time.sleep(1000)


@pytest.fixture
def hanging(tmp_path):
    """Submits a task that hangs, and waits until it does."""
    def submit(pool):
        path = tmp_path / "running"
        future = pool.submit(hang, str(path))
        wait_until(path.exists, "the task to run")
        return future
    return submit


def nanny_of(sshd):
    """The nanny's process."""
    processes = sshd.processes()
    pids = {process.pid for process in processes}
    return next(p for p in processes if p.ppid() not in pids)


def test_a_worker_is_killed(sshd, hanging):
    with Pool(0, sshd.spec(2)) as pool:
        future = hanging(pool)
        nanny = nanny_of(sshd)
        for process in sshd.processes():
            if process.ppid() == nanny.pid:
                process.kill()
        with pytest.raises(WorkerLost, match="SIGKILL"):
            future.result()
        assert pool.run(double, 1) == 2
        wait_until(lambda: pool.total_workers() == 2, "new workers")


def test_the_nanny_is_killed(sshd, hanging):
    with Pool(0, sshd.spec(2)) as pool:
        (folder,) = sshd.tmp.iterdir()
        future = hanging(pool)
        old = sshd.processes()
        nanny_of(sshd).kill()
        with pytest.raises(WorkerLost, match="SIGKILL"):
            future.result()
        assert pool.run(double, 1) == 2  # waits for the new one
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        assert not folder.exists()


def test_the_connection_is_cut(sshd, hanging):
    with Pool(0, sshd.spec(2)) as pool:
        future = hanging(pool)
        old = sshd.processes()
        sshd.cut()
        with pytest.raises(WorkerLost, match="the ssh connection was lost"):
            future.result()
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        assert pool.run(double, 1) == 2  # on new workers
        wait_until(lambda: pool.total_workers() == 2, "all of them")


def test_what_waits_is_done_by_others(sshd, hanging):
    with Pool(1, sshd.spec(2), qsize=1) as pool:
        futures = [pool.submit(lambda: time.sleep(0.02)) for _ in range(60)]
        sshd.cut()
        outcomes = [future.exception() for future in futures]
        lost = [outcome for outcome in outcomes if outcome is not None]
        assert len(lost) <= 2
        assert all(isinstance(outcome, WorkerLost) for outcome in lost)


def test_a_host_is_away_for_a_while(make_sshd, monkeypatch):
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.2)
    sshd = make_sshd()
    with Pool(1, sshd.spec(2)) as pool:
        old = sshd.processes()
        sshd.stop()
        wait_until(lambda: pool.total_workers() == 1, "the loss to be noticed")
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        assert list(pool.map(double, range(100))) == [2 * x for x in range(100)]
        sshd.start()
        wait_until(lambda: pool.total_workers() == 3, "the host to be back")
        assert len(set(pool.run_on_all(os.getpid))) == 3


def test_tasks_wait_for_the_only_host_to_come_back(make_sshd, monkeypatch):
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.2)
    sshd = make_sshd()
    with Pool(0, sshd.spec(1)) as pool:
        sshd.stop()
        wait_until(lambda: pool.total_workers() == 0, "the loss to be noticed")
        future = pool.submit(double, 4)
        sshd.start()
        assert future.result() == 8


def test_the_only_host_does_not_come_back(make_sshd, monkeypatch):
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.1)
    monkeypatch.setattr(pool_options, "RECONNECT_TIMEOUT", 0.5)
    sshd = make_sshd()
    with Pool(0, sshd.spec(1)) as pool:
        sshd.stop()
        wait_until(lambda: pool.total_workers() == 0, "the loss to be noticed")
        with pytest.raises(PoolStartError, match="no ssh connection"):
            pool.submit(double, 4).result()


def test_shutdown_while_a_host_is_away(make_sshd):
    sshd = make_sshd()
    with Pool(1, sshd.spec(1)) as pool:
        sshd.stop()
        wait_until(lambda: pool.total_workers() == 1, "the loss to be noticed")
        assert pool.run(double, 1) == 2


def test_a_silent_network_is_noticed_on_both_sides(
        sshd, network, behind_network, hanging, monkeypatch):
    """No end of any stream reaches anybody: both sides have to tell by the silence."""
    monkeypatch.setattr(base, "ALONE_FACTOR", 2)
    with Pool(0, behind_network(2, keepalive=1.5)) as pool:
        future = hanging(pool)
        old = sshd.processes()
        network.stall()
        since = time.monotonic()
        with pytest.raises(WorkerLost, match="keepalive"):
            future.result()
        assert time.monotonic() - since < 5
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        network.cut()
        network.flow()
        assert pool.run(double, 1) == 2  # the host is back


def test_an_idle_connection_stays(behind_network):
    with Pool(0, behind_network(1, keepalive=0.6)) as pool:
        pid = pool.run(os.getpid)
        pool.run(time.sleep, 2.0)  # longer than all its times
        assert pool.run(os.getpid) == pid


@pytest.mark.parametrize("size", [1000, 100_000, 3_000_000])
def test_cut_in_the_midst_of_an_array(network, behind_network, size):
    with Pool(0, behind_network(1)) as pool:
        network.bytes_left = size
        with pytest.raises(WorkerLost):
            pool.run(lambda array: array, np.ones(1_000_000))
        network.bytes_left = None
        assert pool.run(double, 1) == 2


def test_cut_while_it_starts(network, behind_network):
    for size in (10, 1000, 3000, 4500, 6000):
        network.bytes_left = size
        with pytest.raises(PoolStartError, match=r"127\.0\.0\.1"):
            Pool(0, behind_network(2))
    network.bytes_left = None
    with Pool(0, behind_network(1)) as pool:
        assert pool.run(double, 1) == 2


def test_a_nanny_that_talks_nonsense(sshd, tmp_path):
    found = tmp_path / "found"
    script = (
        "import sys, json; code = sys.argv[2].replace('sys.exit(serve(found, tell))', "
        r"'found[\"folder\"] = \"/tmp/distex-none\"; tell(); print(\"x\" * 99, flush=True); "
        "sys.stdin.read()'); exec(code)")
    found.write_text(script)
    python = make_command(tmp_path / "python", f'exec "{sys.executable}" {found} "$@"')
    with pytest.raises(PoolStartError, match=r"127\.0\.0\.1"):
        Pool(0, sshd.spec(1, python=python))


async def test_lost_in_asynchronous_code(sshd, loop_type):
    async with Pool(0, sshd.spec(2), worker_loop=loop_type) as pool:
        tasks = [pool.run_async(asyncio.sleep, 1000) for _ in range(2)]
        assert await pool.run_async(double, 1) == 2
        sshd.cut()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, WorkerLost) for outcome in outcomes)
        assert await pool.run_async(double, 1) == 2


SCRIPT = """
import sys, time, asyncio
sys.path.insert(0, {tests!r})
from distex import HostSpec, Pool, SshOptions
spec = HostSpec({url!r}, SshOptions(client_keys={key!r}, known_hosts={known!r}, config={config!r},
                                    python=sys.executable))
{body}
"""


@pytest.fixture
def script(sshd, tmp_path):
    """Starts a script in a process of its own; it prints a line when its pool is ready."""
    def start(body):
        code = SCRIPT.format(
            tests=TESTS, url=sshd.url(2), key=str(sshd.user_key), known=str(sshd.known_hosts),
            config=str(sshd.client_config), body=body)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)})  # one that is killed leaves its folder
        assert process.stdout.readline() == "ready\n"
        return process
    return start


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_pools_process_is_ended(sshd, script, signum):
    with script("pool = Pool(0, spec)\n"
                "pool.submit(time.sleep, 1000)\n"
                "print('ready', flush=True)\n"
                "time.sleep(1000)") as process:
        assert len(sshd.processes()) == 3
        process.send_signal(signum)
        process.wait()
    wait_until(lambda: not sshd.left(), "its end there", sshd.left)


def test_a_pool_that_is_not_shut_down(sshd, script):
    with script("pool = Pool(0, spec)\nprint('ready', flush=True)") as process:
        assert process.wait() == 0
    wait_until(lambda: not sshd.left(), "its end there", sshd.left)


def test_an_asynchronous_pool_that_is_not_shut_down(sshd, script):
    with script("async def main():\n"
                "    global pool\n"
                "    pool = Pool(0, spec)\n"
                "    await pool.create()\n"
                "    print('ready', flush=True)\n"
                "asyncio.run(main())") as process:
        assert process.wait() == 0
    wait_until(lambda: not sshd.left(), "its end there", sshd.left)


def test_grandchildren_do_not_keep_it(sshd):
    """A task leaves a process behind that holds stdout and stderr."""
    def leave():
        import subprocess

        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    with Pool(0, sshd.spec(1)) as pool:
        pid = pool.run(leave)
        since = time.monotonic()
    assert time.monotonic() - since < 10
    psutil.Process(pid).kill()


@pytest.mark.parametrize("remove", [shutil.rmtree, lambda folder: (folder / "pool").unlink()],
                         ids=["folder", "socket"])
def test_the_folder_there_is_cleaned_away(sshd, remove):
    """Of two workers one goes on, another one takes the other's place."""
    with Pool(0, sshd.spec(2)) as pool:
        remove(Path(pool._home.supervisor.hosts[0].nanny.unix_path).parent)
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        wait_until(lambda: pool.total_workers() == 1, "the loss to be noticed")
        assert pool.run(double, 1) == 2
        wait_until(lambda: pool.total_workers() == 2, "the new worker")
        assert len(set(pool.run_on_all(os.getpid))) == 2
