"""What Python code sees of _core/task.pyx."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from distex._core.functions import Function

@disjoint_base
class Limits:
    def __init__(self, retries: int = 0, timeout: float = 0, grace: float = -1) -> None: ...
    @property
    def retries(self) -> int: ...
    @property
    def timeout(self) -> float: ...
    @property
    def grace(self) -> float: ...

@disjoint_base
class Deadlines:
    def __init__(
        self,
        loop: AbstractEventLoop,
        timeout: float,
        timed: set[Deadlines],
        expire: Callable[[Task], object],
    ) -> None: ...
    @property
    def timed(self) -> set[Deadlines]: ...
    def close(self) -> None: ...

@disjoint_base
class Task:
    limits: Limits | None
    @property
    def losses(self) -> int: ...
    @property
    def spared(self) -> int: ...
    @property
    def function(self) -> Function: ...
    @property
    def name(self) -> str: ...
    @property
    def args(self) -> tuple[Any, ...] | None: ...
    @property
    def kwargs(self) -> dict[str, Any] | None: ...
    @property
    def link(self) -> Any: ...
    @property
    def wire_id(self) -> int: ...
    @property
    def calls(self) -> int: ...
