"""FunctionCache: pickles each function once, and again when what it uses has changed.

What the workers can import is kept, pickled, as it is. A function that goes by value (from
``__main__``, a lambda, a closure) takes with it what it refers to; it is pickled again as soon as a
global or a closure variable that it uses means another object. If it refers to something that may
change from within, such as a list, or is an object of another kind, it is pickled for every call,
or for every map.
"""

import copyreg
import inspect
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from distex._core.function_cache import MISSING, CachedFunction, current_value
from distex._core.functions import Function, FunctionTable
from distex.options import FUNCTION_CACHE, LANE_FUNCTION_BYTES
from distex.wire.exceptions import annotate
from distex.wire.serializers import LAZY, PROTOCOL, Serializer, by_value

# no subclasses: these may have attributes
_IMMUTABLE = {CodeType, int, float, complex, str, bytes, bool, type(None), range}
# equal only if they are the same, though some are another object each time
_COMPARED = {FunctionType, BuiltinFunctionType, MethodType}


def function_name(func: Any) -> str:
    """What errors call a function."""
    while isinstance(func, partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def _is_importable(value: Any) -> bool:
    """Whether a worker that imports its module finds this very object."""
    if type(value) is ModuleType:
        return sys.modules.get(value.__name__) is value and not by_value(value.__name__)
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    if by_value(module):
        return False
    found: Any = sys.modules.get(module, MISSING)
    for part in name.split("."):
        found = getattr(found, part, MISSING)
    return found is value


def _goes_by_name(value: Any) -> bool:
    """Whether pickle makes of it no more than a name that the workers import."""
    if type(value) is MethodType:
        cls = value.__self__
        return (isinstance(cls, type) and _goes_by_name(cls)
                and getattr(cls, value.__name__, None) == value)
    if not _is_importable(value):
        return False
    if isinstance(value, (FunctionType, BuiltinFunctionType, type, ModuleType)):
        return True
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        return isinstance(reduce(value) if reduce else value.__reduce_ex__(PROTOCOL), str)
    except Exception:  # it can't be pickled
        return False


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
        if id(value) in seen or type(value) in _IMMUTABLE or _goes_by_name(value):
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
            meant = current_value(place, name)
            if type(meant) is LAZY:  # imported once it is used, as it is here
                meant = place[name] = meant.resolve()
            uses.append((place, name, meant))
            if meant is not MISSING:
                todo.append(meant)
    return uses


class FunctionCache:
    """Gives the Function for a callable. May be used from any thread.

    Args:
        table: the pool's functions.
        serializer: what functions are pickled with.
        unwraps: whether the data's serializer can take what a bound method or a partial holds, so
            that calling it may be calling a plain function with more arguments.
    """

    def __init__(
        self, table: FunctionTable, serializer: Serializer, unwraps: bool = False
    ) -> None:
        self._table = table
        self._dumps = serializer.dumps
        self.unwraps = unwraps
        # by identity: functions and methods compare by it, others are here by their id
        self.cached: dict[Any, CachedFunction] = {}
        self._lock = threading.Lock()

    def get(self, func: Callable[..., Any]) -> Function:
        """The function in the form that workers are sent.

        Raises:
            Exception: whatever the serializer raises, with a note that names the function.
        """
        key = func if type(func) in _COMPARED else id(func)
        cached = self.cached.get(key)
        if cached is not None and cached.is_current():
            return cached.function
        # before it is pickled, so that a change in between is seen the next time
        uses = _uses(func) if callable(func) else None
        function = self._pickle(func)
        if uses is not None:
            function.takes_lane = (
                len(function.payload) <= LANE_FUNCTION_BYTES and not function.segments)
            with self._lock:
                _evict_oldest(self.cached)
                self.cached[key] = CachedFunction(func, function, uses)
        return function

    def goes_by_name(self, func: Any) -> bool:
        """Whether pickle makes of it no more than a name that the workers import."""
        return _goes_by_name(func)

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
            self.cached.clear()


def _evict_oldest(cache: dict[Any, Any]) -> None:
    """Drop the oldest of a full cache."""
    if len(cache) >= FUNCTION_CACHE:
        del cache[next(iter(cache))]
