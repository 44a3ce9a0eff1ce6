# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The asyncio protocol: socket <-> framing, one write per loop tick.

    transport ──get_buffer, buffer_updated──> FrameReader ──> handler.on_frame
    transport <──write── take() <── FrameWriter <── begin/end, frame

While input is being processed output is held back, and written at its end; output that arises
otherwise is written by one callback at the end of the loop's tick, or at once when there is much or
the peer has nothing else to do.

Between processes of one machine large segments take another way, see ring.pyx. While one waits for
room there, all that comes after it waits too.
"""
from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory

from asyncio import BufferedProtocol
from collections import deque

from distex._core.framing cimport Detour, FrameHandler, FrameReader, FrameWriter
from distex._core.polling cimport recv_soon
from distex._core.ring cimport RingPair, peer_process
from distex.errors import ProtocolError

cdef enum:
    # output is not held back beyond this
    FLUSH_BYTES = 64 * 1024
    # one look at a socket in busy polling; then the loop gets to its other work
    POLL_NS = 20_000


cdef class Connection(FrameWriter):
    """One end of a stream of frames; both sides use it, over whatever transport there is.

    Args:
        loop: the event loop that the transport belongs to.
        handler: who gets the frames, and is told of connect and disconnect.
        limit: bytes that a frame from the peer may have, until set_limit() changes it.
    """

    def __init__(self, loop, FrameHandler handler, limit):
        self.loop = loop
        self.handler = handler
        self.reader = FrameReader(limit)
        self.flush_callback = self._flush
        self.poll_fd = -1

    # --- output

    cdef int pending(self) except -1:
        if self.rings is not None:
            self.rings.offer_for(self.parts_bytes)
        if self.size + self.parts_bytes >= FLUSH_BYTES or self.urgent and not self.reading:
            self.write_out()
        elif not self.reading and not self.flush_scheduled:
            self.flush_scheduled = True
            self.loop.call_soon(self.flush_callback)
        return 0

    cdef bint congested(self):
        return self.paused or self.held is not None

    cdef int write_out(self) except -1:
        cdef bint waited = self.held is not None
        self.urgent = False
        if self.transport is None:  # not connected yet, or not any more
            return 0
        for part in self.take():
            if self.held is None and type(part) is Detour:
                self.held = deque()
            if self.held is None:
                self.transport_write(part)
            else:
                self.held.append(part)
        self._write_held()
        if waited and self.held is None:  # soon: who writes now is in the midst of something
            self.loop.call_soon(self._relieved)
        return 0

    cdef int _write_held(self) except -1:
        """Write what has waited for room in the shared memory, as far as there is some."""
        cdef Detour detour
        while self.held is not None:
            part = self.held[0]
            if type(part) is Detour:
                detour = part
                try:
                    detour.sent += self.rings.put(
                        <char*>detour.view.buf + detour.sent, detour.view.len - detour.sent)
                except ProtocolError as exc:
                    return self.violated(exc)
                if detour.sent < detour.view.len:
                    break
            else:
                self.transport_write(part)
            self.held.popleft()
            if not self.held:
                self.held = None
        return 0

    cdef int write_ahead(self, bytes frame) except -1:
        if self.transport is not None:
            self.transport_write(frame)
        return 0

    cdef int write_on(self) except -1:
        if self.held is not None and self.transport is not None:
            self._write_held()
            self._relieved()
        return 0

    def _relieved(self):
        """If nothing waits for room any more, go on with what has waited for that."""
        if self.held is None and self.transport is not None:
            if self.closing:
                self.transport.close()
            elif not self.paused:
                self.handler.writable()

    cdef int write_soon(self) except -1:
        self.loop.call_soon(self._write_on)
        return 0

    def _write_on(self):
        self.write_on()

    def _flush(self):
        self.flush_scheduled = False
        self.write_out()

    def flush(self):
        """Write what is held back, now."""
        self.write_out()

    def close(self):
        """Write what is held back, then close."""
        if self.transport is not None:
            self.closing = True
            self.write_out()
            if self.held is None:
                self.transport.close()

    def abort(self):
        """Close at once; what was not sent is lost."""
        if self.transport is not None:
            self.transport.abort()

    # --- busy polling

    def enable_polling(self):
        """Allow it. The transport must be that of a bare socket, without encryption, say."""
        self.poll_fd = self.transport.get_extra_info("socket").fileno()

    cdef int poll(self) except -1:
        cdef char* data = NULL
        cdef Py_ssize_t n = 0, got
        cdef int fd = self.poll_fd
        if fd < 0 or self.reading or self.transport.is_closing():
            return 0
        self.reader.space(&data, &n)
        with nogil:
            got = recv_soon(fd, data, n, POLL_NS)
        if got > 0:  # all else the loop will see
            self.buffer_updated(got)
        return 0

    # --- shared memory

    def share_memory(self):
        """Allow it, if the peer is a process of this machine. Both sides have to, before anything
        is sent."""
        cdef long peer = peer_process(self.transport.get_extra_info("socket"))
        if peer:
            self.rings = self.reader.bypass = RingPair(self, peer)

    cdef int read_soon(self) except -1:
        self.loop.call_soon(self._read_on)
        return 0

    def _read_on(self):
        if self.transport is not None:
            self.buffer_updated(0)

    # --- the protocol's callbacks

    def connection_made(self, transport):
        self.transport = transport
        self.transport_write = transport.write
        self.handler.connected(self)
        self.write_out()

    def connection_lost(self, exc):
        self.transport = None
        self.transport_write = None
        self.poll_fd = -1
        self.take()
        self.held = self.rings = self.reader.bypass = None
        if self.on_lost is not None:
            self.on_lost(self)
        self.handler.disconnected(exc)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        if self.held is None:
            self.handler.writable()

    def eof_received(self):
        return False

    def get_buffer(self, sizehint):
        cdef char* data = NULL
        cdef Py_ssize_t n = 0
        self.reader.space(&data, &n)
        # mostly the same as before: what came was small, and was read whole
        if data != self.space_data or n != self.space_size:
            self.space_data = data
            self.space_size = n
            self.space = PyMemoryView_FromMemory(data, n, PyBUF_WRITE)
        return self.space

    def buffer_updated(self, Py_ssize_t n):
        self.reading = True
        try:
            self.reader.received(n, self.handler)
        except BaseException as exc:
            self.violated(exc)
        finally:
            self.reading = False
            self.write_out()

    def data_received(self, data, datatype=None):
        """For transports that bring buffers of their own, such as an ssh channel."""
        self.reading = True
        try:
            self.reader.feed(data, self.handler)
        except BaseException as exc:
            self.violated(exc)
        finally:
            self.reading = False
            self.write_out()

    cdef int violated(self, object exc) except -1:
        """Drop a peer that broke the protocol. What else was raised is a bug of ours or of a
        callback; the stream is not to be trusted after it either."""
        self.abort()
        if isinstance(exc, ProtocolError):
            if self.on_violation is not None:
                self.on_violation(exc)
            return 0
        raise exc


class StreamConnection(Connection, BufferedProtocol):
    """A Connection for socket transports: asyncio's own loops look at the base class."""

    __slots__ = ()
