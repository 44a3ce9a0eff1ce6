"""The status page: a page of shared memory in which a worker notes which task it runs.

    worker ──STARTED, FINISHED, RUNNING ...──> page <──UNWANTED, WITHDRAWN── nanny

A worker writes down what it is doing; it takes nanoseconds, and can be read when it is dead, or
hangs. The nanny writes which task is not wanted any more: the worker does not begin it, and if it
has, the signal that follows ends it (see interrupts.py).
"""

import mmap

from distex._core.prctl import order_memory
from distex.wire.messages import MAX_NUMBER

STARTED = 0  # id of the last task that was started: of those to come each has a higher one
FINISHED = 1  # id of the last plain task that was done
UNWANTED = 2  # id of the task that is to be ended, written by the nanny
RUNNING = 3  # id of the task whose function is being called; 0: none, nothing may be interrupted
ITEM = 4  # if the last task that was started is a chunk: the item of it
STEPPING = 5  # id of the task of which a coroutine runs, as long as it is not cancelled; 0: none
CANCELS = 6  # cancellations that the worker has read of
WITHDRAWN = 7  # none of the tasks up to this id is begun any more, written by the nanny

NUMBERS = 8  # on a page; a cache line
PAGE_BYTES = mmap.PAGESIZE  # what one process can have without another
PAGES_AT_ONCE = 256  # that lie in one mapping
CAN_WITHHOLD = hasattr(mmap, "MADV_DONTFORK")  # Linux


class StatusPages:
    """Memory shared with the workers, a page for each, which no other worker has.

    In few mappings: each mapping that a process inherits makes its fork dearer, which would make
    the start of thousands of workers quadratic.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._places: dict[int, tuple[mmap.mmap, int]] = {}  # of pages, by their identity

    def take(self) -> memoryview:
        """A zeroed page, as 64-bit numbers."""
        if not self._free:
            mapping = mmap.mmap(-1, PAGE_BYTES * PAGES_AT_ONCE)
            if CAN_WITHHOLD:
                mapping.madvise(mmap.MADV_DONTFORK)
            memory = memoryview(mapping)
            for start in range(0, memory.nbytes, PAGE_BYTES):
                page = memory[start : start + 8 * NUMBERS].cast("Q")
                self._places[id(page)] = mapping, start
                self._free.append(page)
        page = self._free.pop()
        for place in range(NUMBERS):
            page[place] = 0
        return page

    def lend(self, page: memoryview) -> None:
        """Have processes that are forked from now on inherit a page; others they don't."""
        self._advise(page, "MADV_DOFORK")

    def keep(self, page: memoryview) -> None:
        """Have processes that are forked from now on not inherit it."""
        self._advise(page, "MADV_DONTFORK")

    def _advise(self, page: memoryview, advice: str) -> None:
        if CAN_WITHHOLD:
            mapping, start = self._places[id(page)]
            mapping.madvise(getattr(mmap, advice), start, PAGE_BYTES)

    def give_back(self, page: memoryview) -> None:
        """The worker that had it is gone."""
        self._free.append(page)


def read(page: memoryview, place: int) -> int:
    """What a worker has noted: it may have written anything there."""
    number: int = page[place]
    return min(number, MAX_NUMBER)


def withdraw(page: memoryview, last: int) -> tuple[int, int | None]:
    """Have a worker begin no more of the tasks up to this one.

    Returns:
        the last task that it has started, and if that runs and is a chunk the last item of it that
        it begins; None: not known.
    """
    page[WITHDRAWN] = max(page[WITHDRAWN], last)
    order_memory()  # from here on it has seen that, or it is seen what it has begun
    item, started = read(page, ITEM), read(page, STARTED)
    return started, item if page[RUNNING] == started else None
