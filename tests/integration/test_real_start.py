"""Start in real programs: with whatever streams, signals, folders, limits and options they have."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import all_gone, not_here

from distex import Pool, PoolStartError, options
from distex.launch import local
from distex.worker.surroundings import IGNORED

from . import tasks
from .support import run_script, wait_until

# what a program does with a pool, in both ways; it writes to a file, as it may have no stdout
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
import uvloop
from distex import LoopType, Pool

def work(x):
    print("printed", x)
    sys.stderr.write("told\\n")
    sys.stdin.read()
    return x + 1

async def use(kind):
    async with Pool(1, worker_loop=kind) as pool:
        return await pool.run_async(work, 1)

if __name__ == "__main__":
    result = Path(sys.argv[1])
    {prepare}
    kind, factory = {{"uvloop": (LoopType.uvloop, uvloop.new_event_loop),
                     "asyncio": (LoopType.asyncio, asyncio.SelectorEventLoop)}}[sys.argv[2]]
    with Pool(2, worker_loop=kind) as pool:
        results = [pool.run(work, 1), *pool.map(work, [2, 3])]
        {check}
    with asyncio.Runner(loop_factory=factory) as runner:
        results.append(runner.run(use(kind)))
    if os.getuid() == 0:  # another effective user can't write there
        os.seteuid(0)
    result.write_text(repr(results))
"""
RIGHT = "[2, 3, 4, 2]"


@pytest.fixture(params=["uvloop", "asyncio"])
def program(request, tmp_path):
    """Runs PROGRAM to its end, which has to be a good one."""
    def run(*, prepare="pass", check="pass", shell="exec \"$@\"", flags=(), **popen):
        script, result = tmp_path / "program.py", tmp_path / "result"
        script.write_text(PROGRAM.format(prepare=prepare, check=check))
        done = subprocess.run(
            ["/bin/sh", "-c", shell, "sh", sys.executable, *flags, script, result, request.param],
            stdin=popen.pop("stdin", subprocess.DEVNULL), capture_output=True, text=True,
            timeout=50, check=False, **popen)
        assert done.returncode == 0, done.stderr
        assert result.read_text() == RIGHT
        return done
    return run


# --- stdin, stdout or stderr closed, one or all

CLOSED = [closed for number in (1, 2, 3) for closed in itertools.combinations((0, 1, 2), number)]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda closed: "".join(map(str, closed)))
def test_standard_streams_that_are_closed(program, closed):
    redirections = " ".join(f"{fd}<&-" for fd in closed)
    done = program(shell=f'exec "$@" {redirections}')
    if 1 not in closed:
        assert done.stdout.count("printed") == 4
    if 2 not in closed:
        assert done.stderr.count("told") == 4
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_standard_streams_that_the_program_closes(program, closed):
    program(prepare="; ".join(f"os.close({fd})" for fd in closed) + "; sys.stdout = None")


def test_what_workers_print_is_had_where_stdout_is_closed(tmp_path):
    output = run_script("""
import os, sys
os.close(1)
sys.stdout = None
from distex import Pool

def say(word):
    print(word)
    print(word, file=sys.stderr)

lines = []
with Pool(1, output=lines.append) as pool:
    pool.run(say, "here")
os.write(2, b"")
assert sorted((line.stream, line.text) for line in lines) == [
    ("stderr", "here"), ("stdout", "here")], lines
""", tmp_path)
    assert output == []


# --- folders


def test_a_working_directory_that_was_deleted(program, tmp_path):
    program(prepare="os.mkdir('/%s'); os.chdir('/%s'); os.rmdir('/%s')" % (
        (str(tmp_path / "gone").strip("/"),) * 3))


def test_a_working_directory_that_nobody_can_write_to(program):
    program(cwd="/proc")


@pytest.mark.parametrize("kind", ["long", "missing", "file", "relative"])
def test_a_folder_for_temporary_files_that_is_of_no_use(program, tmp_path, kind):
    folder = tmp_path / ("a" * 100)
    if kind == "long":
        folder.mkdir()
    elif kind == "file":
        folder = tmp_path / "file"
        folder.touch()
    elif kind == "relative":
        folder = Path("nowhere")
    program(env={**os.environ, "TMPDIR": str(folder)},
            check="assert pool._home.supervisor.listener._unix_path.startswith('/')")
    if kind == "long":
        assert not list(folder.iterdir())


def test_no_folder_for_temporary_files_at_all(make_pool, monkeypatch):
    from distex import machine

    monkeypatch.setattr(machine, "FOLDER_PLACES", ())
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(PoolStartError, match="TMPDIR"):
        make_pool(1)


def test_no_home(program):
    program(env={name: value for name, value in os.environ.items() if name != "HOME"})


# --- limits of files


@pytest.mark.parametrize("limit", [40, 64, 128])
def test_few_files(program, limit):
    program(shell=f"ulimit -n {limit}; exec \"$@\"")


def test_too_few_files_are_an_error_that_says_so(tmp_path):
    output = run_script("""
import resource

from distex import Pool, PoolStartError

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    Pool(100)
except PoolStartError as exc:
    print(str(exc))
""", tmp_path)
    assert "ulimit -Hn" in output[0]


# --- signals

BLOCK_ALL = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
IGNORE_ALL = """import signal
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)"""
HANDLE_ALL = IGNORE_ALL.replace("signal.SIG_IGN", "print")


def signals_of_worker():
    """Those that are blocked, and those with another handler than a fresh interpreter has."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGURG: "the pool's",
             **dict.fromkeys(IGNORED, signal.SIG_IGN)}
    strange = [
        number for number in signal.valid_signals()
        if number != signal.SIGURG
        and signal.getsignal(number) != usual.get(number, signal.SIG_DFL)]
    return sorted(blocked), sorted(strange)


@pytest.mark.parametrize("prepare", [BLOCK_ALL, IGNORE_ALL, HANDLE_ALL, BLOCK_ALL + "; " +
                                     IGNORE_ALL], ids=["blocked", "ignored", "handled", "both"])
def test_workers_have_the_signals_of_a_fresh_interpreter(program, prepare):
    program(prepare=f"sys.path.insert(0, {str(Path(__file__).parents[1])!r}); {prepare}",
            check="from integration.test_real_start import signals_of_worker as look; "
            "assert pool.run(look) == ([], []), pool.run(look)")


def test_what_is_interrupted_where_all_signals_are_blocked(tmp_path):
    output = run_script("""
import signal, time
from distex import Pool

signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

def pid():
    import os
    return os.getpid()

def hang():
    while True:
        time.sleep(0.01)

with Pool(1, cancel_running="interrupt") as pool:
    before = pool.run(pid)
    try:
        pool.options(timeout=0.2, grace=20).run(hang)
    except TimeoutError:
        print("in time")
    print(pool.run(pid) == before)
""", tmp_path)
    assert output == ["in time", "True"]


# --- options of the interpreter


@pytest.mark.parametrize("flags", [
    ["-u"], ["-I"], ["-P"], ["-E"], ["-s"], ["-X", "dev"], ["-X", "utf8"], ["-X", "mine=3"],
    ["-X", "int_max_str_digits=5000"], ["-W", "error::FutureWarning"], ["-b"], ["-O"], ["-B"],
    ["-u", "-I", "-X", "mine", "-W", "ignore"]], ids=" ".join)
def test_workers_have_the_options_of_the_interpreter(program, flags):
    program(flags=flags, check="look = lambda: (tuple(sys.flags), sys._xoptions, sys.warnoptions, "
            "sys.stdout.write_through); assert pool.run(look) == look(), pool.run(look)")


# --- another user


@pytest.mark.parametrize("ids", ["1234, 0, 0", "0, 1234, 0", "1234, 0, 1234"])
def test_a_real_user_id_unlike_the_effective_one(program, ids):
    if os.getuid():
        not_here("only root can have several user ids")
    if ids.split(", ")[1] == "1234":
        home = Path(sys.executable).resolve().parents[1]
        if any(not folder.stat().st_mode & 0o001 for folder in (home, *home.parents)):
            pytest.skip("another user can't run this interpreter")
    program(prepare=f"os.setresuid({ids})")


# --- a limit for the start


def test_an_initializer_may_take_longer_than_workers_may_take_to_connect(
        make_pool, monkeypatch, gate):
    monkeypatch.setattr(options, "START_TIMEOUT", 2.0)
    pool = make_pool(2, lazy_create=True, initializer=tasks.pass_gate, initargs=(gate.path, None))
    future = pool.submit(tasks.double, 1)
    gate.wait_for(2)
    monkeypatch.setattr(options, "START_TIMEOUT", 0.01)
    supervisor = pool._home.supervisor
    wait_until(lambda: all(worker.deadline is None for worker in supervisor.workers()), "hellos")
    gate.open()
    assert future.result(20) == 2
    pool.shutdown()


def sleep_long():
    time.sleep(1000)


async def sleep_long_async():
    import asyncio

    await asyncio.sleep(1000)


@pytest.mark.parametrize("initializer", [sleep_long, sleep_long_async])
def test_start_timeout_fails_a_start_that_takes_longer(make_pool, initializer):
    since = time.monotonic()
    with pytest.raises(PoolStartError, match=r"not ready within 1.5 s.*its initializer runs"):
        make_pool(2, initializer=initializer, start_timeout=1.5)
    assert time.monotonic() - since < 15


async def test_start_timeout_on_the_callers_loop(make_pool):
    with pytest.raises(PoolStartError, match=r"not ready within 1.5 s"):
        await make_pool(1, initializer=sleep_long, start_timeout=1.5).create()


def test_start_timeout_holds_for_scale(make_pool, tmp_path):
    with make_pool(1, initializer=sleep_the_second_time, initargs=(str(tmp_path),),
                   start_timeout=1.5) as pool:
        with pytest.raises(PoolStartError, match=r"not ready within 1.5 s"):
            pool.scale(2)
        assert pool.run(tasks.double, 1) == 2


def sleep_the_second_time(folder):
    if list(Path(folder).glob("arrived-*")):
        sleep_long()
    tasks.mark(folder)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_start_timeout_that_makes_no_sense(value):
    with pytest.raises(ValueError, match="start_timeout"):
        Pool(1, start_timeout=value)


def test_a_slow_start_is_logged(make_pool, monkeypatch, gate, caplog):
    caplog.set_level(logging.INFO, "distex")
    monkeypatch.setattr(options, "START_REPORT", 0.05)
    pool = make_pool(5, lazy_create=True, initializer=tasks.pass_gate, initargs=(gate.path, None))
    future = pool.submit(tasks.double, 1)
    gate.wait_for(5)
    wait_until(lambda: "its initializer runs; " in caplog.text, "a report")
    assert "distex: 0 of 5 workers are ready after" in caplog.text
    assert "and 2 more" in caplog.text
    gate.open()
    assert future.result(20) == 2
    watch = pool._home.supervisor.start_watch
    wait_until(lambda: watch._report is None, "the reports to end")
    pool.shutdown()


def test_a_quick_start_is_not_logged(make_pool, caplog):
    caplog.set_level(logging.INFO, "distex")
    with make_pool(1):
        pass
    assert not caplog.records


# --- CPUs


GROUPS = {
    "no groups": ("", {}, 8),
    "version 2": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000", "cpu.max": "max 100000"}, 2),
    "version 2, nested": ("0::/a/b\n", {"a/b/cpu.max": "400000 100000",
                                        "a/cpu.max": "100000 100000"}, 1),
    "version 2, no limit": ("0::/a\n", {"a/cpu.max": "max 100000"}, 8),
    "version 2, in a container": ("0::/docker/far\n", {"cpu.max": "300000 100000"}, 3),
    "version 2, a namespace": ("0::/../b\n", {"b/cpu.max": "300000 100000"}, 3),
    "version 2, unified": ("0::/a\n1:name=systemd:/\n", {"unified/a/cpu.max": "50000 100000"}, 1),
    "version 1": ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                                         "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 3),
    "version 1, nested": ("3:cpu:/a/b\n", {"cpu/a/b/cpu.cfs_quota_us": "-1",
                                           "cpu/a/b/cpu.cfs_period_us": "100000",
                                           "cpu/a/cpu.cfs_quota_us": "200000",
                                           "cpu/a/cpu.cfs_period_us": "100000"}, 2),
    "version 1, no limit": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1",
                                          "cpu/cpu.cfs_period_us": "100000"}, 8),
    "both": ("0::/a\n2:cpu:/a\n", {"unified/a/cpu.max": "400000 100000",
                                   "cpu/a/cpu.cfs_quota_us": "300000",
                                   "cpu/a/cpu.cfs_period_us": "100000"}, 3),
    "a little": ("0::/a\n", {"a/cpu.max": "1000 100000"}, 1),
    "more than there are": ("0::/a\n", {"a/cpu.max": "1600000 100000"}, 8),
    "not to be understood": ("0::/a\nwhat\n\n", {"a/cpu.max": "what", "cpu.max": ""}, 8),
    "no period": ("0::/a\n", {"a/cpu.max": "1000 0"}, 8),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_pool_goes_by_the_quota_of_its_control_groups(name, tmp_path, monkeypatch):
    from distex import machine

    groups, files, cpus = GROUPS[name]
    (tmp_path / "groups").write_text(groups)
    for path, text in files.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    quotas = machine.cpu_quotas(str(tmp_path / "groups"), str(tmp_path / "root"))
    monkeypatch.setattr(machine, "cpu_quotas", lambda: quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    assert machine.usable_cpus() == cpus


def test_a_pool_in_a_control_group_with_a_quota(tmp_path):
    root = Path("/sys/fs/cgroup")
    tree = next((root / name for name in ("", "unified", "cpu", "cpu,cpuacct")
                 if (root / name / "cpu.max").exists()
                 or (root / name / "cpu.cfs_quota_us").exists()
                 or "cpu" in _read(root / name / "cgroup.subtree_control").split()), None)
    if tree is None or len(os.sched_getaffinity(0)) < 2:
        not_here("there is no control group for CPUs, or only one CPU")
    group = tree / f"distex-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        not_here(f"no control group can be made: {exc}")
    inner = group / "inner"
    try:
        inner.mkdir()
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("100000")
        output = run_script("""
import os, sys
from pathlib import Path
from distex import Pool

Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
with Pool() as pool:
    print(pool.total_workers())
""", tmp_path, inner)
        assert output == ["1"]
    finally:
        for folder in (inner, group):
            if folder.exists():
                wait_until(lambda folder=folder: not _read(folder / "cgroup.procs"), "its end")
                folder.rmdir()


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


# --- hash()


def hash_of_text():
    return hash("distex")


def hash_in_a_child():
    return os.environ.get("PYTHONHASHSEED"), subprocess.check_output(
        [sys.executable, "-c", "print(hash('distex'))"], text=True)


def test_all_workers_agree_on_hashes_those_that_replace_others_too(make_pool):
    with make_pool(2) as pool:
        before = set(pool.run_on_all(hash_of_text))
        assert len(before) == 1
        pool.scale(3)
        assert set(pool.run_on_all(hash_of_text)) == before
        pids = pool.run_on_all(os.getppid)
        gone = all_gone(pool)
        os.kill(pids[0], signal.SIGKILL)  # the nanny
        wait_until(gone, "their loss")
        wait_until(lambda: pool.total_workers() == 3, "the new workers")
        assert set(pool.run_on_all(hash_of_text)) == before
        pool.scale(0)
        pool.scale(1)
        assert set(pool.run_on_all(hash_of_text)) == before


def test_pools_do_not_agree_on_hashes(make_pool):
    with make_pool(1) as one, make_pool(1) as other:
        assert one.run(hash_of_text) != other.run(hash_of_text)


@pytest.mark.parametrize("seed", ["0", "1", "4294967295", "random", None])
def test_the_users_own_seed_is_kept(make_pool, monkeypatch, seed):
    if seed is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    with make_pool(1) as pool:
        there, child = pool.run(hash_in_a_child)
        assert there == seed
        if seed in ("0", "1", "4294967295"):
            assert child == hash_in_a_child()[1]
            assert pool.run(hash_of_text) == int(child)
        else:
            assert pool.run(hash_of_text) != int(child)


# --- frozen applications


def test_a_frozen_application_is_told_what_to_do_and_not_started_again(tmp_path):
    application = tmp_path / "application"
    application.write_text(f"#!/bin/sh\necho >> {tmp_path}/started\n")
    application.chmod(0o755)
    output = run_script("""
import asyncio, sys
from distex import Pool, PoolStartError

sys.frozen, sys.executable = True, sys.argv[1]  # as PyInstaller does
sys._MEIPASS = "/tmp"

async def use():
    async with Pool(2) as pool:
        pass

for start in (lambda: Pool(2), lambda: Pool(), lambda: Pool(2, lazy_create=True),
              lambda: asyncio.run(use())):
    try:
        start()
    except PoolStartError as exc:
        print("frozen" in str(exc) and "distex worker" in str(exc))
with Pool(localport=0, localhost="127.0.0.1", lazy_create=True):
    pass
""".replace('with Pool(localport=0, localhost="127.0.0.1", lazy_create=True):\n    pass\n', ""),
                        tmp_path, application)
    assert output == ["True"] * 4
    assert not (tmp_path / "started").exists()


def test_an_application_that_embeds_python(monkeypatch, tmp_path, make_pool):
    """The interpreter has no name; there is most likely one beside."""
    beside = Path(sys.exec_prefix, f"bin/python{sys.version_info.major}.{sys.version_info.minor}")
    monkeypatch.setattr(sys, "executable", "")
    assert local.interpreter() == str(beside)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    with pytest.raises(PoolStartError, match=r"set sys.executable"):
        make_pool(1)
