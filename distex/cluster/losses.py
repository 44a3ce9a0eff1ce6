"""The exceptions for workers that die and for workers that can't be started."""

from typing import TypeVar

from distex._core.task import Task
from distex.cluster.state import WorkerRecord
from distex.errors import PoolStartError, WorkerLost

ErrorT = TypeVar("ErrorT", bound=BaseException)


def worker_lost(record: WorkerRecord, task: Task | None = None) -> WorkerLost:
    """Return the exception that says how a worker ended.

    Args:
        record: the worker.
        task: the task that it had started, if the exception is for that.
    """
    reason = record.exit_reason()
    name, number = "", 0
    if task is None:
        message = f"{record} {'was lost' if record.ready else 'could not start'}: {reason}"
    else:
        name, number = task.name, task.wire_id
        advice = "submit the task again if it is safe to run it twice"
        if task.losses > 1:
            advice = f"the task has lost {task.losses} workers and is given up"
        message = (f"{record} was lost while it ran {name} (task {number}): {reason}. "
                   f"The pool goes on; {advice}")
    lost = WorkerLost(message, record.host.name, record.pid, record.exitcode, name, number,
                      record.out_of_memory)
    lost.__cause__ = record.cause
    return lost


def start_error(reason: str, cause: BaseException | None) -> PoolStartError:
    """Return the exception that says why workers can't be started."""
    error = PoolStartError(reason)
    error.__cause__ = cause
    return error


def own_copy(error: ErrorT) -> ErrorT:
    """Return the exception for one of several callers. What is raised collects the frames it goes
    through, so one that all shared would keep alive all that each of them refers to."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy
