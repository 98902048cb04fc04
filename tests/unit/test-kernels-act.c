/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Activations as 8-bit integers: every family against the rule, element by element. Files are compared with what other
 * programs make of them, so an integer, a scale or a sum that is rounded otherwise is a defect here even where it would
 * be as exact.
 */

#include "kernels-fixture.h"

#include <math.h>

#include "kernels/cpu/kernels.h"
#include "kernels/half.h"

#define BLOCKS 40u

static float largest_of(const float *x, size_t n) {
        float top = 0.0f;

        for (size_t i = 0; i < n; i++)
                top = fmaxf(top, fabsf(x[i]));
        return top;
}

/* The product is rounded to float before it is rounded to an integer: volatile, so that nothing is fused. */
static int integer_of(float x, float inverse) {
        volatile float scaled = x * inverse;

        return (int)nearbyintf(scaled);
}

/* Scale and sum (of the integers, times the scale before it was rounded) in half precision: Q8_1's block. */
static void check_block(const char *name, const float *x, const struct act_block *b) {
        float top = largest_of(x, ACT_BLOCK), exact = top / 127.0f;
        int sum = 0;

        for (unsigned i = 0; i < ACT_BLOCK; i++) {
                if (b->q[i] != integer_of(x[i], 127.0f / top))
                        fail_msg("%s: %a is %d instead of %d", name, (double)x[i], b->q[i], integer_of(x[i], 127.0f / top));
                sum += b->q[i];
        }
        assert_true(b->scale == f16_to_float(f16_from_float(exact)));
        if (fabsf(b->sum * b->scale - f16_to_float(f16_from_float(exact * (float)sum))) > fabsf(b->sum * b->scale) * 3e-7f)
                fail_msg("%s: a sum of %d times %a became %a", name, sum, (double)exact, (double)(b->sum * b->scale));
}

static void check_super(const char *name, const float *x, const struct act_super *s) {
        float inverse = 127.0f / largest_of(x, ACT_SUPER);

        for (unsigned i = 0; i < ACT_SUPER; i++)
                if (s->q[i] != integer_of(x[i], inverse))
                        fail_msg("%s: %a is %d instead of %d", name, (double)x[i], s->q[i], integer_of(x[i], inverse));
        assert_true(s->scale == 1.0f / inverse);
}

/* Close to the middle between two integers, on both sides: where one rounding and two differ. */
static void place_near_halves(float *x, size_t n, float top) {
        float inverse = 127.0f / top;

        x[0] = top;
        for (size_t i = 1; i < n; i++) {
                float half = ((float)((int)(i * 37 % 253) - 126) + 0.5f) / inverse;

                x[i] = i % 3 == 0 ? half : nextafterf(half, i % 3 == 1 ? INFINITY : -INFINITY);
        }
}

static void check_all(const float *x) {
        struct act_block *blocks = aligned_alloc(64, BLOCKS * sizeof(*blocks));
        struct act_super *supers = aligned_alloc(64, BLOCKS / 8 * sizeof(*supers));

        assert_true(blocks && supers);
        for (size_t k = 0; k < cpu_kernels_n; k++) {
                if (!cpu_kernels[k].usable())
                        continue;
                cpu_kernels[k].rows->quantize(x, BLOCKS, 1, blocks);
                cpu_kernels[k].rows->quantize_super(x, BLOCKS / 8, 1, supers);
                for (size_t b = 0; b < BLOCKS; b++)
                        check_block(cpu_kernels[k].name, x + b * ACT_BLOCK, &blocks[b]);
                for (size_t s = 0; s < BLOCKS / 8; s++)
                        check_super(cpu_kernels[k].name, x + s * ACT_SUPER, &supers[s]);
        }
        free(blocks);
        free(supers);
}

static void test_noise(void **unused) {
        static const float ranges[] = { 1.0f, 300.0f, 0.02f };

        for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
                float *x = floats((size_t)BLOCKS * ACT_BLOCK, ranges[i]);

                check_all(x);
                free(x);
        }
}

static void test_near_halves(void **unused) {
        float *x = floats((size_t)BLOCKS * ACT_BLOCK, 1.0f);

        for (unsigned run = 0; run < 50; run++) {
                float top = 0.5f + (float)run * 0.173f;

                for (size_t b = 0; b < BLOCKS; b++)
                        place_near_halves(x + b * ACT_BLOCK, ACT_BLOCK, top + (run % 2 ? (float)b * 0.01f : 0.0f));
                check_all(x);
        }
        free(x);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_noise),
                cmocka_unit_test(test_near_halves),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
