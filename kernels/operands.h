/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the operations of a backend (backend.h) are given beside numbers: all that a kernel needs to know of it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* One product of a matmul call: out[r][o] (+)= sum over i of x[r][i] * w[o][i], plus bias[o]. */
struct matmul {
        const struct weight *w;
        const float *bias; /* dev, [n_out], may be NULL */
        float *out;        /* dev, [n_rows][out_stride] */
        size_t out_stride; /* floats */
        bool accumulate;   /* add to what out holds (residual) */
};

/* A page holds page_tokens positions of one sequence, K and V, for every layer. */
struct kv_config {
        uint32_t n_layers;
        uint32_t n_kv_heads;
        uint32_t head_dim; /* of K and of V */
        uint32_t n_pages;
        uint32_t page_tokens; /* power of two */
        enum kv_format format;
};

/* The rows of a step. Host arrays, valid for the step. Rows of one sequence stand together, positions ascending. */
struct batch {
        uint32_t n_rows;
        const int32_t *token;   /* [n_rows] */
        const uint32_t *pos;    /* [n_rows] position in its sequence, from 0 */
        const uint32_t *seq;    /* [n_rows] index into page_table */
        uint32_t n_seqs;
        const uint32_t *const *page_table; /* [n_seqs], each [ceil((last pos + 1) / page_tokens)] page numbers */
};

enum rope_kind {
        ROPE_NONE = 0,
        ROPE_NORM = 1, /* pairs (2i, 2i+1): llama */
        ROPE_NEOX = 2, /* pairs (i, i + n_rot/2): qwen, phi, gemma ... */
};

/* Rotary embedding (Su et al. 2021), with per-pair frequency divisors (llama 3's scaling) and YaRN's magnitude. Queries
 * may have a temperature that falls as positions grow: they are multiplied by 1 + temp_scale ln(floor(pos / temp_length)
 * + 1), rotated or not. */
struct rope {
        enum rope_kind kind;
        uint32_t n_rot;          /* elements of a head that are rotated, even */
        const float *inv_freq;   /* host, [n_rot / 2]: angle per position of each pair, scaling included */
        float magnitude;         /* multiplies sine and cosine; 1 */
        float temp_scale;        /* 0 = none */
        uint32_t temp_length;
};

struct attention {
        uint32_t n_heads;
        uint32_t layer;
        float scale;             /* of q.k, usually 1/sqrt(head_dim) */
        float softcap;           /* 0 = none */
        uint32_t window;         /* sliding window in tokens, 0 = all */
        const float *sinks;      /* dev, [n_heads] or NULL */
};

enum activation {
        ACT_SILU = 0,         /* silu(gate) * up */
        ACT_GELU_TANH = 1,    /* gelu(gate) * up, tanh form, in half precision */
        ACT_SILU_CLAMPED = 2, /* g sigmoid(1.702 g) * (u + 1); g is gate, at most 7, u is up, within -7 and 7 (gpt-oss) */
        ACTIVATIONS,
};

/* How a router's outputs become the weights of the chosen experts. */
enum gating {
        GATING_SOFTMAX = 0,        /* over all experts */
        GATING_SIGMOID = 1,
        GATING_SOFTMAX_CHOSEN = 2, /* over the chosen ones */
};

/* Those with the largest weights are chosen (of equal ones the first), largest first. */
struct routing {
        uint32_t n_experts, n_used;
        enum gating gating;
        const float *bias; /* dev, [n_experts]: added to choose by, not to the weights; or NULL */
        bool normalize;    /* the weights of the chosen ones are divided by their sum */
        float scale;       /* and multiplied by this */
};

#define ROUTING_SUM_MIN 6.103515625e-5f /* that weights are divided by: the smallest normal number of half precision */

/* The experts of each of n_rows rows, as route() chose them: row r has slots [r * n_used, (r + 1) * n_used). */
struct chosen {
        const uint32_t *experts; /* dev, [n_rows][n_used] */
        const float *weights;    /* dev, the same */
        uint32_t n_rows, n_used;
};

/* Of a row of logits: sum of e^(x - largest) over all, in double. bad: not-a-number or +infinity among them, or nothing but
 * -infinity. */
struct backend_top {
        double sum;
        float largest;
        bool bad;
};
