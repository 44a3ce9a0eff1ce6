"""A fast process pool on asyncio: local and remote workers, with a compiled core."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distex._version import __version__
from distex.errors import (
    DistexError,
    HostError,
    PoolFull,
    ProtocolError,
    RemoteException,
    TaskInterrupted,
    complete_broken_pool,
)
from distex.options import LoopType, PickleType

if TYPE_CHECKING:
    from distex._core.futures import AsyncTask
    from distex.client.task_options import TaskOptions
    from distex.client.tasks import BoundPool
    from distex.cluster.state import Statistics, WorkerInfo
    from distex.errors import BrokenPool, PoolClosed, PoolStartError, WorkerLost
    from distex.launch.hosts import HostSpec, SshOptions, TcpOptions
    from distex.pool import Pool
    from distex.wire.output import OutputLine

__all__ = [
    "AsyncTask",
    "BoundPool",
    "BrokenPool",
    "DistexError",
    "HostError",
    "HostSpec",
    "LoopType",
    "OutputLine",
    "PickleType",
    "Pool",
    "PoolClosed",
    "PoolFull",
    "PoolStartError",
    "ProtocolError",
    "RemoteException",
    "SshOptions",
    "Statistics",
    "TaskInterrupted",
    "TaskOptions",
    "TcpOptions",
    "WorkerInfo",
    "WorkerLost",
    "__version__",
]

# imported when they are asked for: workers import this package too, and need none of them
_LATER = {
    "AsyncTask": "distex._core.futures",
    "BoundPool": "distex.client.tasks",
    "BrokenPool": "distex.errors",
    "HostSpec": "distex.launch.hosts",
    "OutputLine": "distex.wire.output",
    "Pool": "distex.pool",
    "PoolClosed": "distex.errors",
    "PoolStartError": "distex.errors",
    "SshOptions": "distex.launch.hosts",
    "Statistics": "distex.cluster.state",
    "TaskOptions": "distex.client.task_options",
    "TcpOptions": "distex.launch.hosts",
    "WorkerInfo": "distex.cluster.state",
    "WorkerLost": "distex.errors",
}


if not TYPE_CHECKING:  # for whom there would be a name for anything

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_LATER[name]), name)
        if isinstance(value, type) and issubclass(value, BaseException):
            complete_broken_pool()
        return value
