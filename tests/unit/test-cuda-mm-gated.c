/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products of the CUDA backend beyond plain ones, on the emulated device: matrices of experts, whose rows are gathered and
 * scattered, and gate and up that become the next product's rows at once.
 */

#include <stdio.h>

#include "cuda-mm-fixture.h"
#include "tests/cuda-host/emu.h"

#define TOLERANCE 1e-5

static void weight_free(struct weight *w) {
        cudaFree((void *)(uintptr_t)w->data);
}

/* Each slot's product with its expert's matrix, scale and bias. */
static void experts_at(enum fmt fmt, uint32_t n_out, uint32_t n_in, uint32_t n_rows, uint32_t group_rows, bool x_per_row) {
        enum { USED = 3, EXPERTS = 5 };
        struct made_slots s = slots_new(n_rows, USED, EXPERTS, group_rows);
        struct weight w = matrix_new(fmt, EXPERTS, n_out, n_in);
        struct cuda_packed x = packed_noise(x_per_row ? n_rows : s.n_slots, n_in);
        struct cuda_mm m = mm_new(fmt, &x, n_rows);
        float *out = device_noise((size_t)s.n_slots * n_out, 1.0f), *bias = device_noise((size_t)EXPERTS * n_out, 1.0f);
        float *scales = device_noise(EXPERTS, 2.0f);

        m.rows.per = USED;
        m.rows.max = s.n_slots;
        m.slots = s.slots;
        m.x_per_row = x_per_row;
        mm_add(&m, &w, out, n_out);
        m.product[0].bias = bias;
        m.product[0].scales = scales;
        mm_run(&m);
        for (uint32_t i = 0; i < s.n_slots; i++)
                for (uint32_t o = i % 5; o < n_out; o += 5) {
                        double magnitude, want = reference(&w, s.expert[i], o, &x, x_per_row ? i / USED : i, &magnitude);

                        want = want * (double)scales[s.expert[i]] + (double)bias[s.expert[i] * n_out + o];
                        if (!(fabs((double)out[i * n_out + o] - want) <= TOLERANCE * (2.0 * magnitude + 1.0)))
                                fail_msg("slot %u, output %u: %.9g instead of %.9g", i, o, (double)out[i * n_out + o], want);
                }
        weight_free(&w);
        packed_free(&x);
        mm_free(&m);
        slots_free(&s);
        cudaFree(out);
        cudaFree(bias);
        cudaFree(scales);
}

static void test_experts(void **unused) {
        experts_at(FMT_Q4_0, 40, 96, 1, 8, true);
        experts_at(FMT_Q4_1, 40, 96, 9, 8, true);
        experts_at(FMT_Q8_0, 17, 64, 20, 16, false);
        experts_at(FMT_BF16, 33, 70, 30, 32, true);
        experts_at(FMT_F16, 33, 70, 40, 64, false);
        experts_at(FMT_Q5_1, 140, 64, 120, 128, true);
        experts_at(FMT_Q5_0, 20, 2048, 9, 8, false);
        experts_at(FMT_F32, 20, 300, 9, 16, true);
        experts_at(FMT_F32, 20, 70, 1, 8, false);
}

/* A row's slots have the same bits with one row and with many, in groups of any size. */
static void test_experts_bits(void **unused) {
        enum { ROWS = 50, USED = 2, EXPERTS = 3, OUT = 24, IN = 2048 };
        static const uint32_t group_rows[] = { 8, 16, 32, 64, 128 };
        struct weight w = matrix_new(FMT_Q4_1, EXPERTS, OUT, IN);
        struct cuda_packed x = packed_noise(ROWS, IN);
        struct cuda_mm m = mm_new(FMT_Q4_1, &x, ROWS);
        struct cuda_group group = { .n = 1 };
        float *first = device_new((size_t)ROWS * USED * OUT * sizeof(*first)), *out;
        uint32_t *place, one = 1;

        out = device_new((size_t)ROWS * USED * OUT * sizeof(*out));
        place = device_new(2 * sizeof(*place));
        m.x_per_row = true;
        mm_add(&m, &w, first, OUT);
        for (size_t i = 0; i < ARRAY_SIZE(group_rows); i++) {
                struct made_slots s = slots_new(ROWS, USED, EXPERTS, group_rows[i]);

                m.slots = s.slots;
                m.product[0].out = first;
                m.n_sms = i % 2 ? 48 : 0;
                mm_run(&m);
                for (uint32_t slot = 0; slot < ROWS * USED; slot += 17) { /* by itself */
                        group.expert = s.expert[slot];
                        place[0] = slot / USED;
                        place[1] = slot;
                        m.slots = (struct cuda_slots){ .row = place, .slot = place + 1, .groups = &group, .n_groups = &one,
                                                       .group_rows = 8, .max_groups = 1 };
                        m.product[0].out = out;
                        mm_run(&m);
                        assert_memory_equal(out + slot * OUT, first + slot * OUT, OUT * sizeof(*out));
                }
                slots_free(&s);
        }
        weight_free(&w);
        packed_free(&x);
        mm_free(&m);
        cudaFree(first);
        cudaFree(out);
        cudaFree(place);
}

static double sigmoid(double x) {
        return 1.0 / (1.0 + exp(-x));
}

static double gated(enum activation act, double gate, double up) {
        if (act == ACT_SILU)
                return gate * sigmoid(gate) * up;
        if (act == ACT_GELU_TANH)
                return gate * sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)) * up;
        gate = fmin(gate, 7.0);
        up = fmax(fmin(up, 7.0), -7.0);
        return gate * sigmoid(1.702 * gate) * (up + 1.0);
}

/* What was packed, row by row: x are the rounded numbers of f32, sums those of x, and K is filled up with zeros. */
static void check_packed(const struct cuda_packed *p, uint32_t r) {
        uint32_t k32 = (p->n_in + 31) / 32;

        for (uint32_t k16 = 0; k16 < k32 * 2; k16++) {
                float sum = 0.0f;

                for (uint32_t k = k16 * 16; k < k16 * 16 + 16; k++) {
                        uint16_t h = p->x[packed_at(p->n_in, r, k)];

                        assert_int_equal(h, k < p->n_in ? bf16_from_float(p->f32[(size_t)r * p->n_in + k]) : 0);
                        sum += bf16_to_float(h);
                }
                assert_true(p->sums[(size_t)r * k32 * 2 + k16] == sum);
        }
}

/* Against the products by themselves, which other tests know to be right. */
static void gated_at(enum fmt fmt, enum activation act, uint32_t n_out, uint32_t n_in, uint32_t n_rows, uint32_t n_sms) {
        struct weight gate = matrix_new(fmt, 1, n_out, n_in), up = matrix_new(fmt, 1, n_out, n_in);
        struct cuda_packed x = packed_noise(n_rows, n_in), to = packed_new(n_rows, n_out);
        struct cuda_mm m = mm_new(fmt, &x, n_rows);
        float *out = device_new(2 * (size_t)n_rows * n_out * sizeof(*out)), *bias = device_noise(n_out, 2.0f);
        double tolerance = act == ACT_GELU_TANH ? 2e-3 : 2e-6;

        m.n_sms = n_sms;
        mm_add(&m, &gate, out, 2 * n_out);
        mm_add(&m, &up, out + n_out, 2 * n_out);
        m.product[0].bias = bias;
        m.product[1].scale = 0.5f;
        mm_run(&m);
        assert_true(cuda_mm_can_gate(fmt, n_out, n_in));
        m.is_gated = true;
        m.act = act;
        m.gated = to;
        m.product[0].out = m.product[1].out = NULL;
        mm_run(&m);
        for (uint32_t r = 0; r < n_rows; r++) {
                for (uint32_t o = 0; o < n_out; o++) {
                        double g = (double)out[r * 2 * n_out + o], u = (double)out[r * 2 * n_out + n_out + o];
                        double want = gated(act, g, u), got = (double)to.f32[r * n_out + o];

                        if (!(fabs(got - want) <= tolerance * (1.0 + fabs(g)) * (1.0 + fabs(u))))
                                fail_msg("row %u, output %u: %.9g instead of %.9g", r, o, got, want);
                }
                check_packed(&to, r);
        }
        weight_free(&gate);
        weight_free(&up);
        packed_free(&x);
        packed_free(&to);
        mm_free(&m);
        cudaFree(out);
        cudaFree(bias);
}

static void test_gated(void **unused) {
        gated_at(FMT_Q4_0, ACT_SILU, 17, 64, 1, 48);
        gated_at(FMT_Q8_0, ACT_GELU_TANH, 40, 96, 9, 48);
        gated_at(FMT_BF16, ACT_SILU_CLAMPED, 100, 50, 20, 48);
        gated_at(FMT_Q5_1, ACT_SILU, 150, 32, 40, 48);
        gated_at(FMT_F8_E4M3, ACT_SILU, 150, 128, 70, 48);
}

/* With slices of K, as blocks and within one. */
static void test_gated_slices(void **unused) {
        assert_int_equal(cuda_mm_slices(FMT_Q4_1, 36, 2048), 2);
        gated_at(FMT_Q4_1, ACT_SILU, 36, 2048, 3, 48);
        gated_at(FMT_Q4_1, ACT_SILU, 36, 2048, 3, 0);
        gated_at(FMT_F16, ACT_SILU, 36, 2048, 66, 0);
        gated_at(FMT_F16, ACT_SILU, 36, 2048, 66, 48);
}

/* Gated experts: rows of slots, and the same bits for a slot whoever else is in its group. */
static void gated_experts_at(uint32_t n_in, uint32_t wide_rows) {
        enum { ROWS = 21, USED = 2, EXPERTS = 3, OUT = 40 };
        struct weight gate = matrix_new(FMT_Q4_0, EXPERTS, OUT, n_in), up = matrix_new(FMT_Q4_0, EXPERTS, OUT, n_in);
        struct cuda_packed x = packed_noise(ROWS, n_in), to[2];
        struct cuda_mm m = mm_new(FMT_Q4_0, &x, ROWS);
        struct made_slots s = slots_new(ROWS, USED, EXPERTS, 8), wide = s;
        uint32_t n_groups = 0;

        mm_add(&m, &gate, NULL, 0);
        mm_add(&m, &up, NULL, 0);
        m.x_per_row = true;
        m.is_gated = true;
        m.act = ACT_SILU;
        m.slots = s.slots;
        m.gated = to[0] = packed_new(ROWS * USED, OUT);
        mm_run(&m);
        /* The same slots in larger groups. */
        wide.slots.groups = device_new(EXPERTS * sizeof(*wide.slots.groups));
        for (uint32_t i = 0; i < *s.slots.n_groups; i++) {
                const struct cuda_group *g = &s.slots.groups[i];

                if (n_groups > 0 && wide.slots.groups[n_groups - 1].expert == g->expert)
                        wide.slots.groups[n_groups - 1].n += g->n;
                else
                        wide.slots.groups[n_groups++] = *g;
        }
        *wide.slots.n_groups = n_groups;
        wide.slots.group_rows = wide_rows;
        wide.slots.max_groups = EXPERTS;
        m.slots = wide.slots;
        m.gated = to[1] = packed_new(ROWS * USED, OUT);
        mm_run(&m);
        assert_memory_equal(to[0].f32, to[1].f32, ROWS * USED * OUT * sizeof(float));
        for (uint32_t r = 0; r < ROWS * USED; r++) {
                for (uint32_t o = 0; o < OUT; o += 3) {
                        double magnitude, g = reference(&gate, s.expert[r], o, &x, r / USED, &magnitude);
                        double u = reference(&up, s.expert[r], o, &x, r / USED, &magnitude), want = gated(ACT_SILU, g, u);

                        assert_true(fabs((double)to[0].f32[r * OUT + o] - want) <= 1e-4 * (1.0 + fabs(g)) * (1.0 + fabs(u)));
                }
                check_packed(&to[0], r);
                check_packed(&to[1], r);
        }
        cudaFree(wide.slots.groups);
        for (unsigned i = 0; i < 2; i++)
                packed_free(&to[i]);
        weight_free(&gate);
        weight_free(&up);
        packed_free(&x);
        mm_free(&m);
        slots_free(&s);
}

static void test_gated_experts(void **unused) {
        gated_experts_at(96, 64);
        gated_experts_at(96, 128);
        gated_experts_at(2048, 128);
}

/* Groups that the kernels handle: as many rows as a variant has, and enough for most experts' slots. */
static void test_group_rows(void **unused) {
        assert_int_equal(cuda_mm_group_rows(1, 8), 8);
        assert_int_equal(cuda_mm_group_rows(8, 128), 8);
        assert_int_equal(cuda_mm_group_rows(512, 128), 8);
        assert_int_equal(cuda_mm_group_rows(4096, 128), 64);
        assert_int_equal(cuda_mm_group_rows(1u << 30, 2), 128);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_experts),      cmocka_unit_test(test_experts_bits),  cmocka_unit_test(test_gated),
                cmocka_unit_test(test_gated_slices), cmocka_unit_test(test_gated_experts), cmocka_unit_test(test_group_rows),
        };

        return cmocka_run_group_tests_name("cuda-mm-gated", tests, NULL, NULL);
}
