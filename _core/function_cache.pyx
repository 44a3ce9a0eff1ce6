# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Decide whether a pickled function is still current: all that it uses is what it was.

One that goes by value takes along what its globals and closure variables mean.  What that was is
noted, and looked at before each call: a call takes less than a microsecond, so it has to be quick.
"""
from types import CellType

from distex._core.functions cimport Function

MISSING = object()  # what a name means that means nothing yet


cpdef object current_value(object place, str name):
    """What a name means now, or MISSING.

    Args:
        place: a dictionary of globals, a cell, or a function, which has it as an attribute.
        name: the name; of no interest to a cell.
    """
    if isinstance(place, dict):
        return place.get(name, MISSING)
    if isinstance(place, Check):
        return place if place.is_current() else MISSING
    if type(place) is CellType:
        try:
            return place.cell_contents
        except ValueError:  # empty
            return MISSING
    return getattr(place, name)


cdef class Check:
    """Stands for something that may change from within, as a place of uses."""

    def is_current(self):
        """Whether it is what it was."""
        raise NotImplementedError


cdef class Snapshot(Check):
    """Containers, with what was in each: the same objects, in the same order.

    Args:
        containers: lists, dictionaries and the like.
    """

    def __init__(self, list containers):
        self.parts = [(container, _content(container)) for container in containers]

    def is_current(self):
        """Whether all contain what they did."""
        cdef tuple part, now, then
        cdef Py_ssize_t i
        for part in self.parts:
            now = _content(part[0])
            then = part[1]
            if len(now) != len(then):
                return False
            for i in range(len(now)):
                if now[i] is not then[i]:
                    return False
        return True


cdef tuple _content(container):
    if isinstance(container, (list, set)):
        return tuple(container)
    if isinstance(container, bytearray):
        return tuple(container)
    return (*container.keys(), *container.values())


cdef class CachedFunction:
    """A pickled function.

    Args:
        func: the function itself; it lives as long, so that its id stays its own.
        function: the form in which workers are sent it.
        uses: what it refers to: ``(place, name, meaning)`` of each, see
            current_value(). Nothing, if the workers import it.
    """

    def __init__(self, func, Function function, list uses):
        self.func = func
        self.function = function
        self.uses = uses

    cpdef bint is_current(self) except -1:
        """Whether all that it uses is what it was."""
        cdef tuple use
        for use in self.uses:
            if current_value(use[0], use[1]) is not use[2]:
                return False
        return True
