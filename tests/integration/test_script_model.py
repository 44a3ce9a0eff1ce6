"""What a script defines changes in random order; a call in a worker gives what it gives here.

    set, fill, delete, redefine, hold an old one, kill a worker ──> the script's globals
                                                                          │
    run, submit, map, run_on_all, run_async, with retries <── compared ──> a plain call

The script is a module that stands in for ``__main__``. Few examples in a plain run, more with
PROFILE=ci. Left out are the limits that docs/explained/what-travels.md names: a second name for a
function that is changed in place, and a class attribute that is the one it inherits.
"""

import asyncio
import contextlib
import os
import sys
from types import ModuleType

import pytest
from effort import so_much
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from distex import Pool, WorkerLost

SCRIPT = """
import functools

X = 0
Y = 0
items = []
table = {"list": items, "nested": {"key": [0]}}

class Base:
    limit = 0
    def doubled(self): return 2 * self.limit

class Thing(Base):
    content = []
    def __init__(self, n=0): self.n = n
    def value(self): return self.n, self.limit, list(self.content), X
    @classmethod
    def of_class(cls): return cls.limit
    @staticmethod
    def of_none(): return Y

thing = Thing(1)
held = thing.value

def read_x(): return X
def read_y(): return Y
def read_both(): return read_x(), read_y()
def read_items(): return list(items), len(table), table["nested"]["key"][0]
def read_class(): return Thing.limit, Thing(3).value(), Thing().doubled(), Thing.of_none()
def read_thing(): return thing.value(), thing.n
def read_held(): return held()
def read_own(): return getattr(read_own, "limit", None)
def read_default(x=[0], *, y={}): return list(x), dict(y)

def make_closure():
    n = 0
    cell = [0]
    def read(): return n, list(cell), X
    def change(to):
        nonlocal n
        n = to
    return read, change, cell
read_closure, change_closure, closure_cell = make_closure()

def wrapping(func):
    @functools.wraps(func)
    def wrapper(): return func(), Y
    return wrapper

@wrapping
def read_wrapped(): return X

read_partial = functools.partial(max, [X])
read_lambda = lambda: (X, Y)
alias = read_x
def read_alias(): return alias()
held_class = Thing
def read_held_class(): return held_class is Thing, held_class.limit, held_class(2).n
async def read_async(): return X, list(items)
def read_given(value): return value.limit, value.n, X
"""

READERS = [
    "read_x", "read_y", "read_both", "read_items", "read_class", "read_thing", "read_held",
    "read_own", "read_default", "read_closure", "read_wrapped", "read_lambda", "read_alias",
    "read_held_class", "read_async",
]
numbers = st.integers(0, 2)  # so that one comes back, after another one
names = st.sampled_from(["X", "Y"])


def outcome(call):
    """What it gives, or the type of what it raises."""
    try:
        return call()
    except (NameError, AttributeError, TypeError) as exc:
        return type(exc)


def plainly(func, *args):
    result = func(*args)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def by_run(pool, func, *args):
    return pool.run(func, *args)


def by_submit(pool, func, *args):
    return pool.submit(func, *args).result()


def by_map(pool, func, *args):
    first, *others = pool.map(func, [args] * 5, star=True)
    assert others == [first] * 4
    return first


def on_all(pool, func, *args):
    first, *others = pool.run_on_all(func, *args)
    assert others == [first] * len(others)
    return first


def by_run_async(pool, func, *args):
    async def main():
        return await pool.run_async(func, *args)

    return asyncio.run(main())


def with_retries(pool, func, *args):
    return pool.options(retries=1).run(func, *args)


WAYS = [by_run, by_submit, by_map, on_all, by_run_async, with_retries]


class ScriptMachine(RuleBasedStateMachine):
    """A script whose definitions change, and a pool that calls them."""

    pool: Pool
    space: dict

    @initialize()
    def begin(self):
        """The pool has seen another script before, or this one, or a changed one."""
        for name in [name for name in self.space if not name.startswith("__")]:
            del self.space[name]
        exec(SCRIPT, self.space)

    # --- changes

    @rule(name=names, n=numbers)
    def set_global(self, name, n):
        self.space[name] = n

    @rule(name=names)
    def delete_global(self, name):
        self.space.pop(name, None)

    @rule(n=numbers)
    def fill(self, n):
        self.space["items"].append(n)

    @rule()
    def empty(self):
        self.space["items"].clear()

    @rule(n=numbers)
    def change_from_deep_within(self, n):
        self.space["table"]["nested"]["key"][0] = n

    @rule(n=numbers)
    def set_class_attribute(self, n):
        self.space["Thing"].limit = n

    @rule(n=numbers)
    def fill_class_attribute(self, n):
        self.space["Thing"].content.append(n)

    @rule()
    def delete_class_attribute(self):
        with contextlib.suppress(AttributeError):
            del self.space["Thing"].limit

    @rule(n=numbers)
    def set_instance_attribute(self, n):
        self.space["thing"].n = n

    @rule(n=numbers)
    def set_function_attribute(self, n):
        self.space["read_own"].limit = n

    @rule()
    def delete_function_attribute(self):
        vars(self.space["read_own"]).pop("limit", None)

    @rule(n=numbers)
    def change_defaults(self, n):
        func = self.space["read_default"]
        func.__defaults__[0].append(n)
        func.__kwdefaults__["y"][n] = n

    @rule(n=numbers)
    def replace_defaults(self, n):
        self.space["read_default"].__defaults__ = ([n],)

    @rule(n=numbers)
    def rebind_closure_variable(self, n):
        self.space["change_closure"](n)

    @rule(n=numbers)
    def change_closure_variable(self, n):
        self.space["closure_cell"][0] = n

    @rule(n=numbers)
    def redefine_function(self, n):
        exec(f"def read_x(): return X, {n}", self.space)

    @rule(n=numbers)
    def change_code(self, n):
        made = {}
        exec(f"def read_y(): return Y, {n}", made)
        self.space["read_y"].__code__ = made["read_y"].__code__

    @rule(n=numbers)
    def redefine_class(self, n):
        exec(f"class Thing(Base):\n    content = [{n}]\n"
             "    def __init__(self, n=0): self.n = n\n"
             f"    def value(self): return self.n, self.limit, {n}\n"
             "    @staticmethod\n    def of_none(): return Y", self.space)

    @rule(n=numbers)
    def redefine_method(self, n):
        exec(f"def doubled(self): return {n}\nBase.doubled = doubled", self.space)

    @rule()
    def make_instance(self):
        self.space["thing"] = self.space["Thing"](2)

    @rule()
    def hold(self):
        self.space.update(
            alias=self.space["read_x"], held_class=self.space["Thing"],
            held=self.space["thing"].value)

    @rule()
    def lose_a_worker(self):
        with contextlib.suppress(WorkerLost):
            self.pool.run(os._exit, 3)

    # --- calls

    @rule(name=st.sampled_from(READERS), way=st.sampled_from(WAYS))
    def call(self, name, way):
        func = self.space[name]
        assert outcome(lambda: way(self.pool, func)) == outcome(lambda: plainly(func)), name

    @rule(way=st.sampled_from(WAYS))
    def call_with_an_instance(self, way):
        func, thing = self.space["read_given"], self.space["thing"]
        assert outcome(lambda: way(self.pool, func, thing)) == outcome(lambda: plainly(func, thing))

    @rule(way=st.sampled_from(WAYS))
    def call_a_method(self, way):
        func = self.space["thing"].value
        assert outcome(lambda: way(self.pool, func)) == outcome(lambda: plainly(func))


@pytest.mark.timeout(600)
def test_a_script_that_changes(make_pool, monkeypatch):
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    with make_pool(2) as pool:
        machine = type("Machine", (ScriptMachine,), {"pool": pool, "space": vars(main)})
        run_state_machine_as_test(machine, settings=settings(
            max_examples=so_much(plain=25, thorough=300), stateful_step_count=30, deadline=None,
            suppress_health_check=list(HealthCheck)))
