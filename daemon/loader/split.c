/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>
#include <string.h>

#include "split.h"

static int get(struct gguf *g, const char *key, uint64_t max, uint64_t *ret) {
        int r;

        g->error->part = g->source->part;
        r = gguf_get_uint(g, key, 0, max, ret);
        if (r == GGUF_ABSENT)
                return loader_fail(g->error, LOADER_E_INVALID, "'%s' is missing: the file is no part of a model in several", key);
        return r < 0 ? LOADER_E_INVALID : 0;
}

static uint64_t value_offset(const struct gguf *g, const char *key) {
        const struct gguf_kv *kv = gguf_find(g, key);

        return kv ? kv->value : 0;
}

/* One part on its own. */
static int check_part(struct gguf *g, size_t n, uint64_t *ret_tensors) {
        uint64_t count = 0;
        int r;

        r = get(g, "split.count", UINT16_MAX, &count);
        if (r)
                return r;
        if (count != n)
                return loader_fail(g->error, LOADER_E_INVALID, "'split.count' at offset %llu is %llu, but %zu files were given",
                                   (unsigned long long)value_offset(g, "split.count"), (unsigned long long)count, n);
        r = get(g, "split.no", n - 1, &g->split_no);
        return r ? r : get(g, "split.tensors.count", GGUF_TENSORS_MAX, ret_tensors);
}

static int compare_numbers(const void *a, const void *b) {
        const struct gguf *x = a, *y = b;

        return (x->split_no > y->split_no) - (x->split_no < y->split_no);
}

/* Parts of another model may have the right numbers. Parts but the first need not name an architecture. */
static int check_kin(const struct gguf *first, struct gguf *g, uint64_t first_tensors, uint64_t tensors) {
        const struct gguf_kv *a = gguf_find(first, "general.architecture"), *b = gguf_find(g, "general.architecture");

        g->error->part = g->source->part;
        if (tensors != first_tensors)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'split.tensors.count' at offset %llu is %llu, that of part %u is %llu: they belong to different "
                                   "models",
                                   (unsigned long long)value_offset(g, "split.tensors.count"), (unsigned long long)tensors,
                                   first->source->part, (unsigned long long)first_tensors);
        if (a && b && (a->type != b->type || a->n != b->n || memcmp(first->data + a->value, g->data + b->value, a->n) != 0))
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'general.architecture' at offset %llu is another one than in part %u",
                                   (unsigned long long)b->value, first->source->part);
        return 0;
}

/* Once they are in order: each number there is one, of one model, and no tensor is missing. */
static int check_all(struct gguf *parts, size_t n, const uint64_t *tensors) {
        uint64_t sum = 0;

        for (size_t i = 0; i < n; i++) {
                int r;

                parts[i].error->part = parts[i].source->part;
                if (parts[i].split_no != i)
                        return loader_fail(parts[i].error, LOADER_E_INVALID,
                                           "'split.no' at offset %llu is %llu: that part is there twice, and number %zu is missing",
                                           (unsigned long long)value_offset(&parts[i], "split.no"),
                                           (unsigned long long)parts[i].split_no, i);
                r = check_kin(&parts[0], &parts[i], tensors[parts[0].number], tensors[parts[i].number]);
                if (r)
                        return r;
                sum += parts[i].n_infos;
        }
        parts[0].error->part = 0;
        if (sum != tensors[parts[0].number])
                return loader_fail(parts[0].error, LOADER_E_INVALID,
                                   "'split.tensors.count' is %llu, but all parts together have %llu tensors",
                                   (unsigned long long)tensors[parts[0].number], (unsigned long long)sum);
        parts[0].tensor_count = sum;
        return 0;
}

int split_read_metadata(struct gguf *parts, struct source *sources, size_t n, struct loader_error *error) {
        uint64_t tensors[SOURCES_MAX];
        int r;

        if (n == 1)
                return gguf_read_metadata(&parts[0], &sources[0], error);
        for (size_t i = 0; i < n; i++) {
                r = gguf_read_metadata(&parts[i], &sources[i], error);
                if (r)
                        return r;
                parts[i].number = (uint32_t)i;
                r = check_part(&parts[i], n, &tensors[i]);
                if (r)
                        return r;
        }
        qsort(parts, n, sizeof(*parts), compare_numbers);
        r = check_all(parts, n, tensors);
        if (r)
                return r;
        parts[0].more = parts + 1;
        parts[0].n_more = n - 1;
        error->part = parts[0].source->part; /* what is found wrong with the metadata */
        return 0;
}
