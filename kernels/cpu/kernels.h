/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The kernels of the CPU backend: what one instruction set provides, and the table of all of them. Every family gives
 * the same bits (they are written in the same templates, over vectors that round alike), so the choice is one of
 * speed only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/operands.h"

#define TILE_MAX 8u      /* rows that a matmul kernel takes at most, a power of two */
#define ACT_BLOCK 32u
#define ACT_SUPER 256u

/*
 * Activations as 8-bit integers: x[i] is about q[i] * scale. The weights' formats say in which blocks: as long as their
 * own ones. The sums are what the offsets of formats cost: sum over (w - 8) a = sum over w a - 8 * sum over a.
 *
 * A "pair" is a negative sum of a run, apart for the elements 4i and 4i + 1 and for the elements 4i + 2 and 4i + 3: as
 * kernels whose sums have 16 bits add them up (vi_pairs_start() in vec-avx2.h).
 */

/* 32 of them, a cache line. */
struct act_block {
        int8_t q[ACT_BLOCK];
        float scale;
        float sum;                /* of q; times scale it is a binary16 as well, so not quite an integer */
        int32_t minus128;         /* -128 * sum of q */
        int32_t half_minus128[2]; /* of each half of q */
        int16_t pair[2];
        int16_t half_pair[2][2];
};
_Static_assert(sizeof(struct act_block) == 64, "one cache line");

/* 256 of them, scaled and rounded as GGUF's Q8_K. */
struct act_super {
        int8_t q[ACT_SUPER];
        int16_t pair32[16][2];    /* of each 16, times 32 */
        int16_t sum16[16];        /* of each 16 of q */
        int16_t sum32[8];
        float scale;
        int32_t zero[3];
};
_Static_assert(sizeof(struct act_super) == 384, "whole cache lines");

/* How a format's kernels want activations. */
enum act_form {
        ACT_FLOATS, /* [n_in][rows] floats */
        ACT_BF16S,  /* the same, each rounded to what BF16 holds */
        ACT_BLOCKS, /* [n_in / 32][rows] struct act_block */
        ACT_SUPERS, /* [n_in / 256][rows] struct act_super */
};
#define ACT_FORMS 4u

/* Products of `rows` activation rows (1, 2, 4 or 8, by the function's place in the table) with panels of 16 weight
 * rows: out[panel][row][lane]. x is a tile of rows in the format's act_form. */
typedef void (*panel_fn)(const void *w, size_t panel_stride, unsigned n_panels, const void *x, size_t n_in, float *out);

/* Coded panels (kernels/lossless.h), whose index and escapes are elsewhere. */
struct coded_panels {
        const uint8_t *columns; /* of the first panel; behind the last one there are LOSSLESS_COLUMN_BYTES more that can be read */
        size_t stride;
        const uint8_t *index;   /* of the first panel */
        size_t units;           /* of a panel */
        const uint8_t *escapes; /* of the tensor */
};

/* The same products with them; rows are ACT_BF16S. Of the largest tile there may be several, one after another, which share the work of
 * decoding: up to CODED_TILES, where a tile has more than one row. out[tile][panel][row][lane]. */
typedef void (*coded_fn)(const struct coded_panels *w, unsigned n_panels, const float *x, unsigned n_tiles, size_t n_in, float *out);

#define CODED_TILES 8u

/* By log2 of the rows. */
struct matmul_kernels {
        const panel_fn *f32, *f16, *bf16;
        const panel_fn *q8_0, *q4_0, *q4_1, *q5_0, *q5_1;
        const panel_fn *q2_k, *q3_k, *q4_k, *q5_k, *q6_k, *iq4_xs;
        const panel_fn *iq4_nl, *mxfp4, *nvfp4, *f8_e4m3;
};

/* A block of KV_Q8_0: x[i] is about q[i] * scale. */
struct kv_block {
        uint16_t scale; /* half precision */
        int8_t q[KV_BLOCK];
};

struct row_kernels {
        /* One row of n_blocks blocks; block b goes to dst[b * stride]. */
        void (*quantize)(const float *x, size_t n_blocks, size_t stride, struct act_block *dst);
        void (*quantize_super)(const float *x, size_t n_blocks, size_t stride, struct act_super *dst);
        void (*rmsnorm)(const float *x, const float *weight, float eps, size_t dim, float *out);
        void (*gate)(enum activation act, const float *gate, const float *up, size_t n, float *out);
        void (*exp)(const float *x, size_t n, float *out);
        /* cap * tanh(x * scale / cap) */
        void (*softcap)(const float *x, float scale, float cap, size_t n, float *out);
        void (*to_f16)(const float *x, size_t n, void *out);
        /* n elements as blocks, the last one filled up with zeros. What is not finite, or too large, makes its block
         * not-a-number. */
        void (*to_q8_0)(const float *x, size_t n, struct kv_block *out);
};

#define ATTN_GROUP 16u                 /* positions of a K group: the lanes of its scores */
#define ATTN_GROUPS 4u                 /* groups of a chunk, at most */
#define ATTN_CHUNK (ATTN_GROUP * ATTN_GROUPS)

/* What a query has seen so far, of a softmax that is kept running (Milakov and Gimelshein 2018). */
struct attn_state {
        float top;               /* largest score */
        float sum[ATTN_GROUP];   /* of exp(score - top), by lane */
};

/* One chunk of positions for the queries of a tile that share it. */
struct attn_chunk {
        const void *k[ATTN_GROUPS];  /* groups as struct kv_cache has them */
        const void *v[ATTN_GROUPS];
        unsigned n_groups;
        unsigned first, end;         /* positions of the chunk that the queries see */
        uint32_t head_dim;
        float scale, softcap;
        const float *q;              /* [head_dim][q_stride] */
        size_t q_stride;
        struct attn_state *state;    /* [queries] */
        float *acc;                  /* [queries][acc_stride] */
        size_t acc_stride;           /* head_dim in whole groups of 16 */
};

typedef void (*attn_fn)(const struct attn_chunk *c);

struct attn_kernels {
        attn_fn f16[4], f32[4], q8_0[4]; /* by log2 of the queries */
};

/* Loops of nothing but multiply-adds, to compare with. A round is chains * 16 of floats, chains * 64 of 8-bit integers;
 * x: 32 floats, 64 integers. */
struct peak_kernels {
        unsigned chains;
        float (*floats)(size_t rounds, const float *x);
        int32_t (*integers)(size_t rounds, const int8_t *x);
};

struct cpu_kernels {
        const char *name;
        bool (*usable)(void);
        unsigned tile;               /* rows that its matmul kernels take at most: 1, 2, 4 or 8 */
        unsigned attn_tile;          /* queries that its attention kernels take at most */
        const struct matmul_kernels *matmul;
        const coded_fn *coded;       /* by log2 of the rows */
        const struct row_kernels *rows;
        const struct attn_kernels *attn;
        const struct peak_kernels *peak;
};

/* Best first; ends with plain C, which is always usable. */
extern const struct cpu_kernels cpu_kernels[];
extern const size_t cpu_kernels_n;

/* By name, or the best usable one for NULL and "auto"; NULL when there is none. */
const struct cpu_kernels *cpu_kernels_find(const char *name);
/* The matmul kernels of a format by log2 of the rows; NULL when there are none, as for a coded one. */
const panel_fn *cpu_kernels_matmul(const struct cpu_kernels *k, enum fmt fmt);
/* What these kernels want of the activations. */
enum act_form cpu_kernels_act(enum fmt fmt);
/* Bytes that one row of n_in elements takes in a form; n_in is a multiple of the form's block. */
size_t cpu_act_bytes(enum act_form form, size_t n_in);

extern const struct matmul_kernels matmul_kernels_c, matmul_kernels_avx2, matmul_kernels_avx512, matmul_kernels_neon,
                                   matmul_kernels_i8mm;
extern const coded_fn coded_kernels_c[4], coded_kernels_avx2[4], coded_kernels_neon[4];
extern const struct row_kernels row_kernels_c, row_kernels_avx2, row_kernels_avx512, row_kernels_neon;
extern const struct attn_kernels attn_kernels_c, attn_kernels_avx2, attn_kernels_avx512, attn_kernels_neon;
extern const struct peak_kernels peak_kernels_c, peak_kernels_avx2, peak_kernels_avx512, peak_kernels_neon;
