/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the tokenizer share: its tables, and the two families' halves of encoding. */

#include "merge.h"
#include "metaspace.h"
#include "pretokenize.h"
#include "special.h"
#include "token-map.h"
#include "tokenizer.h"

/* GGUF's token types (tokenizer.ggml.token_type) */
enum {
        TOKEN_TYPE_NORMAL = 1,
        TOKEN_TYPE_UNKNOWN = 2,
        TOKEN_TYPE_CONTROL = 3,
        TOKEN_TYPE_USER_DEFINED = 4,
        TOKEN_TYPE_UNUSED = 5,
        TOKEN_TYPE_BYTE = 6,
        TOKEN_TYPE_MASK = 0x0f,
        /* beside the type: how a special token is recognised (image.h) */
        TOKEN_LSTRIP = 0x10,
        TOKEN_RSTRIP = 0x20,
        TOKEN_SINGLE_WORD = 0x40,
        TOKEN_NORMALIZED = 0x80,
};

enum {
        TOKEN_NORMAL = 1u << 0,
        TOKEN_UNKNOWN = 1u << 1,
        TOKEN_CONTROL = 1u << 2,
        TOKEN_USER_DEFINED = 1u << 3,
        TOKEN_BYTE = 1u << 4,
        TOKEN_ENDS = 1u << 5, /* ends a generation */
        TOKEN_HIDDEN = TOKEN_UNKNOWN | TOKEN_CONTROL, /* never made from plain text, shown only on request */
};

/* What byte-level BPE asks most often: of two bytes side by side, [left << 8 | right]. */
struct byte_pairs {
        uint32_t rank[65536]; /* of their merge, MERGE_END where there is none */
};

struct tokenizer {
        enum tokenizer_model model;
        struct tokenizer_def def;
        uint32_t n_tokens;
        uint8_t *flags; /* [n_tokens] */
        struct token_map map;
        struct merge_map merges;   /* BPE */
        uint32_t byte_ids[256];    /* byte-level BPE: the symbol of a byte; else the token that stands for it */
        struct byte_pairs *pairs;  /* byte-level BPE */
        uint64_t together[65536 / 64]; /* bits of byte pairs: something that is merged has them side by side */
        uint32_t ascii_ids[128];   /* SPM: the tokens of single characters */
        uint32_t space_id;         /* SPM: the token of U+2581 */
        const struct pretokenizer_entry *pre; /* BPE */
        struct pretokenizer_index pre_index;  /* BPE */
        struct special *special;      /* all that TOKENIZE_SPECIAL recognises */
        struct special *user_defined; /* what is recognised in any text */
        struct special *special_late; /* the same two, of tokens that normalized text is searched for */
        struct special *user_defined_late;
        int32_t bos;
        int32_t eos;
        int32_t unk;
        bool add_bos;
        bool add_eos;
        bool add_space_prefix;
        bool ignore_merges;
        bool raw;         /* BPE: of characters, with U+2581 for spaces and byte fallback, not of bytes */
        bool words_apart; /* no token has a space behind anything else, so that words can be encoded one by one */
};

static inline const char *token_text(const struct tokenizer *t, uint32_t id, size_t *ret_n) {
        return token_map_text(&t->map, id, ret_n);
}

/* A token that plain text may become. */
static inline bool token_is_plain(const struct tokenizer *t, uint32_t id) {
        return id < t->n_tokens && !(t->flags[id] & TOKEN_HIDDEN);
}

/* The place of two bytes in tables of pairs. */
static inline unsigned byte_pair(const char *s) {
        return (unsigned)(unsigned char)s[0] << 8 | (unsigned char)s[1];
}

/* Notes that merging may give these bytes side by side. */
static inline void tokenizer_note_together(struct tokenizer *t, const char *text, size_t n) {
        for (size_t i = 1; i < n; i++) {
                unsigned pair = byte_pair(text + i - 1);

                t->together[pair / 64] |= 1ull << (pair % 64);
        }
}

/* Up to where merges can reach from the beginning of a word: no further than a pair of bytes that nothing has. `whole`
 * characters are not cut. */
static inline size_t tokenizer_piece_length(const struct tokenizer *t, const char *word, size_t n, bool whole) {
        size_t len = 1;

        for (; len < n; len++) {
                unsigned pair = byte_pair(word + len - 1);

                if (!(t->together[pair / 64] >> (pair % 64) & 1) && !(whole && ((unsigned char)word[len] & 0xc0) == 0x80))
                        break;
        }
        return len;
}

/* Sets what tokens are: flags from types, the roles that names tell of, bos and its like. */
void tokenizer_assign_roles(struct tokenizer *t);

/* Each appends the ids of text, in which no special token is left, to *out. 0 or -ENOMEM. */
int spm_encode(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool prefix, bool lenient,
               struct token_array *out);
int bpe_encode(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool prefix,
               struct token_array *out);

/* The token for a byte: "<0xHH>", else the byte itself, else unknown; TOKEN_NONE where there is none of these. */
uint32_t spm_find_byte(const struct tokenizer *t, unsigned b);

/* TOKENIZE_LENIENT's reading of text for bpe_encode(), appended to *out. 0 or -ENOMEM. */
int lenient_rewrite(const char *text, size_t n, struct buf *out);

/* Each prepares the tables that its encoding needs. 0, TOKENIZER_E_*, or -ENOMEM. */
int spm_init(struct tokenizer *t, struct text_error *error);
int bpe_init(struct tokenizer *t, uint64_t seed, struct text_error *error);

/* Writes the bytes that a token stands for, at most as many as its text has, and returns how many. */
size_t token_write_piece(const struct tokenizer *t, uint32_t id, bool special, char *out);
