"""What Python code sees of _core/buffer_pool.pyx."""

import sys

from typing_extensions import disjoint_base

@disjoint_base
class Block:
    def __new__(cls, size: int) -> Block: ...
    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
