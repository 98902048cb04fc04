/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading the header. The copy in memory grows as the parser asks for more, in blocks that suit O_DIRECT; need() is the
 * one place that decides whether bytes are there. It knows the file's size from the start, so a count or a length that
 * cannot fit is refused before anything is allocated for it.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#include "gguf-read.h"

#define FILL_MIN (1u << 20)
/* smallest entries: key length, one byte of key, type, one byte of value; name length, name, dims, type, offset */
#define KV_BYTES_MIN (8u + 1u + 4u + 1u)
#define INFO_BYTES_MIN (8u + 1u + 4u + 8u + 4u + 8u)

static const uint8_t type_size[GGUF_TYPE_N] = {
        [GGUF_UINT8] = 1,  [GGUF_INT8] = 1,  [GGUF_UINT16] = 2,  [GGUF_INT16] = 2, [GGUF_UINT32] = 4,  [GGUF_INT32] = 4,
        [GGUF_FLOAT32] = 4, [GGUF_BOOL] = 1, [GGUF_UINT64] = 8, [GGUF_INT64] = 8, [GGUF_FLOAT64] = 8,
};

void gguf_deinit(struct gguf *g) {
        free(g->data);
        free(g->kvs);
        free(g->sorted);
        free(g->tensors);
        *g = GGUF_NULL;
}

static int grow(struct gguf *g, uint64_t end) {
        uint64_t cap = g->cap ? g->cap : FILL_MIN;
        char *data;

        while (cap < end)
                cap *= 2;
        if (cap == g->cap)
                return 0;
        data = aligned_alloc(SOURCE_ALIGN, cap);
        if (!data)
                return -ENOMEM;
        if (g->filled)
                (void)memcpy(data, g->data, g->filled);
        free(g->data);
        g->data = data;
        g->cap = cap;
        return 0;
}

/* Makes data[0, end) present; end is at most the file's size and GGUF_HEADER_MAX. */
static int fill(struct gguf *g, uint64_t end) {
        uint64_t start = g->filled & ~(uint64_t)(SOURCE_ALIGN - 1), left = g->source->size - start;
        size_t want, have;
        int r;

        r = grow(g, end);
        if (r < 0)
                return r;
        want = g->cap - start;
        have = left < want ? left : want;
        r = source_read(g->source, start, g->data + start, want, have, g->error);
        if (r)
                return r;
        source_forget(g->source, start, want);
        g->filled = start + have;
        return 0;
}

/* True after this: n bytes at pos are in memory. */
static int need(struct gguf *g, uint64_t n, const char *what) {
        uint64_t size = g->source->size;

        if (!checked_range(g->pos, n, size))
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "%s at offset %llu needs %llu bytes, the file has %llu left: it is damaged or cut off",
                                   what, (unsigned long long)g->pos, (unsigned long long)n,
                                   (unsigned long long)(g->pos < size ? size - g->pos : 0));
        if (!checked_range(g->pos, n, GGUF_HEADER_MAX))
                return loader_fail(g->error, LOADER_E_INVALID, "%s at offset %llu: the header is longer than %u bytes",
                                   what, (unsigned long long)g->pos, GGUF_HEADER_MAX);
        return g->pos + n > g->filled ? fill(g, g->pos + n) : 0;
}

int gguf_take(struct gguf *g, void *ret, size_t n, const char *what) {
        int r = need(g, n, what);

        if (r)
                return r;
        (void)memcpy(ret, g->data + g->pos, n);
        g->pos += n;
        return 0;
}

static int read_fixed(struct gguf *g, uint64_t *ret_n_kvs) {
        uint32_t magic = 0;
        int r;

        r = gguf_take(g, &magic, 4, "the magic number");
        if (r)
                return r;
        if (memcmp(&magic, "GGUF", 4) != 0)
                return loader_fail(g->error, LOADER_E_INVALID, "not a GGUF file: the bytes at offset 0 are not 'GGUF'");
        r = gguf_take(g, &g->version, 4, "the version");
        if (r)
                return r;
        if (g->version == 1)
                return loader_fail(g->error, LOADER_E_UNSUPPORTED, "the version at offset 4 is 1: convert the file to a newer one");
        if (__builtin_bswap32(g->version) <= 16 && g->version != 0)
                return loader_fail(g->error, LOADER_E_UNSUPPORTED, "the version at offset 4 says that the file is big-endian");
        if (g->version != 2 && g->version != 3)
                return loader_fail(g->error, LOADER_E_UNSUPPORTED, "the version at offset 4 is %u; 2 and 3 are known", g->version);
        r = gguf_take(g, &g->n_infos, 8, "the number of tensors");
        if (r)
                return r;
        r = gguf_take(g, ret_n_kvs, 8, "the number of metadata entries");
        if (r)
                return r;
        g->tensor_count = g->n_infos;
        if (g->n_infos > GGUF_TENSORS_MAX || g->n_infos > g->source->size / INFO_BYTES_MIN)
                return loader_fail(g->error, LOADER_E_INVALID, "the number of tensors at offset 8 is %llu: more than can be",
                                   (unsigned long long)g->n_infos);
        if (*ret_n_kvs > GGUF_KV_MAX || *ret_n_kvs > g->source->size / KV_BYTES_MIN)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "the number of metadata entries at offset 16 is %llu: more than can be",
                                   (unsigned long long)*ret_n_kvs);
        return 0;
}

int gguf_take_string(struct gguf *g, const char *what, uint64_t *ret_at, uint64_t *ret_n) {
        uint64_t n = 0;
        int r;

        r = gguf_take(g, &n, 8, what);
        if (r)
                return r;
        r = need(g, n, what);
        if (r)
                return r;
        *ret_at = g->pos;
        *ret_n = n;
        g->pos += n;
        return 0;
}

bool gguf_plain_name(const char *s, uint64_t n) {
        for (uint64_t i = 0; i < n; i++)
                if (s[i] <= 0x20 || s[i] >= 0x7f)
                        return false;
        return n > 0;
}

static int read_key(struct gguf *g, size_t i, struct gguf_kv *kv) {
        char show[LOADER_SHOW_MAX], what[64];
        uint64_t n = 0;
        int r;

        (void)snprintf(what, sizeof(what), "the key of metadata entry %zu", i);
        kv->offset = g->pos;
        r = gguf_take_string(g, what, &kv->key, &n);
        if (r)
                return r;
        if (n > GGUF_KEY_MAX || !gguf_plain_name(g->data + kv->key, n))
                return loader_fail(g->error, LOADER_E_INVALID, "%s at offset %llu is empty, too long or not plain text: '%s'",
                                   what, (unsigned long long)kv->offset, loader_show(show, g->data + kv->key, n));
        kv->key_len = (uint32_t)n;
        return 0;
}

static int read_type(struct gguf *g, const char *what, enum gguf_type *ret) {
        uint64_t at = g->pos;
        uint32_t type = 0;
        int r;

        r = gguf_take(g, &type, 4, what);
        if (r)
                return r;
        if (type >= GGUF_TYPE_N)
                return loader_fail(g->error, LOADER_E_INVALID, "%s: the type at offset %llu is %u, which is none", what,
                                   (unsigned long long)at, type);
        *ret = (enum gguf_type)type;
        return 0;
}

static int check_bools(struct gguf *g, const char *what, uint64_t at, uint64_t n) {
        for (uint64_t i = 0; i < n; i++)
                if ((unsigned char)g->data[at + i] > 1)
                        return loader_fail(g->error, LOADER_E_INVALID, "%s: the byte at offset %llu is neither true nor false",
                                           what, (unsigned long long)(at + i));
        return 0;
}

static int read_fixed_values(struct gguf *g, const char *what, enum gguf_type type, uint64_t n) {
        uint64_t bytes, at = g->pos;
        int r;

        if (!checked_mul(n, type_size[type], &bytes))
                return loader_fail(g->error, LOADER_E_INVALID, "%s at offset %llu: %llu elements are more than can be", what,
                                   (unsigned long long)at, (unsigned long long)n);
        r = need(g, bytes, what);
        if (r)
                return r;
        g->pos += bytes;
        return type == GGUF_BOOL ? check_bools(g, what, at, n) : 0;
}

static int read_array(struct gguf *g, const char *what, struct gguf_kv *kv) {
        uint64_t at, n;
        int r;

        r = read_type(g, what, &kv->elem);
        if (r)
                return r;
        if (kv->elem == GGUF_ARRAY)
                return loader_fail(g->error, LOADER_E_INVALID, "%s at offset %llu: arrays of arrays are not read", what,
                                   (unsigned long long)kv->offset);
        r = gguf_take(g, &kv->n, 8, what);
        if (r)
                return r;
        kv->value = g->pos;
        if (kv->elem != GGUF_STRING)
                return read_fixed_values(g, what, kv->elem, kv->n);
        for (uint64_t i = 0; i < kv->n; i++) {
                r = gguf_take_string(g, what, &at, &n);
                if (r)
                        return r;
        }
        return 0;
}

static int read_value(struct gguf *g, struct gguf_kv *kv) {
        char show[LOADER_SHOW_MAX], what[LOADER_SHOW_MAX + 2];
        int r;

        (void)snprintf(what, sizeof(what), "'%s'", loader_show(show, g->data + kv->key, kv->key_len));
        r = read_type(g, what, &kv->type);
        if (r)
                return r;
        kv->n = 1;
        kv->value = g->pos;
        if (kv->type == GGUF_STRING)
                return gguf_take_string(g, what, &kv->value, &kv->n);
        if (kv->type == GGUF_ARRAY)
                return read_array(g, what, kv);
        return read_fixed_values(g, what, kv->type, 1);
}

static int key_compare_bytes(const char *a, size_t na, const char *b, size_t nb) {
        int c = memcmp(a, b, na < nb ? na : nb);

        return c != 0 ? c : (na > nb) - (na < nb);
}

static int key_compare(const void *a, const void *b, void *arg) {
        const struct gguf *g = arg;
        const struct gguf_kv *x = &g->kvs[*(const uint32_t *)a], *y = &g->kvs[*(const uint32_t *)b];

        return key_compare_bytes(g->data + x->key, x->key_len, g->data + y->key, y->key_len);
}

static int sort_keys(struct gguf *g) {
        char show[LOADER_SHOW_MAX];

        g->sorted = calloc(g->n_kvs + 1, sizeof(*g->sorted));
        if (!g->sorted)
                return -ENOMEM;
        for (size_t i = 0; i < g->n_kvs; i++)
                g->sorted[i] = (uint32_t)i;
        qsort_r(g->sorted, g->n_kvs, sizeof(*g->sorted), key_compare, g);
        for (size_t i = 1; i < g->n_kvs; i++) {
                const struct gguf_kv *a = &g->kvs[g->sorted[i - 1]], *b = &g->kvs[g->sorted[i]];

                if (key_compare(&g->sorted[i - 1], &g->sorted[i], g) == 0)
                        return loader_fail(g->error, LOADER_E_INVALID, "the key '%s' is there twice, at offsets %llu and %llu",
                                           loader_show(show, g->data + a->key, a->key_len),
                                           (unsigned long long)(a->offset < b->offset ? a->offset : b->offset),
                                           (unsigned long long)(a->offset < b->offset ? b->offset : a->offset));
        }
        return 0;
}

static int read_alignment(struct gguf *g) {
        const struct gguf_kv *kv = gguf_find(g, "general.alignment");
        uint64_t v = 32;
        int r;

        r = gguf_get_uint(g, "general.alignment", 8, 65536, &v);
        if (r < 0)
                return LOADER_E_INVALID;
        if (v & (v - 1))
                return loader_fail(g->error, LOADER_E_INVALID, "'general.alignment' at offset %llu is %llu, no power of two",
                                   (unsigned long long)kv->value, (unsigned long long)v);
        g->alignment = (uint32_t)v;
        return 0;
}

int gguf_read_metadata(struct gguf *g, struct source *source, struct loader_error *error) {
        uint64_t n_kvs = 0;
        int r;

        *g = (struct gguf){ .source = source, .error = error };
        error->part = source->part;
        r = read_fixed(g, &n_kvs);
        if (r)
                return r;
        g->kvs = calloc(n_kvs + 1, sizeof(*g->kvs));
        if (!g->kvs)
                return -ENOMEM;
        for (; g->n_kvs < n_kvs; g->n_kvs++) {
                r = read_key(g, g->n_kvs, &g->kvs[g->n_kvs]);
                if (!r)
                        r = read_value(g, &g->kvs[g->n_kvs]);
                if (r)
                        return r;
        }
        r = sort_keys(g);
        return r ? r : read_alignment(g);
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key) {
        size_t lo = 0, hi = g->n_kvs, n = strlen(key);

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                const struct gguf_kv *kv = &g->kvs[g->sorted[mid]];
                int c = key_compare_bytes(key, n, g->data + kv->key, kv->key_len);

                if (c == 0)
                        return kv;
                if (c < 0)
                        hi = mid;
                else
                        lo = mid + 1;
        }
        return NULL;
}
