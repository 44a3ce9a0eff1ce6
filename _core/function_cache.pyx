# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Decide whether a pickled function is still current: all that it uses is what it was.

One that goes by value takes along what its globals and closure variables mean.  What that was is
noted, and looked at before each call: a call takes less than a microsecond, so it has to be quick.
"""
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM

from types import CellType

from distex._core.functions cimport Function

MISSING = object()  # what a name means that means nothing yet

cdef extern from *:
    """
    /* 0 if a type was changed since it was asked last, or if it is not known */
    static unsigned int distex_type_version(PyObject *type) {
        return ((PyTypeObject *)type)->tp_version_tag;
    }
    #define DISTEX_FUNCTION(f) ((PyFunctionObject *)(f))
    static PyObject *distex_function_code(PyObject *f) { return DISTEX_FUNCTION(f)->func_code; }
    static PyObject *distex_function_defaults(PyObject *f) {
        return DISTEX_FUNCTION(f)->func_defaults;
    }
    static PyObject *distex_function_kwdefaults(PyObject *f) {
        return DISTEX_FUNCTION(f)->func_kwdefaults;
    }
    static Py_ssize_t distex_function_attributes(PyObject *f) {
        PyObject *dict = DISTEX_FUNCTION(f)->func_dict;
        return dict == NULL ? 0 : PyDict_Size(dict);
    }
    """
    unsigned int distex_type_version(PyObject* type)
    PyObject* distex_function_code(PyObject* func)
    PyObject* distex_function_defaults(PyObject* func)
    PyObject* distex_function_kwdefaults(PyObject* func)
    Py_ssize_t distex_function_attributes(PyObject* func)


cpdef object current_value(object place, str name):
    """What a name means now, or MISSING.

    Args:
        place: a dictionary of globals, a cell, a Check, or a function or a class that has it as an
            attribute.
        name: the name; of no interest to a cell or a Check.
    """
    if isinstance(place, dict):
        return place.get(name, MISSING)
    if isinstance(place, Check):
        return place if (<Check>place).check() else MISSING
    if type(place) is CellType:
        try:
            return place.cell_contents
        except ValueError:  # empty
            return MISSING
    return getattr(place, name, MISSING)


cdef class Check:
    """Stands for something that may change from within, as a place of uses."""

    cdef bint check(self) except -1:
        return self.is_current()

    def is_current(self):
        """Whether it is what it was; subclasses say how that is known."""
        return self.check()


cdef class FunctionCheck(Check):
    """Looks at the parts of a function, but for its attributes if it has any."""

    def __init__(self, func):
        self.func = func
        self.code = func.__code__
        self.defaults = func.__defaults__
        self.kwdefaults = func.__kwdefaults__
        self.attributes = len(func.__dict__)

    cdef bint check(self) except -1:
        cdef PyObject* func = <PyObject*>self.func
        return (distex_function_code(func) == <PyObject*>self.code
                and is_same(distex_function_defaults(func), self.defaults)
                and is_same(distex_function_kwdefaults(func), self.kwdefaults)
                and distex_function_attributes(func) == self.attributes)


cdef bint is_same(PyObject* part, object before) noexcept:
    return part == <PyObject*>before or (part == NULL and before is None)


cdef class ClassCheck(Check):
    """Looks at the attributes of a class. The interpreter counts changes of types, so it is quick
    while there are none."""

    def __init__(self, cls):
        self.cls = cls
        self.content = dict(vars(cls))
        self._note_version()

    cdef int _note_version(self) except -1:
        getattr(self.cls, "__name__", None)  # has the type get a version
        self.version = distex_type_version(<PyObject*>self.cls)
        return 0

    cdef bint check(self) except -1:
        if self.version and distex_type_version(<PyObject*>self.cls) == self.version:
            return True
        if not same_dict(dict(vars(self.cls)), self.content):
            return False
        self._note_version()
        return True


cdef bint same_dict(dict now, dict then) except -1:
    """Whether both have the same objects as keys and as values, in the same order."""
    cdef Py_ssize_t at = 0, other = 0
    cdef PyObject* key
    cdef PyObject* value
    cdef PyObject* key_then
    cdef PyObject* value_then
    if len(now) != len(then):
        return False
    while PyDict_Next(now, &at, &key, &value):
        if not PyDict_Next(then, &other, &key_then, &value_then):
            return False
        if key != key_then or value != value_then:
            return False
    return True


cdef class Snapshot(Check):
    """Containers, with what was in each: the same objects, in the same order.

    Args:
        containers: lists, dictionaries, sets and bytearrays.
    """

    def __init__(self, list containers):
        self.parts = [(container, _copy(container)) for container in containers]

    cdef bint check(self) except -1:
        cdef tuple part, then
        cdef list items
        cdef Py_ssize_t i
        for part in self.parts:
            container = part[0]
            if type(container) is dict:
                if not same_dict(<dict>container, <dict>part[1]):
                    return False
                continue
            then = part[1]
            items = <list>container if type(container) is list else list(container)
            if PyList_GET_SIZE(items) != len(then):
                return False
            for i in range(len(then)):
                if PyList_GET_ITEM(items, i) != PyTuple_GET_ITEM(then, i):
                    return False
        return True


cdef object _copy(container):
    return dict(container) if type(container) is dict else tuple(container)


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
        # apart, as this is looked at before each call
        self.in_dicts = [use for use in uses if type(use[0]) is dict]
        self.checks = [use[0] for use in uses if isinstance(use[0], Check)]
        self.elsewhere = [
            use for use in uses if type(use[0]) is not dict and not isinstance(use[0], Check)]

    cpdef bint is_current(self) except -1:
        """Whether all that it uses is what it was."""
        cdef tuple use
        cdef PyObject* meant
        for use in self.in_dicts:
            meant = PyDict_GetItemWithError(<dict>use[0], use[1])
            if meant != <PyObject*>use[2] and not (meant == NULL and use[2] is MISSING):
                return False
        for check in self.checks:
            if not (<Check>check).check():
                return False
        for use in self.elsewhere:
            if current_value(use[0], use[1]) is not use[2]:
                return False
        return True
