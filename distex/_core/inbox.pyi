"""What Python code sees of _core/inbox.pyx."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Inbox:
    def __init__(self, loop: AbstractEventLoop, handle: Callable[[Any], object]) -> None: ...
    def put(self, item: Any) -> int: ...
    def close(self) -> None: ...
    def handle_all(self) -> None: ...
