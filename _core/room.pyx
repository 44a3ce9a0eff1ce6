# cython: language_level=3, boundscheck=False, wraparound=False
"""A bound on how many tasks are under way: who comes takes room, or waits for it. Any thread.

There is no lock. The interpreter runs the lines undivided that only count; between others another
thread may come, which they allow for.
"""
from collections import deque


cdef class Room:
    """Room for some, and a line of those who wait for it.

    Args:
        limit: how many there may be.
    """

    def __init__(self, Py_ssize_t limit):
        self.limit = limit
        self.waiting = deque()

    cdef bint take(self):
        """Take room if there is some."""
        if self.inside < self.limit:
            self.inside += 1
            return True
        return False

    def take_or_wait(self, wake):
        """Whether there was room, which is taken; if not, ``wake()`` is called once there is, and
        it has been taken for who waits."""
        if self.take():
            return True
        self.waiting.append(wake)
        self.hand_out()  # what another thread may have left meanwhile
        return False

    def give_up(self, wake):
        """Wait no longer."""
        try:
            self.waiting.remove(wake)
        except ValueError:
            self.give_back()  # room had been taken for it

    def leave(self):
        """Give room up, which is for the next."""
        self.give_back()

    cdef int give_back(self) except -1:
        self.inside -= 1
        if len(self.waiting):
            self.hand_out()
        return 0

    cdef int hand_out(self) except -1:
        """Take the room that there is for those who wait."""
        while self.inside < self.limit and len(self.waiting):
            self.inside += 1
            try:
                wake = self.waiting.popleft()
            except IndexError:  # another thread was quicker
                self.inside -= 1
            else:
                wake()
        return 0
