/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Small vocabularies made by hand, for tests and fuzz targets. */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "daemon/text/byte-level.h"
#include "daemon/text/tokenizer.h"

#define MAKER_TOKENS 1024u
#define MAKER_BYTES 65536u

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

struct vocab_maker {
        size_t n_tokens;
        size_t n_merges;
        char token_bytes[MAKER_BYTES];
        uint64_t token_offsets[MAKER_TOKENS + 1];
        float scores[MAKER_TOKENS];
        uint8_t types[MAKER_TOKENS];
        char merge_bytes[MAKER_BYTES];
        uint64_t merge_offsets[MAKER_TOKENS + 1];
};

/* Returns the id. */
static inline int32_t maker_token_n(struct vocab_maker *m, const char *text, size_t n, uint8_t type, float score) {
        size_t i = m->n_tokens++;

        memcpy(m->token_bytes + m->token_offsets[i], text, n);
        m->token_offsets[i + 1] = m->token_offsets[i] + n;
        m->types[i] = type;
        m->scores[i] = score;
        return (int32_t)i;
}

static inline int32_t maker_token(struct vocab_maker *m, const char *text, uint8_t type, float score) {
        return maker_token_n(m, text, strlen(text), type, score);
}

static inline void maker_merge(struct vocab_maker *m, const char *text) {
        size_t i = m->n_merges++, n = strlen(text);

        memcpy(m->merge_bytes + m->merge_offsets[i], text, n);
        m->merge_offsets[i + 1] = m->merge_offsets[i] + n;
}

static inline struct tokenizer_def maker_def(const struct vocab_maker *m, enum tokenizer_model model, const char *pre) {
        return (struct tokenizer_def){
                .model = model,
                .pre = pre,
                .n_tokens = m->n_tokens,
                .token_bytes = m->token_bytes,
                .token_offsets = m->token_offsets,
                .scores = m->scores,
                .types = m->types,
                .n_merges = m->n_merges,
                .merge_bytes = m->merge_bytes,
                .merge_offsets = m->merge_offsets,
                .bos = -1, .eos = -1, .eot = -1, .eom = -1, .unk = -1, .sep = -1, .pad = -1,
        };
}

/* <unk> <s> </s>, then the 256 byte tokens: id of byte b = 3 + b. */
static inline void maker_spm_base(struct vocab_maker *m) {
        (void)maker_token(m, "<unk>", UNKNOWN, 0);
        (void)maker_token(m, "<s>", CONTROL, 0);
        (void)maker_token(m, "</s>", CONTROL, 0);
        for (unsigned b = 0; b < 256; b++) {
                char name[8];

                (void)snprintf(name, sizeof(name), "<0x%02X>", b);
                (void)maker_token(m, name, BYTE, 0);
        }
}

/* The 256 symbols of byte-level BPE: id of byte b = b. */
static inline void maker_bpe_base(struct vocab_maker *m) {
        for (unsigned b = 0; b < 256; b++) {
                char text[4];
                size_t n = utf8_encode(byte_level_char((unsigned char)b), text);

                (void)maker_token_n(m, text, n, NORMAL, 0);
        }
}
