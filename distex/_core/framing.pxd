from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef packed struct Header:
    uint8_t kind
    uint8_t flags
    uint16_t segments
    uint32_t aux
    uint64_t id
    uint64_t length


cdef enum Kind:
    # worker -> pool
    HELLO = 1
    READY = 2
    RESULT = 3
    PART = 4
    ERROR = 5
    CANCELLED = 6
    # pool -> worker
    WELCOME = 7
    FUNCTION = 8
    FORGET = 9
    CALL = 10
    CHUNK = 11
    CANCEL = 12
    BYE = 13
    LANE = 14
    RECALL = 15
    # worker -> pool
    RETURNED = 16
    # both ways, about a bypass
    RING = 17
    KICK = 18


cdef class Buffer:
    # bytes being written: data[0:size], of capacity bytes
    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity

    cdef char* reserve(self, Py_ssize_t n) except NULL
    cdef int put(self, const char* data, Py_ssize_t n) except -1
    cdef int release(self, Py_ssize_t keep) except -1


cdef class Bypass:
    cdef Py_ssize_t get(self, char* data, Py_ssize_t n) except -1
    cdef bint is_open(self)
    cdef int on_frame(self, Header* header) except -1


cdef class Detour:
    # a segment, and how much of it has been sent
    cdef Py_buffer view
    cdef Py_ssize_t sent


cdef class FrameWriter(Buffer):
    # large payloads cut out of the stream, each sent as an object of its own
    cdef list parts
    cdef Py_ssize_t parts_bytes
    # segments from this size on are sent by the bypass
    cdef Py_ssize_t bypass_bytes
    # the peer waits for the next frame: it should not be held back
    cdef bint urgent

    cdef Py_ssize_t begin(self, Kind kind, uint8_t flags, uint32_t aux, uint64_t id) except -1
    cdef int end(self, Py_ssize_t mark) except -1
    cdef int frame(self, Kind kind, uint8_t flags, uint32_t aux, uint64_t id,
                   const char* body, Py_ssize_t n, list segments) except -1
    cdef int _add_part(self, object part, Py_ssize_t n) except -1
    cdef int _add_detours(self, list segments) except -1
    cdef object _take_bytes(self)
    cdef int pending(self) except -1
    cdef bint congested(self)
    cdef int poll(self) except -1
    cdef int write_ahead(self, bytes frame) except -1
    cdef int write_on(self) except -1
    cdef int write_soon(self) except -1
    cdef int read_soon(self) except -1


cdef class FrameHandler:
    cdef int on_frame(self, Header* header, const char* body, list segments) except -1
    cdef int on_batch_end(self) except -1


cdef class FrameReader:
    # what is received lies in buffer[start:end]
    cdef char* buffer
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    # the frame that is too large for the buffer: its parts, filled one after the other
    cdef Header large
    cdef list segments
    cdef list targets
    cdef Py_ssize_t target
    cdef char* target_data
    cdef Py_ssize_t target_size
    cdef Py_ssize_t target_filled
    # the bytes of targets from this one on come by the bypass; whether they are awaited
    cdef Bypass bypass
    cdef Py_ssize_t first_detour
    cdef bint awaits_detour
    # limits, in bytes
    cdef readonly uint64_t limit

    cdef int space(self, char** data, Py_ssize_t* n) except -1
    cdef int received(self, Py_ssize_t n, FrameHandler handler) except -1
    cdef int _parse(self, FrameHandler handler) except -1
    cdef int _begin_large(self, Header* header, const char* table) except -1
    cdef bint _fill_targets(self) except -1
    cdef int _open_target(self) except -1
    cdef int _fill_from_buffer(self) except -1
    cdef int _finish_large(self, FrameHandler handler) except -1
    cdef int _make_room(self) except -1
