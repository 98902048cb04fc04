/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random weights. A panel's column (pack.c) is a few runs of bytes, field after field, and what a field's bytes are is a mask: for
 * quants anything, for scales fixed upper bits, for half-precision scales one number. So a format is a list of runs, made from
 * the deviation that is wanted, and one kernel fills all formats, 16 bytes a thread.
 *
 * Numbers are SplitMix64 of a counter (Steele, Lea, Flood 2014): the same whatever the grid.
 */

#include "launch.cuh"
#include "ops.h"

#include <math.h>
#include <ptx.cuh>
#include <string.h>

#define FILL_THREADS 256u
#define FILL_BLOCKS 1024u
#define FILL_RUNS 5u

enum fill_kind {
        FILL_MASK = 0, /* 32 bits: random & a | b */
        FILL_MIX,      /* bytes: b, or in a of 65536 cases one more */
        FILL_F32,      /* numbers between -scale and scale */
        FILL_F16,
        FILL_BF16,
        FILL_E4M3,     /* codes of numbers between -256 and 256 */
};

struct fill_run {
        uint32_t end; /* byte of the column */
        enum fill_kind kind;
        uint32_t a, b;
};

struct fill_args {
        uint32_t column; /* bytes */
        uint32_t n_runs;
        struct fill_run runs[FILL_RUNS];
        float scale;
        uint64_t seed, n; /* pieces of 16 bytes */
        uint4 *data;
};

DEVICE uint64_t fill_random(uint64_t counter) {
        uint64_t z = counter * 0x9e3779b97f4a7c15u;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
}

/* A number in [-1, 1) of 16 or 32 random bits. */
DEVICE float fill_unit(uint32_t random) {
        return (float)(int32_t)random * 0x1p-31f;
}

/* A byte of four in [0, 65536): with the neighbour's bits as the lower ones. */
DEVICE uint32_t fill_mix(uint32_t random, uint32_t more, uint32_t base) {
        uint32_t word = 0;

        for (uint32_t i = 0; i < 4; i++) {
                uint32_t draw = __funnelshift_r(random, random, 8 * i) & 0xffffu;

                word |= (base + (draw < more)) << 8 * i;
        }
        return word;
}

/* Numbers that are spread evenly have an exponent one less half as often, and any mantissa: the exponent is that of the highest bit
 * of seven, so the least ones are missing. */
DEVICE uint32_t fill_e4m3(uint32_t random, uint32_t other) {
        uint32_t word = 0;

        for (uint32_t i = 0; i < 4; i++) {
                uint32_t draw = random >> 8 * i & 255u, mantissa = other >> 8 * i & 7u;
                uint32_t exponent = 14 - __clz((int)(draw << 24 << 1 | 0x01000000u));

                word |= ((draw & 0x80u) | exponent << 3 | mantissa) << 8 * i;
        }
        return word;
}

/* 32 bits of a run; other: more random bits. */
DEVICE uint32_t fill_word(const struct fill_run &run, float scale, uint32_t random, uint32_t other) {
        float low = fill_unit(random << 16) * scale, high = fill_unit(random & 0xffff0000u) * scale;

        switch (run.kind) {
        case FILL_MIX:
                return fill_mix(random, run.a, run.b);
        case FILL_F32:
                return __float_as_uint(fill_unit(random) * scale);
        case FILL_F16:
                return f16x2(low, high);
        case FILL_BF16:
                return bf16x2(low, high);
        case FILL_E4M3:
                return fill_e4m3(random, other);
        default:
                return and_or(random, run.a, run.b);
        }
}

__global__ void __launch_bounds__(FILL_THREADS) fill_kernel(struct fill_args f) {
        uint64_t threads = (uint64_t)gridDim.x * FILL_THREADS;

        grid_wait(); /* and whoever comes next waits for all: weights are read before others' grid_wait() */
        for (uint64_t i = (uint64_t)blockIdx.x * FILL_THREADS + threadIdx.x; i < f.n; i += threads) {
                uint32_t at = (uint32_t)(i * 16 % f.column);
                uint64_t counter = f.seed + 3 * i;
                uint64_t r0 = fill_random(counter), r1 = fill_random(counter + 1), r2 = fill_random(counter + 2);
                struct fill_run run = f.runs[0];
                uint4 v;

#pragma unroll
                for (uint32_t k = 1; k < FILL_RUNS; k++)
                        if (k < f.n_runs && at >= f.runs[k - 1].end)
                                run = f.runs[k];
                v.x = fill_word(run, f.scale, (uint32_t)r0, (uint32_t)r2);
                v.y = fill_word(run, f.scale, (uint32_t)(r0 >> 32), (uint32_t)(r2 >> 16));
                v.z = fill_word(run, f.scale, (uint32_t)r1, (uint32_t)(r2 >> 32));
                v.w = fill_word(run, f.scale, (uint32_t)(r1 >> 32), (uint32_t)(r2 >> 35));
                f.data[i] = v;
        }
}

/* --- formats: runs of a column, for values of deviation 1 times the given one --- */

static void add_run(struct fill_args *f, uint32_t bytes_per_row, enum fill_kind kind, uint32_t a, uint32_t b) {
        struct fill_run *run = &f->runs[f->n_runs++];

        f->column += bytes_per_row * WEIGHT_PANEL;
        run->end = f->column;
        run->kind = kind;
        run->a = a;
        run->b = b;
}

static void add_random(struct fill_args *f, uint32_t bytes_per_row) {
        add_run(f, bytes_per_row, FILL_MASK, UINT32_MAX, 0);
}

/* Bytes with these bits random, and those set. */
static void add_bytes(struct fill_args *f, uint32_t bytes_per_row, uint32_t random, uint32_t set) {
        add_run(f, bytes_per_row, FILL_MASK, random * 0x01010101u, set * 0x01010101u);
}

/* A scale in half precision, the nearest that is normal or not; the least one where it would be zero. Of either sign where quants
 * are not around zero: with a mean that is not zero, what a model computes would grow from layer to layer. */
static void add_f16(struct fill_args *f, float scale, bool either_sign) {
        uint32_t sign = scale < 0 ? 0x8000u : 0, h;
        float x = fminf(fabsf(scale), 65504.0f);
        int e;

        (void)frexpf(x, &e);
        e = e < -13 ? -13 : e; /* x = m 2^(e - 11), m of 11 bits at most */
        h = (uint32_t)lrintf(ldexpf(x, 11 - e));
        h = (uint32_t)(e + 13) * 1024u + h; /* the leading bit of m counts in the exponent, as a carry does */
        h = h < 1 ? 1 : h > 0x7bffu ? 0x7bffu : h;
        add_run(f, 2, FILL_MASK, either_sign ? 0x80008000u : 0, (sign | h) * 0x00010001u);
}

/* Bytes of scales of which only some values exist: lower and upper neighbour, so that the mean square is right. */
static void add_mix(struct fill_args *f, uint32_t bytes_per_row, uint32_t code, float lower, float upper, float wanted) {
        float more = (wanted * wanted - lower * lower) / (upper * upper - lower * lower);

        add_run(f, bytes_per_row, FILL_MIX, (uint32_t)lrintf(fminf(fmaxf(more, 0.0f), 1.0f) * 65536.0f), code);
}

static void fill_f32(struct fill_args *f, float deviation) {
        f->scale = deviation * 1.7320508f;
        add_run(f, 4, FILL_F32, 0, 0);
}

static void fill_f16(struct fill_args *f, float deviation) {
        f->scale = fminf(deviation * 1.7320508f, 65504.0f);
        add_run(f, 2, FILL_F16, 0, 0);
}

static void fill_bf16(struct fill_args *f, float deviation) {
        f->scale = deviation * 1.7320508f;
        add_run(f, 2, FILL_BF16, 0, 0);
}

static void fill_e4m3(struct fill_args *f, float deviation) {
        float d = deviation / 141.8f; /* of what is spread from -256 to 256, cut to 4 bits */
        uint32_t bits;

        memcpy(&bits, &d, sizeof(bits));
        add_run(f, 4, FILL_MASK, 0, bits);
        add_run(f, 128, FILL_E4M3, 0, 0);
}

/* n evenly spread quants have a mean square of (n^2 - 1) / 12 around their middle; without a minimum that is -1/2. */
static void fill_q4_0(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 4.637f, true);
        add_random(f, 16);
}

static void fill_q4_1(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 4.610f, false);
        add_f16(f, deviation / 4.610f * -7.5f, false);
        add_random(f, 16);
}

static void fill_q5_0(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 9.247f, true);
        add_random(f, 20);
}

static void fill_q5_1(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 9.233f, false);
        add_f16(f, deviation / 9.233f * -15.5f, false);
        add_random(f, 20);
}

static void fill_q8_0(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 73.90f, true);
        add_random(f, 32);
}

/* Scales and minima from 8 to 15, quants from 0 to 3. */
static void fill_q2_k(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 13.98f, false);
        add_f16(f, deviation / 13.98f * 1.5f, false);
        add_bytes(f, 16, 0x77, 0x88);
        add_random(f, 64);
}

/* Scales from 16 to 31, quants from -4 to 3. */
static void fill_q3_k(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 56.16f, true);
        add_random(f, 8);
        add_bytes(f, 4, 0, 0xff);
        add_random(f, 96);
}

/* Scales and minima from 32 to 47: their upper bits are 10, in the bytes where these are. */
static void fill_k_scales(struct fill_args *f) {
        add_bytes(f, 8, 0x0f, 0xa0);
        add_random(f, 4);
}

static void fill_q4_k(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 189.7f, false);
        add_f16(f, deviation / 189.7f * 7.5f, false);
        fill_k_scales(f);
        add_random(f, 128);
}

static void fill_q5_k(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 380.4f, false);
        add_f16(f, deviation / 380.4f * 15.5f, false);
        fill_k_scales(f);
        add_random(f, 160);
}

/* Scales from 32 to 47, quants from -32 to 31. */
static void fill_q6_k(struct fill_args *f, float deviation) {
        add_f16(f, deviation / 734.9f, true);
        add_bytes(f, 16, 0x0f, 0x20);
        add_random(f, 192);
}

#define IQ4_DEVIATION 67.44f
#define E2M1_DEVIATION 2.926f

static void fill_iq4_nl(struct fill_args *f, float deviation) {
        add_f16(f, deviation / IQ4_DEVIATION, true);
        add_random(f, 16);
}

/* Scales from 16 to 31. */
static void fill_iq4_xs(struct fill_args *f, float deviation) {
        add_f16(f, deviation / (23.95f * IQ4_DEVIATION), true);
        add_bytes(f, 2, 0, 0xff);
        add_random(f, 132);
}

static void fill_mxfp4(struct fill_args *f, float deviation) {
        float wanted = deviation / E2M1_DEVIATION, lower;
        int e;

        (void)frexpf(wanted, &e);
        e = e < -125 ? -125 : e;
        lower = ldexpf(1.0f, e - 1);
        add_mix(f, 1, (uint32_t)(e - 1 + 127), lower, 2.0f * lower, wanted);
        add_random(f, 16);
}

static float ue4m3_value(uint32_t code) {
        return code < 8 ? ldexpf((float)code, -9) : ldexpf((float)(8 + code % 8), (int)(code / 8) - 10);
}

static void fill_nvfp4(struct fill_args *f, float deviation) {
        float wanted = deviation / E2M1_DEVIATION;
        uint32_t code = 0;

        while (code < 0x7d && ue4m3_value(code + 1) <= wanted)
                code++;
        add_mix(f, 4, code, ue4m3_value(code), ue4m3_value(code + 1), wanted);
        add_random(f, 32);
}

static const struct {
        enum fmt fmt;
        void (*make)(struct fill_args *f, float deviation);
} formats[] = {
        { FMT_F32, fill_f32 },
        { FMT_F16, fill_f16 },
        { FMT_BF16, fill_bf16 },
        { FMT_F8_E4M3, fill_e4m3 },
        { FMT_Q4_0, fill_q4_0 },
        { FMT_Q4_1, fill_q4_1 },
        { FMT_Q5_0, fill_q5_0 },
        { FMT_Q5_1, fill_q5_1 },
        { FMT_Q8_0, fill_q8_0 },
        { FMT_Q2_K, fill_q2_k },
        { FMT_Q3_K, fill_q3_k },
        { FMT_Q4_K, fill_q4_k },
        { FMT_Q5_K, fill_q5_k },
        { FMT_Q6_K, fill_q6_k },
        { FMT_IQ4_NL, fill_iq4_nl },
        { FMT_IQ4_XS, fill_iq4_xs },
        { FMT_MXFP4, fill_mxfp4 },
        { FMT_NVFP4, fill_nvfp4 },
};

cudaError_t cuda_fill(const struct cuda_launch *l, enum fmt fmt, uint64_t n_blocks_of_panels, float deviation, uint64_t seed,
                      void *data) {
        struct fill_args f = {};
        uint64_t blocks;

        for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
                if (formats[i].fmt == fmt)
                        formats[i].make(&f, deviation);
        if (f.n_runs == 0 || !(deviation > 0.0f) || !isfinite(deviation))
                return cudaErrorInvalidValue;
        f.seed = seed * 0x9e3779b97f4a7c15u;
        f.n = n_blocks_of_panels * (f.column / 16);
        f.data = (uint4 *)data;
        blocks = (f.n + FILL_THREADS - 1) / FILL_THREADS;
        if (blocks == 0)
                return cudaSuccess;
        return launch(fill_kernel, dim3((uint32_t)(blocks < FILL_BLOCKS ? blocks : FILL_BLOCKS)), dim3(FILL_THREADS), 0, l->stream,
                      l->dependent, f);
}
