/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The product of m16n8k16 and conversions of 16-bit numbers. Sums run in single precision over k = 0 .. 15 in order, starting
 * from d; products of two 16-bit numbers are exact there. A device adds up several products before it rounds, so its bits may be
 * others; what kernels may rely on, that a column's result does not depend on the other columns, holds for both.
 *
 * Here is where much of the emulator's time goes: the file is built with -O3 and without sanitizers.
 */

#include <string.h>

#include "emu-private.h"
#include "kernels/float8.h"
#include "kernels/half.h"

#if defined(__x86_64__) && defined(__gnu_linux__)
#define EMU_WIDE __attribute__((target_clones("default", "avx2"))) /* the same bits either way */
#else
#define EMU_WIDE
#endif

typedef float vec8 __attribute__((vector_size(32)));

struct fragments {
        uint16_t a[16][16]; /* [row][k] */
        uint16_t b[16][8];  /* [k][column] */
        float d[16][8];
};

struct operands {
        float a[16][16];
        float b[16][8];
};

EMU_ALWAYS_INLINE void gather(void *const *mine, struct fragments *f) {
        for (uint32_t lane = 0; lane < EMU_WARP; lane++) {
                const struct emu_mma *m = mine[lane];
                uint32_t g = lane / 4, t = lane % 4;

                for (uint32_t i = 0; i < 4; i++)
                        memcpy(&f->a[g + i % 2 * 8][2 * t + i / 2 * 8], &m->a[i], 4);
                for (uint32_t i = 0; i < 2; i++) {
                        f->b[2 * t + 8 * i][g] = (uint16_t)m->b[i];
                        f->b[2 * t + 8 * i + 1][g] = (uint16_t)(m->b[i] >> 16);
                        memcpy(&f->d[g + 8 * i][2 * t], m->d + 2 * i, 8);
                }
        }
}

EMU_ALWAYS_INLINE void scatter(void *const *mine, const struct fragments *f) {
        for (uint32_t lane = 0; lane < EMU_WARP; lane++) {
                const struct emu_mma *m = mine[lane];
                uint32_t g = lane / 4, t = lane % 4;

                for (uint32_t i = 0; i < 2; i++)
                        memcpy(m->d + 2 * i, &f->d[g + 8 * i][2 * t], 8);
        }
}

EMU_ALWAYS_INLINE void multiply(const struct operands *o, float d[16][8]) {
        vec8 b[16];

        memcpy(b, o->b, sizeof b);
        for (uint32_t row = 0; row < 16; row++) {
                vec8 sum;

                memcpy(&sum, d[row], sizeof sum);
                for (uint32_t k = 0; k < 16; k++)
                        sum += o->a[row][k] * b[k];
                memcpy(d[row], &sum, sizeof sum);
        }
}

EMU_WIDE static void mma_bf16(void *const *mine, uint32_t mask) {
        struct fragments f;
        struct operands o;

        (void)mask;
        gather(mine, &f);
        for (uint32_t i = 0; i < 256; i++)
                o.a[i / 16][i % 16] = bf16_to_float(f.a[i / 16][i % 16]);
        for (uint32_t i = 0; i < 128; i++)
                o.b[i / 8][i % 8] = bf16_to_float(f.b[i / 8][i % 8]);
        multiply(&o, f.d);
        scatter(mine, &f);
}

EMU_WIDE static void mma_f16(void *const *mine, uint32_t mask) {
        struct fragments f;
        struct operands o;

        (void)mask;
        gather(mine, &f);
        for (uint32_t i = 0; i < 256; i++)
                o.a[i / 16][i % 16] = f16_to_float(f.a[i / 16][i % 16]);
        for (uint32_t i = 0; i < 128; i++)
                o.b[i / 8][i % 8] = f16_to_float(f.b[i / 8][i % 8]);
        multiply(&o, f.d);
        scatter(mine, &f);
}

/* E2M1 in bits 2 to 5; what is around them is nothing. */
static double e2m1(uint32_t byte) {
        static const double values[8] = { 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0 };

        if (byte & 0xc3u)
                emu_die("an E2M1 with bits around it: %02x", byte);
        return byte & 0x20u ? -values[byte >> 2 & 7u] : values[byte >> 2 & 7u];
}

/* Products in double precision, where they are exact, rounded one by one. */
static void mma_e2m1_e4m3(void *const *mine, uint32_t mask) {
        (void)mask;
        for (uint32_t lane = 0; lane < EMU_WARP; lane++)
                for (uint32_t i = 0; i < 4; i++) {
                        const struct emu_mma_powers *m = mine[lane];
                        uint32_t row = lane / 4, column = lane % 4 * 2 + i % 2;
                        const struct emu_mma_powers *power_a = mine[4 * row + i / 2], *power_b = mine[4 * column];
                        double power = (double)e8m0_to_float((uint8_t)power_a->power_a) * (double)e8m0_to_float((uint8_t)power_b->power_b);

                        for (uint32_t k = 0; k < 32; k++) {
                                const struct emu_mma_powers *a = mine[4 * row + k % 16 / 4], *b = mine[4 * column + k % 16 / 4];
                                uint32_t w = a->a[i / 2 + k / 16 * 2] >> 8 * (k % 4) & 255u, x = b->b[k / 16] >> 8 * (k % 4) & 255u;

                                m->d[i] += (float)(e2m1(w) * (double)e4m3_to_float((uint8_t)x) * power);
                        }
                }
}

const struct emu_meeting emu_meet_mma_e2m1_e4m3 = {"mma_e2m1_e4m3", mma_e2m1_e4m3};
const struct emu_meeting emu_meet_mma_bf16 = {"mma_bf16", mma_bf16};
const struct emu_meeting emu_meet_mma_f16 = {"mma_f16", mma_f16};

float emu_f16_to_float(uint16_t h) {
        return f16_to_float(h);
}

uint16_t emu_float_to_f16(float f) {
        return f != f ? 0x7fffu : f16_from_float(f);
}

uint16_t emu_float_to_bf16(float f) {
        return f != f ? 0x7fffu : bf16_from_float(f);
}

/* Rounded once: what does not fit is kept as an odd last bit, first in double, then in single precision, which both have more
 * than enough bits for that. */
uint16_t emu_fma_bf16(uint16_t a, uint16_t b, uint16_t c) {
        double p = (double)bf16_to_float(a) * (double)bf16_to_float(b), q = (double)bf16_to_float(c), s = p + q;
        double part = s - p, rest = (p - (s - part)) + (q - part);
        uint64_t u;
        uint32_t v;
        float f;

        memcpy(&u, &s, sizeof u);
        if (rest != 0.0 && s - s == 0.0 && !(u & 1)) {
                u += (rest > 0.0) == (s > 0.0) ? 1u : UINT64_MAX;
                memcpy(&s, &u, sizeof s);
        }
        f = (float)s;
        v = float_bits(f);
        if ((double)f != s && f - f == 0.0f && !(v & 1u)) {
                double d = (double)f;

                v += (d < 0.0 ? -d : d) < (s < 0.0 ? -s : s) ? 1u : UINT32_MAX;
                f = float_from_bits(v);
        }
        return emu_float_to_bf16(f);
}
