"""What the concurrent.futures face of a pool is made of: its futures, and a loop of its own for
callers that have none."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from distex._core.dispatch import Dispatcher
from distex._core.futures import ConcurrentTask


class Future(ConcurrentTask, concurrent.futures.Future):  # type: ignore[type-arg]
    """The ``concurrent.futures.Future`` that ``Pool.submit`` returns.

    It becomes running when it is sent to a worker; until then it can be cancelled.
    """


class LoopThread:
    """An event loop in a daemon thread.

    Args:
        factory: makes the loop.
    """

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = factory()
        self._thread = threading.Thread(target=self._run, name="distex-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while self._interrupted():
                pass
        finally:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _interrupted(self) -> bool:
        """Run the loop until it is stopped: False; or until a coroutine raises what would end a
        program: True. Who waits for the coroutine has that; others must not hang for it."""
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            return True
        return False

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        """Run a coroutine on the loop; see run_on()."""
        return run_on(self.loop, coroutine)

    def stop(self) -> None:
        """End the loop, and wait for the thread unless it is this one."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()


def run_on(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]
) -> "concurrent.futures.Future[Any]":
    """Run a coroutine on another thread's loop.

    Raises:
        RuntimeError: the loop is closed.
    """
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise


def check_may_block(dispatcher: Dispatcher) -> None:
    """RuntimeError if this thread must not wait for the pool, as it is the one that runs it."""
    if dispatcher.on_home_thread():
        raise RuntimeError(
            "waiting here would block the event loop that runs this pool: use the ..._async "
            "method, or 'with Pool(...)' to have the pool run in a thread of its own")
