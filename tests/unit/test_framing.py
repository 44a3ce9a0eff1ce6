"""Bytes <-> frames, compared with the reference in pure Python."""

import random
from itertools import pairwise

import pytest
from effort import so_much
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference.framing import HEADER, BadFrame, Frame, decode, encode

from distex._core.framing import (
    DEFAULT_LIMIT_BYTES,
    HEADER_BYTES,
    MAX_SEGMENTS,
    FrameHandler,
    FrameReader,
    FrameWriter,
)
from distex.errors import ProtocolError

SMALL = 256  # a limit, in bytes

# the two tests that find most get 10,000 examples in a thorough run
EXAMPLES = settings.default.max_examples
most = settings(max_examples=so_much(plain=EXAMPLES, thorough=5 * EXAMPLES))
fewer = settings(max_examples=so_much(plain=EXAMPLES // 10, thorough=EXAMPLES // 2))


class Collector(FrameHandler):
    """Keeps the frames that it is handed."""

    def __init__(self):
        self.frames = []

    def control(self, kind, flags, aux, id, body, segments):
        assert type(body) is bytes
        self.frames.append(Frame(kind, flags, aux, id, body, segments))


def pieces_of(data, cuts):
    """The data cut at these places."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def read(pieces, limit=DEFAULT_LIMIT_BYTES):
    """The frames in the pieces; the ProtocolError that ended it, or None."""
    reader = FrameReader(limit)
    collector = Collector()
    try:
        for piece in pieces:
            reader.feed(piece, collector)
    except ProtocolError as exc:
        return collector.frames, exc
    return collector.frames, None


def read_by_reference(data, limit):
    """The frames before the first mistake; whether there is one."""
    frames = []
    for end in range(len(data) + 1):
        try:
            frames, _ = decode(data[:end], limit)
        except BadFrame:
            return frames, True
    return frames, False


sizes = st.one_of(
    st.integers(0, 40),
    # around the sizes of the reader's buffer, of what gets an object of its own, of large parts
    st.builds(lambda size, more: max(size + more, 0),
              st.sampled_from([4096, 16 * 1024, 32 * 1024, 64 * 1024, 256 * 1024]),
              st.integers(-64, 64)),
)
contents = st.builds(lambda size, seed: random.Random(seed).randbytes(size),
                     sizes, st.integers(0, 255))
small_contents = st.binary(max_size=40)


def frames_of(content, max_size):
    frame = st.builds(
        Frame,
        kind=st.integers(1, 16),
        flags=st.integers(0, 2**8 - 1),
        aux=st.integers(0, 2**32 - 1),
        id=st.integers(0, 2**64 - 1),
        body=content,
        segments=st.lists(st.one_of(content, content.map(bytearray)), max_size=4),
    )
    return st.lists(frame, max_size=max_size)


cut_places = st.lists(st.integers(0, 2**20), max_size=8)


@most
@given(frames_of(small_contents, 12), st.lists(st.integers(0, 4000), max_size=20))
def test_frames_come_out_whole_however_they_are_split(frames, cuts):
    data = b"".join(map(encode, frames))
    assert read(pieces_of(data, cuts)) == (frames, None)


@fewer
@given(frames_of(contents, 3), cut_places)
def test_large_frames_come_out_whole_however_they_are_split(frames, cuts):
    data = b"".join(map(encode, frames))
    assert read(pieces_of(data, cuts)) == (frames, None)


@fewer
@given(frames_of(small_contents, 4))
def test_frames_come_out_whole_byte_by_byte(frames):
    data = b"".join(map(encode, frames))
    assert read(bytes([byte]) for byte in data) == (frames, None)


@fewer
@given(frames_of(small_contents, 4), st.integers(0, 10_000))
def test_a_frame_that_is_cut_off_is_waited_for(frames, cut):
    data = b"".join(map(encode, frames))[:cut]
    expected, rest = decode(data)
    assert read([data]) == (expected, None)
    # and it goes on where it stopped
    reader, collector = FrameReader(), Collector()
    reader.feed(data, collector)
    reader.feed(b"".join(map(encode, frames))[len(data):], collector)
    assert collector.frames == frames
    assert len(rest) <= len(data)


headers = st.builds(
    HEADER.pack,
    st.integers(0, 20), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 1024, 1025, 65535]),
    st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
    st.one_of(st.integers(0, 300), st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1])),
)
numbers = st.builds(lambda n: n.to_bytes(8, "little"),
                    st.one_of(st.integers(0, 300), st.sampled_from([2**32, 2**63, 2**64 - 1])))
garbage = st.lists(st.one_of(headers, numbers, st.binary(max_size=80)), max_size=8).map(b"".join)


@most
@given(garbage, st.lists(st.integers(0, 400), max_size=6))
@example(HEADER.pack(1, 0, 2, 0, 0, 0) + (2**64 - 1).to_bytes(8, "little") * 2, [])
@example(HEADER.pack(1, 0, 1, 0, 0, 1) + (2**64 - 1).to_bytes(8, "little"), [])
def test_garbage_is_refused_or_waited_for_as_the_reference_does(data, cuts):
    frames, error = read(pieces_of(data, cuts), SMALL)
    expected, bad = read_by_reference(data, SMALL)
    assert frames == expected
    assert (error is not None) == bad


@fewer
@given(st.binary(max_size=400))
def test_random_bytes_give_frames_or_a_protocol_error(data):
    frames, error = read([data], SMALL)
    assert (frames, error is not None) == read_by_reference(data, SMALL)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("split", [(100, []), (0, [100]), (30, [30, 40]), (0, [0, 0, 100])])
def test_the_limit_is_for_body_and_segments_together(split, extra):
    body, segments = split
    frame = Frame(1, body=bytes(body), segments=[bytes(size) for size in segments])
    limit = 100 - extra
    frames, error = read([encode(frame)], limit)
    assert frames == ([] if extra else [frame])
    assert (error is not None) == bool(extra)


def test_a_length_over_the_limit_is_refused_before_anything_is_allocated():
    header = HEADER.pack(10, 0, 0, 0, 0, 2**62)
    frames, error = read([header])
    assert not frames
    assert "limit" in str(error)


def test_a_limit_can_be_raised_between_frames():
    reader, collector = FrameReader(10), Collector()
    reader.feed(encode(Frame(1, body=bytes(10))), collector)
    reader.set_limit(1000)
    assert reader.limit == 1000
    reader.feed(encode(Frame(1, body=bytes(1000))), collector)
    with pytest.raises(ProtocolError, match="limit"):
        reader.feed(encode(Frame(1, body=bytes(1001))), collector)
    assert [len(frame.body) for frame in collector.frames] == [10, 1000]


def test_an_error_of_the_handler_goes_to_the_caller():
    class Refuses(FrameHandler):
        """Has no use for frames."""

    with pytest.raises(ProtocolError, match="kind 10"):
        FrameReader().feed(encode(Frame(10)), Refuses())


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
def test_what_was_bytes_is_bytes_and_the_rest_can_be_written_to(size):
    segments = [bytes(size), bytearray(size), bytearray(b"x"), b"x", memoryview(bytes(size))]
    writer = FrameWriter()
    writer.write(10, 0, 0, 0, b"", segments)
    (frame,), _ = read(writer.take())
    assert frame.types == [bytes, bytearray, bytearray, bytes, bytearray]
    assert frame.segments == segments


def test_the_largest_number_of_segments():
    frame = Frame(3, segments=[bytes([i % 256]) * (i % 3) for i in range(MAX_SEGMENTS)])
    assert read([encode(frame)]) == ([frame], None)
    one_too_many = Frame(3, segments=[*frame.segments, b""])
    frames, error = read([encode(one_too_many)])
    assert not frames
    assert "segments" in str(error)


# --- the writer


def written(frames):
    """What the writer hands out for these frames."""
    writer = FrameWriter()
    for frame in frames:
        writer.write(
            frame.kind, frame.flags, frame.aux, frame.id, frame.body, list(frame.segments))
    return writer.take()


@fewer
@given(frames_of(small_contents, 8))
def test_the_reference_reads_what_is_written(frames):
    assert decode(b"".join(written(frames))) == (frames, b"")


@fewer
@given(frames_of(contents, 3))
def test_the_reference_reads_large_frames_that_are_written(frames):
    assert b"".join(written(frames)) == b"".join(map(encode, frames))


def test_nothing_is_taken_twice():
    writer = FrameWriter()
    assert writer.take() == []
    writer.write(1, 0, 0, 0, b"once")
    assert b"".join(writer.take()) == encode(Frame(1, body=b"once"))
    assert writer.take() == []


def test_small_frames_travel_in_one_buffer():
    assert len(written([Frame(10, body=b"x" * 10)] * 100)) == 1


def test_a_large_segment_is_not_copied():
    segment = bytearray(1_000_000)
    writer = FrameWriter()
    writer.write(10, 0, 0, 0, b"", [b"small", segment])
    assert any(part is segment for part in writer.take())


def test_buffers_of_any_kind_are_segments():
    import numpy

    array = numpy.arange(10_000, dtype="int32")
    segments = [b"ab", bytearray(b"cd"), memoryview(b"ef"), array, memoryview(array)[:0]]
    writer = FrameWriter()
    writer.write(10, 0, 0, 0, b"", segments)
    expected = Frame(10, segments=[b"ab", *(
        bytearray(memoryview(segment).tobytes()) for segment in segments[1:])])
    assert decode(b"".join(writer.take())) == ([expected], b"")


@pytest.mark.parametrize("segments", [[b""] * (MAX_SEGMENTS + 1), [b"", "text"], [None]])
def test_a_frame_that_cant_be_written_leaves_nothing_behind(segments):
    writer = FrameWriter()
    writer.write(1, 0, 0, 0, b"before")
    with pytest.raises((TypeError, ValueError)):
        writer.write(10, 0, 0, 0, b"body", segments)
    writer.write(2, 0, 0, 0, b"after")
    frames, rest = decode(b"".join(writer.take()))
    assert [frame.body for frame in frames] == [b"before", b"after"]
    assert rest == b""


def test_the_header_is_as_long_as_it_says():
    assert HEADER.size == HEADER_BYTES
