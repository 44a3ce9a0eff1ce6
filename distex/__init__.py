"""A fast process pool on asyncio: local and remote workers, with a compiled core."""

from typing import TYPE_CHECKING, Any

from distex.errors import (
    DistexError,
    HostError,
    PoolClosed,
    PoolStartError,
    ProtocolError,
    RemoteException,
    WorkerLost,
)
from distex.launch.hosts import HostSpec
from distex.options import LoopType, PickleType

if TYPE_CHECKING:
    from distex.pool import Pool

__version__ = "1.0.0.dev0"

__all__ = [
    "DistexError",
    "HostError",
    "HostSpec",
    "LoopType",
    "PickleType",
    "Pool",
    "PoolClosed",
    "PoolStartError",
    "ProtocolError",
    "RemoteException",
    "WorkerLost",
]


def __getattr__(name: str) -> Any:
    """Import the pool when it is asked for: workers import this package too, and need none."""
    if name == "Pool":
        from distex.pool import Pool

        globals()["Pool"] = Pool
        return Pool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
