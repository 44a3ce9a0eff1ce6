# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Which names of ``__main__`` a pickle refers to: read from the pickle, or noted while it is made.

    names_in(pickle) ──> note_names ──for this thread──> take_names, by whoever sends the pickle

It reads the opcodes that pickle's own C implementation writes, see pickletools in the standard
library.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint32_t, uint64_t
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    # how the argument of an opcode is laid out: a number of bytes, or a length before it
    LENGTH_1 = -1
    LENGTH_4 = -4
    LENGTH_8 = -8
    UNKNOWN = -99
    # strings of the memo that are kept on the stack
    MEMO_SIZE = 128

cdef int[256] ARGUMENTS
cdef int _i
for _i in range(256):
    ARGUMENTS[_i] = UNKNOWN
for _i in b"(.012QRabd}elo]ts)uN\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98":
    ARGUMENTS[_i] = 0
for _i in b"Khq\x80\x82":
    ARGUMENTS[_i] = 1
for _i in b"M\x83":
    ARGUMENTS[_i] = 2
for _i in b"Jjr\x84":
    ARGUMENTS[_i] = 4
for _i in b"G\x95":
    ARGUMENTS[_i] = 8
for _i in b"UC\x8a\x8c":
    ARGUMENTS[_i] = LENGTH_1
for _i in b"TBX\x8b":
    ARGUMENTS[_i] = LENGTH_4
for _i in b"\x8d\x8e\x96":
    ARGUMENTS[_i] = LENGTH_8

# Names that were noted: of one thread here, which is quick, of others in a dictionary, by their id.
cdef set _names = None
cdef unsigned long _thread = 0
cdef dict _of_others = {}


cdef int note(set names) except -1:
    global _names, _thread
    cdef unsigned long thread = PyThread_get_thread_ident()
    if _names is None:
        _names, _thread = names, thread
    elif _thread == thread:
        _names.update(names)
    else:
        _of_others.setdefault(thread, set()).update(names)
    return 0


def note_names(names):
    """Note that the pickle that this thread is making refers to these names of ``__main__``."""
    if names:
        note(set(names))


cpdef set take_names():
    """Return the names that were noted in this thread, and forget them."""
    global _names
    cdef unsigned long thread = PyThread_get_thread_ident()
    cdef set names = None
    if _names is not None and _thread == thread:
        names, _names = _names, None
    if _of_others:
        others = _of_others.pop(thread, None)
        if others is not None:
            names = others if names is None else names | <set>others
    return set() if names is None else names


cdef bint any_noted() noexcept:
    return _names is not None or len(_of_others) > 0


def note_names_in(bytes pickled, is_known):
    """Note the names of ``__main__`` that a pickle refers to.

    Args:
        pickled: the pickle.
        is_known: whether a name is known to who will get it; ``bool``: each is.

    Returns:
        whether it was done: not if they can't be found out, or one is not known.
    """
    cdef set names = names_in(pickled)
    if names is None or not (is_known is bool or all(map(is_known, names))):
        return False
    if names:
        note(names)
    return True


cpdef set names_in(bytes pickled):
    """Return the top-level names of ``__main__`` that a pickle refers to; None: it is not known."""
    cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(pickled)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(pickled), at = 0, start = 0, length = 0
    cdef Py_ssize_t before = -1, before_length = 0, last = -1, last_length = 0
    cdef uint64_t memoized = 0, key
    cdef uint32_t four
    cdef int code, argument
    cdef const unsigned char* dot
    cdef bint fresh = False  # the last opcode has pushed a string
    cdef Py_ssize_t starts[MEMO_SIZE]
    cdef Py_ssize_t lengths[MEMO_SIZE]
    cdef dict memo = None  # of strings beyond that
    cdef set found = set()
    while at < end:
        code = data[at]
        at += 1
        argument = ARGUMENTS[code]
        start = at
        if argument >= 0:
            length = argument
        elif argument == UNKNOWN:
            return None
        else:
            start += -argument
            if start > end:
                return None
            if argument == LENGTH_1:
                length = data[at]
            elif argument == LENGTH_4:
                memcpy(&four, data + at, 4)
                length = four
            else:
                memcpy(&length, data + at, 8)
        if length < 0 or length > end - start:
            return None
        at = start + length
        if code == 0x8c or code == c"X" or code == 0x8d:
            before, before_length, last, last_length = last, last_length, start, length
            fresh = True
            continue
        if code == 0x94:  # MEMOIZE
            if memoized < MEMO_SIZE:
                starts[memoized] = last if fresh else -1
                lengths[memoized] = last_length
            elif fresh:
                if memo is None:
                    memo = {}
                memo[memoized] = (last, last_length)
            memoized += 1
            continue
        fresh = False
        if code == c"h" or code == c"j":  # from the memo
            key = data[start]
            if code == c"j":
                memcpy(&four, data + start, 4)
                key = four
            if key < MEMO_SIZE:
                if key < memoized and starts[key] >= 0:
                    before, before_length = last, last_length
                    last, last_length = starts[key], lengths[key]
            elif memo is not None and key in memo:
                before, before_length = last, last_length
                last, last_length = memo[key]
        elif code == 0x93:  # STACK_GLOBAL
            if before >= 0 and before_length == 8 and memcmp(data + before, b"__main__", 8) == 0:
                dot = <const unsigned char*>memchr(data + last, c".", last_length)
                if dot != NULL:  # of the qualified name only the outermost is a global
                    last_length = dot - (data + last)
                found.add(PyUnicode_DecodeUTF8(<const char*>data + last, last_length, NULL))
    return found
