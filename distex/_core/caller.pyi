"""What Python code sees of _core/caller.pyx."""

from collections.abc import Callable
from typing import Any, Protocol

from typing_extensions import disjoint_base

from distex._core.dispatch import Dispatcher
from distex._core.function_cache import CachedFunction
from distex._core.functions import Function
from distex._core.futures import AsyncTask, ConcurrentTask
from distex._core.task import Limits

class _FunctionCache(Protocol):
    """What a Caller finds functions with; see client/functions.py."""

    cached: dict[Any, CachedFunction]
    unwraps: bool
    def get(self, func: Callable[..., Any]) -> Function: ...
    def goes_by_name(self, func: Callable[..., Any]) -> bool: ...

@disjoint_base
class Caller:
    def __init__(
        self,
        dispatcher: Dispatcher,
        cache: _FunctionCache,
        future_class: type[ConcurrentTask],
        limits: Limits | None = None,
    ) -> None: ...
    @property
    def limits(self) -> Limits | None: ...
    def call_async(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncTask[Any]: ...
    def run(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...
    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...
