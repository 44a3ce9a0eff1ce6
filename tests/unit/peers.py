"""The other end of the wire for tests of the core: a worker for the Dispatcher, a pool for the
Runner. Both speak through the reference framing, on a real event loop that runs when it is told to;
in the Dispatcher's, time passes when it is told to.
"""

import asyncio
import struct

from reference.framing import Frame, decode, encode

from distex._core.chunk import ChunkTask
from distex._core.codec import Codec
from distex._core.dispatch import Dispatcher, Machine
from distex._core.framing import DEFAULT_LIMIT_BYTES, FrameReader
from distex._core.functions import Function
from distex._core.futures import AsyncTask
from distex._core.protocol import Connection
from distex.remote_errors import dump_exception
from distex.wire import serializers

RESULT, PART, ERROR, CANCELLED = 3, 4, 5, 6
FUNCTION, FORGET, CALL, CHUNK, CANCEL, BYE = 8, 9, 10, 11, 12, 13
LANE, RECALL, RETURNED = 14, 15, 16
PACKED = SPREAD = FROM_COROUTINE = 1  # flags
US, MS = 1_000, 1_000_000  # in nanoseconds

data = serializers.for_data(0)
codec = Codec(data.dumps, data.loads)


def turn(loop):
    """Let the loop do all that waits now, and what follows from that."""
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))


def values(frame):
    """All values in the body of a frame, which is that of a CALL."""
    if frame.flags & PACKED:
        args, kwargs = codec.decode(frame.body, frame.segments)
        return args, kwargs
    # two values, one behind the other: find where the first ends
    for end in range(1, len(frame.body)):
        try:
            args = codec.decode(frame.body[:end], frame.segments)
            names = codec.decode(frame.body[end:])
        except Exception:
            continue
        return args, dict(zip(names[::2], names[1::2], strict=True)) if names else {}
    raise AssertionError(f"not the body of a call: {frame}")


def received(segment):
    """A segment as it comes out of a frame."""
    return segment if type(segment) is bytes else bytearray(segment)


class Transport:
    """Keeps what is written."""

    def __init__(self):
        self.written = bytearray()
        self.aborted = False

    def write(self, data):
        self.written += data

    def close(self):
        self.aborted = True

    abort = close

    def take(self):
        """The frames written since the last call."""
        frames, rest = decode(bytes(self.written))
        assert not rest
        self.written.clear()
        return frames


class Worker:
    """A worker that the dispatcher believes to have; it does what the test says."""

    def __init__(self, dispatcher, name="worker", machine=None):
        self.name = name
        self.gone = None
        self.transport = Transport()
        self.connection = Connection(dispatcher.loop, None, DEFAULT_LIMIT_BYTES)
        self.connection.handler = self.link = dispatcher.connect(
            self.connection, self, machine or Machine())
        self.connection.connection_made(self.transport)

    def __str__(self):
        return self.name

    def disconnected(self, exc):
        """What the link says."""
        self.gone = exc

    def frames(self):
        """What came since the last look."""
        self.connection.flush()
        return self.transport.take()

    def calls(self):
        """The calls among that, as (id, arguments)."""
        return [(frame.id, values(frame)[0]) for frame in self.frames() if frame.kind == CALL]

    def says(self, *frames):
        """Send frames to the pool; a mistake in them is raised here."""
        reader = FrameReader()
        reader.feed(b"".join(map(encode, frames)), self.link)

    def answers(self, id, value=None, ns=MS, flags=0):
        body, segments = codec.encode(value)
        self.says(Frame(RESULT, flags, ns, id, body, list(map(received, segments))))

    def fails(self, id, exc):
        body, segments = codec.encode(dump_exception(exc, lambda exc: data.dumps(exc, None)))
        self.says(Frame(ERROR, 0, 0, id, body, segments))

    def sends_part(self, id, results, kind=PART, ns=0):
        """Values of a chunk."""
        encoded = [codec.encode(value)[0] for value in results]
        self.says(Frame(kind, 0, ns, id, struct.pack("<I", len(results)) + b"".join(encoded)))


class Loop(asyncio.SelectorEventLoop):
    """Its clock stands still, so that a test that is held up is not one in which much time passed."""

    now = 0.0

    def time(self):
        return self.now


class Pool:
    """A dispatcher on a loop of its own, and the tasks and workers for it."""

    def __init__(self, qsize=2, workers=1, local=True, cpus=0):
        self.loop = Loop()
        self.dispatcher = Dispatcher(self.loop, codec, qsize)
        machine = Machine(local, cpus)
        self.workers = [
            Worker(self.dispatcher, f"worker {i}", machine) for i in range(workers)]
        self.function = self.make_function("function")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.function = None
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def make_function(self, name, is_async=False):
        return Function(self.dispatcher.functions, name, name.encode(), [], is_async)

    def task(self, *args, function=None, **kwargs):
        """A task that is not submitted."""
        return AsyncTask(function or self.function, args, kwargs, self.loop)

    def submit(self, *args, function=None, **kwargs):
        task = self.task(*args, function=function, **kwargs)
        self.dispatcher.submit(task)
        return task

    def chunk(self, items, spread=False, function=None):
        """A submitted chunk, and the list of what was notified."""
        news = []
        chunk = ChunkTask(function or self.function, list(items), spread, news.append)
        self.dispatcher.submit(chunk)
        return chunk, news

    def learn(self, ns, function=None):
        """Have a call take this long, so that the dispatcher knows."""
        task = self.submit("learn", function=function)
        (worker, id) = next((worker, id) for worker in self.workers for id, _ in worker.calls())
        worker.answers(id, ns=ns)
        assert task.done()

    def turn(self):
        turn(self.loop)

    def pass_time(self, seconds):
        """So much time passes, and the loop does what is due then."""
        self.loop.now += seconds
        self.turn()
