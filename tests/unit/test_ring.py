"""Large segments by shared memory: two connections on one event loop, at the ends of a socket."""

import asyncio
import contextlib
import fcntl
import gc
import mmap
import os
import random
import socket
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import DEADLINE, mapped_rings

from distex._core.framing import DEFAULT_LIMIT_BYTES, FrameHandler
from distex._core.protocol import StreamConnection
from distex.errors import ProtocolError

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere than on Linux all goes by the socket")

RING, KICK, RESULT = 17, 18, 3
OFFER, OPENED, REFUSED = 0, 1, 2
RING_BYTES = 1 << 20
LARGE = 256 * 1024  # what goes by the ring
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class End(FrameHandler):
    """Keeps the frames that come."""

    def __init__(self):
        self.frames = []
        self.ended = asyncio.get_running_loop().create_future()
        self.writable_again = 0
        self.error = None

    def connected(self, connection):
        self.connection = connection
        connection.on_violation = self.violated

    def violated(self, exc):
        self.error = exc

    def control(self, kind, flags, aux, id, body, segments):
        self.frames.append((id, body, [
            one if type(one) in (bytes, bytearray) else bytearray(one) for one in segments]))

    def writable(self):
        self.writable_again += 1

    def disconnected(self, exc):
        self.ended.set_result(None)

    async def ends(self):
        """Wait for the end of the connection."""
        async with asyncio.timeout(DEADLINE):
            await self.ended

    def send(self, id, *segments, body=b"b"):
        """Send a frame."""
        self.connection.write(RESULT, 0, 0, id, body, list(segments))

    async def gets(self, number):
        """Wait for so many frames in all."""
        async with asyncio.timeout(DEADLINE):
            while len(self.frames) < number:
                await asyncio.sleep(0)


async def connect(sock, share=True):
    """An End of this socket."""
    loop = asyncio.get_running_loop()
    end = End()
    connection = StreamConnection(loop, end, DEFAULT_LIMIT_BYTES)
    await loop.create_connection(lambda: connection, sock=sock)
    if share:
        connection.share_memory()
    return end


@contextlib.asynccontextmanager
async def ends(share=True):
    """Both ends of a connection."""
    pair = socket.socketpair()
    both = [await connect(sock, share) for sock in pair]
    try:
        yield both
    finally:
        for end in both:
            end.connection.abort()
        for end in both:
            await end.ends()


@contextlib.asynccontextmanager
async def opened_ends():
    """Both ends of a connection that has its rings."""
    async with ends() as both:
        for end, other in (both, both[::-1]):
            end.send(0, bytes(LARGE))
            await other.gets(1)
            await until(lambda end=end: end.connection.rings.opened)
            other.frames.clear()
        yield both


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


def descriptors():
    """Of the memory of rings."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += "memfd:distex" in os.readlink(f"/proc/self/fd/{fd}")
    return found


def run(loop):
    """Decorates a coroutine function: run it at once."""
    def decorate(main):
        loop.run(main())
    return decorate


def content(seed, size):
    return random.Random(seed).randbytes(size)


# --- what is sent arrives


@pytest.mark.parametrize("size", [
    LARGE - 1, LARGE, LARGE + 1, RING_BYTES - 1, RING_BYTES, RING_BYTES + 1, 3 * RING_BYTES + 7,
    16 * RING_BYTES, 40 * RING_BYTES + 13])
def test_a_segment_arrives(loop, size):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            for k in range(3):
                a.send(k, bytearray(content(k, size)))
            await b.gets(3)
            assert b.frames == [(k, b"b", [content(k, size)]) for k in range(3)]
            assert all(type(segments[0]) is bytearray for _, _, segments in b.frames)


def test_only_what_is_large_takes_it_and_its_types_stay(loop):
    @run(loop)
    async def main():
        segments = [b"small", bytearray(LARGE), b"", bytes(LARGE), bytearray(b"x" * 40_000),
                    bytearray(), bytes(2 * RING_BYTES), memoryview(b"y" * LARGE)]
        async with opened_ends() as (a, b):
            a.send(1, *segments, body=b"B" * 100_000)
            a.send(2)
            await b.gets(2)
            (_, body, received), last = b.frames
            assert body == b"B" * 100_000
            assert received == segments
            assert [type(one) is bytes for one in received] == [
                type(one) is bytes for one in segments]
            assert last == (2, b"b", [])


@given(st.lists(st.tuples(
    st.booleans(), st.lists(st.sampled_from(
        [0, 10, 50_000, LARGE, LARGE + 1, RING_BYTES, 2 * RING_BYTES + 1]), max_size=4))))
@settings(max_examples=settings.default.max_examples // 10)
def test_whatever_is_sent_both_ways_arrives_in_order(frames):
    async def main():
        async with opened_ends() as both:
            sent = [[], []]
            for k, (which, sizes) in enumerate(frames):
                segments = [bytearray(content(k + size, size)) for size in sizes]
                both[which].send(k, *segments)
                sent[which].append((k, b"b", segments))
            for which, end in enumerate(both):
                await both[1 - which].gets(len(sent[which]))
                assert both[1 - which].frames == sent[which]
                assert end.error is None

    asyncio.run(main())


def test_what_waits_for_room_is_told_when_it_is_gone(loop):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            b.connection.transport.pause_reading()
            a.send(1, bytes(2 * RING_BYTES))
            a.send(2)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not a.writable_again
            b.connection.transport.resume_reading()
            await b.gets(2)
            await until(lambda: a.writable_again)
            assert [id for id, _, _ in b.frames] == [1, 2]


@pytest.mark.parametrize("closes", [False, True])
def test_who_finds_room_before_it_is_told_goes_on_as_well(loop, closes):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            a.connection.transport.pause_reading()
            a.send(1, content(1, 3 * RING_BYTES))
            a.connection.flush()
            if closes:
                a.connection.close()

            def arrives():
                a.connection.flush()  # as with a frame that is sent
                return b.frames

            await until(arrives)
            assert b.frames == [(1, b"b", [content(1, 3 * RING_BYTES)])]
            await (b.ends() if closes else until(lambda: a.writable_again))


def test_the_loop_gets_to_other_work_meanwhile(loop):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            a.send(1, bytes(100 * RING_BYTES))
            turns = 0
            while not b.frames:
                await asyncio.sleep(0)
                turns += 1
            assert turns > 5


# --- the rings


def test_each_way_has_one_and_the_first_large_segment_does_without(loop):
    gc.collect()  # other tests may have left some
    before = mapped_rings(), descriptors()

    @run(loop)
    async def main():
        async with ends() as (a, b):
            a.send(1, bytes(LARGE - 1))
            await b.gets(1)
            assert not a.connection.rings.offered
            a.send(2, bytes(LARGE))
            assert a.connection.rings.offered
            assert not a.connection.rings.opened
            await b.gets(2)
            await until(lambda: a.connection.rings.opened)
            assert not b.connection.rings.offered
            assert (mapped_rings(), descriptors()) == (before[0] + 2, before[1])
            b.send(3, bytes(LARGE))
            await until(lambda: b.connection.rings.opened)
            assert (mapped_rings(), descriptors()) == (before[0] + 4, before[1])
    assert (mapped_rings(), descriptors()) == before


def test_tcp_has_none(loop):
    @run(loop)
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        a, b = await connect(ours), await connect(theirs)
        for k in range(3):
            a.send(k, bytes(LARGE))
        await b.gets(3)
        assert a.connection.rings is None
        a.connection.close()
        await a.ends()
        await b.ends()


@pytest.mark.parametrize("missing", ["memfd_create", "open"])
def test_where_there_can_be_none_the_socket_does(loop, missing, monkeypatch):
    real = os.open

    def fail(path, *args, **kwargs):
        if missing == "open" and not str(path).startswith("/proc"):
            return real(path, *args, **kwargs)
        raise PermissionError(path)

    @run(loop)
    async def main():
        async with ends() as (a, b):
            monkeypatch.setattr(os, missing, fail)
            for k in range(5):
                a.send(k, content(k, 2 * RING_BYTES))
                await b.gets(k + 1)
            assert b.frames == [(k, b"b", [content(k, 2 * RING_BYTES)]) for k in range(5)]
            assert not a.connection.rings.opened


# --- the end


def test_close_sends_what_waits(loop):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            b.connection.transport.pause_reading()
            a.send(1, content(1, 20 * RING_BYTES))
            a.send(2)
            a.connection.close()
            b.connection.transport.resume_reading()
            await b.gets(2)
            assert b.frames == [(1, b"b", [content(1, 20 * RING_BYTES)]), (2, b"b", [])]
            await b.ends()


@pytest.mark.parametrize("who", [0, 1])
def test_either_end_goes_in_the_midst_of_it(loop, who):
    gc.collect()  # other tests may have left some
    before = mapped_rings(), descriptors()

    @run(loop)
    async def main():
        async with opened_ends() as both:
            both[1].connection.transport.pause_reading()
            both[0].send(1, bytes(20 * RING_BYTES))
            both[who].connection.abort()
            both[1].connection.transport.resume_reading()
            await both[0].ends()
            await both[1].ends()
            assert not both[1].frames
    assert (mapped_rings(), descriptors()) == before


# --- peers that don't keep to it


def frame(kind, flags=0, aux=0, table=(), length=0):
    return struct.pack("<BBHIQQ", kind, flags, len(table), aux, 1, length) + b"".join(
        struct.pack("<Q", size) for size in table)


BY_BYPASS = 1 << 62


def memory(size=4096 + RING_BYTES, seals=SEALS):
    fd = os.memfd_create("distex", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize("frames", [
    frame(RING, OPENED), frame(RING, REFUSED), frame(RING, 7, 1), frame(KICK, table=[1]),
    frame(KICK, length=1), frame(RESULT, table=[LARGE | BY_BYPASS]),
    frame(RESULT, table=[1 << 61 | BY_BYPASS])],
    ids=["answer to nothing", "refusal of nothing", "unknown", "kick with a segment",
         "kick with a body", "segment by no ring", "segment beyond the limit"])
def test_what_has_no_place_ends_the_connection(loop, frames):
    @run(loop)
    async def main():
        async with ends() as (a, b):
            a.connection.transport.write(frames)
            await b.ends()
            assert isinstance(b.error, ProtocolError)


@pytest.mark.parametrize("frames", [frame(RING), frame(KICK)], ids=["offer", "kick"])
def test_who_shares_no_memory_is_offered_none(loop, frames):
    @run(loop)
    async def main():
        async with ends(share=False) as (a, b):
            a.connection.transport.write(frames)
            await b.ends()
            assert isinstance(b.error, ProtocolError)


@pytest.mark.parametrize("number", [-1, "socket", "size", "no seals"])
def test_an_offer_of_something_else_is_refused(loop, number):
    gc.collect()  # other tests may have left some
    before = mapped_rings()

    @run(loop)
    async def main():
        async with ends() as (a, _):
            made = {"socket": a.connection.transport.get_extra_info("socket").fileno()}
            made["size"], made["no seals"] = memory(size=4096), memory(seals=0)
            a.connection.transport.write(frame(RING, OFFER, made.get(number, 1 << 20)))
            # the answer is not expected there
            await a.ends()
            assert "an answer" in str(a.error)
            assert mapped_rings() == before
            os.close(made["size"])
            os.close(made["no seals"])


def test_a_second_offer_ends_the_connection(loop):
    @run(loop)
    async def main():
        fd = memory()
        async with opened_ends() as (a, b):
            a.connection.transport.write(frame(RING, OFFER, fd))
            await b.ends()
            assert "twice" in str(b.error)
        os.close(fd)


def test_a_frame_in_the_midst_of_a_segment_ends_the_connection(loop):
    @run(loop)
    async def main():
        async with opened_ends() as (a, b):
            a.connection.transport.write(frame(RESULT, table=[LARGE | BY_BYPASS]) + frame(RESULT))
            await b.ends()
            assert "before the end" in str(b.error)


@pytest.mark.parametrize(("side", "place", "value"), [
    ("reader", 0, RING_BYTES + 1), ("reader", 0, 1 << 63),
    ("writer", 64, 1), ("writer", 64, RING_BYTES), ("writer", 64, 1 << 63)])
def test_nonsense_in_the_memory_ends_the_connection(loop, side, place, value, monkeypatch):
    kept = []
    create = os.memfd_create

    def create_and_keep(*args):
        fd = create(*args)
        kept.append(os.dup(fd))
        return fd

    @run(loop)
    async def main():
        monkeypatch.setattr(os, "memfd_create", create_and_keep)
        async with opened_ends() as (a, b):
            with mmap.mmap(kept[0], 4096 + RING_BYTES) as shared:
                struct.pack_into("<Q", shared, place, value)
                if side == "writer":
                    a.send(1, bytes(2 * RING_BYTES))
                else:
                    a.connection.transport.write(frame(RESULT, table=[LARGE | BY_BYPASS]))
                victim = b if side == "reader" else a
                await victim.ends()
                assert "shared memory" in str(victim.error)
    for fd in kept:
        os.close(fd)
