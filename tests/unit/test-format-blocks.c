/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The formats of 2 and 3 bits, those with tables, and F8_E4M3: blocks that another implementation decoded, blocks made
 * by hand, every code of the 8-bit floats, and coding: nothing nearer would have been in the format.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/macro.h"
#include "format-vectors.h"
#include "kernels/float8.h"

static uint32_t state = 11;

static float noise(void) {
        state = state * 1664525u + 1013904223u;
        return (float)(int32_t)(state >> 8 ^ state << 13) / 2147483648.0f;
}

/* The value of an E4M3 by its definition. */
static double e4m3_value(unsigned c) {
        double sign = c & 0x80 ? -1.0 : 1.0, m = (double)(c & 7);
        int e = (int)(c >> 3 & 15);

        return sign * (e == 0 ? ldexp(m, -9) : ldexp(8.0 + m, e - 10));
}

static void test_e4m3(void **unused) {
        for (unsigned c = 0; c < 256; c++) {
                float f = e4m3_to_float((uint8_t)c);

                if ((c & 0x7f) == 0x7f) {
                        assert_true(isnan(f));
                        continue;
                }
                assert_true((double)f == e4m3_value(c) && !signbit(f) == !(c & 0x80));
                assert_int_equal(e4m3_from_float(f), c);
        }
        assert_int_equal(e4m3_from_float(1e9f), 0x7e);
        assert_int_equal(e4m3_from_float(-INFINITY), 0xfe);
        assert_int_equal(e4m3_from_float(NAN) & 0x7f, 0x7f);
        assert_int_equal(e4m3_from_float(1e-9f), 0);
}

static void test_e4m3_rounding(void **unused) {
        for (unsigned c = 0; c < 0x7e; c++) {
                float low = e4m3_to_float((uint8_t)c), high = e4m3_to_float((uint8_t)(c + 1));
                float middle = low + (high - low) / 2.0f;

                assert_int_equal(e4m3_from_float(middle), c % 2 ? c + 1 : c);
                assert_int_equal(e4m3_from_float(nextafterf(middle, 0.0f)), c);
                assert_int_equal(e4m3_from_float(nextafterf(middle, 1e9f)), c + 1);
                assert_int_equal(e4m3_from_float(-middle), (c % 2 ? c + 1 : c) | 0x80);
        }
}

static void test_e8m0(void **unused) {
        for (int e = 0; e < 255; e++)
                assert_true((double)e8m0_to_float((uint8_t)e) == ldexp(1.0, e - 127));
        assert_true(isnan(e8m0_to_float(255)));
        assert_int_equal(e8m0_for_e2m1(0.0f), 0);
        assert_int_equal(e8m0_for_e2m1(4.0f), 127);
        assert_int_equal(e8m0_for_e2m1(7.99f), 127);
        assert_int_equal(e8m0_for_e2m1(8.0f), 128);
        assert_int_equal(e8m0_for_e2m1(FLT_MAX), 252);
        assert_int_equal(e8m0_for_e2m1(1e-45f), 0);
        assert_int_equal(e8m0_for_e2m1(INFINITY), 0);
        assert_int_equal(e8m0_for_e2m1(NAN), 0);
}

static void test_vectors(void **unused) {
        for (size_t i = 0; i < ARRAY_SIZE(format_vectors); i++) {
                const struct fmt_info *info = fmt_info(format_vectors[i].fmt);
                float x[256];

                assert_true(info && format_vectors[i].n <= ARRAY_SIZE(x));
                fmt_decode(info, format_vectors[i].blocks, format_vectors[i].n, x);
                for (size_t e = 0; e < format_vectors[i].n; e++)
                        if (x[e] != float_from_bits(format_vectors[i].floats[e]))
                                fail_msg("%s: element %zu is %a, not %a", info->name, e, (double)x[e],
                                         (double)float_from_bits(format_vectors[i].floats[e]));
        }
}

/* Blocks made by hand: every element from its place in the format's definition. */
static void test_k_blocks(void **unused) {
        uint8_t b[256] = { 0 };
        float x[256];

        store_f16(b + 80, 0.5f);
        store_f16(b + 82, 0.25f);
        b[9] = 0x73;            /* elements 144..159: step 3, depth 7 */
        b[16 + 32 + 17] = 0x09; /* of the second half, elements 17 and 49: 1 and 2 */
        fmt_decode(fmt_info(FMT_Q2_K), b, 256, x);
        assert_true(x[144] == -1.75f && x[145] == 1.5f - 1.75f && x[159] == -1.75f);
        assert_true(x[128 + 49] == 0.0f && x[0] == 0.0f);

        memset(b, 0, sizeof(b));
        store_f16(b + 108, 0.5f);
        b[96 + 5] = 0xa0;       /* sub-block 13: lower bits 10 */
        b[96 + 8 + 1] = 0x40;   /* its upper bits 1: 26 - 32 */
        b[32 + 32 + 16] = 0xc0; /* element 208 + 16 - 16: k = 2 has bits 4 and 5, k = 3 bits 6 and 7 */
        b[32 + 32 + 18] = 0x20; /* element 128 + 64 + 18 */
        b[18] = 0x40;           /* its third bit: 4 half + k = 6 */
        fmt_decode(fmt_info(FMT_Q3_K), b, 256, x);
        assert_true(x[128 + 64 + 18] == 0.5f * -6.0f * 2.0f);
        assert_true(x[128 + 64 + 16] == 0.5f * -6.0f * -4.0f);
        assert_true(x[128 + 96 + 16] == 0.5f * -32.0f * -1.0f);
        assert_true(x[0] == 0.5f * -32.0f * -4.0f);
}

static void test_table_blocks(void **unused) {
        static const float e2m1[8] = { 0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f };
        uint8_t b[136] = { 0 };
        float x[256];

        for (unsigned i = 0; i < 16; i++)
                b[1 + i] = (uint8_t)(i | (15 - i) << 4);
        b[0] = 130;
        fmt_decode(fmt_info(FMT_MXFP4), b, 32, x);
        for (unsigned i = 0; i < 16; i++) {
                assert_true(x[i] == 8.0f * (i < 8 ? e2m1[i] : -e2m1[i - 8]));
                assert_true(x[16 + i] == x[15 - i]);
        }

        for (unsigned i = 0; i < 8; i++)
                b[4 + 16 + i] = (uint8_t)(i | (15 - i) << 4);
        b[2] = 0x3c; /* 1.5 for elements 32..47 */
        b[0] = b[1] = b[3] = 0;
        fmt_decode(fmt_info(FMT_NVFP4), b, 64, x);
        for (unsigned i = 0; i < 8; i++) {
                assert_true(x[32 + i] == 1.5f * e2m1[i]);
                assert_true(x[40 + i] == -1.5f * e2m1[7 - i]);
        }
        assert_true(x[0] == 0.0f && x[31] == 0.0f && x[48] == 0.0f);

        memset(b, 0, sizeof(b));
        store_f16(b, -2.0f);
        b[2 + 3] = 0xf7;
        fmt_decode(fmt_info(FMT_IQ4_NL), b, 32, x);
        assert_true(x[3] == 20.0f && x[19] == -226.0f && x[0] == 254.0f);

        memset(b, 0, sizeof(b));
        store_f16(b, 0.5f);
        store_u16(b + 2, 0x8000); /* sub-block 7: upper bits 2 */
        b[4 + 3] = 0x50;          /* its lower bits: 5 */
        b[8 + 112 + 1] = 0xd8;
        fmt_decode(fmt_info(FMT_IQ4_XS), b, 256, x);
        assert_true(x[224 + 1] == 0.5f * 5.0f * 1.0f && x[224 + 17] == 0.5f * 5.0f * 69.0f);
        assert_true(x[0] == 0.5f * -32.0f * -127.0f);
}

/* Scales at the ends, and codes that mean no number. */
static void test_extreme_scales(void **unused) {
        uint8_t b[132];
        float x[128];

        memset(b, 0x77, sizeof(b));
        b[0] = 0;
        fmt_decode(fmt_info(FMT_MXFP4), b, 32, x);
        assert_true((double)x[5] == ldexp(6.0, -127));
        b[0] = 254;
        fmt_decode(fmt_info(FMT_MXFP4), b, 32, x);
        assert_true(isinf(x[5])); /* 6 * 2^127 */
        b[0] = 255;
        memset(b + 1, 0, 16);
        fmt_decode(fmt_info(FMT_MXFP4), b, 32, x);
        for (unsigned i = 0; i < 32; i++)
                assert_true(isnan(x[i]));

        memset(b, 0x77, sizeof(b));
        b[0] = 0x7f;
        b[1] = 0x7e;
        b[2] = 0x81;
        b[3] = 0xff;
        fmt_decode(fmt_info(FMT_NVFP4), b, 64, x);
        assert_true(x[0] == 0.0f && x[16] == 6.0f * 448.0f && x[32] == 6.0f * 0x1p-9f && x[63] == 0.0f);

        for (unsigned c = 0; c < 128; c++)
                b[4 + c] = (uint8_t)(2 * c + 1);
        store_u32(b, float_bits(-0.25f));
        fmt_decode(fmt_info(FMT_F8_E4M3), b, 128, x);
        for (unsigned c = 0; c < 128; c++)
                assert_true((c & 63) == 63 ? isnan(x[c]) : (double)x[c] == -0.25 * e4m3_value(2 * c + 1));
        store_u32(b, float_bits(INFINITY));
        fmt_decode(fmt_info(FMT_F8_E4M3), b, 128, x);
        assert_true(isinf(x[0]));
}

/* The error that a coder may make: how far apart the format's values are, by the largest value of a block. */
static const struct {
        enum fmt fmt;
        float step;
} coders[] = {
        { FMT_Q2_K, 0.42f },   { FMT_Q3_K, 0.27f },  { FMT_IQ4_NL, 0.11f },   { FMT_IQ4_XS, 0.13f },
        { FMT_MXFP4, 0.26f },  { FMT_NVFP4, 0.18f }, { FMT_F8_E4M3, 0.036f },
};

static void check_coding(enum fmt fmt, float amplitude, float step) {
        const struct fmt_info *info = fmt_info(fmt);
        float x[512], y[512], z[512];
        uint8_t coded[1024];

        for (unsigned i = 0; i < 512; i++)
                x[i] = amplitude * noise();
        assert_true(fmt_encode(info, x, 512, coded));
        fmt_decode(info, coded, 512, y);
        for (unsigned i = 0; i < 512; i++)
                if (!(fabsf(x[i] - y[i]) <= step * amplitude))
                        fail_msg("%s: %g became %g", info->name, (double)x[i], (double)y[i]);
        /* What has been coded once is in the format, and further coding loses little more. */
        assert_true(fmt_encode(info, y, 512, coded));
        fmt_decode(info, coded, 512, z);
        for (unsigned i = 0; i < 512; i++)
                assert_true(fabsf(z[i] - y[i]) <= step * amplitude);
}

static void test_coding(void **unused) {
        float zeros[512] = { 0.0f }, y[512];
        uint8_t coded[1024];

        for (size_t i = 0; i < ARRAY_SIZE(coders); i++) {
                const struct fmt_info *info = fmt_info(coders[i].fmt);

                check_coding(coders[i].fmt, 1.0f, coders[i].step);
                check_coding(coders[i].fmt, 30.0f, coders[i].step);
                if (coders[i].fmt != FMT_NVFP4) /* whose scales have no such steps without the matrix's own scale */
                        check_coding(coders[i].fmt, 0.03f, coders[i].step);
                assert_true(fmt_encode(info, zeros, 512, coded));
                fmt_decode(info, coded, 512, y);
                for (unsigned e = 0; e < 512; e++)
                        assert_true(y[e] == 0.0f);
        }
}

/* The formats of E2M1 keep its values exactly, and code what lies between to the nearer one. */
static void test_nearest(void **unused) {
        static const float values[8] = { 0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f };
        static const enum fmt formats[] = { FMT_MXFP4, FMT_NVFP4 };

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
                for (unsigned i = 0; i + 1 < ARRAY_SIZE(values); i++) {
                        float x[64], y[64], gap = values[i + 1] - values[i];
                        uint8_t coded[36];

                        for (unsigned k = 0; k < 64; k++)
                                x[k] = k % 16 == 7 ? -6.0f : values[i] + gap * (k % 16 < 8 ? 0.49f : 0.51f);
                        assert_true(fmt_encode(fmt_info(formats[f]), x, 64, coded)); /* of MXFP4, 34 bytes */
                        fmt_decode(fmt_info(formats[f]), coded, 64, y);
                        for (unsigned k = 0; k < 64; k++)
                                assert_true(y[k] == (k % 16 == 7 ? -6.0f : values[k % 16 < 8 ? i : i + 1]));
                }
}

/* Whatever is to be coded: no trap, no code beyond the block. */
static void test_hostile_values(void **unused) {
        static const float strange[] = { NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-45f, -0.0f, 1e-41f };

        for (size_t i = 0; i < ARRAY_SIZE(coders); i++)
                for (size_t s = 0; s < ARRAY_SIZE(strange); s++)
                        for (unsigned all = 0; all < 2; all++) {
                                const struct fmt_info *info = fmt_info(coders[i].fmt);
                                float x[256];
                                uint8_t coded[300];

                                for (unsigned e = 0; e < 256; e++)
                                        x[e] = all || e % 29 == 3 ? strange[s] : noise();
                                memset(coded, 0xcc, sizeof(coded));
                                assert_true(fmt_encode(info, x, 256, coded));
                                for (size_t b = fmt_row_bytes(info, 256); b < sizeof(coded); b++)
                                        assert_int_equal(coded[b], 0xcc);
                                fmt_decode(info, coded, 256, x);
                        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_e4m3),
                cmocka_unit_test(test_e4m3_rounding),
                cmocka_unit_test(test_e8m0),
                cmocka_unit_test(test_vectors),
                cmocka_unit_test(test_k_blocks),
                cmocka_unit_test(test_table_blocks),
                cmocka_unit_test(test_extreme_scales),
                cmocka_unit_test(test_coding),
                cmocka_unit_test(test_nearest),
                cmocka_unit_test(test_hostile_values),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
