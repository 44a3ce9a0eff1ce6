# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""An inbox: hand items over to an event loop from any thread.

    put(item), any thread ──> items ──wake the loop, once a burst──> handle(item), on the loop
"""
from collections import deque

cdef enum:
    # items taken before the loop gets to do its I/O
    DRAIN_BATCH = 10_000


cdef class Inbox:
    """Hands items over to a loop from any thread; a burst of them wakes it once."""

    def __init__(self, loop, handle):
        self.loop = loop
        self.handle = handle
        self.items = deque()

    cpdef int put(self, object item) except -1:
        """Have handle(item) run on the loop. Raises RuntimeError if the loop is closed."""
        self.items.append(item)
        if self.closed:
            self.close()
        elif not self.armed:
            self.armed = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except BaseException:
                self.armed = False
                raise
        return 0

    def close(self):
        """The loop is closed: handle here what it has left, and what is put in later at once."""
        self.closed = True
        self.handle_all()

    def handle_all(self):
        """Handle what was put in by now, on the thread of the loop: whoever puts the first item in
        may not have come to wake the loop yet."""
        items = self.items
        while items:
            try:
                item = items.popleft()
            except IndexError:  # another thread was quicker
                return
            self.handle(item)

    def _drain(self):
        self.armed = False
        items = self.items
        handle = self.handle
        for _ in range(DRAIN_BATCH):
            try:
                item = items.popleft()
            except IndexError:
                return
            handle(item)
        if not self.armed:  # let the loop do its I/O before the rest
            self.armed = True
            self.loop.call_soon(self._drain)
