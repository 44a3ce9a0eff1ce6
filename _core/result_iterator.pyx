# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Iterators over the results of maps: lists of results -> results one by one.

A generator would do, at twice the price for each result; and it would keep all results of a list
until the last of them is taken.
"""
from cpython.object cimport PyObject

import sys

from distex._core.iteration cimport get_iternext, hand_over, iternext, set_iternext
from distex._core.references cimport list_move, owned


cdef inline PyObject* take(PyObject* values) noexcept:
    """The next value, which the list lets go of; the reference is the caller's."""
    (<Results>values).next += 1
    return list_move(<PyObject*>(<Results>values).values, (<Results>values).next - 1)


cdef class Results:
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


cdef class ResultIterator(Results):
    """An iterator over what a generator's lists hold.

    Args:
        lists: the generator.
        on_close: called by close(): a generator that has not begun is not told of it.
    """

    def __init__(self, lists, on_close=None):
        self.lists = lists
        self.on_close = on_close

    def __iter__(self):
        return self

    def __next__(self):
        while self.next >= self.end:
            self.load(next(self.lists))
        return owned(take(<PyObject*>self))

    def close(self):
        """Take no more: what has not been started is cancelled."""
        self.load(None)
        self.lists.close()
        if self.on_close is not None:
            self.on_close()


cdef class AsyncResultIterator(Results):
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
        raise StopIteration(owned(take(<PyObject*>self)))

    async def _refill(self):
        while self.next >= self.end:
            self.load(await self.lists.__anext__())
        return owned(take(<PyObject*>self))

    async def aclose(self):
        """Take no more: what has not been started is cancelled."""
        self.load(None)
        await self.lists.aclose()


cdef PyObject* next_of_iterator(PyObject* self) noexcept:
    return take(self) if (<Results>self).next < (<Results>self).end else next_slowly(self)


cdef PyObject* next_of_async_iterator(PyObject* self) noexcept:
    if (<Results>self).next >= (<Results>self).end:
        return next_slowly_async(self)
    return hand_over(take(self))


cdef iternext next_slowly = get_iternext(ResultIterator)
cdef iternext next_slowly_async = get_iternext(AsyncResultIterator)
set_iternext(ResultIterator, next_of_iterator)
set_iternext(AsyncResultIterator, next_of_async_iterator)
