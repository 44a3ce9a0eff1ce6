"""What Python code sees of _core/execute.pyx."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from distex._core.codec import Codec
from distex._core.framing import FrameHandler

@disjoint_base
class Entry: ...
@disjoint_base
class Job: ...

@disjoint_base
class Runner(FrameHandler):
    forked: bool
    read_definition: Callable[[Any, list[Any] | None], Any] | None
    define: Callable[[list[Any]], bool] | None
    def __init__(
        self,
        loop: AbstractEventLoop,
        codec: Codec,
        load_function: Callable[[Any, list[Any] | None], Callable[..., Any]],
        dump_error: Callable[[BaseException], tuple[str, str, bytes | None]],
        page: Any,
        spin: float = 0,
    ) -> None: ...
    def share_functions(self, other: Runner) -> None: ...
    def cancel_all(self) -> None: ...
    @property
    def connection(self) -> Any: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def dump_error(self) -> Callable[[BaseException], tuple[str, str, bytes | None]]: ...
