"""A bound on the tasks that are under way: who comes when there is no room waits, or is refused.

    submit, run, run_async ──enter──> Caller ──done──> leave
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from distex._core.futures import Caller
from distex.failures import PoolFull


class Admission:
    """Counts the tasks that are under way. May be used from any thread and any loop.

    Args:
        limit: how many there may be.
        waits: whether who comes when there is no room waits, else is refused.
    """

    def __init__(self, limit: int, waits: bool) -> None:
        self.limit = limit
        self.waits = waits
        self._inside = 0
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()  # each wakes one who waits

    def _enter_or_wait(self, wake: Callable[[], object] | None) -> bool:
        """Whether there was room, which is taken; if not, wake is called once there is, and it has
        been taken for who waits."""
        with self._lock:
            if self._inside < self.limit:
                self._inside += 1
                return True
            if wake is not None:
                self._waiting.append(wake)
            return False

    def enter(self, check_may_block: Callable[[], None]) -> None:
        """Take room, or wait for it, or PoolFull."""
        if not self.waits:
            self.enter_at_once()
            return
        if self._enter_or_wait(None):
            return
        check_may_block()
        event = threading.Event()
        if not self._enter_or_wait(event.set):
            try:
                event.wait()
            except BaseException:
                self._gave_up(event.set)
                raise

    def enter_at_once(self) -> None:
        """Take room, or PoolFull."""
        if not self._enter_or_wait(None):
            raise PoolFull(f"the pool has {self.limit} tasks already: try again later, or allow it "
                           "more with max_pending")

    async def enter_async(self) -> None:
        """Take room, or wait for it without blocking the loop."""
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

        if not self._enter_or_wait(wake):
            try:
                await turn
            except BaseException:
                self._gave_up(wake)
                raise

    def _gave_up(self, wake: Callable[[], object]) -> None:
        with self._lock:
            if wake in self._waiting:
                self._waiting.remove(wake)
                return
        self.leave()  # room had been taken for it

    def leave(self, _: object = None) -> None:
        """A task is done: its room is for the next."""
        with self._lock:
            if self._waiting:
                wake = self._waiting.popleft()
            else:
                self._inside -= 1
                return
        wake()


class AdmittedCaller:
    """A Caller through an Admission.

    Args:
        caller: what makes the calls.
        admission: the pool's.
        check_may_block: raises RuntimeError in a thread that must not wait for the pool.
    """

    def __init__(
        self, caller: Caller, admission: Admission, check_may_block: Callable[[], None]
    ) -> None:
        self._caller = caller
        self._admission = admission
        self._check_may_block = check_may_block

    def call_async(self, func: Any, args: Any, kwargs: Any) -> Any:
        """See Caller; a coroutine, if there may be a wait for room."""
        if self._admission.waits:
            return self._wait_and_call(func, args, kwargs)
        self._admission.enter_at_once()
        return self._call_async(func, args, kwargs)

    async def _wait_and_call(self, func: Any, args: Any, kwargs: Any) -> Any:
        await self._admission.enter_async()
        return await self._call_async(func, args, kwargs)

    def _call_async(self, func: Any, args: Any, kwargs: Any) -> Any:
        return self._leaving(self._caller.call_async, func, args, kwargs)

    def _leaving(self, make: Callable[..., Any], *call: Any) -> Any:
        """What make(*call) gives, a future, which leaves when it is done."""
        try:
            future = make(*call)
        except BaseException:
            self._admission.leave()
            raise
        future.add_done_callback(self._admission.leave)
        return future

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """See Caller."""
        self._admission.enter(self._check_may_block)
        return self._leaving(self._caller.call, func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """See Caller."""
        self._admission.enter(self._check_may_block)
        try:
            return self._caller.run(func, args, kwargs)
        finally:
            self._admission.leave()
