# cython: language_level=3
"""Linux system calls that Python lacks: end with the parent, adopt orphans, order memory.

ctypes could do it too, but to import it takes longer than to fork a worker.
"""

from time import sleep

# seconds in which what a CPU has written is seen by all others, where that can't be asked for
SETTLE_TIME = 0.01

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int distex_adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1L); }
    static int distex_end_with_parent(int signal) { return prctl(PR_SET_PDEATHSIG, (long)signal); }
    static int distex_order_memory(void) {
    #if defined(SYS_membarrier)
        return (int)syscall(SYS_membarrier, 1 /* MEMBARRIER_CMD_GLOBAL */, 0, 0);
    #else
        return -1;
    #endif
    }
    #else
    static int distex_order_memory(void) { return -1; }
    static int distex_adopt_orphans(void) { return 0; }
    static int distex_end_with_parent(int signal) { return 0; }
    #endif
    """
    int distex_adopt_orphans() nogil
    int distex_end_with_parent(int signal) nogil
    int distex_order_memory() nogil


def adopt_orphans():
    """Descendants that lose their parent become this process's children."""
    distex_adopt_orphans()


def end_with_parent(int signal):
    """Get this signal when the parent ends: the thread of it that forked this process."""
    distex_end_with_parent(signal)


def order_memory():
    """Have all that this process has written be seen by others, and what they had written before
    they saw it be seen here. Others need no such call for that; it may take some 10 ms."""
    if distex_order_memory() != 0:
        sleep(SETTLE_TIME)
