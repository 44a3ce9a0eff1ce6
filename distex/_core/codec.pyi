"""What Python code sees of _core/codec.pyx."""

from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer as _Buffer
from typing_extensions import disjoint_base

@disjoint_base
class Codec:
    def __init__(
        self,
        dumps: Callable[[Any, list[Any] | None], bytes],
        loads: Callable[[Any, list[Any] | None], Any],
        native: bool = True,
    ) -> None: ...
    def encode(self, value: Any) -> tuple[bytes, list[Any]]: ...
    def decode(self, data: _Buffer, segments: list[Any] | None = None) -> Any: ...
