"""What a peer may say to distex, whoever it is: both ends of the handshake and of what follows, a
nanny's stream, framing and codec. Each target takes bytes; it returns, or a check of it fails.

    bytes ──> pieces ──> FrameReader, compared with the reference
                     ──> the pool's side: Supervisor, Handshake, WorkerLink     violations are counted,
                     ──> the worker's side: Worker, Runner                    nothing else is raised
                     ──> Unpacker, decode_handshake

Where data would be unpickled a stand-in notes it instead: that must not happen before the peer has
shown the token.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from reference.framing import BadFrame, Frame, decode, encode

from distex import remote_errors
from distex._core.chunk import ChunkTask
from distex._core.codec import Codec
from distex._core.framing import FrameHandler, FrameReader
from distex._core.functions import Function
from distex._core.futures import AsyncTask
from distex._core.protocol import Connection
from distex.cluster import handshake
from distex.cluster.settings import Settings
from distex.cluster.state import WorkerRecord
from distex.cluster.supervisor import Supervisor
from distex.errors import ProtocolError
from distex.wire import messages, serializers
from distex.wire.messages import Configure, Hello, NannyHello, Ready, Spawn, Unpacker, Welcome, pack
from distex.worker import process
from distex.worker.status_page import StatusPages

HELLO, READY, RESULT, PART, ERROR, CANCELLED, WELCOME, FUNCTION, FORGET = 1, 2, 3, 4, 5, 6, 7, 8, 9
CALL, CHUNK, CANCEL, BYE, LANE, RECALL, RETURNED = 10, 11, 12, 13, 14, 15, 16
LIMIT = 4096  # bytes of a frame in the targets, so that nothing large is allocated
TOKEN = b"t" * 32

loop = asyncio.new_event_loop()


class Loads:
    """Stands in for every unpickler."""

    def __init__(self) -> None:
        self.allowed = True
        self.serializer = serializers.Serializer(self.dumps, self.loads, True)

    def dumps(self, obj: Any, segments: Any = None) -> bytes:
        return b"dumped"

    def loads(self, data: Any, segments: Any = None) -> Any:
        assert self.allowed, "something was unpickled of a peer that has not shown the token"
        if len(data) % 3 == 0:
            raise LookupError("this can't be loaded")
        return len(data)


loads = Loads()


class Functions:
    """Stands in for a Loader."""

    def loads(self, data: Any, segments: Any = None) -> Callable[..., Any]:
        number = loads.loads(data)
        return coroutine if number % 2 else identity


def identity(*args: Any, **kwargs: Any) -> Any:
    return args


async def coroutine(*args: Any, **kwargs: Any) -> Any:
    await asyncio.sleep(0)
    return args


@contextlib.contextmanager
def nothing_is_unpickled() -> Iterator[None]:
    """For as long as targets are used: what a fuzzer has pickled must not run."""
    with (
        mock.patch.object(remote_errors.load_exception, "__defaults__", (None, loads.loads)),
        mock.patch.object(serializers, "for_data", return_value=loads.serializer),
        mock.patch.object(handshake, "DEFAULT_LIMIT_BYTES", LIMIT),
        mock.patch.object(process, "Loader", return_value=Functions()),
    ):
        yield


def pieces(data: bytes) -> Iterator[bytes]:
    """The data as they may arrive: the first byte says in what sizes."""
    if not data:
        return
    size = 1 + data[0] % 64 if data[0] & 1 else len(data)
    for at in range(1, len(data), size):
        yield data[at:at + size]


class Transport:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.closed = True

    close = abort


def say(connection: Connection, data: bytes) -> int:
    """Have the peer say this, until it is dropped; how often the protocol was violated."""
    violations: list[Exception] = []
    connection.on_violation = violations.append
    transport = Transport()
    connection.connection_made(transport)
    for piece in pieces(data):
        if transport.closed:
            break
        connection.data_received(piece)
    assert len(violations) <= 1
    assert transport.closed or not violations
    connection.connection_lost(None)
    loop.run_until_complete(asyncio.sleep(0))
    return len(violations)


# --- the targets


class Collector(FrameHandler):
    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def control(self, *frame: Any) -> None:
        self.frames.append(Frame(*frame))


def framing(data: bytes) -> None:
    """FrameReader does what the reference does."""
    collector, reader = Collector(), FrameReader(LIMIT)
    bad = False
    try:
        for piece in pieces(data):
            reader.feed(piece, collector)
    except ProtocolError:
        bad = True
    try:
        expected, _ = decode(data[1:], LIMIT)
    except BadFrame:
        assert bad  # which frames come before the mistake is tested in tests/unit/test_framing.py
    else:
        assert not bad
        assert collector.frames == expected


def codec(data: bytes) -> None:
    """A value, or ProtocolError, or what the serializer raises."""
    if not data:
        return
    segments = [b"segment"] * (data[0] % 4)
    try:
        value = Codec(loads.dumps, loads.loads).decode(data[1:], segments)
    except (ProtocolError, LookupError):
        return
    assert value is not NotImplemented


def pool_side(data: bytes) -> None:
    """Whoever connects to the pool: a stranger, or a worker that may have lost its mind."""
    async def make() -> tuple[Supervisor, WorkerRecord]:
        pool = Supervisor(Settings(launchers=(Launcher(),)))
        return pool, WorkerRecord(1, pool.hosts[0])

    pool, record = loop.run_until_complete(make())
    pool._token = TOKEN
    pool._workers[1] = record.host.workers[1] = record
    function = Function(pool.dispatcher.functions, "function", b"payload", [], False)
    news: list[Any] = []
    for task in (AsyncTask(function, (1,), {}, loop), ChunkTask(function, [1, 2], False, news.append),
                 AsyncTask(function, (object(),), {}, loop)):
        pool.dispatcher.submit(task)
        task.add_done_callback(AsyncTask.exception) if isinstance(task, AsyncTask) else None
    connection = pool.listener.accept()
    loads.allowed = False

    def welcome(hello: Hello) -> WorkerRecord | None:
        found = type(pool).authenticate(pool, hello)
        assert hello.token == TOKEN
        loads.allowed = True
        return found

    pool.authenticate = welcome  # type: ignore[method-assign]
    try:
        say(connection, data)
        assert loads.allowed or not record.ready
        assert len(pool.dispatcher.links) <= 1
    finally:
        loads.allowed = True
        if record.timer is not None:
            record.timer.cancel()
        pool.dispatcher.close(lambda task: LookupError("the pool ends"))
        if pool._stopping is not None:
            pool._stopping.cancel()
        loop.run_until_complete(asyncio.sleep(0))


class Launcher:
    host = "host"
    num_workers = 1
    is_local = True


class Worker(process.Worker):
    def disconnected(self, exc: Exception | None) -> None:
        """Don't stop the loop."""


def worker_side(data: bytes) -> None:
    """Whoever a worker talks to: only its pool, but it should not crash for what that says."""
    page = StatusPages().take()
    config = Configure(TOKEN, "/nowhere", "", 0, b"", {}, False, [], 0, 0, 0, 0.0, False)
    peer = Worker(loop, config, 1, page)
    say(Connection(loop, peer, LIMIT), data)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))


def streams(data: bytes) -> None:
    """What comes on a nanny's stream, in both directions, and the body of a handshake."""
    for to_nanny in False, True:
        unpacker = Unpacker(to_nanny)
        try:
            for piece in pieces(data):
                for message in unpacker.feed(piece):
                    assert isinstance(message, messages.Message)
                    if isinstance(message, NannyHello):
                        messages.refusal(message)
        except ProtocolError:
            continue
    with contextlib.suppress(ProtocolError):
        assert isinstance(messages.decode_handshake(data[1:]), messages.Message)


TARGETS = [framing, codec, pool_side, worker_side, streams]


# --- what is really said, to begin with


def seeds() -> Iterator[bytes]:
    """Inputs for one(): the target's number, the pieces' size, and what real peers say."""
    plain = Codec(loads.dumps, loads.loads)
    values = [None, True, 1, -2**63, 1.5, "text", b"bytes", (1, ("a", (None,))), [1]]
    encoded = [plain.encode(value)[0] for value in values]
    hello, lane = (messages.encode(Hello(TOKEN, 1, 4711, lane)) for lane in (False, True))
    stranger = messages.encode(Hello(b"x" * 32, 1, 4711))
    first = 1 << 16  # wire ids of the three tasks that the pool has sent
    two = struct.pack("<I", 2) + encoded[2] * 2
    error = plain.encode(("description", "traceback", b"exc"))[0]
    ready = [Frame(HELLO, body=hello), Frame(READY, body=messages.encode(Ready()))]
    calls = [Frame(FUNCTION, id=1, body=b"payload1"),
             Frame(CALL, aux=1, id=first, body=plain.encode((1, 2))[0] + encoded[0]),
             Frame(CALL, flags=1, aux=1, id=first + 1, body=encoded[8]),
             Frame(CHUNK, aux=1, id=first + 2, body=two)]
    streams_of_frames = {
        0: [[Frame(CALL, 1, 2, 3, b"body", [b"one", bytearray(b"two")])], calls],
        2: [ready, [Frame(HELLO, body=stranger)], [Frame(HELLO, body=lane)],
            [*ready, Frame(RESULT, aux=5, id=first, body=encoded[2])],
            [*ready, Frame(RESULT, flags=1, id=first, body=encoded[8])],
            [*ready, Frame(PART, id=first + (1 << 16) + 1, body=two),
             Frame(RESULT, id=first + (1 << 16) + 1, body=struct.pack("<I", 0))],
            [*ready, Frame(ERROR, id=first, body=error), Frame(CANCELLED, id=first + (1 << 16) + 1)],
            [*ready, Frame(RETURNED, id=first + (1 << 16) + 1, aux=1, body=bytes(8))],
            [Frame(HELLO, body=hello),
             Frame(READY, body=messages.encode(Ready(("failed", "traceback", b"exc!"))))]],
        3: [[Frame(WELCOME, body=messages.encode(Welcome(b"")))],
            [Frame(WELCOME, body=messages.encode(Welcome(b"init")), segments=[b"s"])],
            calls, [*calls, Frame(CANCEL, id=first), Frame(RECALL), Frame(FORGET, id=1)],
            [Frame(BYE)], [Frame(LANE)]],
    }
    for number, streams_ in streams_of_frames.items():
        for frames in streams_:
            data = b"".join(map(encode, frames))
            yield bytes([number, 0]) + data
            yield bytes([number, 7]) + data
    for value in encoded:
        yield bytes([1, 2]) + value
    control = [NannyHello(1, "1", "3.12", "host", 1, 2), Spawn(1), messages.Exited(1, 2, -9, 3, 4, False, False),
               messages.Kill(1, 9), messages.Failed("reason"), messages.Stop(1.0)]
    yield bytes([4, 0]) + b"".join(map(pack, control[1::2]))
    yield bytes([4, 5]) + b"".join(map(pack, control[::2]))
    yield bytes([4, 0]) + hello


def one(data: bytes) -> None:
    """Give what follows the first byte to the target with that number."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])

