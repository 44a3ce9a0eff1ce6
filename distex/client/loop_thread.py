"""An event loop in a thread of its own, and futures, for synchronous code."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from distex._core.futures import ConcurrentTask

END_TIMEOUT = 0.5  # seconds for what still runs on a loop that ends


class Future(ConcurrentTask, concurrent.futures.Future):  # type: ignore[type-arg]
    """The ``concurrent.futures.Future`` that ``Pool.submit`` returns.

    It becomes running when it is sent to a worker; until then it can be cancelled.
    """


class LoopThread:
    """An event loop in a daemon thread.

    Args:
        factory: makes the loop.

    Attributes:
        on_closed: called when the loop is closed.

    Raises:
        RuntimeError: no thread can be had.
    """

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop: asyncio.AbstractEventLoop = factory()
        self.on_closed: Callable[[], object] = lambda: None
        self._running: dict[concurrent.futures.Future[Any], Coroutine[Any, Any, Any]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="distex-loop", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # there are too many threads
            self.loop.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while self._interrupted():
                pass
        finally:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(_end_tasks())
            self.loop.close()
            self._closed = True
            self._refuse()
            self.on_closed()

    def _interrupted(self) -> bool:
        """Run the loop until it is stopped: False; or until a coroutine raises what would end a
        program: True. Who waits for the coroutine has that; others must not hang for it."""
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            return True
        return False

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        """Run a coroutine on the loop; see run_on(). Its future comes to an end in any case: if
        the loop is stopped before, that is a RuntimeError or a cancellation."""
        future = run_on(self.loop, coroutine)
        self._running[future] = coroutine
        future.add_done_callback(lambda future: self._running.pop(future, None))
        if self._closed:
            self._refuse()
        return future

    def _refuse(self) -> None:
        """The loop is closed: say so to who waits for what it did not come to."""
        for future, coroutine in list(self._running.items()):
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(RuntimeError("the pool's event loop is closed"))

    def stop(self) -> None:
        """End the loop, and wait for the thread unless it is this one."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()


async def _end_tasks() -> None:
    """Wait for the tasks of the running loop, and cancel those that go on."""
    tasks: set[asyncio.Task[Any]] = asyncio.all_tasks()
    tasks.remove(asyncio.current_task())  # type: ignore[arg-type]
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=END_TIMEOUT)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_TIMEOUT)
    await asyncio.get_running_loop().shutdown_asyncgens()


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
