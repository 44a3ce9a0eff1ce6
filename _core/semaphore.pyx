# cython: language_level=3, boundscheck=False, wraparound=False
"""A counting semaphore without a lock: it bounds how many tasks are under way. Any thread.

    acquire ──a permit is free──> go on          release ──> admit() of the first that waits
       └────none is free───> wait in line  <──────────────────┘

The interpreter runs lines that only count undivided; between others another thread may run, which
they allow for.
"""
from collections import OrderedDict
from threading import Event


cdef class Turn:
    """The place of a thread in the line."""

    def __init__(self):
        self.event = Event()

    def admit(self, semaphore):
        """Wake the thread: the permit is its own."""
        self.event.set()
        return True


cdef class Semaphore:
    """Permits, and a line of those that wait for one.

    Whatever waits has a method ``admit(semaphore)``. It is called with a permit taken for it, on
    any thread, and returns whether it keeps the permit.

    Args:
        limit: the number of permits.
        waits: whether callers wait when no permit is free; else they are refused.
        submit: what a task calls that is admitted, see AsyncTask.admit().
    """

    def __init__(self, Py_ssize_t limit, bint waits=True, submit=None):
        self.limit = limit
        self.waits = waits
        self.submit = submit
        self.line = OrderedDict()

    @property
    def waiting(self):
        """How many wait for a permit."""
        return len(self.line)

    cdef bint try_acquire(self):
        """Take a permit if one is free."""
        if self.held < self.limit:
            self.held += 1
            return True
        return False

    def acquire(self, timeout=None):
        """Take a permit, and block the thread until one is free: False if that took longer than
        ``timeout`` seconds."""
        if self.try_acquire():
            return True
        cdef Turn turn = Turn()
        self.wait_in_line(turn)
        try:
            admitted = turn.event.wait(timeout)
        except BaseException:
            if not self.leave_line(turn):
                self.release()
            raise
        return admitted or not self.leave_line(turn)

    cpdef int wait_in_line(self, waiter) except -1:
        """Have ``waiter.admit(self)`` called once there is a permit for it."""
        self.line[waiter] = None
        return self.grant()  # what another thread may have released meanwhile

    cpdef bint leave_line(self, waiter) except -1:
        """Wait no longer: False if it has been admitted already."""
        return self.line.pop(waiter, False) is None

    cpdef int release(self) except -1:
        """Give a permit back; the next that waits gets it."""
        self.held -= 1
        if len(self.line):
            self.grant()
        return 0

    cdef int grant(self) except -1:
        """Give free permits to those that wait. What is released meanwhile, by a waiter that ends
        at once or by another thread, is given away by the same loop."""
        if self.granting:
            return 0
        self.granting = True
        try:
            while self.held < self.limit and len(self.line):
                self.held += 1
                try:
                    waiter, _ = self.line.popitem(last=False)
                except KeyError:  # another thread was quicker
                    self.held -= 1
                    continue
                if not waiter.admit(self):
                    self.held -= 1
        finally:
            self.granting = False
        return 0
