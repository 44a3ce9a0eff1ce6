"""Whatever a peer sends, on any connection, is understood, waited for, or refused.

See tests/fuzz/targets.py. ``make fuzz`` looks deeper."""

import pytest
from fuzz import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.framing import Frame, encode

from distex.wire import messages

HELLO, READY = 1, 2

fewer = settings(max_examples=max(100, settings.default.max_examples // 5))
SEEDS = list(targets.seeds())


@pytest.fixture(autouse=True, scope="module")
def stand_ins():
    with targets.nothing_is_unpickled():
        yield


edits = st.lists(st.tuples(st.sampled_from(["set", "insert", "remove", "repeat"]),
                           st.integers(0, 400), st.binary(min_size=1, max_size=12)), max_size=4)


def edited(seed, changes):
    """A seed with a few mistakes in it; the target stays."""
    data = bytearray(seed)
    for how, at, new in changes:
        at = 1 + at % len(data)
        if how == "set":
            data[at:at + len(new)] = new
        elif how == "insert":
            data[at:at] = new
        elif how == "remove":
            del data[at:at + len(new)]
        else:
            data[at:at] = data[at:at + 4 * len(new)]
    return bytes(data)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_what_real_peers_say_is_understood(number):
    targets.one(SEEDS[number])


@given(st.sampled_from(SEEDS), edits)
def test_what_peers_say_with_mistakes_in_it(seed, changes):
    targets.one(edited(seed, changes))


@fewer
@given(st.integers(0, len(targets.TARGETS) - 1), st.binary(max_size=300))
def test_random_bytes(number, data):
    targets.TARGETS[number](data)


frames = st.builds(
    Frame,
    kind=st.integers(1, 16), flags=st.integers(0, 3), aux=st.sampled_from([0, 1, 2, 2**32 - 1]),
    id=st.sampled_from([0, 1, 1 << 16, (2 << 16) + 1, 2**64 - 1]),
    body=st.one_of(st.just(b""), st.sampled_from([seed[26:] for seed in SEEDS]),
                   st.binary(max_size=40)),
    segments=st.lists(st.binary(max_size=4), max_size=2),
)


@pytest.mark.parametrize("more", [
    Frame(READY, body=messages.encode(messages.Ready())),
    Frame(READY, body=messages.encode(messages.Ready(("failed", "traceback", None)))),
    *(Frame(HELLO, body=messages.encode(messages.Hello(targets.TOKEN, 1, 4711, lane)))
      for lane in (False, True)),
], ids=["ready", "failed", "hello", "hello of a lane"])
@pytest.mark.parametrize("first", ["ready", "failed"])
def test_a_handshake_ends_once_though_more_of_it_comes_in_one_read(first, more):
    error = None if first == "ready" else ("failed", "traceback", None)
    frames = [Frame(HELLO, body=messages.encode(messages.Hello(targets.TOKEN, 1, 4711))),
              Frame(READY, body=messages.encode(messages.Ready(error))), more]
    targets.pool_side(b"\0" + b"".join(map(encode, frames)))


@fewer
@given(st.lists(frames, max_size=6), st.booleans())
def test_frames_in_the_wrong_order(frames, after_the_handshake):
    data = b"".join(map(encode, frames))
    targets.worker_side(b"\0" + data)
    if after_the_handshake:
        ready = next(seed for seed in SEEDS if seed[0] == 2)
        data = ready[2:] + data
    targets.pool_side(b"\0" + data)
