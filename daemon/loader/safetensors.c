/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"

#include "gguf-read.h"
#include "json.h"
#include "safetensors.h"
#include "source-copy.h"

static const struct {
        const char *name;
        uint32_t size;
} types[] = {
        [SAFETENSORS_BOOL] = { "BOOL", 1 },       [SAFETENSORS_U8] = { "U8", 1 },
        [SAFETENSORS_I8] = { "I8", 1 },           [SAFETENSORS_F8_E4M3] = { "F8_E4M3", 1 },
        [SAFETENSORS_F8_E5M2] = { "F8_E5M2", 1 }, [SAFETENSORS_F8_E8M0] = { "F8_E8M0", 1 },
        [SAFETENSORS_U16] = { "U16", 2 },         [SAFETENSORS_I16] = { "I16", 2 },
        [SAFETENSORS_F16] = { "F16", 2 },         [SAFETENSORS_BF16] = { "BF16", 2 },
        [SAFETENSORS_U32] = { "U32", 4 },         [SAFETENSORS_I32] = { "I32", 4 },
        [SAFETENSORS_F32] = { "F32", 4 },         [SAFETENSORS_U64] = { "U64", 8 },
        [SAFETENSORS_I64] = { "I64", 8 },         [SAFETENSORS_F64] = { "F64", 8 },
};

_Static_assert(ARRAY_SIZE(types) == SAFETENSORS_TYPE_N, "a row for each type");

/* A file that is being read. */
struct reader {
        struct safetensors *set;
        const char *name;
        uint32_t file;
        struct source *source;
        struct loader_error *error;
        char *header;
        uint64_t size; /* of the header */
};

const char *safetensors_type_name(enum safetensors_type type) {
        return types[type].name;
}

uint32_t safetensors_type_size(enum safetensors_type type) {
        return types[type].size;
}

void safetensors_deinit(struct safetensors *s) {
        for (size_t i = 0; i < s->n_tensors; i++)
                free(s->tensors[i].name);
        free(s->tensors);
        *s = SAFETENSORS_NULL;
}

/* Where the header writes this name, 0 where it does so with escapes: for messages only. */
static uint64_t find_name(const struct reader *r, const char *name) {
        size_t n = strlen(name);
        const char *at = r->header;

        while (at && (at = memmem(at, r->size - (size_t)(at - r->header), name, n))) {
                if (at > r->header && at[-1] == '"' && at + n < r->header + r->size && at[n] == '"')
                        return 8 + (uint64_t)(at - r->header) - 1;
                at++;
        }
        return 0;
}

static int fail(const struct reader *r, int code, const struct safetensors_tensor *t, const char *what) {
        char show[LOADER_SHOW_MAX];

        return loader_fail(r->error, code, "%s: tensor '%s' at offset %llu: %s", r->name,
                           loader_show(show, t->name, strlen(t->name)), (unsigned long long)find_name(r, t->name), what);
}

static int read_type(const struct reader *r, struct json_object *o, struct safetensors_tensor *t) {
        struct json_object *value = NULL;

        if (!json_object_object_get_ex(o, "dtype", &value) || !json_object_is_type(value, json_type_string))
                return fail(r, LOADER_E_INVALID, t, "'dtype' is missing or no text");
        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (strcmp(types[i].name, json_object_get_string(value)) == 0) {
                        t->type = (enum safetensors_type)i;
                        return 0;
                }
        return fail(r, LOADER_E_UNSUPPORTED, t, "its 'dtype' is not known");
}

static bool get_whole(struct json_object *o, uint64_t *ret) {
        if (!json_object_is_type(o, json_type_int) || json_object_get_int64(o) < 0)
                return false;
        *ret = json_object_get_uint64(o);
        return true;
}

static int read_shape(const struct reader *r, struct json_object *o, struct safetensors_tensor *t) {
        struct json_object *shape = NULL;

        if (!json_object_object_get_ex(o, "shape", &shape) || !json_object_is_type(shape, json_type_array))
                return fail(r, LOADER_E_INVALID, t, "'shape' is missing or no list");
        if (json_object_array_length(shape) > SAFETENSORS_DIMS_MAX)
                return fail(r, LOADER_E_UNSUPPORTED, t, "it has too many dimensions");
        t->n_dims = (uint32_t)json_object_array_length(shape);
        t->size = types[t->type].size;
        for (uint32_t i = 0; i < t->n_dims; i++)
                if (!get_whole(json_object_array_get_idx(shape, i), &t->dims[i]) ||
                    !checked_mul(t->size, t->dims[i], &t->size))
                        return fail(r, LOADER_E_INVALID, t, "'shape' has a number that makes no sense");
        return 0;
}

static int read_offsets(const struct reader *r, struct json_object *o, struct safetensors_tensor *t) {
        struct json_object *offsets = NULL;
        uint64_t start = 0, end = 0, data = 8 + r->size;

        if (!json_object_object_get_ex(o, "data_offsets", &offsets) || !json_object_is_type(offsets, json_type_array) ||
            json_object_array_length(offsets) != 2 || !get_whole(json_object_array_get_idx(offsets, 0), &start) ||
            !get_whole(json_object_array_get_idx(offsets, 1), &end) || start > end)
                return fail(r, LOADER_E_INVALID, t, "'data_offsets' is missing or makes no sense");
        if (end > r->source->size - data)
                return fail(r, LOADER_E_INVALID, t, "'data_offsets' are behind the end of the file");
        if (end - start != t->size)
                return fail(r, LOADER_E_INVALID, t, "'data_offsets' do not agree with 'shape' and 'dtype'");
        t->offset = data + start;
        return 0;
}

static int add(struct reader *r, const char *name, struct json_object *o) {
        struct safetensors *s = r->set;
        struct safetensors_tensor t = { .file = r->file };
        char show[LOADER_SHOW_MAX];
        int e;

        if (strlen(name) >= SAFETENSORS_NAME_MAX || !gguf_plain_name(name, strlen(name)))
                return loader_fail(r->error, LOADER_E_INVALID,
                                   "%s: the name of a tensor is empty, too long or not plain text: '%s'", r->name,
                                   loader_show(show, name, strlen(name)));
        if (s->n_tensors == SAFETENSORS_TENSORS_MAX)
                return loader_fail(r->error, LOADER_E_UNSUPPORTED, "%s: more than %u tensors", r->name,
                                   SAFETENSORS_TENSORS_MAX);
        if (s->n_tensors == s->cap) {
                size_t cap = s->cap ? 2 * s->cap : 256;
                struct safetensors_tensor *p = reallocarray(s->tensors, cap, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                s->tensors = p;
                s->cap = cap;
        }
        t.name = strdup(name);
        if (!t.name)
                return -ENOMEM;
        s->tensors[s->n_tensors] = t;
        struct safetensors_tensor *put = &s->tensors[s->n_tensors++];

        if (!json_object_is_type(o, json_type_object))
                return fail(r, LOADER_E_INVALID, put, "its entry is not an object");
        e = read_type(r, o, put);
        if (!e)
                e = read_shape(r, o, put);
        if (!e)
                e = read_offsets(r, o, put);
        return e;
}

static int by_offset(const void *a, const void *b) {
        const struct safetensors_tensor *x = a, *y = b;

        if (x->offset != y->offset)
                return x->offset < y->offset ? -1 : 1;
        return x->size < y->size ? -1 : x->size > y->size;
}

/* The file's tensors, from `first` on, lie one after another. */
static int check_order(const struct reader *r, size_t first) {
        struct safetensors *s = r->set;
        uint64_t end = 8 + r->size;

        if (s->n_tensors > first)
                qsort(s->tensors + first, s->n_tensors - first, sizeof(*s->tensors), by_offset);
        for (size_t i = first; i < s->n_tensors; i++) {
                struct safetensors_tensor *t = &s->tensors[i];

                if (t->offset != end)
                        return fail(r, LOADER_E_INVALID, t,
                                    t->offset < end ? "its data overlaps another one's" : "there is a gap before its data");
                end = t->offset + t->size;
        }
        if (end == r->source->size)
                return 0;
        return loader_fail(r->error, LOADER_E_INVALID, "%s: the data ends at offset %llu, the file at %llu", r->name,
                           (unsigned long long)end, (unsigned long long)r->source->size);
}

static int add_all(struct reader *r, struct json_object *root) {
        struct json_object_iterator it = json_object_iter_begin(root), end = json_object_iter_end(root);
        size_t first = r->set->n_tensors;

        for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
                const char *name = json_object_iter_peek_name(&it);
                int e;

                if (strcmp(name, "__metadata__") == 0)
                        continue;
                e = add(r, name, json_object_iter_peek_value(&it));
                if (e)
                        return e;
        }
        return check_order(r, first);
}

static int read_header(struct reader *r) {
        uint64_t n = 0;
        int e;

        if (r->source->size < 8)
                return loader_fail(r->error, LOADER_E_INVALID, "%s: too short for a safetensors file (%llu bytes)", r->name,
                                   (unsigned long long)r->source->size);
        e = source_copy(r->source, 0, &n, 8, r->error);
        if (e)
                return e;
        if (n > SAFETENSORS_HEADER_MAX || n > r->source->size - 8)
                return loader_fail(r->error, LOADER_E_INVALID,
                                   "%s: the header's length at offset 0 is %llu, of a file of %llu bytes (at most %u are read)",
                                   r->name, (unsigned long long)n, (unsigned long long)r->source->size,
                                   SAFETENSORS_HEADER_MAX);
        r->size = n;
        r->header = malloc(n + 1);
        if (!r->header)
                return -ENOMEM;
        r->header[n] = 0;
        return source_copy(r->source, 8, r->header, n, r->error);
}

int safetensors_read(struct safetensors *s, const char *name, uint32_t file, struct source *source,
                     struct loader_error *error) {
        struct reader r = { .set = s, .name = name, .file = file, .source = source, .error = error };
        struct json_object *root = NULL;
        int e;

        e = read_header(&r);
        if (!e)
                e = json_parse_file(name, r.header, r.size, &root, error);
        if (!e)
                e = add_all(&r, root);
        (void)json_object_put(root);
        free(r.header);
        return e;
}

static int by_name(const void *a, const void *b) {
        const struct safetensors_tensor *x = a, *y = b;

        return strcmp(x->name, y->name);
}

int safetensors_sort(struct safetensors *s, const char *const *names, struct loader_error *error) {
        if (s->n_tensors > 0)
                qsort(s->tensors, s->n_tensors, sizeof(*s->tensors), by_name);
        for (size_t i = 1; i < s->n_tensors; i++) {
                const struct safetensors_tensor *t = &s->tensors[i];

                if (strcmp(t->name, t[-1].name) == 0)
                        return loader_fail(error, LOADER_E_INVALID, "tensor '%s' is in both %s and %s", t->name,
                                           names[t[-1].file], names[t->file]);
        }
        return 0;
}

static int compare_key(const void *key, const void *t) {
        return strcmp(key, ((const struct safetensors_tensor *)t)->name);
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name) {
        if (s->n_tensors == 0)
                return NULL;
        return bsearch(name, s->tensors, s->n_tensors, sizeof(*s->tensors), compare_key);
}
