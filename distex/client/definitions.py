"""The definitions that functions and arguments need of ``__main__``: each pickled once a version.

    Function, arguments ──names──> Definitions.closure ──> Functions to be sent before, and what has
                                                           to stay the same for them to be current
"""

import functools
import hashlib
import itertools
import pickle
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from distex._core.function_cache import (
    MISSING,
    CachedFunction,
    Check,
    ClassCheck,
    FunctionCheck,
    Snapshot,
    current_value,
)
from distex._core.functions import Function, FunctionTable
from distex.remote_errors import annotate
from distex.wire import definitions
from distex.wire.definitions import (
    MAIN,
    PROTOCOL,
    Dumped,
    dump_definition,
    find,
    is_importable,
    main_globals,
    main_name,
)
from distex.wire.serializers import Segments, collector

Uses = list[tuple[Any, str, Any]]

# no subclasses: these may have attributes
IMMUTABLE = {CodeType, int, float, complex, str, bytes, bool, type(None), range, type(Ellipsis)}
_CONTAINERS = (list, dict, set, bytearray)
NOTHING = Snapshot([])  # where nothing may change from within


class Digest(Check):
    """Looks whether the pickle of a definition is what it was: where nothing less tells."""

    def __init__(self, name: str, value: Any, digest: bytes) -> None:
        self._name = name
        self._value = value
        self._digest = digest

    def is_current(self) -> bool:
        """Whether it is."""
        try:
            dumped, buffers = _dump(self._name, self._value)
        except Exception:
            return False
        return _digest(dumped, buffers) == self._digest


def _dump(name: str, value: Any) -> tuple[Dumped, Segments]:
    buffers: Segments = []
    return dump_definition(name, value, collector(buffers)), buffers


def _digest(dumped: Dumped, buffers: Segments) -> bytes:
    digest = hashlib.blake2b(dumped.data or b"", digest_size=16)
    digest.update(dumped.state or b"")
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()


class _Definition(CachedFunction):
    """A definition as it was pickled last."""

    names: frozenset[str]
    digest: bytes
    held: dict[str, Any]


class Definitions:
    """The definitions of one pool. Its caller holds a lock.

    Args:
        table: the pool's functions; a definition is sent as one of them.
    """

    def __init__(self, table: FunctionTable) -> None:
        self._table = table
        self._current: dict[str, _Definition] = {}
        self._versions = itertools.count(1)

    def closure(self, names: set[str]) -> tuple[list[Function], frozenset[str], Uses]:
        """Return what is needed for these names.

        Returns:
            the definitions to be sent, all names, and what has to stay the same.

        Raises:
            Exception: whatever pickling a value raises, with a note that names it.
        """
        space = main_globals()
        needs: list[Function] = []
        uses: Uses = []
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            value = space.get(name, MISSING)
            if value is MISSING and name not in self._current:
                uses.append((space, name, MISSING))
                continue
            definition = self._current.get(name)
            if definition is None or not definition.is_current():
                definition = self._current[name] = self._define(name, value, definition)
            needs.append(definition.function)
            uses.extend(definition.uses)
            todo.extend(definition.names)
        return needs, frozenset(seen), uses

    def _define(self, name: str, value: Any, before: _Definition | None) -> _Definition:
        space = main_globals()
        if type(value) is definitions.LAZY:
            value = space[name] = value.resolve()
        uses: Uses = [(space, name, value)]
        if value is MISSING:
            dumped = Dumped(None, None, frozenset(), [], [], {})
            buffers: Segments = []
        else:
            try:
                dumped, buffers = _dump(name, value)
            except Exception as exc:
                annotate(exc, f"raised while {name}, a global of __main__, was being pickled")
                raise
        digest = _digest(dumped, buffers)
        if value is not MISSING and type(value) not in IMMUTABLE and not is_importable(value):
            uses += _parts(dumped) + _places(dumped)
            check: Check = watch([value, *_roots(dumped)]) or Digest(name, value, digest)
            if check is not NOTHING:
                uses.append((check, "", check))
        if before is not None and before.digest == digest and _same(
                before.held, dumped.by_name) and (
                before.uses[0][2] is value or type(value) not in (FunctionType, type)):
            function = before.function  # other objects, but no other value
        else:
            payload = pickle.dumps(
                (name, next(self._versions), dumped.data, dumped.state), PROTOCOL)
            function = Function(self._table, f"__main__.{name}", payload, buffers, False)
        made = _Definition(value, function, uses)
        made.names = dumped.names
        made.digest = digest
        made.held = dumped.by_name
        return made

    def clear(self) -> None:
        """Let go of all values."""
        self._current.clear()

    def packed(self, names: set[str]) -> list[tuple[bytes, Segments]]:
        """Return what is needed for these names, as it is sent."""
        needs, _, _ = self.closure(names)
        return [(need.payload, need.segments) for need in needs]


def _same(by_name: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether the same names mean the same objects: an instance of a class that has been
    defined anew has the same pickle."""
    return by_name.keys() == before.keys() and all(
        value is before[name] for name, value in by_name.items())


def _parts(dumped: Dumped) -> Uses:
    """Return what functions and classes are made of that went by value."""
    uses: Uses = []
    for func in dumped.functions:
        uses.append((check := FunctionCheck(func), "", check))
        uses += [(cell, "", current_value(cell, "")) for cell in func.__closure__ or ()]
    for cls in dumped.classes:
        uses.append((of_class := ClassCheck(cls), "", of_class))
    return uses


def _places(dumped: Dumped) -> Uses:
    """Return the places of the functions and classes that went by name. Once another one is found
    in such a place, the definition has to be sent anew: a new worker knows the other one only."""
    uses: Uses = []
    for name, value in dumped.by_name.items():
        outer, _, last = name.rpartition(".")
        uses.append((find(MAIN, outer) if outer else main_globals(), last, value))
    return uses


def _roots(dumped: Dumped) -> list[Any]:
    """Return what functions and classes hold that went by value."""
    roots: list[Any] = []
    for func in dumped.functions:
        roots += [part for part in (func.__dict__, func.__defaults__, func.__kwdefaults__) if part]
        roots += [current_value(cell, "") for cell in func.__closure__ or ()]
    for cls in dumped.classes:
        roots += vars(cls).values()
    return roots


def watch(
    roots: list[Any], is_known: Callable[[Any], bool] = lambda item: True
) -> Snapshot | None:
    """Return what notices changes within these objects; None if nothing can.

    Args:
        roots: the objects.
        is_known: whether changes of a function, a class or a module are noticed in another way.
    """
    parts: list[Any] = []
    seen: set[int] = set()
    while roots:
        item = roots.pop()
        kind = type(item)
        if kind in IMMUTABLE or id(item) in seen or item is MISSING:
            continue
        seen.add(id(item))
        if kind in (tuple, frozenset):
            roots.extend(item)
        elif kind in _CONTAINERS:
            parts.append(item)
            if kind is dict:
                roots.extend(item.keys())
                roots.extend(item.values())
            elif kind is not bytearray:
                roots.extend(item)
        elif isinstance(item, (FunctionType, type, ModuleType)):
            if not is_known(item):
                return None
        elif kind is BuiltinFunctionType:
            roots.append(item.__self__)
        elif _is_plain(item):
            continue
        elif _has_dict_alone(item) and is_known(kind):
            roots.append(vars(item))
        else:
            return None
    return Snapshot(parts) if parts else NOTHING


def _is_plain(item: Any) -> bool:
    """Whether it can't change, or is a part of a class or function."""
    return isinstance(item, (
        property, staticmethod, classmethod,
        functools._lru_cache_wrapper, functools.singledispatchmethod, functools.cached_property,
    )) or type(item).__name__ in (
        "getset_descriptor", "member_descriptor", "wrapper_descriptor", "method_descriptor",
        "cell", "NewType", "TypeVar", "_abc_data",
    ) or (main_name(item) is not None)


def _has_dict_alone(item: Any) -> bool:
    """Whether all that an instance holds, and all that is pickled of it, is its __dict__."""
    cls = type(item)
    if cls.__module__ in sys.builtin_module_names or not hasattr(item, "__dict__"):
        return False
    return (all(getattr(cls, name) is getattr(object, name)
                for name in ("__reduce_ex__", "__reduce__", "__getstate__"))
            and not any("__slots__" in vars(base) and vars(base)["__slots__"]
                        for base in cls.__mro__)
            and not issubclass(cls, (*_CONTAINERS, tuple, frozenset)))
