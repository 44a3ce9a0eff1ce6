# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Shared memory for large segments between two processes of one machine: a ring each way.

    writer ──put──> ring of 1 MB ──get──> reader      while one writes, the other reads
       <─────── KICK frames by the socket ───────>    to wake who waits for bytes or for room

A socket costs two copies by the kernel, one after the other; here each side copies at the speed of
memory, both at once. What is received lies in memory of the receiver's own all the same.

Each direction has a ring of its own, made when the first large segment is sent: that one still goes
by the socket. The peer opens it by the number of the file descriptor, in the folder of the process
that the kernel says it is connected to; if it can't, all goes by the socket.
"""
from libc.stdint cimport int64_t

import os
import socket
import struct
import sys

from distex._core.framing cimport KICK, RING, Bypass, FrameWriter, Header
from distex.errors import ProtocolError

if sys.platform == "linux":
    import fcntl

cdef extern from *:
    """
    #if defined(__linux__)
    #include <string.h>
    #include <sys/mman.h>
    enum { DISTEX_RING = 1 << 20, DISTEX_SHARED = 4096, DISTEX_PIECE = 128 << 10 };

    static void *distex_ring_map(int fd) {
        void *memory = mmap(NULL, DISTEX_SHARED + DISTEX_RING, PROT_READ | PROT_WRITE,
                            MAP_SHARED, fd, 0);
        return memory == MAP_FAILED ? NULL : memory;
    }
    static void distex_ring_unmap(void *memory) {
        munmap(memory, DISTEX_SHARED + DISTEX_RING);
    }
    /* How many bytes can be copied now, in one piece; 0: none, and the peer will see that this side
       waits; -1: the peer has written nonsense. */
    static int64_t distex_ring_room(const uint64_t *peers, uint32_t *waits, uint64_t position,
                                    uint64_t offset, int64_t n) {
        uint64_t room = __atomic_load_n(peers, __ATOMIC_ACQUIRE) + offset - position;
        uint64_t piece = DISTEX_RING - position % DISTEX_RING;
        if (room == 0) {
            __atomic_store_n(waits, 1, __ATOMIC_SEQ_CST);
            room = __atomic_load_n(peers, __ATOMIC_SEQ_CST) + offset - position;
            if (room == 0) return 0;
            __atomic_store_n(waits, 0, __ATOMIC_SEQ_CST);
        }
        if (room > DISTEX_RING) return -1;
        if (piece > room) piece = room;
        if (piece > DISTEX_PIECE) piece = DISTEX_PIECE;
        return (int64_t)piece > n ? n : (int64_t)piece;
    }
    static int64_t distex_ring_put(distex_ring *ring, char *data, uint64_t position,
                                   const char *from, int64_t n) {
        n = distex_ring_room(&ring->read, &ring->writer_waits, position, DISTEX_RING, n);
        if (n > 0) {
            memcpy(data + position % DISTEX_RING, from, n);
            __atomic_store_n(&ring->written, position + n, __ATOMIC_SEQ_CST);
        }
        return n;
    }
    static int64_t distex_ring_get(distex_ring *ring, const char *data, uint64_t position,
                                   char *to, int64_t n) {
        n = distex_ring_room(&ring->written, &ring->reader_waits, position, 0, n);
        if (n > 0) {
            memcpy(to, data + position % DISTEX_RING, n);
            __atomic_store_n(&ring->read, position + n, __ATOMIC_SEQ_CST);
        }
        return n;
    }
    /* Whether the peer waits; whoever asks has to wake it. */
    static int distex_ring_claim(uint32_t *waits) {
        return __atomic_load_n(waits, __ATOMIC_SEQ_CST)
               && __atomic_exchange_n(waits, 0, __ATOMIC_SEQ_CST);
    }
    static int distex_reader_waits(distex_ring *ring) {
        return distex_ring_claim(&ring->reader_waits);
    }
    static int distex_writer_waits(distex_ring *ring) {
        return distex_ring_claim(&ring->writer_waits);
    }
    #else
    enum { DISTEX_RING = 0, DISTEX_SHARED = 0 };
    static void *distex_ring_map(int fd) { return NULL; }
    static void distex_ring_unmap(void *memory) {}
    static int64_t distex_ring_put(distex_ring *ring, char *data, uint64_t position,
                                   const char *from, int64_t n) { return -1; }
    static int64_t distex_ring_get(distex_ring *ring, const char *data, uint64_t position,
                                   char *to, int64_t n) { return -1; }
    static int distex_reader_waits(distex_ring *ring) { return 0; }
    static int distex_writer_waits(distex_ring *ring) { return 0; }
    #endif
    """
    Py_ssize_t DISTEX_RING
    Py_ssize_t DISTEX_SHARED
    void* distex_ring_map(int fd)
    void distex_ring_unmap(void* memory)
    int64_t distex_ring_put(
        Shared* ring, char* data, uint64_t position, const char* source, int64_t n)
    int64_t distex_ring_get(
        Shared* ring, const char* data, uint64_t position, char* target, int64_t n)
    int distex_reader_waits(Shared* ring)
    int distex_writer_waits(Shared* ring)

cdef enum:
    # segments from this size on go by the ring
    RING_BYTES = 64 * 1024
    # the loop gets to its other work, and threads to theirs, after so many: a millisecond or two.
    # To let threads in between two pieces could cost 5 ms each time
    TURN_BYTES = 16 * 1024 * 1024
    # when so much is sent at a time, a ring is made
    MUCH_BYTES = 256 * 1024
    # flags of RING frames: an offer of the file descriptor aux, and the answers to it
    OFFER = 0
    OPENED = 1
    REFUSED = 2
    # F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW: memory that shrinks would be the end of who
    # touches it
    SEALS = 7


cdef bytes KICK_FRAME = struct.pack("<B23x", KICK)


cpdef peer_credentials(sock):
    """Process id and user id at the other end of a socket, or of what asyncio shows of it; None:
    they are not to be had."""
    if sys.platform != "linux" or sock is None or sock.family != socket.AF_UNIX:
        return None
    return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[:2]


cpdef long peer_process(sock) except -1:
    """The process id there; 0: there can be no shared memory with it."""
    credentials = peer_credentials(sock)
    return 0 if credentials is None else credentials[0]


cdef class Ring:
    """One side of a ring, which either writes or reads.

    Args:
        fd: of its memory, which stays the caller's.

    Raises:
        OSError: it can't be mapped.
    """

    def __cinit__(self, int fd):
        cdef char* memory = <char*>distex_ring_map(fd)
        if memory == NULL:
            raise OSError("no shared memory can be had")
        self.shared = <Shared*>memory
        self.data = memory + DISTEX_SHARED

    def __dealloc__(self):
        if self.shared != NULL:
            distex_ring_unmap(self.shared)

    cdef Py_ssize_t put(self, const char* data, Py_ssize_t n) except -1:
        """Write some bytes: how many; 0: there is no room, and the peer will tell when there is."""
        n = distex_ring_put(self.shared, self.data, self.position, data, n)
        if n < 0:
            raise ProtocolError("more was read from the shared memory than was written to it")
        self.position += n
        return n

    cdef Py_ssize_t get(self, char* data, Py_ssize_t n) except -1:
        """Read some bytes: how many; 0: there are none, and the peer will tell when there are."""
        n = distex_ring_get(self.shared, self.data, self.position, data, n)
        if n < 0:
            raise ProtocolError("more was written to the shared memory than there is room for")
        self.position += n
        return n

    cdef bint reader_waits(self):
        """Whether the peer has to be told that there are bytes; true once each time it waits."""
        return distex_reader_waits(self.shared)

    cdef bint writer_waits(self):
        """Whether the peer has to be told that there is room; true once each time it waits."""
        return distex_writer_waits(self.shared)


cdef class RingPair(Bypass):
    """The rings of one connection.

    Args:
        out: what frames to the peer are written to.
        peer: process id at the other end of the connection's socket.
    """

    def __init__(self, FrameWriter out, long peer):
        self.out = out
        self.peer = peer
        self.fd = -1

    def __dealloc__(self):
        self.close()

    cdef int close(self) except -1:
        if self.fd >= 0:
            fd = self.fd
            self.fd = -1
            os.close(fd)
        return 0

    # --- the way out

    cdef int offer_for(self, Py_ssize_t n) except -1:
        """Large payloads of so many bytes are being sent: if that is much, have a ring for those
        that follow."""
        if n < MUCH_BYTES or self.offered:
            return 0
        self.offered = True
        try:
            self.fd = os.memfd_create("distex", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, DISTEX_SHARED + DISTEX_RING)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            self.outgoing = Ring(self.fd)
        except OSError:  # the socket will do
            self.close()
            return 0
        return self.out.frame(RING, OFFER, self.fd, 0, NULL, 0, None)

    cdef Py_ssize_t put(self, const char* data, Py_ssize_t n) except -1:
        """Send some bytes: how many; less than n if the rest has to wait for a KICK, or for the
        loop's next turn, which is arranged for then."""
        cdef Py_ssize_t done = 0, piece
        while done < n:
            if done >= TURN_BYTES:
                self.out.write_soon()
                break
            piece = self.outgoing.put(data + done, n - done)
            if piece == 0:
                break
            done += piece
            if self.outgoing.reader_waits():
                self.out.write_ahead(KICK_FRAME)
        return done

    # --- the way in

    cdef Py_ssize_t get(self, char* data, Py_ssize_t n) except -1:
        cdef Py_ssize_t done = 0, piece
        while done < n:
            if done >= TURN_BYTES:
                self.out.read_soon()
                break
            piece = self.incoming.get(data + done, n - done)
            if piece == 0:
                break
            done += piece
            if self.incoming.writer_waits():
                self.out.write_ahead(KICK_FRAME)
        return done

    cdef bint is_open(self):
        return self.incoming is not None

    cdef int on_frame(self, Header* header) except -1:
        if header.kind == KICK:
            return self.out.write_on()
        if header.flags == OFFER:
            if self.incoming is not None:
                raise ProtocolError("shared memory was offered twice")
            self.incoming = self.open(header.aux)
            answer = REFUSED if self.incoming is None else OPENED
            return self.out.frame(RING, answer, 0, 0, NULL, 0, None)
        if self.fd < 0 or header.flags > REFUSED:
            raise ProtocolError("an answer to an offer of shared memory that was not made")
        self.close()
        self.opened = header.flags == OPENED
        if self.opened:
            self.out.bypass_bytes = RING_BYTES
        else:
            self.outgoing = None
        return 0

    cdef Ring open(self, int number):
        """The peer's ring; None if it is not to be had."""
        cdef int fd
        try:
            fd = os.open(f"/proc/{self.peer}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another namespace, or hidden from this process
            return None
        try:
            if (os.fstat(fd).st_size != DISTEX_SHARED + DISTEX_RING
                    or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS):
                return None
            return Ring(fd)
        except OSError:
            return None
        finally:
            os.close(fd)
