from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from distex._core.framing cimport Buffer

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    #define PyUnstable_Long_IsCompact(value) 0
    #define PyUnstable_Long_CompactValue(value) 0
    #endif
    static inline int distex_int64(PyObject *value, long long *number) {
        int overflow = 0;
        if (PyUnstable_Long_IsCompact((PyLongObject *)value)) {
            *number = PyUnstable_Long_CompactValue((PyLongObject *)value);
        } else {
            *number = PyLong_AsLongLongAndOverflow(value, &overflow);
        }
        return overflow == 0;
    }
    """
    # an exact int as a number; False: it has more bits
    bint int64 "distex_int64" (PyObject* value, long long* number) noexcept

cdef extern from "Python.h":
    bint PyLong_CheckExact(PyObject* value)
    bint PyFloat_CheckExact(PyObject* value)
    double PyFloat_AS_DOUBLE(PyObject* value)
    PyObject* PyLong_FromLongLong(long long number)
    PyObject* PyFloat_FromDouble(double number)


cdef enum Tag:
    NONE = 0
    TRUE = 1
    FALSE = 2
    INT = 3
    FLOAT = 4
    STR = 5
    BYTES = 6
    TUPLE = 7
    PICKLED = 8
    SEGMENT = 9


cdef struct Cursor:
    # what is being read: from data to end
    const char* data
    const char* end
    # how many of the frame's segments have been used up
    Py_ssize_t segment


cdef class Codec:
    # dumps(obj, segments) -> bytes; loads(data, segments) -> obj
    cdef object dumps
    cdef object loads
    # whether exact built-in types bypass them
    cdef bint native

    cdef bint put_native(self, Buffer out, object value) except -1
    cdef int put(self, Buffer out, object value, list segments) except -1
    cdef int put_pickled(self, Buffer out, object value, list segments) except -1
    cdef bint put_call(self, Buffer out, tuple args, dict kwargs, list segments) except -1
    cdef object get(self, Cursor* cursor, list segments)
    cdef object _get(self, Cursor* cursor, list segments, int depth)
    cdef object _get_pickled(self, Cursor* cursor, list segments)


# Numbers, inlined where many values follow each other: there put() and get() take three times as
# long as what they do.

cdef enum:
    NUMBER_BYTES = 9


cdef inline bint put_number(Buffer out, PyObject* value) noexcept:
    """Write an int of 64 bits or a float; False: it is something else, or out has to grow."""
    cdef char* target = out.data + out.size
    cdef long long number
    cdef double real
    if out.capacity - out.size < NUMBER_BYTES:
        return False
    if PyLong_CheckExact(value):
        if not int64(value, &number):
            return False
        target[0] = INT
        memcpy(target + 1, &number, 8)
    elif PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        target[0] = FLOAT
        memcpy(target + 1, &real, 8)
    else:
        return False
    out.size += NUMBER_BYTES
    return True


cdef inline PyObject* get_number(Cursor* cursor) noexcept:
    """The next value, a new reference, if it is an int or a float; NULL: it is something else."""
    cdef PyObject* value
    cdef long long number
    cdef double real
    if cursor.end - cursor.data < NUMBER_BYTES:
        return NULL
    if cursor.data[0] == INT:
        memcpy(&number, cursor.data + 1, 8)
        value = PyLong_FromLongLong(number)
    elif cursor.data[0] == FLOAT:
        memcpy(&real, cursor.data + 1, 8)
        value = PyFloat_FromDouble(real)
    else:
        return NULL
    if value == NULL:
        PyErr_Clear()  # no memory: get() will say so
    else:
        cursor.data += NUMBER_BYTES
    return value
