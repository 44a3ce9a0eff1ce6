"""The exceptions that say that a pool, or a worker, is broken.

    DistexError, concurrent.futures' BrokenProcessPool (a RuntimeError)
    ├── PoolStartError    the pool could not be started
    ├── PoolClosed        the pool ended while the task waited or ran, or before it was ready
    └── WorkerLost        the worker died that ran the task

    DistexError
    └── PoolFull          the pool has all the tasks that it may have

They are apart from errors.py as the module of their base class takes longer to import than all of
distex that a worker needs.
"""

from concurrent.futures.process import BrokenProcessPool

from distex.errors import DistexError

__all__ = ["PoolClosed", "PoolFull", "PoolStartError", "WorkerLost"]


class PoolStartError(DistexError, BrokenProcessPool):
    """Raised when the pool's workers can't be started; the message says where and why."""


class PoolClosed(DistexError, BrokenProcessPool):
    """Raised by a task that was waiting or running when its pool was ended without it, and by
    waiting for a pool that is ended before it is ready."""


class PoolFull(DistexError, RuntimeError):
    """Raised by a call when as many tasks as ``max_pending`` are under way, and the pool was asked
    to refuse more."""


class WorkerLost(DistexError, BrokenProcessPool):
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
