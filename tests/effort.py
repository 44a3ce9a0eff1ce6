"""How much the tests do: little in a plain run, all of it in a thorough one, with PROFILE=ci."""

import os
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("PROFILE") == "ci"


def so_much(*, plain: T, thorough: T) -> T:
    """What there is of something, in either kind of run."""
    return thorough if THOROUGH else plain


def how_long(name: str, *, plain: float, thorough: float) -> float:
    """Seconds for which something goes on: as the environment variable says, or else as the run is."""
    return float(os.environ.get(name) or so_much(plain=plain, thorough=thorough))


def moments(number: int) -> list[int]:
    """Turns of a loop in which something happens: each one below the number; in a plain run one in
    three, and the first ones, in which most is begun."""
    return [n for n in range(number) if THOROUGH or n < 3 or n % 3 == 0]
