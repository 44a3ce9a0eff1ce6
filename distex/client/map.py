"""map and map_async: lazy input, the size of chunks, bounded look-ahead, order of results.

    iterables ──> Window.fill ──> ChunkTask ──submit──> dispatcher
    caller <── values, a list at a time <── Window <──notify── ChunkTask

How many items travel together is decided from what a call of the function takes (Function.cost_ns):
a chunk is meant to take CHUNK_NS, so tiny calls go by the thousand and slow ones alone. Until the
first answer has come chunks hold one item.  A worker sends results on while it works on a chunk, so
none waits for the last of it.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from typing import Any

from distex._core.chunk import ChunkTask
from distex._core.functions import Function
from distex._core.inbox import Inbox
from distex._core.result_iterator import ResultIterator
from distex._core.task import Limits
from distex.client.home import Home
from distex.errors import PoolClosed
from distex.options import seconds

CHUNK_NS = 1_000_000  # what a chunk is meant to take a worker
CHUNK_ITEMS = 8192  # however short the calls are
AHEAD_CHUNKS = 4  # chunks on the way for each worker when calls are short
AHEAD_ITEMS = 256  # items on the way for each worker when they travel alone

Notify = Callable[[ChunkTask], object]

# what ends a program is raised at once, not behind results that are on their way
URGENT = (KeyboardInterrupt, SystemExit)


class Window:
    """The chunks of one map that are on their way, and the policy for the next one.

    Args:
        home: of the pool.
        function: what is called.
        spread: whether an item is a tuple of arguments.
        options: the arguments of the map.
        notify: called on the pool's thread when there is something to take.
        cancelled: what is raised where the pool has cancelled what is next.
    """

    def __init__(
        self, home: Home, function: Function, spread: bool, options: "MapOptions",
        notify: Notify, cancelled: type[BaseException],
    ) -> None:
        self._home = home
        self._function = function
        self._spread = spread
        self._ordered = options.ordered
        self._chunksize = options.chunksize
        self._buffersize = options.buffersize
        self._limits = options.limits
        self._notify_caller = notify
        self._cancelled = cancelled
        self._live: set[ChunkTask] = set()  # chunks whose results have not all been taken
        self._items = 0  # items in them
        # ordered: the live chunks in order; unordered: those that have something to take
        self._queue: deque[ChunkTask] = deque()
        self._input_error: BaseException | None = None
        self._urgent = False  # whether that can't wait
        self.exhausted = False

    def _notify(self, chunk: ChunkTask) -> None:
        if not self._ordered:
            self._queue.append(chunk)
        self._notify_caller(chunk)

    def _policy(self) -> tuple[int, int]:
        """Items that the next chunks should have, and that may be on the way."""
        cost = self._function.cost_ns
        workers = self._home.capacity()
        size = max(1, min(int(CHUNK_NS / cost), CHUNK_ITEMS)) if cost else 1
        ahead = max(AHEAD_ITEMS, AHEAD_CHUNKS * size)
        if self._chunksize is not None:
            size = self._chunksize
            return size, size * (
                self._buffersize or workers * max(AHEAD_CHUNKS, ahead // size))
        if self._function.is_async:
            limit = workers * max(AHEAD_ITEMS, 2 * self._home.dispatcher.qsize)
        else:
            limit = workers * (ahead if cost else 2)  # nothing is known yet of the first calls
        size = min(size, self._home.dispatcher.max_calls or size)
        if self._buffersize is not None:
            limit = min(limit, self._buffersize)
            size = max(1, min(size, limit // (2 * workers)))
        return size, limit

    def _room(self, size: int, limit: int) -> int:
        if self._items + size <= limit:
            return size
        return 0 if self._chunksize is not None else max(0, limit - self._items)

    def room(self) -> int:
        """How many items the next chunk may have; 0: enough is on the way."""
        return self._room(*self._policy())

    def add(self, items: list[Any]) -> None:
        """Send items off as one chunk."""
        chunk = ChunkTask(self._function, items, self._spread, self._notify)
        chunk.limits = self._limits
        self._live.add(chunk)
        self._items += chunk.calls
        if self._ordered:
            self._queue.append(chunk)
        self._home.dispatcher.submit(chunk)

    def fill(self, items: Iterator[Any]) -> None:
        """Send off as many items as there is room for.

        Raises:
            KeyboardInterrupt, SystemExit: the input, or a signal meanwhile. All else that it raises
                is for check_input().
        """
        policy = self._policy()
        while not self.exhausted and (size := self._room(*policy)):
            batch: list[Any] = []
            if closed := self._home.closed:
                size = 1
            try:
                batch.extend(itertools.islice(items, size))
            except URGENT:
                raise
            except BaseException as exc:  # what came before it stays in the batch
                self.fail_input(exc)
            if closed and batch:
                self.refuse_input()
                return
            if len(batch) < size:
                self.exhausted = True
            if batch:
                self.add(batch)

    def fail_input(self, error: BaseException) -> None:
        """Have the map end with what its input raised, after the results that are on their way."""
        self._input_error = error
        self._urgent = isinstance(error, URGENT)

    def refuse_input(self) -> None:
        """There is more input, but the pool takes no more."""
        self.exhausted = True
        self.fail_input(PoolClosed(
            f"the pool was shut down before the map of {self._function.name} had all its input"))

    def check_urgent(self) -> None:
        """Raise what an asynchronous input has raised that can't wait."""
        if self._urgent:
            self.check_input()

    def check_input(self) -> None:
        """Raise what the input raised. It is not kept: its traceback refers to this object."""
        if self._input_error is not None:
            try:
                raise self._input_error
            finally:
                self._input_error = None

    @property
    def finished(self) -> bool:
        """Whether all that will ever come has been taken."""
        return self.exhausted and not self._live

    def take(self) -> list[Any] | None:
        """Values that have come and are next, or None.

        Raises:
            BaseException: what the call raised whose value is next, or that it was cancelled.
        """
        while (chunk := self._next()) is not None:
            done = chunk.done  # before the values are taken: none is added afterwards
            if not self._ordered:
                self._follow(chunk.take_tail())
            values = chunk.take()
            if done and (values is None or chunk.error is None):
                self._retire(chunk)
                if chunk.error is not None:
                    raise self._cancelled() if chunk.dropped else chunk.take_error()
            elif done and not self._ordered:
                self._queue.append(chunk)  # the values first, its error after them
            if values is not None:
                return values
            if not done and self._ordered:
                return None
        return None

    def _next(self) -> ChunkTask | None:
        while self._queue:
            chunk = self._queue[0] if self._ordered else self._queue.popleft()
            if chunk in self._live:  # one with several pieces of news is there several times
                return chunk
        return None

    def _retire(self, chunk: ChunkTask) -> None:
        self._live.remove(chunk)
        self._items -= chunk.calls
        if self._ordered:
            self._queue.popleft()
        self._follow(chunk.take_tail())
        self._follow(chunk.successors)  # in front of what was cut off before

    def _follow(self, chunks: list[ChunkTask] | None) -> None:
        """Expect what is left of a chunk that was split."""
        if chunks:
            self._live.update(chunks)
            if self._ordered:
                self._queue.extendleft(reversed(chunks))
            else:  # they may have had news before they were known here
                self._queue.extend(chunks)

    def close(self) -> None:
        """Have nothing more done; let go of everything."""
        self.exhausted = True
        self._queue.clear()
        chunks, self._live = self._live, set()
        dispatcher = self._home.dispatcher
        if dispatcher.on_home_thread():
            _cancel_all(chunks)
        elif chunks:
            with contextlib.suppress(RuntimeError):  # the pool's loop is gone, the chunks with it
                dispatcher.inbox.put(lambda: _cancel_all(chunks))


def _cancel_all(chunks: Iterable[ChunkTask]) -> None:
    for chunk in chunks:
        chunk.cancel()
        # known on this thread alone: it may be split just now
        _cancel_all(chunk.successors or ())
        _cancel_all(chunk.take_tail() or ())


@dataclass(frozen=True)
class MapOptions:
    """The arguments of a map but for function and iterables; see Pool.map."""

    timeout: float | None = None
    chunksize: int | None = None
    ordered: bool = True
    star: bool = False
    buffersize: int | None = None
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            # as for ProcessPoolExecutor.map a time that is over already is no error here
            object.__setattr__(
                self, "timeout", seconds("timeout", self.timeout, least=-math.inf))
        for name in ("chunksize", "buffersize"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an integer or None")
            if value < 1:
                raise ValueError(f"{name} must be >= 1")

    def deadline(self) -> float | None:
        """The end of the timeout that begins now, on the monotonic clock."""
        return None if self.timeout is None else time.monotonic() + self.timeout


def _remaining(deadline: float | None) -> float | None:
    """Seconds to the deadline; TimeoutError if it is over."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the results of the map took longer than its timeout")
    return remaining


def map_options(iterables: tuple[Any, ...], **arguments: Any) -> MapOptions:
    """The arguments of a map, checked.

    Raises:
        ValueError, TypeError: one makes no sense.
    """
    options = MapOptions(**arguments)
    if not iterables:
        raise TypeError("map needs at least one iterable")
    if options.star and len(iterables) > 1:
        raise TypeError("star goes with a single iterable of tuples")
    return options


def has_async(iterables: tuple[Any, ...]) -> bool:
    """Whether any of the iterables is an asynchronous one."""
    return any(isinstance(iterable, AsyncIterable) for iterable in iterables)


def _zipped(iterables: tuple[Any, ...]) -> Iterator[Any]:
    """One item for each call: the argument, or a tuple of them if there are several iterables."""
    return iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)


def map_sync(
    home: Home, function: Function, iterables: tuple[Any, ...], options: MapOptions
) -> Iterator[Any]:
    """Begin to map; the iterator of the results, for a thread that may wait."""
    items = _zipped(iterables)
    deadline = options.deadline()
    news = threading.Event()

    def notify(chunk: ChunkTask) -> None:
        if not news.is_set():  # to set it is dear
            news.set()

    window = Window(home, function, options.star or len(iterables) > 1, options, notify,
                    concurrent.futures.CancelledError)
    try:
        window.fill(items)
    except BaseException:
        window.close()
        raise

    def batches() -> Iterator[list[Any]]:
        try:
            while True:
                values = window.take()
                if values is None and news.is_set():
                    news.clear()
                    values = window.take()  # it may have come in between
                window.fill(items)
                if values is not None:
                    yield values
                elif window.finished:
                    window.check_input()
                    return
                else:
                    home.dispatcher.check_may_block()
                    news.wait(_remaining(deadline))
        finally:
            window.close()

    return ResultIterator(batches(), window.close)


async def map_batches(
    home: Home, function: Function, iterables: tuple[Any, ...], options: MapOptions
) -> AsyncIterator[list[Any]]:
    """Map on the running loop; the results as they come, a list at a time."""
    loop = asyncio.get_running_loop()
    deadline = options.deadline()
    news = asyncio.Event()
    room = asyncio.Event()
    inbox = Inbox(loop, lambda chunk: news.set())

    def notify(chunk: ChunkTask) -> None:
        if loop is home.dispatcher.loop:
            news.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                inbox.put(chunk)

    window = Window(home, function, options.star or len(iterables) > 1, options, notify,
                    asyncio.CancelledError)
    feeder = None
    items: Iterator[Any] = iter(())
    if has_async(iterables):
        feeder = loop.create_task(_feed(home, window, iterables, room, news))
        home.cancel_at_shutdown(feeder)
    else:
        items = _zipped(iterables)
    try:
        while True:
            news.clear()
            window.check_urgent()
            values = window.take()
            if feeder is None:
                window.fill(items)
            else:
                room.set()
            if values is not None:
                yield values
            elif window.finished:
                window.check_input()
                return
            else:
                async with asyncio.timeout(_remaining(deadline)):
                    await news.wait()
    finally:
        window.close()
        if feeder is not None:
            feeder.cancel()
            await asyncio.wait([feeder])


async def _feed(
    home: Home, window: Window, iterables: tuple[Any, ...], room: asyncio.Event,
    news: asyncio.Event,
) -> None:
    """Send off what comes from iterables of which some are asynchronous. What has gathered is sent
    at the latest when the input pauses. It is cancelled when the pool is shut down."""
    loop = asyncio.get_running_loop()
    batch: list[Any] = []

    def send() -> None:
        if batch and not window.exhausted:
            window.add(batch[:])
            batch.clear()

    try:
        async for item in _zipped_async(iterables):
            if home.closed:
                window.refuse_input()
                return
            batch.append(item)
            if len(batch) == 1:
                loop.call_soon(send)
            if len(batch) >= window.room():
                send()
            while not window.room():
                room.clear()
                await room.wait()
    except BaseException as exc:  # the consumer's, or nobody's if it has left
        if not window.exhausted:
            if home.closed and isinstance(exc, asyncio.CancelledError):
                window.refuse_input()
            else:
                window.fail_input(exc)
    finally:
        send()
        window.exhausted = True
        news.set()


async def _zipped_async(iterables: tuple[Any, ...]) -> AsyncIterator[Any]:
    """As _zipped(), for iterables of which some are asynchronous."""
    iterators = [
        aiter(iterable) if isinstance(iterable, AsyncIterable) else iter(iterable)
        for iterable in iterables
    ]
    end = object()
    while True:
        item = []
        for iterator in iterators:
            if isinstance(iterator, AsyncIterator):
                value = await anext(iterator, end)
            else:
                value = next(iterator, end)
            if value is end:
                return
            item.append(value)
        yield item[0] if len(item) == 1 else tuple(item)


def map_bridged(home: Home, batches: AsyncIterator[list[Any]]) -> Iterator[Any]:
    """The results of map_batches() one by one, for another thread than the loop's."""
    taking = asyncio.Lock()

    async def next_batch() -> list[Any] | None:
        async with taking:
            return await anext(batches, None)

    async def close() -> None:
        async with taking:  # behind one that was interrupted, and is cancelled
            await batches.aclose()  # type: ignore[attr-defined]

    def bridge() -> Iterator[list[Any]]:
        pending = None
        try:
            while True:
                pending = home.submit(next_batch())
                values = pending.result()
                if values is None:
                    return
                yield values
        finally:
            if pending is not None:
                pending.cancel()
            _wait_for(home, close())

    return ResultIterator(bridge())


def _wait_for(home: Home, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it on the pool's loop; wait for it, unless this is the thread that runs the loop."""
    try:
        running = home.submit(coroutine)
    except RuntimeError:  # the loop is closed, and the map was with it
        return
    if not home.dispatcher.on_home_thread():
        running.result()
