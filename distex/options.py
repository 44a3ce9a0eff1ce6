"""Serializers, event loops; the defaults: all timeouts and limits, with their units; seconds()."""

import enum
import math
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
LONGEST: Final = 1e9  # seconds, 31 years: what a longer time counts as
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


def seconds(name: str, value: float, *, least: float | None = None) -> float:
    """Return a number of seconds that is safe to wait for. All times that a user gives go through
    this: clocks, threads, loops and sockets each have a longest time of their own, above which they
    fail with an OverflowError in the middle of the work.

    Args:
        name: of the argument, for errors.
        value: what was given; infinity and what is above LONGEST count as LONGEST.
        least: the time must not be less; None: it must be more than 0.

    Raises:
        TypeError: it is no number.
        ValueError: it is too small, or not a number at all.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not bool")
    try:
        number = math.fsum((value,))
    except OverflowError:  # an integer with hundreds of digits
        number = math.inf if value > 0 else -math.inf
    except TypeError:
        raise TypeError(
            f"{name} must be a number of seconds, not {type(value).__name__}") from None
    except ValueError:  # a Decimal that is a signaling NaN
        number = math.nan
    if not (number > 0 if least is None else number >= least):  # so NaN is refused too
        bound = "more than 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{name} must be a number of seconds, {bound}, and not {value!r}")
    return min(number, LONGEST)


def start_timeout(workers: int) -> float:
    """Seconds in which so many workers have to come to the pool."""
    return START_TIMEOUT + START_TIMEOUT_PER_WORKER * workers
