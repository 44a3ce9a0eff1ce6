"""Functions on their way to the workers: pickled once, sent once to each, and kept in step.

A plain function is kept, pickled, under its identity. One that goes by value (from ``__main__``, a
lambda, a closure) takes with it what it refers to; it is pickled again as soon as a global or a
closure variable that it uses means another object. If it refers to something that may change from
within, such as a list, or is a bound method or a partial, it is pickled for every call, or for
every map.
"""

import inspect
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from distex._core.dispatch import Function, FunctionTable
from distex.errors import annotate
from distex.options import FUNCTION_CACHE
from distex.serializers import Serializer, by_value

# no subclasses: these may have attributes
_IMMUTABLE = {CodeType, int, float, complex, str, bytes, bool, type(None), range}

_MISSING = object()  # what a name means that means nothing yet


class _Entry(NamedTuple):
    func: Callable[..., Any]  # kept alive, so that its id stays its own
    function: Function
    uses: list[tuple[Any, str, Any]]  # (globals, cell or function, name, what it meant)

    def fresh(self) -> bool:
        """Whether all that the function uses is what it was."""
        return all(_lookup(place, name) is value for place, name, value in self.uses)


def _lookup(place: Any, name: str) -> Any:
    if type(place) is CellType:
        try:
            return place.cell_contents
        except ValueError:  # empty
            return _MISSING
    if type(place) is FunctionType:
        return getattr(place, name)
    return place.get(name, _MISSING)


def function_name(func: Any) -> str:
    """What errors call a function."""
    while isinstance(func, partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def _is_importable(func: Any) -> bool:
    """Whether a worker that imports its module finds this very object."""
    if type(func) is ModuleType:
        return sys.modules.get(func.__name__) is func and not by_value(func.__name__)
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    if by_value(module):
        return False
    found: Any = sys.modules.get(module, _MISSING)
    for part in name.split("."):
        found = getattr(found, part, _MISSING)
    return found is func


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= _names(const)
    return names


def _uses(func: Any) -> list[tuple[Any, str, Any]] | None:
    """All that a function refers to, and the functions that it refers to; None: something of it may
    change without being replaced."""
    uses: list[tuple[Any, str, Any]] = []
    seen: set[int] = set()
    todo = [func]
    while todo:
        value = todo.pop()
        if id(value) in seen or type(value) in _IMMUTABLE or _is_importable(value):
            continue
        seen.add(id(value))
        if type(value) is tuple:
            todo.extend(value)
            continue
        if type(value) is BuiltinFunctionType:
            todo.append(value.__self__)
            continue
        if type(value) is not FunctionType or value.__dict__ or value.__kwdefaults__:
            return None
        places: list[tuple[Any, str]] = [(value, "__code__"), (value, "__defaults__")]
        places += [(cell, "") for cell in value.__closure__ or ()]
        places += [(value.__globals__, name) for name in _names(value.__code__)]
        for place, name in places:
            meant = _lookup(place, name)
            uses.append((place, name, meant))
            if meant is not _MISSING:
                todo.append(meant)
    return uses


class FunctionCache:
    """Gives the Function for a callable. May be used from any thread.

    Args:
        table: the pool's functions.
        serializer: what functions are pickled with.
    """

    def __init__(self, table: FunctionTable, serializer: Serializer) -> None:
        self._table = table
        self._dumps = serializer.dumps
        # functions that are imported by the workers: these stay as they are; by themselves
        self.steady: dict[Any, Function] = {}
        # functions that go by value, by identity
        self._entries: dict[int, _Entry] = {}
        self._lock = threading.Lock()

    def get(self, func: Callable[..., Any]) -> Function:
        """The function in the form that workers are sent.

        Raises:
            Exception: whatever the serializer raises, with a note that names the function.
        """
        plain = type(func) in (FunctionType, BuiltinFunctionType)
        if plain and func in self.steady:
            return self.steady[func]
        entry = self._entries.get(id(func))
        if entry is not None and entry.fresh():
            return entry.function
        function = self._pickle(func)
        if plain and _is_importable(func):
            with self._lock:
                _make_room(self.steady)
                self.steady[func] = function
        elif plain:
            uses = _uses(func)
            if uses is not None:
                with self._lock:
                    _make_room(self._entries)
                    self._entries[id(func)] = _Entry(func, function, uses)
        return function

    def _pickle(self, func: Callable[..., Any]) -> Function:
        segments: list[Any] = []
        name = function_name(func)
        try:
            payload = self._dumps(func, segments)
        except Exception as exc:
            annotate(exc, f"raised while the function {name} was being pickled")
            raise
        with self._lock:
            return Function(
                self._table, name, payload, segments, inspect.iscoroutinefunction(func))

    def clear(self) -> None:
        """Let go of all functions."""
        with self._lock:
            self.steady.clear()
            self._entries.clear()


def _make_room(cache: dict[Any, Any]) -> None:
    """Drop the oldest of a full cache."""
    if len(cache) >= FUNCTION_CACHE:
        del cache[next(iter(cache))]
