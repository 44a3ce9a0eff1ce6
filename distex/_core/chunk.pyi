"""What Python code sees of _core/chunk.pyx."""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from distex._core.functions import Function
from distex._core.task import Task

@disjoint_base
class ChunkTask(Task):
    def __init__(
        self,
        function: Function,
        items: list[Any],
        spread: bool,
        notify: Callable[[ChunkTask], object],
    ) -> None: ...
    @property
    def items(self) -> list[Any] | None: ...
    @property
    def spread(self) -> bool: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def done(self) -> bool: ...
    @property
    def dropped(self) -> bool: ...
    @property
    def received(self) -> int: ...
    @property
    def successors(self) -> list[ChunkTask] | None: ...
    def take(self) -> list[Any] | None: ...
    def cancel(self) -> None: ...
