"""A bound on the tasks that are under way: who comes when there is no room waits, or is refused.

    submit, run, run_async ──> Caller ──take──> Admission <──leave── the task, at its end
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from distex._core.dispatch import Dispatcher
from distex._core.room import Room
from distex.executor import check_may_block
from distex.failures import PoolFull


class Admission(Room):
    """Room for the tasks of a pool. May be used from any thread and any loop.

    Args:
        limit: how many there may be.
        waits: whether who comes when there is no room waits, else is refused.
    """

    def __init__(self, limit: int, waits: bool) -> None:
        super().__init__(limit)
        self._waits = waits

    def wait(self, dispatcher: Dispatcher) -> None:
        """Wait for room and take it, or PoolFull."""
        if not self._waits:
            self._refuse()
        check_may_block(dispatcher)
        event = threading.Event()
        if not self.take_or_wait(event.set):
            try:
                event.wait()
            except BaseException:
                self.give_up(event.set)
                raise

    def call_async(self, make: Callable[..., Any], *call: Any) -> Any:
        """A coroutine that waits for room, and for what ``make(*call)`` then gives; or PoolFull."""
        if not self._waits:
            self._refuse()
        return self._wait_and_call(make, *call)

    def _refuse(self) -> None:
        raise PoolFull(f"the pool has {self.limit} tasks already: try again later, or allow it "
                       "more with max_pending")

    async def _wait_and_call(self, make: Callable[..., Any], *call: Any) -> Any:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()

        def take_turn() -> None:
            if not turn.done():
                turn.set_result(None)

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(take_turn)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self.leave()

        if not self.take_or_wait(wake):
            try:
                await turn
            except BaseException:
                self.give_up(wake)
                raise
        return await make(*call)
