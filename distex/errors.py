"""The exceptions of distex.

    DistexError
    ├── ProtocolError         a peer sends what the protocol does not allow
    ├── HostError             a host specification can't be used, or the host can't be reached
    ├── PoolFull              the pool has as many tasks as it may have
    ├── RemoteException       a task's exception that can't be pickled, or not unpickled here
    └── BrokenPool            also a concurrent.futures.process.BrokenProcessPool
        ├── PoolStartError    the pool can't be started
        ├── PoolClosed        the pool ended before the task did
        └── WorkerLost        the worker died that ran the task

    TaskInterrupted           a BaseException: ends a plain function that is cancelled

A task's own exception reaches the caller as itself; see remote_errors.py.
"""

from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:  # see BrokenPool
    BrokenProcessPool = BrokenExecutor

__all__ = [
    "BrokenPool",
    "DistexError",
    "HostError",
    "PoolClosed",
    "PoolFull",
    "PoolStartError",
    "ProtocolError",
    "RemoteException",
    "TaskInterrupted",
    "WorkerLost",
]


class DistexError(Exception):
    """Base of the exceptions that distex raises on its own account."""


class ProtocolError(DistexError):
    """Raised when a peer sends what the protocol does not allow; its connection is dropped."""


class HostError(DistexError, ValueError):
    """Raised when a host specification is malformed, or names a host that can't be reached."""


class PoolFull(DistexError, RuntimeError):
    """Raised by a call when ``max_pending`` tasks are under way and ``when_full="raise"``."""


class RemoteException(DistexError):
    """Raised in place of a task's exception that can't be pickled, or not unpickled here.

    Args:
        message: type and text of the original exception.
        traceback: the traceback on the worker, as text.
    """

    def __init__(self, message: str = "", traceback: str = "") -> None:
        super().__init__(message, traceback)
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.traceback}" if self.traceback else self.message


class TaskInterrupted(BaseException):
    """Raised within a plain function in a worker when its task is cancelled, or its time is over,
    and ``cancel_running="interrupt"``. It is no Exception, so ``except Exception`` lets it pass. If
    the function goes on beyond the grace period, its worker is killed."""

    def __init__(self, message: str = "the task was cancelled") -> None:
        super().__init__(message)


class BrokenPool(DistexError, BrokenProcessPool):
    """Base of the exceptions that say that a pool, or one of its workers, is broken.

    It is a ``concurrent.futures.process.BrokenProcessPool`` as soon as there is an instance, or
    ``distex`` is asked for one of the classes. Not before: that module takes longer to import than
    all of distex that a worker needs.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "BrokenPool":
        complete_broken_pool()
        return super().__new__(cls, *args, **kwargs)


def complete_broken_pool() -> None:
    """Give BrokenPool the base class that it is declared with."""
    from concurrent.futures import process

    if not issubclass(BrokenPool, process.BrokenProcessPool):
        BrokenPool.__bases__ = DistexError, process.BrokenProcessPool


class PoolStartError(BrokenPool):
    """Raised when the pool's workers can't be started; the message says where and why."""


class PoolClosed(BrokenPool):
    """Raised by a task that waits or runs when its pool is ended without it, and by callers that
    wait for a pool to be ready when it is ended before that."""


class WorkerLost(BrokenPool):
    """Raised by a task whose worker died, or was cut off, after it may have started the task.

    Attributes:
        host: name of the worker's host.
        pid: the worker's process id there.
        exitcode: its exit code; negative: the number of the signal that ended it; None: not known.
        task: name of the function.
        task_id: number of the task on that worker.
        out_of_memory: whether it was most likely killed for lack of memory.
    """

    def __init__(
        self, message: str, host: str = "", pid: int = 0, exitcode: int | None = None,
        task: str = "", task_id: int = 0, out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, host, pid, exitcode, task, task_id, out_of_memory)
        self.host = host
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.task_id = task_id
        self.out_of_memory = out_of_memory

    def __str__(self) -> str:
        return str(self.args[0])
