"""Frames in and out, values there and back, and what is refused."""

import contextlib

from measure import must_stay_flat
from reference.framing import Frame, encode

from distex._core.codec import Codec
from distex._core.framing import FrameHandler, FrameReader, FrameWriter
from distex.errors import ProtocolError
from distex.wire import serializers

data = serializers.for_data(0)
codec = Codec(data.dumps, data.loads)
small = encode(Frame(10, body=b"x" * 100, segments=[b"y" * 10, bytearray(b"z" * 10)]))
large = encode(Frame(10, body=b"x" * 70_000, segments=[bytes(40_000), bytearray(40_000)]))
values = [None, 1, 1.5, "text", b"x" * 40_000, (1, (2, "3")), [1, "a"], {"a": [object]},
          "x" * 40_000]


class Ignores(FrameHandler):
    def control(self, *frame):
        pass


class Raises(FrameHandler):
    def control(self, *frame):
        raise ProtocolError


def read():
    reader, handler = FrameReader(), Ignores()
    for frame in (small, large, small):
        reader.feed(frame[:1000], handler)
        reader.feed(frame[1000:], handler)


def read_part_of_a_large_frame():
    FrameReader().feed(large[:80_000], Ignores())


def refuse():
    for data in (b"\xff" * 24, large):
        with contextlib.suppress(ProtocolError):
            FrameReader(100).feed(data, Ignores())
    with contextlib.suppress(ProtocolError):
        FrameReader().feed(large, Raises())


def write():
    writer = FrameWriter()
    writer.write(10, 0, 0, 0, b"x" * 100, [b"y", bytearray(40_000)])
    writer.write(10, 0, 0, 0, b"x" * 40_000)
    writer.take()
    with contextlib.suppress(TypeError):
        writer.write(10, 0, 0, 0, b"x", [b"y", None])


def values_there_and_back():
    for value in values:
        encoded, segments = codec.encode(value)
        codec.decode(encoded, segments)
        with contextlib.suppress(ProtocolError, EOFError):
            codec.decode(encoded[:-1], segments)
    with contextlib.suppress(Exception):
        codec.encode([iter(()), (item for item in ())])


for step in (read, read_part_of_a_large_frame, refuse, write, values_there_and_back):
    must_stay_flat(step)
