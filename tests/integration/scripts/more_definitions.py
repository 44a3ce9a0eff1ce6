"""A script with more that scripts define and do: it prints what went wrong.

tests/integration/test_script.py runs it, with the kind of event loop as its argument. Each case is
called in this process first, for what has to come of it: the same, or an error that says why not.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import contextvars
import copy
import ctypes
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import logging
import operator
import re
import sys
import threading
import types
import typing
import warnings
import weakref

import attrs
import pydantic

from distex import LoopType, Pool

TOTAL = 0
PARTS = []
LOCAL = threading.local()
VARIABLE = contextvars.ContextVar("VARIABLE", default=5)
LOGGER = logging.getLogger("script")
PATTERN = re.compile("a+")
SENTINEL = object()
POINTS = collections.defaultdict(list)
COUNTS = collections.Counter("aab")
ORDER = collections.OrderedDict(a=1)
QUEUE = collections.deque([1, 2], maxlen=2)
FROZEN = types.MappingProxyType({"a": 1})
SPACE = types.SimpleNamespace(a=1)
GETTER = operator.itemgetter(1)
ONE_SELF = []
ONE_SELF.append(ONE_SELF)
SHARED = [1]
BOTH = {"first": SHARED, "second": SHARED}


def __getattr__(name):
    if name == "computed":
        return 42
    raise AttributeError(name)


# --- classes


@attrs.define
class Attrs:
    x: int
    y: list = attrs.field(factory=list)

    def total(self):
        return self.x + len(self.y)


@attrs.frozen(slots=False)
class FrozenAttrs:
    x: int = attrs.field(validator=attrs.validators.instance_of(int), converter=int)


@attrs.define
class AttrsChild(Attrs):
    z: int = 3

    def total(self):
        return super().total() + self.z


class Model(pydantic.BaseModel):
    name: str
    size: int = 3
    parts: list[Part] = []

    @pydantic.field_validator("size")
    @classmethod
    def positive(cls, value):
        if value < 0:
            raise ValueError("negative")
        return value

    def shout(self):
        return self.name.upper()


class Part(pydantic.BaseModel):
    number: int


Model.model_rebuild()


class Weekday(enum.Enum):
    MONDAY = (1, "Mo")
    TUESDAY = (2, "Di")

    def __init__(self, number, short):
        self.number = number
        self.short = short

    def next(self):
        return Weekday.TUESDAY if self is Weekday.MONDAY else Weekday.MONDAY

    @classmethod
    def of(cls, short):
        return next(day for day in cls if day.short == short)


class Level(enum.IntEnum):
    LOW = enum.auto()
    HIGH = enum.auto()


class Word(enum.StrEnum):
    HELLO = "hello"


class Base(abc.ABC):
    @property
    @abc.abstractmethod
    def size(self): ...

    def doubled(self):
        return 2 * self.size


class Concrete(Base):
    def __init__(self, size):
        self._size = size

    @property
    def size(self):
        return self._size


class Registry(type):
    classes: typing.ClassVar[dict] = {}

    def __new__(mcls, name, bases, space, **options):
        cls = super().__new__(mcls, name, bases, space)
        mcls.classes[name] = options
        return cls

    def __init__(cls, name, bases, space, **options):
        super().__init__(name, bases, space)

    def __len__(cls):
        return 7


class Listed(metaclass=Registry, option=1):
    pass


@dataclasses.dataclass(slots=True)
class SlotPoint:
    x: int
    y: int = dataclasses.field(default=2, kw_only=True)

    def __post_init__(self):
        self.x += 1


@dataclasses.dataclass(slots=True, order=True)
class SlotChild(SlotPoint):
    z: int = 5

    def all(self):
        return dataclasses.astuple(self)


@dataclasses.dataclass
class Tagged:
    tag: dataclasses.InitVar[str]
    text: str = dataclasses.field(init=False)
    shared: typing.ClassVar[list] = []

    def __post_init__(self, tag):
        self.text = tag * 2


class Positive:
    """A descriptor."""

    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, obj, owner=None):
        return self if obj is None else getattr(obj, self.name)

    def __set__(self, obj, value):
        if value < 0:
            raise ValueError("negative")
        setattr(obj, self.name, value)


class Account:
    balance = Positive()

    def __init__(self, balance):
        self.balance = balance

    def take(self, amount):
        self.balance -= amount
        return self.balance


def counting(cls):
    """A decorator of classes."""
    cls.made = 0
    before = cls.__init__

    @functools.wraps(before)
    def __init__(self, *args):
        type(self).made += 1
        before(self, *args)

    cls.__init__ = __init__
    return cls


@counting
class Counted:
    def __init__(self, x):
        self.x = x


def replacing(cls):
    return type(cls.__name__, (cls,), {"replaced": True, "__module__": cls.__module__,
                                       "__qualname__": cls.__qualname__})


@replacing
class Replaced:
    def value(self):
        return self.replaced


@functools.total_ordering
class Ordered:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    def __lt__(self, other):
        return self.x < other.x

    __hash__ = None


class Outer:
    class Middle:
        class Inner:
            value = 3

            def outer(self):
                return Outer

        @classmethod
        def make(cls):
            return cls.Inner()


class Cached:
    def __init__(self, n):
        self.n = n
        self.calls = 0

    @functools.cached_property
    def expensive(self):
        self.calls += 1
        return self.n**2

    @functools.lru_cache  # noqa: B019
    def method(self, x):
        return self.n + x

    @functools.singledispatchmethod
    def kind(self, x):
        return "thing"

    @kind.register
    def _(self, x: int):
        return "int"

    @functools.partialmethod
    def _unused(self):
        pass

    add_three = functools.partialmethod(lambda self, x, y: self.n + x + y, 3)


class Own:
    """Says how it is pickled."""

    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return remake, (self.x,)


def remake(x):
    return Own(x + 1)


class Stateful:
    def __init__(self, x):
        self.x = x
        self.lock = threading.Lock()

    def __getstate__(self):
        return {"x": self.x}

    def __setstate__(self, state):
        self.__init__(state["x"])


class Single:
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
        return cls.instance


class Node:
    def __init__(self, parent=None):
        self.parent = weakref.ref(parent) if parent else None


class Text(str):
    def shout(self):
        return Text(self.upper())


class Bag(dict):
    def __missing__(self, key):
        return "missing"


class Structure(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int))


class Failure(Exception):
    def __init__(self, code, *, detail=None):
        super().__init__(code, detail)
        self.code, self.detail = code, detail


class Manager:
    async def __aenter__(self):
        return 1

    async def __aexit__(self, *exc_info):
        return False


# --- functions


class Suppressing(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return True


@Suppressing()
def suppressed():
    raise ValueError


@contextlib.contextmanager
def adding(x):
    global TOTAL
    TOTAL += x
    try:
        yield TOTAL
    finally:
        TOTAL -= x


@adding(5)
def within():
    return TOTAL


@contextlib.asynccontextmanager
async def opened():
    yield 4


async def asynchronous():
    async with opened() as x, Manager() as y, asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, x + y))
    return task.result(), [n async for n in stream(3)]


async def stream(n):
    for x in range(n):
        yield x


def with_class():
    class Local(Concrete):
        def doubled(self):
            return super().doubled() + 1

    return Local(4).doubled()


def nonlocal_counter():
    count = 0

    def increment():
        nonlocal count
        count += 1
        return count

    return increment


def hanoi(n):
    return 0 if n == 0 else 2 * hanoi(n - 1) + 1


def ping(n):
    return [n, *pong(n - 1)] if n else []


def pong(n):
    return [-n, *ping(n - 1)] if n else []


if TOTAL == 0:
    def branch():
        return "then"
else:
    def branch():
        return "else"

try:
    import no_module_of_this_name as missing
except ImportError:
    missing = None


def optional():
    return missing is None


def matched(value):
    match value:
        case SlotPoint(x=x):
            return x
        case {"key": key}:
            return key
        case [first, *_]:
            return first
    return None


def decorated(times):
    def decorate(func):
        @functools.wraps(func)
        def wrapper(*args):
            return [func(*args) for _ in range(times)]

        wrapper.times = times
        return wrapper

    return decorate


@decorated(2)
def twice(x):
    return x


def imports_late():
    import json

    return json.dumps({"a": TOTAL})


def uses_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("script", stacklevel=1)
    return [str(warning.message) for warning in caught]


def annotated(x: Unknown, y: list[Account]) -> typing.Annotated[int, "meters"]:  # noqa: F821
    return x


def hints():
    return sorted(typing.get_type_hints(Account.take, localns={"amount": int}))


def own_module():
    return sys.modules[Account.__module__].Account is Account


def local_storage():
    LOCAL.value = getattr(LOCAL, "value", 0)
    return LOCAL.value


def context_variable():
    token = VARIABLE.set(7)
    found = VARIABLE.get()
    VARIABLE.reset(token)
    return found, VARIABLE.get()


def collections_of_all_kinds():
    POINTS.setdefault("a", [])
    return (len(POINTS["a"]), COUNTS["a"], list(ORDER), QUEUE.maxlen, SPACE.a, GETTER([1, 2]),
            PATTERN.match("aab").group(), LOGGER.name)


def weak():
    parent = Node()
    child = Node(parent)
    return child.parent() is parent, len(weakref.WeakSet([parent]))


def one_self():
    return ONE_SELF[0] is ONE_SELF


def shared():
    return BOTH["first"] is BOTH["second"]


def aliases():
    return same is hanoi, Alias is Account, Alias(3).take(1)


same = hanoi
Alias = Account
bound = Account(10).take
bound_class = Weekday.of
static = staticmethod(hanoi)
composed = functools.partial(functools.partial(pow, 2), mod=None)
reduced = functools.partial(functools.reduce, operator.add)
mapper = functools.partial(map, hanoi)
CallableType = collections.abc.Callable[[int], int]
Either = int | str
Vector = list[float]
Generic = typing.TypeVar("Generic", bound=Base)
Parameters = typing.ParamSpec("Parameters")


class Holder(typing.Generic[Generic]):
    def __init__(self, item: Generic):
        self.item = item


class Options(typing.TypedDict, total=False):
    size: typing.Required[int]


class Row(typing.NamedTuple):
    a: int
    b: str = "b"

    def both(self):
        return f"{self.a}{self.b}"


@typing.runtime_checkable
class Sized(typing.Protocol):
    size: int


def types_of_all_kinds():
    return (isinstance(Concrete(1), Sized), isinstance(3, Either), str(Vector), Generic.__name__,
            Options.__required_keys__, Holder[Concrete](Concrete(2)).item.size, str(CallableType))


if sys.version_info >= (3, 12):
    exec("""
type Tree[T] = T | list[T]
type Nested[T] = T | list[Nested[T]]
class Stack[T: (int, str)]:
    kind = T.__name__
    def __init__(self) -> None: self.items: list[T] = []
    def push[S](self, item: S) -> Stack[T]:
        self.items.append(item)
        return self
    def again(self): return Stack[int]
@dataclasses.dataclass
class Pair[A, B]:
    a: A
    b: B
def generic[T](x: T, default: T | None = None) -> T:
    return x
def pep695():
    return (Stack[int]().push(1).items, Stack.__type_params__[0].__name__, Stack[int]().kind,
            Pair(1, "x"), generic(3), Tree.__name__, len(Tree.__value__.__args__))
""")
else:
    def pep695():
        return None


CASES = [  # label, function, arguments
    ("attrs", Attrs(1, [2]).total, ()),
    ("attrs: made there", Attrs, (1,)),
    ("attrs: frozen, converted", FrozenAttrs, ("5",)),
    ("attrs: super() with slots", AttrsChild(1, [1], 2).total, ()),
    ("attrs: evolve", lambda a: attrs.evolve(a, x=9), (Attrs(1),)),
    ("pydantic", Model(name="a").shout, ()),
    ("pydantic: made there", lambda: Model(name="a", parts=[{"number": "3"}]), ()),
    ("pydantic: parts", lambda m: m.parts[0].number, (Model(name="a", parts=[Part(number=3)]),)),
    ("pydantic: json", lambda m: m.model_dump_json(), (Model(name="a"),)),
    ("pydantic: refused", lambda: len(catch(Model, name="a", size=-1).errors()), ()),
    ("an Enum with values of tuples", lambda day: (day.next(), day.short), (Weekday.MONDAY,)),
    ("a class method of an Enum", bound_class, ("Di",)),
    ("an IntEnum", lambda: Level.HIGH + 1, ()),
    ("a StrEnum", lambda word: word is Word.HELLO, (Word.HELLO,)),
    ("keys that are of an Enum", lambda d: d[Level.LOW], ({Level.LOW: 1},)),
    ("an abstract property", Concrete(4).doubled, ()),
    ("an abstract class can't be made", lambda: str(catch(Base)), ()),
    ("a metaclass with options", lambda: (len(Listed), type(Listed) is Registry), ()),
    ("what a metaclass has noted", lambda: Registry.classes["Listed"], ()),
    ("dataclass(slots=True)", lambda p: (p.x, p.y, hasattr(p, "__dict__")), (SlotPoint(1),)),
    ("dataclass(slots=True), a child", SlotChild(1, 2).all, ()),
    ("dataclass(order=True)", lambda a, b: a < b, (SlotChild(1), SlotChild(2))),
    ("InitVar", Tagged, ("a",)),
    ("a descriptor", lambda account: account.take(2), (Account(5),)),
    ("a descriptor refuses", lambda: str(catch(Account, -1)), ()),
    ("a decorated class", lambda: Counted(3).x, ()),
    ("a class that a decorator has replaced", lambda: Replaced().value(), ()),
    ("an instance of that", lambda r: type(r) is Replaced, (Replaced(),)),
    ("total_ordering", lambda a, b: (a < b, a >= b), (Ordered(1), Ordered(2))),
    ("nested classes", lambda: Outer.Middle.make().outer() is Outer, ()),
    ("an instance of a nested class", lambda i: type(i) is Outer.Middle.Inner,
     (Outer.Middle.Inner(),)),
    ("cached_property", lambda c: (c.expensive, c.expensive, c.calls), (Cached(3),)),
    ("lru_cache on a method", lambda c: c.method(2), (Cached(3),)),
    ("singledispatchmethod", lambda c: (c.kind(1), c.kind("")), (Cached(3),)),
    ("partialmethod", lambda c: c.add_three(2), (Cached(3),)),
    ("__reduce__", lambda o: o.x, (Own(1),)),
    ("__getstate__ without the lock", lambda s: s.x, (Stateful(3),)),
    ("a singleton", lambda: Single() is Single(), ()),
    ("weakref", weak, ()),
    ("a subclass of str", Text("a").shout, ()),
    ("a subclass of dict", lambda b: (b["x"], dict(b)), (Bag(a=1),)),
    ("a structure of ctypes", lambda: Structure(1, 2).y, ()),
    ("an exception with keywords", lambda: catch_code(3), ()),
    ("ContextDecorator", suppressed, ()),
    ("a contextmanager as a decorator", within, ()),
    ("asynchronous contexts, streams, groups", asynchronous, ()),
    ("super() in a local class", with_class, ()),
    ("nonlocal", lambda: nonlocal_counter()(), ()),
    ("recursion", hanoi, (5,)),
    ("recursion between functions", ping, (5,)),
    ("a conditional definition", branch, ()),
    ("an optional import", optional, ()),
    ("match", lambda: (matched(SlotPoint(1)), matched({"key": 2}), matched([3])), ()),
    ("a decorator with arguments", twice, (1,)),
    ("an attribute of the wrapper", lambda: twice.times, ()),
    ("__wrapped__", lambda: twice.__wrapped__(4), ()),
    ("an import in a function", imports_late, ()),
    ("warnings", uses_warnings, ()),
    ("annotations that mean nothing", annotated, (1, [])),
    ("get_type_hints of a method", hints, ()),
    ("the module of a class", own_module, ()),
    ("threading.local", local_storage, ()),
    ("contextvars", context_variable, ()),
    ("globals from collections, re, logging", collections_of_all_kinds, ()),
    ("a list that holds itself", one_self, ()),
    ("one object twice in a global", shared, ()),
    ("two names for one thing", aliases, ()),
    ("a bound method of a global", lambda: bound.__self__.balance, ()),
    ("partials of partials", composed, (3,)),
    ("a partial of a function of functions", reduced, ([1, 2],)),
    ("a partial that takes a function", lambda: list(mapper([1, 2])), ()),
    ("a NamedTuple's method", Row(1).both, ()),
    ("_replace and _asdict", lambda r: r._replace(a=2)._asdict(), (Row(1),)),
    ("a TypedDict", lambda: Options(size=1), ()),
    ("types of all kinds", types_of_all_kinds, ()),
    ("PEP 695", pep695, ()),
    *([("a type alias that holds itself", lambda: Nested.__name__, ())]  # noqa: F821
      if sys.version_info >= (3, 12) else []),
    ("a mapping proxy", lambda: FROZEN["a"], ()),
    ("a sentinel", lambda: SENTINEL is SENTINEL, ()),
    ("a sentinel as an argument", lambda x=SENTINEL: x is SENTINEL, ()),
    ("__getattr__ of the module", lambda: sys.modules["__main__"].computed, ()),
    ("dates and decimals", lambda: datetime.date(2020, 1, 1) + datetime.timedelta(
        int(decimal.Decimal("1.5"))), ()),
    ("itertools", lambda: list(itertools.accumulate([1, 2])), ()),
    ("deepcopy of an instance that has a class attribute",
     lambda a: copy.deepcopy(a).x, (Attrs(3),)),
]

# what can't be the same there, and what is said of it
REFUSED = {
    "a structure of ctypes": "raised while Structure, a global of __main__, was being pickled",
    "a type alias that holds itself": "raised while Nested, a global of __main__, was being pickled",
    "__getattr__ of the module": "module '__main__' has no attribute 'computed'",
}


def catch(func, *args, **kwargs):
    try:
        func(*args, **kwargs)
    except Exception as exc:
        return exc
    raise AssertionError("no exception")


def catch_code(code):
    exc = catch(throw, code)
    return exc.code, exc.detail


def throw(code):
    raise Failure(code, detail="why")


def outcome(call):
    """What it gives, or the text of its exception and of the notes that it has."""
    try:
        result = call()
        return asyncio.run(result) if asyncio.iscoroutine(result) else result
    except Exception as exc:
        return "\n".join([repr(exc), *getattr(exc, "__notes__", ())])


def each_way(pool, func, args):
    yield "run", lambda: pool.run(func, *args)
    yield "run_on_all", lambda: pool.run_on_all(func, *args)[0]
    yield "map", lambda: list(pool.map(func, [args] * 2, star=True))[1]


def is_right(label, result, expected):
    if label in REFUSED:
        return isinstance(result, str) and REFUSED[label] in result
    return type(result) is type(expected) and (
        result == expected or (type(result).__eq__ is object.__eq__ and vars(result) == vars(expected)))


def main():
    with Pool(1, worker_loop=LoopType[sys.argv[1]]) as pool:
        for label, func, args in CASES:
            expected = outcome(lambda: copy.deepcopy(func)(*copy.deepcopy(args)))
            for way, call in each_way(pool, func, args):
                result = outcome(call)
                if not is_right(label, result, expected):
                    print(f"{label}, {way}: {result!r}, not {expected!r}", flush=True)
    print("done")


if __name__ == "__main__":
    main()
