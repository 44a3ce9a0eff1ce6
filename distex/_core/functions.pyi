"""What Python code sees of _core/functions.pyx."""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from distex._core.inbox import Inbox

@disjoint_base
class FunctionTable:
    extend: Callable[[Function, set[str]], Function] | None
    def __init__(self, inbox: Inbox) -> None: ...

@disjoint_base
class Function:
    is_async: bool
    takes_lane: bool
    needs: list[Function] | None
    names: frozenset[str]
    key: Any
    def __init__(
        self,
        table: FunctionTable,
        name: str,
        payload: bytes,
        segments: list[Any],
        is_async: bool,
    ) -> None: ...
    def __del__(self) -> None: ...
    @property
    def id(self) -> int: ...
    @property
    def serial(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def segments(self) -> list[Any]: ...
    @property
    def cost_ns(self) -> float: ...
