"""Wait for the workers of a pool: Pool.ready."""

from collections.abc import Generator
from typing import Any, Generic, TypeVar

from distex.client.home import Home

PoolT = TypeVar("PoolT")


class Ready(Generic[PoolT]):
    """Whether the workers of a pool are ready; to be awaited, or waited for in a thread.

    Both ways of waiting raise PoolStartError if the workers can't be started, and PoolClosed if the
    pool is ended before they are ready.
    """

    def __init__(self, home: Home, pool: PoolT) -> None:
        self._home = home
        self._pool = pool

    def is_set(self) -> bool:
        """Return whether the workers are ready."""
        return self._home.is_ready

    def __bool__(self) -> bool:
        return self.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the workers are ready, at most for timeout seconds; return whether they
        are."""
        return self._home.wait_ready(timeout)

    def __await__(self) -> Generator[Any, None, PoolT]:
        yield from self._home.start_async().__await__()
        return self._pool
