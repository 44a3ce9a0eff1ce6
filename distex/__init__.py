"""A fast process pool on asyncio: local and remote workers, with a compiled core."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distex.errors import (
    DistexError,
    HostError,
    ProtocolError,
    RemoteException,
    TaskInterrupted,
)
from distex.options import LoopType, PickleType

if TYPE_CHECKING:
    from distex.calls import TaskOptions
    from distex.failures import PoolClosed, PoolFull, PoolStartError, WorkerLost
    from distex.launch.hosts import HostSpec, SshOptions, TcpOptions
    from distex.output import OutputLine
    from distex.pool import Pool
    from distex.records import WorkerInfo

__version__ = "1.0.0.dev0"

__all__ = [
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
    "TaskInterrupted",
    "TaskOptions",
    "TcpOptions",
    "WorkerInfo",
    "WorkerLost",
]

# imported when they are asked for: workers import this package too, and need none of them
_LATER = {
    "HostSpec": "distex.launch.hosts",
    "OutputLine": "distex.output",
    "Pool": "distex.pool",
    "PoolClosed": "distex.failures",
    "PoolFull": "distex.failures",
    "PoolStartError": "distex.failures",
    "SshOptions": "distex.launch.hosts",
    "TaskOptions": "distex.calls",
    "TcpOptions": "distex.launch.hosts",
    "WorkerInfo": "distex.records",
    "WorkerLost": "distex.failures",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value
