"""The ``__main__`` of a worker: one namespace for all functions of the caller's script.

Such functions, as what is called and among its arguments, travel by value, each with the globals
that it uses. Here they come to share their
globals again, as they did at the caller's: what an initializer sets with ``global`` is seen by the
tasks that follow. A name that was set in the worker keeps that value; one that was not follows the
caller's.
"""

import pickle
import sys
from types import CellType, CodeType, FunctionType
from typing import Any, ClassVar

from distex.wire.serializers import FROM_MAIN, Segments, Serializer

_MISSING = object()


class MainModule:
    """Loads functions and data.

    Args:
        serializer: what they were pickled with.
    """

    # for the whole process
    _names: ClassVar[dict[str, Any]] = {"__name__": "__main__", "__builtins__": __builtins__}
    _sent: ClassVar[dict[str, Any]] = {}

    def __init__(self, serializer: Serializer) -> None:
        self._loads = serializer.loads
        self._by_pickle = serializer.loads.__name__ == "_pickle_loads"

    def loads(self, data: Any, segments: Segments | None = None) -> Any:
        """The function, or whatever was pickled."""
        if not self._by_pickle or data[2:4] != FROM_MAIN:
            return self._loads(data, segments)
        import io

        return _Unpickler(io.BytesIO(data), buffers=segments or ()).load()

    @classmethod
    def update(cls, sent: dict[str, Any]) -> None:
        """Take over globals as the caller has them."""
        for name, value in sent.items():
            if cls._names.get(name, _MISSING) is cls._sent.get(name, _MISSING):
                cls._names[name] = cls._sent[name] = value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "cloudpickle.cloudpickle":
            if name == "_make_function":
                return _make_function
            if name == "_function_setstate":
                return _function_setstate
        return super().find_class(module, name)


def _make_function(
    code: CodeType, names: dict[str, Any], name: str | None, defaults: Any,
    closure: tuple[CellType, ...] | None,
) -> FunctionType:
    """In place of cloudpickle's, for functions from __main__."""
    if names.get("__name__") == "__main__":
        MainModule.update({key: value for key, value in names.items() if key != "__builtins__"})
        names = MainModule._names
    else:
        names["__builtins__"] = __builtins__
    return FunctionType(code, names, name, defaults, closure)


def _function_setstate(
    function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """In place of cloudpickle's: globals that the worker has set are not set back."""
    cloudpickle = sys.modules["cloudpickle.cloudpickle"]
    if function.__globals__ is MainModule._names:
        attributes, slots = state
        MainModule.update(slots.get("__globals__", {}))
        state = attributes, {**slots, "__globals__": {}}
    cloudpickle._function_setstate(function, state)
