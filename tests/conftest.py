"""What every test gets: both event loops where it asks for them, and a look at what it left behind.

A test that takes ``loop`` runs twice, under uvloop and under asyncio's own event loop::

    def test_something(loop):
        async def main():
            async with Pool(2, worker_loop=loop.worker_loop) as pool:
                ...
        loop.run(main())
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from effort import THOROUGH, so_much
from hypothesis import settings
from leftovers import nothing_left, own_surroundings

from distex import LoopType

settings.register_profile("local", deadline=None, max_examples=200)
settings.register_profile("ci", deadline=None, max_examples=2_000)
settings.register_profile("sanitize", deadline=None, max_examples=100)
settings.load_profile(so_much(plain="local", thorough="ci"))

# A shell that starts the tests in the background has them ignore these two, and so would each program
# that a test starts.
for number, handler in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# --- the two loops


@dataclass(frozen=True)
class Loop:
    """An event loop for the test and for its workers."""

    worker_loop: LoopType
    factory: Callable[[], asyncio.AbstractEventLoop]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """As asyncio.run(), on this kind of loop."""
        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(coroutine)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each kind of event loop in turn."""
    if request.param == "uvloop":
        return Loop(LoopType.uvloop, uvloop.new_event_loop)
    return Loop(LoopType.asyncio, asyncio.SelectorEventLoop)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes a thousand processes, or long, unless that is asked for."""
    if not THOROUGH:
        large = [item for item in items if item.get_closest_marker("large")]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


# --- nothing is left behind


surroundings = own_surroundings()


def pytest_configure(config: pytest.Config) -> None:
    surroundings.__enter__()


def pytest_unconfigure(config: pytest.Config) -> None:
    surroundings.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a process, a thread, an open file or a folder of a pool behind."""
    with nothing_left():
        yield
