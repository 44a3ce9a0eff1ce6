"""Python values <-> bytes: every type arrives as itself, and no bytes do harm."""

import collections
import contextlib
import enum
import math
import pickle
import struct
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distex._core.codec import Codec
from distex.errors import ProtocolError
from distex.options import PickleType
from distex.wire import serializers

STR, TUPLE, PICKLED, SEGMENT = 5, 7, 8, 9  # tags, as in codec.pyx
KIB = 1024


def make_codec(kind=PickleType.pickle):
    serializer = serializers.for_data(kind)
    return Codec(serializer.dumps, serializer.loads, serializer.keeps_types)


codec = make_codec()


def through(value, codec=codec):
    """The value there and back."""
    data, segments = codec.encode(value)
    return codec.decode(data, list(map(received, segments)))


def received(segment):
    """A segment as it comes out of a frame."""
    return segment if type(segment) is bytes else bytearray(segment)


def is_native(value):
    return codec.encode(value)[0][0] != PICKLED


def same(a, b):
    """Equal, of the same types all the way down, nan and the sign of zero included."""
    if type(a) is not type(b):
        return False
    if type(a) in (tuple, list):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is float:
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


class Number(int):
    """Subclasses of the native types: they have to stay what they are."""


class Text(str):
    pass


class Real(float):
    pass


class Data(bytes):
    pass


class Row(tuple):
    pass


class Colour(enum.IntEnum):
    red = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize("value", [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.5, math.inf, -math.inf, math.nan,
    "", "text", "naïve 日本 \U0001f600", "nul\0nul", b"", b"bytes\0\xff", (), (1,),
    (None, True, 1, 1.0, "s", b"b", ()), (((),),), "x" * 32 * KIB, b"x" * 32 * KIB,
    b"x" * (32 * KIB + 1),
    (b"x" * 100 * KIB, 1, (b"y" * 100 * KIB,)),
], ids=lambda value: repr(value)[:40])
def test_built_in_values_need_no_serializer(value):
    assert is_native(value)
    assert same(through(value), value)


@pytest.mark.parametrize("value", [
    2**63, -(2**63) - 1, 10**1000, 1j, [1, 2], {1: 2}, {1}, frozenset({1}), bytearray(b"x"), ...,
    range(3), Decimal("1.1"), int, len, "lone \ud800 surrogate", ("\udfff",), ((((),),),),
    Number(1), Text("text"), Real(1.5), Data(b"bytes"), Row((1, 2)), Colour.red, Point(1, 2),
    (Number(1), 1), ([],), "x" * (32 * KIB + 1), (0,) * (32 * KIB + 1),
    (b"x" * 40 * KIB, "x" * 40 * KIB),
], ids=lambda value: repr(value)[:40])
def test_other_values_go_by_pickle(value):
    assert not is_native(value)
    assert same(through(value), value)


def test_an_attribute_of_a_subclass_stays_with_it():
    value = Number(3)
    value.note = "kept"
    assert through(value).note == "kept"


natives = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
              st.text(st.characters(categories=["Cs", "Ll"]))),
    lambda inner: st.lists(inner, max_size=5).map(tuple), max_leaves=20)


@given(natives)
@example(((((((1,),),),),),))
def test_any_value_arrives_as_itself(value):
    assert same(through(value), value)


def test_a_shared_tuple_is_not_written_out_again_at_every_level():
    value = (1.0,) * 4
    for _ in range(40):  # 2 ** 40 leaves if written out
        value = (value, value)
    data, _ = codec.encode(value)
    assert len(data) < 10 * KIB
    result = codec.decode(data)
    for _ in range(36):
        assert result[0] is result[1]
        result = result[0]


def test_a_wide_tuple_of_shared_text_is_not_written_out_again_and_again():
    text = "x" * 30 * KIB
    data, segments = codec.encode((text,) * 1000)
    assert len(data) + sum(map(len, segments)) < 200 * KIB


def test_large_buffers_are_segments():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    data, segments = codec.encode({"array": array, "again": array})
    assert len(data) < KIB
    assert [memoryview(segment).nbytes for segment in segments] == [array.nbytes]
    result = codec.decode(data, list(map(received, segments)))
    assert (result["array"] == array).all()
    result["array"][0] = 1  # writable


def test_values_that_follow_one_another_use_their_own_segments():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(5000, i) for i in range(3)]
    data, segments = codec.encode(arrays)
    result = codec.decode(data, list(map(received, segments)))
    assert [array[0] for array in result] == [0, 1, 2]


@pytest.mark.parametrize("kind", list(PickleType))
def test_every_serializer(kind):
    value = {"a": [1, 2.5, "x", None, True], "b": "y" * 100_000}
    assert through(value, make_codec(kind)) == value


def test_a_serializer_that_changes_types_gets_all_values():
    """msgspec makes lists of tuples: it has to do so at the top level as further down."""
    assert through((1, (2, 3)), make_codec(PickleType.msgspec)) == [1, [2, 3]]


# --- bytes that no codec has written


def no_pickle(data, segments):
    """Stands in for the serializer: random bytes must not be unpickled."""
    raise pickle.UnpicklingError


harmless = Codec(serializers.for_data(0).dumps, no_pickle)
tags = st.integers(0, 10).map(lambda tag: bytes([tag]))
lengths = st.builds(lambda n, size: n.to_bytes(size, "little"),
                    st.one_of(st.integers(0, 20), st.sampled_from([2**31, 2**32 - 1])),
                    st.sampled_from([4, 8]))
garbage = st.lists(st.one_of(tags, lengths, st.binary(max_size=16)), max_size=12).map(b"".join)


@given(st.one_of(garbage, st.binary(max_size=200)), st.integers(0, 3))
@example(b"", 0)
@example(bytes([STR]) + (2).to_bytes(4, "little") + b"\xff\xff", 0)
@example(bytes([TUPLE]) + (2**32 - 1).to_bytes(4, "little"), 0)
@example(bytes([PICKLED]) + bytes(4) + (2**64 - 1).to_bytes(8, "little"), 0)
def test_random_bytes_are_a_value_or_an_error(data, segments):
    with contextlib.suppress(ProtocolError, pickle.UnpicklingError):
        harmless.decode(data, [bytearray(8)] * segments)


@given(natives, st.data())
def test_a_value_that_is_cut_off_is_an_error(value, data):
    whole, segments = codec.encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        harmless.decode(whole[:cut], segments)


def test_bytes_left_over_are_an_error():
    data, _ = codec.encode(1)
    with pytest.raises(ProtocolError, match="left over"):
        codec.decode(data + b"\0")


def test_more_segments_than_there_are_is_an_error():
    data = bytes([PICKLED]) + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + b"N"
    for segments in (None, [], [bytearray(1)] * 2):
        with pytest.raises(ProtocolError, match="segments"):
            codec.decode(data, segments)
    for segments in (None, []):
        with pytest.raises(ProtocolError, match="segments"):
            codec.decode(bytes([SEGMENT]), segments)


def test_large_pickles_and_large_bytes_are_not_copied_into_the_frame():
    for value in (b"x" * 100 * KIB, ["x" * 100 * KIB]):
        data, segments = codec.encode(value)
        assert len(data) < KIB
        assert sum(map(len, segments)) >= 100 * KIB


def test_at_most_as_many_segments_as_a_frame_may_have():
    value = [(b"%d" % i) * 20 * KIB for i in range(1500)]
    for each in (value, tuple(value)):
        _, segments = codec.encode(each)
        assert len(segments) <= 1024
        assert through(each) == each


def test_tuples_nested_deeper_than_is_ever_written_are_an_error():
    """Recursion has an end whatever a peer sends."""
    data = (bytes([TUPLE]) + (1).to_bytes(4, "little")) * 100_000 + b"\0"
    with pytest.raises(ProtocolError, match="deeper"):
        codec.decode(data)
