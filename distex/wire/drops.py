"""Count dropped connections, and log some: strangers can have as many dropped as they like."""

import logging
import time

from distex.errors import ProtocolError

ONE_BY_ONE = 20  # that are logged, each
INTERVAL = 60.0  # seconds between those that are logged after that


class Left(ProtocolError):
    """Given when the peer left before it had shown whether it is one of the pool's."""


class Drops:
    """The dropped connections of one listener.

    Args:
        logger: where they are logged.
        prefix: of each line.
    """

    def __init__(self, logger: logging.Logger, prefix: str = "") -> None:
        self._logger = logger
        self._prefix = prefix
        self._logged = 0.0  # when
        self.number = 0

    def count(self, exc: Exception) -> None:
        """Count one, which was dropped for this reason."""
        self.number += 1
        now = time.monotonic()
        if self.number <= ONE_BY_ONE or now - self._logged >= INTERVAL:
            self._logged = now
            self._logger.warning("%sa connection was dropped, the %d. so far: %s",
                                 self._prefix, self.number, exc)
