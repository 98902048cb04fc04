/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * For tests and fuzz targets: writes small GGUF files into memory, good ones by default, and remembers where every count
 * and size lies so that tests can spoil them one by one and in pairs. Not part of the product.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/macro.h"

#define MAKER_FIELDS_MAX 512u

struct maker_field {
        size_t offset;
        unsigned width;    /* bytes: 4 or 8 */
        const char *what;  /* kind of field */
};

struct maker {
        unsigned char *data;
        size_t n, cap;
        struct maker_field fields[MAKER_FIELDS_MAX];
        size_t n_fields;
        size_t header;     /* bytes before the tensor data */
        uint64_t data_n;   /* bytes of tensor data so far, while infos are written */
        uint64_t n_kvs, n_tensors;
        uint32_t alignment;
};

static inline void maker_deinit(struct maker *m) {
        free(m->data);
        *m = (struct maker){ 0 };
}

static inline void maker_put(struct maker *m, const void *p, size_t n) {
        if (m->n + n > m->cap) {
                m->cap = (m->n + n) * 2 + 4096;
                m->data = realloc(m->data, m->cap);
                if (!m->data)
                        abort();
        }
        if (n)
                (void)memcpy(m->data + m->n, p, n);
        m->n += n;
}

static inline void maker_field(struct maker *m, unsigned width, const char *what) {
        if (m->n_fields < MAKER_FIELDS_MAX)
                m->fields[m->n_fields++] = (struct maker_field){ m->n, width, what };
}

static inline void maker_u32(struct maker *m, uint32_t v, const char *what) {
        if (what)
                maker_field(m, 4, what);
        maker_put(m, &v, 4);
}

static inline void maker_u64(struct maker *m, uint64_t v, const char *what) {
        if (what)
                maker_field(m, 8, what);
        maker_put(m, &v, 8);
}

static inline void maker_bytes(struct maker *m, const char *s, size_t n, const char *what) {
        maker_u64(m, n, what);
        maker_put(m, s, n);
}

static inline void maker_begin(struct maker *m) {
        *m = (struct maker){ .alignment = 32 };
        maker_put(m, "GGUF", 4);
        maker_u32(m, 3, "version");
        maker_u64(m, 0, "tensor count");
        maker_u64(m, 0, "kv count");
}

static inline void maker_key(struct maker *m, const char *key, uint32_t type) {
        maker_bytes(m, key, strlen(key), "key length");
        maker_u32(m, type, "value type");
        m->n_kvs++;
}

static inline void maker_kv_u32(struct maker *m, const char *key, uint32_t v) {
        maker_key(m, key, 4);
        maker_u32(m, v, "uint32 value");
}

static inline void maker_kv_f32(struct maker *m, const char *key, float v) {
        maker_key(m, key, 6);
        maker_put(m, &v, 4);
}

static inline void maker_kv_bool(struct maker *m, const char *key, unsigned char v) {
        maker_key(m, key, 7);
        maker_put(m, &v, 1);
}

static inline void maker_kv_str(struct maker *m, const char *key, const char *s, size_t n) {
        maker_key(m, key, 8);
        maker_bytes(m, s, n, "string length");
}

static inline void maker_kv_array(struct maker *m, const char *key, uint32_t elem, uint64_t n) {
        maker_key(m, key, 9);
        maker_u32(m, elem, "element type");
        maker_u64(m, n, "array count");
}

/* bytes: of the tensor's data; offset: relative, or UINT64_MAX for the next aligned place */
static inline void maker_tensor(struct maker *m, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                uint64_t bytes, uint64_t offset) {
        uint64_t at = (m->data_n + m->alignment - 1) & ~(uint64_t)(m->alignment - 1);

        maker_bytes(m, name, strlen(name), "tensor name length");
        maker_u32(m, n_dims, "dimension count");
        for (uint32_t i = 0; i < n_dims; i++)
                maker_u64(m, dims[i], "dimension");
        maker_u32(m, type, "tensor type");
        maker_u64(m, offset == UINT64_MAX ? at : offset, "tensor offset");
        m->data_n = at + bytes;
        m->n_tensors++;
}

static inline void maker_f32(struct maker *m, const char *name, uint64_t in, uint64_t out) {
        const uint64_t dims[2] = { in, out ? out : 1 };

        maker_tensor(m, name, 0, out ? 2 : 1, dims, in * dims[1] * 4, UINT64_MAX);
}

/* Patches the counts, pads, and appends the data: float 0.25 times a counter, so that every element differs. */
static inline void maker_end(struct maker *m) {
        static const unsigned char zero[65536] = { 0 };

        (void)memcpy(m->data + 8, &m->n_tensors, 8);
        (void)memcpy(m->data + 16, &m->n_kvs, 8);
        m->header = m->n;
        maker_put(m, zero, (m->alignment - m->n % m->alignment) % m->alignment);
        for (uint64_t i = 0; i < (m->data_n + 3) / 4; i++) {
                float v = 0.25f * (float)(i % 4000);

                maker_put(m, &v, 4);
        }
}

struct maker_model {
        const char *arch;
        unsigned layers, ff;
        bool no_tensors, no_vocab, no_tokens, bpe;
        const char *drop;   /* tensor to leave out */
        const char *twice;  /* key to write twice */
};

static inline void maker_hparams(struct maker *m, const struct maker_model *o) {
        maker_kv_str(m, "general.architecture", o->arch ? o->arch : "llama", strlen(o->arch ? o->arch : "llama"));
        maker_kv_str(m, "general.name", "made by a test", 14);
        maker_kv_u32(m, "general.alignment", 32);
        maker_kv_u32(m, "llama.context_length", 128);
        maker_kv_u32(m, "llama.embedding_length", 32);
        maker_kv_u32(m, "llama.block_count", o->layers ? o->layers : 1);
        maker_kv_u32(m, "llama.feed_forward_length", o->ff ? o->ff : 48);
        maker_kv_u32(m, "llama.attention.head_count", 4);
        maker_kv_u32(m, "llama.attention.head_count_kv", 2);
        maker_kv_u32(m, "llama.rope.dimension_count", 8);
        maker_kv_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        maker_kv_f32(m, "llama.rope.freq_base", 10000.0f);
        if (o->twice)
                maker_kv_u32(m, o->twice, 32);
}

static inline void maker_vocab(struct maker *m, const struct maker_model *o) {
        static const char *const tokens[] = { "<unk>", "<s>", "</s>", "a", "b", "ab", "c", "abc", "d" };
        const uint32_t n = ARRAY_SIZE(tokens);

        maker_kv_str(m, "tokenizer.ggml.model", o->bpe ? "gpt2" : "llama", o->bpe ? 4 : 5);
        if (!o->no_tokens) {
                maker_kv_array(m, "tokenizer.ggml.tokens", 8, n);
                for (uint32_t i = 0; i < n; i++)
                        maker_bytes(m, tokens[i], strlen(tokens[i]), i == 3 ? "token length" : NULL);
        }
        maker_kv_array(m, "tokenizer.ggml.scores", 6, n);
        for (uint32_t i = 0; i < n; i++) {
                float v = -(float)i;

                maker_put(m, &v, 4);
        }
        maker_kv_array(m, "tokenizer.ggml.token_type", 5, n);
        for (uint32_t i = 0; i < n; i++)
                maker_u32(m, i == 0 ? 2 : i < 3 ? 3 : 1, i == 4 ? "token type" : NULL);
        if (o->bpe) {
                maker_kv_array(m, "tokenizer.ggml.merges", 8, 2);
                maker_bytes(m, "a b", 3, "merge length");
                maker_bytes(m, "ab c", 4, NULL);
        }
        maker_kv_u32(m, "tokenizer.ggml.bos_token_id", 1);
        maker_kv_u32(m, "tokenizer.ggml.eos_token_id", 2);
        maker_kv_u32(m, "tokenizer.ggml.unknown_token_id", 0);
        maker_kv_bool(m, "tokenizer.ggml.add_bos_token", 1);
        maker_kv_str(m, "tokenizer.chat_template", "{{ messages }}", 14);
}

static inline void maker_tensors(struct maker *m, const struct maker_model *o) {
        const unsigned ff = o->ff ? o->ff : 48;
        const struct {
                const char *name;
                unsigned in, out;
        } block[] = {
                { "attn_norm", 32, 0 }, { "attn_q", 32, 32 },   { "attn_k", 32, 16 }, { "attn_v", 32, 16 },  { "attn_output", 32, 32 },
                { "ffn_norm", 32, 0 },  { "ffn_gate", 32, ff }, { "ffn_up", 32, ff },   { "ffn_down", ff, 32 },
        };
        static const char *const ends[] = { "token_embd.weight", "output_norm.weight" };

        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                if (!o->drop || strcmp(o->drop, ends[i]) != 0)
                        maker_f32(m, ends[i], 32, i == 0 ? 9 : 0);
        for (unsigned l = 0; l < (o->layers ? o->layers : 1); l++)
                for (size_t i = 0; i < ARRAY_SIZE(block); i++) {
                        char name[64];

                        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", l, block[i].name);
                        if (!o->drop || strcmp(o->drop, name) != 0)
                                maker_f32(m, name, block[i].in, block[i].out);
                }
}

/* A whole small llama model. */
static inline void maker_model(struct maker *m, const struct maker_model *o) {
        maker_begin(m);
        maker_hparams(m, o);
        if (!o->no_vocab)
                maker_vocab(m, o);
        if (!o->no_tensors)
                maker_tensors(m, o);
        maker_end(m);
}

/* A memfd with these bytes. */
static inline int maker_memfd(const void *data, size_t n) {
        int fd = memfd_create("made", MFD_CLOEXEC);

        if (fd < 0 || (n && write(fd, data, n) != (ssize_t)n))
                abort();
        return fd;
}
