"""What workers are told to call: bound methods and partials become calls of plain functions."""

import functools
import threading

import pytest
from peers import CALL, FUNCTION, Pool, values

from distex._core.caller import Caller
from distex.client.functions import FunctionCache
from distex.client.loop_thread import Future
from distex.wire.serializers import for_functions, is_as_able

FUNCTIONS = for_functions(1)


class Sender:
    """A Caller, and what it sends to the only worker."""

    def __init__(self, pool, unwraps=True):
        self.pool = pool
        self.cache = FunctionCache(pool.dispatcher.functions, FUNCTIONS, unwraps)
        self.caller = Caller(pool.dispatcher, self.cache, Future)
        self.functions = {}

    def call(self, func, *args, **kwargs):
        """The function, the arguments and the keyword arguments that the worker gets."""
        future = self.caller.call(func, args, kwargs)
        if future.done():
            future.result()
        (worker,) = self.pool.workers
        for frame in worker.frames():
            if frame.kind == FUNCTION:
                self.functions[frame.id] = FUNCTIONS.loads(frame.body, frame.segments)
            elif frame.kind == CALL:
                worker.answers(frame.id)
                return self.functions[frame.aux], *values(frame)
        raise AssertionError("no call came")


@pytest.fixture(params=["first", "again"])
def sender(request):
    """The same is to be sent whether or not the function is known already."""
    with Pool(qsize=10) as pool:
        sender = Sender(pool)
        if request.param == "again":
            for func in plain, Thing.get, Child.get:
                sender.cache.get(func)
        yield sender
        sender.cache.clear()


def plain(*args, **kwargs):
    return args, kwargs


class Thing:
    def __init__(self, value=0):
        self.value = value

    def __eq__(self, other):
        return type(other) is type(self) and other.value == self.value

    __hash__ = None

    def get(self, *args):
        return self.value, args

    @classmethod
    def make(cls, value):
        return cls(value)


class Child(Thing):
    def get(self):
        return "child's"


def test_a_bound_method_is_its_function_called_with_the_object(sender):
    assert sender.call(Thing(3).get, 1, 2) == (Thing.get, (Thing(3), 1, 2), {})
    assert sender.call(Thing(4).get) == (Thing.get, (Thing(4),), {})
    assert list(sender.functions.values()) == [Thing.get]  # sent once


def test_an_overridden_method_stays_that_of_the_parent(sender):
    """pickle would look it up by its name, and find the child's."""
    assert sender.call(super(Child, Child(1)).get) == (Thing.get, (Child(1),), {})
    assert sender.call(Child(1).get) == (Child.get, (Child(1),), {})


def test_a_partial_is_its_function_called_with_more_arguments(sender):
    partial = functools.partial(functools.partial(plain, 1, a=2, b=3), 4, b=5)
    assert sender.call(partial, 6, c=7) == (plain, (1, 4, 6), {"a": 2, "b": 5, "c": 7})
    assert sender.call(partial, b=8) == (plain, (1, 4), {"a": 2, "b": 8})
    assert partial.keywords == {"a": 2, "b": 5}
    assert sender.call(functools.partial(plain)) == (plain, (), {})


def test_a_partial_of_a_bound_method_of_a_partial(sender):
    assert sender.call(functools.partial(Thing(3).get, 1), 2) == (Thing.get, (Thing(3), 1, 2), {})
    thing = functools.partial(functools.partial(Thing(3).get), 1)
    assert sender.call(thing) == (Thing.get, (Thing(3), 1), {})


@pytest.mark.skipif(not hasattr(functools, "Placeholder"), reason="came with CPython 3.14")
def test_a_partial_with_gaps_goes_as_it_is(sender):
    func, args, _ = sender.call(functools.partial(plain, functools.Placeholder, 1), 0)
    assert (func(*args), args) == (((0, 1), {}), (0,))


def test_arguments_are_not_compared(sender):
    class NoTruth:
        def __eq__(self, other):
            raise AssertionError("compared")

        __hash__ = None

    func, args, _ = sender.call(functools.partial(plain, NoTruth()))
    assert func is plain and type(args[0]).__name__ == "NoTruth"


def test_methods_of_classes_that_go_by_value_go_with_their_object(sender):
    class Local:
        def get(self):
            return 1

    func, args, _ = sender.call(Local().get)
    assert (func.__func__.__name__, func(), args) == ("get", 1, ())


def test_methods_of_classes_and_of_built_in_objects_go_as_they_are(sender):
    func, args, _ = sender.call(Thing.make, 1)
    assert (func, args) == (Thing.make, (1,))
    func, args, _ = sender.call([1, 2].index, 2)
    assert (func(*args), args) == (1, (2,))


def test_nothing_is_unwrapped_where_the_data_can_hold_less():
    with Pool() as pool:
        sender = Sender(pool, unwraps=False)
        func, args, _ = sender.call(Thing(3).get, 1)
        assert (func.__self__, args) == (Thing(3), (1,))
        func, args, _ = sender.call(functools.partial(plain, 2), 1)
        assert (func.args, args) == ((2,), (1,))
        sender.cache.clear()
    pickle, cloudpickle, dill, msgspec = range(4)
    assert is_as_able(pickle, cloudpickle) and is_as_able(cloudpickle, pickle)
    assert is_as_able(dill, dill) and not is_as_able(cloudpickle, dill)
    assert not is_as_able(msgspec, cloudpickle)


def test_an_object_that_cant_be_pickled_fails_its_call_alone():
    with Pool(qsize=10) as pool:
        sender = Sender(pool)
        with pytest.raises(TypeError, match="lock") as info:
            sender.call(Thing(threading.Lock()).get)
        assert "Thing.get" in info.value.__notes__[-1]
        assert sender.call(Thing(1).get)[1] == (Thing(1),)
        sender.cache.clear()
