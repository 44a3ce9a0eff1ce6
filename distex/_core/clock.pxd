# The monotonic clock, read without a Python object.
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #ifndef DISTEX_CLOCK
    #define DISTEX_CLOCK
    #if defined(_WIN32)
    #include <windows.h>
    static inline int64_t distex_clock_ns(void) {
        LARGE_INTEGER count, frequency;
        QueryPerformanceCounter(&count);
        QueryPerformanceFrequency(&frequency);
        return (int64_t)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
    }
    static inline double distex_clock_seconds(void) { return (double)distex_clock_ns() / 1e9; }
    static inline double distex_clock_seconds_at_least(void) {
        return distex_clock_seconds() + 0.02;
    }
    #else
    #include <time.h>
    static inline int64_t distex_clock_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    static inline double distex_clock_of(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    }
    static inline double distex_clock_seconds(void) { return distex_clock_of(CLOCK_MONOTONIC); }
    static inline double distex_clock_seconds_at_least(void) {
    #ifdef CLOCK_MONOTONIC_COARSE
        return distex_clock_of(CLOCK_MONOTONIC_COARSE) + 0.01;
    #else
        return distex_clock_seconds();
    #endif
    }
    #endif
    #endif
    """
    int64_t clock_ns "distex_clock_ns" () nogil
    double seconds "distex_clock_seconds" () nogil
    # now or up to 10 ms later: a tick of the kernel's clock, which is faster to read
    double seconds_at_least "distex_clock_seconds_at_least" () nogil
