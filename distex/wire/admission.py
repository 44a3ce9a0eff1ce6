"""Decide which connections get a TLS handshake, and when; so that no number of strangers keeps
those with the secret out, or the event loop busy.

    accepted ──> waits to be marked ──> queue, by source ──> handshake ──in time──> let in
                   │ never, or not in time: dropped    │        │ slow, and others wait: dropped
                   └ too many: the oldest of the       └ a bounded number a second
                     source with the most goes

A connection is marked by its first bytes, see client_hello.py. Those that are not take a file and a
look, whatever they do. Marked ones that don't come to an end, of somebody who has listened on the
way, take a share of the handshakes: each source has its turn.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from distex import options
from distex.errors import ProtocolError
from distex.wire.client_hello import FirstBytes, Found, deny
from distex.wire.drops import Left

PATIENCE = 1.0  # seconds that a handshake may take while others wait
REASONS = {
    Found.UNMARKED: "it has another secret",
    Found.NO_TLS: "it does not speak TLS",
    Found.NOTHING: "it left without a word",
}


class Sources:
    """Connections with the addresses that they come from, in the order in which they came."""

    def __init__(self) -> None:
        self._connections: dict[socket.socket, tuple[str, float]] = {}
        self._sources: dict[str, deque[socket.socket]] = {}  # with those that were taken out

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: socket.socket, source: str, time: float) -> None:
        """Add one that came at this time."""
        self._connections[connection] = source, time
        self._sources.setdefault(source, deque()).append(connection)

    def remove(self, connection: socket.socket) -> str:
        """Take one out; where it comes from."""
        source, _ = self._connections.pop(connection)
        left = self._sources[source]
        if left[0] is connection:
            left.popleft()
        else:
            left.remove(connection)
        if not left:
            del self._sources[source]
        return source

    def oldest(self) -> tuple[socket.socket, float]:
        """The one that came first, and when."""
        connection, (_, time) = next(iter(self._connections.items()))
        return connection, time

    def too_many(self) -> socket.socket:
        """The oldest one of the source that has the most."""
        return max(self._sources.values(), key=len)[0]

    def take_turn(self) -> tuple[socket.socket, str]:
        """Take out the oldest one of the source that has waited longest for its turn."""
        source, connections = next(iter(self._sources.items()))
        connection = connections[0]
        self.remove(connection)
        if source in self._sources:  # to the end of the line
            self._sources[source] = self._sources.pop(source)
        return connection, source

    def take_all(self) -> list[socket.socket]:
        """Take all out."""
        taken = list(self._connections)
        self._connections.clear()
        self._sources.clear()
        return taken


class Admission:
    """Admits the connections of one listener.

    Args:
        loop: on which all of it happens.
        mark: what those with the secret begin with.
        shake_hands: takes over an admitted connection; its source.
        count_drop: told of each that is dropped here.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, mark: bytes,
        shake_hands: Callable[[socket.socket, str], Coroutine[Any, Any, None]],
        count_drop: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._mark = mark
        self._shake_hands = shake_hands
        self._count_drop = count_drop
        self.silent = Sources()  # not marked yet
        self.marked = Sources()  # wait for their handshake
        # since when; with the connection until the loop has taken it over
        self.handshakes: dict[asyncio.Task[None], tuple[float, socket.socket | None]] = {}
        self._credit = 1.0  # handshakes that may begin now
        self._credited = loop.time()
        self._sweeping: asyncio.TimerHandle | None = None
        self._turning: asyncio.TimerHandle | None = None
        self._closed = False

    # --- to be marked

    def accepted(self, connection: socket.socket, source: str) -> None:
        """A connection has come."""
        connection.setblocking(False)
        first = FirstBytes(connection, self._mark)
        if not self._judge(connection, source, first):
            self.silent.add(connection, source, self._loop.time())
            self._loop.add_reader(connection, self._look, connection, source, first)
            if len(self.silent) > options.MAX_SILENT_CONNECTIONS:
                self.make_room()
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(options.HELLO_TIMEOUT, self._sweep)

    def make_room(self) -> bool:
        """Drop a connection that says nothing; whether there was one."""
        if self.silent:
            self._drop_silent(self.silent.too_many(), "it says nothing, as too many do")
            return True
        return False

    def _look(self, connection: socket.socket, source: str, first: FirstBytes) -> None:
        if self._judge(connection, source, first):
            self.silent.remove(connection)

    def _judge(self, connection: socket.socket, source: str, first: FirstBytes) -> bool:
        """Whether it is known what comes of the connection."""
        found = first.look()
        if found is Found.INCOMPLETE:
            return False
        self._loop.remove_reader(connection)
        if found is Found.MARKED:
            self.marked.add(connection, source, self._loop.time())
            if len(self.marked) > options.MAX_UNKNOWN_CONNECTIONS:
                late = self.marked.too_many()
                self._drop(late, self.marked.remove(late), "too many want to come in")
            self._give_turns()
        else:
            if found is Found.UNMARKED:
                deny(connection)
            self._drop(connection, source, REASONS[found],
                       Left if found is Found.NOTHING else ProtocolError)
        return True

    def _drop_silent(self, connection: socket.socket, reason: str) -> None:
        self._loop.remove_reader(connection)
        self._drop(connection, self.silent.remove(connection), reason)

    def _drop(
        self, connection: socket.socket, source: str, reason: str,
        error: type[ProtocolError] = ProtocolError,
    ) -> None:
        connection.close()
        self._count_drop(error(f"{source} has not shown the secret: {reason}"))

    def _sweep(self) -> None:
        """Drop those that are silent for too long."""
        self._sweeping = None
        while self.silent:
            connection, since = self.silent.oldest()
            left = since + options.HELLO_TIMEOUT - self._loop.time()
            if left > 0:
                self._sweeping = self._loop.call_later(left, self._sweep)
                return
            self._drop_silent(connection, "it says nothing")

    # --- handshakes

    def _give_turns(self) -> None:
        """Begin as many handshakes as may be, and see that more follow."""
        while self.marked and (delay := self._delay()) == 0.0:
            self._credit -= 1.0
            connection, source = self.marked.take_turn()
            task = self._loop.create_task(self._begin(connection, source))
            self.handshakes[task] = self._loop.time(), connection
            task.add_done_callback(self._handshake_done)
        if self.marked and self._turning is None:
            self._turning = self._loop.call_later(delay, self._turn)

    def _turn(self) -> None:
        self._turning = None
        self._give_turns()

    def _delay(self) -> float:
        """Seconds until the next handshake may begin."""
        now = self._loop.time()
        rate = options.HANDSHAKES_PER_SECOND
        self._credit = min(self._credit + (now - self._credited) * rate, rate / 4)
        self._credited = now
        if len(self.handshakes) >= options.MAX_HANDSHAKES:
            task, (since, _) = next(iter(self.handshakes.items()))
            if since + PATIENCE > now:
                return since + PATIENCE - now
            task.cancel()  # it has done; the next one begins when it is gone
            return PATIENCE
        return 0.0 if self._credit >= 1.0 else (1.0 - self._credit) / rate

    async def _begin(self, connection: socket.socket, source: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handshakes[task] = self.handshakes[task][0], None
        try:
            await self._shake_hands(connection, source)
        except asyncio.CancelledError:
            if not self._closed:
                self._count_drop(
                    ProtocolError(f"{source} has not shown the secret: it is too slow"))
            raise

    def _handshake_done(self, task: "asyncio.Task[None]") -> None:
        _, connection = self.handshakes.pop(task)
        if connection is not None:  # it was cancelled before it began
            connection.close()
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        self._give_turns()

    def close(self) -> None:
        """Admit nobody any more."""
        self._closed = True
        for timer in (self._sweeping, self._turning):
            if timer is not None:
                timer.cancel()
        for connection in self.silent.take_all():
            self._loop.remove_reader(connection)
            connection.close()
        for connection in self.marked.take_all():
            connection.close()
        for task in self.handshakes:
            task.cancel()

    async def closed(self) -> None:
        """Wait, after close(), until nothing is left of it."""
        if self.handshakes:
            await asyncio.wait(list(self.handshakes))
