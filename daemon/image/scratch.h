/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an engine takes besides weights and KV cache: the activations of a step, and room for logits. The engine
 * allocates by these numbers and the loader plans by them, so that what a plan promises is what a load takes. Pure
 * functions; for hyper-parameters that image_schema_check_hparams() finds plausible, and steps of up to 65536 rows,
 * nothing here overflows.
 */

#include "image.h"

#define IMAGE_STEP_ROWS 512u     /* of a step, by default */
#define IMAGE_STEP_SEQUENCES 64u /* that run at once, by default */

/* How large an engine's steps get. */
struct image_step {
        uint32_t rows;
        uint32_t sequences;
        uint32_t logits; /* rows of a step that can have logits */
};

/* Fills in what is 0, and logits: those of every sequence, or of more rows where they cost little. */
void image_step_defaults(struct image_step *step, uint32_t n_vocab);
/* Bytes of logits on the host, and of the sampler's tables. */
uint64_t image_step_logits_bytes(const struct image_step *step, uint32_t n_vocab);

/* Activations, [rows][...] floats each unless said otherwise. */
enum image_scratch {
        IMAGE_SCRATCH_X,       /* [n_embd]: the residual stream */
        IMAGE_SCRATCH_H,       /* [n_embd]: normed */
        IMAGE_SCRATCH_BLOCK,   /* [n_embd]: a block's result, where it isn't added as it is */
        IMAGE_SCRATCH_Q,       /* [n_head * head_dim] */
        IMAGE_SCRATCH_K,       /* [n_head_kv * head_dim] */
        IMAGE_SCRATCH_V,       /* [n_head_kv * head_dim] */
        IMAGE_SCRATCH_A,       /* [n_head * head_dim]: attention's result */
        IMAGE_SCRATCH_GATE,    /* [n_ff], or of experts: [n_expert_used][n_ff_expert] */
        IMAGE_SCRATCH_UP,      /* the same */
        IMAGE_SCRATCH_WIDE,    /* q, k and v, or gate and up, where one matrix makes them */
        IMAGE_SCRATCH_ROUTER,  /* [n_expert] */
        IMAGE_SCRATCH_CHOSEN,  /* [n_expert_used] uint32_t */
        IMAGE_SCRATCH_WEIGHTS, /* [n_expert_used] */
        IMAGE_SCRATCH_SLOTS,   /* [n_expert_used][n_embd]: experts' results */
        IMAGE_SCRATCH_LAST,    /* [logits][n_embd] */
        IMAGE_SCRATCH_LOGITS,  /* [logits][n_vocab] */
        IMAGE_SCRATCH_COUNT,
};

/* What of a model decides about them. */
struct image_scratch_widths {
        uint64_t embd, vocab;
        uint64_t q, kv;    /* of all heads */
        uint64_t ff;       /* the widest feed-forward network, of all experts that a token uses together */
        uint64_t fused;    /* the widest result of a matrix that makes several; 0 = there is none */
        uint64_t expert, expert_used;
        bool block;        /* blocks' results are normed or scaled before they are added */
};

/* Of a model that is only planned. tensors: its list, as the schema accepts it. */
void image_scratch_widths(const struct image_hparams *hp, const struct image_tensor *tensors, size_t n_tensors,
                          struct image_scratch_widths *ret);
void image_scratch_floats(const struct image_scratch_widths *w, uint32_t rows, uint32_t logits,
                          uint64_t ret[IMAGE_SCRATCH_COUNT]);
uint64_t image_scratch_bytes(const struct image_scratch_widths *w, uint32_t rows, uint32_t logits);
