"""What the tests have the workers do. Imported by the workers from here."""

import asyncio
import contextvars
import ctypes
import logging
import os
import signal
import threading
import time
import uuid
from pathlib import Path

from distex import TaskInterrupted

# --- plain


def double(x):
    return x * 2


def add(x, y):
    return x + y


def negate(x):
    return -x


def give_back(*args, **kwargs):
    return args, kwargs


def nothing():
    pass


def length(data):
    return len(data)


def zeros(n):
    return bytes(n)


def pid():
    return os.getpid()


def pid_of(item):
    return os.getpid()


def slow_pid_of(item):
    time.sleep(0.01)
    return os.getpid()


def grow(items):
    """Changes its argument: the list after one more item."""
    items.append(len(items))
    return items


def same(a, b):
    return a is b


def nest(depth):
    """A list in a list in a list ..."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value):
    depth = 0
    while value:
        value = value[0]
        depth += 1
    return depth


def generator():
    yield 1


# --- exceptions


def fail(message="failed"):
    raise ValueError(message)


def fail_at(bad, x):
    if x == bad:
        raise ValueError(f"no {x}")
    return x


def throw(exception_type, *args):
    raise exception_type(*args)


async def throw_async(exception_type, *args):
    await asyncio.sleep(0)
    raise exception_type(*args)


class UnpicklableError(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


def throw_unpicklable():
    raise UnpicklableError("with a lock")


class TwoArgumentsError(Exception):
    """Pickles, and can't be unpickled: the usual mistake."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def throw_two_arguments():
    raise TwoArgumentsError("one", "two")


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    def __reduce__(self):
        raise RuntimeError("no pickle")


class Unpicklable:
    def __reduce__(self):
        raise TypeError("this can't be pickled")


class Unloadable:
    """Pickles, and fails to be unpickled in another process."""

    def __init__(self, message="this can't be unpickled"):
        self.message = message

    def __reduce__(self):
        return load_here_only, (os.getpid(), self.message)

    def __call__(self, *args):
        return args


def load_here_only(home, message):
    if os.getpid() != home:
        raise LookupError(message)
    return Unloadable(message)


def give_unloadable():
    return Unloadable("this result can't be unpickled")


class Collectable:
    """Something that weak references can refer to; equal where its number is."""

    def __init__(self, number=0):
        self.number = number

    def method(self, x=0):
        return self.number + x

    async def method_async(self, x=0):
        return self.number + x


def take_collectable(thing):
    return Collectable(thing.number + 1)


def throw_collectable(thing):
    raise ValueError(thing.number)


# --- waiting


def mark(folder, word="arrived"):
    Path(folder, f"{word}-{uuid.uuid4().hex}").touch()


def marks(folder, word="arrived"):
    return len(list(Path(folder).glob(f"{word}-*")))


GATE_TIMEOUT = 5.0  # seconds; so that a test that fails before it opens its gate does not hang


def is_open(gate, deadline):
    if time.monotonic() > deadline:
        raise TimeoutError(f"nobody opened {gate}")
    return Path(gate, "open").exists()


def pass_gate(gate, value=None):
    """Say that it has arrived, and give the value once the gate is open."""
    mark(gate)
    deadline = time.monotonic() + GATE_TIMEOUT
    while not is_open(gate, deadline):
        time.sleep(0.002)
    return value


async def pass_gate_async(gate, value=None):
    mark(gate)
    deadline = time.monotonic() + GATE_TIMEOUT
    while not is_open(gate, deadline):
        await asyncio.sleep(0.002)
    return value


def marked(gate, value=None):
    """Say that it was run."""
    mark(gate)
    return value


async def wait_for_cancel(gate):
    """Say that it has begun, and that it was cancelled."""
    mark(gate)
    try:
        await asyncio.sleep(GATE_TIMEOUT)
    except asyncio.CancelledError:
        mark(gate, "cancelled")
        raise


class Crowd:
    """How many of the coroutines below are on one worker at a time."""

    present = 0
    peak = 0


async def meet(number):
    """Wait until so many of these coroutines run on this worker together."""
    Crowd.present += 1
    Crowd.peak = max(Crowd.peak, Crowd.present)
    deadline = time.monotonic() + 10
    while Crowd.peak < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {Crowd.peak} of {number}")
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.002)
    Crowd.present -= 1
    return Crowd.peak


async def double_async(x):
    await asyncio.sleep(0)
    return x * 2


async def sleep_and_give(seconds, value=None):
    await asyncio.sleep(seconds)
    return value


# --- initializers

state = {}


def remember(key, value):
    state[key] = value


async def remember_async(key, value):
    await asyncio.sleep(0)
    state[key] = value


def sometimes_async(x):
    """A plain function that returns a coroutine for odd numbers."""
    async def give():
        await asyncio.sleep(0)
        return x

    return give() if x % 2 else x


def recall(key):
    return state.get(key)


def recall_for(item, key="key"):
    return state.get(key)


# --- the end of a worker


def kill_worker(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_worker(code):
    os._exit(code)


def crash_worker():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's faulthandler is not inherited
    ctypes.string_at(0)


def mark_and_die(gate):
    mark(gate)
    os._exit(9)


def die_once(gate, value):
    """Die at the first call only."""
    if Path(gate, "died").exists():
        return value
    Path(gate, "died").touch()
    os._exit(7)


# --- what is to be interrupted


def compute_until(end):
    # in a function of its own: a signal at the end of a loop's round is not caught by the 'try'
    # that is around the loop in CPython 3.13
    while time.monotonic() < end:
        pass


def spin(folder, seconds=60.0):
    """Compute, and say if that is interrupted."""
    end = time.monotonic() + seconds
    try:
        mark(folder)
        compute_until(end)
    except TaskInterrupted:
        mark(folder, "interrupted")
        raise


def sleep_behind(folder):
    """Sleep, which an interrupt ends too."""
    mark(folder)
    time.sleep(60)


async def block(folder, turns=0):
    """Have the worker's loop hang, in a later step of the coroutine."""
    for _ in range(turns):
        await asyncio.sleep(0)
    spin(folder)


async def block_behind(folder):
    await asyncio.sleep(0)
    await block(folder)


async def block_stubbornly(folder):
    spin_stubbornly(folder)


async def clean_up_slowly(folder):
    """Take a while to end when it is cancelled, which nobody is to disturb."""
    mark(folder)
    try:
        await asyncio.sleep(GATE_TIMEOUT)
    except asyncio.CancelledError:
        compute_until(time.monotonic() + 0.4)
        mark(folder, "cleaned")
        raise


def pass_gate_at(item, folder, slow):
    """Give the item; the slow one waits at the gate."""
    return pass_gate(folder, item) if item == slow else item


def spin_stubbornly(folder):
    """Compute, whatever is raised here."""
    end = time.monotonic() + 60
    begun = False
    while time.monotonic() < end:
        try:
            if not begun:
                mark(folder)
                begun = True
            compute_until(end)
        except TaskInterrupted:
            mark(folder, "interrupted")


def die_at_first(folder, item, doomed=()):
    """Give the item; the doomed ones kill the worker the first time."""
    mark(folder, f"ran{item}")
    if item in doomed and len(list(Path(folder).glob(f"ran{item}-*"))) == 1:
        os._exit(7)
    return item


def die_for(folder, item, doomed):
    """Give the item; this one kills each worker."""
    mark(folder, f"ran{item}")
    if item == doomed:
        os._exit(7)
    return item


async def die_beside_others(folder, item, guilty, together):
    """Give the item; this one kills each worker, once it is there with the others."""
    mark(folder)
    deadline = time.monotonic() + GATE_TIMEOUT
    while marks(folder) < together and time.monotonic() < deadline:
        await asyncio.sleep(0.002)
    if item == guilty:
        os._exit(7)
    await asyncio.sleep(0.01)
    return item


# --- context

request = contextvars.ContextVar("request", default="none")


def request_here():
    return request.get()


def request_for(item):
    return item, request.get()


async def request_after(seconds):
    await asyncio.sleep(seconds)
    return request.get()


def change_request(value):
    request.set(value)


def log_level():
    return logging.getLogger().getEffectiveLevel()


# --- initializers that allow some workers only


def place(folder):
    """How many were here before."""
    for number in range(1000):
        try:
            Path(folder, f"place-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError("too many")


def one_of(folder, number):
    """Fails in all but the first so many workers."""
    if place(folder) >= number:
        raise RuntimeError(f"only {number} workers are allowed")


def die_from(folder, number):
    """Ends all workers but the first so many."""
    if place(folder) >= number:
        os._exit(3)


def pass_gate_but_first(gate):
    """The first worker passes at once; all say that they have arrived."""
    mark(gate)
    if place(gate):
        pass_gate(gate)


def pass_gate_but_first_two(gate):
    """The first two workers pass at once; all say that they have arrived."""
    mark(gate)
    if place(gate) > 1:
        pass_gate(gate)


def pass_own_gate(folder, gates):
    """The first worker passes the first gate, and so on."""
    pass_gate(gates[place(folder)])


kept = []


def keep_bytes(number):
    kept.append(b"x" * number)
    return os.getpid()
