"""Serializers, event loops; the defaults: all timeouts and limits, with their units."""

import enum
from typing import Final

WIRE_VERSION: Final = 7

START_TIMEOUT: Final = 60.0  # seconds for workers to come to the pool,
START_TIMEOUT_PER_WORKER: Final = 0.05  # and for each of them
SPAWN_TIMEOUT: Final = 10.0  # seconds for a nanny that has had workers to start another one
START_REPORT: Final = 10.0  # seconds until a slow start is logged first; then less and less often
STOP_TIMEOUT: Final = 5.0  # seconds for workers to end by themselves before they are killed
HELLO_TIMEOUT: Final = 10.0  # seconds for a connection to say who it is
MAX_UNKNOWN_CONNECTIONS: Final = 4096  # connections that have not said yet who they are
MAX_SILENT_CONNECTIONS: Final = 256  # connections by TCP that have not begun TLS
MAX_HANDSHAKES: Final = 256  # of TLS at a time; each takes a few hundred kB
HANDSHAKES_PER_SECOND: Final = 200.0  # of TLS that begin; each takes up to a millisecond
KEEPALIVE: Final = 12.0  # seconds in which a machine that is cut off is noticed
CONNECT_TIMEOUT: Final = 20.0  # seconds
SERVER_PORT: Final = 8899  # of python -m distex.server
RESPAWN_DELAY: Final = 0.1  # seconds before what failed to start is tried again, doubled each time
RECONNECT_DELAY_MAX: Final = 30.0  # seconds between such tries, at most
RECONNECT_TIMEOUT: Final = 300.0  # seconds of that after which a pool without workers gives up
MEMORY_INTERVAL: Final = 1.0  # seconds between looks at the memory of workers, if it has a limit
FUNCTION_CACHE: Final = 1024  # functions kept pickled, and loaded in the workers
LANE_FUNCTION_BYTES: Final = 64 * 1024  # larger ones don't go by lanes, which keep some more


class PickleType(enum.IntEnum):
    """Serializers.

    ``pickle`` is the standard library's, with cloudpickle helping out for lambdas, and others that
    have no name. ``msgspec`` is for data only: small and fast, but it changes types (a tuple
    arrives as a list, a dataclass as a dict).
    """

    pickle = 0
    cloudpickle = 1
    dill = 2
    msgspec = 3


class LoopType(enum.IntEnum):
    """Event loops for the workers, and for the pool's own thread.

    ``default`` is uvloop where it is installed, else asyncio's. ``proactor`` is for Windows.
    """

    default = 0
    asyncio = 1
    uvloop = 2
    proactor = 3


def start_timeout(workers: int) -> float:
    """Seconds in which so many workers have to come to the pool."""
    return START_TIMEOUT + START_TIMEOUT_PER_WORKER * workers
