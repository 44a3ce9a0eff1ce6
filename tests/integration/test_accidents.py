"""Accidents: what passes ends no running pool. Each row of the table in cluster/recovery.py is caused
here, goes on for a while, and then ends; the pool has to be there all the time, and complete again.
"""

import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from machine import all_gone, not_here

from distex import PoolStartError, WorkerLost, options
from distex.cluster import state
from distex.wire import messages

from . import tasks
from .initializers import (
    die_in,
    exit_in,
    hang_in,
    hang_in_coroutine,
    leave_in,
    raise_in,
    raise_in_coroutine,
)
from .support import DEADLINE, open_lanes, wait_until, wait_until_async


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    """Try again soon."""
    monkeypatch.setattr(options, "RESPAWN_DELAY", 0.02)
    monkeypatch.setattr(options, "RECONNECT_DELAY_MAX", 0.2)


@pytest.fixture
def trouble(tmp_path):
    """A file; while it is there, workers have trouble to start."""
    return tmp_path / "trouble"


class Losses(list):
    """What on_worker_lost was told."""

    def failures(self):
        return [lost for lost in self if "could not start" in str(lost)]


@pytest.fixture
def losses():
    return Losses()


def kill_a_worker(pool):
    pid = pool.workers()[0].pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in [worker.pid for worker in pool.workers()], "its loss")


def nanny_of(pool):
    return psutil.Process(pool.workers()[0].pid).parent()


# --- a worker that replaces another one does not start for a while


WAYS = [raise_in, raise_in_coroutine, exit_in, leave_in, die_in, hang_in, hang_in_coroutine]
HANGING = {hang_in, hang_in_coroutine}


def options_for(initializer, trouble, losses):
    more = {"start_timeout": 0.5} if initializer in HANGING else {}
    return {"initializer": initializer, "initargs": (str(trouble),),
            "on_worker_lost": losses.append, **more}


@pytest.mark.parametrize("initializer", WAYS)
def test_the_pool_goes_on_with_the_workers_it_has(make_pool, trouble, losses, initializer, caplog):
    with make_pool(2, **options_for(initializer, trouble, losses)) as pool:
        trouble.touch()
        kill_a_worker(pool)
        wait_until(lambda: len(losses.failures()) >= 2, "it to be tried again")
        assert list(pool.map(tasks.double, range(5))) == [0, 2, 4, 6, 8]
        assert pool.total_workers() == 1
        trouble.unlink()
        wait_until(lambda: pool.total_workers() == 2, "the new worker")
        assert len(set(pool.run_on_all(tasks.pid))) == 2
    for lost in losses.failures():
        assert isinstance(lost, WorkerLost)
        assert lost.pid > 0
        assert isinstance(lost.__cause__, ConnectionError | SystemExit) == (
            initializer in (raise_in, raise_in_coroutine, exit_in))
    assert any(record.levelno == logging.ERROR and "could not start" in record.getMessage()
               for record in caplog.records)


@pytest.mark.parametrize("initializer", [raise_in, leave_in, hang_in])
def test_tasks_wait_for_the_only_worker(make_pool, trouble, losses, initializer):
    with make_pool(1, **options_for(initializer, trouble, losses)) as pool:
        trouble.touch()
        kill_a_worker(pool)
        futures = [pool.submit(tasks.double, n) for n in range(3)]
        wait_until(lambda: len(losses.failures()) >= 2, "it to be tried again")
        trouble.unlink()
        assert [future.result(20) for future in futures] == [0, 2, 4]


async def test_the_same_on_the_callers_loop(make_pool, trouble, losses):
    async with make_pool(1, **options_for(raise_in, trouble, losses)) as pool:
        trouble.touch()
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await wait_until_async(lambda: len(losses.failures()) >= 2, "it to be tried again")
        call = pool.run_async(tasks.double, 1)
        trouble.unlink()
        assert await call == 2


@pytest.mark.parametrize("initializer", [raise_in, leave_in, hang_in])
def test_a_pool_that_can_have_no_worker_for_long_breaks(
        make_pool, trouble, losses, initializer, monkeypatch):
    pool = make_pool(1, **options_for(initializer, trouble, losses))
    monkeypatch.setattr(options, "RECONNECT_TIMEOUT", 0.3)
    trouble.touch()
    kill_a_worker(pool)
    with pytest.raises(PoolStartError, match="no worker could be had for"):
        pool.submit(tasks.double, 1).result(20)
    with pytest.raises(PoolStartError):
        pool.run_on_all(tasks.double, 1)
    assert len(losses.failures()) >= 2
    pool.shutdown()


def test_a_pool_that_has_had_a_worker_meanwhile_does_not_break(
        make_pool, trouble, losses, monkeypatch):
    """The time without workers begins anew with each time of trouble."""
    with make_pool(1, **options_for(raise_in, trouble, losses)) as pool:
        for _ in range(2):
            before = len(losses.failures())
            trouble.touch()
            kill_a_worker(pool)
            wait_until(lambda before=before: len(losses.failures()) > before + 1, "failures")
            trouble.unlink()
            assert pool.submit(tasks.double, 1).result(20) == 2
            monkeypatch.setattr(options, "RECONNECT_TIMEOUT", 1e-9)
            supervisor = pool._home.supervisor
            assert supervisor.recovery._without_workers_since is None
            monkeypatch.undo()


def test_shutdown_does_not_wait_for_workers_that_cannot_be_had(make_pool, trouble, losses):
    with make_pool(1, **options_for(raise_in, trouble, losses)) as pool:
        trouble.touch()
        kill_a_worker(pool)
        wait_until(losses.failures, "a failure")


@pytest.mark.parametrize("initializer", [raise_in, leave_in, hang_in])
def test_a_scale_that_fails_leaves_the_pool_as_it_was(make_pool, trouble, losses, initializer):
    with make_pool(1, **options_for(initializer, trouble, losses)) as pool:
        trouble.touch()
        with pytest.raises(PoolStartError, match="could not start"):
            pool.scale(3)
        assert pool.run(tasks.double, 1) == 2
        trouble.unlink()
        assert pool.total_workers() == 1
        pool.scale(2)
        assert pool.total_workers() == 2


def test_on_worker_lost_that_raises_changes_nothing(make_pool, trouble, caplog):
    told = []

    def on_worker_lost(lost):
        told.append(lost)
        raise ValueError("told badly")

    with make_pool(1, initializer=raise_in, initargs=(str(trouble),),
                   on_worker_lost=on_worker_lost) as pool:
        trouble.touch()
        kill_a_worker(pool)
        wait_until(lambda: len(told) >= 3, "it to be tried again")
        trouble.unlink()
        assert pool.submit(tasks.double, 1).result(20) == 2
    assert "on_worker_lost failed" in caplog.text


# takes the place of cloudpickle in the nanny, which imports it before it forks
HANGS_IN_FORKS = """
import os, sys, time
from pathlib import Path

here = Path(__file__).parent
sys.path.remove(str(here))
del sys.modules["cloudpickle"]
import cloudpickle

def hang():
    while (here / "trouble").exists():
        time.sleep(0.01)

os.register_at_fork(after_in_child=hang)
"""


def test_a_worker_that_does_not_come_to_the_pool_is_replaced(
        make_pool, losses, monkeypatch, tmp_path, trouble):
    (tmp_path / "cloudpickle.py").write_text(HANGS_IN_FORKS)
    monkeypatch.syspath_prepend(tmp_path)
    with make_pool(2, on_worker_lost=losses.append) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(options, "START_TIMEOUT", 0.3)
            trouble.touch()
            kill_a_worker(pool)
            wait_until(lambda: len(losses.failures()) >= 2, "workers that hang to be given up")
            assert pool.submit(tasks.double, 1).result(20) == 2
            trouble.unlink()
        assert "did not connect to the pool within 0 s" in str(losses.failures()[0])
        wait_until(lambda: pool.total_workers() == 2, "the new worker")


def test_a_pool_whose_workers_do_not_come_to_it_fails_to_start(
        make_pool, monkeypatch, tmp_path, trouble):
    (tmp_path / "cloudpickle.py").write_text(HANGS_IN_FORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(options, "START_TIMEOUT", 1.5)
    trouble.touch()
    with pytest.raises(PoolStartError, match="did not connect to the pool within 2 s"):
        make_pool(2)


# --- the nanny has trouble to start a worker


@contextlib.contextmanager
def no_processes(nanny):
    """The nanny may have no further process: fork fails with EAGAIN."""
    group = Path("/sys/fs/cgroup/pids", f"distex-test-{os.getpid()}")
    if not group.parent.joinpath("cgroup.procs").exists():
        group = Path("/sys/fs/cgroup", group.name)
    try:
        group.mkdir()
        (group / "pids.max").write_text("0")
    except OSError as exc:
        with contextlib.suppress(OSError):
            group.rmdir()
        not_here(f"no group for processes can be made: {exc}")
    try:
        (group / "cgroup.procs").write_text(str(nanny.pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(nanny.pid))
        group.rmdir()


@contextlib.contextmanager
def no_files(nanny):
    """The nanny may open no further file: a pipe can't be made. Only another one may."""
    resource.prlimit(nanny.pid, resource.RLIMIT_NOFILE, (3, 3))
    yield
    nanny.kill()


@pytest.mark.parametrize("shortage", [no_processes, no_files])
def test_a_nanny_that_cannot_start_a_worker_for_a_while(make_pool, losses, shortage):
    with make_pool(2, on_worker_lost=losses.append, output=lambda line: None) as pool:
        with shortage(nanny_of(pool)):
            kill_a_worker(pool)
            wait_until(lambda: len(losses.failures()) >= 2, "it to be tried again")
            assert "its nanny can't start it" in str(losses.failures()[0])
            assert pool.submit(tasks.double, 1).result(20) == 2
            assert pool.total_workers() == 1
        wait_until(lambda: pool.total_workers() == 2, "the new worker")


def test_a_nanny_that_is_stopped_is_replaced_when_it_is_needed(make_pool, monkeypatch):
    """It starts no worker where one has died, and can't say that it has."""
    monkeypatch.setattr(options, "SPAWN_TIMEOUT", 0.5)
    with make_pool(2) as pool:
        stopped = nanny_of(pool)
        stopped.suspend()
        for worker in pool.workers():
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: pool.total_workers() == 0, "their end")
        assert pool.submit(tasks.double, 4).result(DEADLINE) == 8
        assert not stopped.is_running()
        wait_until(lambda: pool.total_workers() == 2, "both workers")


# --- the nanny is gone, and another one has trouble to start


def broken_module(code):
    """Makes a module that nannies import a broken one, which comes first on their path."""
    @contextlib.contextmanager
    def breaks(name, folder, monkeypatch):
        file = folder / f"{name}.py"
        monkeypatch.syspath_prepend(folder)
        file.write_text(code)
        yield
        file.unlink()
    return breaks


@contextlib.contextmanager
def no_interpreter(name, folder, monkeypatch):
    """As if the system could give no process, or the disk was away."""
    monkeypatch.setattr(sys, "executable", str(folder / "nothing"))
    yield
    monkeypatch.undo()


@contextlib.contextmanager
def another_version(name, folder, monkeypatch):
    """As if distex was just being installed anew."""
    monkeypatch.setattr(messages, "refusal", lambda hello: "it is of another version")
    yield
    monkeypatch.undo()


RAISE = "raise ImportError('not whole yet')"
HANG = "import signal; signal.pause()"

NANNY_TROUBLE = [
    pytest.param(no_interpreter, "", "no nanny can be started", id="it can't be started"),
    pytest.param(broken_module(RAISE), "msgspec", "is gone and is started anew", id="it dies"),
    pytest.param(broken_module(RAISE), "cloudpickle", "not whole yet", id="it can't prepare"),
    pytest.param(broken_module(HANG), "msgspec", "did not say that it serves", id="silent"),
    pytest.param(broken_module(HANG), "cloudpickle", "started no worker", id="spawns nothing"),
    pytest.param(another_version, "", "another version", id="another version"),
]


@pytest.mark.parametrize(("causes", "name", "text"), NANNY_TROUBLE)
def test_a_nanny_that_cannot_be_replaced_for_a_while(
        make_pool, losses, causes, name, text, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def times():
        return sum(text in record.getMessage() for record in caplog.records)

    with make_pool(1, on_worker_lost=losses.append) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(options, "START_TIMEOUT", 0.7)
            patch.setattr(options, "RECONNECT_DELAY_MAX", 0.1)
            with causes(name, tmp_path, patch):
                nanny_of(pool).kill()
                wait_until(lambda: times() >= 2, "it to be tried again", caplog.messages.copy)
                call = pool.submit(tasks.double, 1)
        assert call.result(20) == 2
        assert pool.total_workers() == 1


def test_a_pool_whose_nanny_cannot_be_had_for_long_breaks(make_pool, monkeypatch):
    pool = make_pool(1)
    with monkeypatch.context() as patch:
        patch.setattr(options, "RECONNECT_TIMEOUT", 0.2)
        patch.setattr(sys, "executable", "/nothing")
        nanny_of(pool).kill()
        wait_until(lambda: not pool.total_workers(), "its loss")
        with pytest.raises(PoolStartError, match=r"no worker could be had for .*/nothing"):
            pool.submit(tasks.double, 1).result(20)
    pool.shutdown()


def test_a_scale_is_told_that_no_nanny_can_be_had(make_pool, monkeypatch):
    with make_pool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nothing")
            nanny_of(pool).kill()
            wait_until(lambda: not pool.total_workers(), "its loss")
            with pytest.raises(PoolStartError, match="/nothing"):
                pool.scale(2)
        assert pool.submit(tasks.double, 1).result(20) == 2
        assert pool.total_workers() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_nanny_that_is_killed_by_any_signal(make_pool, number):
    with make_pool(1) as pool:
        gone = all_gone(pool)
        os.kill(nanny_of(pool).pid, number)
        wait_until(gone, "its loss")
        assert pool.submit(tasks.double, 1).result(20) == 2


# --- the pool's own process


def test_the_memory_of_workers_that_cannot_be_read_for_a_while(make_pool, monkeypatch, caplog):
    monkeypatch.setattr(options, "MEMORY_INTERVAL", 0.01)

    def fail(pid):
        raise OSError(24, "Too many open files")

    with make_pool(1, max_memory_per_child=2**40) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(state, "resident_bytes", fail)
            wait_until(lambda: "the memory of workers" in caplog.text, "it to fail")
        assert pool.submit(tasks.double, 1).result(20) == 2


# --- a nanny ends, and its pool does not


def end_by_signal(pool):
    nanny_of(pool).send_signal(signal.SIGINT)


def end_by_its_stream(pool):
    """As it is when the nanny says what the pool doesn't understand."""
    supervisor = pool._home.supervisor
    supervisor.loop.call_soon_threadsafe(supervisor.hosts[0].nanny.stream.abort)


def end_by_a_message(pool):
    """The nanny doesn't understand it, and raises."""
    supervisor = pool._home.supervisor
    supervisor.loop.call_soon_threadsafe(
        supervisor.hosts[0].nanny.stream.transport.write, b"\xff" * 8)


@pytest.mark.parametrize("end", [end_by_signal, end_by_its_stream, end_by_a_message])
def test_a_nanny_that_ends_leaves_the_socket_of_its_pool_alone(make_pool, end):
    with make_pool(1) as pool:
        socket_path = folder_of(pool) / "pool"
        inode = socket_path.stat().st_ino
        nanny, worker = nanny_of(pool), pool.workers()[0].pid
        end(pool)
        wait_until(lambda: worker not in [worker.pid for worker in pool.workers()], "its loss")
        assert pool.submit(tasks.double, 1).result(20) == 2
        assert socket_path.stat().st_ino == inode
        psutil.wait_procs([nanny], 10)
        assert socket_path.stat().st_ino == inode


POOL = """
import time
from distex import Pool
if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool._home.supervisor.listener._unix_path, flush=True)
        time.sleep(1000)
"""


def test_a_nanny_whose_pool_is_killed_removes_its_socket():
    with subprocess.Popen(
            [sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip()).parent
        assert folder.exists()
        process.kill()
    wait_until(lambda: not folder.exists(), "it to be gone")


# --- the system cleans temporary folders


def folder_of(pool):
    return Path(pool._home.supervisor.listener._unix_path).parent


def remove_folder(folder):
    shutil.rmtree(folder)


def remove_socket(folder):
    (folder / "pool").unlink()


def take_name(folder):
    """Somebody else has got the name meanwhile: it is a folder that all may enter."""
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)


def take_name_with_a_link(folder):
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent)


@pytest.fixture
def clean_away():
    """Removes what a test has put in the place of a pool's folder."""
    taken = []
    yield taken.append
    for folder in taken:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            folder.rmdir()


REMOVALS = [remove_folder, remove_socket, take_name, take_name_with_a_link]


@pytest.mark.parametrize("remove", REMOVALS)
def test_workers_are_replaced_when_the_pools_folder_is_gone(
        make_pool, losses, remove, clean_away):
    with make_pool(2, on_worker_lost=losses.append) as pool:
        for _ in range(2):
            remove(folder_of(pool))
            if remove not in (remove_folder, remove_socket):
                clean_away(folder_of(pool))
            kill_a_worker(pool)
            wait_until(lambda: pool.total_workers() == 2, "the new worker")
            assert folder_of(pool).stat().st_mode & 0o777 == 0o700
        assert list(pool.map(tasks.double, range(5))) == [0, 2, 4, 6, 8]
    assert not losses.failures()


@pytest.mark.parametrize("remove", [remove_folder, remove_socket])
def test_nannies_are_replaced_when_the_pools_folder_is_gone(make_pool, remove):
    with make_pool(1) as pool:
        remove(folder_of(pool))
        gone = all_gone(pool)
        nanny_of(pool).kill()
        wait_until(gone, "its loss")
        assert pool.submit(tasks.double, 1).result(20) == 2


@pytest.mark.parametrize("remove", [remove_folder, take_name])
def test_scale_and_recycling_when_the_pools_folder_is_gone(make_pool, remove, clean_away):
    with make_pool(1, max_tasks_per_child=10) as pool:
        remove(folder_of(pool))
        if remove is take_name:
            clean_away(folder_of(pool))
        pool.scale(2)
        assert pool.total_workers() == 2
        remove_socket(folder_of(pool))
        assert list(pool.map(tasks.double, range(100))) == [2 * n for n in range(100)]


def test_lanes_are_opened_when_the_pools_folder_was_gone(make_pool):
    """By workers that were there before."""
    with make_pool(2) as pool:
        shutil.rmtree(folder_of(pool))
        kill_a_worker(pool)
        wait_until(lambda: pool.total_workers() == 2, "the new worker")
        open_lanes(pool)


async def test_the_folder_is_gone_on_the_callers_loop(make_pool):
    async with make_pool(1) as pool:
        shutil.rmtree(folder_of(pool))
        gone = all_gone(pool)
        os.kill(pool.workers()[0].pid, signal.SIGKILL)
        await wait_until_async(gone, "its loss")
        assert await pool.run_async(tasks.double, 1) == 2


def test_no_folder_can_be_made_for_a_while(make_pool, losses, monkeypatch):
    with make_pool(2, on_worker_lost=losses.append) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkdtemp", refuse)
            patch.setattr(os, "mkdir", refuse)
            shutil.rmtree(folder_of(pool))
            kill_a_worker(pool)
            supervisor = pool._home.supervisor
            wait_until(lambda: supervisor.hosts[0].failures_in_series >= 2, "it to be tried again")
            assert pool.submit(tasks.double, 1).result(20) == 2
        wait_until(lambda: pool.total_workers() == 2, "the new worker")


def refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_worker_does_not_trust_another_users_socket(make_pool, losses, monkeypatch):
    """The folder is cleaned away, and somebody makes one of that name, between the pool's look and
    the worker's way there."""
    if os.getuid():
        not_here("only root can have a socket of another user")
    with make_pool(1, on_worker_lost=losses.append) as pool:
        folder = folder_of(pool)
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(str(folder / "pool"))
            stranger.listen()
            os.chown(folder, 65534, 65534)
            # as the pool saw it before
            monkeypatch.setattr(
                pool._home.supervisor.hosts[0].nanny, "is_reachable", lambda: True)
            kill_a_worker(pool)
            wait_until(losses.failures, "a worker to turn back")
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.accept()
        shutil.rmtree(folder)
        monkeypatch.undo()
        assert pool.submit(tasks.double, 1).result(20) == 2


def test_shipped_modules_are_there_again_when_they_were_cleaned_away(
        make_pool, tmp_path, monkeypatch):
    """On this host they are found where they are copied from, so that goes away too."""
    (tmp_path / "shipped_once.py").write_text("def f(): return 'shipped'\n")
    monkeypatch.syspath_prepend(tmp_path)
    import shipped_once

    try:
        with make_pool(1, ship=[shipped_once]) as pool:
            (tmp_path / "shipped_once.py").unlink()
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
            cache = Path(os.environ["XDG_CACHE_HOME"], "distex")
            for path in "files/shipped_once.py", "files", ".":
                modules, = cache.glob("modules-*")
                remove = shutil.rmtree if (modules / path).is_dir() else os.unlink
                remove(modules / path)
                kill_a_worker(pool)
                assert pool.submit(shipped_once.f).result(20) == "shipped"
            remove_folder(folder_of(pool))
            kill_a_worker(pool)
            assert pool.submit(shipped_once.f).result(20) == "shipped"
        assert not list(cache.iterdir())
    finally:
        del sys.modules["shipped_once"]
