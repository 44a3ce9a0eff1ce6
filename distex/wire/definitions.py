"""Definitions of a script travel by name in ``__main__``; each is sent once, by value.

    caller: dump_definition("f", f) ──by value, once a version──> worker: its own ``__main__``
            a pickle that refers to f ──────────by name─────────>         is a mirror of this one

Names that a pickle refers to are noted while it is made; see _core/names.pyx.
"""

import contextlib
import enum
import functools
import importlib
import inspect
import io
import sys
import threading
import types
import weakref
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from distex._core.names import note_names, take_names

PROTOCOL = 5
MAIN = "__main__"
MISSING = object()  # the value of a name that is not defined
# what stands in a module's globals for what a lazy import has not imported yet; since CPython 3.15
LAZY = getattr(types, "LazyImportType", None)
# names that each module has of its own
_OWN = {"__builtins__", "__name__", "__spec__", "__loader__", "__package__", "__cached__"}

# attributes that each member of an Enum has
_OF_MEMBERS = {"_value_", "_name_", "__objclass__", "_sort_order_"}

# whether a name of this process's __main__ is known to the other side; a worker replaces it
is_known: Callable[[str], object] = bool


def main_globals() -> dict[str, Any]:
    """Return the globals of ``__main__``."""
    return vars(sys.modules[MAIN])


def main_name(obj: Any) -> str | None:
    """Return the qualified name by which an object is found in ``__main__``, or None."""
    name = getattr(obj, "__qualname__", None)
    if not isinstance(name, str) or getattr(obj, "__module__", None) != MAIN:
        return None
    return name if find(MAIN, name) is obj else None


def find(module: str, name: str) -> Any:
    """Return the object that has a qualified name in a module, or MISSING."""
    found: Any = sys.modules.get(module, MISSING)
    for part in name.split("."):
        found = getattr(found, part, MISSING)
    return found


def registered_by_value() -> set[str]:
    """Return the names of modules that cloudpickle was told to pickle by value."""
    cloudpickle = sys.modules.get("cloudpickle")  # imported by whoever told it
    return cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else set()


def by_value(module: str) -> bool:
    """Return whether cloudpickle was told to pickle by value what is in a module."""
    return any(module == name or module.startswith(f"{name}.") for name in registered_by_value())


def is_importable(obj: Any) -> bool:
    """Return whether a worker that imports an object's module finds this very object."""
    if type(obj) is ModuleType:
        return sys.modules.get(obj.__name__) is obj and not by_value(obj.__name__)
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == MAIN:
        return False
    return not by_value(module) and find(module, name) is obj


def globals_of(code: CodeType) -> set[str]:
    """Return the names of globals that a function's code uses, nested functions included."""
    import cloudpickle

    return set(cloudpickle.cloudpickle._extract_code_globals(code)) - _OWN


def _annotation_names(func: FunctionType) -> set[str]:
    """Return identifiers in the annotations that are text: ``typing.get_type_hints`` looks for
    them."""
    import re

    try:
        annotations = func.__annotations__
    except Exception:  # they may refer to what is not there
        return set()
    return {word for text in annotations.values() if isinstance(text, str)
            for word in re.findall(r"[^\W\d]\w*", text)}


class Dumped(NamedTuple):
    """A definition by value.

    Attributes:
        data: the pickle; of a class one that makes it without content, to which others can refer;
            None: the name is to be removed.
        state: of a class the pickle of its content.
        names: of ``__main__`` that it refers to, or that its code uses.
        functions: that went by value with it, whose parts may change.
        classes: the same.
        by_name: functions and classes that it holds by their names, with these.
    """

    data: bytes | None
    state: bytes | None
    names: frozenset[str]
    functions: list[FunctionType]
    classes: list[type]
    by_name: dict[str, Any]


def dump_definition(name: str, value: Any, buffer_callback: Any = None) -> Dumped:
    """Pickle what a name means in ``__main__``; by value, if it is not known by another name."""
    outer = take_names()
    try:
        pickler = cloud_pickler()(io.BytesIO(), PROTOCOL, buffer_callback=buffer_callback)
        pickler.root = name
        pickler.dump(value)
        data, state = pickler.file.getvalue(), None
        if pickler.content is not None:
            content, pickler.content = pickler.content, None
            pickler.complete = value
            pickler.file.seek(0)
            pickler.file.truncate()
            pickler.clear_memo()
            pickler.dump(content)
            state = pickler.file.getvalue()
        return Dumped(
            data, state, frozenset(take_names()), pickler.functions, pickler.classes,
            pickler.by_name)
    finally:
        take_names()
        if outer:
            note_names(outer)


@functools.cache
def cloud_pickler() -> Any:
    """Return cloudpickle's Pickler, changed: what is found in ``__main__`` goes by its name, and
    functions of ``__main__`` take none of its globals along."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        root: str | None = None  # the name whose value goes by value
        content: tuple[Any, Any] | None = None  # of the class that this is: setter and state
        complete: Any = None  # the class whose content is being pickled

        def __init__(self, file: Any, protocol: int, buffer_callback: Any = None) -> None:
            super().__init__(file, protocol, buffer_callback=buffer_callback)
            self.file = file
            self.functions: list[FunctionType] = []
            self.classes: list[type] = []
            self.by_name: dict[str, Any] = {}

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is CodeType:
                return _reduce_code(obj)
            if type(obj) is LAZY:
                return _itself, (obj.resolve(),)
            name = main_name(obj)
            if name is not None:
                top = name.partition(".")[0]
                if obj is self.complete or (top != self.root and is_known(top)):
                    note_names([top])
                    if obj is not self.complete:
                        self.by_name[name] = obj
                    return name
            if type(obj) is threading.local and self.root is not None:
                return threading.local, ()  # another thread has one that is empty, too
            if type(obj) is object and (named := self._global_that_is(obj)) is not None:
                note_names([named])
                return _global, (named,)
            if (type(obj) is MethodType and isinstance(cls := obj.__self__, type)
                    and cls is not self.complete and cls not in self.classes):
                # by itself it is no global of a module, so its function would go by value
                method = obj.__name__
                if getattr(cls, method, None) == obj:
                    return getattr, (cls, method)
            reduced = _reduce(obj)
            if reduced is None and isinstance(obj, type):
                reduced = super().reducer_override(obj)
                if isinstance(reduced, tuple):
                    self.classes.append(obj)
                    if len(reduced) == 6:
                        reduced = (*reduced[:5], _set_class_state)
                    reduced = _with_members(obj, _with_slots(obj, reduced))
                    if name is not None and name == self.root and len(reduced) == 6:
                        self.content = reduced[5], reduced[2]
                        return reduced[:2]
            elif reduced is None and type(obj) is FunctionType:
                reduced = self._reduce_function(obj)
            elif reduced is None:
                return super().reducer_override(obj)
            return reduced

        def _global_that_is(self, obj: Any) -> str | None:
            """Return the name of a global that holds this object, which has nothing but its
            identity: what stands for "no argument given", for example."""
            return next((name for name, value in main_globals().items()
                         if value is obj and name != self.root and is_known(name)), None)

        def _reduce_function(self, func: FunctionType) -> Any:
            try:
                reduced = super().reducer_override(func)
            except Exception:
                if sys.version_info < (3, 14):
                    raise
                reduced = super().reducer_override(_with_annotations_as_text(func))
            if not isinstance(reduced, tuple):
                return reduced
            self.functions.append(func)
            if func.__globals__ is not main_globals():
                return reduced
            note_names(globals_of(func.__code__) | (_annotation_names(func) & set(main_globals())))
            _, (code, _, _, _, closure), (attributes, slots), *rest = reduced
            return (_make_function, (code, func.__name__, closure),
                    (attributes, {**slots, "__globals__": {}}), *rest)

    return Pickler


def _reduce_code(code: CodeType) -> Any:
    """Have code keep the name of its file, which tracebacks and inspect.getsource look for;
    cloudpickle gives it another one, for pickles that are the same everywhere."""
    import cloudpickle

    make, arguments = cloudpickle.cloudpickle._code_reduce(code)
    return make, tuple(code.co_filename if argument == "<dynamic-code>" else argument
                       for argument in arguments)


def _with_slots(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have a class be made with its slots, which cloudpickle forgets."""
    make, arguments, *rest = reduced
    slots = vars(cls).get("__slots__")
    if (slots is None or hasattr(cls, "_fields") or len(arguments) != 6
            or not isinstance(arguments[3], dict)):
        return reduced
    options = {**arguments[3], "__slots__": slots}
    return make, (*arguments[:3], options, *arguments[4:]), *rest


# attributes that classes of other processes have here
_given: "weakref.WeakKeyDictionary[type, set[str]]" = weakref.WeakKeyDictionary()


def _set_class_state(cls: type, state: tuple[dict[str, Any], Any]) -> None:
    """Give a class its attributes. It may have been here before, as cloudpickle knows it again;
    then those that it has lost meanwhile are deleted."""
    import cloudpickle

    for name in _given.get(cls, set()).difference(state[0]):
        if name in vars(cls):
            delattr(cls, name)
    cloudpickle.cloudpickle._class_setstate(cls, state)
    _given[cls] = set(state[0])


def _with_members(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have the members of an Enum keep what its ``__init__`` gave them: cloudpickle makes them
    before the class has one."""
    if not issubclass(cls, enum.Enum) or len(reduced) != 6:
        return reduced
    made = {name: {key: value for key, value in vars(member).items() if key not in _OF_MEMBERS}
            for name, member in cls.__members__.items() if hasattr(member, "__dict__")}
    if not any(made.values()):
        return reduced
    make, arguments, state, items, pairs, setter = reduced
    return make, arguments, (setter, state, made), items, pairs, _set_enum_state


def _set_enum_state(cls: Any, state: tuple[Any, Any, dict[str, dict[str, Any]]]) -> None:
    setter, of_class, made = state
    setter(cls, of_class)
    for name, attributes in made.items():
        vars(cls.__members__[name]).update(attributes)


def _itself(obj: Any) -> Any:
    return obj


def _global(name: str) -> Any:
    return getattr(sys.modules[MAIN], name)


def _with_annotations_as_text(func: FunctionType) -> FunctionType:
    """The same function for cloudpickle, which has annotations evaluated. From CPython 3.14 on they
    may refer to what is not there, such as what is imported for type checkers only."""
    annotationlib = importlib.import_module("annotationlib")
    same = FunctionType(
        func.__code__, func.__globals__, func.__name__, func.__defaults__, func.__closure__)
    same.__dict__.update(func.__dict__)
    for name in ("__kwdefaults__", "__module__", "__qualname__", "__doc__"):
        setattr(same, name, getattr(func, name))
    same.__annotations__ = annotationlib.get_annotations(
        func, format=annotationlib.Format.STRING)
    return same


# --- what neither pickle nor cloudpickle takes by value


def _reduce(obj: Any) -> Any:
    """Return how to make an object anew that goes by value, or None if cloudpickle knows how."""
    if is_importable(obj):
        return None
    kind = type(obj)
    if kind is functools._lru_cache_wrapper:
        parameters = obj.cache_parameters()
        return _make_cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
    if kind is functools.singledispatchmethod:
        return _make_dispatching_method, (obj.func, dict(obj.dispatcher.registry))
    if kind is functools.partialmethod:  # since CPython 3.14 it can't be pickled
        return _make_partial_method, (obj.func, obj.args, dict(obj.keywords))
    if kind is functools.cached_property:
        return _make_cached_property, (obj.func, obj.attrname)
    if kind is FunctionType and _is_singledispatch(obj):
        return _make_dispatching, (obj.__wrapped__, dict(obj.registry))
    if (isinstance(obj, contextlib.ContextDecorator) and hasattr(obj, "_recreate_cm")
            and inspect.isgenerator(gen := getattr(obj, "gen", None))
            and inspect.getgeneratorstate(gen) == inspect.GEN_CREATED):
        # what @contextmanager makes; as a decorator it stays as it is, and makes others
        made: Any = obj
        return kind, (made.func, made.args, made.kwds)
    typing = sys.modules.get("typing")
    if typing is not None and kind is typing.NewType:
        return _make_new_type, (obj.__name__, obj.__qualname__, obj.__module__, obj.__supertype__)
    if typing is not None and kind is getattr(typing, "TypeAliasType", None):
        return _make_type_alias, (obj.__name__, obj.__value__, obj.__type_params__)
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(obj, type) and issubclass(obj, msgspec.Struct):
        return _reduce_struct(obj)
    return None


def _is_singledispatch(func: FunctionType) -> bool:
    return (func.__code__.co_filename == functools.__file__
            and all(hasattr(func, name) for name in ("registry", "dispatch", "register")))


def _make_cached(func: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(func)


def _make_cached_property(func: Any, name: str | None) -> Any:
    made = functools.cached_property(func)
    made.attrname = name
    return made


def _make_partial_method(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(func, *args, **keywords)


def _make_dispatching(func: Any, registry: dict[type, Any]) -> Any:
    made = functools.singledispatch(func)
    for cls, implementation in registry.items():
        if cls is not object:
            made.register(cls, implementation)
    return made


def _make_dispatching_method(func: Any, registry: dict[type, Any]) -> Any:
    made = functools.singledispatchmethod(func)
    for cls, implementation in registry.items():
        if cls is not object:
            made.dispatcher.register(cls, implementation)
    return made


def _make_new_type(name: str, qualname: str, module: str, supertype: Any) -> Any:
    import typing

    made = typing.NewType(name, supertype)  # type: ignore[misc]  # the name comes from elsewhere
    made.__qualname__, made.__module__ = qualname, module
    return made


def _make_type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    if sys.version_info < (3, 12):
        raise TypeError(f"the type alias {name} needs CPython 3.12")
    import typing

    return typing.TypeAliasType(name, value, type_params=parameters)


def _reduce_struct(cls: Any) -> Any:
    msgspec = sys.modules["msgspec"]
    if cls is msgspec.Struct:
        return None
    config = cls.__struct_config__
    names = ("frozen", "eq", "order", "array_like", "gc", "weakref", "dict", "tag", "tag_field",
             "forbid_unknown_fields", "repr_omit_defaults", "omit_defaults", "cache_hash")
    options = {name: getattr(config, name) for name in names if hasattr(config, name)}
    skipped = {"__struct_fields__", "__struct_defaults__", "__struct_config__", "__slots__",
               "__struct_encode_fields__", "__match_args__", "__weakref__", "__dict__",
               "__annotations__", *cls.__struct_fields__}
    space = {name: value for name, value in vars(cls).items()
             if name not in skipped and not name.startswith("__annot")
             and type(value).__name__ not in ("member_descriptor", "getset_descriptor")}
    own = cls.__annotations__
    defaults = dict(zip(cls.__struct_fields__[len(cls.__struct_fields__)
                                              - len(cls.__struct_defaults__):],
                        cls.__struct_defaults__, strict=True))
    fields: list[tuple[Any, ...]] = []
    for name in own:
        default = defaults.get(name, msgspec.NODEFAULT)
        if default is msgspec.NODEFAULT:
            fields.append((name, own[name]))
        else:
            fields.append((name, own[name], default))
    return _make_struct, (cls.__name__, fields, cls.__bases__, cls.__module__, space, options)


def _make_struct(
    name: str, fields: list[Any], bases: tuple[type, ...], module: str, space: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    import msgspec

    return msgspec.defstruct(
        name, fields, bases=bases, module=module, namespace=space, **options)


def _make_function(code: CodeType, name: str, closure: Any) -> FunctionType:
    """Make a function that has the globals of ``__main__`` here."""
    return FunctionType(code, main_globals(), name, None, closure)
