"""The ``__main__`` of a worker: a module that mirrors that of the caller.

    definitions that a function needs ──define──> ``__main__`` here <──by name── pickles, tasks

A definition is taken over when a function that needs it is called, unless that version is here
already. What tasks have made of it meanwhile stays, until the caller's own has changed.
"""

import builtins
import pickle
import sys
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from distex.wire import definitions
from distex.wire.definitions import MAIN, MISSING
from distex.wire.serializers import FROM_MAIN, Segments, Serializer


class Definition(NamedTuple):
    """What a name means in the caller's ``__main__``.

    Attributes:
        name: the name.
        version: a number that no other version of any name has.
        data: the pickle of its value; of a class without its content; None: it is not defined
            there any more.
        state: the pickle of a class's content, or None.
        buffers: that the last of the pickles refers to.
    """

    name: str
    version: int
    data: bytes | None
    state: bytes | None
    buffers: Segments | None


def read_definition(data: bytes, buffers: Segments | None) -> Definition:
    """Return the definition that client/definitions.py has packed."""
    name, version, data_of_value, state = pickle.loads(data)
    return Definition(name, version, data_of_value, state, buffers)


class MainModule:
    """The mirror; one for the process.

    Attributes:
        versions: of the names that the caller has defined.
    """

    def __init__(self) -> None:
        self.module = ModuleType(MAIN)
        self.versions: dict[str, int] = {}
        self._pending: dict[str, Definition] = {}
        # names that came with functions whose globals are no module's, as of exec(), as they came
        self._sent: dict[str, Any] = {}
        vars(self.module).update(__builtins__=builtins, __getattr__=self._find)

    def install(self) -> None:
        """Have it be ``__main__``."""
        sys.modules[MAIN] = self.module
        definitions.is_known = self.versions.__contains__

    def define(self, needed: list[Definition]) -> bool:
        """Take over the definitions that are not in force; return whether there were any."""
        new = [definition for definition in needed
               if self.versions.get(definition.name) != definition.version]
        for definition in new:  # so that none is taken for its predecessor
            vars(self.module).pop(definition.name, None)
            self.versions.pop(definition.name, None)
        self._pending = {definition.name: definition for definition in new}
        classes = [definition for definition in new if definition.state is not None]
        try:
            for definition in classes:  # without content, so that all can refer to all
                self._find(definition.name)
            for definition in classes:
                assert definition.state is not None
                setter, state = pickle.loads(definition.state, buffers=definition.buffers or ())
                setter(vars(self.module)[definition.name], state)
                self.versions[definition.name] = definition.version
            while self._pending:
                self._load(next(iter(self._pending.values())))
        finally:
            self._pending = {}
        return bool(new)

    def unpack(self, packed: bytes, segments: Segments, loads: Callable[..., Any]) -> Any:
        """Return what FunctionCache.pack() packed, once its definitions are in force."""
        payload, own, needed = pickle.loads(packed)
        found, end = [], own
        for data, count in needed:
            found.append(read_definition(data, segments[end : end + count]))
            end += count
        self.define(found)
        return loads(payload, segments[:own])

    def _load(self, definition: Definition) -> None:
        del self._pending[definition.name]
        if definition.data is not None:
            buffers = definition.buffers if definition.state is None else None
            vars(self.module)[definition.name] = pickle.loads(
                definition.data, buffers=buffers or ())
        if definition.state is None:
            self.versions[definition.name] = definition.version

    def _find(self, name: str) -> Any:
        """Give a name to a definition that comes before it."""
        if name in self._pending:
            self._load(self._pending[name])
        elif name not in vars(self.module):
            raise AttributeError(f"module '__main__' has no attribute {name!r}", name=name,
                                 obj=self.module)
        return vars(self.module)[name]

    def update(self, names: dict[str, Any]) -> None:
        """Take over globals that came with a function, unless they were changed here."""
        space = vars(self.module)
        for name, value in names.items():
            if name != "__name__" and space.get(name, MISSING) is self._sent.get(name, MISSING):
                space[name] = self._sent[name] = value


main = MainModule()


class Loader:
    """Loads functions and data.

    Args:
        serializer: what they were pickled with.
    """

    def __init__(self, serializer: Serializer) -> None:
        self._loads = serializer.loads
        self._by_pickle = serializer.loads.__name__ == "_pickle_loads"

    def loads(self, data: Any, segments: Segments | None = None) -> Any:
        """The function, or whatever was pickled."""
        if not self._by_pickle or data[2:4] != FROM_MAIN:
            return self._loads(data, segments)
        import io

        return _Unpickler(io.BytesIO(data), buffers=segments or ()).load()


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
    """In place of cloudpickle's, for functions that say they are from ``__main__`` but have globals
    of their own: they share those of the mirror."""
    if names.get("__name__") == MAIN:
        main.update({key: value for key, value in names.items() if key != "__builtins__"})
        names = vars(main.module)
    else:
        names["__builtins__"] = builtins
    return FunctionType(code, names, name, defaults, closure)


def _function_setstate(
    function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """In place of cloudpickle's: globals that the worker has set are not set back."""
    cloudpickle = sys.modules["cloudpickle.cloudpickle"]
    if function.__globals__ is vars(main.module):
        attributes, slots = state
        main.update(slots.get("__globals__", {}))
        state = attributes, {**slots, "__globals__": {}}
    cloudpickle._function_setstate(function, state)
