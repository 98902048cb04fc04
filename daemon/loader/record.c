/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "kernels/format.h"

#include "record.h"

/* Activations and logits; and vectors, which the engine has once more in the backend's own memory. */
static uint64_t engine_bytes(const struct image_plan *plan, const struct image_step *wanted) {
        const struct image_hparams *hp = &plan->hparams;
        struct image_scratch_widths widths;
        struct image_step step = *wanted;
        uint64_t vectors = 0;

        if (plan->n_tensors == 0) /* a vocabulary alone computes nothing */
                return 0;
        image_step_defaults(&step, hp->n_vocab);
        image_scratch_widths(hp, plan->tensors, plan->n_tensors, &widths);
        for (size_t i = 0; i < plan->n_tensors; i++)
                if (plan->tensors[i].layout == WEIGHT_ROWS)
                        vectors += plan->tensors[i].size;
        return image_scratch_bytes(&widths, step.rows, step.logits) + image_step_logits_bytes(&step, hp->n_vocab) + vectors;
}

void record_plan(const struct image_plan *plan, uint64_t total, const struct image_step *step,
                 struct loadlink_record *ret) {
        const struct image_hparams *hp = &plan->hparams;
        uint64_t heads = (uint64_t)hp->n_layer * hp->n_head_kv;

        *ret = (struct loadlink_record){
                .type = LOADLINK_PLAN,
                .n_segments = (uint32_t)plan->n_segments,
                .total = total,
                .n_params = plan->n_params,
                /* keys and values of all layers */
                .kv_bytes_per_token = heads * kv_position_bytes(KV_F16, hp->head_dim),
                .kv_bytes_per_token_q8_0 = heads * kv_position_bytes(KV_Q8_0, hp->head_dim),
                .engine_bytes = engine_bytes(plan, step),
                .context = hp->n_ctx,
                .vocabulary = hp->n_vocab,
                .has_chat_template = plan->chat_template_size > 0,
        };
        (void)snprintf(ret->architecture, sizeof(ret->architecture), "%s", hp->arch);
        (void)snprintf(ret->format, sizeof(ret->format), "%s", image_plan_format(plan));
        (void)memcpy(ret->segment_bytes, plan->segment_size, plan->n_segments * sizeof(uint64_t));
}
