/* The machine's limits, at C speed. All times are printed in nanoseconds, one to a line.

   raw ping [CPU CPU] COUNT  64 bytes to a forked process and back over a socketpair, each on its CPU
   raw poll [CPU CPU] COUNT  the same, where neither waits but asks again and again
   raw echo SIZE COUNT       SIZE bytes there, and when all have arrived, back
   raw memcpy SIZE COUNT     one copy of SIZE bytes
   raw fresh SIZE COUNT      SIZE bytes of fresh memory, each page of which is written to
*/
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void send_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n <= 0) exit(1);
        data += n;
        size -= n;
    }
}

static int poll;

static int receive_all(int fd, char *data, size_t size)
{
    while (size) {
        ssize_t n = recv(fd, data, size, poll ? MSG_DONTWAIT : 0);
        if (n < 0 && poll && errno == EAGAIN) continue;
        if (n <= 0) return 0;
        data += n;
        size -= n;
    }
    return 1;
}

static void run_on(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpu), &set);
    if (sched_setaffinity(0, sizeof set, &set)) exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    poll = !strcmp(argv[1], "poll");
    int ping = poll || !strcmp(argv[1], "ping");
    size_t size = ping ? 64 : strtoull(argv[2], NULL, 10);
    long count = atol(argv[argc - 1]);
    char *data = malloc(size), *copy = malloc(size);
    int64_t *taken = malloc(count * sizeof *taken);
    int pair[2];
    if (!data || !copy || !taken || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 1;
    memset(data, 1, size);

    if (!strcmp(argv[1], "memcpy")) {
        memset(copy, 2, size);
        for (long i = 0; i < count; i++) {
            int64_t start = now();
            memcpy(i & 1 ? data : copy, i & 1 ? copy : data, size);
            __asm__ volatile("" : : "r"(data), "r"(copy) : "memory");
            taken[i] = now() - start;
        }
    } else if (!strcmp(argv[1], "fresh")) {
        for (long i = 0; i < count; i++) {
            int64_t start = now();
            char *fresh = mmap(
                NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (fresh == MAP_FAILED) return 1;
            madvise(fresh, size, MADV_HUGEPAGE);
            for (size_t at = 0; at < size; at += 4096) ((volatile char *)fresh)[at] = 1;
            taken[i] = now() - start;
            munmap(fresh, size);
        }
    } else {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (ping && argc == 5) run_on(argv[pid == 0 ? 3 : 2]);
        if (pid == 0) {
            close(pair[0]);
            while (receive_all(pair[1], data, size)) send_all(pair[1], data, size);
            return 0;
        }
        close(pair[1]);
        for (long i = 0; i < count; i++) {
            int64_t start = now();
            send_all(pair[0], data, size);
            if (!receive_all(pair[0], copy, size)) return 1;
            taken[i] = now() - start;
        }
        close(pair[0]);
    }
    for (long i = 0; i < count; i++) printf("%lld\n", (long long)taken[i]);
    return 0;
}
