"""What Python code sees of _core/function_cache.pyx."""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from distex._core.functions import Function

MISSING: object

def current_value(place: Any, name: str) -> Any: ...
@disjoint_base
class Check:
    def is_current(self) -> bool: ...

@disjoint_base
class FunctionCheck(Check):
    def __init__(self, func: Callable[..., Any]) -> None: ...

@disjoint_base
class ClassCheck(Check):
    def __init__(self, cls: type) -> None: ...

@disjoint_base
class Snapshot(Check):
    def __init__(self, containers: list[Any]) -> None: ...

@disjoint_base
class CachedFunction:
    by_name: bool
    def __init__(
        self, func: Callable[..., Any], function: Function, uses: list[tuple[Any, str, Any]]
    ) -> None: ...
    @property
    def func(self) -> Callable[..., Any]: ...
    @property
    def function(self) -> Function: ...
    @property
    def uses(self) -> list[tuple[Any, str, Any]]: ...
    def is_current(self) -> bool: ...
