"""What Python code sees of _core/lane.pyx."""

from typing import Any

from typing_extensions import disjoint_base

from distex._core.codec import Codec
from distex._core.framing import FrameHandler, FrameWriter

class LaneClosed(Exception): ...

@disjoint_base
class Wire(FrameWriter):
    def __init__(self, fd: int, peer: int, spin: float) -> None: ...

@disjoint_base
class Lane(FrameHandler):
    def __init__(
        self, fd: int, peer: int, codec: Codec, worker: Any, spin: float
    ) -> None: ...
    def __del__(self) -> None: ...
