"""Calls with ``context=True``: the caller's context variables go along.

    with_context(func)(snapshot(), *args) ──task──> worker: run(snapshot, func, args, kwargs)
"""

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from distex._core.caller import Caller
from distex.wire.contexts import Snapshot, run, snapshot

# what with_context() gave, by the id of its function, for as long as a FunctionCache keeps it
_wrapped: "WeakValueDictionary[int, Callable[..., Any]]" = WeakValueDictionary()


def with_context(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function to call in a worker, with a snapshot as its first argument."""
    made = _wrapped.get(id(func))  # it refers to the function, so the id is still its own
    if made is None:
        made = _wrapped[id(func)] = _wrap(func)
    return made


def bind_context(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function to call in a worker for each item of a map."""
    return functools.partial(with_context(func), snapshot())


class ContextCaller:
    """Makes single calls that take the caller's context with them.

    Args:
        caller: a Caller, which makes them.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def call_async(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See Caller."""
        return self._caller.call_async(with_context(func), (snapshot(), *args), kwargs)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See Caller."""
        return self._caller.call(with_context(func), (snapshot(), *args), kwargs)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See Caller."""
        return self._caller.run(with_context(func), (snapshot(), *args), kwargs)


def _wrap(func: Callable[..., Any]) -> Callable[..., Any]:
    def call(snapshot: Snapshot, /, *args: Any, **kwargs: Any) -> Any:
        return run(snapshot, func, args, kwargs)

    call.__qualname__ = getattr(func, "__qualname__", type(func).__qualname__)
    call.__module__ = getattr(func, "__module__", None) or __name__
    return call
