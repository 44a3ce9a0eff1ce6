"""The cache of functions: it never gives a function that is not the one asked for, as it is now."""

import functools
import gc
import math
import pickle
import sys
import threading
import types
import weakref

import cloudpickle
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import FORGET, Pool

from distex.client.functions import FunctionCache, function_name
from distex.options import FUNCTION_CACHE
from distex.wire.serializers import for_functions

CLOUDPICKLE = for_functions(1)


class Cache:
    """A FunctionCache that counts how often something was pickled."""

    def __init__(self, pool):
        self.pickled = 0
        self.cache = FunctionCache(
            pool.dispatcher.functions, CLOUDPICKLE._replace(dumps=self._dumps))

    def _dumps(self, func, segments):
        self.pickled += 1
        return CLOUDPICKLE.dumps(func, segments)

    def get(self, func):
        return self.cache.get(func)

    def calls(self, func, *args):
        """What a worker would get."""
        function = self.get(func)
        return CLOUDPICKLE.loads(function.payload, function.segments)(*args)


@pytest.fixture
def cache():
    with Pool() as pool:
        cache = Cache(pool)
        yield cache
        cache.cache.clear()


def script(source):
    """The globals of a script, whose functions go by value as those of __main__ do."""
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(source, names)
    return names


def importable(x):
    return x + 1


# --- by reference


@functools.lru_cache
def cached(x):
    return x


class Counted:
    """A decorator with a state; what it decorates has the name of a function."""

    def __init__(self, func):
        functools.update_wrapper(self, func)
        self.count = 0

    def __call__(self):
        return self.count

    def __reduce__(self):
        return _counted, (self.count,)


def _counted(count):
    copy = Counted(importable)
    copy.count = count
    return copy


@Counted
def counted():
    pass


class Maker:
    @classmethod
    def make(cls):
        return cls()


class SubMaker(Maker):
    pass


@pytest.mark.parametrize("func", [
    importable, math.sqrt, len, pickle.dumps, int, Maker, Maker.make, SubMaker.make, dict.fromkeys, cached,
    numpy.linalg.norm, numpy.sqrt])
def test_what_can_be_imported_is_pickled_once(cache, func):
    functions = {cache.get(func).id for _ in range(3)}
    assert len(functions) == 1
    assert cache.pickled == 1
    assert len(cache.get(func).payload) < 200  # no more than a name


def test_what_only_has_the_name_of_something_that_can_be_imported(cache):
    names = script("def f(): return g()")
    names["g"] = counted
    counted.count = 0
    assert (cache.calls(counted), cache.calls(names["f"])) == (0, 0)
    counted.count = 1
    assert (cache.calls(counted), cache.calls(names["f"])) == (1, 1)


def test_names(cache):
    assert cache.get(importable).name == "test_functions.importable"
    assert cache.get(functools.partial(importable, 1)).name == "test_functions.importable"
    assert function_name(lambda: 0) == "test_functions.test_names.<locals>.<lambda>"
    assert function_name(functools.partial(functools.partial(len))) == "builtins.len"
    assert function_name(Adder(1)) == "test_functions.Adder"


def test_coroutine_functions_are_known():
    async def coroutine_function():
        pass

    with Pool() as pool:
        cache = Cache(pool)
        assert cache.get(coroutine_function).is_async
        assert not cache.get(importable).is_async
        cache.cache.clear()


# --- by value


def test_what_stays_as_it_is_is_pickled_once(cache):
    names = script("import math\nK = 3\ndef g(x): return x * K\ndef f(x): return g(x) + math.pi")
    for _ in range(3):
        assert cache.calls(names["f"], 2) == 6 + math.pi
    assert cache.pickled == 1


@pytest.mark.parametrize(("source", "change", "before", "after"), [
    ("K = 1\ndef f(): return K", "K = 2", 1, 2),
    ("def g(): return 1\ndef f(): return g()", "def g(): return 2", 1, 2),
    ("K = 1\ndef g(): return K\ndef f(): return g()", "K = 2", 1, 2),
    ("K = 1\ndef f(): return (lambda: K)()", "K = 2", 1, 2),
    ("K = 1\ndef f(): return [K for _ in [0]][0]", "K = 2", 1, 2),
    ("K = 1\ndef f(x=lambda: K): return x()", "K = 2", 1, 2),
    ("K = (lambda: L, 0)\nL = 1\ndef f(): return K[0]()", "L = 2", 1, 2),
    ("len = lambda x: 1\ndef f(): return len([0] * 7)", "del len", 1, 7),
    ("def f(): return len([0] * 7)", "len = lambda x: 1", 7, 1),
    ("K = [1]\ndef f(): return K[0]", "K[0] = 2", 1, 2),
    ("K = {'a': 1}\ndef f(): return K['a']", "K['a'] = 2", 1, 2),
    ("K = ([1],)\ndef f(): return K[0][0]", "K[0][0] = 2", 1, 2),
    ("class C: x = 1\ndef f(): return C.x", "C.x = 2", 1, 2),
    ("class C: x = 1\no = C()\ndef f(): return o.x", "o.x = 2", 1, 2),
    ("def g(): return g.x\ng.x = 1\ndef f(): return g()", "g.x = 2", 1, 2),
    ("def f(x=[1]): return x[0]", "f.__defaults__[0][0] = 2", 1, 2),
    ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2", 1, 2),
    ("def f(x=1): return x", "f.__defaults__ = (2,)", 1, 2),
    ("def f(): return 1", "f.__code__ = (lambda: 2).__code__", 1, 2),
    ("def g(): return 1\ndef f(): return g()", "g.__code__ = (lambda: 2).__code__", 1, 2),
    ("def f(): return f.x\nf.x = 1", "f.x = 2", 1, 2),
    ("K = [1]\nf = K.__len__", "K.append(2)", 1, 2),
    ("K = [1]\ng = K.__len__\ndef f(): return g()", "K.append(2)", 1, 2),
    ("K = [1]\ng = K.count\ndef f(): return g(1)", "K.append(1)", 1, 2),
    ("class I(int): pass\nK = I(0)\nK.x = 1\ndef f(): return K.x", "K.x = 2", 1, 2),
    ("class T(tuple): pass\nK = T()\nK.x = 1\ndef f(): return K.x", "K.x = 2", 1, 2),
    ("import types\nm = types.ModuleType('m')\nm.x = 1\ndef f(): return m.x", "m.x = 2", 1, 2),
])
def test_a_change_is_seen(cache, source, change, before, after):
    names = script(source)
    assert cache.calls(names["f"]) == before
    exec(change, names)
    assert cache.calls(names["f"]) == after


def test_a_bound_method_of_something_built_in_is_pickled_as_it_is_now(cache):
    items = [1]
    count = items.count
    assert cache.calls(count, 1) == 1
    items.append(1)
    assert cache.calls(count, 1) == 2


def test_a_change_of_a_module_that_goes_by_value_is_seen(cache, monkeypatch):
    module = types.ModuleType("goes_by_value")
    module.x = 1
    monkeypatch.setitem(sys.modules, module.__name__, module)
    cloudpickle.register_pickle_by_value(module)
    try:
        names = script("import goes_by_value\ndef f(): return goes_by_value.x")
        assert cache.calls(names["f"]) == 1
        module.x = 2
        assert cache.calls(names["f"]) == 2
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_global_that_is_defined_later_is_seen(cache):
    names = script("def f(): return later()")
    with pytest.raises(NameError):
        cache.calls(names["f"])
    exec("def later(): return 1", names)
    assert cache.calls(names["f"]) == 1


def test_a_closure_variable_that_is_rebound_is_seen(cache):
    value = 1

    def f():
        return value

    assert cache.calls(f) == 1
    value = 2
    assert cache.calls(f) == 2
    assert cache.calls(f) == 2
    assert cache.pickled == 2


def test_a_change_while_it_is_pickled_is_seen(cache):
    names = script("K = 1\ndef f(): return K")
    dumps = cache._dumps

    def change_after(func, segments):
        data = dumps(func, segments)
        names["K"] = 2
        return data

    cache.cache._dumps = change_after
    assert cache.calls(names["f"]) == 1
    assert cache.calls(names["f"]) == 2


def test_which_functions_take_a_lane(cache):
    """Those that are likely to be called again: a lane keeps what it was given for a while."""
    large = "x" * 100_000
    assert cache.get(importable).takes_lane
    assert cache.get(script("def f(): return 1")["f"]).takes_lane
    assert not cache.get(lambda: large).takes_lane
    assert cache.get(Adder(1)).takes_lane
    assert cache.get(script("K = []\ndef f(): return K")["f"]).takes_lane


def test_an_empty_cell(cache):
    def f():
        return value

    with pytest.raises(NameError):
        cache.calls(f)
    value = 1
    assert cache.calls(f) == 1


def test_functions_that_refer_to_one_another(cache):
    names = script("def even(n): return n == 0 or odd(n - 1)\n"
                   "def odd(n): return n != 0 and even(n - 1)")
    assert cache.calls(names["even"], 10)
    assert cache.calls(names["odd"], 7)
    assert cache.calls(names["even"], 10)
    assert cache.pickled == 2


class Adder:
    def __init__(self, n):
        self.n = n

    def add(self, x):
        return x + self.n

    def __call__(self, x):
        return x + self.n


def test_methods_partials_and_objects_are_pickled_as_they_are_now(cache):
    adder = Adder(1)
    partial = functools.partial(importable, 1)
    assert cache.calls(adder.add, 10) == cache.calls(adder, 10) == 11
    assert cache.calls(partial) == 2
    adder.n = 2
    assert cache.calls(adder.add, 10) == cache.calls(adder, 10) == 12


def test_what_cant_be_pickled_is_named_and_not_remembered(cache):
    lock = threading.Lock()

    def bad():
        return lock

    for _ in range(2):
        with pytest.raises(TypeError) as info:
            cache.get(bad)
        assert "bad was being pickled" in info.value.__notes__[-1]
    lock = 1
    assert cache.calls(bad) == 1


# --- what is there only later


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations can wait since CPython 3.14")
def test_annotations_of_what_is_not_there_go_as_text(cache):
    names = script(
        "def double(x: OnlyForTypes, *, times: int = 2) -> OnlyForTypes | None:\n"
        "    'Twice.'\n"
        "    return x * times\n"
        "double.note = 1\n"
        "def call(x): return double(x), double.__annotations__, double.__doc__, double.note\n")
    text = {"x": "OnlyForTypes", "times": "int", "return": "OnlyForTypes | None"}
    assert cache.calls(names["call"], 4) == (8, text, "Twice.", 1)
    assert cache.calls(names["double"], 4) == 8
    names["OnlyForTypes"] = int
    assert names["double"].__annotations__["x"] is int


@pytest.mark.skipif(sys.version_info < (3, 15), reason="imports can wait since CPython 3.15")
def test_lazy_imports_are_made_for_functions_that_use_them(cache):
    names = script(
        "lazy import colorsys\n"
        "lazy from colorsys import rgb_to_hsv as convert\n"
        "lazy import not_used_so_not_imported\n"
        "def call(): return colorsys.__name__, convert(0, 0, 0)\n")
    for _ in range(2):
        assert cache.calls(names["call"]) == ("colorsys", (0, 0, 0))
    assert cache.pickled == 1
    names = script("lazy import colorsys\ndef call(): return colorsys.__name__")
    assert cache.calls([names["call"]].__getitem__, 0)() == "colorsys"


# --- identity


def test_a_new_function_at_the_address_of_an_old_one_is_not_taken_for_it(cache):
    addresses = set()
    for i in range(3 * FUNCTION_CACHE):
        names = script(f"def f(): return {i}")
        func = names.pop("f")
        addresses.add(id(func))
        assert cache.calls(func) == i
        del func, names
    gc.collect()
    assert len(addresses) < 3 * FUNCTION_CACHE  # some were used again, or nothing was tested


def test_the_cache_is_bounded_and_lets_go_of_what_it_drops(cache):
    names = script("def f(): return 1")
    first = weakref.ref(names["f"])
    cache.get(names["f"])
    del names
    gc.collect()
    assert first() is not None  # kept, so that its identity stays its own
    for _ in range(FUNCTION_CACHE):
        cache.get(script("def f(): return 2")["f"])
    gc.collect()
    assert first() is None


def test_workers_forget_what_the_cache_has_dropped():
    with Pool() as pool:
        cache = Cache(pool)
        (worker,) = pool.workers
        function = cache.get(script("def f(): return 1")["f"])
        id = function.id
        pool.submit(function=function)
        worker.answers(worker.calls()[0][0])
        del function
        pool.turn()
        assert not worker.frames()
        cache.cache.clear()
        gc.collect()
        pool.turn()
        assert [(frame.kind, frame.id) for frame in worker.frames()] == [(FORGET, id)]


def test_many_threads_at_once(cache):
    scripts = [script(f"def f(): return {i}") for i in range(20)]
    wrong = []

    def get_all():
        for i in range(200):
            n = i % len(scripts)
            if cache.calls(scripts[n]["f"]) != n:
                wrong.append(n)

    threads = [threading.Thread(target=get_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20))
def test_any_series_of_changes_is_seen(steps):
    with Pool() as pool:
        cache = Cache(pool)
        names = script("a = b = c = 0\ndef g(): return b, h()\ndef h(): return c\n"
                       "def f(): return a, g()")
        for name, value in steps:
            names[name] = value
            assert cache.calls(names["f"]) == (names["a"], (names["b"], names["c"]))
        cache.cache.clear()


def test_a_function_that_only_looks_importable_goes_by_value(cache):
    copy = types.FunctionType(importable.__code__, {**globals()}, "importable")
    copy.__module__ = __name__
    copy.__qualname__ = "importable"
    assert copy is not importable
    assert cache.calls(copy, 1) == 2
    assert cache.calls(importable, 1) == 2
