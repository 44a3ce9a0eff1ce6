"""Failure: it stays with what failed, says what happened, and leaves nothing behind."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from effort import moments
from machine import is_alive

from distex import Pool, PoolClosed, PoolStartError, RemoteException, WorkerLost
from distex.errors import DistexError
from distex.worker.process import LaneRunner

from . import tasks
from .support import (
    Gate,
    Script,
    descendants,
    distex_folders,
    open_lanes,
    run_script,
    wait_until,
    wait_until_async,
)

# --- A worker that dies fails only the task it had started, with WorkerLost naming host, pid,
# --- signal or exit code and the task; tasks that had not started move to other workers; a new
# --- worker takes its place; the pool stays usable.

DEATHS = [
    pytest.param(tasks.kill_worker, (), -signal.SIGKILL, "SIGKILL", id="SIGKILL"),
    pytest.param(tasks.kill_worker, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM", id="SIGTERM"),
    pytest.param(tasks.exit_worker, (3,), 3, "exit code 3", id="exit code"),
    pytest.param(tasks.exit_worker, (0,), 0, "exit code 0", id="exit code 0"),
    pytest.param(tasks.crash_worker, (), -signal.SIGSEGV, "SIGSEGV", id="segfault"),
]


@pytest.mark.parametrize(("func", "args", "exitcode", "text"), DEATHS)
def test_a_worker_that_dies_fails_the_task_it_had_started(make_pool, func, args, exitcode, text):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        with pytest.raises(WorkerLost) as failure:
            pool.submit(func, *args).result(20)
        lost = failure.value
        assert isinstance(lost, BrokenProcessPool) and isinstance(lost, DistexError)
        assert (lost.pid, lost.exitcode, lost.host) == (pid, exitcode, socket.gethostname())
        assert lost.task.endswith(func.__name__)
        for part in lost.host, str(pid), text, func.__name__:
            assert part in str(lost)
        # a new worker takes its place
        assert pool.submit(tasks.pid).result(20) != pid
        assert pool.total_workers() == 1


async def test_the_same_for_an_asynchronous_call(make_pool):
    async with make_pool(1) as pool:
        with pytest.raises(WorkerLost, match="exit code 5"):
            await pool.run_async(tasks.exit_worker, 5)
        assert await pool.run_async(tasks.double, 1) == 2


def test_tasks_that_had_not_started_are_done_by_others(make_pool, gate):
    with make_pool(2, qsize=4) as pool:
        futures = [pool.submit(tasks.pass_gate, gate.path, x) for x in range(20)]
        gate.wait_for(2)
        victim = pool_workers()[0]
        os.kill(victim, signal.SIGKILL)
        gate.open()
        errors = [f for f in futures if f.exception(20) is not None]
        assert len(errors) == 1
        assert errors[0].exception().pid == victim
        assert [f.result() for f in futures if f is not errors[0]] == [
            x for x, f in enumerate(futures) if f is not errors[0]]
        wait_until(lambda: pool.total_workers() == 2, what="the new worker")
    # each of the others was run once
    assert gate.arrived() == 20


def pool_workers():
    """Pids of the workers of all pools of this process: the children of its nannies."""
    return [pid for nanny in descendants(os.getpid()) for pid in descendants(nanny)]


def test_tasks_on_other_workers_do_not_notice(make_pool, gate):
    with make_pool(2, qsize=1) as pool:
        other = pool.submit(tasks.pass_gate, gate.path, "unharmed")
        gate.wait_for(1)
        with pytest.raises(WorkerLost):
            pool.submit(tasks.exit_worker, 1).result(20)
        gate.open()
        assert other.result(20) == "unharmed"


def test_all_workers_may_die_again_and_again(make_pool):
    with make_pool(2) as pool:
        for _ in range(4):
            futures = [pool.submit(tasks.exit_worker, 1) for _ in range(2)]
            for future in futures:
                assert isinstance(future.exception(20), WorkerLost)
        wait_until(lambda: pool.total_workers() == 2, what="the new workers")
        assert list(pool.map(tasks.double, range(100))) == list(range(0, 200, 2))


def test_an_idle_worker_that_dies_is_replaced(make_pool):
    with make_pool(1) as pool:
        pid = pool.run(tasks.pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        assert pool.submit(tasks.double, 1).result(20) == 2
        assert pool.run(tasks.pid) != pid


def test_a_call_of_run_that_had_not_started_moves_to_another_worker(make_pool):
    with make_pool(1) as pool, ThreadPoolExecutor(1) as threads:
        open_lanes(pool)
        pid = pool.run(tasks.pid)
        os.kill(pid, signal.SIGSTOP)  # it takes nothing any more
        call = threads.submit(pool.run, tasks.pid)
        link, = pool._home.supervisor.links()
        try:
            wait_until(lambda: link.in_flight == 1, "the call")
        finally:
            os.kill(pid, signal.SIGKILL)
        assert call.result(20) != pid


def test_what_began_while_a_chunk_waited_is_not_run_again(make_pool, gate, tmp_path):
    """The chunk goes on, and ends the worker."""
    with make_pool(1, qsize=4) as pool:
        way = Gate(tmp_path, "way")
        items = [(tasks.pass_gate_async, way.path), (tasks.exit_worker, 1)]
        results = pool.map(call, items, star=True, chunksize=2)
        way.wait_for(1)
        began_meanwhile = pool.submit(tasks.wait_for_cancel, gate.path)
        gate.wait_for(1)
        way.open()
        with pytest.raises(WorkerLost):
            list(results)
        assert isinstance(began_meanwhile.exception(20), WorkerLost)
    assert gate.arrived() == 1


def test_the_loss_of_a_call_of_run_tells_nothing_of_its_way(make_pool):
    with make_pool(1) as pool:
        open_lanes(pool)
        with pytest.raises(WorkerLost) as failure:
            pool.run(tasks.kill_worker)
        assert failure.value.__context__ is None


def close_lane():
    """In a worker, which goes on."""
    lane, = [thing for thing in gc.get_objects() if type(thing) is LaneRunner]
    lane.connection.abort()


def test_a_worker_that_closes_its_lane_is_cut_off(make_pool):
    with make_pool(1) as pool:
        open_lanes(pool)
        pid = pool.run(tasks.pid)
        pool.submit(close_lane).result()  # not by the lane
        assert pool.run(tasks.pid) != pid  # it was sent by it, but had not started


def test_a_coroutine_on_a_worker_that_dies_fails_too(make_pool, gate):
    with make_pool(1, qsize=3) as pool:
        sleeping = pool.submit(tasks.wait_for_cancel, gate.path)
        gate.wait_for(1)
        assert isinstance(pool.submit(tasks.exit_worker, 1).exception(20), WorkerLost)
        assert isinstance(sleeping.exception(20), WorkerLost)


def test_a_map_ends_with_worker_lost(make_pool):
    with make_pool(2) as pool:
        for chunksize in None, 1, 10:
            results = pool.map(call, [(tasks.double, 1), (tasks.exit_worker, 1)] * 3, star=True,
                               chunksize=chunksize)
            with pytest.raises(WorkerLost):
                list(results)
        assert list(pool.map(tasks.double, range(10))) == list(range(0, 20, 2))


def call(func, *args):
    return func(*args)


def test_run_on_all_tells_of_a_worker_that_dies(make_pool):
    with make_pool(2) as pool:
        with pytest.raises(WorkerLost):
            pool.run_on_all(tasks.exit_worker, 1)
        assert pool.submit(tasks.double, 1).result(20) == 2


def test_a_task_that_is_submitted_again_after_worker_lost_succeeds(make_pool, gate):
    with make_pool(1) as pool:
        with pytest.raises(WorkerLost):
            pool.run(tasks.die_once, gate.path, "value")
        assert pool.run(tasks.die_once, gate.path, "value") == "value"


def test_children_that_a_worker_started_end_with_it(make_pool):
    with make_pool(1) as pool:
        child = pool.run(start_a_child)
        assert is_alive(child)
        assert isinstance(pool.submit(tasks.exit_worker, 1).exception(20), WorkerLost)
        wait_until(lambda: not is_alive(child), what="the worker's child to be gone")


def start_a_child():
    return subprocess.Popen(["sleep", "60"]).pid


def test_a_nanny_that_is_killed_fails_the_running_tasks_and_is_replaced(make_pool, gate):
    with make_pool(1) as pool:
        worker = pool.run(tasks.pid)
        running = pool.submit(tasks.pass_gate, gate.path)
        gate.wait_for(1)
        psutil.Process(worker).parent().kill()
        assert isinstance(running.exception(20), WorkerLost)
        assert pool.submit(tasks.double, 2).result(20) == 4
        wait_until(lambda: not is_alive(worker), what="the old worker to be gone")
        assert pool.total_workers() == 1


# --- SystemExit, KeyboardInterrupt, CancelledError, GeneratorExit raised by a task reach the caller

BASE_EXCEPTIONS = [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit,
                   StopIteration, StopAsyncIteration, BaseException]


@pytest.mark.parametrize("exception_type", BASE_EXCEPTIONS)
@pytest.mark.parametrize("func", [tasks.throw, tasks.throw_async])
def test_a_base_exception_reaches_the_caller(pool, func, exception_type):
    if func is tasks.throw_async and exception_type in (StopIteration, StopAsyncIteration):
        expected = RuntimeError  # what Python makes of it in a coroutine
        if exception_type is StopAsyncIteration:
            expected = exception_type
    else:
        expected = exception_type
    error = pool.submit(func, exception_type, 3).exception(20)
    assert type(error) is expected
    if expected is exception_type:
        assert error.args == (3,)
    assert pool.run(tasks.double, 1) == 2


@pytest.mark.parametrize("exception_type", [
    KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, BaseException, KeyError])
async def test_a_base_exception_reaches_an_asynchronous_caller(make_pool, exception_type):
    async with make_pool(1) as pool:
        for func in tasks.throw, tasks.throw_async:
            call_ = pool.run_async(func, exception_type, 3)
            await wait_until_async(call_.done)
            with pytest.raises(exception_type):
                call_.result()
        assert await pool.run_async(tasks.double, 1) == 2


async def test_stop_iteration_reaches_an_asynchronous_caller_as_runtime_error(make_pool):
    async with make_pool(1) as pool:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.run_async(tasks.throw, StopIteration, 3)


def test_a_base_exception_in_a_map_reaches_the_caller(pool):
    for exception_type in SystemExit, KeyboardInterrupt, GeneratorExit, CancelledError:
        results = pool.map(tasks.throw, [exception_type])
        with pytest.raises(exception_type):
            next(results)


# --- An exception that cannot be pickled, or that fails to unpickle, reaches the caller as
# --- RemoteException with the remote traceback as text; the worker lives.


@pytest.mark.parametrize(("func", "text"), [
    (tasks.throw_unpicklable, "UnpicklableError"),
    (tasks.throw_two_arguments, "TwoArgumentsError"),
])
def test_an_exception_that_does_not_travel_reaches_the_caller_as_text(pool, func, text):
    workers = set(pool.run_on_all(tasks.pid))
    with pytest.raises(RemoteException) as failure:
        pool.run(func)
    assert text in str(failure.value)
    assert "Traceback (most recent call last)" in failure.value.traceback
    assert "tasks.py" in failure.value.traceback and func.__name__ in failure.value.traceback
    assert set(pool.run_on_all(tasks.pid)) == workers


def test_an_exception_that_cannot_even_be_described(pool):
    with pytest.raises(RemoteException, match="MuteError"):
        pool.run(tasks.throw, tasks.MuteError)
    assert pool.run(tasks.double, 1) == 2


async def test_the_same_for_asynchronous_calls_and_maps(make_pool):
    async with make_pool(1) as pool:
        with pytest.raises(RemoteException, match="TwoArgumentsError"):
            await pool.run_async(tasks.throw_two_arguments)
        with pytest.raises(RemoteException, match="UnpicklableError"):
            async for _ in pool.map_async(tasks.throw_unpicklable, [()], star=True):
                pass
        assert await pool.run_async(tasks.double, 1) == 2


# --- A worker that dies while starting, an initializer that raises: the pool's creation fails soon
# --- with the reason, and leaves no process behind.


def failing_initializer():
    raise LookupError("nothing to begin with")


async def failing_initializer_async():
    raise LookupError("nothing to begin with")


@pytest.mark.parametrize("initializer", [failing_initializer, failing_initializer_async])
def test_an_initializer_that_raises_fails_the_creation(make_pool, initializer):
    before = descendants(os.getpid())
    with pytest.raises(PoolStartError, match="nothing to begin with") as failure:
        make_pool(2, initializer=initializer)
    assert isinstance(failure.value.__cause__, LookupError)
    assert isinstance(failure.value, BrokenProcessPool)
    wait_until(lambda: descendants(os.getpid()) == before, what="the processes to be gone")


async def test_an_initializer_that_raises_fails_the_asynchronous_creation(make_pool):
    with pytest.raises(PoolStartError, match="nothing to begin with") as failure:
        async with make_pool(2, initializer=failing_initializer):
            pass
    assert isinstance(failure.value.__cause__, LookupError)
    pool = make_pool(1, initializer=failing_initializer)
    with pytest.raises(PoolStartError, match="nothing to begin with"):
        await pool.run_async(tasks.double, 1)
    await pool.shutdown_async()


def test_an_initializer_that_raises_fails_all_tasks_of_a_lazy_pool(make_pool):
    pool = make_pool(1, lazy_create=True, initializer=failing_initializer)
    futures = [pool.submit(tasks.double, x) for x in range(5)]
    for future in futures:
        with pytest.raises(PoolStartError, match="nothing to begin with"):
            future.result(20)
    pool.shutdown()


def test_a_worker_that_dies_in_the_initializer_fails_the_creation(make_pool):
    for exitcode in 0, 4:
        with pytest.raises(PoolStartError, match=f"exit code {exitcode}"):
            make_pool(2, initializer=tasks.exit_worker, initargs=(exitcode,))
    with pytest.raises(PoolStartError, match="SIGKILL"):
        make_pool(1, initializer=tasks.kill_worker)


def test_a_nanny_that_dies_while_workers_start_fails_the_creation(make_pool):
    before = descendants(os.getpid())
    with pytest.raises(PoolStartError, match="nanny"):
        make_pool(2, initializer=kill_the_nanny)
    wait_until(lambda: descendants(os.getpid()) == before, what="the processes to be gone")


async def test_the_same_for_an_asynchronous_creation(make_pool):
    before = descendants(os.getpid())
    with pytest.raises(PoolStartError, match="nanny"):
        await make_pool(2, initializer=kill_the_nanny).create()
    await wait_until_async(lambda: descendants(os.getpid()) == before, what="all to be gone")


def kill_the_nanny():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(5)


def test_an_initializer_that_cannot_be_pickled_fails_the_creation(make_pool):
    with pytest.raises(PoolStartError) as failure:
        make_pool(1, initializer=tasks.double, initargs=(threading.Lock(),))
    assert isinstance(failure.value.__cause__, TypeError)


def test_an_initializer_that_cannot_be_loaded_fails_the_creation(make_pool):
    with pytest.raises(PoolStartError, match="can't be unpickled"):
        make_pool(1, initializer=tasks.double, initargs=(tasks.Unloadable(),))


def test_a_call_of_all_workers_that_comes_when_they_have_ended(make_pool):
    """Another thread has shut the pool down since the call has begun."""
    pool = make_pool(1)
    pool._home.submit(pool._home.supervisor.stop()).result()
    with pytest.raises(PoolClosed, match="pid"):
        pool.run_on_all(tasks.pid)
    pool.shutdown()


# --- The parent's death, also by SIGKILL, ends every worker within seconds.


PARENT = """
import os, sys, time
from pathlib import Path
from distex import Pool

def work(folder):
    Path(folder, f"busy-{os.getpid()}").touch()
    time.sleep(60)

if __name__ == "__main__":
    pool = Pool(2)
    for _ in range(4):
        pool.submit(work, sys.argv[1])
    print("submitted", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_the_parents_death_ends_every_worker_and_the_nanny(tmp_path, number):
    folders = distex_folders()
    with Script(PARENT, tmp_path, tmp_path) as script:
        assert script.read_line() == "submitted"
        wait_until(lambda: len(list(tmp_path.glob("busy-*"))) == 2, what="the workers to be busy")
        family = descendants(script.pid)
        assert len(family) == 3
        os.kill(script.pid, number)
        wait_until(lambda: not any(map(is_alive, family)), timeout=10, what="all to be gone")
        script.finish()
        assert "Traceback" not in script.stderr
        wait_until(
            lambda: distex_folders() == folders, timeout=5, what="the socket's folder to be gone")


def test_the_parents_death_also_ends_idle_workers(tmp_path):
    with Script(PARENT.replace("range(4)", "range(0)"), tmp_path, tmp_path) as script:
        assert script.read_line() == "submitted"
        family = descendants(script.pid)
        assert len(family) == 3
        os.kill(script.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, family)), timeout=10, what="all to be gone")


# --- Ctrl-C in a script ends cleanly: no traceback storm from workers, no orphan, no hang at exit.

INTERRUPTED = {
    "result": "pool.submit(work, sys.argv[1]).result()",
    "map": "list(pool.map(work, [sys.argv[1]] * 10))",
    "sleep": "pool.submit(work, sys.argv[1]); time.sleep(60)",
}


@pytest.mark.parametrize("waiting", INTERRUPTED)
@pytest.mark.parametrize("context", ["with Pool(2) as pool:", "pool = Pool(2)\n    if True:"])
def test_ctrl_c_in_a_script_ends_cleanly(tmp_path, waiting, context):
    source = PARENT[:PARENT.index("    pool =")].replace("time.sleep(60)", "time.sleep(1)") + f"""
    {context}
        {INTERRUPTED[waiting]}
"""
    with Script(source, tmp_path, tmp_path) as script:
        wait_until(lambda: list(tmp_path.glob("busy-*")), what="a worker to be busy")
        family = descendants(script.pid)
        script.signal_group(signal.SIGINT)
        script.finish()
        assert script.process.returncode in (-signal.SIGINT, 130, 1)
        assert script.stderr.count("KeyboardInterrupt") == 1, script.stderr
        assert script.stderr.count("Traceback") == 1, script.stderr
        wait_until(lambda: not any(map(is_alive, family)), what="all to be gone")


def test_ctrl_c_in_an_asynchronous_script_ends_cleanly(tmp_path):
    source = PARENT[:PARENT.index("if __name__")].replace("time.sleep(60)", "time.sleep(1)") + """
import asyncio

async def main():
    async with Pool(2) as pool:
        await pool.run_async(work, sys.argv[1])

asyncio.run(main())
"""
    with Script(source, tmp_path, tmp_path) as script:
        wait_until(lambda: list(tmp_path.glob("busy-*")), what="a worker to be busy")
        family = descendants(script.pid)
        script.signal_group(signal.SIGINT)
        script.finish()
        assert script.stderr.rstrip().endswith("KeyboardInterrupt")
        assert "worker" not in script.stderr
        wait_until(lambda: not any(map(is_alive, family)), what="all to be gone")


# --- A pool that is never shut down does not hang interpreter exit.


@pytest.mark.parametrize("use", [
    "pool = Pool(2)",
    "pool = Pool(2); pool.run(abs, -1)",
    "pool = Pool(2); it = pool.map(abs, range(1000)); next(it)",
    "pool = Pool(2, lazy_create=True)",
    "pool = Pool(2, lazy_create=True); pool.submit(abs, -1)",
    "pools = [Pool(1), Pool(1)]; pools[0].run(abs, -1)",
    "import sys; pool = Pool(1); pool.run(abs, -1); sys.stdout.flush(); raise SystemExit(0)",
])
def test_a_pool_that_is_never_shut_down_does_not_hang_interpreter_exit(tmp_path, use):
    assert run_script(f"from distex import Pool\n{use}", tmp_path) == []


@pytest.mark.parametrize("factory", ["uvloop.new_event_loop", "asyncio.SelectorEventLoop"])
def test_the_same_for_a_pool_on_a_loop(tmp_path, factory):
    with Script(f"""
import asyncio, uvloop
from distex import Pool

async def main():
    global pool
    pool = Pool(2)
    return await pool.run_async(abs, -1)

with asyncio.Runner(loop_factory={factory}) as runner:
    print(runner.run(main()))
""", tmp_path) as script:
        assert script.finish() == "1\n"
        assert script.process.returncode == 0, script.stderr


# --- After shutdown no future is left pending and no socket, process, thread, file or folder.


def test_after_shutdown_nothing_is_left(make_pool):
    own = psutil.Process()
    files = own.num_fds()
    folders = distex_folders()
    threads = threading.active_count()
    children = descendants(os.getpid())
    with make_pool(2) as pool:
        list(pool.map(tasks.double, range(100)))
        assert len(descendants(os.getpid())) == len(children) + 3
        assert len(distex_folders()) == len(folders) + 1
    assert descendants(os.getpid()) == children
    assert distex_folders() == folders
    assert threading.active_count() == threads
    wait_until(lambda: own.num_fds() == files, what="the files to be closed")


async def test_after_asynchronous_shutdown_nothing_is_left(make_pool):
    own = psutil.Process()
    folders = distex_folders()
    others = asyncio.all_tasks()
    children = descendants(os.getpid())
    files = []
    for _ in range(2):  # the first time the loop opens some for itself
        async with make_pool(2) as pool:
            await asyncio.gather(*[pool.run_async(tasks.double, x) for x in range(100)])
        assert descendants(os.getpid()) == children
        assert distex_folders() == folders
        await wait_until_async(lambda: asyncio.all_tasks() == others, what="asyncio's tasks to end")
        files.append(own.num_fds())
    assert files[0] == files[1]


async def test_who_connects_in_the_moment_of_the_end_is_let_go(make_pool):
    for turns in moments(8):  # of the loop, between the two
        async with make_pool(1) as pool:
            stranger = socket.socket(socket.AF_UNIX)
            with stranger:
                stranger.connect(pool._home.supervisor.listener._unix_path)
                stopping = asyncio.ensure_future(pool.shutdown_async())
                for _ in range(turns):
                    await asyncio.sleep(0)
                await stopping
                stranger.setblocking(False)
                assert stranger.recv(1) == b""


def test_after_shutdown_no_future_is_pending(make_pool, gate):
    pool = make_pool(2)
    futures = [pool.submit(tasks.marked, gate.path) for _ in range(50)]
    futures += [pool.submit(tasks.exit_worker, 1)]
    futures += [pool.submit(tasks.double, x) for x in range(50)]
    pool.shutdown()
    assert all(future.done() for future in futures)


def test_after_shutdown_that_cancels_no_future_is_pending(make_pool):
    pool = make_pool(2)
    futures = [pool.submit(tasks.sleep_and_give, 0.01) for _ in range(50)]
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)


async def test_after_the_pool_ended_calls_are_refused_or_fail(make_pool):
    async with make_pool(1) as pool:
        call_ = pool.run_async(tasks.sleep_and_give, 0.01, "in time")
    assert await call_ == "in time"
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.run_async(tasks.nothing)
    with pytest.raises(RuntimeError, match="after shutdown"):
        async for _ in pool.map_async(tasks.double, [1]):
            pass


def test_a_private_folder_holds_the_socket():
    with Pool(1, lazy_create=False):
        for name in distex_folders():
            assert Path(tempfile.gettempdir(), name).stat().st_mode & 0o777 == 0o700
