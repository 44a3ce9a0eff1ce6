"""What workers behind ssh do: the same as local ones."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from machine import all_gone, wait_until

from distex import HostSpec, Pool, PoolStartError, SshOptions, WorkerLost
from distex.machine import usable_cpus

from .support import TESTS
from .tasks import async_double, double, fail


def test_a_task_runs_in_a_process_that_sshd_started(pool, pool_sshd):
    pid = pool.run(os.getpid)
    assert pid in [process.pid for process in pool_sshd.processes()]
    assert pool.total_workers() == 2


def test_single_calls(pool):
    assert pool.run(double, 4) == 8
    assert pool.run(async_double, 4) == 8
    assert pool.submit(pow, 3, 4).result() == 81
    assert [future.result() for future in [pool.submit(double, x) for x in range(500)]] == [
        double(x) for x in range(500)]


def test_functions_that_are_only_here_go_by_value(pool):
    factor = 5
    assert pool.run(lambda x: x * factor, 6) == 30


def test_exceptions_come_with_the_traceback_there(pool):
    with pytest.raises(LookupError, match="nothing for 7") as caught:
        pool.run(fail, 7)
    assert "in fail" in str(caught.value.__cause__)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
def test_arrays_of_all_sizes(pool, size):
    array = np.arange(size)
    result = pool.run(lambda a: a + 1, array)
    assert result.dtype == array.dtype
    assert np.array_equal(result, array + 1)
    result[:1] = 0  # it is writable


def test_arrays_in_any_order(pool):
    array = np.arange(60_000).reshape(200, 300).copy(order="F")
    assert np.array_equal(pool.run(double, array), 2 * array)


def test_large_bytes(pool):
    data = bytes(range(256)) * 40_000
    assert pool.run(lambda data: data, data) == data


def test_many_large_arguments_at_a_time(pool):
    arrays = [np.full(500_000, i) for i in range(12)]
    sums = list(pool.map(np.sum, arrays))
    assert sums == [500_000 * i for i in range(12)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_maps(pool, ordered, chunksize):
    results = pool.map(double, range(3000), ordered=ordered, chunksize=chunksize)
    expected = [double(x) for x in range(3000)]
    assert (list(results) if ordered else sorted(results)) == expected


def test_maps_over_synchronous_and_asynchronous_iterables(pool):
    async def numbers():
        for x in range(200):
            if x % 50 == 0:
                await asyncio.sleep(0)
            yield x

    assert list(pool.map(pow, numbers(), [2] * 200)) == [x * x for x in range(200)]


def test_run_on_all(pool):
    pids = pool.run_on_all(os.getpid)
    assert len(set(pids)) == 2


async def test_from_asynchronous_code(sshd, loop_type):
    async with Pool(0, sshd.spec(2), worker_loop=loop_type) as pool:
        assert await pool.run_async(double, 3) == 6
        assert await asyncio.gather(*(pool.run_async(double, x) for x in range(1000))) == [
            double(x) for x in range(1000)]
        assert [x async for x in pool.map_async(double, range(100))] == [
            double(x) for x in range(100)]
        array = np.ones(1_000_000)
        assert (await pool.run_async(double, array)).sum() == 2_000_000


def test_local_and_remote_workers_together(sshd, loop_type):
    with Pool(1, sshd.spec(2), worker_loop=loop_type) as pool:
        assert pool.total_workers() == 3
        remote = {process.pid for process in sshd.processes()}
        pids = pool.run_on_all(os.getpid)
        assert len(remote & set(pids)) == 2
        assert list(pool.map(double, range(1000))) == [double(x) for x in range(1000)]
        for x in range(50):  # the lanes of the local worker, with the others busy or not
            assert pool.run(double, x) == 2 * x


def test_several_hosts(make_sshd):
    hosts = [make_sshd().spec(1), make_sshd().spec(2)]
    with Pool(0, hosts) as pool:
        assert len(set(pool.run_on_all(os.getpid))) == 3


def test_as_many_workers_as_the_host_has_cpus(sshd):
    with Pool(0, sshd.spec(None)) as pool:
        assert pool.total_workers() == usable_cpus()


def test_an_initializer_runs_there(sshd):
    def prepare(name):
        import builtins

        builtins.prepared = name

    def look():
        import builtins

        return builtins.prepared

    with Pool(0, sshd.spec(2), initializer=prepare, initargs=("it",)) as pool:
        assert pool.run_on_all(look) == ["it", "it"]


def test_working_directory(sshd, tmp_path):
    folder = tmp_path / "a folder's name"
    folder.mkdir()
    (folder / "only_there.py").write_text("VALUE = 42")

    def look():
        import only_there

        return os.getcwd(), only_there.VALUE

    with Pool(0, sshd.spec(1, working_directory=str(folder))) as pool:
        assert pool.run(look) == (str(folder), 42)


def test_options_come_from_the_users_configuration(sshd):
    sshd.client_config.write_text(
        f"Host maxi\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.user_key}\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n")
    options = SshOptions(
        config=sshd.client_config, python=sys.executable, working_directory=TESTS)
    with Pool(0, HostSpec("ssh://maxi/1", options)) as pool:
        assert pool.run(double, 1) == 2


@pytest.mark.parametrize("missing", ["IdentityFile", "CertificateFile"])
@pytest.mark.parametrize("first", [True, False])
def test_a_key_that_is_missing_is_passed_over_as_by_ssh(sshd, missing, first):
    lines = [f"  {missing} ~/no-such-key", f"  IdentityFile {sshd.user_key}"]
    sshd.client_config.write_text("\n".join([
        "Host maxi", "  HostName 127.0.0.1", f"  Port {sshd.port}",
        *(lines if first else reversed(lines)), f"  UserKnownHostsFile {sshd.known_hosts}", ""]))
    options = SshOptions(
        config=sshd.client_config, python=sys.executable, working_directory=TESTS)
    with Pool(0, HostSpec("ssh://maxi/1", options)) as pool:
        assert pool.run(double, 1) == 2


def test_all_keys_are_missing(sshd):
    sshd.client_config.write_text(
        f"Host maxi\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile ~/no-such-key\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n")
    options = SshOptions(config=sshd.client_config, python=sys.executable)
    with pytest.raises(PoolStartError, match="does not let us log in"):
        Pool(0, HostSpec("ssh://maxi/1", options))


def test_a_key_that_the_pool_is_given_and_that_is_missing_is_an_error(sshd, tmp_path):
    with pytest.raises(PoolStartError, match="no file"):
        Pool(0, sshd.spec(1, client_keys=tmp_path / "none"))


def look_at_hash():
    return hash("distex"), os.environ.get("PYTHONHASHSEED")


@pytest.mark.parametrize("there", ["", "5"])
def test_workers_here_and_there_agree_on_hashes(make_sshd, there):
    sshd = make_sshd(**({"PYTHONHASHSEED": there} if there else {}))
    with Pool(1, sshd.spec(2)) as pool:
        (seen, _), *others = pool.run_on_all(look_at_hash)
        assert others == [(seen, there or None)] * 2
        kill_nannies(pool)
        assert {value for value, _ in pool.run_on_all(look_at_hash)} == {seen}


def kill_nannies(pool):
    number = pool.total_workers()
    gone = all_gone(pool)
    for nanny in set(pool.run_on_all(os.getppid)):
        os.kill(nanny, signal.SIGKILL)
    wait_until(gone, "their loss")
    wait_until(lambda: pool.total_workers() == number, "the new workers")


def test_by_way_of_another_host(sshd):
    sshd.client_config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {sshd.port}\n"
        f"Host far\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump jump\n"
        f"Host *\n  IdentityFile {sshd.user_key}\n  UserKnownHostsFile {sshd.known_hosts}\n")
    options = SshOptions(
        config=sshd.client_config, python=sys.executable, working_directory=TESTS)
    with Pool(0, HostSpec("ssh://far/1", options)) as pool:
        assert len({*sshd.sessions()}) >= 2
        assert pool.run(double, 1) == 2


def test_a_key_with_a_passphrase(sshd, tmp_path):
    import asyncssh

    pytest.importorskip("bcrypt")
    asked = []
    key = asyncssh.read_private_key(sshd.user_key)
    key.write_private_key(tmp_path / "locked", passphrase="open sesame", rounds=50)

    def passphrase(name):
        asked.append(name)
        return "open sesame"

    with Pool(0, sshd.spec(1, client_keys=tmp_path / "locked", passphrase=passphrase)) as pool:
        assert pool.run(double, 1) == 2
    assert asked == [str(tmp_path / "locked")]


def test_a_key_in_the_agent(sshd, tmp_path, monkeypatch):
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"],
                             stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "agent").exists, "the agent to listen")
        monkeypatch.setenv("HOME", str(tmp_path))  # where there are no keys
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        with pytest.raises(PoolStartError, match="ssh-add"):
            Pool(0, sshd.spec(1, client_keys=(), config=()))
        subprocess.run(["ssh-add", "-q", sshd.user_key], check=True)
        with Pool(0, sshd.spec(1, client_keys=(), config=())) as pool:
            assert pool.run(double, 1) == 2
    finally:
        agent.terminate()
        agent.wait()


def test_nothing_is_found_of_strangers(sshd):
    """The socket there belongs to the user alone, in a folder of the user's alone."""
    with Pool(0, sshd.spec(1)):
        (folder,) = sshd.tmp.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "pool").stat().st_mode & 0o777 == 0o600


def test_a_stranger_at_the_socket_there_is_dropped(sshd):
    with Pool(0, sshd.spec(1)) as pool:
        (folder,) = sshd.tmp.iterdir()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(folder / "pool"))
            sock.sendall(b"\x01" * 1000)
            assert sock.recv(1) == b""
        assert pool.run(double, 1) == 2


def test_a_lost_worker_is_replaced(sshd):
    with Pool(0, sshd.spec(2)) as pool:
        with pytest.raises(WorkerLost, match="exit code 3") as caught:
            pool.run(os._exit, 3)
        assert caught.value.host == f"127.0.0.1:{sshd.port}"
        assert caught.value.exitcode == 3
        wait_until(lambda: pool.total_workers() == 2, "the new worker")
        assert list(pool.map(double, range(100))) == [double(x) for x in range(100)]


def test_asyncssh_is_imported_for_ssh_only():
    code = ("import sys, distex\nwith distex.Pool(1) as pool: pool.run(abs, -1)\n"
            "assert 'asyncssh' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
