"""What Python code sees of _core/ring.pyx."""

from typing import Any

from typing_extensions import disjoint_base

from distex._core.framing import Bypass, FrameWriter

def peer_credentials(sock: Any) -> tuple[int, int] | None: ...
def peer_process(sock: Any) -> int: ...

@disjoint_base
class Ring:
    def __new__(cls, fd: int) -> Ring: ...

@disjoint_base
class RingPair(Bypass):
    def __init__(self, out: FrameWriter, peer: int) -> None: ...
    @property
    def offered(self) -> bool: ...
    @property
    def opened(self) -> bool: ...
