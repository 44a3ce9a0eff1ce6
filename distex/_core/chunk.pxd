from libc.stdint cimport uint32_t

from distex._core.codec cimport Codec, Cursor
from distex._core.task cimport Task


cdef class ChunkTask(Task):
    # one item for each call: its argument, or a tuple of them if spread
    cdef readonly list items
    cdef readonly bint spread
    # notify(chunk) is called on the pool's loop when there is something new to take
    cdef object notify
    cdef list values
    cdef readonly object error
    cdef readonly bint done
    # the pool has cancelled it, which asyncio and concurrent.futures have an exception each for
    cdef readonly bint dropped
    cdef object tail_error
    # how many values have come; how many calls had taken how long when that was last looked at, and
    # what one of the latest took
    cdef readonly uint32_t received
    cdef uint32_t known_calls
    cdef double known_ns
    cdef double latest_ns
    # the chunks that follow it, as it was given back by a worker in part, or lost with one
    cdef readonly list successors
    # those that were cut off it, and follow them, until they are asked for
    cdef list tail

    cdef list cut(self, Py_ssize_t item)
    cdef list _split_from(self, Py_ssize_t first)
    cdef ChunkTask _piece(self, list items)
    cdef int _become(self, list pieces) except -1
    cdef int _take_values(self, Cursor* cursor, list segments, Codec codec) except -1
    cdef int _collect(self, list values) except -1
    cdef int _end(self, object error) except -1
