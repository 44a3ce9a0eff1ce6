"""What the worst of users has the workers do; see test_bad_input.py. Imported by the workers from
here, so all of it is to be pickled by reference unless it says otherwise."""

import asyncio
import builtins
import contextlib
import ctypes
import gc
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import types
import warnings
from dataclasses import dataclass

HOME = int(os.environ.setdefault("DISTEX_HOSTILE_HOME", str(os.getpid())))  # the pool's process


def identity(value):
    return value


def call(func, *args):
    return func(*args)


def count(*args, **kwargs):
    return len(args), len(kwargs)


def ignore(*args, **kwargs):
    return "ignored"


def kind(value):
    return type(value).__name__


# --- pickling


def make(func, *args):
    """To be called at the place where it is unpickled."""
    return func(*args)


class Reduces:
    """Is unpickled as what this call gives, or raises.

    Args:
        at_home: whether the call is made in the pool's process too.
    """

    def __init__(self, func, *args, at_home=True):
        self.state = func, args, at_home

    def __reduce__(self):
        return call_or_come_back, self.state


class ReducesWhilePickled:
    """Makes a call while it is pickled, and becomes its result."""

    def __init__(self, func, *args):
        self.call = func, *args

    def __reduce__(self):
        return identity, (make(*self.call),)


def call_or_come_back(func, args, at_home):
    if not at_home and os.getpid() == HOME:
        return Reduces(func, *args, at_home=at_home)
    return func(*args)


class CallableReduces(Reduces):
    def __call__(self):
        return "called"


class RaisesInReduce:
    """Raises while it is pickled."""

    def __init__(self, exception_type):
        self.exception_type = exception_type

    def __reduce__(self):
        raise self.exception_type("while it was pickled")

    def __call__(self):
        return "called"


class ReducesToNonsense:
    def __reduce__(self):
        return 3


def throw(exception_type, *args):
    raise exception_type(*args)


async def throw_async(exception_type, *args):
    await asyncio.sleep(0)
    raise exception_type(*args)


def give(kind, *args):
    """A value that is made where it is returned."""
    return kind(*args)


def generator():
    yield 1


def frame():
    return sys._getframe()


def memory():
    return memoryview(b"memory")


def opened():
    return open(os.devnull)


async def nothing_async():
    pass


def nested_list(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def nested_tuple(depth):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


def nested_dict(depth):
    value = {}
    for _ in range(depth):
        value = {"in": value}
    return value


def depth_of(value):
    depth = 0
    while value:
        value = value["in"] if isinstance(value, dict) else value[0]
        depth += 1
    return depth


def holding_a_lock():
    lock = threading.Lock()
    return lambda: lock.locked()


class HoldsALock:
    def __init__(self):
        self.lock = threading.Lock()

    def method(self):
        return self.lock

    def __call__(self):
        return self.lock


# --- exceptions


class Plain(Exception):
    pass


class NotOrdinary(BaseException):
    pass


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class KeywordOnly(Exception):
    def __init__(self, *, code):
        super().__init__("keyword only")
        self.code = code


class NewWantsMore(Exception):
    def __new__(cls, one, two):
        return super().__new__(cls, one)


class WithALock(Exception):
    def __init__(self):
        super().__init__("with a lock")
        self.lock = threading.Lock()


class ReducesTo(Exception):
    """Is unpickled as something else."""

    def __init__(self, func, *args):
        super().__init__("not what it seems")
        self.call = func, *args

    def __reduce__(self):
        return make, self.call


class CannotReduce(Exception):
    def __init__(self, exception_type):
        super().__init__("not to be pickled")
        self.exception_type = exception_type

    def __reduce__(self):
        raise self.exception_type("while the exception was pickled")


class Mute(Exception):
    """Can't be shown."""

    def __init__(self, exception_type):
        super().__init__(exception_type)
        self.exception_type = exception_type

    def __str__(self):
        raise self.exception_type("no text")

    __repr__ = __str__


class MuteAndCannotReduce(Mute):
    def __reduce__(self):
        raise self.exception_type("no pickle either")


class StrIsNone(Exception):
    def __str__(self):
        return None


class WrongNotes(Exception):
    def __init__(self):
        super().__init__("with wrong notes")
        self.__notes__ = 5

    def __reduce__(self):
        return type(self), ()


class RefusesNotes(Exception):
    def add_note(self, note):
        raise RuntimeError("no notes")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class FrozenAndWell(Frozen):
    def __reduce__(self):
        return type(self), (self.code,)


class Hidden(Exception):
    """Claims to be something else."""

    @property
    def __class__(self):
        return int


class HidesItsClass(Exception):
    @property
    def __class__(self):
        raise RuntimeError("no class")


class LooksUpNothing(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")


class Unequal(Exception):
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("no comparison")


class ExitsWhenMade(Exception):
    def __init__(self, where=None):
        super().__init__(where)
        if where == "unpickled":
            sys.exit(3)

    def __reduce__(self):
        return ExitsWhenMade, ("unpickled",)


def throw_with_a_cycle():
    first, second = Plain("first"), Plain("second")
    first.__cause__ = second
    second.__cause__ = first
    raise first


def throw_with_itself_inside():
    exc = Plain()
    exc.args = exc, exc
    raise exc


def throw_a_long_chain(length):
    exc = Plain("the first")
    for _ in range(length):
        after = Plain("the next")
        after.__context__ = exc
        exc = after
    raise exc


def throw_a_deep_group(depth):
    group = Plain("innermost")
    for _ in range(depth):
        group = ExceptionGroup("around", [group])
    raise group


def throw_keyword_only():
    raise KeywordOnly(code=3)


def throw_unpicklable_cause():
    raise Plain("outer") from WithALock()


def throw_local_type():
    class Local(Exception):
        pass

    raise Local("local")


def raise_no_exception():
    raise identity(3)


def throw_inside(depth):
    if depth:
        throw_inside(depth - 1)
    raise Plain("far down")


# --- the end of a worker, or nearly


def kill(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)


def abort():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def crash():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


async def kill_async():
    await asyncio.sleep(0)
    kill()


def interrupt():
    signal.raise_signal(signal.SIGINT)
    time.sleep(5)


def recurse():
    return recurse() + 1


def repr_of_nested(depth):
    return len(repr(nested_list(depth)))


def too_much_memory():
    return bytes(1 << 50)


def fork_and_return():
    """Both processes return."""
    return os.fork() == 0


def fork_and_raise():
    os.fork()
    raise Plain("in both processes")


async def fork_in_coroutine():
    await asyncio.sleep(0)
    forked = os.fork() == 0
    await asyncio.sleep(0)
    return forked


def fork_and_exit():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def close_files():
    os.closerange(3, 1000)
    return "closed"


# --- coroutines and loops


async def cancel_myself():
    asyncio.current_task().cancel()
    await asyncio.sleep(10)


async def cancel_myself_and_return():
    asyncio.current_task().cancel()
    return "returned"


async def cancel_all():
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(10)


async def swallow_cancellation():
    asyncio.current_task().cancel()
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return "swallowed"


async def give_coroutine():
    return nothing_async()


async def give_generator():
    return generator()


class Awaits:
    """An awaitable with this __await__."""

    def __init__(self, how):
        self.how = how

    def __await__(self):
        return self.how()


class AwaitIsNone:
    __await__ = None


class AwaitIsNumber:
    __await__ = 5


def bad_yield():
    yield 5


def no_iterator():
    return 5


def throw_in_await():
    raise Plain("in __await__")


async def agen():
    yield 1


async def leave_tasks():
    async def fails():
        await asyncio.sleep(0.001)
        raise Plain("in a task that nobody waits for")

    leave_tasks.kept = [asyncio.ensure_future(asyncio.sleep(60)), asyncio.ensure_future(fails())]
    leave_tasks.kept[1].add_done_callback(lambda task: task.exception())
    return "left"


async def leave_a_task_that_exits():
    async def exits():
        sys.exit(5)

    leave_tasks.kept = [asyncio.ensure_future(exits())]
    await asyncio.sleep(0)
    return "left"


def find_loop():
    """The worker's loop, which plain functions don't see."""
    return next(thing for thing in gc.get_objects()
                if isinstance(thing, asyncio.AbstractEventLoop) and thing.is_running())


def stop_the_loop():
    find_loop().stop()
    return "stopped"


def close_the_loop():
    find_loop().close()


async def run_nested():
    coroutine = nothing_async()
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


def refuse_tasks():
    """A task factory that raises; for one call."""
    loop = find_loop()

    def refuse(loop_, coroutine, **kwargs):
        coroutine.close()
        loop.set_task_factory(None)
        raise Plain("no tasks here")

    loop.set_task_factory(refuse)
    return nothing_async()


def bad_callbacks():
    loop = find_loop()
    loop.set_exception_handler(lambda loop, context: 1 / 0)
    loop.call_soon(throw, Plain, "in a callback")
    loop.call_soon(loop.set_exception_handler, None)


def change_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.set_event_loop_policy(None)
        asyncio.set_event_loop(None)


def debug_loop():
    find_loop().set_debug(True)


# --- the process's state


def close_stdout():
    sys.stdout.close()
    sys.stderr.close()


def no_stdout():
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None


def close_stdout_descriptors():
    for fd in 0, 1:
        with contextlib.suppress(OSError):  # closed before
            os.close(fd)


def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))


def ignore_signals():
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD:
        signal.signal(number, signal.SIG_IGN)


def change_to_a_folder_that_goes():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    shutil.rmtree(folder)


def leave_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()


def leave_busy_thread():
    def work():
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass

    threading.Thread(target=work).start()


def leave_thread_that_raises():
    threading.excepthook = lambda args: None
    thread = threading.Thread(target=throw, args=(SystemExit,))
    thread.start()
    thread.join()


def leave_child():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)


def clear_environment():
    os.environ.clear()


def clear_path():
    sys.path.clear()


def replace_modules(*names):
    for name in names:
        sys.modules[name] = None


def replace_my_module():
    sys.modules[__name__] = types.ModuleType(__name__)


def restore_my_module(module):
    sys.modules[__name__] = module


def break_builtins():
    builtins.print = builtins.open = builtins.input = None


def no_collector():
    gc.disable()
    gc.set_threshold(0)


def set_recursion_limit(limit):
    sys.setrecursionlimit(limit)


def trace():
    sys.settrace(lambda *args: None)
    threading.settrace(lambda *args: None)


def profile_that_raises():
    def profile(frame_, event, arg):
        if event == "c_return":
            sys.setprofile(None)
            raise Plain("in a profile function")

    sys.setprofile(profile)
    len("")


def warnings_are_errors():
    warnings.simplefilter("error")


def short_timeouts():
    socket.setdefaulttimeout(0.001)


def lower_limits():
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def use_all_files():
    """As many as may be open; kept until the end of the call."""
    files = []
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno
    finally:
        for file in files:
            os.close(file)


def exit_handlers():
    import atexit

    atexit.register(throw, Plain, "at exit")
    atexit.register(sys.exit, 3)


# --- values


class NoTruth:
    def __bool__(self):
        raise RuntimeError("neither true nor false")

    def __len__(self):
        raise RuntimeError("no length")


class NegativeLength:
    def __len__(self):
        return -1


class Incomparable:
    def __eq__(self, other):
        raise RuntimeError("no comparison")

    def __hash__(self):
        raise RuntimeError("no hash")


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no text")

    __str__ = __repr__

    def __format__(self, spec):
        raise RuntimeError("no format")


class AnyAttribute:
    """Has them all, but for those of pickle."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class AnyAttributeAtAll:
    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


class NoAttributes:
    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")


class FalseClass:
    @property
    def __class__(self):
        return tuple


class EvilMeta(type):
    def __getattr__(cls, name):
        raise RuntimeError(f"no {name}")

    def __instancecheck__(cls, instance):
        raise RuntimeError("no instances")


class OfEvilMeta(metaclass=EvilMeta):
    pass


def give_of_evil_meta():
    return OfEvilMeta()


class Text(str):
    def __len__(self):
        raise RuntimeError("no length")

    def encode(self, *args):
        raise RuntimeError("no bytes")


class Number(int):
    def __index__(self):
        raise RuntimeError("no index")

    __int__ = __bool__ = __index__


class Items(tuple):
    def __iter__(self):
        raise RuntimeError("no items")

    def __len__(self):
        return 10**6


class Name(str):
    """The name of a keyword argument that hides its value."""

    __slots__ = ()


class StrangelyNamed:

    def __init__(self):
        self.__qualname__ = Unprintable()

    def __call__(self):
        return "called"


class Spiteful:
    """A key that has its hash only once all of it has been unpickled."""

    def __init__(self):
        self.ready = True

    def __hash__(self):
        if not hasattr(self, "ready"):
            raise RuntimeError("no hash yet")
        return 1


def circle_of_keys():
    key = Spiteful()
    key.keys = {key: 1}
    return key
