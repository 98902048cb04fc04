/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Two hash maps that a tokenizer is built around: the text of a token -> its id, and the pair of neighbours that a
 * merge joins -> the merge. Both are made once, sized for what they will hold, and only read afterwards. Seeded, so
 * that a file can't choose texts that collide.
 *
 * Texts are the tokens of the vocabulary (id below n_tokens) and, past those, further texts that merges name although
 * no token has them: they take part in merging and never come out as ids.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define TOKEN_NONE UINT32_MAX

struct token_map {
        /* the vocabulary's tables, borrowed */
        const char *bytes;
        const uint64_t *offsets;
        uint32_t n_tokens;
        /* further texts */
        struct buf more_bytes;
        uint64_t *more_offsets; /* n_more + 1 of them */
        uint32_t n_more;
        uint32_t cap_more;
        struct token_map_slot {
                uint32_t hash;
                uint32_t id;
        } *slots;
        size_t mask;
        size_t n_used;
        size_t longest;
        uint64_t seed;
};

/* Holds all tokens; of several with the same text, the last. Empty texts are not found. 0 or -ENOMEM. */
int token_map_init(struct token_map *m, const char *bytes, const uint64_t *offsets, uint32_t n_tokens, uint64_t seed);
void token_map_deinit(struct token_map *m);
/* TOKEN_NONE where no token has this text. */
uint32_t token_map_find(const struct token_map *m, const char *text, size_t n);
/* The same, and adds a text that was not there. 0 or -ENOMEM. */
int token_map_intern(struct token_map *m, const char *text, size_t n, uint32_t *ret_id);
/* In two steps, so that many texts can wait for memory at once: the first fetches what the second will need. */
uint32_t token_map_hash(const struct token_map *m, const char *text, size_t n);
int token_map_intern_hashed(struct token_map *m, const char *text, size_t n, uint32_t hash, uint32_t *ret_id);
const char *token_map_text(const struct token_map *m, uint32_t id, size_t *ret_n);

struct merge_entry {
        uint32_t left; /* TOKEN_NONE: a free slot */
        uint32_t right;
        uint32_t rank;
        uint32_t merged;
};

struct merge_map {
        struct merge_entry *entries;
        size_t mask;
        uint64_t seed;
};

/* Makes room for n merges. 0 or -ENOMEM. */
int merge_map_init(struct merge_map *m, size_t n, uint64_t seed);
void merge_map_deinit(struct merge_map *m);
/* Of several merges of a pair the first one counts. At most n (see merge_map_init()) may be added. */
void merge_map_add(struct merge_map *m, const struct merge_entry *entry);
const struct merge_entry *merge_map_find(const struct merge_map *m, uint32_t left, uint32_t right);
