"""Bad input, a table: each gives a clear error or the right result, and the next task is fine.

    CASES: what is called, and how it has to end ──> each WAY of calling ──> next tasks are fine
"""

import asyncio
import os
import pickle
import re
import signal
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from unittest import mock

import numpy
import pytest
from leftovers import nothing_left

from distex import PoolStartError, RemoteException, WorkerLost

from . import hostile, tasks
from .support import Gate, wait_until

TIMEOUT = 30  # seconds



@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind():
    """In place of the one for each test: here tests replace the workers of a shared pool."""
    with nothing_left():
        yield


# --- how a case has to end


class Gives:
    """With a result that this is true of, or that equals it."""

    def __init__(self, expected):
        self.expected = expected

    def check(self, ok, outcome):
        assert ok, repr(outcome)
        if type(self.expected) is FunctionType:
            assert self.expected(outcome)
        else:
            assert outcome == self.expected


class Raises:
    """With an exception of one of these types, which says this.

    An ``await`` and a generator can't raise StopIteration: there it is the cause of a RuntimeError.
    """

    def __init__(self, *types, says=""):
        self.types = types
        self.says = says

    def check(self, ok, outcome):
        assert not ok, f"no exception, but {outcome!r}"
        if type(outcome) is RuntimeError and StopIteration in self.types:
            outcome = outcome.__cause__
        assert type(outcome) in self.types, repr(outcome)
        notes = getattr(outcome, "__notes__", ())
        said = "\n".join([_text(outcome), *(notes if type(notes) is list else ())])
        assert re.search(self.says, said), said


class RaisesNamed:
    """With an exception of a type of this name."""

    def __init__(self, name):
        self.name = name

    def check(self, ok, outcome):
        assert not ok and type(outcome).__name__ == self.name, repr(outcome)


class Either:
    """In one of several ways."""

    def __init__(self, *ways):
        self.ways = ways

    def check(self, ok, outcome):
        for way in self.ways[:-1]:
            try:
                return way.check(ok, outcome)
            except AssertionError:
                continue
        return self.ways[-1].check(ok, outcome)


def _text(exc):
    try:
        return str(exc)
    except BaseException as failure:
        return f"no text: {failure!r}"


def lost(says):
    """The worker is lost."""
    return Raises(WorkerLost, says=says)


def remote(says):
    """The exception can't be brought over as itself."""
    return Raises(RemoteException, says=says)


# --- the cases


@dataclass
class Case:
    """One call, and how it has to end."""

    name: str
    func: object
    args: object  # a tuple, or what makes one for each call
    end: object
    kwargs: object = ()
    ways: tuple = ("submit", "run", "run_async", "map")

    def arguments(self):
        args = self.args() if callable(self.args) else self.args
        return args, dict(self.kwargs() if callable(self.kwargs) else self.kwargs)


def arg(name, make, end, func=hostile.identity):
    """A case with an argument that is made for each call."""
    return Case(name, func, lambda: (make(),), end)


def ends(name, func, args, end):
    """A case that ends a worker, which takes a while: called in one way only."""
    return Case(name, func, args, end, ways=("submit",))


DEEP = 10_000
cant_be_pickled = Raises(TypeError, pickle.PicklingError, says=r"while the arguments of .*identity")
no_pickle = Either(Gives(lambda value: True), Raises(
    TypeError, pickle.PicklingError, RecursionError, AttributeError))
result_cant_be_pickled = Raises(TypeError, pickle.PicklingError, says="while the result")

CASES = [
    # what can't be pickled, in each place
    arg("argument: generator", hostile.generator, cant_be_pickled),
    arg("argument: lock", threading.Lock, cant_be_pickled),
    arg("argument: frame", hostile.frame, cant_be_pickled),
    arg("argument: memoryview", hostile.memory, Gives(b"memory")),
    arg("argument: thread", lambda: threading.Thread(target=time.sleep), cant_be_pickled),
    arg("argument: weak reference", lambda: weakref.ref(hostile.Plain), cant_be_pickled),
    arg("argument: deep inside", lambda: {"a": [(1, {threading.Lock(): 2})]}, cant_be_pickled),
    arg("argument: holds a lock", hostile.HoldsALock, cant_be_pickled),
    arg("argument: reduces to nonsense", hostile.ReducesToNonsense, cant_be_pickled),
    Case("keyword argument: lock", hostile.ignore, (), Raises(TypeError, says="arguments of"),
         kwargs=lambda: {"lock": threading.Lock()}, ways=("submit", "run", "run_async")),
    *[Case(f"function: {name}", func, (), Raises(TypeError, says=f"while the {part}"))
      for name, func, part in [
          ("closure over a lock", hostile.holding_a_lock(), "function"),
          ("object that holds a lock", hostile.HoldsALock(), "function"),
          # single calls have what is bound among the arguments
          ("method of what holds a lock", hostile.HoldsALock().method, "(function|arguments)"),
          ("partial with a lock", partial(hostile.identity, threading.Lock()),
           "(function|arguments)"),
      ]],
    Case("result: generator", hostile.generator, (), result_cant_be_pickled),
    Case("result: lock", hostile.give, (threading.Lock,), result_cant_be_pickled),
    Case("result: frame", hostile.frame, (), result_cant_be_pickled),
    Case("result: file", hostile.opened, (), Gives(lambda file: file.read() == "")),
    Case("result: memoryview", hostile.memory, (), Gives(b"memory")),
    Case("result: coroutine of a coroutine", hostile.give_coroutine, (), result_cant_be_pickled),
    Case("result: generator of a coroutine", hostile.give_generator, (), result_cant_be_pickled),
    Case("result: asynchronous generator", hostile.agen, (), result_cant_be_pickled),
    Case("exception: with a lock", hostile.throw, (hostile.WithALock,), remote("with a lock")),
    Case("exception: with an unpicklable cause", hostile.throw_unpicklable_cause, (),
         Raises(hostile.Plain, says="outer")),

    # what raises while it is pickled
    *[arg(f"argument: raises {exc.__name__} while pickled", partial(hostile.RaisesInReduce, exc),
          Raises(exc, says=r"arguments of .*identity"))
      for exc in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration,
                  asyncio.CancelledError, hostile.NotOrdinary, RecursionError)],
    Case("function: raises while pickled", hostile.RaisesInReduce(ValueError), (),
         Raises(ValueError, says="while the function")),
    Case("function: raises SystemExit while pickled", hostile.RaisesInReduce(SystemExit), (),
         Raises(SystemExit)),
    *[Case(f"result: raises {exc.__name__} while pickled", hostile.give,
           (hostile.RaisesInReduce, exc), Raises(exc, says="while the result"))
      for exc in (ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError,
                  hostile.NotOrdinary)],
    *[Case(f"exception: raises {exc.__name__} while pickled", hostile.throw,
           (hostile.CannotReduce, exc), remote("not to be pickled"))
      for exc in (ValueError, SystemExit, KeyboardInterrupt, hostile.NotOrdinary)],

    # what raises, ends or forks while it is unpickled
    *[arg(f"argument: raises {exc.__name__} while unpickled",
          partial(hostile.Reduces, hostile.throw, exc, "not here"), Raises(exc, says="not here"))
      for exc in (LookupError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration,
                  asyncio.CancelledError, hostile.NotOrdinary)],
    *[Case(f"function: raises {exc.__name__} while unpickled",
           hostile.CallableReduces(hostile.throw, exc, "not here"), (),
           Raises(exc, says=r"(?s)not here.*while .* was being loaded"))
      for exc in (LookupError, SystemExit, KeyboardInterrupt)],
    *[Case(f"result: raises {exc.__name__} while unpickled", hostile.give,
           (hostile.Reduces, hostile.throw, exc, "not there"),
           Raises(exc, says="(?s)not there.*result"))
      for exc in (LookupError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration,
                  asyncio.CancelledError, hostile.NotOrdinary)],
    *[Case(f"exception: raises {exc.__name__} while unpickled", hostile.throw,
           (hostile.ReducesTo, hostile.throw, exc, "not there"), remote("not what it seems"))
      for exc in (LookupError, SystemExit, KeyboardInterrupt, hostile.NotOrdinary)],
    ends("argument: kills while unpickled", hostile.identity,
         lambda: (hostile.Reduces(hostile.kill),), lost("SIGKILL")),
    ends("argument: ends the process while unpickled", hostile.identity,
         lambda: (hostile.Reduces(os._exit, 0),), lost("exit code 0")),
    ends("function: kills while unpickled",
         hostile.CallableReduces(hostile.kill), (), lost("SIGKILL")),
    ends("result: kills while pickled", hostile.give, (hostile.ReducesWhilePickled, hostile.kill),
         lost("SIGKILL")),
    arg("argument: forks while unpickled",
        lambda: hostile.Reduces(hostile.fork_and_return, at_home=False), Gives(False)),
    Case("result: forks while pickled", hostile.give,
         (hostile.ReducesWhilePickled, hostile.fork_and_return), Gives(False)),

    # exceptions that lie
    Case("exception: wants two arguments", hostile.throw, (hostile.TwoArguments, 1, 2),
         remote("1 and 2")),
    Case("exception: wants a keyword", hostile.throw_keyword_only, (), remote("keyword only")),
    Case("exception: __new__ wants more", hostile.throw, (hostile.NewWantsMore, 1, 2),
         Raises(hostile.NewWantsMore)),
    Case("exception: is unpickled as a number", hostile.throw, (hostile.ReducesTo, int),
         remote("not what it seems")),
    Case("exception: is unpickled as a type", hostile.throw,
         (hostile.ReducesTo, type, ValueError("x")), remote("not what it seems")),
    Case("exception: is unpickled as another one", hostile.throw,
         (hostile.ReducesTo, hostile.Plain, "other"), Raises(hostile.Plain, says="other")),
    *[Case(f"exception: __str__ raises {exc.__name__}", hostile.throw, (hostile.Mute, exc),
           Raises(hostile.Mute))
      for exc in (RuntimeError, SystemExit, KeyboardInterrupt)],
    *[Case(f"exception: __str__ and __reduce__ raise {exc.__name__}", hostile.throw,
           (hostile.MuteAndCannotReduce, exc), remote("MuteAndCannotReduce"))
      for exc in (RuntimeError, SystemExit, KeyboardInterrupt)],
    Case("exception: __str__ gives None", hostile.throw, (hostile.StrIsNone,),
         Raises(hostile.StrIsNone)),
    Case("exception: wrong notes", hostile.throw, (hostile.WrongNotes,),
         Raises(hostile.WrongNotes, says="wrong notes")),
    Case("exception: refuses notes", hostile.throw, (hostile.RefusesNotes, "r"),
         Raises(hostile.RefusesNotes)),
    Case("exception: refuses notes while unpickled", hostile.give,
         (hostile.Reduces, hostile.throw, hostile.RefusesNotes, "r"), Raises(hostile.RefusesNotes)),
    Case("exception: refuses notes while pickled", hostile.give,
         (hostile.RaisesInReduce, hostile.RefusesNotes), Raises(hostile.RefusesNotes)),
    Case("exception: a frozen dataclass", hostile.throw, (hostile.Frozen, 3),
         remote("Frozen")),
    Case("exception: a frozen dataclass that can be made again", hostile.throw,
         (hostile.FrozenAndWell, 3), Raises(hostile.FrozenAndWell)),
    Case("exception: hides its class", hostile.throw, (hostile.HidesItsClass,),
         Either(Raises(hostile.HidesItsClass), remote("HidesItsClass"))),
    Case("exception: claims another class", hostile.throw, (hostile.Hidden,),
         Either(Raises(hostile.Hidden), remote("Hidden"))),
    Case("exception: looks up nothing", hostile.throw, (hostile.LooksUpNothing,),
         remote("LooksUpNothing")),
    Case("exception: can't be compared nor hashed", hostile.throw, (hostile.Unequal, "u"),
         Raises(hostile.Unequal)),
    Case("exception: exits when it is made again", hostile.throw, (hostile.ExitsWhenMade,),
         remote("ExitsWhenMade")),
    Case("exception: its own cause", hostile.throw_with_a_cycle, (),
         Raises(hostile.Plain, says="first")),
    Case("exception: contains itself", hostile.throw_with_itself_inside, (),
         Either(Raises(hostile.Plain), remote("Plain"))),
    Case("exception: a long chain", hostile.throw_a_long_chain, (DEEP,),
         Raises(hostile.Plain, says="the next")),
    Case("exception: a deep group", hostile.throw_a_deep_group, (DEEP,),
         Either(Raises(ExceptionGroup, says="around"), remote("ExceptionGroup"))),
    Case("exception: a group", hostile.throw,
         (ExceptionGroup, "several", [ValueError(1), TypeError(2)]),
         Raises(ExceptionGroup, says="several")),
    Case("exception: a group with KeyboardInterrupt", hostile.throw,
         (BaseExceptionGroup, "several", [KeyboardInterrupt(), SystemExit(2)]),
         Raises(BaseExceptionGroup, says="several")),
    Case("exception: ten megabytes of text", hostile.throw, (hostile.Plain, "x" * 10**7),
         Raises(hostile.Plain, says="^x{9}")),
    Case("exception: text that is no Unicode", hostile.throw, (hostile.Plain, "\udc80\0\ud800"),
         Raises(hostile.Plain, says="\udc80")),
    Case("exception: text with Unicode errors in its description", hostile.throw,
         (hostile.TwoArguments, "\udc80", 1), remote("and 1")),
    Case("exception: a local type", hostile.throw_local_type, (), RaisesNamed("Local")),
    Case("exception: none at all", hostile.raise_no_exception, (),
         Raises(TypeError, says="BaseException")),
    Case("exception: from far down", hostile.throw_inside, (400,),
         Raises(hostile.Plain, says="far down")),

    # control flow
    *[Case(f"raise {exc.__name__}", hostile.throw, (exc, 3), Raises(exc))
      for exc in (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration,
                  asyncio.CancelledError, hostile.NotOrdinary, MemoryError, BaseException)],
    *[Case(f"raise {exc.__name__} in a coroutine", hostile.throw_async, (exc, 3), Raises(exc))
      for exc in (SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration,
                  asyncio.CancelledError, hostile.NotOrdinary)],
    Case("raise StopIteration in a coroutine", hostile.throw_async, (StopIteration, 3),
         Raises(RuntimeError, says="StopIteration")),
    Case("sys.exit with a text", sys.exit, ("goodbye",), Raises(SystemExit, says="goodbye")),
    Case("quit", hostile.call, (sys.exit,), Raises(SystemExit)),
    Case("SIGINT", hostile.interrupt, (), Raises(KeyboardInterrupt)),
    Case("endless recursion", hostile.recurse, (), Raises(RecursionError)),
    Case("endless recursion in C", hostile.repr_of_nested, (10**5,), Raises(RecursionError)),
    Case("too much memory", hostile.too_much_memory, (), Raises(MemoryError)),
    ends("SIGKILL", hostile.kill, (), lost("SIGKILL")),
    ends("SIGTERM", hostile.kill, (signal.SIGTERM,), lost("SIGTERM")),
    ends("SIGKILL in a coroutine", hostile.kill_async, (), lost("SIGKILL")),
    ends("a signal of the real-time kind", hostile.kill, (signal.SIGRTMIN + 3,), lost("signal")),
    ends("abort", hostile.abort, (), lost("SIGABRT")),
    ends("segfault", hostile.crash, (), lost("SIGSEGV")),
    ends("os._exit", os._exit, (3,), lost("exit code 3")),
    ends("os._exit(0)", os._exit, (0,), lost("exit code 0")),
    Case("a fork that returns", hostile.fork_and_return, (), Gives(False)),
    Case("a fork that raises", hostile.fork_and_raise, (), Raises(hostile.Plain)),
    Case("a fork that exits", hostile.fork_and_exit, (), Gives(0)),
    Case("a fork in a coroutine", hostile.fork_in_coroutine, (), Gives(False)),
    ends("all files closed", hostile.close_files, (), lost("worker")),

    # coroutines and the loop
    Case("cancels itself", hostile.cancel_myself, (), Raises(asyncio.CancelledError)),
    Case("cancels itself and returns", hostile.cancel_myself_and_return, (),
         Either(Raises(asyncio.CancelledError), Gives("returned"))),
    Case("cancels all tasks", hostile.cancel_all, (), Raises(asyncio.CancelledError)),
    Case("swallows its cancellation", hostile.swallow_cancellation, (), Gives("swallowed")),
    Case("awaitable: bad yield", hostile.give, (hostile.Awaits, hostile.bad_yield),
         Raises(RuntimeError, says="bad yield")),
    Case("awaitable: no iterator", hostile.give, (hostile.Awaits, hostile.no_iterator),
         Raises(TypeError, says="iterator")),
    Case("awaitable: raises", hostile.give, (hostile.Awaits, hostile.throw_in_await),
         Raises(hostile.Plain, says="in __await__")),
    Case("awaitable: __await__ is None", hostile.give, (hostile.AwaitIsNone,), Raises(TypeError)),
    Case("awaitable: __await__ is a number", hostile.give, (hostile.AwaitIsNumber,),
         Raises(TypeError)),
    Case("tasks left running", hostile.leave_tasks, (), Gives("left")),
    ends("a task left behind that exits", hostile.leave_a_task_that_exits, (),
         Either(Gives("left"), lost("exit code 5"))),
    ends("the loop stopped", hostile.stop_the_loop, (), Either(Gives("stopped"), lost("exit code"))),
    Case("the loop closed", hostile.close_the_loop, (), Raises(RuntimeError)),
    Case("a loop in the loop", hostile.run_nested, (), Raises(RuntimeError, says="running event")),
    Case("a task factory that raises", hostile.refuse_tasks, (), Raises(hostile.Plain)),
    Case("callbacks that raise", hostile.bad_callbacks, (), Gives(None)),
    Case("another policy, and no loop set", hostile.change_policy, (), Gives(None)),
    Case("the loop in debug mode", hostile.debug_loop, (), Gives(None)),

    # depth
    *[arg(f"argument: {make.__name__}, {DEEP} deep", partial(make, DEEP),
          Either(Gives(DEEP), Raises(RecursionError)), func=hostile.depth_of)
      for make in (hostile.nested_list, hostile.nested_tuple, hostile.nested_dict)],
    *[Case(f"result: {make.__name__}, {DEEP} deep", make, (DEEP,),
           Either(Gives(lambda value: hostile.depth_of(value) == DEEP), Raises(RecursionError)))
      for make in (hostile.nested_list, hostile.nested_tuple, hostile.nested_dict)],

    # much and nothing
    *[arg(f"value: {name}", partial(lambda value: value, value), Gives(value))
      for name, value in {
          "empty bytes": b"", "empty text": "", "empty tuple": (), "empty list": [],
          "empty dictionary": {}, "empty set": set(), "nothing": None, "ellipsis": ...,
          "not implemented": NotImplemented, "empty bytearray": bytearray(),
          "empty tuples": ((), ((), ())), "a type": int, "a built-in": len, "a module": os.path,
          "a large number": 7**20_000, "the least 64 bits": -2**63, "one below": -2**63 - 1,
          "text that is no Unicode": "\udc80", "zeros in text": "\0" * 100,
          "infinity": float("inf"), "much text": "ü" * 10**6, "many bytes": b"x" * 10**7,
          "many items": list(range(10**5)), "a wide tuple": tuple(range(10**5)),
          "a dictionary of many": dict.fromkeys(range(10**4)),
      }.items()],
    arg("value: an empty array", lambda: numpy.zeros((0, 3)), Gives(lambda a: a.shape == (0, 3))),
    arg("value: many buffers", lambda: [numpy.full(1000, i) for i in range(1500)],
        Gives(lambda arrays: all((a == i).all() for i, a in enumerate(arrays)))),
    arg("value: an array of objects", lambda: numpy.array([{}, None, "x"], dtype=object),
        Gives(lambda a: list(a) == [{}, None, "x"])),
    Case("many arguments", hostile.count, tuple(range(10_000)), Gives((10_000, 0))),
    Case("many keyword arguments", hostile.count, (), Gives((0, 5000)),
         kwargs={f"k{i}": i for i in range(5000)}, ways=("submit", "run", "run_async")),
    Case("strange keywords", hostile.count, (), Gives((0, 5)),
         kwargs={"": 1, "a b": 2, "\udc80": 3, "self": 4, "None": 5},
         ways=("submit", "run", "run_async")),
    Case("a keyword of a type of its own", hostile.count, (), Gives((0, 1)),
         kwargs={hostile.Name("k"): 1}, ways=("submit", "run", "run_async")),

    # values with evil methods
    arg("value: no truth, no length", hostile.NoTruth, Gives("NoTruth"), hostile.kind),
    arg("value: a negative length", hostile.NegativeLength, Gives("NegativeLength"), hostile.kind),
    arg("value: can't be compared", hostile.Incomparable, Gives("Incomparable"), hostile.kind),
    arg("value: can't be printed", hostile.Unprintable, Gives("Unprintable"), hostile.kind),
    arg("value: any attribute", hostile.AnyAttribute, Gives("AnyAttribute"), hostile.kind),
    arg("value: any attribute at all", hostile.AnyAttributeAtAll, no_pickle, hostile.kind),
    arg("value: no attributes", hostile.NoAttributes, Raises(RuntimeError, says="arguments of")),
    arg("value: claims another class", hostile.FalseClass,
        Either(Gives("FalseClass"), Raises(TypeError, pickle.PicklingError)), hostile.kind),
    arg("value: an evil metaclass", hostile.OfEvilMeta,
        Either(Gives("OfEvilMeta"), Raises(RuntimeError)), hostile.kind),
    arg("value: a text without length", partial(hostile.Text, "text"), Gives("Text"), hostile.kind),
    arg("value: a number without value", partial(hostile.Number, 3),
        Either(Gives("Number"), Raises(RuntimeError)), hostile.kind),
    arg("value: a tuple without items", partial(hostile.Items, (1, 2)),
        Either(Gives("Items"), Raises(RuntimeError)), hostile.kind),
    arg("value: a key that has no hash yet", hostile.circle_of_keys,
        Raises(RuntimeError, says="no hash yet")),
    *[Case(f"result: {kind.__name__}", hostile.give, (kind,), Gives(
        lambda value, kind=kind: type(value) is kind))
      for kind in (hostile.NoTruth, hostile.NegativeLength, hostile.Incomparable,
                   hostile.Unprintable, hostile.AnyAttribute)],
    Case("result: an evil metaclass", hostile.give_of_evil_meta, (),
         Either(Gives(lambda value: True), Raises(RuntimeError))),
    Case("result: any attribute at all", hostile.give, (hostile.AnyAttributeAtAll,), no_pickle),
    Case("result: no attributes", hostile.give, (hostile.NoAttributes,),
         Raises(RuntimeError, says="while the result")),

    # strange functions
    *[Case(f"function: {name}", func, (), Raises(TypeError, says="not callable"))
      for name, func in {
          "a number": 3, "None": None, "a text": "len", "a module": os.path, "ellipsis": ...,
          "not hashable": [len],
      }.items()],
    Case("function: a type", dict, (), Gives({})),
    Case("function: a method of a type", str.upper, ("x",), Gives("X")),
    Case("function: strangely named", hostile.StrangelyNamed(), (),
         Either(Gives("called"), Raises(RuntimeError))),
    Case("function: any attribute at all", hostile.AnyAttributeAtAll(), (), no_pickle),
    Case("function: a mock", mock.Mock(), (), no_pickle),
    Case("function: a partial of a partial", partial(partial(pow, 2), 3), (), Gives(8)),
    Case("function: wrong arguments", abs, (1, 2), Raises(TypeError, says="argument")),
    Case("function: wrong keywords", abs, (1,), Raises(TypeError, says="keyword"),
         kwargs={"no": 1}, ways=("submit", "run", "run_async")),

    # the process's state
    *[Case(name, func, args, Gives(None)) for name, func, args in [
        ("stdout closed", hostile.close_stdout, ()),
        ("no stdout", hostile.no_stdout, ()),
        ("standard descriptors closed", hostile.close_stdout_descriptors, ()),
        ("signals blocked", hostile.block_signals, ()),
        ("signals ignored", hostile.ignore_signals, ()),
        ("in a folder that is gone", hostile.change_to_a_folder_that_goes, ()),
        ("a thread left running", hostile.leave_thread, ()),
        ("a busy thread left", hostile.leave_busy_thread, ()),
        ("a thread that exits", hostile.leave_thread_that_raises, ()),
        ("a child left running", hostile.leave_child, ()),
        ("the environment cleared", hostile.clear_environment, ()),
        ("sys.path cleared", hostile.clear_path, ()),
        ("modules replaced", hostile.replace_modules,
         ("pickle", "cloudpickle", "distex", "distex.errors", "traceback", "msgspec", "json")),
        ("built-ins replaced", hostile.break_builtins, ()),
        ("no garbage collector", hostile.no_collector, ()),
        ("a high recursion limit", hostile.set_recursion_limit, (5000,)),
        ("a low recursion limit", hostile.set_recursion_limit, (150,)),
        ("an ordinary recursion limit", hostile.set_recursion_limit, (1000,)),
        ("a trace function", hostile.trace, ()),
        ("warnings are errors", hostile.warnings_are_errors, ()),
        ("short timeouts", hostile.short_timeouts, ()),
        ("few files", hostile.lower_limits, ()),
        ("handlers at exit that raise", hostile.exit_handlers, ()),
    ]],
    Case("all files used", hostile.use_all_files, (), Gives(24)),
    Case("a profile function that raises", hostile.profile_that_raises, (), Raises(hostile.Plain)),
]


# --- the ways of calling


def by_submit(pool, func, args, kwargs):
    return pool.submit(func, *args, **kwargs).result(TIMEOUT)


def by_run(pool, func, args, kwargs):
    return pool.run(func, *args, **kwargs)


def by_run_async(pool, func, args, kwargs):
    """From a loop of its own."""
    async def main():
        task = pool.run_async(func, *args, **kwargs)
        async with asyncio.timeout(TIMEOUT):
            while not task.done():
                await asyncio.sleep(0.001)
        return task  # a loop ends when SystemExit or KeyboardInterrupt is raised in it

    return asyncio.run(main()).result()


def by_map(pool, func, args, kwargs):
    (result,) = pool.map(func, [args], star=True, timeout=TIMEOUT)
    return result


WAYS = {"submit": by_submit, "run": by_run, "run_async": by_run_async, "map": by_map}


def all_is_well(pool):
    """Each worker, and each way, has the next task done."""
    wait_until(lambda: pool.total_workers() == 2, what="the workers")
    while True:
        try:
            assert pool.run_on_all(tasks.double, 21) == [42, 42]
            break
        except WorkerLost:  # one that was about to be
            wait_until(lambda: pool.total_workers() == 2, what="the workers")
    assert pool.run(tasks.double, 3) == 6
    assert list(pool.map(tasks.double, range(4))) == [0, 2, 4, 6]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_worst_gives_a_clear_error_or_the_right_result(pool, case):
    for way in case.ways:
        args, kwargs = case.arguments()
        try:
            ok, outcome = True, WAYS[way](pool, case.func, args, kwargs)
        except BaseException as exc:
            ok, outcome = False, exc
        case.end.check(ok, outcome)
        outcome = None
    all_is_well(pool)


# --- input of maps that fails

INPUT_ERRORS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError,
                hostile.NotOrdinary]
ITEMS = 500


def items_until(exception_type):
    yield from range(ITEMS)
    raise exception_type("no more")


async def items_until_async(exception_type):
    for x in range(ITEMS):
        yield x
    raise exception_type("no more")


def results_and_end(pool, func, items, asynchronous):
    """What a map gives, and the exception that ends it."""
    results = []

    async def take():
        try:
            async for result in pool.map_async(func, items):
                results.append(result)
        except BaseException as exc:
            return exc

    if asynchronous:
        return results, asyncio.run(take())
    try:
        results.extend(pool.map(func, items))
    except BaseException as exc:
        return results, exc
    return results, None


@pytest.mark.parametrize("asynchronous", [False, True], ids=["map", "map_async"])
@pytest.mark.parametrize("make", [items_until, items_until_async])
def test_a_map_gives_all_results_and_then_what_its_input_raised(pool, make, asynchronous):
    list(pool.map(tasks.double, range(1000)))  # chunks hold many items from now on
    for exception_type in INPUT_ERRORS:
        results, end = results_and_end(pool, tasks.double, make(exception_type), asynchronous)
        assert type(end).__name__ == exception_type.__name__, repr(end)
        if exception_type not in (KeyboardInterrupt, SystemExit):  # these come at once
            assert results == [2 * x for x in range(ITEMS)]
    all_is_well(pool)


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt, hostile.NotOrdinary])
def test_what_would_end_a_program_does_not_end_the_pools_own_loop(
        pool, exception_type, caplog, tmp_path):
    throws = partial(hostile.throw, exception_type)
    for asynchronous in False, True:
        results, end = results_and_end(pool, throws, items_until_async(ValueError), asynchronous)
        assert results == [] and type(end) is exception_type
    with pytest.raises(exception_type):
        pool.run_on_all(throws)
    gate = Gate(tmp_path)  # of a future that is done the callbacks would run here
    future = pool.submit(tasks.pass_gate, gate.path, 1)
    seen = []
    for callback in throws, seen.append:
        future.add_done_callback(callback)
    gate.open()
    assert future.result(TIMEOUT) == 1
    wait_until(lambda: seen, what="the callback after the one that raises")
    all_is_well(pool)


# --- initializers


INITIALIZERS_THAT_FAIL = [
    ("raises SystemExit", sys.exit, (3,), "SystemExit: 3"),
    ("raises KeyboardInterrupt", hostile.throw, (KeyboardInterrupt, "k"), "KeyboardInterrupt: k"),
    ("raises CancelledError", hostile.throw_async, (asyncio.CancelledError, "c"), "CancelledError"),
    ("raises what can't be shown", hostile.throw, (hostile.MuteAndCannotReduce, SystemExit), "Mute"),
    ("raises what can't be pickled", hostile.throw, (hostile.WithALock,), "with a lock"),
    ("kills", hostile.kill, (), "SIGKILL"),
]
INITIALIZERS_THAT_DO_NOT = [
    ("gives what can't be pickled", hostile.generator, ()),
    ("closes stdout", hostile.close_stdout, ()),
    ("leaves a thread", hostile.leave_thread, ()),
    ("blocks signals", hostile.block_signals, ()),
    ("stops the loop", hostile.stop_the_loop, ()),
    ("forks", hostile.fork_and_return, ()),
]


@pytest.mark.parametrize(("name", "func", "args", "says"), INITIALIZERS_THAT_FAIL,
                         ids=[case[0] for case in INITIALIZERS_THAT_FAIL])
def test_an_initializer_that_fails_is_a_clear_error(make_pool, name, func, args, says):
    with pytest.raises(PoolStartError, match=says):
        make_pool(1, initializer=func, initargs=args)


@pytest.mark.parametrize(("name", "func", "args"), INITIALIZERS_THAT_DO_NOT,
                         ids=[case[0] for case in INITIALIZERS_THAT_DO_NOT])
def test_an_initializer_that_does_something_strange(make_pool, name, func, args):
    with make_pool(1, initializer=func, initargs=args) as pool:
        assert pool.run(tasks.double, 4) == 8


def test_there_are_a_hundred_cases_and_each_has_its_name():
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)
