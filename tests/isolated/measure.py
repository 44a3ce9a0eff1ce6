"""Whether something leaks: it is done many times, and the interpreter's count of allocated blocks
has to stay where it was. Each script that uses this is a process of its own, so that nothing else
counts; it ends with status 1 if it finds a leak."""

import gc
import os
import sys
from collections.abc import Callable

from effort import so_much

ROUNDS = 2000
MORE = int(os.environ.get("LEAK_FACTOR") or 1)  # times as many rounds
PART = so_much(plain=10, thorough=1)  # one in so many rounds in a plain run
TRIES = 6
SLACK_BLOCKS = 150  # caches and free lists of the interpreter, which fill up slowly


def blocks() -> int:
    """Memory blocks in use, garbage not counted."""
    gc.collect()
    return sys.getallocatedblocks()


def must_stay_flat(
    step: Callable[[], object], name: str = "", rounds: int = ROUNDS,
    count: Callable[[], int] = blocks,
) -> None:
    """Do a step many times and compare.

    Args:
        step: what is done.
        name: of the step; by default its own.
        rounds: how often.
        count: what may not grow.
    """
    rounds = rounds * MORE // PART
    for _ in range(max(1, rounds // 10)):  # fill what is cached
        step()
    grown = 0
    for _ in range(TRIES):  # what stops to grow is a cache, not a leak
        before = count()
        for _ in range(rounds):
            step()
        grown = count() - before
        if grown <= SLACK_BLOCKS:
            break
    else:
        sys.exit(f"{name or step.__name__}: {grown} blocks more after {rounds} rounds")
    print(f"{name or step.__name__}: {grown:+} blocks after {rounds} rounds")
