"""Control messages, as msgpack: between pool and nanny, and for the handshake of a worker.

    pool <──NannyHello──────────────────── nanny          worker ──Hello──> pool
    pool ──Configure, Spawn, Revoke ─────> nanny          worker <─Welcome─ pool
    pool ──Begin, Kill, Stop, Reject ────> nanny          worker ──Ready──> pool
    pool ──Heartbeat, Withdraw ──────────> nanny
    pool <──Started, Printed, Exited────── nanny
    pool <──Memory, Failed, Leaving─────── nanny
    pool <──Withdrawn───────────────────── nanny
"""

import struct
import sys
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from distex.errors import ProtocolError
from distex.options import WIRE_VERSION

# no more than this is taken from another machine, or from a worker's status page
MAX_CPUS = 2**16
MAX_NUMBER = 2**63 - 1
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]

LENGTH = struct.Struct("<I")  # before each message on a nanny's stream
LIMIT_BYTES = 16 * 1024 * 1024
# exit codes of a nanny: as the pool said; the pool is gone; the pool does not want it, or not now
STOPPED, CUT_OFF, REFUSED, PUT_OFF = 0, 1, 3, 4


class Message(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Base of all control messages."""


class NannyHello(Message, frozen=True):
    """The first message of a nanny: who and what it is."""

    wire: int
    version: str  # of distex
    python: str  # major.minor
    host: str
    pid: int
    cpus: Annotated[int, Meta(ge=1, le=MAX_CPUS)]  # that it may use


class Begin(Message, frozen=True):
    """What is said before there is a nanny on another machine, to the process that starts it."""

    hash_seed: int  # for all workers of the pool: PYTHONHASHSEED


class Configure(Message, frozen=True):
    """The first message to a nanny: all that its workers have in common."""

    token: bytes  # proves to the pool that a worker is its own
    unix_path: str  # where workers connect; empty: TCP
    host: str
    port: int
    modules: bytes  # to be imported from there, see modules.py; or empty
    versions: dict[str, str]  # of packages that have to fit, see versions.py
    output: bool  # whether the pool wants to have what workers print
    argv: list[bytes]  # as the operating system has them: any bytes
    loop_type: int
    func_pickle: int
    data_pickle: int
    spin: float  # seconds
    shares_memory: bool  # whether the pool is on the same machine, see _core/ring.pyx
    authkey: bytes = b""  # for proxies of multiprocessing's managers, see proxies.py


class Spawn(Message, frozen=True):
    """Start a worker under this number, which is the pool's to choose and never used again."""

    number: int
    unix_path: str = ""  # where it connects, as Configure has it or later


class Kill(Message, frozen=True):
    """Send a worker a signal."""

    number: int
    signal: int


class Revoke(Message, frozen=True):
    """End a task that a worker may be running, and the worker if it does not end; see
    worker/interrupts.py."""

    number: int
    task: int  # its id
    grace: float  # seconds between the interrupt and the end of the worker; 0: its end at once
    cancels: int  # cancellations that the worker was told of, this one being the last


class Withdraw(Message, frozen=True):
    """Have a worker, which may be too busy to be asked, not begin what it has not begun yet."""

    number: int
    last: int  # id of the last task that this is about


class Stop(Message, frozen=True):
    """End the workers and then the nanny; those that go on after the grace period are killed."""

    grace: float  # seconds


class Heartbeat(Message, frozen=True):
    """The pool is there. Sent now and then to a nanny whose stream may be cut without an end."""

    timeout: float  # seconds without another one after which it is to be taken for gone


class Reject(Message, frozen=True):
    """The pool does not want this nanny, which came by itself: end, and say so."""

    reason: str
    again: bool = False  # whether it may do to come again


class Started(Message, frozen=True):
    """A worker has been started."""

    number: int
    pid: int


class Printed(Message, frozen=True):
    """A worker has printed something."""

    pid: int
    stream: int  # 1: stdout, 2: stderr
    lines: bytes  # one or several, without the end of the last one


class Exited(Message, frozen=True):
    """A worker is gone."""

    number: int
    pid: int
    exitcode: int  # negative: minus the number of the signal
    started_id: Number  # id of the last task that it started, 0: none
    item: Number  # if that is a chunk, the item that it had come to
    out_of_memory: bool  # the kernel has killed for lack of memory meanwhile
    revoked: bool  # the nanny has killed it in order to end a task


class Withdrawn(Message, frozen=True):
    """What a worker will not begin: the tasks between these."""

    number: int
    last: Number  # as asked for
    started: Number  # id of the last task that it has started
    item: Number | None  # if that is a chunk, the last item that it begins; None: not known


class Memory(Message, frozen=True):
    """What the workers use; said now and then to a pool on another machine."""

    resident: dict[int, int]  # bytes, by the workers' numbers


class Failed(Message, frozen=True):
    """The nanny can't do its work."""

    reason: str
    number: int = 0  # of the worker that it can't start; 0: it can start none
    again: bool = False  # whether that may pass


class Leaving(Message, frozen=True):
    """This machine wants to leave: have its workers end what they have, and then Stop."""


class Hello(Message, frozen=True):
    """A worker says who it is. Nothing is unpickled before it has been checked."""

    token: bytes
    number: int
    pid: int
    lane: bool = False  # this is the worker's second connection, see lane.pyx


class Welcome(Message, frozen=True):
    """The pool takes the worker in."""

    initializer: bytes  # pickled (function, arguments), or empty


class Ready(Message, frozen=True):
    """The worker can take tasks, or its initializer failed."""

    error: tuple[str, str, bytes | None] | None = None


ToNanny = Begin | Configure | Spawn | Kill | Revoke | Withdraw | Stop | Heartbeat | Reject
FromNanny = NannyHello | Started | Printed | Exited | Withdrawn | Memory | Failed | Leaving
Handshake = Hello | Welcome | Ready

_encoder = msgspec.msgpack.Encoder()
_to_nanny = msgspec.msgpack.Decoder(ToNanny)
_from_nanny = msgspec.msgpack.Decoder(FromNanny)
_handshake = msgspec.msgpack.Decoder(Handshake)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def encode(message: Message) -> bytes:
    """The message as msgpack."""
    return _encoder.encode(message)


def pack(message: Message) -> bytes:
    """The message with its length before it, for a nanny's stream."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


def _decode(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    # DecodeError; but also UnicodeDecodeError for a text that is none, RecursionError ...
    except Exception as exc:
        raise ProtocolError(f"not a message that belongs here: {exc}") from None


def decode_handshake(data: bytes) -> Handshake:
    """The message of a handshake; ProtocolError if it is none."""
    message: Handshake = _decode(_handshake, data)
    return message


class Unpacker:
    """Splits a nanny's stream into messages.

    Args:
        to_nanny: whether they are those that a nanny receives, else those that it sends.
    """

    def __init__(self, to_nanny: bool) -> None:
        self._decoder = _to_nanny if to_nanny else _from_nanny
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete now; ProtocolError for what is none."""
        self._data += data
        messages = []
        while len(self._data) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._data)
            if size > LIMIT_BYTES:
                raise ProtocolError(f"a control message of {size} bytes")
            if len(self._data) < LENGTH.size + size:
                break
            messages.append(
                _decode(self._decoder, bytes(self._data[LENGTH.size : LENGTH.size + size])))
            del self._data[: LENGTH.size + size]
        return messages


def refusal(serving: NannyHello) -> str | None:
    """Why the nanny's host can't be worked with, and what to do; or None."""
    if serving.wire != WIRE_VERSION:
        return (f"distex {serving.version} on {serving.host} speaks wire version {serving.wire}, "
                f"this one {WIRE_VERSION}: install the same distex on both")
    if serving.python != PYTHON:
        return (f"{serving.host} runs Python {serving.python}, this is {PYTHON}: "
                f"have its workers run Python {PYTHON}")
    return None
