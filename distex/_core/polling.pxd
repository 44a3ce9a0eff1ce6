# Receiving without sleeping: recv() again and again, for those who pay a CPU for latency.
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <errno.h>
    #if defined(_WIN32)
    static Py_ssize_t distex_recv_soon(int fd, char *data, Py_ssize_t n, int64_t ns) {
        errno = EAGAIN;
        return -1;
    }
    #else
    #include <sys/socket.h>
    #include <time.h>
    static int64_t distex_poll_clock(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    static Py_ssize_t distex_recv_soon(int fd, char *data, Py_ssize_t n, int64_t ns) {
        int64_t end = distex_poll_clock() + ns;
        Py_ssize_t got;
        do {
            got = recv(fd, data, n, MSG_DONTWAIT);
        } while (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)
                 && distex_poll_clock() < end);
        return got;
    }
    #endif
    """
    # as recv(); -1 and EAGAIN if nothing has come within ns nanoseconds
    Py_ssize_t recv_soon "distex_recv_soon" (int fd, char* data, Py_ssize_t n, int64_t ns) nogil
