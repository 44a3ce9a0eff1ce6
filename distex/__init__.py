"""A fast process pool on asyncio: local and remote workers, with a compiled core."""

from importlib.metadata import version as _version

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
from distex.pool import Pool

__version__ = _version("distex")

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
