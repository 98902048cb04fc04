/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Losslessly coded BF16: whatever the bits are, they come back; coding takes what measuring said, and writes nothing else; what
 * an index may hold.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/lossless.h"

#define GUARD 0xa5

static uint64_t state = 7;

static uint64_t random_bits(void) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state * 0x2545f4914f6cdd1dull;
}

static double uniform(void) {
        return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(void) {
        return sqrt(-2.0 * log(uniform())) * cos(2.0 * M_PI * uniform());
}

/* A matrix as coded tensors lie in images, and its parts. */
struct coded {
        struct lossless_parts parts;
        uint8_t *data;
        uint64_t escapes; /* bytes */
};

static size_t panel_bytes(uint64_t n_in) {
        return n_in / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
}

/* Codes a matrix panel by panel, and looks at everything on the way. */
static struct coded code(const uint16_t *src, size_t stride, uint64_t n_out, uint64_t n_in) {
        struct coded c = { 0 };
        uint64_t room = 0;

        assert_true(lossless_layout(1, n_out, n_in, &c.parts));
        for (uint64_t row = 0; row < n_out; row += WEIGHT_PANEL)
                room += lossless_measure(src + row * stride, 2 * stride, (unsigned)MIN(n_out - row, WEIGHT_PANEL), n_in);
        c.data = malloc(c.parts.least + room);
        assert_non_null(c.data);
        memset(c.data, GUARD, c.parts.least + room);
        for (uint64_t row = 0, panel = 0; row < n_out; row += WEIGHT_PANEL, panel++) {
                unsigned n_rows = (unsigned)MIN(n_out - row, WEIGHT_PANEL);
                uint8_t *columns = c.data + panel * panel_bytes(n_in), *index = c.data + c.parts.index + panel * c.parts.units * 8;
                uint64_t measured = lossless_measure(src + row * stride, 2 * stride, n_rows, n_in);

                assert_int_equal(lossless_encode(src + row * stride, 2 * stride, n_rows, n_in, c.escapes, columns, index,
                                                 c.data + c.parts.escapes),
                                 measured);
                c.escapes += measured;
                assert_true(lossless_verify(columns, index, c.data + c.parts.escapes, src + row * stride, 2 * stride, n_rows, n_in));
        }
        for (uint64_t i = c.escapes; i < room + LOSSLESS_SLACK; i++)
                assert_int_equal(c.data[c.parts.escapes + i], GUARD);
        assert_true(lossless_index_valid(c.data + c.parts.index, c.parts.n_entries, room + LOSSLESS_SLACK));
        return c;
}

/* There and back. Returns bits per number. */
static double round_trip(const uint16_t *src, size_t stride, uint64_t n_out, uint64_t n_in) {
        struct coded c = code(src, stride, n_out, n_in);
        uint16_t *back = malloc(n_out * n_in * sizeof(*back)), *one = malloc(n_in * sizeof(*one));
        double bits = (double)(c.parts.least - LOSSLESS_SLACK + c.escapes) * 8.0 / (double)(n_out * n_in);

        assert_true(back && one);
        for (uint64_t row = 0; row < n_out; row++) {
                const uint8_t *columns = c.data + row / WEIGHT_PANEL * panel_bytes(n_in);
                const uint8_t *index = c.data + c.parts.index + row / WEIGHT_PANEL * c.parts.units * 8;

                if (row % WEIGHT_PANEL == 0)
                        lossless_decode(columns, index, c.data + c.parts.escapes, (unsigned)MIN(n_out - row, WEIGHT_PANEL), n_in,
                                        back + row * n_in, 2 * n_in);
                lossless_decode_row(columns, index, c.data + c.parts.escapes, row % WEIGHT_PANEL, n_in, one);
                assert_memory_equal(back + row * n_in, src + row * stride, 2 * n_in);
                assert_memory_equal(one, src + row * stride, 2 * n_in);
        }
        free(one);
        free(back);
        free(c.data);
        return bits;
}

static void test_all_patterns(void **unused) {
        uint16_t *all = malloc(65536 * sizeof(*all));

        assert_non_null(all);
        for (unsigned i = 0; i < 65536; i++)
                all[i] = (uint16_t)i;
        (void)round_trip(all, 4096, 16, 4096);
        for (unsigned i = 0; i < 65536; i++) /* every exponent in every unit */
                all[i * 40503u % 65536] = (uint16_t)i;
        (void)round_trip(all, 4096, 16, 4096);
        free(all);
}

/* Weights of trained models are about as wide as Gaussian ones of 0.005 to 0.1. */
static void test_gaussian(void **unused) {
        static const double sigmas[] = { 1e-30, 0.005, 0.0125, 0.02, 0.03, 0.045, 0.1, 1.0, 1e30 };
        const size_t n_out = 128, n_in = 2048;
        uint16_t *w = malloc(n_out * n_in * sizeof(*w));

        assert_non_null(w);
        for (size_t s = 0; s < ARRAY_SIZE(sigmas); s++) {
                for (size_t i = 0; i < n_out * n_in; i++)
                        w[i] = bf16_from_float((float)(sigmas[s] * gaussian()));
                assert_true(round_trip(w, n_in, n_out, n_in) < 11.4);
        }
        free(w);
}

/* What plans reckon with. */
static void test_gaussian_bits(void **unused) {
        const unsigned steps = 16, n_in = 16384;
        uint16_t *w = malloc(WEIGHT_PANEL * n_in * sizeof(*w));
        double bits = 0;

        assert_non_null(w);
        for (unsigned s = 0; s < steps; s++) {
                double sigma = exp2(-6.0 + (s + 0.5) / steps);

                for (size_t i = 0; i < WEIGHT_PANEL * n_in; i++)
                        w[i] = bf16_from_float((float)(sigma * gaussian()));
                bits += 8.0 * (double)lossless_measure(w, 2 * n_in, WEIGHT_PANEL, n_in);
        }
        bits /= (double)steps * WEIGHT_PANEL * n_in / 0x1p20;
        assert_true(fabs(bits - LOSSLESS_GAUSSIAN_BITS) < 0.01 * LOSSLESS_GAUSSIAN_BITS);
        free(w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_patterns),
                cmocka_unit_test(test_gaussian),
                cmocka_unit_test(test_gaussian_bits),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
