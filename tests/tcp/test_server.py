"""Hosts without ssh: python -m distex.server, real servers and real workers."""

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from machine import free_port, is_alive, not_here, wait_until

from distex import HostError, HostSpec, Pool, PoolStartError, TcpOptions, WorkerLost
from distex import options as pool_options
from distex.machine import usable_cpus
from distex.wire.secret import Secret, default_path, make
from distex.wire.tls import NANNY, TlsListener

from . import tasks
from .support import TESTS, Command, other_version

# --- work


def test_work_on_another_host(server, make_pool):
    with make_pool(0, server.url(2)) as pool:
        assert pool.total_workers() == 2
        pids = pool.run_on_all(os.getpid)
        assert set(pids) <= {child.pid for child in server.children()}
        assert list(pool.map(tasks.double, range(1000))) == [2 * x for x in range(1000)]
        assert pool.run(lambda: os.getcwd()) == TESTS
        with pytest.raises(ZeroDivisionError):
            pool.run(lambda: 1 / 0)


def test_in_async_code(server, make_pool, loop):
    async def main():
        async with make_pool(1, server.url(2)) as pool:
            assert len(set(await pool.run_on_all_async(os.getpid))) == 3
            results = await asyncio.gather(*(pool.run_async(tasks.double, x) for x in range(100)))
            assert results == [2 * x for x in range(100)]

    loop.run(main())


@pytest.mark.parametrize("size", [0, 100_000, 20_000_000])
def test_large_data(server, make_pool, size):
    with make_pool(0, server.url(1)) as pool:
        array = np.arange(size // 8)
        assert (pool.run(tasks.give_back, array) == array).all()
        assert pool.run(tasks.give_back, b"x" * size) == b"x" * size


def test_as_many_workers_as_the_host_has_cpus(server, make_pool):
    with make_pool(0, f"127.0.0.1:{server.port}") as pool:
        assert pool.total_workers() == usable_cpus()


def test_two_pools_at_a_time(server, make_pool):
    with make_pool(0, server.url(1)) as one, make_pool(0, server.url(1)) as two:
        assert one.run(os.getpid) != two.run(os.getpid)
        one.shutdown()
        assert two.run(tasks.double, 1) == 2


def test_a_host_is_added_and_removed(server, make_pool):
    with make_pool(1) as pool:
        assert pool.address is None
        name = pool.add_host(server.url(2))
        assert pool.total_workers() == 3
        assert pool.address[0] == "127.0.0.1"
        pool.remove_host(name)
        assert pool.total_workers() == 1
        assert not server.children()


def test_a_pool_without_such_hosts_listens_nowhere(make_pool):
    with make_pool(1, tcp=TcpOptions(secret="/no such secret")) as pool:
        assert pool.address is None
        assert pool.run(tasks.double, 1) == 2


def test_where_the_pool_listens(server, make_pool):
    port = free_port()
    with make_pool(0, server.url(1), localhost="127.0.0.1", localport=port) as pool:
        assert pool.address == ("127.0.0.1", port)
        assert pool.run(tasks.double, 1) == 2
    with make_pool(0, server.url(1), localport=port) as pool:  # everywhere
        assert pool.address[1] == port
        assert pool.run(tasks.double, 1) == 2


def test_memory_there_is_told(server, make_pool):
    with make_pool(0, server.url(1)) as pool:
        wait_until(lambda: pool.workers()[0].memory, "the nanny to tell")
        assert pool.workers()[0].memory > 1_000_000


def test_what_workers_print_is_seen_there_or_here(make_server, make_pool):
    server = make_server()
    with make_pool(0, server.url(1)) as pool:
        pool.run(print, "seen there", flush=True)
        server.says("seen there")
    lines = []
    with make_pool(0, server.url(1), output=lines.append) as pool:
        # more than fits anywhere on the way
        pool.run(print, *("seen here" for _ in range(100_000)), sep="\n", flush=True)
        wait_until(lambda: len(lines) == 100_000, "all lines", lambda: len(lines))
    assert {line.text for line in lines} == {"seen here"}
    assert "seen here" not in server.log


# --- what is lost


def test_a_worker_is_killed(server, make_pool):
    with make_pool(0, server.url(1)) as pool:
        with pytest.raises(WorkerLost, match="SIGKILL"):
            pool.run(lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert pool.run(tasks.double, 1) == 2


def test_the_server_ends_and_comes_back(make_server, make_pool, monkeypatch, tmp_path):
    monkeypatch.setattr(pool_options, "RECONNECT_DELAY_MAX", 0.2)
    server = make_server()
    with make_pool(1, server.url(2)) as pool:
        path = tmp_path / "go"
        futures = [pool.submit(tasks.wait_for, str(path)) for _ in range(3)]
        wait_until(lambda: tasks.runs(path) == 3, "the tasks to run")
        assert server.stop() == 0
        path.touch()
        outcomes = [future.exception() for future in futures]
        assert [type(outcome) for outcome in outcomes if outcome] == [WorkerLost] * 2
        assert pool.run(tasks.double, 1) == 2
        make_server(port=server.port)
        wait_until(lambda: pool.total_workers() == 3, "the host to be back")
        assert len(set(pool.run_on_all(os.getpid))) == 3


def test_the_pools_process_is_killed(server, tmp_path, secret):
    code = ("import os, time; from distex import Pool, TcpOptions\n"
            f"pool = Pool(0, {server.url(2)!r}, tcp=TcpOptions(secret={str(secret)!r}))\n"
            "print(*pool.run_on_all(os.getpid), flush=True)\n"
            "time.sleep(1000)")
    with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(map(is_alive, pids))
        process.kill()
    wait_until(lambda: not server.children(), "the end of nanny and workers")


def test_a_pool_that_says_nothing_more(server):
    """No end of the connection comes: the nanny tells by the silence."""
    code = f"""
import os, time
from distex import Pool, TcpOptions
from distex.launch import base
base.ALONE_FACTOR = 3
pool = Pool(0, {server.url(1)!r}, tcp=TcpOptions(secret={str(server.secret)!r}, keepalive=0.5))
print(pool.run(os.getpid), flush=True)
time.sleep(1000)
"""
    with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: not server.children(), "the end of nanny and worker")
        finally:
            process.kill()


# --- what can't be worked with


def error_of(make_pool, url, **options):
    with pytest.raises(PoolStartError) as info:
        make_pool(0, url, **options)
    assert isinstance(info.value.__cause__, HostError)
    return str(info.value)


def test_nothing_listens(make_pool):
    port = free_port()
    text = error_of(make_pool, f"127.0.0.1:{port}/1")
    assert f"127.0.0.1:{port}: nothing listens" in text
    assert f"python -m distex.server --host ADDRESS --port {port}" in text


def test_another_secret(server, make_pool, other_secret):
    text = error_of(make_pool, server.url(1), tcp=TcpOptions(secret=other_secret))
    assert "has another secret" in text
    assert f"copy {other_secret}" in text
    assert not server.children()


def test_no_secret_here(server, make_pool, tmp_path):
    path = tmp_path / "none.pem"
    text = error_of(make_pool, server.url(1), tcp=TcpOptions(secret=path))
    assert f"there is no secret at {path}" in text
    assert f"python -m distex.server --make-secret {path}" in text


def test_what_answers_is_no_server(make_pool):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        def answer():
            connection, _ = sock.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        text = error_of(make_pool, f"127.0.0.1:{sock.getsockname()[1]}/1")
        answering.join()
    assert "no server of distex" in text


def test_no_answer(make_pool, secret):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        text = error_of(make_pool, f"127.0.0.1:{sock.getsockname()[1]}/1",
                        tcp=TcpOptions(secret=secret, connect_timeout=0.3))
    assert "no answer within 0.3 s" in text


def test_another_version_there(make_server, make_pool, tmp_path):
    server = make_server(environment=other_version(tmp_path))
    with pytest.raises(PoolStartError, match="wire version 99") as info:
        make_pool(0, server.url(1))
    assert "distex 99.0" in str(info.value) and "install the same distex" in str(info.value)
    wait_until(lambda: not server.children(), "the nanny to end")


def test_a_host_of_another_version_is_not_added(make_server, make_pool, tmp_path):
    server = make_server(environment=other_version(tmp_path))
    with make_pool(1) as pool:
        with pytest.raises(PoolStartError, match="wire version 99"):
            pool.add_host(server.url(1))
        wait_until(lambda: not server.children(), "the nanny to end")
        assert pool.run(tasks.double, 1) == 2
        assert len(pool._home.supervisor.hosts) == 1


def test_an_initializer_that_fails_there(server, make_pool):
    with pytest.raises(PoolStartError, match="this host will not do"):
        make_pool(0, server.url(1), initializer=tasks.fail)


def test_a_port_that_is_taken(make_pool):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(PoolStartError, match=f"can't listen on 127.0.0.1, port {port}"):
            make_pool(1, localhost="127.0.0.1", localport=port)


@pytest.mark.parametrize(("options", "error"), [
    ({"localport": 65536}, ValueError), ({"localport": -1}, ValueError),
    ({"localport": "8899"}, TypeError),
])
def test_ports_that_make_no_sense(options, error):
    with pytest.raises(error, match="localport"):
        Pool(1, **options)


@pytest.mark.parametrize("name", ["keepalive", "connect_timeout"])
def test_times_that_make_no_sense(name):
    with pytest.raises(HostError, match=name):
        TcpOptions(**{name: 0})


# --- the secret


def run(folder, *arguments, **environment):
    """Run a command to its end: exit code and what it says."""
    with Command(folder, *arguments, environment=environment) as command:
        return command.wait(), command.log


def test_a_secret_is_made(tmp_path):
    path = tmp_path / "new folder" / "secret.pem"
    code, text = run(tmp_path, "distex.server", "--make-secret", path)
    assert (code, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert str(path) in text
    assert Secret(path).path == str(path)


def test_a_secret_is_not_overwritten(tmp_path, other_secret):
    before = other_secret.read_bytes()
    code, text = run(tmp_path, "distex.server", "--make-secret", other_secret)
    assert code == 2
    assert "exists" in text
    assert other_secret.read_bytes() == before


def test_no_server_without_a_secret(tmp_path):
    path = tmp_path / "none.pem"
    code, text = run(tmp_path, "distex.server", "--port", 0, DISTEX_SECRET=str(path))
    assert code == 2
    assert f"there is no secret at {path}" in text
    assert f"--make-secret {path}" in text


def test_a_secret_that_others_can_read(tmp_path, other_secret):
    other_secret.chmod(0o640)
    code, text = run(tmp_path, "distex.server", "--port", 0, "--secret", other_secret)
    assert code == 2
    assert f"chmod 600 {other_secret}" in text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user(other_secret):
    os.chown(other_secret, 1, -1)
    with pytest.raises(HostError, match="belongs to another user"):
        Secret(other_secret)


@pytest.mark.parametrize("content", ["", "no secret", "-----BEGIN CERTIFICATE-----\n"])
def test_what_is_no_secret(tmp_path, content):
    path = tmp_path / "secret.pem"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(HostError, match="is no secret of distex"):
        Secret(path)


def test_a_certificate_and_the_key_of_another(tmp_path, secret, other_secret):
    path = tmp_path / "mixed.pem"
    path.write_text(secret.read_text().split("-----BEGIN PRIVATE")[0] + "-----BEGIN PRIVATE"
                    + other_secret.read_text().split("-----BEGIN PRIVATE")[1])
    path.chmod(0o600)
    with pytest.raises(HostError, match="is no secret of distex"):
        Secret(path)


def test_where_the_secret_is(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTEX_SECRET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_path() == str(tmp_path / "distex" / "secret.pem")
    monkeypatch.setenv("DISTEX_SECRET", str(tmp_path / "named"))
    assert default_path() == str(tmp_path / "named")
    make(default_path())
    assert Secret().path == str(tmp_path / "named")


def test_a_server_listens_on_this_machine_alone_unless_told_otherwise(server, make_server):
    assert "on 127.0.0.1, port" in server.log
    assert "on 0.0.0.0, port" in make_server("--host", "0.0.0.0").log


def test_the_names_of_hosts_without_ssh():
    assert HostSpec("mini/2").key == HostSpec("mini/3").key != HostSpec("ssh://mini/2").key


# --- modules that are only here, and what workers print


def test_modules_are_shipped_and_output_comes_back(server, make_pool, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "def double(x):\n    print('doubling', x)\n    return 2 * x")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    try:
        lines = []
        with make_pool(0, server.url(2), ship=[only_here], output=lines.append) as pool:
            assert pool.run(only_here.double, 4) == 8
        assert [line.text for line in lines] == ["doubling 4"]
        with make_pool(0, server.url(1)) as pool, pytest.raises(ModuleNotFoundError) as caught:
            pool.run(only_here.double, 4)
        assert any("Pool(ship=[only_here])" in note for note in caught.value.__notes__)
    finally:
        del sys.modules["only_here"]


# --- addresses


async def _listen(secret, host, port, reach):
    drops = []
    tls_listener = TlsListener(Secret(secret), [NANNY], asyncio.Protocol, drops.append)
    try:
        _, port = await tls_listener.open(host, port)
        for address in reach:
            with socket.create_connection((address, port)):
                pass
        while len(drops) < len(reach):
            await asyncio.sleep(0.001)
        with pytest.raises(HostError, match="Address already in use"):
            await TlsListener(Secret(secret), [NANNY], asyncio.Protocol, drops.append).open(
                reach[-1], port)
    finally:
        tls_listener.close()
        await tls_listener.closed()


@pytest.fixture
def version_6():
    """That of IP."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        not_here("there is no IPv6")


@pytest.mark.parametrize(("host", "reach"), [
    ("127.0.0.1", ["127.0.0.1"]), ("", ["127.0.0.1", "::1"]), ("::1", ["::1"]),
    ("0.0.0.0", ["127.0.0.1"]),
])
def test_all_addresses_that_were_asked_for(secret, loop, version_6, host, reach):
    """Nobody else can take one of them."""
    loop.run(_listen(secret, host, 0, reach))


def test_an_address_that_somebody_else_has(secret, loop, version_6):
    """A pool that does without it would leave the workers that use it to somebody else."""
    with socket.socket(socket.AF_INET6) as squatter:
        squatter.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        squatter.bind(("::", 0))
        squatter.listen()
        with pytest.raises(HostError, match="can't listen on any address"):
            loop.run(_listen(secret, "", squatter.getsockname()[1], []))


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_version_6(secret, loop, monkeypatch, number):
    class Socket(socket.socket):
        def __init__(self, family=-1, *args, **kwargs):
            if family == socket.AF_INET6 and number == errno.EAFNOSUPPORT:
                raise OSError(number, "none")
            super().__init__(family, *args, **kwargs)

        def bind(self, address):
            if self.family == socket.AF_INET6:
                raise OSError(number, "none")
            super().bind(address)

    with monkeypatch.context() as patch:
        patch.setattr("distex.wire.tls.socket.socket", Socket)
        loop.run(_listen(secret, "", 0, ["127.0.0.1"]))
