"""A fast process pool on asyncio: local and remote workers, with a compiled core."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distex.errors import DistexError, HostError, ProtocolError, RemoteException
from distex.options import LoopType, PickleType

if TYPE_CHECKING:
    from distex.failures import PoolClosed, PoolStartError, WorkerLost
    from distex.launch.hosts import HostSpec, SshOptions
    from distex.output import OutputLine
    from distex.pool import Pool

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
    "PoolStartError",
    "ProtocolError",
    "RemoteException",
    "SshOptions",
    "WorkerLost",
]

# imported when they are asked for: workers import this package too, and need none of them
_LATER = {
    "HostSpec": "distex.launch.hosts",
    "OutputLine": "distex.output",
    "Pool": "distex.pool",
    "PoolClosed": "distex.failures",
    "PoolStartError": "distex.failures",
    "SshOptions": "distex.launch.hosts",
    "WorkerLost": "distex.failures",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value
