"""A pool that runs, and how it ends: by shutdown, with its loop, at exit, or as garbage.

    Home ──starts──> RunningPool ──stop──> ended: by shutdown, with its loop, or at exit

It knows nothing of the Pool, so it can be ended when nobody refers to that any more.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any

from distex.client.loop_thread import LoopThread, run_on
from distex.cluster.supervisor import Supervisor

_running: "set[RunningPool]" = set()


@atexit.register
def _at_exit() -> None:
    for running in list(_running):
        running.at_exit()


class RunningPool:
    """A supervisor and where it runs.

    Args:
        supervisor: made on the loop on which it is to run.
        thread: that runs this loop, if the pool started it.
    """

    def __init__(self, supervisor: Supervisor, thread: LoopThread | None) -> None:
        self.supervisor = supervisor
        self.thread = thread
        self.pid: int = os.getpid()
        self.on_exit: Callable[[], object] = bool  # called first as the interpreter ends
        self._sentinel: AsyncGenerator[None, None] | None = None
        _running.add(self)
        if thread is not None:
            thread.on_closed = supervisor.dispatcher.inbox.close
        else:
            self._sentinel = self._end_with_loop()
            with contextlib.suppress(StopIteration):  # it has come to its yield
                self._sentinel.__anext__().send(None)

    def submit(self, coroutine: Any) -> "concurrent.futures.Future[Any]":
        """Run a coroutine on the pool's loop, from another thread."""
        if self.thread is not None:
            return self.thread.submit(coroutine)
        return run_on(self.supervisor.loop, coroutine)

    async def _end_with_loop(self) -> AsyncGenerator[None, None]:
        """End the pool if its loop ends first. asyncio.run() closes asynchronous generators then;
        there is no other way to learn of it."""
        try:
            yield
        finally:
            self._sentinel = None
            # an end that was under way was cancelled with the other tasks of the loop
            with contextlib.suppress(asyncio.CancelledError):
                await self.supervisor.stop(drain=False)
            self.supervisor.abort()
            _running.discard(self)

    async def stop(self, drain: bool = True, cancel_queued: bool = False) -> None:
        """End the pool, see Supervisor.stop()."""
        await self.supervisor.stop(drain, cancel_queued)
        _running.discard(self)
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            await sentinel.aclose()

    def has_ended(self) -> bool:
        """Return whether its loop is closed. What is left of the pool then is ended at once."""
        if not self.supervisor.loop.is_closed():
            return False
        if self in _running:
            self.kill()
        return True

    def kill(self) -> None:
        """End all processes without the loop."""
        _running.discard(self)
        self.supervisor.kill()

    def abandon(self) -> None:
        """Let the tasks end, then stop: nobody refers to the pool any more. Does not wait."""
        if self.pid != os.getpid():  # in a fork; the pool is the parent's
            return
        loop = self.supervisor.loop
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: loop.create_task(self._stop_with_loop()))
            return
        self.kill()

    async def _stop_with_loop(self) -> None:
        await self.stop()
        if self.thread is not None:
            self.supervisor.loop.stop()

    def at_exit(self) -> None:
        """Finish what was submitted as the interpreter ends, as the standard library does."""
        if self.pid != os.getpid():
            return
        if self.thread is None:
            self.kill()
            return
        self.on_exit()
        try:
            self.submit(self.supervisor.stop()).result()
            self.thread.stop()
        except BaseException:
            self.kill()
            raise
