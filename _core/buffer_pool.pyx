# cython: language_level=3, boundscheck=False, wraparound=False
"""A pool of buffers: memory for large segments that are received, used again.

    Block(n) ──> one that was kept, or fresh memory        dropped ──> kept, or given back

The system zeroes fresh memory before a process gets it, which takes longer than to receive into it.
What is kept is marked as free: the system takes it when it needs it, without asking.
"""
from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #include <unistd.h>
    #ifndef MADV_FREE
    #define MADV_FREE 8
    #endif

    enum { DISTEX_BLOCKS = 16 };  /* that are kept, at most */
    static const size_t distex_huge_page = 2 << 20;

    typedef struct {
        char *base;  /* of the mapping; what is used of it begins behind this, at a huge page */
        size_t mapped, capacity;
    } distex_block;

    static distex_block *distex_kept[DISTEX_BLOCKS];
    static size_t distex_kept_bytes;

    /* Bytes that are kept, at most. */
    static size_t distex_kept_limit(void) {
        size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
        return memory / 16 < 1 << 30 ? memory / 16 : 1 << 30;
    }

    static void distex_block_unmap(distex_block *block) {
        munmap(block->base, block->mapped);
    }

    static distex_block *distex_block_from(int i) {
        distex_block *block = __atomic_exchange_n(&distex_kept[i], NULL, __ATOMIC_SEQ_CST);
        if (block != NULL)
            __atomic_sub_fetch(&distex_kept_bytes, block->capacity, __ATOMIC_SEQ_CST);
        return block;
    }

    /* Those kept before make room for it. */
    static void distex_block_keep(distex_block *block) {
        static unsigned int turn;
        const size_t limit = distex_kept_limit();
        int i, full = 1;
        if (block->capacity > limit) {
            distex_block_unmap(block);
            return;
        }
        __atomic_add_fetch(&distex_kept_bytes, block->capacity, __ATOMIC_SEQ_CST);
        for (i = 0; i < DISTEX_BLOCKS; i++) {
            distex_block *other = NULL;
            if (__atomic_load_n(&distex_kept_bytes, __ATOMIC_SEQ_CST) > limit
                    && (other = distex_block_from(i)) != NULL)
                distex_block_unmap(other);
        }
        for (i = 0; i < DISTEX_BLOCKS && full; i++) {
            distex_block *none = NULL;
            full = !__atomic_compare_exchange_n(&distex_kept[i], &none, block, 0,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        }
        if (full) {
            i = __atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST) % DISTEX_BLOCKS;
            block = __atomic_exchange_n(&distex_kept[i], block, __ATOMIC_SEQ_CST);
            if (block != NULL) {
                __atomic_sub_fetch(&distex_kept_bytes, block->capacity, __ATOMIC_SEQ_CST);
                distex_block_unmap(block);
            }
        }
    }

    static distex_block *distex_block_kept(size_t n) {
        int i;
        for (i = 0; i < DISTEX_BLOCKS; i++) {
            distex_block *block = distex_block_from(i);
            if (block == NULL) continue;
            if (block->capacity >= n && block->capacity - n <= n / 4 + distex_huge_page)
                return block;
            distex_block_keep(block);
        }
        return NULL;
    }

    static char *distex_block_take(size_t n) {
        distex_block *block = distex_block_kept(n);
        size_t capacity = (n + distex_huge_page - 1) & ~(distex_huge_page - 1);
        size_t mapped = capacity + 2 * distex_huge_page;
        char *base, *data;
        if (block != NULL) return (char *)(block + 1);
        base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return NULL;
        data = (char *)(((uintptr_t)base + 2 * distex_huge_page - 1) & ~(distex_huge_page - 1));
        madvise(data, capacity, MADV_HUGEPAGE);
        block = (distex_block *)data - 1;
        block->base = base;
        block->mapped = mapped;
        block->capacity = capacity;
        return data;
    }

    static void distex_block_drop(char *data) {
        distex_block *block = (distex_block *)data - 1;
        madvise(data, block->capacity, MADV_FREE);
        distex_block_keep(block);
    }
    #else
    #include <stdlib.h>
    static char *distex_block_take(size_t n) { return malloc(n); }
    static void distex_block_drop(char *data) { free(data); }
    #endif
    """
    char* distex_block_take(size_t n)
    void distex_block_drop(char* data)


cdef class Block:
    """A writable buffer of so many bytes, whatever they are."""

    def __cinit__(self, Py_ssize_t size):
        self.data = distex_block_take(size)
        if self.data == NULL:
            raise MemoryError(f"no memory for a buffer of {size} bytes")
        self.size = size

    def __dealloc__(self):
        if self.data != NULL:
            distex_block_drop(self.data)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, False, flags)
