# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Lists of results -> results one by one, for both kinds of maps.

A generator would do, at twice the price for each result; and it would keep all results of a list
until the last of them is taken.
"""
from cpython.object cimport PyObject

import sys

from distex._core.iteration cimport get_iternext, iternext, set_iternext, stop_iteration


cdef class Values:
    """What is left of a list, and where more comes from.

    Args:
        lists: a generator of lists, asynchronous or not.
    """

    def __init__(self, lists):
        self.lists = lists

    cdef int load(self, list values) except -1:
        self.values = values
        self.next = 0
        self.end = 0 if values is None else len(values)
        return 0

    cdef object pop(self):
        """The next value, which the list lets go of."""
        value = self.values[self.next]
        self.values[self.next] = None
        self.next += 1
        return value


cdef class Flatten(Values):
    """An iterator over what a generator's lists hold."""

    def __iter__(self):
        return self

    def __next__(self):
        while self.next >= self.end:
            self.load(next(self.lists))
        return self.pop()

    def close(self):
        """Take no more: what has not been started is cancelled."""
        self.load(None)
        self.lists.close()


cdef class AsyncFlatten(Values):
    """An asynchronous iterator over what an asynchronous generator's lists hold.

    While the present list lasts it is itself the awaitable of the next value: nothing is made for
    a result but the StopIteration that hands it over. So only one task may take results of it.
    """

    def __aiter__(self):
        return self

    def __anext__(self):
        return self if self.next < self.end else self._refill()

    def __await__(self):
        return self

    def __iter__(self):
        # asyncio's own wrapper of awaitables was a generator until 3.11
        if sys.hexversion >= 0x030C0000:
            raise TypeError("use 'async for' for the results of map_async")
        return self

    def __next__(self):
        if self.next >= self.end:
            raise RuntimeError("two tasks take results of one map at the same time")
        raise StopIteration(self.pop())

    async def _refill(self):
        while self.next >= self.end:
            self.load(await self.lists.__anext__())
        return self.pop()

    async def aclose(self):
        """Take no more: what has not been started is cancelled."""
        self.load(None)
        await self.lists.aclose()


cdef PyObject* next_value(PyObject* self) noexcept:
    cdef AsyncFlatten values = <AsyncFlatten>self
    if values.next >= values.end:
        return slow_next(self)
    value = values.pop()
    return stop_iteration(<PyObject*>value)


cdef iternext slow_next = get_iternext(AsyncFlatten)
set_iternext(AsyncFlatten, next_value)
