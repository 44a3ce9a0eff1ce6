"""What every test here gets: both event loops, coroutine tests, and a look for what was left."""

import asyncio
import inspect
import os
import tempfile
import threading

import psutil
import pytest
import uvloop

from distex import LoopType, Pool

from .support import distex_folders, wait_until

LOOP_FACTORIES = {
    LoopType.uvloop: uvloop.new_event_loop,
    LoopType.asyncio: asyncio.SelectorEventLoop,
}


def pytest_generate_tests(metafunc):
    if "loop_type" in metafunc.fixturenames:
        metafunc.parametrize(
            "loop_type", list(LOOP_FACTORIES), ids=lambda kind: kind.name, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is a coroutine function, on a fresh loop of the kind it is run for."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    factory = LOOP_FACTORIES[pyfuncitem.callspec.params["loop_type"]]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="module")
def pool(loop_type):
    """A pool of two workers, shared by the tests of a module that leave it as it was."""
    with Pool(2, worker_loop=loop_type) as shared:
        yield shared


@pytest.fixture
def make_pool(loop_type):
    """Makes pools with the event loop that the test is run for."""
    def make(*args, **kwargs):
        return Pool(*args, worker_loop=loop_type, **kwargs)
    return make


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_folder():
    """A place for socket folders that other test runs on this machine don't use."""
    with (tempfile.TemporaryDirectory(prefix="pool-tests-") as folder,
          pytest.MonkeyPatch.context() as patch):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left(_own_temporary_folder):
    """No process, thread or socket folder more than before."""
    own = psutil.Process()

    def processes():
        return {child.pid for child in own.children(recursive=True)
                if child.is_running() and child.status() != psutil.STATUS_ZOMBIE}

    before = processes(), set(threading.enumerate()), distex_folders()
    yield
    wait_until(lambda: len(processes()) <= len(before[0]), what="the processes to be gone",
               details=lambda: [psutil.Process(pid).cmdline() for pid in processes()])
    wait_until(lambda: set(threading.enumerate()) <= before[1], what="the threads to be gone",
               details=threading.enumerate)
    wait_until(lambda: distex_folders() <= before[2], what="the socket folders to be gone",
               details=lambda: distex_folders() - before[2])
    assert own.pid == os.getpid()
