"""Both event loops for the tests here, tests that are coroutine functions, and pools for them.

What a test leaves behind is looked for by the conftest one folder up.
"""

import asyncio
import inspect

import pytest
import uvloop

from distex import LoopType, Pool

from .support import Gate, open_lanes

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
        open_lanes(shared)
        yield shared


@pytest.fixture
def make_pool(loop_type):
    """Makes pools with the event loop that the test is run for."""
    def make(*args, **kwargs):
        return Pool(*args, worker_loop=loop_type, **kwargs)
    return make


@pytest.fixture
def gate(tmp_path):
    """Where tasks wait until the test lets them go."""
    return Gate(tmp_path)
