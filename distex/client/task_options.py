"""Options of a task: retries, timeout, what its cancellation does (Pool.options).

    pool.options(retries=2).submit(f, x) ──TaskOptions──> Limits ──> Task
"""

from dataclasses import dataclass
from typing import Literal

from distex._core.task import Limits
from distex.options import seconds

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
            and replaced. ``"kill"``: that at once. Coroutines are always cancelled; what
            they block the event loop with is ended as a plain function is.
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
        if self.timeout is not None:
            object.__setattr__(self, "timeout", seconds("timeout", self.timeout))
        if self.cancel_running not in ("leave", "interrupt", "kill"):
            raise ValueError("cancel_running must be 'leave', 'interrupt' or 'kill'")
        object.__setattr__(self, "grace", seconds("grace", self.grace))

    def limits(self) -> Limits | None:
        """For the dispatcher; None: nothing special."""
        grace = {"leave": -1.0, "interrupt": self.grace, "kill": 0.0}[self.cancel_running]
        if not self.retries and self.timeout is None and grace < 0:
            return None
        return Limits(self.retries, self.timeout or 0.0, grace)
