from libc.stdint cimport uint64_t

from distex._core.framing cimport Bypass, FrameWriter, Header


cdef extern from *:
    """
    #include <stdint.h>
    /* What the two sides tell each other, each in a cache line of its own. */
    typedef struct {
        uint64_t written;  /* bytes, ever; by the writer alone */
        char padding_1[56];
        uint64_t read;  /* bytes, ever; by the reader alone */
        char padding_2[56];
        uint32_t reader_waits;
        char padding_3[60];
        uint32_t writer_waits;
        char padding_4[60];
    } distex_ring;
    """
    ctypedef struct Shared "distex_ring":
        pass


cpdef peer_credentials(object sock)
cpdef long peer_process(object sock) except -1


cdef class Ring:
    cdef Shared* shared
    cdef char* data
    # bytes that this side has written or read; what the memory says about it may be wrong
    cdef uint64_t position

    cdef Py_ssize_t put(self, const char* data, Py_ssize_t n) except -1
    cdef Py_ssize_t get(self, char* data, Py_ssize_t n) except -1
    cdef bint reader_waits(self)
    cdef bint writer_waits(self)


cdef class RingPair(Bypass):
    cdef FrameWriter out
    cdef long peer
    # None: not there, or not yet
    cdef Ring outgoing
    cdef Ring incoming
    # of the memory of the outgoing one, until the peer has opened it; -1: none
    cdef int fd
    cdef readonly bint offered
    cdef readonly bint opened

    cdef int close(self) except -1
    cdef int offer_for(self, Py_ssize_t n) except -1
    cdef Py_ssize_t put(self, const char* data, Py_ssize_t n) except -1
    cdef Ring open(self, int number)
