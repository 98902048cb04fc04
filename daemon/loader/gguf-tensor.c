/* SPDX-License-Identifier: Apache-2.0 */

/* Tensor infos: names, shapes, formats, and where the data lies. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "kernels/format.h"

#include "gguf-read.h"

static int tensor_fail(struct gguf *g, const struct gguf_tensor *t, int code, const char *text, uint64_t number) {
        return loader_fail(g->error, code, "tensor '%s' at offset %llu: %s (%llu)", t->name, (unsigned long long)t->info,
                           text, (unsigned long long)number);
}

static int read_name(struct gguf *g, size_t i, struct gguf_tensor *t) {
        char show[LOADER_SHOW_MAX], what[64];
        uint64_t at, n;
        int r;

        (void)snprintf(what, sizeof(what), "the name of tensor %zu", i);
        t->info = g->pos;
        t->source = g->number;
        r = gguf_take_string(g, what, &at, &n);
        if (r)
                return r;
        if (n >= GGUF_NAME_MAX || !gguf_plain_name(g->data + at, n))
                return loader_fail(g->error, LOADER_E_INVALID, "%s at offset %llu is empty, too long or not plain text: '%s'",
                                   what, (unsigned long long)t->info, loader_show(show, g->data + at, n));
        (void)memcpy(t->name, g->data + at, n);
        t->name[n] = 0;
        return 0;
}

static int read_dims(struct gguf *g, const char *what, struct gguf_tensor *t) {
        uint64_t elements = 1;
        int r;

        r = gguf_take(g, &t->n_dims, 4, what);
        if (r)
                return r;
        if (t->n_dims < 1 || t->n_dims > GGUF_DIMS_MAX)
                return tensor_fail(g, t, LOADER_E_INVALID, "the number of dimensions is not 1 to 4", t->n_dims);
        for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
                t->dims[i] = 1;
                r = i < t->n_dims ? gguf_take(g, &t->dims[i], 8, what) : 0;
                if (r)
                        return r;
                if (t->dims[i] < 1)
                        return loader_fail(g->error, LOADER_E_INVALID, "tensor '%s' at offset %llu: dimension %u is 0", t->name,
                                           (unsigned long long)t->info, i);
                if (!checked_mul(elements, t->dims[i], &elements) || elements > INT64_MAX)
                        return loader_fail(g->error, LOADER_E_INVALID,
                                           "tensor '%s' at offset %llu: dimension %u is %llu, too many elements", t->name,
                                           (unsigned long long)t->info, i, (unsigned long long)t->dims[i]);
        }
        return 0;
}

/* What GGUF has beyond the formats that the kernels know; all other numbers are none or retired ones. */
static const struct {
        uint32_t type;
        const char *name;
} unsupported[] = {
        { 9, "Q8_1" },    { 15, "Q8_K" },   { 16, "IQ2_XXS" }, { 17, "IQ2_XS" }, { 18, "IQ3_XXS" }, { 19, "IQ1_S" },
        { 21, "IQ3_S" },  { 22, "IQ2_S" },  { 24, "I8" },      { 25, "I16" },    { 26, "I32" },     { 27, "I64" },
        { 28, "F64" },    { 29, "IQ1_M" },  { 34, "TQ1_0" },   { 35, "TQ2_0" },  { 41, "Q1_0" },    { 42, "Q2_0" },
};

static int refuse_type(struct gguf *g, const struct gguf_tensor *t) {
        for (size_t i = 0; i < ARRAY_SIZE(unsupported); i++)
                if (unsupported[i].type == t->fmt)
                        return loader_fail(g->error, LOADER_E_UNSUPPORTED, "tensor '%s' at offset %llu: unsupported type %s (%u)",
                                           t->name, (unsigned long long)t->info, unsupported[i].name, t->fmt);
        return tensor_fail(g, t, LOADER_E_INVALID, "its type is none", t->fmt);
}

static int read_format(struct gguf *g, const char *what, struct gguf_tensor *t) {
        const struct fmt_info *info;
        uint64_t row, rows = t->dims[1] * t->dims[2] * t->dims[3]; /* the product was checked */
        int r;

        r = gguf_take(g, &t->fmt, 4, what);
        if (r)
                return r;
        info = t->fmt < FMT_NOT_GGUF ? fmt_info(t->fmt) : NULL;
        if (!info)
                return refuse_type(g, t);
        if (t->dims[0] % info->block != 0)
                return tensor_fail(g, t, LOADER_E_INVALID, "dimension 0 is no multiple of its type's block", t->dims[0]);
        row = fmt_row_bytes(info, t->dims[0]);
        if (row == 0 || !checked_mul(row, rows, &t->size))
                return tensor_fail(g, t, LOADER_E_INVALID, "its size is more than can be; dimension 0", t->dims[0]);
        return 0;
}

static int read_offset(struct gguf *g, const char *what, struct gguf_tensor *t) {
        int r;

        r = gguf_take(g, &t->offset, 8, what); /* relative until all are read */
        if (r)
                return r;
        if (t->offset % g->alignment != 0)
                return tensor_fail(g, t, LOADER_E_INVALID, "its data's offset is not aligned", t->offset);
        return 0;
}

static int read_info(struct gguf *g, size_t i, struct gguf_tensor *t) {
        char what[GGUF_NAME_MAX + 16];
        int r;

        r = read_name(g, i, t);
        if (r)
                return r;
        (void)snprintf(what, sizeof(what), "tensor '%s'", t->name);
        r = read_dims(g, what, t);
        if (!r)
                r = read_format(g, what, t);
        if (!r)
                r = read_offset(g, what, t);
        return r;
}

static int place(struct gguf *g, struct gguf_tensor *t) {
        uint64_t relative = t->offset;

        if (!checked_add(g->data_offset, relative, &t->offset) || !checked_range(t->offset, t->size, g->source->size))
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "tensor '%s' at offset %llu: its %llu bytes of data at %llu + %llu do not lie in the file, "
                                   "which has %llu bytes: it is damaged or cut off",
                                   t->name, (unsigned long long)t->info, (unsigned long long)t->size,
                                   (unsigned long long)g->data_offset, (unsigned long long)relative,
                                   (unsigned long long)g->source->size);
        return 0;
}

static int compare_names(const void *a, const void *b) {
        return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int compare_offsets(const void *a, const void *b) {
        const struct gguf_tensor *x = a, *y = b;

        if (x->source != y->source)
                return x->source < y->source ? -1 : 1;
        return (x->offset > y->offset) - (x->offset < y->offset);
}

static int check_names(struct gguf *g) {
        qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), compare_names);
        for (size_t i = 1; i < g->n_tensors; i++) {
                gguf_blame(g, &g->tensors[i]);
                if (compare_names(&g->tensors[i - 1], &g->tensors[i]) == 0)
                        return tensor_fail(g, &g->tensors[i], LOADER_E_INVALID, "another one has the same name, at offset",
                                           g->tensors[i - 1].info);
        }
        g->error->part = 0;
        return 0;
}

static int check_overlaps(struct gguf *g) {
        qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), compare_offsets);
        for (size_t i = 1; i < g->n_tensors; i++) {
                const struct gguf_tensor *a = &g->tensors[i - 1], *b = &g->tensors[i];

                gguf_blame(g, b);
                if (a->source == b->source && b->offset - a->offset < a->size)
                        return loader_fail(g->error, LOADER_E_INVALID,
                                           "tensor '%s' at offset %llu: its data at %llu overlaps that of '%s'", b->name,
                                           (unsigned long long)b->info, (unsigned long long)b->offset, a->name);
        }
        g->error->part = 0;
        return 0;
}

/* One file's. */
static int read_infos(struct gguf *g) {
        int r;

        g->error->part = g->source->part;
        g->tensors = calloc(g->n_infos + 1, sizeof(*g->tensors));
        if (!g->tensors)
                return -ENOMEM;
        for (; g->n_tensors < g->n_infos; g->n_tensors++) {
                r = read_info(g, g->n_tensors, &g->tensors[g->n_tensors]);
                if (r)
                        return r;
        }
        if (!checked_align(g->pos, g->alignment, &g->data_offset))
                return loader_fail(g->error, LOADER_E_INVALID, "the header ends at offset %llu, too far", (unsigned long long)g->pos);
        for (size_t i = 0; i < g->n_tensors; i++) {
                r = place(g, &g->tensors[i]);
                if (r)
                        return r;
        }
        g->error->part = 0;
        return 0;
}

/* Puts a part's tensors behind those of the first. */
static int append(struct gguf *g, const struct gguf *part) {
        struct gguf_tensor *tensors;

        if (part->n_tensors > GGUF_TENSORS_MAX - g->n_tensors)
                return loader_fail(g->error, LOADER_E_INVALID, "all parts together have more than %u tensors", GGUF_TENSORS_MAX);
        tensors = reallocarray(g->tensors, g->n_tensors + part->n_tensors + 1, sizeof(*tensors));
        if (!tensors)
                return -ENOMEM;
        if (part->n_tensors)
                (void)memcpy(tensors + g->n_tensors, part->tensors, part->n_tensors * sizeof(*tensors));
        g->tensors = tensors;
        g->n_tensors += part->n_tensors;
        return 0;
}

int gguf_read_tensors(struct gguf *g) {
        int r;

        r = read_infos(g);
        for (size_t i = 0; i < g->n_more && !r; i++) {
                r = read_infos(&g->more[i]);
                if (!r)
                        r = append(g, &g->more[i]);
        }
        if (!r)
                r = check_names(g);
        return r ? r : check_overlaps(g);
}
