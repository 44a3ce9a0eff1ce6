"""Functions of every kind. Imported they are a module's; run in ``__main__``, a script's own.

    FUNCTIONS["a bound method"]  ->  what is called, and what makes its argument of a number

Standard library only: workers import it.
"""

import functools
from collections.abc import Callable
from typing import Any

FACTORS = [2]


class Multiplier:
    """Multiply by a factor, in more than one way."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def multiply(self, x: int) -> int:
        """Return the product."""
        return x * self.factor

    def __call__(self, x: int) -> int:
        return x * self.factor


def double(x: int) -> int:
    """Use nothing but the argument."""
    return x * 2


def double_by_list(x: int) -> int:
    """Use a global that may change."""
    return x * FACTORS[0]


def multiply(factor: int, x: int) -> int:
    """Take an argument that a partial can fill in."""
    return x * factor


def double_by(multiplier: Multiplier) -> int:
    """Take an instance of a class."""
    return multiplier.factor * 2


FUNCTIONS: dict[str, tuple[Callable[[Any], int], Callable[[int], Any]]] = {
    "a function": (double, int),
    "a function that uses a list": (double_by_list, int),
    "a bound method": (Multiplier(2).multiply, int),
    "a partial": (functools.partial(multiply, 2), int),
    "a callable object": (Multiplier(2), int),
    "an instance as argument": (double_by, Multiplier),
}
