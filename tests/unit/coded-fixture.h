/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests of coded and packed models, after cmocka.h: GGUF files with weights in BF16, and whether two images have the same ones. */

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/image.h"
#include "daemon/image/tensor-size.h"
#include "daemon/loader/load.h"
#include "kernels/format.h"
#include "kernels/lossless.h"

#include "gguf-maker.h"

#define CODED_EMBD 128u
#define CODED_FF 1088u /* the last unit of its rows is a single column */

/* Numbers around 0, as weights are: the sum of a few uniform ones, scaled. */
static inline uint16_t coded_value(uint32_t *state) {
        float v = 0;
        uint32_t bits;

        for (unsigned i = 0; i < 6; i++) {
                *state = *state * 1664525u + 1013904223u;
                v += (float)(*state >> 8) / (float)(1u << 24) - 0.5f;
        }
        v *= 0.05f;
        (void)memcpy(&bits, &v, sizeof(bits));
        return (uint16_t)(bits >> 16);
}

#define CODED_LAYERS 2u
#define CODED_VECTORS 6u  /* tensors that are no matrices, or not in BF16: embedding, norms */
#define CODED_MATRICES 14u

static inline void coded_metadata(struct maker *m) {
        maker_kv_str(m, "general.architecture", "llama", 5);
        maker_kv_str(m, "general.name", "made by a test", 14);
        maker_kv_u32(m, "llama.context_length", 128);
        maker_kv_u32(m, "llama.embedding_length", CODED_EMBD);
        maker_kv_u32(m, "llama.block_count", CODED_LAYERS);
        maker_kv_u32(m, "llama.feed_forward_length", CODED_FF);
        maker_kv_u32(m, "llama.attention.head_count", 4);
        maker_kv_u32(m, "llama.attention.head_count_kv", 2);
        maker_kv_u32(m, "llama.rope.dimension_count", 32);
        maker_kv_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        maker_kv_f32(m, "llama.rope.freq_base", 10000.0f);
        maker_vocab(m, &(struct maker_model){ 0 });
}

static inline void coded_vectors(struct maker *m) {
        maker_f32(m, "token_embd.weight", CODED_EMBD, 9);
        maker_f32(m, "output_norm.weight", CODED_EMBD, 0);
        for (unsigned l = 0; l < CODED_LAYERS; l++) {
                char name[64];

                (void)snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", l);
                maker_f32(m, name, CODED_EMBD, 0);
                (void)snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", l);
                maker_f32(m, name, CODED_EMBD, 0);
        }
}

static inline void coded_matrices(struct maker *m) {
        static const struct {
                const char *name;
                unsigned in, out;
        } block[] = {
                { "attn_q", CODED_EMBD, CODED_EMBD }, { "attn_k", CODED_EMBD, 64 },        { "attn_v", CODED_EMBD, 64 },
                { "attn_output", CODED_EMBD, CODED_EMBD }, { "ffn_gate", CODED_EMBD, CODED_FF }, { "ffn_up", CODED_EMBD, CODED_FF },
                { "ffn_down", CODED_FF, CODED_EMBD },
        };

        for (unsigned l = 0; l < CODED_LAYERS; l++)
                for (size_t i = 0; i < ARRAY_SIZE(block); i++) {
                        const uint64_t dims[2] = { block[i].in, block[i].out };
                        char name[64];

                        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", l, block[i].name);
                        maker_tensor(m, name, FMT_BF16, 2, dims, dims[0] * dims[1] * 2, UINT64_MAX);
                }
}

/* All data as if it were weights in BF16, when the file has ended; returns where they begin. */
static inline uint16_t *coded_fill(struct maker *m) {
        size_t begin = (m->header + 31) / 32 * 32;
        uint16_t *data = (uint16_t *)(void *)(m->data + begin);
        uint32_t state = 1;

        for (size_t i = 0; i < (m->n - begin) / 2; i++)
                data[i] = coded_value(&state);
        return data;
}

/* A llama of two layers. noise: attn_q of the first one is any bits, NaNs among them, and does not get smaller. */
static inline void coded_model(struct maker *m, bool noise) {
        uint32_t state = 1;
        uint16_t *data;

        maker_begin(m);
        coded_metadata(m);
        coded_vectors(m);
        coded_matrices(m);
        maker_end(m);
        data = coded_fill(m) + (9 + 1 + 2 * CODED_LAYERS) * CODED_EMBD * 2; /* behind the vectors, which are F32 */
        for (size_t i = 0; noise && i < CODED_EMBD * CODED_EMBD; i++) {
                state = state * 1664525u + 1013904223u;
                data[i] = (uint16_t)(state >> 13);
        }
}

/* The BF16 numbers of a row, whichever of the two forms the tensor has. */
static inline void coded_row(const struct image *image, const struct image_tensor *t, uint64_t matrix, uint64_t row, uint16_t *ret) {
        const char *data = image_data(image, t);
        uint64_t panels = (t->dims[1] + WEIGHT_PANEL - 1) / WEIGHT_PANEL, panel = matrix * panels + row / WEIGHT_PANEL;
        struct lossless_parts parts;

        if (image_tensor_parts(t, &parts)) {
                lossless_decode_row(data + panel * (t->dims[0] / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES,
                                    data + parts.index + panel * parts.units * sizeof(uint64_t), data + parts.escapes,
                                    (unsigned)(row % WEIGHT_PANEL), t->dims[0], ret);
                return;
        }
        for (uint64_t k = 0; k < t->dims[0]; k++)
                (void)memcpy(&ret[k], data + ((panel * t->dims[0] + k) * WEIGHT_PANEL + row % WEIGHT_PANEL) * 2, 2);
}

/* Tensors are the same, bit by bit, those of `coded` in whichever form; returns how many of them are coded. */
static inline size_t coded_compare(const struct image *plain, const struct image *coded) {
        size_t n = 0;

        assert_int_equal(plain->n_tensors, coded->n_tensors);
        assert_int_equal(plain->n_params, coded->n_params);
        for (size_t i = 0; i < plain->n_tensors; i++) {
                const struct image_tensor *p = &plain->tensors[i], *c = image_find(coded, p->name);
                _cleanup_free_ uint16_t *want = calloc(p->dims[0], 2), *have = calloc(p->dims[0], 2);

                assert_true(c && want && have);
                if (c->fmt == p->fmt) {
                        assert_int_equal(c->size, p->size);
                        assert_memory_equal(image_data(plain, p), image_data(coded, c), p->size);
                        continue;
                }
                assert_true(p->fmt == FMT_BF16 && c->fmt == FMT_BF16_LL && c->size < p->size);
                n++;
                for (uint64_t m = 0; m < p->dims[2]; m++)
                        for (uint64_t r = 0; r < p->dims[1]; r++) {
                                coded_row(plain, p, m, r, want);
                                coded_row(coded, c, m, r, have);
                                if (memcmp(want, have, p->dims[0] * 2) != 0)
                                        fail_msg("%s: row %llu of matrix %llu differs", p->name, (unsigned long long)r,
                                                 (unsigned long long)m);
                        }
        }
        return n;
}
