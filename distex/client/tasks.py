"""The methods that make tasks: of Pool, and of what Pool.options() gives.

    submit, run, run_async ──> Caller ──> Task ──> Dispatcher
    map, map_async ──> Window (client/map.py) ──> ChunkTask ──> Dispatcher

A coroutine function is awaited in the worker, so the types name what it returns in the end.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import (
    Any,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    TypeVarTuple,
    Unpack,
    overload,
)

from distex._core.caller import Caller
from distex._core.futures import AsyncTask
from distex._core.result_iterator import AsyncResultIterator
from distex._core.task import Limits
from distex.client import map as mapping
from distex.client.contexts import ContextCaller, bind_context
from distex.client.home import Home
from distex.client.task_options import TaskOptions

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")

Source = Iterable[A] | AsyncIterable[A]


class MapArguments(TypedDict, total=False):
    """The further arguments of map() and map_async(); see there."""

    timeout: float | None
    chunksize: int | None
    ordered: bool
    buffersize: int | None


class EachItem(MapArguments, total=False):
    """Those of a map whose items are arguments."""

    star: Literal[False]


class StarredItems(MapArguments):
    """Those of a map whose items are tuples of arguments."""

    star: Literal[True]


class AsyncResults(Protocol[T_co]):
    """The results of map_async(): an asynchronous iterator that can be closed."""

    def __aiter__(self) -> Self:
        """For ``async for``."""
        return self

    def __anext__(self) -> Awaitable[T_co]:
        """The next result."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Take no more: what has not been started is cancelled."""


class TaskMethods:
    """Makes tasks for the workers of one pool.

    Args:
        home: the pool's.
        options: what is asked of each task.
    """

    def __init__(self, home: Home, options: TaskOptions) -> None:
        self._home = home
        self._options = options
        self.limits: Limits | None = options.limits()
        # attributes, never methods nor set by way of __dict__: CPython then finds them quickest
        self._call_async: Callable[..., Any] = self._first_call_async
        self._call: Callable[..., Any] = self._first_call
        self._run: Callable[..., Any] = self._first_run

    # --- single calls: the first starts the pool, and has the next ones go straight to its Caller

    def connect(self, caller: Caller) -> None:
        """See client.home.Connected."""
        calls: Any = ContextCaller(caller) if self._options.context else caller
        self._call_async, self._call, self._run = calls.call_async, calls.call, calls.run

    def refuse(self, refusal: Callable[..., Any]) -> None:
        """See client.home.Connected."""
        self._call_async = self._call = self._run = refusal

    def _start(self, here: bool) -> None:
        self._home.start(here)
        self._home.connect(self)

    def _first_call_async(self, *call: Any) -> Any:
        self._start(here=True)
        return self._call_async(*call)

    def _first_call(self, *call: Any) -> Any:
        self._start(here=False)
        return self._call(*call)

    def _first_run(self, *call: Any) -> Any:
        self._start(here=False)
        return self._run(*call)

    @overload
    def run_async(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[T]: ...
    @overload
    def run_async(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[T]: ...
    def run_async(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a worker call ``func(*args, **kwargs)``, and await the result there if it is
        awaitable.

        The call is on its way at once; await the result when you want it.

        Returns:
            an awaitable of the running loop with the methods of an ``asyncio.Future``:
            ``cancel()``, ``done()``, ``result()``, ``exception()``, ``add_done_callback()`` ...

        Raises:
            RuntimeError: no loop is running, or the pool was shut down.
            PoolFull: the pool has as many tasks as it may have, and refuses more.

        Awaiting it raises what the call raised; PoolStartError or WorkerLost; or what pickle raises
        for arguments or a result that can't be pickled.
        """
        return self._call_async(func, args, kwargs)

    @overload
    def submit(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a worker call ``func(*args, **kwargs)``, and await the result there if it is
        awaitable. May be called from any thread.

        Returns:
            its ``concurrent.futures.Future``.

        Raises:
            RuntimeError: the pool was shut down.
            PoolFull: the pool has as many tasks as it may have, and refuses more.
        """
        return self._call(func, args, kwargs)

    @overload
    def run(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return ``submit(func, *args, **kwargs).result()``, with less delay.

        If KeyboardInterrupt, or whatever else a signal handler raises, ends the wait, the task is
        cancelled as by ``Future.cancel()``.
        """
        return self._run(func, args, kwargs)

    # --- maps

    @overload
    def map(
        self, func: Callable[[A], Awaitable[T]], a: Source[A], /, **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A], T], a: Source[A], /, **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B], Awaitable[T]], a: Source[A], b: Source[B], /,
        **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B], T], a: Source[A], b: Source[B], /, **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C], Awaitable[T]], a: Source[A], b: Source[B], c: Source[C], /,
        **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C], T], a: Source[A], b: Source[B], c: Source[C], /,
        **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C, D], Awaitable[T]],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], /, **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C, D], T],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], /, **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C, D, E], Awaitable[T]],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], e: Source[E], /,
        **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[A, B, C, D, E], T],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], e: Source[E], /,
        **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[..., Awaitable[T]],
        a: Source[Any], b: Source[Any], c: Source[Any], d: Source[Any], e: Source[Any],
        f: Source[Any], /, *more: Source[Any], **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[..., T],
        a: Source[Any], b: Source[Any], c: Source[Any], d: Source[Any], e: Source[Any],
        f: Source[Any], /, *more: Source[Any], **options: Unpack[EachItem],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[*Ts], Awaitable[T]], items: Source[tuple[*Ts]], /,
        **options: Unpack[StarredItems],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, func: Callable[[*Ts], T], items: Source[tuple[*Ts]], /,
        **options: Unpack[StarredItems],
    ) -> Iterator[T]: ...
    def map(
        self,
        func: Callable[..., Any],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        star: bool = False,
        buffersize: int | None = None,
    ) -> Any:
        """Call func with the items of the iterables in the workers, as the built-in map does here.

        Input is taken as there is room, a bounded number of items ahead of the results, so it may
        be endless. The first tasks are sent before this returns.

        Args:
            func: the function; if it returns an awaitable, that is awaited in the worker.
            iterables: iterables and asynchronous iterables, in any combination.
            timeout: seconds from now within which all results have to come; None: any time, or as
                the options say.
            chunksize: items sent together; None: by how long the calls are measured to take.
            ordered: give results in the order of the items; else as they come.
            star: each item is a tuple of arguments: ``func(*item)``.
            buffersize: calls, or chunks if a chunksize is given, whose results may be on the way
                or wait to be taken; None: as many as keep the workers busy.

        Returns:
            an iterator over the results. When you leave it early, what has not started is
            cancelled.

        Raises:
            ValueError, TypeError: an argument makes no sense.
            RuntimeError: the pool was shut down.

        The iterator raises what a call raised in the place of its result, and ends; TimeoutError;
        ``concurrent.futures.CancelledError`` if the pool was shut down with cancel_futures;
        PoolClosed if it was shut down before it had all input; and what the iterables raise, after
        the results for what they had given before (KeyboardInterrupt and SystemExit at once).
        """
        options = self._map_options(
            iterables, timeout=timeout, chunksize=chunksize, ordered=ordered, star=star,
            buffersize=buffersize)
        home = self._home
        home.start(here=False)
        function = home.function(self._bound(func))
        if mapping.has_async(iterables):
            home.dispatcher.check_may_block()
            batches = mapping.map_batches(home, function, iterables, options)
            return mapping.map_bridged(home, batches)
        return mapping.map_sync(home, function, iterables, options)

    @overload
    def map_async(
        self, func: Callable[[A], Awaitable[T]], a: Source[A], /, **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A], T], a: Source[A], /, **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B], Awaitable[T]], a: Source[A], b: Source[B], /,
        **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B], T], a: Source[A], b: Source[B], /, **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C], Awaitable[T]], a: Source[A], b: Source[B], c: Source[C], /,
        **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C], T], a: Source[A], b: Source[B], c: Source[C], /,
        **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C, D], Awaitable[T]],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], /, **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C, D], T],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], /, **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C, D, E], Awaitable[T]],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], e: Source[E], /,
        **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[A, B, C, D, E], T],
        a: Source[A], b: Source[B], c: Source[C], d: Source[D], e: Source[E], /,
        **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[..., Awaitable[T]],
        a: Source[Any], b: Source[Any], c: Source[Any], d: Source[Any], e: Source[Any],
        f: Source[Any], /, *more: Source[Any], **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[..., T],
        a: Source[Any], b: Source[Any], c: Source[Any], d: Source[Any], e: Source[Any],
        f: Source[Any], /, *more: Source[Any], **options: Unpack[EachItem],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[*Ts], Awaitable[T]], items: Source[tuple[*Ts]], /,
        **options: Unpack[StarredItems],
    ) -> AsyncResults[T]: ...
    @overload
    def map_async(
        self, func: Callable[[*Ts], T], items: Source[tuple[*Ts]], /,
        **options: Unpack[StarredItems],
    ) -> AsyncResults[T]: ...
    def map_async(
        self,
        func: Callable[..., Any],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        star: bool = False,
        buffersize: int | None = None,
    ) -> Any:
        """As map(), for ``async for``. The first tasks are sent when the first result is asked for.

        Returns:
            an asynchronous iterator. Leave it early with ``aclose()``, or let go of it.
        """
        options = self._map_options(
            iterables, timeout=timeout, chunksize=chunksize, ordered=ordered, star=star,
            buffersize=buffersize)
        home = self._home
        home.start(here=True)
        return AsyncResultIterator(mapping.map_batches(
            home, home.function(self._bound(func)), iterables, options))

    def _bound(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return bind_context(func) if self._options.context else func

    def _map_options(
        self, iterables: tuple[Any, ...], timeout: float | None, **arguments: Any
    ) -> mapping.MapOptions:
        if timeout is None:
            timeout = self._options.timeout
        return mapping.map_options(iterables, timeout=timeout, limits=self.limits, **arguments)


class BoundPool(TaskMethods):
    """A pool with options for its tasks: what Pool.options() gives."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._options}>"
