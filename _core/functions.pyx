# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Functions as they are sent to workers, and what is learned about the cost of a call."""
from cpython.pythread cimport PyThread_get_thread_ident

from distex._core.inbox cimport Inbox

cdef object NO_NAMES = frozenset()

cdef enum:
    # a measurement over this many calls is taken as it is
    SURE_CALLS = 16


cdef class FunctionTable:
    """Gives functions their ids, and takes the ids back once a function is gone."""

    def __init__(self, Inbox inbox):
        self.thread = PyThread_get_thread_ident()
        self.free_ids = []
        self.next_id = 1
        self.inbox = inbox


cdef class Function:
    """A function in the form that workers are sent. It lives as long as a task, a map or a cache
    refers to it; then the workers are told to forget it.

    Args:
        table: the pool's functions.
        name: what errors call it.
        payload: the function, pickled.
        segments: the buffers that the pickle refers to.
        is_async: whether calling it gives a coroutine.
    """

    def __init__(self, FunctionTable table, str name, bytes payload, list segments, is_async):
        self.name = name
        self.payload = payload
        self.segments = segments
        self.is_async = is_async
        self.links = []
        if table.free_ids:
            self.id = table.free_ids.pop()
        else:
            self.id = table.next_id
            table.next_id += 1
        table.serial += 1
        self.serial = table.serial
        self.table = table
        self.names = NO_NAMES

    def __del__(self):
        if self.table is not None:
            try:
                self.table.inbox.put((self.id, self.links))
            # the loop is closed, and with it the workers are gone; or the interpreter is, half
            except Exception:
                pass

    cdef int measured(self, double ns, uint32_t calls) except -1:
        """Learn from what some calls took on average: up fast, so that a slow spell is soon sent
        one by one, but not all at once, as a call that was interrupted makes no others slow."""
        if self.cost_ns == 0:
            self.cost_ns = max(ns, 1)
        elif calls >= SURE_CALLS:
            self.cost_ns = ns
        elif ns > self.cost_ns:
            self.cost_ns = min(ns, 4 * self.cost_ns + 10_000)
        else:
            self.cost_ns += min(0.25 * calls, 1) * (ns - self.cost_ns)
        return 0
