/* SPDX-License-Identifier: Apache-2.0 */

/* Which tensor of the files becomes which of the image: names by tables, shapes and types by what is there. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "daemon/image/schema.h"
#include "daemon/image/tensor-size.h"
#include "kernels/format.h"

#include "hf.h"

#define F8_BLOCK 128u
#define MXFP4_BLOCK 32u
#define NVFP4_BLOCK 64u
#define NVFP4_SCALED 16u /* elements that have a scale */

/* A name taken apart: "model.layers.3.mlp.experts.7.up_proj.weight" is layer 3, expert 7, "mlp.experts.*.up_proj.weight". */
struct place {
        bool block;
        uint32_t layer, expert;
        char local[SAFETENSORS_NAME_MAX];
};

static int fail(struct hf *h, int code, const struct safetensors_tensor *t, const char *what) {
        return loader_fail(h->error, code, "%s: tensor '%.200s' (%s, its data at offset %llu) %s", h->names[t->file], t->name,
                           safetensors_type_name(t->type), (unsigned long long)t->offset, what);
}

int hf_add_part(struct hf *h, const struct hf_part *part) {
        if (h->n_parts == h->cap_parts) {
                size_t cap = h->cap_parts ? 2 * h->cap_parts : 256;
                struct hf_part *p = reallocarray(h->parts, cap, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                h->parts = p;
                h->cap_parts = cap;
        }
        h->parts[h->n_parts++] = *part;
        return 0;
}

/* Digits without a leading zero, then a dot. */
static const char *take_number(const char *p, uint32_t max, uint32_t *ret) {
        uint32_t v = 0;

        if (*p < '0' || *p > '9' || (p[0] == '0' && p[1] != '.'))
                return NULL;
        for (; *p >= '0' && *p <= '9'; p++) {
                v = 10 * v + (uint32_t)(*p - '0');
                if (v >= max)
                        return NULL;
        }
        *ret = v;
        return *p == '.' ? p + 1 : NULL;
}

static const char *skip(const char *s, const char *prefix) {
        return strncmp(s, prefix, strlen(prefix)) == 0 ? s + strlen(prefix) : NULL;
}

/* False for what does not belong to the text model. */
static bool find_place(const char *name, struct place *ret) {
        static const char *const prefixes[] = { "model.language_model.", "language_model.model.", "language_model.", "model.", "" };
        const char *p = NULL, *rest, *experts;

        for (size_t i = 0; i < ARRAY_SIZE(prefixes) && !p; i++)
                p = skip(name, prefixes[i]);
        *ret = (struct place){ 0 };
        rest = skip(p, "layers.");
        if (!rest) {
                (void)snprintf(ret->local, sizeof(ret->local), "%s", p);
                return true;
        }
        ret->block = true;
        p = take_number(rest, IMAGE_LAYERS_MAX, &ret->layer);
        if (!p)
                return false;
        experts = strstr(p, ".experts.");
        rest = experts ? take_number(experts + 9, IMAGE_EXPERTS_MAX, &ret->expert) : NULL;
        if (rest)
                (void)snprintf(ret->local, sizeof(ret->local), "%.*s*.%s", (int)(experts + 9 - p), p, rest);
        else
                (void)snprintf(ret->local, sizeof(ret->local), "%s", p);
        return true;
}

static bool ends_with(const char *s, const char *end) {
        size_t n = strlen(s), m = strlen(end);

        return n >= m && strcmp(s + n - m, end) == 0;
}

/* What is read together with a weight, or is of no use here: vision, positions that are computed. */
static bool is_companion(const struct hf *h, const char *name) {
        static const char *const ends[] = { ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_global_scale",
                                            "_scales", ".input_scale", ".input_global_scale", ".k_scale", ".v_scale", ".rotary_emb.inv_freq" };
        static const char *const others[] = { "vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                              "model.multi_modal_projector.", "visual.", "model.visual." };

        (void)h;
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                if (ends_with(name, ends[i]))
                        return true;
        for (size_t i = 0; i < ARRAY_SIZE(others); i++)
                if (skip(name, others[i]))
                        return true;
        return false;
}

static bool plain_format(enum safetensors_type type, uint32_t *ret) {
        switch (type) {
        case SAFETENSORS_F32: *ret = FMT_F32; return true;
        case SAFETENSORS_F16: *ret = FMT_F16; return true;
        case SAFETENSORS_BF16: *ret = FMT_BF16; return true;
        default: return false;
        }
}

static const struct safetensors_tensor *companion(const struct hf *h, const char *name, size_t cut, const char *end) {
        char other[SAFETENSORS_NAME_MAX + 16];

        (void)snprintf(other, sizeof(other), "%.*s%s", (int)(strlen(name) - cut), name, end);
        return safetensors_find(&h->weights, other);
}

/* Scales of E4M3: one, one per row, or one per square of 128. */
static int plan_f8(struct hf *h, struct hf_part *part) {
        const struct safetensors_tensor *t = part->tensor, *s = companion(h, t->name, 0, "_scale_inv");
        uint64_t rows = t->dims[0], n = 1;
        uint32_t fmt;

        if (!s)
                s = companion(h, t->name, 0, "_scale");
        if (!s)
                return fail(h, LOADER_E_INVALID, t, "has no '..._scale' or '..._scale_inv' beside it");
        if (t->n_dims != 2 || !plain_format(s->type, &fmt))
                return fail(h, LOADER_E_UNSUPPORTED, s, "is no scale of a kind that is known");
        for (uint32_t i = 0; i < s->n_dims; i++)
                n *= s->dims[i]; /* no larger than the file */
        if (n != 1 && n != rows &&
            !(s->n_dims == 2 && s->dims[0] == (rows + F8_BLOCK - 1) / F8_BLOCK &&
              s->dims[1] == (t->dims[1] + F8_BLOCK - 1) / F8_BLOCK))
                return fail(h, LOADER_E_UNSUPPORTED, s, "is not one scale, one per row, or one per block of 128 x 128");
        part->scale = s;
        part->how = HF_F8;
        part->fmt = t->dims[1] % F8_BLOCK == 0 ? FMT_F8_E4M3 : FMT_BF16;
        return 0;
}

/* Blocks [experts][rows][n_in / 32][16], scales [experts][rows][n_in / 32]. */
static int plan_mxfp4(struct hf *h, struct hf_part *part, uint64_t dims[3]) {
        const struct safetensors_tensor *t = part->tensor, *s = companion(h, t->name, strlen("_blocks"), "_scales");

        if (!s || s->type != SAFETENSORS_U8 || t->type != SAFETENSORS_U8 || t->n_dims != 4 || t->dims[3] != 16 ||
            s->n_dims != 3 || s->dims[0] != t->dims[0] || s->dims[1] != t->dims[1] || s->dims[2] != t->dims[2])
                return fail(h, LOADER_E_INVALID, t, "and its scales do not have the shapes of MXFP4");
        part->scale = s;
        part->fmt = FMT_MXFP4;
        dims[0] = t->dims[0];
        dims[1] = t->dims[1];
        dims[2] = t->dims[2] * MXFP4_BLOCK; /* 16 bytes each: cannot overflow */
        return 0;
}

/* Two codes in a byte, scales [rows][n_in / 16], and one more scale for the whole matrix. */
static int plan_nvfp4(struct hf *h, struct hf_part *part, uint64_t dims[3]) {
        const struct safetensors_tensor *t = part->tensor;
        size_t cut = ends_with(t->name, "_packed") ? strlen("_packed") : 0;
        const struct safetensors_tensor *s = companion(h, t->name, cut, "_scale");

        if (!s || s->type != SAFETENSORS_F8_E4M3 || t->n_dims != 2 || s->n_dims != 2 || s->dims[0] != t->dims[0] ||
            !checked_mul(t->dims[1], 2, &dims[2]) || dims[2] % NVFP4_SCALED != 0 || s->dims[1] != dims[2] / NVFP4_SCALED)
                return fail(h, LOADER_E_UNSUPPORTED, t, "and its scales do not have the shapes of NVFP4");
        if (dims[2] % NVFP4_BLOCK != 0)
                return fail(h, LOADER_E_UNSUPPORTED, t, "has rows that are no multiple of 64");
        part->scale = s;
        part->how = HF_NVFP4;
        part->fmt = FMT_NVFP4;
        return 0;
}

/* Type and shape; what the file's dimensions are as matrices, rows and elements: dims. */
static int plan_kind(struct hf *h, struct hf_part *part, uint64_t dims[3]) {
        const struct safetensors_tensor *t = part->tensor;

        if (part->how == HF_MXFP4)
                return plan_mxfp4(h, part, dims);
        if (t->n_dims < 1 || t->n_dims > 3)
                return fail(h, LOADER_E_UNSUPPORTED, t, "has a number of dimensions that is not known of it");
        dims[2] = t->dims[t->n_dims - 1];
        dims[1] = t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1;
        dims[0] = t->n_dims > 2 ? t->dims[0] : 1;
        if (part->how == HF_TRANSPOSED)
                dims[1] = t->dims[t->n_dims - 1], dims[2] = t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1;
        if (t->type == SAFETENSORS_F8_E4M3 && part->how == HF_PLAIN)
                return plan_f8(h, part);
        if (t->type == SAFETENSORS_U8 && part->how == HF_PLAIN)
                return plan_nvfp4(h, part, dims);
        if (!plain_format(t->type, &part->fmt))
                return fail(h, LOADER_E_UNSUPPORTED, t, "is of a type that is not supported for it");
        return 0;
}

/* "X.weight" in NVFP4 has its matrix's scale in "X.scale". */
static int add_scale(struct hf *h, const struct hf_part *matrix) {
        const char *name = matrix->tensor->name;
        bool packed = ends_with(name, "_packed");
        const struct safetensors_tensor *s = packed ? companion(h, name, strlen("_packed"), "_global_scale") :
                                                      companion(h, name, 0, "_scale_2");
        struct hf_part part = { .expert = matrix->expert, .how = packed ? HF_DIVISOR : HF_SCALE, .fmt = FMT_F32, .tensor = s,
                                .step = 1, .n_rows = 1, .n_in = 1 };

        if (!s || s->type != SAFETENSORS_F32 || s->size != sizeof(float))
                return fail(h, LOADER_E_INVALID, matrix->tensor, "has no scale for the whole of it beside it");
        (void)snprintf(part.target, sizeof(part.target), "%.*s.scale", (int)(strlen(matrix->target) - strlen(".weight")),
                       matrix->target);
        return hf_add_part(h, &part);
}

/* All that a source tensor gives by one row of a table. */
static int add_parts(struct hf *h, const struct safetensors_tensor *t, const struct place *place, const struct hf_name *name) {
        struct hf_part part = { .tensor = t, .how = name->how, .first = name->first, .step = name->step };
        uint64_t dims[3] = { 0 };
        bool elements; /* that every other one is taken of, not rows */
        int r = plan_kind(h, &part, dims);

        if (r)
                return r;
        if (place->block)
                (void)snprintf(part.target, sizeof(part.target), "blk.%u.%s", place->layer, name->to);
        else
                (void)snprintf(part.target, sizeof(part.target), "%s", name->to);
        elements = image_tensor_layout(part.target, t->n_dims) != WEIGHT_PANELS && part.how != HF_MXFP4;
        if (h->family->flags & HF_NORMS_PLUS_ONE && t->n_dims == 1 && ends_with(name->to, "norm.weight"))
                part.how = HF_PLUS_ONE;
        if (elements && (part.how == HF_F8 || part.how == HF_NVFP4))
                return fail(h, LOADER_E_UNSUPPORTED, t, "is of a type that is not supported for it");
        if (dims[0] == 0 || dims[1] == 0 || dims[2] == 0 || dims[0] > IMAGE_EXPERTS_MAX ||
            (elements ? dims[2] : dims[1]) % part.step != 0)
                return fail(h, LOADER_E_INVALID, t, "has a shape that makes no sense");
        part.n_rows = elements ? dims[1] : dims[1] / part.step;
        part.n_in = elements ? dims[2] / part.step : dims[2];
        for (uint64_t e = 0; e < dims[0] && r == 0; e++) {
                part.matrix = e;
                part.expert = dims[0] > 1 ? (uint32_t)e : place->expert;
                r = hf_add_part(h, &part);
        }
        if (r == 0 && part.how == HF_NVFP4)
                r = add_scale(h, &part);
        return r;
}

/* Whether the output matrix is the embeddings, whatever lies in the files. */
static int is_tied(struct hf *h, bool *ret) {
        struct json_view v = { "config.json", "", h->config, h->error };
        struct json_object *text = NULL;
        int r;

        *ret = h->family->flags & HF_TIED || !safetensors_find(&h->weights, "lm_head.weight");
        r = json_get_bool(&v, "tie_word_embeddings", ret);
        if (r == JSON_ABSENT && json_object_object_get_ex(h->config, "text_config", &text)) {
                v.object = text;
                r = json_get_bool(&v, "tie_word_embeddings", ret);
        }
        return r < 0 ? LOADER_E_INVALID : 0;
}

static int add_tensor(struct hf *h, const struct image_hparams *hp, const struct safetensors_tensor *t, bool tied) {
        const struct hf_name *name = NULL;
        struct place place;
        int r = 0;

        if (is_companion(h, t->name))
                return 0;
        if (!find_place(t->name, &place))
                return fail(h, LOADER_E_INVALID, t, "has a number of a layer that makes no sense");
        if (place.block && place.layer >= hp->n_layer && strcmp(h->family->type, "glm4_moe") == 0)
                return 0; /* layers that predict further tokens */
        if (tied && ends_with(t->name, "lm_head.weight"))
                return 0;
        if (ends_with(place.local, ".weight_packed"))
                place.local[strlen(place.local) - strlen("_packed")] = 0;
        while (r == 0 && (name = hf_name_next(h->family, place.block, place.local, name)))
                r = add_parts(h, t, &place, name);
        if (r == 0 && !hf_name_next(h->family, place.block, place.local, NULL))
                return fail(h, LOADER_E_UNSUPPORTED, t, "is not one that a model of this kind has");
        return r;
}

/* Parts of a tensor together, in the order of its matrices. */
static int by_target(const void *a, const void *b) {
        const struct hf_part *x = a, *y = b;
        int r = strcmp(x->target, y->target);

        return r ? r : x->expert < y->expert ? -1 : x->expert > y->expert;
}

/* The file's order: reading goes forward. */
static int by_place(const void *a, const void *b, void *arg) {
        const struct hf *h = arg;
        const struct hf_part *x = &h->parts[((const struct hf_tensor *)a)->first];
        const struct hf_part *y = &h->parts[((const struct hf_tensor *)b)->first];

        if (!x->tensor || !y->tensor)
                return x->tensor ? 1 : y->tensor ? -1 : strcmp(x->target, y->target);
        if (x->tensor->file != y->tensor->file)
                return x->tensor->file < y->tensor->file ? -1 : 1;
        if (x->tensor->offset != y->tensor->offset)
                return x->tensor->offset < y->tensor->offset ? -1 : 1;
        return x->first < y->first ? -1 : x->first > y->first;
}

static int group(struct hf *h, size_t *ret_n) {
        size_t n = 0;

        qsort(h->parts, h->n_parts, sizeof(*h->parts), by_target);
        h->tensors = calloc(h->n_parts ? h->n_parts : 1, sizeof(*h->tensors));
        if (!h->tensors)
                return -ENOMEM;
        for (size_t i = 0; i < h->n_parts; i++) {
                const struct hf_part *p = &h->parts[i], *first;

                if (i == 0 || strcmp(p->target, p[-1].target) != 0)
                        h->tensors[n++] = (struct hf_tensor){ i, 0 };
                first = &h->parts[h->tensors[n - 1].first];
                if (p->expert != h->tensors[n - 1].n++)
                        return fail(h, LOADER_E_INVALID, p->tensor, "is there twice, or an expert before it is missing");
                if (p->n_rows != first->n_rows || p->n_in != first->n_in || p->fmt != first->fmt || p->how != first->how)
                        return fail(h, LOADER_E_UNSUPPORTED, p->tensor, "has another type or shape than the first expert's");
        }
        qsort_r(h->tensors, n, sizeof(*h->tensors), by_place, h);
        *ret_n = n;
        return 0;
}

/* Dimensions that GGUF's form of the tensor has: of one expert's matrices among several, three; of biases of experts,
 * which are one tensor's rows or many tensors, two. */
static uint32_t shape(const struct hf_part *part, size_t n, uint64_t dims[3]) {
        uint32_t n_dims = part->how == HF_FACTORS || !part->tensor->n_dims ? 1 : part->how == HF_MXFP4 ? 3 : part->tensor->n_dims;

        dims[0] = part->n_in;
        dims[1] = part->n_rows;
        dims[2] = n;
        if (part->how == HF_SCALE || part->how == HF_DIVISOR) {
                dims[0] = n;
                dims[2] = 1;
                return 1;
        }
        return n_dims == 2 && strstr(part->target, "_exps.weight") ? 3 : n_dims;
}

static int add_group(struct hf *h, struct image_plan *plan, const struct hf_tensor *g) {
        const struct hf_part *part = &h->parts[g->first];
        uint64_t dims[3] = { 1, 1, 1 };
        uint32_t n_dims = shape(part, g->n, dims), layout = image_tensor_layout(part->target, n_dims);
        int r = image_plan_add_tensor(plan, part->target, layout == WEIGHT_PANELS ? part->fmt : FMT_F32, layout, n_dims, dims);

        if (r <= 0)
                return r;
        return fail(h, LOADER_E_INVALID, part->tensor, "has a shape that an image cannot hold");
}

int hf_plan_tensors(struct hf *h, struct image_plan *plan) {
        struct image_error error;
        size_t n = 0, at = 0;
        bool tied = false;
        int r = is_tied(h, &tied);

        for (size_t i = 0; i < h->weights.n_tensors && r == 0; i++)
                r = add_tensor(h, &plan->hparams, &h->weights.tensors[i], tied);
        if (!r)
                r = group(h, &n);
        for (size_t i = 0; i < n && r == 0; i++)
                r = add_group(h, plan, &h->tensors[i]);
        if (r)
                return r;
        r = image_schema_check(&plan->hparams, plan->tensors, plan->n_tensors, &at, &error);
        if (r <= 0)
                return r;
        r = r == IMAGE_SCHEMA_E_UNSUPPORTED ? LOADER_E_UNSUPPORTED : LOADER_E_INVALID;
        if (at == IMAGE_SCHEMA_NO_TENSOR || !h->parts[h->tensors[at].first].tensor)
                return loader_fail(h->error, r, "%s", error.text);
        return fail(h, r, h->parts[h->tensors[at].first].tensor, error.text);
}
