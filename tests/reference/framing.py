"""The framing in pure Python, written from the table at the head of _core/framing.pyx and from
nothing else: the oracle for the compiled one. Simple rather than fast.
"""

import struct
from dataclasses import dataclass, field

KINDS = range(1, 17)
MAX_SEGMENTS = 1024
IS_BYTES = 1 << 63  # in the table: the segment was bytes, else a bytearray or another buffer
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
    segments: list[bytes | bytearray] = field(default_factory=list)
    types: list[type] = field(init=False)  # of the segments, to be compared too

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", list(map(type, self.segments)))


def encode(frame: Frame) -> bytes:
    """The frame as it is on the wire."""
    header = HEADER.pack(frame.kind, frame.flags, len(frame.segments), frame.aux, frame.id,
                         len(frame.body))
    table = b"".join(
        (len(segment) | (IS_BYTES if type(segment) is bytes else 0)).to_bytes(8, "little")
        for segment in frame.segments)
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
    table = [int.from_bytes(data[at:at + 8], "little") for at in range(HEADER.size, position, 8)]
    sizes = [size & ~IS_BYTES for size in table]
    if length + sum(sizes) > limit:
        raise BadFrame("length of the segments")
    if len(data) < position + length + sum(sizes):
        return None
    parts = []
    for size in [length, *sizes]:
        parts.append(data[position:position + size])
        position += size
    segments = [part if size & IS_BYTES else bytearray(part)
                for size, part in zip(table, parts[1:], strict=True)]
    return Frame(kind, flags, aux, id, parts[0], segments), position
