"""Snapshots of context variables and of the logging level, which travel with a task.

    caller: snapshot() ──in the arguments of a task──> worker: run(snapshot, func, args, kwargs)

A context variable is known by the module that it is a global of; one that is no module's global
stays behind. Those of ``__main__`` have a twin in each worker.
"""

import contextvars
import copyreg
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

Place = tuple[str, str]  # module, name of the global
Variable = contextvars.ContextVar[Any]

_UNSET = object()


class Snapshot(NamedTuple):
    """What travels."""

    values: list[tuple[Variable, Any]]
    level: int  # of the root logger


_places: dict[Variable, Place | None] = {}  # variables live for ever as a rule
_twins: dict[str, Variable] = {}  # of variables of __main__, by the name of the global

def _find(variable: Variable) -> Place | None:
    if variable not in _places:
        _places[variable] = next(
            ((module, name) for module, content in list(sys.modules.items())
             for name, value in list(getattr(content, "__dict__", {}).items())
             if value is variable), None)
    return _places[variable]


def _reduce(variable: Variable) -> tuple[Any, ...]:
    place = _find(variable)
    if place is None:
        raise TypeError(f"{variable!r} can't be pickled: it is not a global of any module")
    try:
        default = contextvars.Context().run(variable.get)
    except LookupError:
        default = _UNSET
    if place[0] == "__main__":
        return _twin, (place[1], variable.name, *([] if default is _UNSET else [default]))
    return _look_up, place


copyreg.pickle(contextvars.ContextVar, _reduce)


def _look_up(module: str, name: str) -> Variable:
    variable: Variable = getattr(import_module(module), name)
    return variable


def _twin(place: str, name: str, *default: Any) -> Variable:
    if place not in _twins:
        _twins[place] = contextvars.ContextVar(name, default=default[0]) if default else (
            contextvars.ContextVar(name))
    return _twins[place]


def snapshot() -> Snapshot:
    """The context of the caller."""
    values = [(variable, value) for variable, value in contextvars.copy_context().items()
              if _find(variable) is not None]
    return Snapshot(values, logging.getLogger().level)


def run(snapshot: Snapshot, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """In the worker: call the function in the caller's context."""
    root = logging.getLogger()
    if root.level != snapshot.level:
        root.setLevel(snapshot.level)
    if not root.handlers:
        logging.basicConfig(level=snapshot.level)
    result = contextvars.copy_context().run(_set_and_call, snapshot, func, args, kwargs)
    return _awaited(snapshot, result) if hasattr(type(result), "__await__") else result


def _set(snapshot: Snapshot) -> None:
    for variable, value in snapshot.values:
        variable.set(value)


def _set_and_call(snapshot: Snapshot, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    _set(snapshot)
    return func(*args, **kwargs)


async def _awaited(snapshot: Snapshot, awaitable: Any) -> Any:
    """In a task of its own, whose context is its own too."""
    _set(snapshot)
    return await awaitable
