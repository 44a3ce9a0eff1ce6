# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Python values <-> bytes: a fast path for small built-in values, the serializer for all else.

    value    := tag content
    NONE, TRUE, FALSE   -
    INT       8 bytes, signed
    FLOAT     8 bytes
    STR       length (4 bytes), UTF-8
    BYTES     length (4 bytes), bytes
    TUPLE     count (4 bytes), values
    PICKLED   segments used (4 bytes), length (8 bytes), what the serializer made; length 0: that
              is the first of the segments
    SEGMENT   -, bytes that are the next segment

Only values of exactly these types take the fast path, so every type arrives as itself.  They are
immutable, so nothing is lost by giving each its own copy; tuples nested more than a few levels and
large strings go to the serializer, which sends an object that occurs twice only once.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy

from distex._core.references cimport owned
from distex.errors import ProtocolError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except? NULL

cdef enum:
    # a larger str or bytes goes to the serializer: there one that occurs twice is sent once
    NATIVE_LIMIT_BYTES = 32 * 1024
    SEGMENTS_MAX = 1024
    # deeper tuples go to the serializer: shared ones would be written out again at each place
    NATIVE_DEPTH = 3
    # from this size on the serializer reads in place instead of from a copy
    IN_PLACE_BYTES = 16 * 1024


cdef inline int put_tag(Buffer out, Tag tag) except -1:
    out.reserve(1)[0] = <char>tag
    out.size += 1
    return 0


cdef inline int put_tagged(Buffer out, Tag tag, const void* data, Py_ssize_t n) except -1:
    cdef char* target = out.reserve(1 + n)
    target[0] = <char>tag
    memcpy(target + 1, data, n)
    out.size += 1 + n
    return 0


cdef inline int put_text(Buffer out, Tag tag, const char* data, Py_ssize_t n) except -1:
    cdef uint32_t size = <uint32_t>n
    cdef char* target = out.reserve(5 + n)
    target[0] = <char>tag
    memcpy(target + 1, &size, 4)
    memcpy(target + 5, data, n)
    out.size += 5 + n
    return 0


cdef bint put_exact(Buffer out, object value, int depth, list segments) except -1:
    """Write a value of one of the exact types; False, with part of it written, for any other.

    Large bytes become a segment, if there is a list of them.
    """
    cdef const char* text
    cdef Py_ssize_t n = 0, i
    cdef uint32_t count
    if out.capacity - out.size < NUMBER_BYTES:
        out.reserve(NUMBER_BYTES)
    if put_number(out, <PyObject*>value):
        return True
    kind = type(value)
    if kind is str:
        try:
            text = PyUnicode_AsUTF8AndSize(value, &n)
        except UnicodeEncodeError:  # lone surrogates
            return False
        if n > NATIVE_LIMIT_BYTES:
            return False
        put_text(out, STR, text, n)
    elif value is None:
        put_tag(out, NONE)
    elif value is True:
        put_tag(out, TRUE)
    elif value is False:
        put_tag(out, FALSE)
    elif kind is tuple:
        if depth == 0:
            return False
        n = PyTuple_GET_SIZE(value)
        if n > NATIVE_LIMIT_BYTES:
            return False
        count = <uint32_t>n
        i = out.size
        put_tagged(out, TUPLE, &count, 4)
        for k in range(n):
            if not put_exact(out, <object>PyTuple_GET_ITEM(value, k), depth - 1, segments):
                return False
            if out.size - i > 4 * NATIVE_LIMIT_BYTES:
                return False
    elif kind is bytes:
        n = PyBytes_GET_SIZE(value)
        if n <= NATIVE_LIMIT_BYTES:
            put_text(out, BYTES, PyBytes_AS_STRING(value), n)
        elif segments is None or len(segments) >= SEGMENTS_MAX:
            return False
        else:
            put_tag(out, SEGMENT)
            segments.append(value)
    else:
        return False
    return True


cdef inline int need(Cursor* cursor, Py_ssize_t n) except -1:
    if cursor.end - cursor.data < n:
        raise ProtocolError("a value ends before its frame says it does")
    return 0


cdef class Codec:
    """Writes and reads values with one serializer.

    Args:
        dumps: ``dumps(obj, segments) -> bytes``; it may add large buffers to the segments.
        loads: ``loads(data, segments) -> obj``; the segments that were added, or None.
        native: whether values of exact built-in types bypass the serializer.
    """

    def __init__(self, dumps, loads, bint native=True):
        self.dumps = dumps
        self.loads = loads
        self.native = native

    cdef bint put_native(self, Buffer out, object value) except -1:
        """Write the value if it can do without the serializer; else write nothing: False.

        Runs no code of the user's, so it may write into a frame that is open.
        """
        cdef Py_ssize_t mark = out.size
        if self.native and put_exact(out, value, NATIVE_DEPTH, None):
            return True
        out.size = mark
        return False

    cdef int put(self, Buffer out, object value, list segments) except -1:
        """Write any value; its large buffers are added to the segments.

        May run code of the user's, which may use the pool: out must be private.
        """
        cdef Py_ssize_t mark = out.size
        cdef Py_ssize_t before = len(segments)
        if self.native and put_exact(out, value, NATIVE_DEPTH, segments):
            return 0
        out.size = mark
        del segments[before:]
        return self.put_pickled(out, value, segments)

    cdef int put_pickled(self, Buffer out, object value, list segments) except -1:
        cdef Py_ssize_t before = len(segments)
        cdef uint32_t used
        cdef uint64_t n
        cdef bytes data

        try:
            data = self.dumps(value, segments)
        except BaseException:
            del segments[before:]
            raise
        n = PyBytes_GET_SIZE(data)
        if n > NATIVE_LIMIT_BYTES and len(segments) < SEGMENTS_MAX:
            segments.insert(before, data)
            n = 0
        used = <uint32_t>(len(segments) - before)
        put_tagged(out, PICKLED, &used, 4)
        out.put(<const char*>&n, 8)
        out.put(PyBytes_AS_STRING(data), n)
        return 0

    cdef bint put_call(self, Buffer out, tuple args, dict kwargs, list segments) except -1:
        """Write a call's arguments as two values if they can do without the serializer; else write
        nothing: False. Runs no code of the user's."""
        cdef Py_ssize_t mark = out.size
        cdef uint32_t count
        if not self.native or not put_exact(out, args, NATIVE_DEPTH, segments):
            out.size = mark
            return False
        if not kwargs:
            put_tag(out, NONE)
            return True
        count = <uint32_t>(2 * len(kwargs))
        put_tagged(out, TUPLE, &count, 4)
        for key, value in kwargs.items():
            if not (put_exact(out, key, 0, None)
                    and put_exact(out, value, NATIVE_DEPTH, segments)):
                out.size = mark
                return False
        return True

    cdef object get(self, Cursor* cursor, list segments):
        """Read the next value."""
        return self._get(cursor, segments, NATIVE_DEPTH)

    cdef object _get(self, Cursor* cursor, list segments, int depth):
        cdef PyObject* number = get_number(cursor)
        cdef uint32_t n
        cdef tuple items
        cdef Py_ssize_t i
        cdef int tag
        if number != NULL:
            return owned(number)
        need(cursor, 1)
        tag = cursor.data[0]
        cursor.data += 1
        if tag == INT or tag == FLOAT:
            need(cursor, 8)
            raise MemoryError()  # else get_number() had taken it
        if tag == PICKLED:
            return self._get_pickled(cursor, segments)
        if tag == SEGMENT:
            if segments is None or cursor.segment >= len(segments):
                raise ProtocolError("a value uses more segments than its frame has")
            cursor.segment += 1
            return segments[cursor.segment - 1]
        if tag == NONE:
            return None
        if tag == TRUE:
            return True
        if tag == FALSE:
            return False
        if tag != STR and tag != BYTES and tag != TUPLE:
            raise ProtocolError(f"unknown value tag {tag}")
        need(cursor, 4)
        memcpy(&n, cursor.data, 4)
        cursor.data += 4
        need(cursor, n)  # an item of a tuple takes a byte at least
        if tag == TUPLE:
            if depth == 0:
                raise ProtocolError("tuples are nested deeper than they are ever written")
            items = PyTuple_New(n)
            for i in range(n):
                item = self._get(cursor, segments, depth - 1)
                Py_INCREF(item)
                PyTuple_SET_ITEM(items, i, item)
            return items
        cursor.data += n
        if tag == STR:
            try:
                return PyUnicode_DecodeUTF8(cursor.data - n, n, NULL)
            except UnicodeDecodeError:
                raise ProtocolError("a text is not UTF-8") from None
        return PyBytes_FromStringAndSize(cursor.data - n, n)

    cdef object _get_pickled(self, Cursor* cursor, list segments):
        cdef uint32_t used
        cdef uint64_t n
        need(cursor, 12)
        memcpy(&used, cursor.data, 4)
        memcpy(&n, cursor.data + 4, 8)
        cursor.data += 12
        if n > <uint64_t>(cursor.end - cursor.data):
            raise ProtocolError("a value ends before its frame says it does")
        cursor.data += n
        if n < IN_PLACE_BYTES:
            data = PyBytes_FromStringAndSize(cursor.data - n, n)
        else:
            data = PyMemoryView_FromMemory(<char*>cursor.data - n, n, PyBUF_READ)
        if used == 0:
            return self.loads(data, None)
        if segments is None or cursor.segment + used > len(segments):
            raise ProtocolError("a value uses more segments than its frame has")
        buffers = segments[cursor.segment:cursor.segment + used]
        cursor.segment += used
        if n == 0:
            data = buffers.pop(0)
        return self.loads(data, buffers)

    def encode(self, value):
        """The value as (bytes, segments)."""
        cdef Buffer out = Buffer.__new__(Buffer)
        cdef list segments = []
        self.put(out, value, segments)
        return PyBytes_FromStringAndSize(out.data, out.size), segments

    def decode(self, const unsigned char[::1] data not None, list segments=None):
        """The value in the bytes.

        Raises:
            ProtocolError: the bytes are not one value, whole.
            Exception: whatever the serializer raises.
        """
        cdef Cursor cursor
        cursor.data = <const char*>&data[0]
        cursor.end = cursor.data + data.shape[0]
        cursor.segment = 0
        value = self.get(&cursor, segments)
        if cursor.data != cursor.end:
            raise ProtocolError("bytes are left over behind a value")
        return value
