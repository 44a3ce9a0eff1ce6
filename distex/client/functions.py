"""FunctionCache: pickles each function once, and again when what it uses has changed.

What workers can import is kept, pickled, as it is, and so is what ``__main__`` defines, with the
definitions that it needs; see definitions.py. A function that goes by value (a lambda, a closure)
takes with it what it refers to; it is pickled again as soon as a global or a closure variable that
it uses means another object. If it refers to something that may change unnoticed it is pickled for
every call, or for every map.
"""

import copyreg
import inspect
import pickle
import threading
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from distex._core.function_cache import MISSING, CachedFunction, FunctionCheck, current_value
from distex._core.functions import Function, FunctionTable
from distex._core.names import take_names
from distex.client.definitions import IMMUTABLE, NOTHING, Definitions, Uses, watch
from distex.options import FUNCTION_CACHE, LANE_FUNCTION_BYTES
from distex.remote_errors import annotate
from distex.wire.definitions import LAZY, PROTOCOL, is_importable, main_globals, main_name
from distex.wire.serializers import Segments, Serializer

# equal only if they are the same, though some are another object each time
_COMPARED = {FunctionType, BuiltinFunctionType, MethodType}


def function_name(func: Any) -> str:
    """What errors call a function."""
    while isinstance(func, partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def _goes_by_name(value: Any) -> bool:
    """Whether pickle makes of it no more than a name that the workers import."""
    if type(value) is MethodType:
        cls = value.__self__
        return (isinstance(cls, type) and _goes_by_name(cls)
                and getattr(cls, value.__name__, None) == value)
    if not is_importable(value):
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


def _uses(func: Any, mirrored: bool) -> list[tuple[Any, str, Any]] | None:
    """All that a function refers to, and the functions that it refers to; None: something of it may
    change without being replaced.

    Args:
        func: the function.
        mirrored: whether what is found in ``__main__`` goes by name, see definitions.py.
    """
    uses: list[tuple[Any, str, Any]] = []
    within: list[Any] = []  # what may change from within
    seen: set[int] = set()
    todo = [func]
    while todo:
        value = todo.pop()
        if id(value) in seen or type(value) in IMMUTABLE or _goes_by_name(value):
            continue
        if mirrored and main_name(value) is not None:
            continue
        seen.add(id(value))
        if type(value) is tuple:
            todo.extend(value)
            continue
        if type(value) is BuiltinFunctionType:
            todo.append(value.__self__)
            continue
        if type(value) is MethodType and mirrored:
            todo += [value.__self__, value.__func__]
            continue
        if type(value) is not FunctionType:
            within.append(value)
            continue
        within += [part for part in (value.__dict__, value.__kwdefaults__) if part]
        uses.append((check := FunctionCheck(value), "", check))
        todo.append(value.__defaults__)
        places: list[tuple[Any, str]] = [(value, "__code__")]
        places += [(cell, "") for cell in value.__closure__ or ()]
        if not mirrored or value.__globals__ is not main_globals():
            places += [(value.__globals__, name) for name in _names(value.__code__)]
        for place, name in places:
            meant = current_value(place, name)
            if type(meant) is LAZY:  # imported once it is used, as it is here
                meant = place[name] = meant.resolve()
            uses.append((place, name, meant))
            if meant is not MISSING:
                todo.append(meant)
    if not mirrored:
        return None if any(within) else uses
    if within:
        if (snapshot := watch(
                within, lambda item: _goes_by_name(item) or main_name(item) is not None)) is None:
            return None
        if snapshot is not NOTHING:
            uses.append((snapshot, "", snapshot))
    return uses


class FunctionCache:
    """Gives the Function for a callable. May be used from any thread.

    Args:
        table: the pool's functions.
        serializer: what functions are pickled with.
        unwraps: whether the data's serializer can take what a bound method or a partial holds, so
            that calling it may be calling a plain function with more arguments.
        mirrored: whether what is found in ``__main__`` goes by name, see definitions.py.
    """

    def __init__(
        self, table: FunctionTable, serializer: Serializer, unwraps: bool = False,
        mirrored: bool = True,
    ) -> None:
        self._table = table
        self._mirrored = mirrored
        self._definitions = Definitions(table)
        table.extend = self._extend
        self._dumps = serializer.dumps
        self.unwraps = unwraps
        # by identity: functions and methods compare by it, others are here by their id
        self.cached: dict[Any, CachedFunction] = {}
        self._lock = threading.RLock()

    def get(self, func: Callable[..., Any]) -> Function:
        """The function in the form that workers are sent.

        Raises:
            Exception: whatever the serializer raises, with a note that names the function.
        """
        key = func if type(func) in _COMPARED else id(func)
        cached = self.cached.get(key)
        if cached is not None and cached.is_current():
            return cached.function
        with self._lock:
            # before it is pickled, so that a change in between is seen the next time
            uses = _uses(func, self._mirrored) if callable(func) else None
            function, names = self._pickle(func)
            if names:
                function.needs, function.names, more = self._definitions.closure(names)
                uses = None if uses is None else uses + more
            if uses is not None:
                self._keep(key, func, function, uses)
        return function

    def _keep(self, key: Any, func: Any, function: Function, uses: Uses) -> None:
        function.takes_lane = (
            len(function.payload) <= LANE_FUNCTION_BYTES and not function.segments)
        function.key = key
        _evict_oldest(self.cached)
        cached = self.cached[key] = CachedFunction(func, function, uses)
        cached.by_name = self.goes_by_name(func)

    def _extend(self, function: Function, names: set[str]) -> Function:
        """Give the function again, with what its arguments need too."""
        with self._lock:
            cached = self.cached.get(function.key)
            if cached is not None and not cached.is_current():
                cached = None
            if (cached is not None and cached.function.payload == function.payload
                    and names <= cached.function.names):
                return cached.function
            needs, found, uses = self._definitions.closure(names | function.names)
            extended = Function(
                self._table, function.name, function.payload, function.segments,
                function.is_async)
            extended.needs, extended.names, extended.key = needs, found, function.key
            if cached is not None and cached.function is function:
                own = _uses(cached.func, self._mirrored) or []
                self._keep(function.key, cached.func, extended, own + uses)
            return extended

    def pack(self, obj: Any, segments: Segments) -> bytes:
        """Pickle an object together with the definitions that it needs; for unpack() of
        worker/main_module.py."""
        with self._lock:
            take_names()
            payload = self._dumps(obj, segments)
            own = len(segments)
            packed = []
            for data, buffers in self._definitions.packed(take_names()):
                packed.append((data, len(buffers)))
                segments.extend(buffers)
        return pickle.dumps((payload, own, packed), PROTOCOL)

    def goes_by_name(self, func: Any) -> bool:
        """Whether pickle makes of it no more than a name that the workers have."""
        return _goes_by_name(func) or (self._mirrored and main_name(func) is not None)

    def _pickle(self, func: Callable[..., Any]) -> tuple[Function, set[str]]:
        segments: list[Any] = []
        take_names()
        name = function_name(func)
        try:
            payload = self._dumps(func, segments)
        except Exception as exc:
            annotate(exc, f"raised while the function {name} was being pickled")
            raise
        names = take_names() if self._mirrored else set()
        function = Function(
            self._table, name, payload, segments, inspect.iscoroutinefunction(func))
        return function, names

    def clear(self) -> None:
        """Let go of all functions."""
        with self._lock:
            self.cached.clear()
            self._definitions.clear()


def _evict_oldest(cache: dict[Any, Any]) -> None:
    """Drop the oldest of a full cache."""
    if len(cache) >= FUNCTION_CACHE:
        del cache[next(iter(cache))]
