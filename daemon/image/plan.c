/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "kernels/format.h"

#include "checksum.h"
#include "layout.h"
#include "plan.h"
#include "tensor-size.h"

#define SEGMENTS_WANTED 24u
#define SEGMENT_BYTES_MIN (256ull << 20)

void image_plan_deinit(struct image_plan *plan) {
        free(plan->tensors);
        free(plan->name_index);
        *plan = IMAGE_PLAN_NULL;
}

static int plan_grow(struct image_plan *plan) {
        size_t cap = plan->cap_tensors ? plan->cap_tensors * 2 : 64;
        struct image_tensor *tensors;

        if (plan->n_tensors < plan->cap_tensors)
                return 0;
        tensors = reallocarray(plan->tensors, cap, sizeof(*tensors));
        if (!tensors)
                return -ENOMEM;
        plan->tensors = tensors;
        plan->cap_tensors = cap;
        return 0;
}

int image_plan_add_tensor(struct image_plan *plan, const char *name, uint32_t fmt, uint32_t layout, uint32_t n_dims,
                          const uint64_t *dims) {
        struct image_tensor t = { .fmt = fmt, .layout = layout, .n_dims = n_dims };
        uint64_t n_elements;
        int r;

        if (plan->n_tensors >= IMAGE_TENSORS_MAX)
                return IMAGE_PLAN_E_LIMIT;
        if (n_dims < 1 || n_dims > IMAGE_DIMS_MAX || strlen(name) >= sizeof(t.name))
                return IMAGE_PLAN_E_SHAPE;
        (void)strcpy(t.name, name);
        for (uint32_t i = 0; i < IMAGE_DIMS_MAX; i++)
                t.dims[i] = i < n_dims ? dims[i] : 1;
        if (!image_tensor_size(&t, &t.size, &n_elements) || !checked_add(plan->n_params, n_elements, &n_elements))
                return IMAGE_PLAN_E_SHAPE;
        r = plan_grow(plan);
        if (r < 0)
                return r;
        plan->n_params = n_elements;
        plan->tensors[plan->n_tensors++] = t;
        return 0;
}

int image_plan_code_tensor(struct image_plan *plan, size_t i, uint64_t escapes) {
        struct image_tensor t = plan->tensors[i];
        struct lossless_parts parts;

        t.fmt = FMT_BF16_LL;
        if (!image_tensor_parts(&t, &parts) || !checked_add(parts.least, escapes, &t.size))
                return IMAGE_PLAN_E_SHAPE;
        plan->tensors[i] = t;
        return 0;
}

static uint64_t string_size(const char *s) {
        return s ? strlen(s) + 1 : 1;
}

/* Sizes of all sections; offsets follow. Nothing here can overflow: the parts are in memory already. */
static void plan_sections(const struct image_plan *plan, struct image_header *header) {
        const struct image_vocab *v = &plan->vocab;
        const uint64_t size[IMAGE_SECTION_N] = {
                [IMAGE_SECTION_HPARAMS] = sizeof(struct image_hparams),
                [IMAGE_SECTION_TENSORS] = plan->n_tensors * sizeof(struct image_tensor),
                [IMAGE_SECTION_NAME_INDEX] = plan->n_tensors * sizeof(uint32_t),
                [IMAGE_SECTION_VOCAB] = sizeof(struct image_vocab_record),
                [IMAGE_SECTION_PRE] = string_size(v->pre),
                [IMAGE_SECTION_TOKEN_BYTES] = v->n_tokens ? v->token_offsets[v->n_tokens] : 0,
                [IMAGE_SECTION_TOKEN_OFFSETS] = (v->n_tokens + 1) * sizeof(uint64_t),
                [IMAGE_SECTION_SCORES] = v->scores ? v->n_tokens * sizeof(float) : 0,
                [IMAGE_SECTION_TYPES] = v->n_tokens,
                [IMAGE_SECTION_MERGE_BYTES] = v->n_merges ? v->merge_offsets[v->n_merges] : 0,
                [IMAGE_SECTION_MERGE_OFFSETS] = (v->n_merges + 1) * sizeof(uint64_t),
                [IMAGE_SECTION_TEMPLATE] = plan->chat_template ? plan->chat_template_size + 1 : 0,
        };
        uint64_t at = sizeof(*header);

        for (size_t i = 0; i < IMAGE_SECTION_N; i++) {
                at = (at + IMAGE_ALIGN - 1) & ~(uint64_t)(IMAGE_ALIGN - 1);
                header->sections[i] = (struct image_span){ at, size[i] };
                at += size[i];
        }
        header->tables_size = at;
}

static int name_compare(const void *a, const void *b, void *arg) {
        const struct image_tensor *tensors = arg;

        return strcmp(tensors[*(const uint32_t *)a].name, tensors[*(const uint32_t *)b].name);
}

static int plan_index(struct image_plan *plan) {
        uint32_t *index = reallocarray(plan->name_index, plan->n_tensors + 1, sizeof(*index));

        if (!index)
                return -ENOMEM;
        plan->name_index = index;
        for (size_t i = 0; i < plan->n_tensors; i++)
                index[i] = (uint32_t)i;
        qsort_r(index, plan->n_tensors, sizeof(*index), name_compare, plan->tensors);
        for (size_t i = 1; i < plan->n_tensors; i++)
                if (name_compare(&index[i - 1], &index[i], plan->tensors) == 0)
                        return IMAGE_PLAN_E_DUPLICATE;
        return 0;
}

/* Puts one tensor at the end of the last segment, or into a new one where that would get too long. */
static int plan_place(struct image_plan *plan, struct image_tensor *t, uint64_t segment_max) {
        uint64_t align = t->size >= IMAGE_PAGE_FROM ? IMAGE_PAGE : IMAGE_ALIGN;
        uint64_t *used = &plan->segment_size[plan->n_segments - 1];
        uint64_t start, end;

        if (!checked_align(*used, align, &start) || !checked_add(start, t->size, &end))
                return IMAGE_PLAN_E_LIMIT;
        if (end > segment_max && *used > 0) {
                if (plan->n_segments == IMAGE_SEGMENTS_MAX)
                        return IMAGE_PLAN_E_LIMIT;
                used = &plan->segment_size[plan->n_segments++];
                start = 0;
                end = t->size;
        }
        t->segment = (uint32_t)(plan->n_segments - 1);
        t->offset = start;
        *used = end;
        return checked_add(plan->data_size, t->size, &plan->data_size) ? 0 : IMAGE_PLAN_E_LIMIT;
}

/* Small enough that a part of an image can be given back, large enough that there are not too many: two that follow one
 * another are together longer than this. */
static uint64_t segment_bytes(const struct image_plan *plan, uint64_t segment_max) {
        uint64_t sum = 0;

        for (size_t i = 0; i < plan->n_tensors; i++)
                if (!checked_add(sum, plan->tensors[i].size, &sum))
                        return segment_max;
        sum = MAX(sum / SEGMENTS_WANTED, (uint64_t)SEGMENT_BYTES_MIN);
        return MIN(segment_max, sum);
}

int image_plan_layout(struct image_plan *plan, uint64_t segment_max) {
        struct image_header header;
        int r;

        segment_max = segment_bytes(plan, segment_max);
        r = plan_index(plan);
        if (r)
                return r;
        plan_sections(plan, &header);
        plan->tables_size = header.tables_size;
        plan->n_segments = 1;
        plan->segment_size[0] = header.tables_size;
        plan->data_size = 0;
        for (size_t i = 0; i < plan->n_tensors; i++) {
                r = plan_place(plan, &plan->tensors[i], segment_max);
                if (r)
                        return r;
        }
        for (size_t i = 0; i < plan->n_segments; i++)
                if (!checked_align(plan->segment_size[i], IMAGE_PAGE, &plan->segment_size[i]) ||
                    plan->segment_size[i] > INT64_MAX)
                        return IMAGE_PLAN_E_LIMIT;
        return 0;
}

static struct image_vocab_record vocab_record(const struct image_vocab *v) {
        return (struct image_vocab_record){
                .model = v->model,
                .flags = (v->add_bos ? IMAGE_VOCAB_ADD_BOS : 0u) | (v->add_eos ? IMAGE_VOCAB_ADD_EOS : 0u) |
                         (v->add_space_prefix ? IMAGE_VOCAB_ADD_SPACE_PREFIX : 0u) |
                         (v->remove_extra_whitespaces ? IMAGE_VOCAB_REMOVE_EXTRA_WHITESPACES : 0u) |
                         (v->ignore_merges ? IMAGE_VOCAB_IGNORE_MERGES : 0u) |
                         (v->has_add_bos ? IMAGE_VOCAB_HAS_ADD_BOS : 0u) |
                         (v->has_add_space_prefix ? IMAGE_VOCAB_HAS_ADD_SPACE_PREFIX : 0u) |
                         (v->exact ? IMAGE_VOCAB_EXACT : 0u) |
                         (v->nfc ? IMAGE_VOCAB_NFC : 0u) | (v->prefix_first ? IMAGE_VOCAB_PREFIX_FIRST : 0u) |
                         (v->prefix_missing ? IMAGE_VOCAB_PREFIX_MISSING : 0u),
                .n_tokens = v->n_tokens,
                .n_merges = v->n_merges,
                .bos = v->bos,
                .eos = v->eos,
                .eot = v->eot,
                .eom = v->eom,
                .unk = v->unk,
                .sep = v->sep,
                .pad = v->pad,
                .opening = v->opening,
                .closing = v->closing,
        };
}

void image_plan_write_tables(const struct image_plan *plan, void *segment0) {
        const struct image_vocab *v = &plan->vocab;
        const struct image_vocab_record record = vocab_record(v);
        struct image_header header = {
                .version = IMAGE_VERSION,
                .header_size = sizeof(header),
                .n_segments = (uint32_t)plan->n_segments,
                .n_tensors = (uint32_t)plan->n_tensors,
                .n_params = plan->n_params,
        };
        static const uint64_t no_offsets[1] = { 0 };
        const void *const data[IMAGE_SECTION_N] = {
                [IMAGE_SECTION_HPARAMS] = &plan->hparams,
                [IMAGE_SECTION_TENSORS] = plan->tensors,
                [IMAGE_SECTION_NAME_INDEX] = plan->name_index,
                [IMAGE_SECTION_VOCAB] = &record,
                [IMAGE_SECTION_PRE] = v->pre ? v->pre : "",
                [IMAGE_SECTION_TOKEN_BYTES] = v->token_bytes,
                [IMAGE_SECTION_TOKEN_OFFSETS] = v->n_tokens ? v->token_offsets : no_offsets,
                [IMAGE_SECTION_SCORES] = v->scores,
                [IMAGE_SECTION_TYPES] = v->types,
                [IMAGE_SECTION_MERGE_BYTES] = v->merge_bytes,
                [IMAGE_SECTION_MERGE_OFFSETS] = v->n_merges ? v->merge_offsets : no_offsets,
                [IMAGE_SECTION_TEMPLATE] = plan->chat_template,
        };

        (void)memcpy(header.magic, IMAGE_MAGIC, sizeof(header.magic));
        (void)memcpy(header.segment_size, plan->segment_size, plan->n_segments * sizeof(uint64_t));
        plan_sections(plan, &header);
        (void)memcpy(segment0, &header, sizeof(header));
        for (size_t i = 0; i < IMAGE_SECTION_N; i++) {
                /* the template's closing NUL is ours, not the source's */
                uint64_t n = header.sections[i].size - (i == IMAGE_SECTION_TEMPLATE && plan->chat_template);

                if (n > 0)
                        (void)memcpy((char *)segment0 + header.sections[i].offset, data[i], n);
        }
        if (plan->checked) {
                header.tables_checksum = image_checksum_tables(segment0, (size_t)header.tables_size);
                (void)memcpy(segment0, &header, sizeof(header));
        }
}

const char *image_plan_format(const struct image_plan *plan) {
        uint64_t bytes[FMT_END] = { 0 };
        size_t best = 0;

        for (size_t i = 0; i < plan->n_tensors; i++)
                if (plan->tensors[i].fmt < FMT_END && plan->tensors[i].n_dims > 1)
                        bytes[plan->tensors[i].fmt] += plan->tensors[i].size;
        for (size_t i = 0; i < FMT_END; i++)
                if (bytes[i] > bytes[best])
                        best = i;
        return bytes[best] && fmt_info((uint32_t)best) ? fmt_info((uint32_t)best)->name : "";
}
