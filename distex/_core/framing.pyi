"""What Python code sees of _core/framing.pyx; what only compiled code can use is left out."""

from typing import Any, Final

from typing_extensions import Buffer as _Buffer
from typing_extensions import disjoint_base

HEADER_BYTES: Final = 24
MAX_SEGMENTS: Final = 1024
DEFAULT_LIMIT_BYTES: Final = 68719476736
HELLO_LIMIT_BYTES: Final = 256

@disjoint_base
class Buffer: ...

@disjoint_base
class Bypass: ...

@disjoint_base
class Detour:
    def __new__(cls, segment: _Buffer) -> Detour: ...

@disjoint_base
class FrameWriter(Buffer):
    def take(self) -> list[Any]: ...
    def write(
        self,
        kind: int,
        flags: int,
        aux: int,
        id: int,
        body: _Buffer,
        segments: list[Any] | None = None,
    ) -> None: ...

@disjoint_base
class FrameHandler:
    def control(
        self, kind: int, flags: int, aux: int, id: int, body: bytes, segments: list[Any]
    ) -> None: ...
    def connected(self, connection: Any) -> None: ...
    def disconnected(self, exc: Exception | None) -> None: ...
    def writable(self) -> None: ...

@disjoint_base
class FrameReader:
    def __new__(cls, limit: int = 68719476736) -> FrameReader: ...
    @property
    def limit(self) -> int: ...
    def set_limit(self, limit: int) -> None: ...
    def feed(self, data: _Buffer, handler: FrameHandler) -> None: ...
