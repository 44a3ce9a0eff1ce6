/* Tells libFuzzer which branches the core takes.
 *
 * gcc's -fsanitize-coverage=trace-pc calls a function at each branch, which libFuzzer does not
 * support any more: it wants a table of counters. This is the one in terms of the other. The calls
 * of trace-cmp are handed on, as the sanitizers' own, empty ones would be found before libFuzzer's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#define COUNTERS (1 << 16)

static uint8_t counters[COUNTERS] __attribute__((aligned(4096)));
static uintptr_t pcs[2 * COUNTERS];  /* address and flags of each; nobody asks what they are */

void __sanitizer_cov_trace_pc(void) {
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    counters[(pc ^ pc >> 16) & (COUNTERS - 1)]++;
}

#define TRACE_CMP(name, type)                                   \
    static void (*found_##name)(type, type);                    \
    void __sanitizer_cov_trace_##name(type a, type b) {         \
        if (found_##name) found_##name(a, b);                   \
    }

TRACE_CMP(cmp1, uint8_t)
TRACE_CMP(cmp2, uint16_t)
TRACE_CMP(cmp4, uint32_t)
TRACE_CMP(cmp8, uint64_t)
TRACE_CMP(const_cmp1, uint8_t)
TRACE_CMP(const_cmp2, uint16_t)
TRACE_CMP(const_cmp4, uint32_t)
TRACE_CMP(const_cmp8, uint64_t)

/* gcc's own, of float and double, which libFuzzer does not know */
void __sanitizer_cov_trace_cmpf(float a, float b) {}
void __sanitizer_cov_trace_cmpd(double a, double b) {}

static void (*found_switch)(uint64_t, uint64_t *);
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) {
    if (found_switch) found_switch(value, cases);
}

/* Find libFuzzer in the library at this path; 0 if it is there. */
int distex_connect(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    void (*add_counters)(uint8_t *, uint8_t *);
    void (*add_pcs)(const uintptr_t *, const uintptr_t *);
    if (library == NULL) return 1;
#define FIND(variable, name) *(void **)&variable = dlsym(library, "__sanitizer_cov_" name)
    FIND(add_counters, "8bit_counters_init");
    FIND(add_pcs, "pcs_init");
    FIND(found_cmp1, "trace_cmp1");
    FIND(found_cmp2, "trace_cmp2");
    FIND(found_cmp4, "trace_cmp4");
    FIND(found_cmp8, "trace_cmp8");
    FIND(found_const_cmp1, "trace_const_cmp1");
    FIND(found_const_cmp2, "trace_const_cmp2");
    FIND(found_const_cmp4, "trace_const_cmp4");
    FIND(found_const_cmp8, "trace_const_cmp8");
    FIND(found_switch, "trace_switch");
    if (add_counters == NULL || add_pcs == NULL) return 1;
    add_counters(counters, counters + COUNTERS);
    add_pcs(pcs, pcs + 2 * COUNTERS);
    return 0;
}
