/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A GGUF file's header: metadata and tensor infos, checked byte for byte. Versions 2 and 3, little-endian. Source: the
 * GGUF specification (ggml repository, docs/gguf.md).
 *
 * Every fault names the field and its byte offset in the file. What the accessors hand out points into the header's copy
 * in memory and lives until gguf_deinit(). Two steps, so that a caller can refuse a model by its metadata before its
 * tensors are looked at.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "source.h"

#define GGUF_HEADER_MAX (64u << 20) /* bytes before the tensor data */
#define GGUF_KV_MAX 65536u
#define GGUF_KEY_MAX 65535u
#define GGUF_TENSORS_MAX 65536u
#define GGUF_NAME_MAX 64u /* with NUL */
#define GGUF_DIMS_MAX 4u

enum gguf_type {
        GGUF_UINT8 = 0,
        GGUF_INT8 = 1,
        GGUF_UINT16 = 2,
        GGUF_INT16 = 3,
        GGUF_UINT32 = 4,
        GGUF_INT32 = 5,
        GGUF_FLOAT32 = 6,
        GGUF_BOOL = 7,
        GGUF_STRING = 8,
        GGUF_ARRAY = 9,
        GGUF_UINT64 = 10,
        GGUF_INT64 = 11,
        GGUF_FLOAT64 = 12,
        GGUF_TYPE_N,
};

struct gguf_kv {
        uint64_t offset; /* of the entry in the file */
        uint64_t key;    /* offset of its bytes */
        uint32_t key_len;
        enum gguf_type type;
        enum gguf_type elem; /* of arrays */
        uint64_t n;          /* array: elements; string: bytes; else 1 */
        uint64_t value;      /* offset of the first value (array: first element; string: its bytes) */
};

struct gguf_tensor {
        char name[GGUF_NAME_MAX];
        uint32_t fmt; /* enum fmt, one that kernels know */
        uint32_t n_dims;
        uint64_t dims[GGUF_DIMS_MAX]; /* unused ones are 1 */
        uint64_t info;   /* offset of its info in the file */
        uint32_t source; /* number of the file that has its data */
        uint64_t offset; /* of its data in the file */
        uint64_t size;   /* of its data */
};

struct gguf {
        struct source *source;
        struct loader_error *error;
        char *data; /* the file's first `filled` bytes */
        uint64_t filled, cap, pos;
        uint32_t version;
        uint64_t n_infos;      /* as the header says */
        uint64_t tensor_count; /* the same, with those of further parts */
        struct gguf_kv *kvs;
        size_t n_kvs;
        uint32_t *sorted; /* kv numbers by key */
        uint32_t alignment;
        uint64_t data_offset;
        struct gguf_tensor *tensors; /* ascending by file and offset; with those of further parts */
        size_t n_tensors;
        struct gguf *more; /* a model's further parts, whose metadata is read (see split.h); borrowed */
        size_t n_more;
        uint32_t number; /* of the source, where there are several */
        uint64_t split_no;
};

#define GGUF_NULL ((struct gguf){ 0 })

/* Reads header and metadata. Source and error are borrowed for the gguf's life. 0, LOADER_E_*, or -ENOMEM. */
int gguf_read_metadata(struct gguf *g, struct source *source, struct loader_error *error);
/* Reads the tensor infos after it, and those of further parts. */
int gguf_read_tensors(struct gguf *g);
void gguf_deinit(struct gguf *g);

/* Sentences that follow are about the file that has this tensor. */
static inline void gguf_blame(struct gguf *g, const struct gguf_tensor *t) {
        g->error->part = g->n_more ? t->source + 1 : 0;
}

/* NULL when there is no such key. */
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);

/* Accessors by key. A value of another type or range is a fault: the error is filled in. */
enum {
        GGUF_FOUND = 1,
        GGUF_ABSENT = 0,
        GGUF_E_FAULT = -1000, /* the value has another type or is out of range */
};
/* Any integer type whose value lies in [min, max]. */
int gguf_get_uint(struct gguf *g, const char *key, uint64_t min, uint64_t max, uint64_t *ret);
/* A finite number of either float type. */
int gguf_get_float(struct gguf *g, const char *key, float *ret);
int gguf_get_bool(struct gguf *g, const char *key, bool *ret);
int gguf_get_string(struct gguf *g, const char *key, const char **ret, size_t *ret_n);
/* An array with these elements; the kv tells where. */
int gguf_get_array(struct gguf *g, const char *key, enum gguf_type elem, const struct gguf_kv **ret);

/* Walks the strings of an array: start with *at = kv->value, call kv->n times. */
static inline const char *gguf_next_string(const struct gguf *g, uint64_t *at, uint64_t *ret_n) {
        uint64_t n;

        __builtin_memcpy(&n, g->data + *at, sizeof(n));
        *ret_n = n;
        *at += sizeof(n) + n;
        return g->data + *at - n;
}
