# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A lane: the second connection to a local worker, for Pool.run: no event loop in between.

    thread ──send──> worker        Caller.run in futures.pyx: leases a worker that has nothing to
    thread <──recv── worker        do, and uses its lane alone until the answer is there

A call by the pool's loop costs two changes of thread more than the exchange with the worker itself.
The worker treats both connections alike.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno

import os
from asyncio import CancelledError

from distex._core.codec cimport Codec, Cursor
from distex._core.dispatch cimport put_function
from distex._core.functions cimport Function
from distex._core.framing cimport (
    CANCELLED, ERROR, FORGET, RESULT, Detour, FrameHandler, FrameReader, FrameWriter,
    Header,
)
from distex._core.polling cimport recv_soon
from distex._core.ring cimport RingPair
from distex._core.framing import DEFAULT_LIMIT_BYTES
from distex.errors import ProtocolError
from distex.remote_errors import annotate, load_exception

cdef extern from *:
    """
    #if defined(_WIN32)
    static Py_ssize_t distex_send(int fd, const char *data, Py_ssize_t n) { return -1; }
    static Py_ssize_t distex_recv(int fd, char *data, Py_ssize_t n) { return -1; }
    static int distex_limit_waits(int fd, long us) { return -1; }
    #else
    #include <sys/socket.h>
    #include <sys/time.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static Py_ssize_t distex_send(int fd, const char *data, Py_ssize_t n) {
        return send(fd, data, n, MSG_NOSIGNAL);
    }
    static Py_ssize_t distex_recv(int fd, char *data, Py_ssize_t n) {
        return recv(fd, data, n, 0);
    }
    static int distex_limit_waits(int fd, long us) {
        struct timeval most = {0, us};
        return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most))
            | setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
    }
    #endif
    """
    Py_ssize_t distex_send(int fd, const char* data, Py_ssize_t n) nogil
    Py_ssize_t distex_recv(int fd, char* data, Py_ssize_t n) nogil
    int distex_limit_waits(int fd, long us) nogil

cdef enum:
    KNOWN_FUNCTIONS = 64
    # between looks for a signal: one that comes just before a wait begins does not end the wait
    SIGNAL_INTERVAL_US = 100_000


class LaneClosed(Exception):
    """Raised when the worker has closed the lane: it is dead or ends."""


cdef class Wire(FrameWriter):
    """A socket in blocking mode, with frames on it: what a Connection is without a loop.

    Args:
        fd: the socket.
        peer: process id at its other end, if memory can be shared with it; else 0.
        spin: seconds to poll for an answer before sleeping.
    """

    def __init__(self, int fd, long peer, double spin):
        self.fd = fd
        self.reader = FrameReader(DEFAULT_LIMIT_BYTES)
        self.spin_ns = <long long>(spin * 1e9)
        distex_limit_waits(fd, SIGNAL_INTERVAL_US)
        if peer:
            self.rings = self.reader.bypass = RingPair(self, peer)

    cdef int close(self) except -1:
        """Close the socket and give the shared memory back. No thread may be using them."""
        self.rings = self.reader.bypass = None
        if self.fd >= 0:
            fd = self.fd
            self.fd = -1
            os.close(fd)
        return 0

    cdef int pending(self) except -1:
        if self.rings is not None:
            self.rings.offer_for(self.parts_bytes)
        return 0

    cdef int write_out(self, FrameHandler handler) except -1:
        """Send what was written. What comes meanwhile goes to the handler."""
        for part in self.take():
            if type(part) is Detour:
                self.send_detour(part, handler)
            else:
                self.send(part)
        return 0

    cdef int send(self, object part) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t sent, done = 0
        cdef int fd = self.fd
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
        try:
            while done < view.len:
                with nogil:
                    sent = distex_send(fd, <const char*>view.buf + done, view.len - done)
                if sent >= 0:
                    done += sent
                elif errno == EINTR or errno == EAGAIN:
                    PyErr_CheckSignals()
                else:
                    raise LaneClosed
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int send_detour(self, Detour detour, FrameHandler handler) except -1:
        while True:
            self.broken_off = False
            detour.sent += self.rings.put(
                <char*>detour.view.buf + detour.sent, detour.view.len - detour.sent)
            if detour.sent == detour.view.len:
                return 0
            if self.broken_off:
                PyErr_CheckSignals()
            else:  # until there is room
                self.read(handler)

    cdef int read(self, FrameHandler handler) except -1:
        """Wait for something to come, and hand what it is to the handler."""
        cdef char* space = NULL
        cdef Py_ssize_t n = 0, got
        cdef int fd = self.fd
        self.reader.space(&space, &n)
        with nogil:
            got = recv_soon(fd, space, n, self.spin_ns) if self.spin_ns else -1
            if got < 0 and (self.spin_ns == 0 or errno == EAGAIN):
                got = distex_recv(fd, space, n)
        if got < 0 and (errno == EINTR or errno == EAGAIN):
            return PyErr_CheckSignals()
        if got <= 0:
            raise LaneClosed
        self.broken_off = False
        self.reader.received(got, handler)
        while self.broken_off:
            PyErr_CheckSignals()
            self.broken_off = False
            self.reader.received(0, handler)
        if self.size:  # an answer about the rings
            self.write_out(handler)
        return 0

    cdef int write_ahead(self, bytes frame) except -1:
        return self.send(frame)

    cdef int write_soon(self) except -1:
        self.broken_off = True
        return 0

    cdef int read_soon(self) except -1:
        self.broken_off = True
        return 0


cdef class Lane(FrameHandler):
    """One connection, used by one thread at a time. It is closed when nobody refers to it any more:
    so never under a thread that waits for an answer.

    Args:
        fd: the connected socket, in blocking mode; the lane's from now on.
        peer: process id at its other end, if memory can be shared with it; else 0.
        codec: how data are written.
        worker: whatever describes the worker in errors.
        spin: seconds to poll for an answer before sleeping.
    """

    def __init__(self, int fd, long peer, Codec codec, worker, double spin):
        self.out = Wire(fd, peer, spin)
        self.codec = codec
        self.worker = worker
        self.known = {}

    def __del__(self):
        self.out.close()

    cdef int prepare(self, object func) except -1:
        """Send the function along if the worker does not have it."""
        cdef Function function = func
        self.name = function.name
        if function.id not in self.known:
            for need in function.needs or ():
                if (<Function>need).id not in self.known:
                    put_function(self.out, <Function>need)
                    self.known[(<Function>need).id] = need
            put_function(self.out, function)
            self.known[function.id] = function
            while len(self.known) > KNOWN_FUNCTIONS + len(function.needs or ()):
                id = next(iter(self.known))
                del self.known[id]
                self.out.frame(FORGET, 0, 0, id, NULL, 0, None)
        return 0

    cdef int exchange(self) except -1:
        """Send what was written, and wait for the answer."""
        self.answered = False
        self.out.write_out(self)
        while not self.answered:
            self.out.read(self)
        return 0

    cdef int on_frame(self, Header* header, const char* body, list segments) except -1:
        cdef Cursor cursor
        if not (header.kind == RESULT or header.kind == ERROR or header.kind == CANCELLED) \
                or self.answered:
            raise ProtocolError(f"a frame of kind {header.kind} has no place here")
        cursor.data = body
        cursor.end = body + header.length
        cursor.segment = 0
        self.answered = True
        self.value = self.error = None
        if header.kind == CANCELLED:
            self.error = CancelledError()
            return 0
        try:
            value = self.codec.get(&cursor, segments)
        except BaseException as exc:
            annotate(exc, f"raised while the result of {self.name} was being read")
            self.error = exc
            return 0
        if header.kind == ERROR:
            self.error = load_exception(value, self.worker, self.name if header.flags else None)
        else:
            self.value = value
        return 0
