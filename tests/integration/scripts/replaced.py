"""A script whose globals hold functions and classes that it has replaced under their names.

tests/integration/test_script.py runs it, with the kind of event loop as its argument. A new worker
gets the new definitions, and the old ones too.
"""

import contextlib
import logging
import os
import sys

from distex import LoopType, Pool, WorkerLost


class Versioned:
    def number(self):
        return 1

    def other(self):
        return 1


def number():
    return 1


by_key = {"number": number}
made = Versioned()
method = {"other": Versioned.other}


def old_ones():
    return by_key["number"](), made.number(), method["other"](None)


def new_ones():
    return number(), Versioned().number(), Versioned.other(None)


def replace():
    """As a cell of a notebook does."""
    Versioned.other = lambda self: 2
    exec("def number(): return 2", globals())


def check(what, found, expected):
    if found != expected:
        print(f"{what}: {found!r}, not {expected!r}", flush=True)


def main():
    logging.getLogger("distex").setLevel(logging.CRITICAL)  # each death is a warning
    with Pool(1, worker_loop=LoopType[sys.argv[1]]) as pool:
        check("before", pool.run(old_ones), (1, 1, 1))
        replace()
        check("old ones", pool.run(old_ones), (1, 1, 1))
        exec("class Versioned:\n  def number(self): return 2\n  def other(self): return 2", globals())
        for workers in "the same worker", "a new worker":
            check(f"old ones, {workers}", pool.run(old_ones), (1, 1, 1))
            check(f"new ones, {workers}", pool.run(new_ones), (2, 2, 2))
            with contextlib.suppress(WorkerLost):
                pool.run(os._exit, 3)
    print("done")


if __name__ == "__main__":
    main()
