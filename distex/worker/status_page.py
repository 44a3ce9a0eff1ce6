"""The status page: a page of shared memory in which a worker notes which task it runs.

    worker ──STARTED, FINISHED, RUNNING ...──> page <──UNWANTED, WITHDRAWN── nanny

A worker writes down what it is doing; it takes nanoseconds, and can be read when it is dead, or
hangs. The nanny writes which task is not wanted any more: the worker does not begin it, and if it
has, the signal that follows ends it (see interrupts.py).
"""

import mmap

from distex._core.prctl import order_memory

STARTED = 0  # id of the last task that was started: of those to come each has a higher one
FINISHED = 1  # id of the last plain task that was done
UNWANTED = 2  # id of the task that is to be ended, written by the nanny
RUNNING = 3  # id of the task whose function is being called; 0: none, nothing may be interrupted
ITEM = 4  # if the last task that was started is a chunk: the item of it
STEPPING = 5  # id of the task of which a coroutine runs, as long as it is not cancelled; 0: none
CANCELS = 6  # cancellations that the worker has read of
WITHDRAWN = 7  # none of the tasks up to this id is begun any more, written by the nanny

PAGE_BYTES = 64  # a cache line, so that none is shared by two workers
PAGES_AT_ONCE = 1024  # that lie in one mapping


class StatusPages:
    """Memory shared with the workers, a page for each.

    In few mappings: each mapping that there is makes each fork dearer, which would make the start
    of thousands of workers quadratic.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A zeroed page, as 64-bit numbers."""
        if not self._free:
            memory = memoryview(mmap.mmap(-1, PAGE_BYTES * PAGES_AT_ONCE))
            self._free = [memory[start : start + PAGE_BYTES].cast("Q")
                          for start in range(0, memory.nbytes, PAGE_BYTES)]
        page = self._free.pop()
        for place in range(len(page)):
            page[place] = 0
        return page

    def give_back(self, page: memoryview) -> None:
        """The worker that had it is gone."""
        self._free.append(page)


def withdraw(page: memoryview, last: int) -> tuple[int, int]:
    """Have a worker begin no more of the tasks up to this one.

    Returns:
        the last task that it has started, and if that runs and is a chunk the last item of it that
        it begins; -1: not known.
    """
    page[WITHDRAWN] = max(page[WITHDRAWN], last)
    order_memory()  # from here on it has seen that, or it is seen what it has begun
    item = page[ITEM]
    started: int = page[STARTED]
    return started, item if page[RUNNING] == started else -1
