"""A host that can't be worked with: the pool fails soon, says what is wrong and how to mend it."""

import asyncio
import contextlib
import socket
import sys
import threading
import time

import asyncssh
import cloudpickle
import dill
import pytest
from machine import free_port, wait_until

import distex
from distex import HostError, HostSpec, Pool, PoolStartError
from distex.wire.messages import PYTHON

from .support import make_command, make_key


def start_error(spec, within=15.0, **arguments):
    """The message with which a pool with this host fails."""
    since = time.monotonic()
    with pytest.raises(PoolStartError) as caught:
        Pool(0, spec, **arguments)
    assert time.monotonic() - since < within
    assert isinstance(caught.value.__cause__, HostError)
    message = str(caught.value)
    assert "\nTo mend it: " in message
    assert message.startswith(str(spec))
    return message


def pretend(path, files):
    """A Python that has other modules than this one."""
    folder = path / "modules"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return make_command(
        path / "python3", f'PYTHONPATH="{folder}" exec "{sys.executable}" "$@"')


# --- reach and authenticate


def test_nobody_listens(sshd):
    spec = HostSpec(f"ssh://127.0.0.1:{free_port()}/1", sshd.options())
    assert "no ssh connection" in start_error(spec)


def test_unknown_name(sshd):
    spec = HostSpec("ssh://no-such-host.invalid/1", sshd.options())
    assert "'ssh no-such-host.invalid true'" in start_error(spec)


def test_no_answer(sshd):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # the queue of connections is full: more of them get no answer
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            spec = HostSpec(f"ssh://127.0.0.1:{port}/1", sshd.options(connect_timeout=0.5))
            assert "no answer within 0.5 s" in start_error(spec)


def test_hangs_in_authentication(sshd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        spec = HostSpec(f"ssh://127.0.0.1:{port}/1", sshd.options(connect_timeout=0.5))
        assert "did not let us log in within 0.5 s" in start_error(spec)


def test_something_else_listens(sshd):
    def serve():
        with contextlib.suppress(OSError):
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"220 this is a mail server\r\n" * 1000)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        assert "no ssh connection" in start_error(
            HostSpec(f"ssh://127.0.0.1:{port}/1", sshd.options()))
        thread.join()


def test_refused_key(sshd, tmp_path):
    message = start_error(sshd.spec(client_keys=make_key(tmp_path / "other_key")))
    assert "does not let us log in" in message
    assert "ssh-copy-id" in message


def test_no_such_key(sshd, tmp_path):
    assert str(tmp_path / "none") in start_error(sshd.spec(client_keys=tmp_path / "none"))


def test_a_key_that_is_none(sshd, tmp_path):
    (tmp_path / "key").write_text("not a key")
    assert "can't be read" in start_error(sshd.spec(client_keys=tmp_path / "key"))


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_no_passphrase(sshd, tmp_path, passphrase):
    pytest.importorskip("bcrypt")
    asyncssh.read_private_key(sshd.user_key).write_private_key(
        tmp_path / "locked", passphrase="right", rounds=50)
    message = start_error(sshd.spec(client_keys=tmp_path / "locked", passphrase=passphrase))
    assert "SshOptions(passphrase=...)" in message


def test_wrong_host_key(make_sshd, tmp_path):
    sshd = make_sshd()
    sshd.know(make_key(tmp_path / "other_key"))
    message = start_error(sshd.spec())
    assert "host key is not trusted" in message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in message


def test_unknown_host_key(make_sshd):
    sshd = make_sshd()
    sshd.known_hosts.write_text("")
    assert "host key is not trusted" in start_error(sshd.spec())


# --- Python and distex


def test_no_python_where_it_is_said_to_be(sshd):
    message = start_error(sshd.spec(python="/no/such/python"))
    assert "found no working Python" in message
    assert "/no/such/python" in message
    assert "exit code 127" in message


def test_no_python_on_the_path(make_sshd, tmp_path):
    (tmp_path / "bin").mkdir()
    sshd = make_sshd(PATH=str(tmp_path / "bin"))
    message = start_error(sshd.spec(python=""))
    assert "no distex_proc and no python3 on PATH=" in message
    assert f"install Python {PYTHON}" in message


@pytest.mark.parametrize("name", ["distex_proc", "distex_proc of a shell", "python3"])
def test_python_is_found_on_the_path(make_sshd, tmp_path, name):
    folder = tmp_path / "bin"
    folder.mkdir()
    if name == "distex_proc":
        python = tmp_path / "python"  # a path without spaces
        make_command(python, f'exec "{sys.executable}" "$@"')
        (folder / name).write_text(f"#!{python}\n")
        (folder / name).chmod(0o755)
    elif name == "python3":
        make_command(folder / name, f'exec "{sys.executable}" "$@"')
    else:  # as pip writes it where there are spaces
        make_command(folder / "distex_proc", f'test "$*" = --executable && echo "{sys.executable}"')
    sshd = make_sshd(PATH=str(folder))
    with Pool(0, sshd.spec(1, python="")) as pool:
        assert pool.run(lambda: sys.prefix) == sys.prefix


def test_a_python_that_dies_says_its_last_words(sshd, tmp_path):
    python = make_command(tmp_path / "python", "echo noise; echo it is broken >&2; exit 9")
    message = start_error(sshd.spec(python=python))
    assert "exit code 9" in message
    assert "it is broken" in message


def test_a_python_that_never_answers(sshd, tmp_path):
    python = make_command(tmp_path / "python", 'read -r line; exit 1')
    message = start_error(sshd.spec(python=python, connect_timeout=1.0))
    assert "no nanny came up within 1 s" in message


def test_a_talkative_login_does_no_harm(sshd, tmp_path):
    python = make_command(
        tmp_path / "python", f'echo "Welcome!"; echo; printf distex-; exec "{sys.executable}" "$@"')
    with Pool(0, sshd.spec(1, python=python)) as pool:
        assert pool.run(abs, -1) == 1


def test_endless_noise(sshd, tmp_path):
    python = make_command(tmp_path / "python", "exec yes")
    assert "found no working Python" in start_error(sshd.spec(python=python))


def test_another_python(sshd, tmp_path):
    python = pretend(tmp_path, {
        "sitecustomize.py": "import sys; sys.version_info = (3, 7, 2, 'final', 0)"})
    message = start_error(sshd.spec(python=python))
    assert "found Python 3.7" in message
    assert f"Python {PYTHON} is needed" in message


def test_no_distex(sshd, tmp_path):
    python = make_command(tmp_path / "python", f'exec "{sys.executable}" -I -S "$@"')
    message = start_error(sshd.spec(python=python))
    assert "found no distex" in message
    assert f"-m pip install distex=={distex.__version__}" in message


def test_an_older_distex(sshd, tmp_path):
    python = pretend(tmp_path, {
        "distex/__init__.py": "__version__ = '0.7.2'", "distex/options.py": ""})
    message = start_error(sshd.spec(python=python))
    assert "found distex 0.7.2" in message
    assert f"distex {distex.__version__} is needed" in message
    assert "-m pip install" in message


def test_a_distex_that_speaks_otherwise(sshd, tmp_path):
    python = pretend(tmp_path, {
        "distex/__init__.py": "__version__ = '9.9'", "distex/options.py": "WIRE_VERSION = 999",
        "distex/nanny.py": "def serve(found, tell): found['folder'] = '/nowhere'; tell()"})
    assert "found distex 9.9" in start_error(sshd.spec(python=python))


def test_a_broken_distex(sshd, tmp_path):
    python = pretend(tmp_path, {"distex/__init__.py": "raise RuntimeError('broken')"})
    assert "RuntimeError: broken" in start_error(sshd.spec(python=python))


def test_no_working_directory(sshd):
    message = start_error(sshd.spec(working_directory="/no/such folder"))
    assert "no working directory /no/such folder" in message
    assert "mkdir -p '/no/such folder'" in message


def test_an_initializer_that_raises(sshd):
    def broken():
        raise LookupError("not this one")

    with pytest.raises(PoolStartError, match="not this one"):
        Pool(0, sshd.spec(2), initializer=broken)


@pytest.mark.parametrize(("there", "found"), [
    ("__version__ = '2.2.1'", "found cloudpickle 2.2.1"),
    ("raise ModuleNotFoundError('none')", "found no cloudpickle"),
])
def test_another_cloudpickle(sshd, tmp_path, there, found):
    python = pretend(tmp_path, {"cloudpickle.py": there})
    message = start_error(sshd.spec(python=python))
    assert found in message
    assert f"cloudpickle {cloudpickle.__version__} is needed, as here" in message
    assert f"-m pip install cloudpickle=={cloudpickle.__version__}" in message


def test_a_cloudpickle_that_is_another_but_fits(sshd, tmp_path):
    major, minor, _ = cloudpickle.__version__.split(".")
    python = pretend(tmp_path, {
        "sitecustomize.py": f"import cloudpickle; cloudpickle.__version__ = '{major}.{minor}.99'"})
    with Pool(0, sshd.spec(1, python=python)) as pool:
        assert pool.run(lambda: 1) == 1


@pytest.mark.parametrize(("there", "found"), [
    ("__version__ = '0.3.8'", "found dill 0.3.8"),
    ("raise ImportError('no dill here')", "found no dill"),
])
@pytest.mark.parametrize("which", ["func_pickle", "data_pickle"])
def test_another_dill(sshd, tmp_path, there, found, which):
    python = pretend(tmp_path, {"dill.py": there})
    with pytest.raises(PoolStartError) as caught:
        Pool(0, sshd.spec(1, python=python), **{which: distex.PickleType.dill})
    message = str(caught.value)
    assert f"127.0.0.1:{sshd.port}" in message
    assert found in message
    assert f"dill {dill.__version__} is needed, as here" in message
    assert f"-m pip install dill=={dill.__version__}" in message


def test_another_dill_is_no_matter_where_it_is_not_used(sshd, tmp_path):
    python = pretend(tmp_path, {"dill.py": "__version__ = '0.3.8'"})
    with Pool(0, sshd.spec(1, python=python)) as pool:
        assert pool.run(abs, -1) == 1


# --- the tunnel


@pytest.mark.parametrize("line", ["DisableForwarding yes", "AllowStreamLocalForwarding no"])
def test_refused_forwarding(make_sshd, line):
    message = start_error(make_sshd(line).spec())
    assert "does not forward a socket" in message
    assert "AllowStreamLocalForwarding yes" in message


def test_no_session_is_to_be_had(make_sshd):
    assert "the nanny can't be started" in start_error(make_sshd("MaxSessions 0").spec())


def test_forwarding_refused_for_the_key(make_sshd):
    sshd = make_sshd()
    keys = sshd.folder / "authorized_keys"
    keys.write_text(f"restrict {keys.read_text()}")
    assert "authorized_keys" in start_error(sshd.spec())


def test_no_temporary_folder(make_sshd):
    sshd = make_sshd(TMPDIR="/proc/no-such-folder")
    # Python falls back to other folders, so that they have to be out of the question too
    python = make_command(
        sshd.folder / "python", "cd /proc; exec \"" + sys.executable + "\" -c "
        "\"import sys, tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc/no']; "
        "import distex.machine; distex.machine.FOLDER_PLACES = (); "
        "sys.argv[:2] = ['-c']; exec(sys.argv.pop(1))\" \"$@\"")
    message = start_error(sshd.spec(python=python, working_directory=""))
    assert "no folder can be made for temporary files" in message


def test_full_disk(make_sshd, tmp_path, small_disk):
    """There is room for the folder, but not for the socket in it."""
    disk = small_disk(2)
    python = make_command(tmp_path / "python", f'TMPDIR={disk} exec "{sys.executable}" "$@"')
    assert "disk must have room" in start_error(make_sshd().spec(python=python))
    assert not list(disk.iterdir())


def test_another_folder_for_one_that_is_full(make_sshd, tmp_path, small_disk):
    disk = small_disk(1)
    python = make_command(tmp_path / "python", f'TMPDIR={disk} exec "{sys.executable}" "$@"')
    with Pool(0, make_sshd().spec(1, python=python)) as pool:
        assert pool.run(abs, -1) == 1


# --- several hosts, and other ways to go


def test_one_host_of_several_fails(sshd, make_sshd):
    other = make_sshd("DisableForwarding yes")
    with pytest.raises(PoolStartError, match="does not forward"):
        Pool(1, [sshd.spec(), other.spec()])


async def test_from_asynchronous_code(sshd, loop_type):
    with pytest.raises(PoolStartError, match="no working Python"):
        async with Pool(0, sshd.spec(python="/no/such/python"), worker_loop=loop_type):
            pass


async def test_cancelled_while_it_starts(sshd, loop_type, tmp_path):
    started = tmp_path / "started"
    python = make_command(tmp_path / "python", f"touch {started}; read -r line; exit 1")
    pool = Pool(0, sshd.spec(python=python), worker_loop=loop_type)
    creating = asyncio.create_task(pool.create())
    while not started.exists():
        await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await pool.shutdown_async()


def test_shut_down_while_it_starts(sshd, tmp_path):
    started = tmp_path / "started"
    python = make_command(tmp_path / "python", f"touch {started}; read -r line; exit 1")
    pool = Pool(0, sshd.spec(python=python, connect_timeout=1.0), lazy_create=True)
    future = pool.submit(abs, -1)
    wait_until(started.exists, "its start")
    pool.shutdown()
    with pytest.raises(PoolStartError):
        future.result()
