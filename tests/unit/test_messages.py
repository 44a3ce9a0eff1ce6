"""Control messages: there and back, and what is none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex.errors import ProtocolError
from distex.options import WIRE_VERSION
from distex.wire import messages
from distex.wire.messages import (
    PYTHON,
    Configure,
    Exited,
    Failed,
    Hello,
    Kill,
    NannyHello,
    Printed,
    Ready,
    Revoke,
    Spawn,
    Started,
    Stop,
    Unpacker,
    Welcome,
    Withdraw,
    Withdrawn,
    decode_handshake,
    encode,
    pack,
    refusal,
)

TO_NANNY = [
    Configure(b"token", "/socket", "host", 1234, b"zip", {"cloudpickle": "3.1.2"}, True,
              [b"script", b"-x", b"\xff"], 0, 1, 2, 0.5, True),
    Spawn(7), Kill(7, 9), Revoke(7, 2**40, 1.5, 3), Withdraw(7, 2**40), Stop(2.5),
]
FROM_NANNY = [
    NannyHello(WIRE_VERSION, "1.0", PYTHON, "maxi", 4711, 8),
    Started(7, 4711), Printed(4711, 1, b"some words"),
    Exited(7, 4711, -9, 2**40, 3, True, False), Withdrawn(7, 2**62, 2**40, None), Withdrawn(7, 2**62, 2**40, 3), Failed("no memory"),
]
HELLO = Hello(b"token", 1, 4711)
SERVING = NannyHello(WIRE_VERSION, "1.0", PYTHON, "maxi", 4711, 8)


@pytest.mark.parametrize(("to_nanny", "sent"), [(True, TO_NANNY), (False, FROM_NANNY)])
def test_messages_arrive_however_the_stream_is_split(to_nanny, sent):
    data = b"".join(map(pack, sent))
    for size in (1, 2, 3, 7, 64, len(data)):
        unpacker = Unpacker(to_nanny)
        received = []
        for at in range(0, len(data), size):
            received += unpacker.feed(data[at:at + size])
        assert received == sent
        assert list(map(type, received)) == list(map(type, sent))


@pytest.mark.parametrize("message", [
    HELLO, Welcome(b""), Welcome(b"pickled"), Ready(), Ready(("text", "traceback", None)),
    Ready(("text", "traceback", b"pickled")),
], ids=lambda message: type(message).__name__)
def test_handshake(message):
    received = decode_handshake(encode(message))
    assert received == message
    assert type(received) is type(message)


def test_a_hello_fits_the_limit_for_strangers():
    from distex._core.framing import HELLO_LIMIT_BYTES

    largest = Hello(bytes(32), 2**31, 2**31, lane=True)
    assert len(encode(largest)) <= HELLO_LIMIT_BYTES


@pytest.mark.parametrize("message", FROM_NANNY)
def test_a_message_in_the_wrong_direction_is_refused(message):
    with pytest.raises(ProtocolError):
        Unpacker(to_nanny=True).feed(pack(message))
    with pytest.raises(ProtocolError):
        decode_handshake(encode(message))


@given(st.binary(max_size=60))
def test_random_bytes_are_no_handshake(data):
    with pytest.raises(ProtocolError):
        decode_handshake(b"\xc1" + data)  # a byte that msgpack never uses


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_on_a_nannys_stream_are_waited_for_or_refused(data, to_nanny):
    try:
        received = Unpacker(to_nanny).feed(data)
    except ProtocolError:
        return
    assert all(isinstance(message, messages.Message) for message in received)


@pytest.mark.parametrize("data", [
    b"\x92\xa5eady\xc0\x03",  # a text that is no UTF-8
    encode(HELLO)[:-1] + b"\x91" * 100_000,  # deep nesting
], ids=["text", "nesting"])
def test_whatever_is_wrong_is_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        decode_handshake(data)
    for to_nanny in True, False:
        with pytest.raises(ProtocolError):
            Unpacker(to_nanny).feed(len(data).to_bytes(4, "little") + data)


def test_a_huge_message_is_refused_at_once():
    with pytest.raises(ProtocolError, match="bytes"):
        Unpacker(to_nanny=True).feed((2**31).to_bytes(4, "little"))


def test_messages_cant_be_changed():
    with pytest.raises(AttributeError):
        HELLO.token = b"other"


def test_no_host_is_refused_that_fits():
    assert refusal(SERVING) is None


def test_a_refusal_says_what_to_do():
    other_wire = msgspec.structs.replace(SERVING, wire=WIRE_VERSION + 1)
    assert "install the same distex" in refusal(other_wire)
    other_python = msgspec.structs.replace(SERVING, python="2.7")
    assert f"run Python {PYTHON}" in refusal(other_python)
    for serving in (other_wire, other_python):
        assert "maxi" in refusal(serving)
