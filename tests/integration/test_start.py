"""Start: with whatever interpreter state there is, in whatever way the parent was started."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from effort import moments

from distex import Pool, PoolClosed, PoolStartError

from . import tasks
from .support import Script, descendants, run_script

# --- Works with no script on PATH: workers run sys.executable, with the parent's sys.path and
# --- working directory


def test_no_script_on_path_is_needed(tmp_path):
    source = """
import sys
from distex import Pool

if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool.run(lambda: sys.executable) == sys.executable)
"""
    with Script(source, tmp_path, env={**os.environ, "PATH": ""}) as script:
        assert script.finish() == "True\n", script.stderr


def test_workers_have_the_parents_working_directory(make_pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make_pool(1) as pool:
        assert pool.run(os.getcwd) == str(tmp_path)


def test_workers_have_the_parents_sys_path_and_arguments(make_pool, tmp_path, monkeypatch):
    tmp_path.joinpath("found_on_the_way.py").write_text("def f(): return 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "argument"])
    import found_on_the_way

    with make_pool(1) as pool:
        assert pool.run(found_on_the_way.f) == "found"
        assert pool.run(arguments) == ["program", "argument"]
    monkeypatch.delitem(sys.modules, "found_on_the_way")


def arguments():
    return sys.argv


def test_a_path_and_arguments_that_are_no_text_hinder_no_pool(make_pool, tmp_path, monkeypatch):
    """Python passes over what is no str in sys.path; file names may be any bytes."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)
    with open(os.path.join(folder, "found_there.py"), "w") as file:
        file.write("def f(): return 'found'\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    monkeypatch.setattr(sys, "argv", ["program", "\udcff", 3])
    import found_there

    with make_pool(1) as pool:
        assert pool.run(found_there.f) == "found"
        assert pool.run(arguments) == ["program", "\udcff", "3"]
    monkeypatch.delitem(sys.modules, "found_there")


def test_a_nanny_that_was_begun_for_a_pool_that_does_not_start_is_gone(make_pool, monkeypatch):
    with pytest.raises(PoolStartError, match="pickle"):
        make_pool(1, initializer=print, initargs=(threading.Lock(),))
    assert not descendants(os.getpid())

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)  # there are too many
    with pytest.raises(RuntimeError, match="new thread"):
        Pool(1)
    assert not descendants(os.getpid())


def test_modules_in_the_working_directory_are_not_in_the_way(tmp_path):
    """They are not where a script's own modules come from."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in "selectors", "msgspec", "distex":
        (elsewhere / f"{name}.py").write_text("raise ImportError('the wrong one')\n")
    source = """
from distex import Pool

with Pool(1) as pool:
    print(pool.run(abs, -1))
"""
    assert run_script(source, tmp_path, cwd=elsewhere) == ["1"]


def test_workers_have_the_parents_environment(make_pool, monkeypatch):
    monkeypatch.setenv("DISTEX_TEST_VARIABLE", "value")
    with make_pool(1) as pool:
        assert pool.run(os.getenv, "DISTEX_TEST_VARIABLE") == "value"


def test_workers_have_the_garbage_collector_enabled_which_the_nanny_imports_without(make_pool):
    with make_pool(1) as pool:
        assert pool.run(gc.isenabled)


def test_interpreter_options_are_passed_on(tmp_path):
    source = """
import sys
from distex import Pool

if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool.run(lambda: (sys.flags.optimize, sys.flags.dev_mode)))
"""
    with Script(source, tmp_path, command=[sys.executable, "-O", str(tmp_path / "script.py")]) as s:
        assert s.finish() == "(1, False)\n", s.stderr


# --- functions from __main__, a REPL, a notebook and a module beside the script all run


PROGRAM = """
from dataclasses import dataclass
from distex import Pool

FACTOR = 3

def helper(x):
    return x * FACTOR

def work(x):
    return helper(x) + 1

@dataclass
class Point:
    x: int

    def moved(self, by):
        return Point(self.x + by)

def move(point):
    return point.moved(1)

if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.run(work, 1), list(pool.map(work, range(3))))
        print(pool.run(lambda: FACTOR))
        print(pool.run(move, Point(1)) == Point(2), pool.run(Point(2).moved, 1) == Point(3))
        print(type(pool.run(Point, 1)) is Point)
        FACTOR = 10
        print(pool.run(work, 1))
"""
EXPECTED = ["4 [1, 4, 7]", "3", "True True", "True", "11"]


def test_functions_and_classes_of_a_script(tmp_path):
    assert run_script(PROGRAM, tmp_path) == EXPECTED


STATE = """
import functools
from beside import call
from distex import Pool

STATE = 0

def init():
    global STATE
    STATE = 7

def get():
    return STATE

class Thing:
    def get(self):
        return STATE

def counter():
    count = 0
    def up():
        nonlocal count
        count += 1
        return count
    return up

if __name__ == "__main__":
    with Pool(1, initializer=init, data_pickle={data}) as pool:
        thing = Thing()
        print(pool.run(get), pool.run(call, get), pool.run(call, lambda: STATE))
        print(pool.run(functools.partial(get)), pool.run(functools.partial(call, get)))
        print(pool.run(thing.get), pool.run(call, thing.get))
        print(list(pool.map(call, [get] * 2)))
        link, = pool._home.supervisor.links()
        while link.lane is None:
            pool.run(get)
        up, down = counter(), counter()
        print([pool.run(up), pool.submit(up).result(), pool.run(up), pool.run(up)])
        print(pool.submit(down).result(), pool.run(down))
"""


@pytest.mark.parametrize("data", [0, 1])
def test_all_functions_of_a_script_share_their_globals_in_a_worker(tmp_path, data):
    """What is called, and what is among the arguments; by the lane, and by the loop."""
    tmp_path.joinpath("beside.py").write_text("def call(f): return f()\n")
    assert run_script(STATE.format(data=data), tmp_path) == [
        "7 7 7", "7 7", "7 7", "[7, 7]", "[1, 2, 3, 4]", "1 2"]


def test_methods_of_imported_classes_use_the_globals_of_their_module(tmp_path):
    """As what is called, as the initializer, and in what a function of the script refers to."""
    tmp_path.joinpath("beside.py").write_text("""
import threading

lock = threading.Lock()  # can't be pickled
state = "not set"

class Beside:
    @classmethod
    def set(cls, value):
        global state
        with lock:
            state = value

class Child(Beside):
    pass

def get():
    return state
""")
    assert run_script("""
import beside
from distex import Pool

def set_both(value, set=beside.Child.set):
    set(value)
    return beside.get()

class Mine:
    @classmethod
    def name(cls):
        return cls.__name__

with Pool(1, initializer=beside.Beside.set, initargs=("at first",)) as pool:
    print(pool.run(beside.get))
    pool.run(beside.Child.set, "later")
    print(pool.run(beside.get))
    print(pool.run(set_both, "in the end"))
    print(pool.run(Mine.name))
""", tmp_path) == ["at first", "later", "in the end", "Mine"]


def test_a_script_needs_no_main_guard(tmp_path):
    assert run_script(PROGRAM.replace('if __name__ == "__main__":', "if True:"),
                      tmp_path) == EXPECTED


def test_functions_of_python_c(tmp_path):
    output = run_script("", tmp_path, command=[sys.executable, "-c", PROGRAM])
    assert output == EXPECTED


def test_functions_of_a_program_on_stdin(tmp_path):
    with Script("", tmp_path, command=[sys.executable, "-"]) as script:
        assert script.finish(PROGRAM).splitlines() == EXPECTED, script.stderr


def test_functions_of_a_repl(tmp_path):
    session = """\
from distex import Pool
def f(x):
    return x + 1

pool = Pool(1)
print(pool.run(f, 1))
def f(x):
    return x + 100

print(pool.run(f, 1), list(pool.map(lambda x: f(x) * 2, range(2))))
pool.shutdown()
"""
    with Script("", tmp_path, command=[sys.executable, "-i", "-q"]) as script:
        assert script.finish(session).splitlines() == ["2", "101 [200, 202]"], script.stderr
        assert "Traceback" not in script.stderr


def test_functions_of_a_module_run_with_python_m(tmp_path):
    command = [sys.executable, "-m", "script"]
    with Script(PROGRAM, tmp_path, command=command, cwd=tmp_path) as script:
        assert script.finish().splitlines() == EXPECTED, script.stderr


def test_functions_of_a_module_beside_the_script(tmp_path):
    tmp_path.joinpath("beside.py").write_text("def f(x): return x + 1\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert run_script("""
import beside
from distex import Pool

with Pool(1) as pool:
    print(pool.run(beside.f, 1), list(pool.map(beside.f, [2, 3])))
""", tmp_path, cwd=folder) == ["2 [3, 4]"]


def test_in_a_notebook_the_synchronous_methods_work_inside_the_running_loop(make_pool):
    """A cell runs on the thread of the kernel's loop, which is running."""
    namespace = {"__name__": "__main__", "Pool": make_pool}

    async def cell(source):
        exec(compile(source, "<cell>", "exec"), namespace)

    async def kernel():
        await cell("def f(x): return x + 1")
        await cell("with Pool(2) as pool: results = list(pool.map(f, range(5))), pool.run(f, 10)")

    asyncio.run(kernel())
    assert namespace["results"] == ([1, 2, 3, 4, 5], 11)


# --- Pool() starts one per usable CPU


def test_a_pool_has_one_worker_for_each_usable_cpu(tmp_path):
    source = """
import os, sys
from distex import Pool

if __name__ == "__main__":
    cpus = sorted(os.sched_getaffinity(0))[:int(sys.argv[1])]
    os.sched_setaffinity(0, cpus)
    with Pool() as pool:
        print(pool.total_workers(), len(cpus), len(set(pool.run_on_all(os.getpid))))
"""
    for number in 1, 2:
        workers, cpus, pids = run_script(source, tmp_path, number)[0].split()
        assert workers == cpus == pids


# --- import distex needs no optional package and takes little longer than import asyncio


def test_import_takes_little_longer_than_that_of_asyncio():
    source = """
import time
began = time.perf_counter()
import asyncio, concurrent.futures.process
middle = time.perf_counter()
import distex
print(time.perf_counter() - middle)
"""
    times = [float(subprocess.check_output([sys.executable, "-c", source])) for _ in range(8)]
    assert min(times) < 0.06


def test_import_needs_no_optional_package():
    source = """
import sys
for name in "asyncssh", "dill", "numpy":
    sys.modules[name] = None  # makes an import fail
import distex
print([name for name in ("asyncssh", "dill", "numpy", "uvloop", "cloudpickle")
       if sys.modules.get(name) is not None])
"""
    output = subprocess.check_output([sys.executable, "-c", source], text=True)
    assert output == "[]\n"


# --- Pool may be created and used again after shutdown, in a fork of the parent, under any start
# --- method, and twice in one process


def test_a_pool_may_be_made_again_after_shutdown(make_pool):
    for _ in range(3):
        with make_pool(1) as pool:
            assert pool.run(tasks.double, 1) == 2


async def test_a_pool_may_be_made_again_after_shutdown_on_one_loop(make_pool):
    for _ in range(3):
        async with make_pool(1) as pool:
            assert await pool.run_async(tasks.double, 1) == 2


def test_two_pools_at_once(make_pool):
    with make_pool(1) as one, make_pool(1) as two:
        first = [one.submit(tasks.double, x) for x in range(50)]
        second = [two.submit(tasks.negate, x) for x in range(50)]
        assert [f.result() for f in first] == [2 * x for x in range(50)]
        assert [f.result() for f in second] == [-x for x in range(50)]
        assert one.run(tasks.pid) != two.run(tasks.pid)


def test_pools_in_several_threads_at_once(make_pool):
    results = []

    def work(n):
        with make_pool(1) as pool:
            results.append(pool.run(tasks.double, n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [0, 2, 4, 6]


def test_a_pool_inside_a_worker(make_pool):
    with make_pool(1) as pool:
        assert pool.run(pool_in_a_worker) == [0, 2, 4]
    with make_pool(1) as pool:
        assert pool.run(pool_in_a_coroutine) == 8


def pool_in_a_worker():
    with Pool(1) as inner:
        return list(inner.map(tasks.double, range(3)))


async def pool_in_a_coroutine():
    async with Pool(1) as inner:
        return await inner.run_async(tasks.double, 4)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_in_a_multiprocessing_child(tmp_path, method):
    output = run_script("""
import multiprocessing, sys, warnings
from distex import Pool

warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads, which is the point

def child(queue):
    with Pool(1) as pool:
        queue.put(list(pool.map(abs, [-1, -2])))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with Pool(1) as pool:  # the parent's own is in use at the same time
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get(), pool.run(abs, -3))
        process.join()
        print(process.exitcode, pool.run(abs, -4))
""", tmp_path, method)
    assert output == ["[1, 2] 3", "0 4"]


def test_in_a_fork_the_parents_pool_is_refused_and_its_shutdown_harms_nothing(tmp_path):
    output = run_script("""
import os, warnings
from distex import Pool

warnings.simplefilter("ignore", DeprecationWarning)
pool = Pool(1)
print(pool.run(abs, -1), flush=True)
pid = os.fork()
if not pid:
    for call in (pool.submit, pool.run, pool.map):
        try:
            call(abs, [-1])
        except RuntimeError as exc:
            print("refused:", "forked" in str(exc), flush=True)
    pool.shutdown()
    with Pool(1) as own:
        print(own.run(abs, -2), flush=True)
    raise SystemExit
_, status = os.waitpid(pid, 0)
print(status, pool.run(abs, -3))
pool.shutdown()
""", tmp_path)
    assert output == ["1", "refused: True", "refused: True", "refused: True", "2", "0 3"]


# --- who waits for the workers may give up; the pool goes on to start


@pytest.fixture
def new_processes():
    """Gives the processes below this one that were not there when the test began."""
    before = set(descendants(os.getpid()))
    return lambda: set(descendants(os.getpid())) - before


@pytest.fixture
def starting(make_pool, gate):
    """A pool whose worker does not become ready before the gate is opened."""
    return make_pool(
        1, lazy_create=True, initializer=tasks.pass_gate, initargs=(gate.path, None))


def test_the_wait_for_a_pool_may_time_out(starting, gate):
    assert starting.ready.wait(0.01) is False
    gate.wait_for(1)
    assert starting.ready.wait(0) is False
    gate.open()
    assert starting.ready.wait(30) is True
    assert starting.run(tasks.double, 2) == 4
    starting.shutdown()


async def ready(pool):
    await pool.ready


@pytest.mark.parametrize("wait", [
    Pool.create, ready, lambda pool: pool.run_on_all_async(tasks.double, 2),
    lambda pool: pool.scale_async(2)], ids=["create", "ready", "run_on_all_async", "scale_async"])
async def test_the_wait_for_a_pool_may_be_cancelled(starting, gate, wait):
    call = starting.run_async(tasks.double, 2)
    await gate.wait_for_async(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wait(starting), 0.01)
    gate.open()
    assert await call == 4
    await starting.shutdown_async()


async def test_a_pool_whose_context_is_given_up_before_it_is_entered_ends(
        starting, gate, new_processes):
    """There would be nobody to end it."""
    async def use():
        async with starting:
            pytest.fail("it can't be ready")

    task = asyncio.create_task(use())
    await gate.wait_for_async(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not new_processes()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await starting.run_async(tasks.double, 2)


async def test_a_pool_that_starts_can_be_killed(starting, gate, new_processes):
    call = starting.run_async(tasks.double, 2)
    await gate.wait_for_async(1)
    await starting.kill_async()
    with pytest.raises(PoolClosed, match="double"):
        await call
    assert not new_processes()


async def test_a_pool_can_be_killed_at_every_turn_of_the_loop_as_it_starts(
        make_pool, new_processes):
    for turns in moments(15):
        pool = make_pool(1)
        call = pool.run_async(tasks.double, 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        await pool.kill_async()
        with pytest.raises(PoolClosed, match="double"):
            await call
        assert not new_processes()


async def test_a_pool_that_starts_and_has_nothing_to_do_is_shut_down_at_once(
        starting, gate, new_processes):
    creating = asyncio.create_task(starting.create())
    await gate.wait_for_async(1)
    await starting.shutdown_async()
    with pytest.raises(PoolClosed, match="ended before it was ready"):
        await creating
    assert not new_processes()


@pytest.mark.parametrize("wait", [
    lambda pool: pool.ready.wait(), lambda pool: pool.run_on_all(tasks.double, 2)],
    ids=["ready", "run_on_all"])
def test_who_waits_for_a_pool_that_a_thread_shuts_down_is_told(
        starting, gate, new_processes, wait):
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(wait, starting)
        gate.wait_for(1)
        starting.shutdown()
        with pytest.raises(PoolClosed, match="ended before it was ready"):
            waiting.result(30)
    assert not new_processes()


def test_a_pool_that_starts_can_be_killed_by_a_thread(starting, gate, new_processes):
    future = starting.submit(tasks.double, 2)
    gate.wait_for(1)
    starting.kill()
    with pytest.raises(PoolClosed, match="double"):
        future.result(0)
    assert not new_processes()


# --- the loop that the pool runs on ends before it


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_pool_that_goes_with_the_last_task_that_uses_it(
        factory, caplog, new_processes):
    """It begins to end by itself, and the end of the loop is quicker."""
    async def use(used):
        pool = Pool(1)
        used.set_result(await pool.run_async(tasks.double, 2))
        try:
            await asyncio.Event().wait()
        finally:
            del pool
            await asyncio.sleep(0)

    async def main():
        used = asyncio.get_running_loop().create_future()
        tasks_of_loop.append(asyncio.create_task(use(used)))
        return await used

    tasks_of_loop = []
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == 4
    tasks_of_loop.clear()
    gc.collect()
    assert not caplog.records
    assert not new_processes()


LEFT_OPEN = """
import asyncio, concurrent.futures, sys, time
import psutil, uvloop
from distex import Pool, PoolClosed

def run(main):
    loop = (asyncio, uvloop)[{number}].new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        if {in_order}:
            loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()

async def main():
    pool = Pool(1)
    assert await pool.run_async(abs, -1) == 1
    return pool, pool.submit(time.sleep, 1000)

async def again():
    async with asyncio.timeout(10):
        return await pool.run_async(abs, -3)

pool, future = run(main())
if {in_order}:
    print(type(future.exception(0)).__name__)
    assert not psutil.Process().children()
for use in (lambda: pool.submit(abs, -2).result(10), lambda: pool.run(abs, -2),
            lambda: list(pool.map(abs, [-2])), lambda: asyncio.run(again())):
    try:
        use()
    except RuntimeError as exc:
        print(exc)
pool.shutdown()
pool.shutdown()
assert not psutil.Process().children()
"""


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("number", [0, 1], ids=["asyncio", "uvloop"])
def test_a_pool_whose_loop_is_closed_says_so(tmp_path, number, in_order):
    """In order, as asyncio.run() does it, the loop's asynchronous generators are closed first; then
    the pool ends with it."""
    output = run_script(LEFT_OPEN.format(number=number, in_order=in_order), tmp_path)
    if in_order:
        assert output.pop(0) == "PoolClosed"
    assert len(output) == 4
    assert all("event loop that ran this pool is closed" in line for line in output)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_end_that_is_cut_off_by_that_of_the_loop_leaves_nothing(
        factory, new_processes):
    async def main(turns):
        pool = Pool(1)
        assert await pool.run_async(tasks.double, 2) == 4
        await pool.shutdown_async(wait=False)
        for _ in range(turns):
            await asyncio.sleep(0)

    for turns in moments(10):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(turns))
        gc.collect()  # what was not closed warns of it
        assert not new_processes()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_pool_whose_loop_ends_at_any_moment_of_its_start_leaves_nothing(
        factory, new_processes):
    async def main(turns):
        call = Pool(1).run_async(tasks.double, 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        return call

    for turns in moments(10):
        with asyncio.Runner(loop_factory=factory) as runner:
            call = runner.run(main(turns))
        with pytest.raises(PoolClosed, match="double"):
            call.result()
        del call
        gc.collect()  # what was never awaited warns of it
        assert not new_processes()


async def test_a_pool_whose_start_is_cancelled_at_any_moment_ends(make_pool, new_processes):
    for turns in moments(10):
        others = asyncio.all_tasks()
        pool = make_pool(1)
        call = pool.run_async(tasks.double, 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - others:
            task.cancel()
        with pytest.raises(PoolClosed, match="double"):
            await asyncio.wait_for(call, 20)
        await pool.shutdown_async()
        assert not new_processes()


KEPT = """
import asyncio, sys
from distex import Pool

def fail():
    raise ValueError

async def main():
    async with Pool(1) as pool:
        task = pool.run_async(fail)
        kept = [task, pool._home.function(abs)]
        while not task.done():
            await asyncio.sleep(0.001)
    kept.append(kept)  # only the last collection finds it
    sys.kept = kept

asyncio.run(main())
"""


def test_what_is_kept_until_the_interpreter_ends_ends_quietly(tmp_path):
    with Script(KEPT, tmp_path) as script:
        assert script.finish() == ""
        assert script.stderr == ""
