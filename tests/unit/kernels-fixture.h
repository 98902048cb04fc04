/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the tests of the CPU backend's kernels share: made-up numbers, and the families that must agree. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/macro.h"
#include "kernels/backend.h"

/* Of the processor, by this process. */
static inline double cpu_seconds(void) {
        struct rusage u;

        assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Plain C first. What this machine does not have is skipped by open_family(). */
static const char *const families[] = { "c", "avx2", "avx512-vnni", "neon-dotprod", "neon-i8mm" };

/* The next of a fixed series of numbers in [-1, 1). */
static inline float noise(void) {
        static uint32_t state = 1;

        state = state * 1664525u + 1013904223u;
        return (float)(int32_t)state / 2147483648.0f;
}

static inline void fill(float *x, size_t n, float range) {
        for (size_t i = 0; i < n; i++)
                x[i] = noise() * range;
}

/* To be freed. */
static inline float *floats(size_t n, float range) {
        float *p = malloc((n + 1) * sizeof(*p));

        assert_non_null(p);
        fill(p, n, range);
        return p;
}

static inline float *floats_copy(const float *src, size_t n) {
        float *p = malloc((n + 1) * sizeof(*p));

        assert_non_null(p);
        memcpy(p, src, n * sizeof(*p));
        return p;
}

/* NULL where the machine can't run it. */
static inline struct backend *open_family(const char *isa, unsigned threads) {
        struct backend_config config = { .threads = threads, .isa = isa };
        struct backend *be = NULL;
        int r = backend_cpu.open(&config, &be);

        if (r == BACKEND_E_UNSUPPORTED)
                return NULL;
        assert_int_equal(r, 0);
        return be;
}
