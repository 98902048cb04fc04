/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/image/schema.h"
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

static enum loadlink_kind kind_of(const char *name) {
        static const struct {
                const char *local;
                enum loadlink_kind kind;
        } kinds[] = {
                { "attn_q.weight", LOADLINK_KIND_ATTENTION },        { "attn_k.weight", LOADLINK_KIND_ATTENTION },
                { "attn_v.weight", LOADLINK_KIND_ATTENTION },        { "attn_qkv.weight", LOADLINK_KIND_ATTENTION },
                { "attn_output.weight", LOADLINK_KIND_ATTENTION },   { "ffn_gate.weight", LOADLINK_KIND_FEED_FORWARD },
                { "ffn_up.weight", LOADLINK_KIND_FEED_FORWARD },     { "ffn_down.weight", LOADLINK_KIND_FEED_FORWARD },
                { "ffn_gate_exps.weight", LOADLINK_KIND_EXPERTS },   { "ffn_up_exps.weight", LOADLINK_KIND_EXPERTS },
                { "ffn_down_exps.weight", LOADLINK_KIND_EXPERTS },   { "ffn_gate_shexp.weight", LOADLINK_KIND_EXPERTS },
                { "ffn_up_shexp.weight", LOADLINK_KIND_EXPERTS },    { "ffn_down_shexp.weight", LOADLINK_KIND_EXPERTS },
        };
        uint32_t layer;
        const char *local = image_schema_split(name, &layer);

        if (!local)
                return strcmp(name, "token_embd.weight") == 0 ? LOADLINK_KIND_EMBEDDING :
                       strcmp(name, "output.weight") == 0     ? LOADLINK_KIND_OUTPUT :
                                                                LOADLINK_KIND_OTHER;
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                if (strcmp(kinds[i].local, local) == 0)
                        return kinds[i].kind;
        return LOADLINK_KIND_OTHER;
}

static void add_shares(const struct image_plan *plan, struct loadlink_record *ret) {
        for (size_t i = 0; i < plan->n_tensors; i++) {
                const struct image_tensor *t = &plan->tensors[i];
                struct loadlink_share *kind = &ret->kinds[kind_of(t->name)];
                uint64_t params = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]; /* a plan has none that is too large */

                kind->params += params;
                kind->bytes += t->size;
                if (t->fmt == FMT_BF16_LL) {
                        ret->coded.params += params;
                        ret->coded.bytes += t->size;
                }
        }
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
        add_shares(plan, ret);
        (void)memcpy(ret->segment_bytes, plan->segment_size, plan->n_segments * sizeof(uint64_t));
}
