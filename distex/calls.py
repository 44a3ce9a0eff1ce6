"""Calls with options: what Pool.options() gives.

    pool.options(retries=2).submit(f, x) ──> Caller with Limits ──> Task with Limits
"""

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distex import contexts
from distex._core.dispatch import Limits
from distex.mapping import MapOptions, map_options

if TYPE_CHECKING:
    from distex.pool import Pool

T = TypeVar("T")

CancelRunning = Literal["leave", "interrupt", "kill"]

GRACE = 1.0  # seconds


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is asked of a task beyond its result.

    Attributes:
        retries: how often it is run again when the worker that ran it is lost. For functions that
            may be run twice. Of the items of a map only the one is to blame that was running.
        timeout: seconds from the call in which it has to be done; else it raises TimeoutError, is
            not sent to a worker any more, and is cancelled there. Of a map: all its results.
        cancel_running: what becomes of a plain function that runs when its task is cancelled, or
            its time is over. ``"leave"``: the worker finishes it. ``"interrupt"``: TaskInterrupted
            is raised in it, and if it has not ended after the grace period the worker is killed
            and replaced. ``"kill"``: that at once. Coroutines are always cancelled.
        grace: seconds between the interrupt and the end of the worker.
        context: whether the caller's context variables, as far as they are globals of modules, and
            its level of logging are set for the task.

    Raises:
        TypeError, ValueError: an option makes no sense.
    """

    retries: int = 0
    timeout: float | None = None
    cancel_running: CancelRunning = "leave"
    grace: float = GRACE
    context: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.retries, int) or isinstance(self.retries, bool):
            raise TypeError(f"retries must be an integer, not {type(self.retries).__name__}")
        if not 0 <= self.retries < 2**31:
            raise ValueError("retries must not be negative")
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise ValueError("timeout must be a number of seconds, more than 0, or None")
        if self.cancel_running not in ("leave", "interrupt", "kill"):
            raise ValueError("cancel_running must be 'leave', 'interrupt' or 'kill'")
        if not 0 < self.grace < float("inf"):
            raise ValueError("grace must be a number of seconds, more than 0")

    def limits(self) -> Limits | None:
        """For the dispatcher; None: nothing special."""
        grace = {"leave": -1.0, "interrupt": self.grace, "kill": 0.0}[self.cancel_running]
        if not self.retries and self.timeout is None and grace < 0:
            return None
        return Limits(self.retries, self.timeout or 0.0, grace)


class Calls:
    """The calls of a pool, with certain options. The methods are those of the Pool, see there.

    Args:
        pool: whose workers are used.
        options: what is asked of each task.
    """

    def __init__(self, pool: "Pool", options: TaskOptions) -> None:
        self._pool = pool
        self._options = options
        self._limits = options.limits()
        # replaced once the pool has started, and when it is shut down
        self._call_async: Callable[..., Any] = self._start_and_call_async
        self._call: Callable[..., Any] = self._start_and_call
        self._run: Callable[..., Any] = self._start_and_run

    def __repr__(self) -> str:
        return f"{self._pool!r} with {self._options}"

    def _start(self, here: bool) -> None:
        """Start the pool; on the running loop if it is here."""
        self._pool.start(here)
        caller: Any = self._pool.make_caller(self._limits)
        if self._options.context:
            caller = contexts.CarryingCaller(caller)
        self._call_async, self._call, self._run = caller.call_async, caller.call, caller.run

    def refuse(self, refusal: Callable[..., Any]) -> None:
        """From now on single calls get the exception that this raises."""
        self._call_async = self._call = self._run = refusal

    def _start_and_call_async(self, *call: Any) -> Any:
        self._start(True)
        return self._call_async(*call)

    def _start_and_call(self, *call: Any) -> Any:
        self._start(False)
        return self._call(*call)

    def _start_and_run(self, *call: Any) -> Any:
        self._start(False)
        return self._run(*call)

    def run_async(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See Pool.run_async()."""
        return self._call_async(func, args, kwargs)

    def submit(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Pool.submit()."""
        future: Future[T] = self._call(func, args, kwargs)
        return future

    def run(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """See Pool.run()."""
        result: T = self._run(func, args, kwargs)
        return result

    def map(self, func: Callable[..., T], *iterables: Any, **arguments: Any) -> Iterator[T]:
        """See Pool.map(); the timeout is that of the options if it is not given here."""
        results: Iterator[T] = self._pool.start_map(
            self._bound(func), iterables, self._map_options(iterables, arguments))
        return results

    def map_async(
        self, func: Callable[..., T], *iterables: Any, **arguments: Any
    ) -> AsyncIterator[T]:
        """See Pool.map_async(); the timeout is that of the options if it is not given here."""
        results: AsyncIterator[T] = self._pool.start_map_async(
            self._bound(func), iterables, self._map_options(iterables, arguments))
        return results

    def _bound(self, func: Any) -> Any:
        return contexts.bound(func) if self._options.context else func

    def _map_options(self, iterables: tuple[Any, ...], arguments: dict[str, Any]) -> MapOptions:
        if arguments.get("timeout") is None:
            arguments["timeout"] = self._options.timeout
        return map_options(iterables, limits=self._limits, **arguments)
