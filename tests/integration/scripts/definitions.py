"""A script whose definitions are used in a pool in every way: it prints what went wrong.

Run by tests/integration/test_script.py, with the kind of event loop as its argument.
"""

import abc
import asyncio
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import inspect
import pickle
import sys
import typing

import msgspec

from distex import LoopType, Pool

# --- definitions of all kinds


class Job:
    count = 0
    registry: typing.ClassVar[dict] = {}

    def __init__(self, n=0):
        self.n = n

    def times(self, x):
        return self.n * x

    def __call__(self, x):
        return self.n + x

    @classmethod
    def make(cls, n):
        return cls(n)

    @staticmethod
    def halve(x):
        return x // 2

    @property
    def double(self):
        return 2 * self.n

    @functools.cached_property
    def triple(self):
        return 3 * self.n

    class Inner:
        def __init__(self, x):
            self.x = x

        def __eq__(self, other):
            return type(other) is type(self) and self.x == other.x

        __hash__ = None

    def __eq__(self, other):
        return type(other) is type(self) and self.n == other.n

    __hash__ = None


class Special(Job):
    def times(self, x):
        return super().times(x) + 1


class Registered:
    known: typing.ClassVar[dict] = {}

    def __init_subclass__(cls):
        Registered.known[cls.__name__] = cls


class Leaf(Registered):
    pass


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


Shape.register(int)


class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.by_meta = True
        return made


class WithMeta(metaclass=Meta):
    pass


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def other(self):
        return Color.BLUE if self is Color.RED else Color.RED


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(slots=True, frozen=True)
class Point:
    x: int
    y: "int" = 0


@dataclasses.dataclass
class Tree:
    value: int
    children: "list[Tree]" = dataclasses.field(default_factory=list)


class Pair(typing.NamedTuple):
    left: int
    right: "Job"


Old = collections.namedtuple("Old", "a b")


class Options(typing.TypedDict):
    size: int


class Readable(typing.Protocol):
    def read(self) -> str: ...


T = typing.TypeVar("T")


class Stack(typing.Generic[T]):
    def __init__(self, *items: T) -> None:
        self.items = list(items)

    def top(self) -> T:
        return self.items[-1]


class Message(msgspec.Struct, frozen=True):
    text: str
    size: int = 3

    def shout(self):
        return self.text.upper()


class ScriptError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


UserId = typing.NewType("UserId", int)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Attributes:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"no {name}"


# --- functions of all kinds


@functools.lru_cache
def square(x):
    return x * x


@functools.cache
def cube(x):
    return x * square(x)


@functools.singledispatch
def kind(x):
    return "thing"


@kind.register
def kind_of_int(x: int):
    return "int"


@kind.register
def kind_of_job(x: Job):
    return "job"


def wrapping(func):
    @functools.wraps(func)
    def wrapper(*args):
        return func(*args) + 1

    return wrapper


@wrapping
def wrapped(x):
    return 10 * x


@contextlib.contextmanager
def opened(x):
    yield x + 1


def with_context(x):
    with opened(x) as y:
        return y


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def generator(n):
    yield from range(n)


def summed(n):
    return sum(generator(n))


def closure(n):
    def add(x):
        return x + n + LIMIT

    return add


def keyword_only(x, *, factor=3):
    return x * factor


async def coroutine(x):
    await asyncio.sleep(0)
    return square(x)


if sys.platform:
    def conditional(x):
        return x - 1
else:
    conditional = None

adder = functools.partial(max, 5)
by_lambda = lambda x: x + LIMIT  # noqa: E731
LIMIT = 100
prepared = Job(4)
table = {"job": Job(1), "square": square}


def use(func, *args):
    return func(*args)


def give(value):
    return value


def is_same(name, value):
    return getattr(sys.modules["__main__"], name) is value


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def hints(cls):
    return {name: str(hint) for name, hint in typing.get_type_hints(cls).items()}


def source_of(func):
    return inspect.getsource(func).splitlines()[0]


def module_of(x):
    return __name__, x.__module__, sys.modules["__main__"].__name__


def prepared_times(x):
    return prepared.times(x)


def from_table(x):
    return table["square"](x) + table["job"].n


def raises(code):
    raise ScriptError(code)


def caught(code):
    try:
        raises(code)
    except ScriptError as exc:
        return exc.code


def leaves():
    return list(Registered.known), Registered.known["Leaf"] is Leaf


def areas(shape):
    return shape.area(), isinstance(shape, Shape), isinstance(3, Shape)


def alias(x):
    return square_again(x)


square_again = square

if sys.version_info >= (3, 12):
    exec("""
type Number = int | float
def first[S](items: list[S]) -> S:
    return items[0]
class Box[S]:
    def __init__(self, item: S) -> None:
        self.item = item
""")
else:
    def first(items):
        return items[0]

    class Box:
        def __init__(self, item):
            self.item = item


def boxed(x):
    return Box(x).item, first([x])


CASES = [  # label, function, arguments, result
    ("a function", conditional, (3,), 2),
    ("lru_cache", square, (3,), 9),
    ("cache that uses another", cube, (3,), 27),
    ("lru_cache as an argument", use, (square, 4), 16),
    ("singledispatch", kind, (3,), "int"),
    ("singledispatch on a class of the script", kind, (Job(),), "job"),
    ("singledispatch as an argument", use, (kind, "x"), "thing"),
    ("wraps", wrapped, (3,), 31),
    ("contextmanager", with_context, (3,), 4),
    ("recursion between functions", even, (10,), True),
    ("generators", summed, (5,), 10),
    ("a closure", closure(1), (1,), 102),
    ("a closure as an argument", use, (closure(2), 1), 103),
    ("a closure as a result", lambda x: closure(x)(1), (5,), 106),
    ("keyword-only defaults", keyword_only, (2,), 6),
    ("a coroutine function", coroutine, (5,), 25),
    ("a lambda", lambda x: x + LIMIT, (1,), 101),
    ("a lambda under a name", by_lambda, (1,), 101),
    ("a partial", adder, (3,), 5),
    ("a partial of a method", functools.partial(Job(3).times), (5,), 15),
    ("a bound method", Job(3).times, (5,), 15),
    ("super()", Special(3).times, (5,), 16),
    ("a class method", Job.make, (3,), Job(3)),
    ("a static method", Job.halve, (8,), 4),
    ("a class", Job, (7,), Job(7)),
    ("a callable object", Job(3), (5,), 8),
    ("a property", lambda job: job.double, (Job(3),), 6),
    ("a cached property", lambda job: (job.triple, job.triple), (Job(3),), (9, 9)),
    ("an inner class", Job.Inner, (3,), Job.Inner(3)),
    ("an instance there and back", give, (Job(3),), Job(3)),
    ("a list of instances", give, ([Job(1), Special(2)],), [Job(1), Special(2)]),
    ("a class there and back", give, (Job,), Job),
    ("a function there and back", give, (conditional,), conditional),
    ("lru_cache there and back", give, (square,), square),
    ("__init_subclass__ and a registry", leaves, (), (["Leaf"], True)),
    ("an abstract class", areas, (Square(3),), (9, True, True)),
    ("a metaclass", lambda: WithMeta().by_meta, (), True),
    ("an enum", lambda color: color.other(), (Color.RED,), Color.BLUE),
    ("an enum is itself", lambda color: color is Color.RED, (Color.RED,), True),
    ("a flag", give, (Right.READ | Right.WRITE,), Right.READ | Right.WRITE),
    ("a frozen dataclass with slots", give, (Point(1, 2),), Point(1, 2)),
    ("slots stay", lambda p: hasattr(p, "__dict__"), (Point(1),), False),
    ("a dataclass that names itself", give, (Tree(1, [Tree(2)]),), Tree(1, [Tree(2)])),
    ("dataclasses.replace", lambda p: dataclasses.replace(p, y=5), (Point(1),), Point(1, 5)),
    ("a NamedTuple", lambda p: p.left + p.right.n, (Pair(1, Job(2)),), 3),
    ("a namedtuple", give, (Old(1, 2),), Old(1, 2)),
    ("a TypedDict", Options, (), {}),
    ("a Protocol", lambda: Readable.__name__, (), "Readable"),
    ("a generic class", lambda s: s.top(), (Stack(1, 2),), 2),
    ("a parametrised class", lambda: Stack[int](3).top(), (), 3),
    ("a Struct", give, (Message("a"),), Message("a")),
    ("a Struct's method", lambda m: m.shout(), (Message("a", 4),), "A"),
    ("a Struct's defaults", Message, ("b",), Message("b", 3)),
    ("a NewType", lambda x: UserId(x), (3,), 3),
    ("a NewType as an argument", use, (UserId, 3), 3),
    ("slots", lambda s: s.a, (Slotted(3),), 3),
    ("__getattr__", lambda a: a.thing, (Attributes(),), "no thing"),
    ("an exception", caught, (7,), 7),
    ("a global instance", prepared_times, (3,), 12),
    ("a global table", from_table, (3,), 10),
    ("an alias", alias, (3,), 9),
    ("generics of PEP 695", boxed, (3,), (3, 3)),
    ("is what __main__ has", is_same, ("Job", Job), True),
    ("pickle in the task", by_pickle, (Job(3),), Job(3)),
    ("pickle of a class in the task", by_pickle, (Color.RED,), Color.RED),
    ("copy in the task", copy.copy, (Job(3),), Job(3)),
    ("deepcopy in the task", copy.deepcopy, (Tree(1, [Tree(2)]),), Tree(1, [Tree(2)])),
    ("get_type_hints", hints, (Point,), {"x": "<class 'int'>", "y": "<class 'int'>"}),
    ("get_type_hints of what names itself", hints, (Tree,),
     {"value": "<class 'int'>", "children": "list[__main__.Tree]"}),
    ("inspect.getsource", source_of, (conditional,), "    def conditional(x):"),
    ("names of modules", module_of, (Job,), ("__main__",) * 3),
]


def each_way(pool, func, args):
    yield "run", lambda: pool.run(func, *args)
    yield "submit", lambda: pool.submit(func, *args).result()
    yield "run_on_all", lambda: pool.run_on_all(func, *args)[0]
    yield "map", lambda: list(pool.map(func, [args] * 3, star=True))[2]
    yield "options", lambda: pool.options(retries=1).run(func, *args)

    async def awaited():
        return await pool.run_async(func, *args)

    yield "run_async", lambda: asyncio.run(awaited())


def main():
    with Pool(2, worker_loop=LoopType[sys.argv[1]]) as pool:
        for label, func, args, expected in CASES:
            for way, call in each_way(pool, func, args):
                try:
                    result = call()
                except BaseException as exc:
                    print(f"{label}, {way}: {exc!r}", flush=True)
                else:
                    if result != expected or type(result) is not type(expected):
                        print(f"{label}, {way}: {result!r}", flush=True)
        try:
            pool.run(raises, 5)
        except ScriptError as exc:
            if exc.code != 5:
                print("an exception lost its code")
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
