"""Which names of __main__ a pickle refers to: read from it, compared with pickletools."""

import pickle
import pickletools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex._core.names import names_in, note_names, take_names


def by_pickletools(data):
    """The same, with a stack of strings."""
    found, strings, memo = set(), [], []
    for opcode, argument, _ in pickletools.genops(data):
        if "UNICODE" in opcode.name:
            strings.append(argument)
            fresh = argument
        elif opcode.name == "MEMOIZE":
            memo.append(fresh)
        else:
            fresh = None
            if opcode.name in ("BINGET", "LONG_BINGET") and memo[argument] is not None:
                strings.append(memo[argument])
            elif opcode.name == "STACK_GLOBAL" and strings[-2] == "__main__":
                found.add(strings[-1].partition(".")[0])
    return found


class Named:
    """Pickled by a name in __main__."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


@pytest.fixture(autouse=True, scope="module")
def names_in_main():
    """Objects in __main__ that are pickled by their names."""
    main = sys.modules["__main__"]
    made = {}
    for name in ("alpha", "beta", "gamma", "λ"):
        made[name] = Named(name)
        made[name].__module__ = "__main__"
        setattr(main, name, made[name])
    yield made
    for name in made:
        delattr(main, name)


values = st.recursive(
    st.one_of(
        st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.booleans(),
        st.sampled_from(["alpha", "beta", "gamma", "λ"]).map(lambda name: ("global", name)),
        st.just("__main__"), st.integers(0, 300).map(lambda n: [str(x) for x in range(n)]),
        st.just(pickle), st.just(pickle.dumps)),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner),
        st.frozensets(st.integers())),
    max_leaves=20).filter(lambda value: value is not pickle)


def with_globals(value):
    """The value with what stands for globals replaced by them; which ones."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == "global":
        return getattr(sys.modules["__main__"], value[1]), {value[1]}
    if isinstance(value, (list, tuple)):
        pairs = [with_globals(item) for item in value]
        return type(value)(item for item, _ in pairs), set().union(*(names for _, names in pairs))
    if isinstance(value, dict):
        pairs = {key: with_globals(item) for key, item in value.items()}
        return ({key: item for key, (item, _) in pairs.items()},
                set().union(*(names for _, names in pairs.values())))
    return value, set()


@given(values)
def test_as_pickletools_reads_it(value):
    try:
        value, names = with_globals(value)
        data = pickle.dumps(value, 5)
    except (TypeError, pickle.PicklingError):
        return
    assert names_in(data) == by_pickletools(data) == names


def test_a_qualified_name_is_known_by_its_first_part():
    main = sys.modules["__main__"]
    main.Outer = type("Outer", (), {"__module__": "__main__"})
    main.Outer.Inner = type("Inner", (), {"__module__": "__main__", "__qualname__": "Outer.Inner"})
    try:
        assert names_in(pickle.dumps([main.Outer.Inner, main.Outer])) == {"Outer"}
    finally:
        del main.Outer


@given(st.binary())
def test_what_is_no_pickle_does_no_harm(data):
    found = names_in(data)
    assert found is None or isinstance(found, set)


@given(st.binary(max_size=30), st.integers(0, 200))
def test_a_pickle_that_is_cut_off_does_no_harm(data, end):
    names_in(pickle.dumps([data, "__main__", {data: data}])[:end])


def test_names_are_noted_for_a_thread():
    take_names()
    note_names(["a"])
    note_names({"b", "a"})
    assert take_names() == {"a", "b"}
    assert take_names() == set()
