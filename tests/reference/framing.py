"""The framing in pure Python, written from the table at the head of _core/framing.pyx and from
nothing else: the oracle for the compiled one. Simple rather than fast.
"""

import struct
from dataclasses import dataclass, field

KINDS = range(1, 15)
MAX_SEGMENTS = 1024
HEADER = struct.Struct("<BBHIQQ")  # kind, flags, segments, aux, id, length


class BadFrame(Exception):
    """What is not a frame, or is over the limit."""


@dataclass(frozen=True)
class Frame:
    """One frame; the numbers as they are on the wire."""

    kind: int
    flags: int = 0
    aux: int = 0
    id: int = 0
    body: bytes = b""
    segments: list[bytes] = field(default_factory=list)


def encode(frame: Frame) -> bytes:
    """The frame as it is on the wire."""
    header = HEADER.pack(frame.kind, frame.flags, len(frame.segments), frame.aux, frame.id,
                         len(frame.body))
    table = b"".join(len(segment).to_bytes(8, "little") for segment in frame.segments)
    return header + table + frame.body + b"".join(frame.segments)


def decode(data: bytes, limit: int = 1 << 36) -> tuple[list[Frame], bytes]:
    """All whole frames at the head of the data, and what is left of it.

    Raises:
        BadFrame: the data can't go on to be a frame, as far as they are there.
    """
    frames: list[Frame] = []
    while (found := _decode_one(data, limit)) is not None:
        frame, size = found
        frames.append(frame)
        data = data[size:]
    return frames, data


def _decode_one(data: bytes, limit: int) -> tuple[Frame, int] | None:
    if len(data) < HEADER.size:
        return None
    kind, flags, count, aux, id, length = HEADER.unpack_from(data)
    if kind not in KINDS:
        raise BadFrame("kind")
    if count > MAX_SEGMENTS:
        raise BadFrame("number of segments")
    if length > limit:
        raise BadFrame("length of the body")
    position = HEADER.size + 8 * count
    if len(data) < position:
        return None
    sizes = [int.from_bytes(data[at:at + 8], "little") for at in range(HEADER.size, position, 8)]
    if length + sum(sizes) > limit:
        raise BadFrame("length of the segments")
    if len(data) < position + length + sum(sizes):
        return None
    parts = []
    for size in [length, *sizes]:
        parts.append(data[position:position + size])
        position += size
    return Frame(kind, flags, aux, id, parts[0], parts[1:]), position
