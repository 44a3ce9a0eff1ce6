# cython: language_level=3
"""Linux system calls that Python lacks: end with the parent, adopt orphans.

ctypes could do it too, but to import it takes longer than to fork a worker.
"""

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/prctl.h>
    static int distex_adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1L); }
    static int distex_end_with_parent(int signal) { return prctl(PR_SET_PDEATHSIG, (long)signal); }
    #else
    static int distex_adopt_orphans(void) { return 0; }
    static int distex_end_with_parent(int signal) { return 0; }
    #endif
    """
    int distex_adopt_orphans() nogil
    int distex_end_with_parent(int signal) nogil


def adopt_orphans():
    """Descendants that lose their parent become this process's children."""
    distex_adopt_orphans()


def end_with_parent(int signal):
    """Get this signal when the parent ends: the thread of it that forked this process."""
    distex_end_with_parent(signal)
