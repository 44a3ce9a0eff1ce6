# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A second connection to a local worker, for calls that a thread waits for: no loop in between.

    thread ──send──> worker        Caller.run in futures.pyx: leases a worker that has nothing to
    thread <──recv── worker        do, and uses its lane alone until the answer is there

A call by the pool's loop costs two changes of thread more than the exchange with the worker itself.
The worker treats both connections alike.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno

import os
from asyncio import CancelledError

from distex._core.codec cimport Codec, Cursor
from distex._core.dispatch cimport Function
from distex._core.framing cimport (
    CANCELLED, ERROR, FORGET, FUNCTION, RESULT, FrameHandler, FrameReader, FrameWriter, Header,
)
from distex._core.polling cimport recv_soon
from distex._core.framing import DEFAULT_LIMIT_BYTES
from distex.errors import ProtocolError, annotate, load_exception

cdef extern from *:
    """
    #if defined(_WIN32)
    static Py_ssize_t distex_send(int fd, const char *data, Py_ssize_t n) { return -1; }
    static Py_ssize_t distex_recv(int fd, char *data, Py_ssize_t n) { return -1; }
    #else
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static Py_ssize_t distex_send(int fd, const char *data, Py_ssize_t n) {
        return send(fd, data, n, MSG_NOSIGNAL);
    }
    static Py_ssize_t distex_recv(int fd, char *data, Py_ssize_t n) {
        return recv(fd, data, n, 0);
    }
    #endif
    """
    Py_ssize_t distex_send(int fd, const char* data, Py_ssize_t n) nogil
    Py_ssize_t distex_recv(int fd, char* data, Py_ssize_t n) nogil

cdef enum:
    KNOWN_FUNCTIONS = 64


class LaneClosed(Exception):
    """Raised when the worker has closed the lane: it is dead or ends."""


cdef class Lane(FrameHandler):
    """One connection, used by one thread at a time.

    Args:
        fd: the connected socket, in blocking mode; closed with the lane.
        codec: how data are written.
        worker: whatever describes the worker in errors.
        spin: seconds to poll for an answer before sleeping.
    """

    def __init__(self, int fd, Codec codec, worker, double spin):
        self.fd = fd
        self.codec = codec
        self.worker = worker
        self.out = FrameWriter()
        self.reader = FrameReader(DEFAULT_LIMIT_BYTES)
        self.known = {}
        self.spin_ns = <long long>(spin * 1e9)

    def __del__(self):
        self.close()

    def close(self):
        """Close the socket; who waits for an answer gets LaneClosed."""
        if self.fd >= 0:
            fd = self.fd
            self.fd = -1
            os.close(fd)

    cdef int prepare(self, object func) except -1:
        """Send the function along if the worker does not have it."""
        cdef Function function = func
        self.name = function.name
        if function.id in self.known:
            return 0
        if len(self.known) >= KNOWN_FUNCTIONS:
            id = next(iter(self.known))
            del self.known[id]
            self.out.frame(FORGET, 0, 0, id, NULL, 0, None)
        self.out.frame(FUNCTION, 0, 0, function.id, PyBytes_AS_STRING(function.payload),
                       PyBytes_GET_SIZE(function.payload), function.segments)
        self.known[function.id] = function
        return 0

    cdef int exchange(self) except -1:
        """Send what was written, and wait for the answer."""
        cdef char* space = NULL
        cdef Py_ssize_t n = 0, got
        cdef Py_buffer view
        cdef int fd = self.fd
        self.answered = False
        for part in self.out.take():
            PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
            try:
                self._send(<const char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        while not self.answered:
            self.reader.space(&space, &n)
            with nogil:
                got = recv_soon(fd, space, n, self.spin_ns) if self.spin_ns else -1
                if got < 0 and (self.spin_ns == 0 or errno == EAGAIN):
                    got = distex_recv(fd, space, n)
            if got > 0:
                self.reader.received(got, self)
            elif got == 0:
                raise LaneClosed
            elif errno == EINTR:
                PyErr_CheckSignals()
            else:
                raise LaneClosed
        return 0

    cdef int _send(self, const char* data, Py_ssize_t n) except -1:
        cdef Py_ssize_t sent
        cdef int fd = self.fd
        while n > 0:
            with nogil:
                sent = distex_send(fd, data, n)
            if sent >= 0:
                data += sent
                n -= sent
            elif errno == EINTR:
                PyErr_CheckSignals()
            else:
                raise LaneClosed
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
            annotate(exc, "raised while a result was being read")
            self.error = exc
            return 0
        if header.kind == ERROR:
            self.error = load_exception(value, self.worker, self.name if header.flags else None)
        else:
            self.value = value
        return 0
