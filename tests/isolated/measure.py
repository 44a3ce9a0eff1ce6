"""Whether something leaks: it is done many times, and the interpreter's count of allocated blocks
has to stay where it was. Each script that uses this is a process of its own, so that nothing else
counts; it ends with status 1 if it finds a leak."""

import gc
import sys
from collections.abc import Callable

ROUNDS = 2000
SLACK_BLOCKS = 100  # caches and free lists of the interpreter; one leaked object a round is 2000


def blocks() -> int:
    """Memory blocks in use, garbage not counted."""
    gc.collect()
    return sys.getallocatedblocks()


def must_stay_flat(step: Callable[[], object], name: str = "") -> None:
    """Do a step many times and compare."""
    for _ in range(ROUNDS // 10):  # fill what is cached
        step()
    grown = 0
    for _ in range(3):  # what grows once is a cache, not a leak
        before = blocks()
        for _ in range(ROUNDS):
            step()
        grown = blocks() - before
        if grown <= SLACK_BLOCKS:
            break
    else:
        sys.exit(f"{name or step.__name__}: {grown} blocks more after {ROUNDS} rounds")
    print(f"{name or step.__name__}: {grown:+} blocks after {ROUNDS} rounds")
