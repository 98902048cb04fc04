/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products of losslessly coded BF16 on the emulated device: bit for bit those of plain BF16, in every variant of the kernel, for
 * numbers of every kind. Device memory is just as large as coded tensors are.
 */

#include "tests/cuda-host/emu.h"
#include "cuda-mm-fixture.h"
#include "coded-kinds.h"

static void *to_device(const void *from, size_t bytes) {
        void *p = device_new(bytes);

        memcpy(p, from, bytes);
        return p;
}

/* A matrix (of n_experts) in both forms, in device memory. */
struct both {
        struct weight plain, coded;
        struct lossless_parts parts;
        uint64_t escapes; /* bytes */
        bool wide;
};

static struct both both_new(uint32_t n_experts, uint32_t n_out, uint32_t n_in, number_fn number) {
        struct coded_pair p;
        struct both b;
        uint64_t bytes;

        coded_pair_make(&p, n_experts, n_out, n_in, number);
        assert_true(lossless_layout(MAX(n_experts, 1u), n_out, n_in, &b.parts));
        assert_true(weight_bytes(p.plain.info, WEIGHT_PANELS, n_out, n_in, &bytes));
        b.plain = p.plain;
        b.coded = p.coded;
        b.plain.data = to_device(p.panels, bytes * MAX(n_experts, 1u));
        b.coded.data = to_device(p.data, b.parts.index + p.coded.tail);
        b.escapes = p.escapes;
        b.wide = p.wide > 0;
        coded_pair_free(&p);
        return b;
}

static void both_free(struct both *b) {
        cudaFree((void *)(uintptr_t)b->plain.data);
        cudaFree((void *)(uintptr_t)b->coded.data);
}

static void add(struct cuda_mm *m, const struct both *b, float *out, size_t stride) {
        bool coded = m->fmt == FMT_BF16_LL;
        const uint8_t *data = b->coded.data;

        mm_add(m, coded ? &b->coded : &b->plain, out, stride);
        if (coded)
                m->product[m->n_products - 1].coded = (struct cuda_coded){ (const uint64_t *)(data + b->parts.index), data + b->parts.escapes };
}

/* --- plain products ---------------------------------------------------------------------------------------------- */

static void product_of(const char *name, const struct both *b, uint32_t n_rows, uint32_t n_sms) {
        uint32_t n_out = b->plain.n_out;
        size_t n = (size_t)n_rows * n_out;
        struct cuda_packed x = packed_noise(n_rows, b->plain.n_in);
        float *out[2] = { device_noise(n, 1.0f), device_noise(n, 1.0f) };

        for (unsigned i = 0; i < 2; i++) {
                struct cuda_mm m = mm_new(i ? FMT_BF16_LL : FMT_BF16, &x, n_rows);

                m.n_sms = n_sms;
                add(&m, b, out[i], n_out);
                mm_run(&m);
                mm_free(&m);
        }
        if (!same_sums(out[0], out[1], n))
                fail_msg("%s: %u x %u, %u rows", name, n_out, b->plain.n_in, n_rows);
        for (unsigned i = 0; i < 2; i++)
                cudaFree(out[i]);
        packed_free(&x);
}

static void product_at(const struct kind *kind, uint32_t n_out, uint32_t n_in, uint32_t n_rows, uint32_t n_sms) {
        struct both b = both_new(0, n_out, n_in, kind->number);

        product_of(kind->name, &b, n_rows, n_sms);
        both_free(&b);
}

/* Whole and broken panels, units and tiles; each variant of the kernel. */
static void test_kinds(void **unused) {
        static const struct { uint32_t n_out, n_in, n_rows; } sizes[] = { { 1, 64, 1 },    { 17, 192, 2 },  { 100, 256, 5 }, { 40, 320, 17 },
                                                                          { 33, 832, 33 }, { 70, 128, 70 }, { 48, 576, 1 } };

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                bool wide = false;
                uint64_t escapes = 0;

                for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
                        struct both b = both_new(0, sizes[j].n_out, sizes[j].n_in, kinds[i].number);

                        emu_set_order((enum emu_order)(j % 3), j);
                        product_of(kinds[i].name, &b, sizes[j].n_rows, 48);
                        wide = wide || b.wide;
                        escapes += b.escapes;
                        both_free(&b);
                }
                assert_true((wide || !kinds[i].wide) && (escapes > 0 || !kinds[i].escapes));
        }
        emu_reset();
}

/* Some weights of a matrix by a row that is 1 at one place only: whether a sum of the whole would have hidden what is wrong. */
static void test_single_weights(void **unused) {
        enum { OUT = 32, IN = 512 };
        struct both b = both_new(0, OUT, IN, any_bits);
        struct cuda_packed x = packed_new(IN, IN);
        struct cuda_mm m = mm_new(FMT_BF16_LL, &x, IN);
        float *out = device_noise((size_t)IN * OUT, 1.0f), *row = calloc(IN, sizeof(*row)), *want = malloc(IN * sizeof(*want));

        assert_true(row && want);
        for (uint32_t k = 0; k < IN; k++) {
                row[k] = 1.0f;
                packed_set(&x, k, row);
                row[k] = 0.0f;
        }
        add(&m, &b, out, OUT);
        mm_run(&m);
        for (uint32_t o = 0; o < OUT; o++) {
                bool finite = true;

                weight_decode_row(&b.plain, o, want);
                for (uint32_t k = 0; k < IN; k++)
                        finite = finite && isfinite(want[k]);
                for (uint32_t k = 0; k < IN && finite; k++)
                        assert_true(out[(size_t)k * OUT + o] == want[k]);
                for (uint32_t k = 0; k < IN && !finite; k++)
                        assert_true(isnan(out[(size_t)k * OUT + o]) || isinf(out[(size_t)k * OUT + o]));
        }
        free(row);
        free(want);
        mm_free(&m);
        packed_free(&x);
        cudaFree(out);
        both_free(&b);
}

/* Slices of K as blocks, and within a block, for few rows and for many. */
static void test_slices(void **unused) {
        assert_int_equal(cuda_mm_slices(FMT_BF16_LL, 20, 2048 + 320), 2);
        assert_int_equal(cuda_mm_slices(FMT_BF16_LL, 20, 4096 + 64), 4);
        for (uint32_t n_sms = 0; n_sms <= 48; n_sms += 48) {
                product_at(&kinds[0], 20, 2048 + 320, 3, n_sms);
                product_at(&kinds[2], 20, 2048 + 320, 66, n_sms);
                product_at(&kinds[4], 20, 4096 + 64, 2, n_sms);
        }
}

/* Products of several matrices in one go, with what else may happen to a sum. */
static void test_extras(void **unused) {
        enum { A = 70, B = 16, C = 5, STRIDE = A + B + C, ROWS = 10, IN = 448 };
        struct both b[3] = { both_new(0, A, IN, trained), both_new(0, B, IN, any_bits), both_new(0, C, IN, sparse) };
        struct cuda_packed x = packed_noise(ROWS, IN);
        float *out[2] = { device_new(ROWS * STRIDE * sizeof(float)), device_new(ROWS * STRIDE * sizeof(float)) };
        float *bias = device_noise(A, 2.0f);

        for (unsigned i = 0; i < 2; i++) {
                struct cuda_mm m = mm_new(i ? FMT_BF16_LL : FMT_BF16, &x, ROWS);

                for (unsigned j = 0; j < ROWS * STRIDE; j++)
                        out[i][j] = (float)j;
                add(&m, &b[0], out[i], STRIDE);
                add(&m, &b[1], out[i] + A, STRIDE);
                add(&m, &b[2], out[i] + A + B, STRIDE);
                m.product[0].bias = bias;
                m.product[0].scale = 0.3f;
                m.product[1].accumulate = true;
                mm_run(&m);
                mm_free(&m);
        }
        assert_true(same_sums(out[0], out[1], ROWS * STRIDE));
        for (unsigned i = 0; i < 3; i++)
                both_free(&b[i]);
        cudaFree(out[0]);
        cudaFree(out[1]);
        cudaFree(bias);
        packed_free(&x);
}

/* --- gated ones, and experts ------------------------------------------------------------------------------------- */

static void gated_at(uint32_t n_out, uint32_t n_in, uint32_t n_rows, uint32_t n_sms) {
        struct both gate = both_new(0, n_out, n_in, trained), up = both_new(0, n_out, n_in, two_crowds);
        struct cuda_packed x = packed_noise(n_rows, n_in), to[2] = { packed_new(n_rows, n_out), packed_new(n_rows, n_out) };

        assert_true(cuda_mm_can_gate(FMT_BF16_LL, n_out, n_in));
        for (unsigned i = 0; i < 2; i++) {
                struct cuda_mm m = mm_new(i ? FMT_BF16_LL : FMT_BF16, &x, n_rows);

                m.n_sms = n_sms;
                m.is_gated = true;
                m.act = ACT_SILU;
                m.gated = to[i];
                add(&m, &gate, NULL, 0);
                add(&m, &up, NULL, 0);
                mm_run(&m);
                mm_free(&m);
        }
        assert_memory_equal(to[0].f32, to[1].f32, (size_t)n_rows * n_out * sizeof(float));
        packed_free(&x);
        packed_free(&to[0]);
        packed_free(&to[1]);
        both_free(&gate);
        both_free(&up);
}

static void test_gated(void **unused) {
        gated_at(17, 64, 1, 48);
        gated_at(70, 320, 20, 48);
        gated_at(150, 192, 70, 48);
        gated_at(36, 2048, 3, 48);
        gated_at(36, 2048, 66, 0);
}

static void experts_at(uint32_t n_out, uint32_t n_in, uint32_t n_rows, uint32_t group_rows) {
        enum { USED = 2, EXPERTS = 4 };
        struct made_slots s = slots_new(n_rows, USED, EXPERTS, group_rows);
        struct both b = both_new(EXPERTS, n_out, n_in, trained);
        struct cuda_packed x = packed_noise(n_rows, n_in);
        size_t n = (size_t)s.n_slots * n_out;
        float *out[2] = { device_noise(n, 1.0f), device_noise(n, 1.0f) };

        for (unsigned i = 0; i < 2; i++) {
                struct cuda_mm m = mm_new(i ? FMT_BF16_LL : FMT_BF16, &x, n_rows);

                m.rows.per = USED;
                m.rows.max = s.n_slots;
                m.slots = s.slots;
                m.x_per_row = true;
                add(&m, &b, out[i], n_out);
                mm_run(&m);
                mm_free(&m);
        }
        assert_memory_equal(out[0], out[1], n * sizeof(float));
        cudaFree(out[0]);
        cudaFree(out[1]);
        packed_free(&x);
        both_free(&b);
        slots_free(&s);
}

static void test_experts(void **unused) {
        experts_at(40, 192, 1, 8);
        experts_at(33, 320, 9, 8);
        experts_at(17, 576, 40, 64);
}

/* --- what images may hold ---------------------------------------------------------------------------------------- */

/* Codes that lie: whatever they are, nothing is read that is not there (AddressSanitizer), and all rows come to an end. */
static void test_lying_codes(void **unused) {
        enum { OUT = 40, IN = 832 };
        static const uint64_t flags[] = { 0, LOSSLESS_WIDE };

        for (unsigned ones = 0; ones < 2; ones++)
                for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
                        struct both b = both_new(0, OUT, IN, zero);
                        uint8_t *data = (uint8_t *)(uintptr_t)b.coded.data;
                        uint64_t entry = flags[i] | (uint64_t)LOSSLESS_BASE_MAX << LOSSLESS_BASE_SHIFT | b.escapes;

                        for (size_t j = 0; j < b.parts.index; j++)
                                data[j] = ones ? 0xff : (uint8_t)(int)(noise() * 128.0f);
                        for (uint64_t j = 0; j < b.parts.n_entries; j++)
                                memcpy(data + b.parts.index + j * sizeof(entry), &entry, sizeof(entry));
                        assert_true(lossless_index_valid(data + b.parts.index, b.parts.n_entries, b.escapes + LOSSLESS_SLACK));
                        for (uint32_t rows = 1; rows <= 70; rows += 69) {
                                struct cuda_packed x = packed_noise(rows, IN);
                                struct cuda_mm m = mm_new(FMT_BF16_LL, &x, rows);
                                float *out = device_new((size_t)rows * OUT * sizeof(*out));

                                add(&m, &b, out, OUT);
                                mm_run(&m);
                                mm_free(&m);
                                cudaFree(out);
                                packed_free(&x);
                        }
                        both_free(&b);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kinds),  cmocka_unit_test(test_single_weights), cmocka_unit_test(test_slices),
                cmocka_unit_test(test_extras), cmocka_unit_test(test_gated),          cmocka_unit_test(test_experts),
                cmocka_unit_test(test_lying_codes),
        };

        return cmocka_run_group_tests_name("cuda-mm-lossless", tests, NULL, NULL);
}
