# The status page as a worker writes it; see distex/worker/status_page.py.
cdef extern from *:
    """
    #ifndef DISTEX_KEEP_ORDER
    #define DISTEX_KEEP_ORDER
    #if defined(_MSC_VER)
    #include <intrin.h>
    #define distex_keep_order() _ReadWriteBarrier()
    #else
    #define distex_keep_order() __asm__ __volatile__("" ::: "memory")
    #endif
    #endif
    """
    # have the compiler do what comes before this first. The nanny does the same for the CPUs, which
    # costs a worker nothing: see order_memory() in prctl.pyx.
    void keep_order "distex_keep_order" () noexcept nogil

cdef enum:
    PAGE_NUMBERS = 8
    STARTED = 0
    FINISHED = 1
    UNWANTED = 2
    RUNNING = 3
    ITEM = 4
    STEPPING = 5
    CANCELS = 6
    WITHDRAWN = 7
