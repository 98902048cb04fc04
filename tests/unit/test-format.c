/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Formats: 16-bit floats exhaustively, hand-made blocks whose values are known, coding and decoding there and back,
 * and the panel layout at odd sizes.
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

static const enum fmt formats[] = { FMT_F32,  FMT_F16,  FMT_BF16,   FMT_Q8_0,   FMT_Q4_0,  FMT_Q4_1,
                                    FMT_Q5_0, FMT_Q5_1, FMT_Q4_K,   FMT_Q5_K,   FMT_Q6_K,  FMT_Q2_K,
                                    FMT_Q3_K, FMT_IQ4_NL, FMT_IQ4_XS, FMT_MXFP4, FMT_NVFP4, FMT_F8_E4M3 };

static uint32_t state = 3;

static uint32_t random_bits(void) {
        state = state * 1664525u + 1013904223u;
        return state >> 8 ^ state << 13;
}

static float noise(void) {
        return (float)(int32_t)random_bits() / 2147483648.0f;
}

/* The value of a binary16 by its definition. */
static double half_value(unsigned h) {
        double m = (double)(h & 0x3ff), sign = h & 0x8000 ? -1.0 : 1.0;
        int e = (int)(h >> 10 & 31);

        if (e == 31)
                return (h & 0x3ff) ? (double)NAN : sign * (double)INFINITY;
        return sign * (e == 0 ? ldexp(m, -24) : ldexp(1024.0 + m, e - 25));
}

static void test_half(void **unused) {
        for (unsigned h = 0; h < 0x10000; h++) {
                double v = half_value(h);
                float f = f16_to_float((uint16_t)h);

                if (isnan(v)) {
                        assert_true(isnan(f));
                        assert_true(isnan(f16_to_float(f16_from_float(f))));
                        continue;
                }
                assert_true((double)f == v && !signbit(f) == !signbit(v));
                assert_int_equal(f16_from_float(f), h);
        }
}

/* Between two neighbours: below the middle down, above it up, in the middle to the even one. */
static void test_half_rounding(void **unused) {
        for (unsigned h = 0; h < 0x7bff; h++) {
                float low = f16_to_float((uint16_t)h), high = f16_to_float((uint16_t)(h + 1));
                float middle = low + (high - low) / 2.0f;

                assert_int_equal(f16_from_float(middle), h % 2 ? h + 1 : h);
                assert_int_equal(f16_from_float(nextafterf(middle, 0.0f)), h);
                assert_int_equal(f16_from_float(nextafterf(middle, 1e9f)), h + 1);
                assert_int_equal(f16_from_float(-middle), (h % 2 ? h + 1 : h) | 0x8000);
        }
        assert_int_equal(f16_from_float(65519.99f), 0x7bff);
        assert_int_equal(f16_from_float(65520.0f), 0x7c00);
        assert_int_equal(f16_from_float(1e30f), 0x7c00);
        assert_int_equal(f16_from_float(-INFINITY), 0xfc00);
        assert_int_equal(f16_from_float(1e-30f), 0);
}

static void test_bfloat(void **unused) {
        assert_int_equal(bf16_from_float(1.0f), 0x3f80);
        assert_int_equal(bf16_from_float(float_from_bits(0x3f808000)), 0x3f80); /* a tie to even */
        assert_int_equal(bf16_from_float(float_from_bits(0x3f818000)), 0x3f82);
        assert_int_equal(bf16_from_float(float_from_bits(0x3f808001)), 0x3f81);
        assert_int_equal(bf16_from_float(float_from_bits(0x7f7fffff)), 0x7f80);
        assert_true(isnan(bf16_to_float(bf16_from_float(float_from_bits(0x7f800001)))));
        assert_true(bf16_to_float(0xc040) == -3.0f);
}

static void test_lookup(void **unused) {
        static const uint32_t unknown[] = { 4, 5, 9, 15, 16, 41, FMT_END, UINT32_MAX };

        for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
                const struct fmt_info *info = fmt_info(formats[i]);

                assert_non_null(info);
                assert_int_equal(info->fmt, formats[i]);
                assert_ptr_equal(fmt_info_by_name(info->name), info);
                assert_int_equal(info->panel_bytes, WEIGHT_PANEL * info->bytes);
        }
        assert_ptr_equal(fmt_info_by_name("q4_k"), fmt_info(FMT_Q4_K));
        assert_null(fmt_info_by_name("q4"));
        assert_null(fmt_info_by_name(""));
        for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
                assert_null(fmt_info(unknown[i]));
}

static void test_sizes(void **unused) {
        const struct fmt_info *q = fmt_info(FMT_Q4_K), *f = fmt_info(FMT_F32);
        uint64_t bytes = 77;

        assert_int_equal(fmt_row_bytes(q, 512), 288);
        assert_int_equal(fmt_row_bytes(q, 500), 0);
        assert_int_equal(fmt_row_bytes(f, UINT64_MAX / 2), 0);
        assert_true(weight_bytes(q, WEIGHT_ROWS, 17, 512, &bytes));
        assert_int_equal(bytes, 17 * 288);
        assert_true(weight_bytes(q, WEIGHT_PANELS, 17, 512, &bytes));
        assert_int_equal(bytes, 32 * 288);
        bytes = 77;
        assert_false(weight_bytes(q, WEIGHT_PANELS, 17, 128, &bytes));
        assert_false(weight_bytes(f, WEIGHT_ROWS, UINT64_MAX / 4, 2, &bytes));
        assert_false(weight_bytes(f, WEIGHT_PANELS, UINT64_MAX, 0, &bytes));
        assert_false(weight_bytes(f, WEIGHT_ROWS, 1, UINT64_MAX / 2, &bytes));
        assert_int_equal(bytes, 77);
}

/* Blocks made by hand: every element from its place in the format's definition. */
static void test_known_blocks(void **unused) {
        uint8_t b[256] = { 0 };
        float x[256];

        store_f16(b, 0.5f);
        for (unsigned i = 0; i < 16; i++)
                b[2 + i] = (uint8_t)(i | (15 - i) << 4);
        fmt_decode(fmt_info(FMT_Q4_0), b, 32, x);
        for (unsigned i = 0; i < 16; i++) {
                assert_true(x[i] == 0.5f * ((float)i - 8.0f));
                assert_true(x[i + 16] == 0.5f * (7.0f - (float)i));
        }

        memset(b, 0, sizeof(b));
        store_f16(b, 2.0f);
        store_f16(b + 2, -1.0f);
        store_u32(b + 4, 0x80000001u);
        b[8] = 0x03;
        b[8 + 15] = 0xc0;
        fmt_decode(fmt_info(FMT_Q5_1), b, 32, x);
        assert_true(x[0] == 2.0f * 19.0f - 1.0f && x[1] == -1.0f && x[31] == 2.0f * 28.0f - 1.0f);

        memset(b, 0, sizeof(b));
        store_f16(b + 208, 0.25f);
        b[192 + 1] = (uint8_t)-3;   /* elements 16..31 */
        b[192 + 14] = 100;          /* elements 224..239 */
        b[17] = 0x05;               /* low nibble of element 17 */
        b[128 + 17] = 0x02;         /* its upper bits */
        b[64 + 32 + 0] = 0xf0;      /* element 128 + 96 */
        b[128 + 32 + 0] = 0xc0;
        fmt_decode(fmt_info(FMT_Q6_K), b, 256, x);
        assert_true(x[17] == 0.25f * -3.0f * (37.0f - 32.0f));
        assert_true(x[224] == 0.25f * 100.0f * 31.0f);
        assert_true(x[225] == 0.25f * 100.0f * -32.0f);
        assert_true(x[0] == 0.0f);

        memset(b, 0, sizeof(b));
        store_f16(b, 1.0f);
        store_f16(b + 2, 0.5f);
        b[4 + 1] = 0x80 | 9;        /* sc[1] = 9, sc[5] has upper bits 2 */
        b[4 + 5] = 0x40 | 7;        /* mn[1] = 7, mn[5] has upper bits 1 */
        b[4 + 9] = 0x2c;            /* lower bits of sc[5]: 12, of mn[5]: 2 */
        b[16 + 3] = 0xb0;           /* sub-block 1, element 3 */
        b[16 + 64 + 31] = 0x60;     /* sub-block 5, element 31 */
        fmt_decode(fmt_info(FMT_Q4_K), b, 256, x);
        assert_true(x[32 + 3] == 9.0f * 11.0f - 3.5f);
        assert_true(x[160 + 31] == 44.0f * 6.0f - 9.0f);
        assert_true(x[160] == -9.0f && x[0] == 0.0f);
}

/* No value is further off than the format's step allows. */
static void test_round_trip(void **unused) {
        static const float steps[] = { 0,     0x1p-11f, 0x1p-8f, 0.005f, 0.13f, 0.07f,
                                        0.07f, 0.035f,   0.09f,   0.05f,  0.04f, 0.42f,
                                        0.27f, 0.11f,    0.13f,   0.26f,  0.18f, 0.036f };
        float x[512], y[512];
        uint8_t coded[2048];

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
                for (unsigned kind = 0; kind < 3; kind++) {
                        const struct fmt_info *info = fmt_info(formats[f]);

                        for (unsigned i = 0; i < 512; i++)
                                x[i] = kind == 0 ? noise() : kind == 1 ? 0.0f : 0.25f + 0.0001f * (float)i;
                        assert_true(fmt_encode(info, x, 512, coded));
                        fmt_decode(info, coded, 512, y);
                        for (unsigned i = 0; i < 512; i++)
                                if (!(fabsf(x[i] - y[i]) <= steps[f]))
                                        fail_msg("%s: %g became %g", info->name, (double)x[i], (double)y[i]);
                }
}

/* Any bytes are valid data: rows read from panels are rows of the file, and padding is zeros. */
static void check_packing(enum fmt fmt, uint32_t n_out, uint32_t n_in, bool in_parts) {
        const struct fmt_info *info = fmt_info(fmt);
        uint64_t rows, panels, row = fmt_row_bytes(info, n_in);
        uint8_t *file, *packed;
        float *a = malloc(n_in * sizeof(*a)), *b = malloc(n_in * sizeof(*b));
        struct weight w[2];

        assert_true(weight_bytes(info, WEIGHT_ROWS, n_out, n_in, &rows));
        assert_true(weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &panels));
        file = malloc(rows);
        packed = malloc(panels + 1);
        assert_true(file && packed && a && b);
        for (uint64_t i = 0; i < rows; i++)
                file[i] = (uint8_t)random_bits();
        memset(packed, 0xcc, panels + 1);
        for (uint64_t first = 0; in_parts && first < n_out; first += WEIGHT_PANEL)
                weight_pack(info, n_out, n_in, first, MIN(WEIGHT_PANEL, n_out - first), file + first * row, packed);
        if (!in_parts)
                weight_pack(info, n_out, n_in, 0, n_out, file, packed);
        assert_int_equal(packed[panels], 0xcc);
        w[0] = (struct weight){ .info = info, .layout = WEIGHT_ROWS, .n_out = n_out, .n_in = n_in, .data = file };
        w[1] = (struct weight){ .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in, .data = packed };
        for (uint32_t r = 0; r < n_out; r++) {
                weight_decode_row(&w[0], r, a);
                weight_decode_row(&w[1], r, b);
                assert_memory_equal(a, b, n_in * sizeof(*a));
                fmt_decode(info, file + r * row, n_in, b);
                assert_memory_equal(a, b, n_in * sizeof(*a));
        }
        for (uint32_t r = n_out; r < (n_out + 15) / 16 * 16; r++) {
                weight_decode_row(&w[1], r, b);
                for (uint32_t i = 0; i < n_in; i++)
                        assert_true(b[i] == 0.0f);
        }
        free(file);
        free(packed);
        free(a);
        free(b);
}

static void test_packing(void **unused) {
        static const uint32_t outs[] = { 1, 15, 16, 17, 100 }, odd[] = { 1, 7, 33, 64, 100 };

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
                for (size_t i = 0; i < ARRAY_SIZE(outs); i++) {
                        uint32_t block = fmt_info(formats[f])->block;

                        check_packing(formats[f], outs[i], block == 1 ? odd[i] : block * (uint32_t)(1 + i % 3), i % 2);
                }
}

/* A panel of n columns holds nothing but its rows' bytes: no two inputs give the same panel. */
static void test_packing_keeps_all(void **unused) {
        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
                const struct fmt_info *info = fmt_info(formats[f]);
                uint32_t n_in = info->block;
                uint8_t file[16 * 256] = { 0 }, before[16 * 256], after[16 * 256];
                uint64_t bytes = 16 * fmt_row_bytes(info, n_in);

                weight_pack(info, 16, n_in, 0, 16, file, before);
                for (uint64_t bit = 0; bit < bytes * 8; bit++) {
                        unsigned changed = 0;

                        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
                        weight_pack(info, 16, n_in, 0, 16, file, after);
                        for (uint64_t i = 0; i < bytes; i++)
                                changed += (unsigned)__builtin_popcount((unsigned)(before[i] ^ after[i]));
                        assert_int_equal(changed, 1);
                        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
                        bit += bytes > 512 ? 61 : 0; /* of the large ones a sample */
                }
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_half),
                cmocka_unit_test(test_half_rounding),
                cmocka_unit_test(test_bfloat),
                cmocka_unit_test(test_lookup),
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_known_blocks),
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_packing),
                cmocka_unit_test(test_packing_keeps_all),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
