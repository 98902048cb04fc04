/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text <-> token ids, as the model's own tokenizer does it. Two families: SentencePiece-style BPE (scores, byte
 * fallback) and byte-level BPE (pre-tokenizer, merges). A tokenizer is immutable once made and may be shared by
 * threads.
 *
 * Special tokens are recognised in text only where the caller asks (TOKENIZE_SPECIAL), and control tokens never come
 * of text otherwise, whatever merging would make of it. User-defined tokens are: they are words of the vocabulary.
 * Tokenizing takes time linear in the text's length, up to a logarithm, whatever the text.
 * Text need not be UTF-8: bytes that are no character go through byte fallback or byte-level symbols.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct tokenizer;

enum {
        TOKENIZER_E_INVALID = 1, /* the vocabulary makes no sense; see struct text_error */
        TOKENIZER_E_UNSUPPORTED = 2, /* model or pre-tokenizer not known */
        TOKENIZER_E_ID = 3, /* a token id outside the vocabulary */
        TOKENIZER_E_LIMIT = 4, /* the result would not fit the buffer's limit */
};

struct text_error {
        char text[256];
};

enum tokenizer_model {
        TOKENIZER_SPM = 1,
        TOKENIZER_BPE = 2,
};

#define TOKENIZER_AROUND_MAX 8u

/* Tokens in front of a prompt, or behind it. */
struct tokenizer_around {
        size_t n;
        int32_t ids[TOKENIZER_AROUND_MAX];
};

/* What a tokenizer is made from; arrays as in a resident image (see image.h), copied or indexed, never changed. They
 * must outlive the tokenizer. */
struct tokenizer_def {
        enum tokenizer_model model;
        const char *pre;
        const char *name; /* the model's (general.name), NULL where unknown: some name the way their tokens strip */
        size_t n_tokens;
        const char *token_bytes;
        const uint64_t *token_offsets;
        const float *scores;
        const uint8_t *types;
        size_t n_merges;
        const char *merge_bytes;
        const uint64_t *merge_offsets;
        int32_t bos, eos, eot, eom, unk, sep, pad;
        bool add_bos, add_eos, add_space_prefix, remove_extra_whitespaces, ignore_merges;
        struct tokenizer_around opening, closing; /* with add_bos, add_eos: instead of bos and eos, where not empty */
        bool has_add_bos, has_add_space_prefix;
        /* types and ignore_merges are the whole truth, names of tokens add nothing to it; special tokens are found leftmost
         * (special.h) */
        bool exact;
        bool nfc, prefix_first, prefix_missing;
};

/* 0, TOKENIZER_E_*, or -ENOMEM. */
int tokenizer_new(struct tokenizer **ret, const struct tokenizer_def *def, struct text_error *error);
struct tokenizer *tokenizer_free(struct tokenizer *t);

enum {
        TOKENIZE_SPECIAL = 1u << 0, /* recognise the text of special tokens */
        TOKENIZE_BOS_EOS = 1u << 1, /* add what the model adds to a prompt */
        TOKENIZE_CONTINUE = 1u << 3, /* other text stands before it: no space is put in front, where the model does that */
        TOKENIZE_LENIENT = 1u << 2, /* take bytes that are no UTF-8 as llama.cpp does, for comparisons with it */
};

/* Growable array of ids. Zero-initialise; free with token_array_deinit(). */
struct token_array {
        int32_t *ids;
        size_t n;
        size_t cap;
};
void token_array_deinit(struct token_array *a);
int token_array_append(struct token_array *a, int32_t id); /* 0 or -ENOMEM */

/* Appends the ids of text to *out, which is unchanged on failure. 0, -ENOMEM, or -E2BIG for a text of more than
 * 1 GiB. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct token_array *out);

size_t tokenizer_n_tokens(const struct tokenizer *t);
bool tokenizer_is_eog(const struct tokenizer *t, int32_t id); /* ends a generation: eos, eot, eom and their like */
int32_t tokenizer_bos(const struct tokenizer *t); /* -1 where there is none */
int32_t tokenizer_eos(const struct tokenizer *t);
/* What the model wants in front of a prompt, mostly BOS alone: *ret_n ids, 0 where there is nothing. They live as long as
 * the tokenizer. */
const int32_t *tokenizer_opening(const struct tokenizer *t, size_t *ret_n);
/* Whether llama.cpp tidies the spaces of whole texts of this pre-tokenizer. For comparisons; nothing here does it. */
bool tokenizer_cleans_spaces(const struct tokenizer *t);

/*
 * Streaming detokenizer: ids in, bytes out. Embedded, no allocation: a token's text points into the tokenizer's tables
 * or into `scratch`. Whole characters: bytes of a character that further tokens may complete are held back.
 */
struct detokenizer {
        const struct tokenizer *t;
        bool special;     /* render special tokens */
        bool raw;         /* exact bytes at once, whole characters or not */
        bool at_start;    /* SPM drops the first space */
        unsigned char held[4];
        unsigned n_held;
};

#define DETOKENIZER_PIECE_MAX 1024u /* most bytes that one call can give */

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool special, bool raw);
/* Writes what this token adds (at most DETOKENIZER_PIECE_MAX bytes; longer tokens are refused by tokenizer_new) and
 * returns its length, or TOKENIZER_E_ID as a negative number. Unless raw, invalid UTF-8 comes out as U+FFFD. */
int detokenizer_push(struct detokenizer *d, int32_t id, char *out);
/* The held bytes of a character that never came (as U+FFFD unless raw). */
int detokenizer_finish(struct detokenizer *d, char *out);

/* Appends the exact bytes of ids, as a detokenizer that is `raw` gives them, to *out (the first space that SPM adds is
 * taken off again). 0, TOKENIZER_E_ID, TOKENIZER_E_LIMIT, or -ENOMEM; *out unchanged on failure. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, struct buf *out);
