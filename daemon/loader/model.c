/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/arch.h"
#include "daemon/image/schema.h"
#include "daemon/image/tensor-size.h"
#include "kernels/format.h"

#include "model.h"

void model_deinit(struct model *m) {
        free(m->pre);
        free(m->token_bytes);
        free(m->token_offsets);
        free(m->scores);
        free(m->types);
        free(m->merge_bytes);
        free(m->merge_offsets);
        *m = MODEL_NULL;
}

/* A name for the image: bytes that are cut where they do not fit, at a character's border. */
static void copy_name(char dst[IMAGE_NAME_MAX], const char *src, size_t n) {
        if (n >= IMAGE_NAME_MAX) {
                n = IMAGE_NAME_MAX - 1;
                while (n > 0 && ((unsigned char)src[n] & 0xc0) == 0x80)
                        n--;
        }
        (void)memcpy(dst, src, n);
        dst[n] = 0;
}

static int read_identity(struct gguf *g, struct image_hparams *hp) {
        const char *s = NULL;
        uint64_t parts = 1;
        size_t n = 0;
        int r;

        r = gguf_get_string(g, "general.architecture", &s, &n);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_ABSENT || n == 0 || n >= IMAGE_NAME_MAX)
                return loader_fail(g->error, LOADER_E_INVALID, "'general.architecture' is missing, empty or too long");
        copy_name(hp->arch, s, n);
        r = gguf_get_string(g, "general.name", &s, &n);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_FOUND)
                copy_name(hp->name, s, n);
        if (gguf_get_uint(g, "split.count", 0, UINT16_MAX, &parts) < 0)
                return LOADER_E_INVALID;
        if (parts > 1 && parts != g->n_more + 1)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'split.count' says that this file is one of %llu parts, all of which are needed: give the "
                                   "path of the first, with the others beside it",
                                   (unsigned long long)parts);
        return 0;
}

static int read_template(struct gguf *g, struct image_plan *plan) {
        int r = gguf_get_string(g, "tokenizer.chat_template", &plan->chat_template, &plan->chat_template_size);

        return r < 0 ? LOADER_E_INVALID : 0;
}

/* Matrices are repacked for matmul; vectors are few and small, and kernels want them in F32 (image_tensor_layout). */
static int add_tensors(struct gguf *g, struct image_plan *plan) {
        for (size_t i = 0; i < g->n_tensors; i++) {
                const struct gguf_tensor *t = &g->tensors[i];
                uint32_t layout = image_tensor_layout(t->name, t->n_dims);
                int r;

                r = image_plan_add_tensor(plan, t->name, layout == WEIGHT_PANELS ? t->fmt : FMT_F32, layout, t->n_dims,
                                          t->dims);
                if (r < 0)
                        return r;
                if (r > 0)
                        return loader_fail(g->error, LOADER_E_INVALID, "tensor '%s' at offset %llu: too large for an image",
                                           t->name, (unsigned long long)t->info);
        }
        return 0;
}

/* Tensors of layers that the model here does without (nextn_predict_layers). */
static void drop_tensors(struct gguf *g, uint32_t n_layer, uint32_t n_layer_file) {
        size_t n = 0;

        for (size_t i = 0; i < g->n_tensors; i++) {
                uint32_t layer = 0;

                if (!image_schema_split(g->tensors[i].name, &layer) || layer < n_layer || layer >= n_layer_file)
                        g->tensors[n++] = g->tensors[i];
        }
        g->n_tensors = n;
}

static int check_tensors(struct gguf *g, const struct image_plan *plan) {
        struct image_error error;
        size_t at;
        int r;

        r = image_schema_check(&plan->hparams, plan->tensors, plan->n_tensors, &at, &error);
        if (r <= 0)
                return r;
        r = r == IMAGE_SCHEMA_E_UNSUPPORTED ? LOADER_E_UNSUPPORTED : LOADER_E_INVALID;
        if (at == IMAGE_SCHEMA_NO_TENSOR)
                return loader_fail(g->error, r, "%s", error.text);
        gguf_blame(g, &g->tensors[at]);
        return loader_fail(g->error, r, "%s (its info is at offset %llu)", error.text,
                           (unsigned long long)g->tensors[at].info);
}

/* Before its vocabulary or tensors can be found fault with: the architecture is what matters to the user. */
static int refuse_architecture(struct gguf *g, const struct image_plan *plan) {
        char show[LOADER_SHOW_MAX];

        if (g->tensor_count == 0 || image_arch_find(plan->hparams.arch))
                return 0;
        return loader_fail(g->error, LOADER_E_UNSUPPORTED,
                           "'general.architecture' is '%s': models of this architecture are not supported",
                           loader_show(show, plan->hparams.arch, strlen(plan->hparams.arch)));
}

static int plan_tensors(struct gguf *g, struct image_plan *plan) {
        uint32_t n_layer_file = 0;
        int r;

        r = model_read_hparams(g, &plan->hparams, &n_layer_file);
        if (!r)
                r = gguf_read_tensors(g);
        if (r)
                return r;
        drop_tensors(g, plan->hparams.n_layer, n_layer_file);
        r = add_tensors(g, plan);
        return r ? r : check_tensors(g, plan);
}

int model_plan(struct model *m, struct gguf *g, struct image_plan *plan, uint64_t segment_max) {
        int r;

        r = read_identity(g, &plan->hparams);
        if (!r)
                r = refuse_architecture(g, plan);
        if (!r)
                r = model_read_vocab(m, g, &plan->vocab);
        if (!r)
                r = read_template(g, plan);
        if (r)
                return r;
        plan->hparams.n_vocab = (uint32_t)plan->vocab.n_tokens;
        if (g->tensor_count > 0)
                r = plan_tensors(g, plan);
        if (r)
                return r;
        r = image_plan_layout(plan, segment_max);
        if (r > 0)
                return loader_fail(g->error, LOADER_E_INVALID, "the model is too large for an image");
        return r;
}
