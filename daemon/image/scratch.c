/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "base/macro.h"

#include "arch.h"
#include "schema.h"
#include "scratch.h"

#define CHEAP_LOGITS_BYTES (64ull << 20)
#define SAMPLER_BYTES 14u /* per token of the vocabulary: probabilities, order, marks */

void image_step_defaults(struct image_step *step, uint32_t n_vocab) {
        uint64_t cheap = CHEAP_LOGITS_BYTES / (sizeof(float) * MAX(n_vocab, 1u)), logits;

        if (step->rows == 0)
                step->rows = IMAGE_STEP_ROWS;
        if (step->sequences == 0)
                step->sequences = IMAGE_STEP_SEQUENCES;
        step->sequences = MIN(step->sequences, step->rows);
        /* Score and `logits` want logits of many rows; a vocabulary's logits are large. */
        logits = MAX((uint64_t)step->sequences, cheap);
        step->logits = (uint32_t)MIN(logits, (uint64_t)step->rows);
}

uint64_t image_step_logits_bytes(const struct image_step *step, uint32_t n_vocab) {
        return n_vocab * (sizeof(float) * (uint64_t)step->logits + SAMPLER_BYTES);
}

/* Some layer's queries, keys and values come of one matrix. */
static bool has_fused_qkv(const struct image_tensor *tensors, size_t n_tensors) {
        uint32_t layer;

        for (size_t i = 0; i < n_tensors; i++) {
                const char *local = image_schema_split(tensors[i].name, &layer);

                if (local && strcmp(local, "attn_qkv.weight") == 0)
                        return true;
        }
        return false;
}

void image_scratch_widths(const struct image_hparams *hp, const struct image_tensor *tensors, size_t n_tensors,
                          struct image_scratch_widths *ret) {
        const struct image_arch *arch = image_arch_find(hp->arch);
        uint64_t q = (uint64_t)hp->n_head * hp->head_dim, kv = (uint64_t)hp->n_head_kv * hp->head_dim;
        uint64_t experts_ff = (uint64_t)hp->n_expert_used * hp->n_ff_expert;
        uint64_t ff = MAX(MAX((uint64_t)hp->n_ff, (uint64_t)hp->n_ff_shared), experts_ff);
        uint64_t qkv = has_fused_qkv(tensors, n_tensors) ? q + 2 * kv : 0, gate_up = 0, fused;
        bool post = false;

        if (arch) {
                post = (arch->parts & (IMAGE_ATTN_POST_NORM | IMAGE_FFN_POST_NORM)) != 0;
                gate_up = arch->parts & IMAGE_GATE_UP ? 2ull * hp->n_ff : 0;
        }
        fused = MAX(qkv, gate_up);
        *ret = (struct image_scratch_widths){
                .embd = hp->n_embd,
                .vocab = hp->n_vocab,
                .q = q,
                .kv = kv,
                .ff = ff,
                .fused = fused,
                .expert = hp->n_expert,
                .expert_used = hp->n_expert_used,
                .block = post || (hp->residual_scale != 0 && hp->residual_scale != 1),
        };
}

void image_scratch_floats(const struct image_scratch_widths *w, uint32_t rows, uint32_t logits,
                          uint64_t ret[IMAGE_SCRATCH_COUNT]) {
        const uint64_t row[IMAGE_SCRATCH_COUNT] = {
                [IMAGE_SCRATCH_X] = w->embd,
                [IMAGE_SCRATCH_H] = w->embd,
                [IMAGE_SCRATCH_BLOCK] = w->block ? w->embd : 0,
                [IMAGE_SCRATCH_Q] = w->q,
                [IMAGE_SCRATCH_K] = w->kv,
                [IMAGE_SCRATCH_V] = w->kv,
                [IMAGE_SCRATCH_A] = w->q,
                [IMAGE_SCRATCH_GATE] = w->ff,
                [IMAGE_SCRATCH_UP] = w->ff,
                [IMAGE_SCRATCH_WIDE] = w->fused,
                [IMAGE_SCRATCH_ROUTER] = w->expert,
                [IMAGE_SCRATCH_CHOSEN] = w->expert_used,
                [IMAGE_SCRATCH_WEIGHTS] = w->expert_used,
                [IMAGE_SCRATCH_SLOTS] = w->expert_used * w->embd,
        };

        for (size_t i = 0; i < IMAGE_SCRATCH_COUNT; i++)
                ret[i] = rows * row[i];
        ret[IMAGE_SCRATCH_LAST] = logits * w->embd;
        ret[IMAGE_SCRATCH_LOGITS] = logits * w->vocab;
}

uint64_t image_scratch_bytes(const struct image_scratch_widths *w, uint32_t rows, uint32_t logits) {
        uint64_t floats[IMAGE_SCRATCH_COUNT], sum = 0;

        image_scratch_floats(w, rows, logits, floats);
        for (size_t i = 0; i < IMAGE_SCRATCH_COUNT; i++)
                sum += floats[i] * sizeof(float);
        return sum;
}
