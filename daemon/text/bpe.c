/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Byte-level BPE (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; byte-level as
 * in GPT-2): text is cut into words by the pre-tokenizer, a word begins as its bytes, and neighbours are merged in the
 * order of the merge table. Raw BPE (Gemma 4) begins with characters instead, spaces written as U+2581, and a character
 * that no token has becomes the tokens of its bytes.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "base/utf8.h"
#include "byte-level.h"
#include "tokenizer-internal.h"

static bool find_merge(const struct merge_row *row, uint32_t left, uint32_t right, uint32_t *ret_rank,
                       uint32_t *ret_id) {
        const struct tokenizer *t = row->userdata;
        uint32_t at = row->symbols[left].pos;
        const struct merge_entry *e;

        if (t->pairs && merge_row_end_of(row, right) - at == 2 &&
            t->pairs->rank[byte_pair(row->text + at)] == MERGE_END)
                return false;
        e = merge_map_find(&t->merges, row->symbols[left].id, row->symbols[right].id);
        if (!e)
                return false;
        *ret_rank = e->rank;
        *ret_id = e->merged;
        return true;
}

/* A text that no token has goes out byte by byte. */
static int append_bytes(const struct tokenizer *t, const char *text, size_t n, struct token_array *out) {
        for (size_t i = 0; i < n; i++) {
                uint32_t id = t->byte_ids[(unsigned char)text[i]];
                int r = 0;

                if (token_is_plain(t, id))
                        r = token_array_append(out, (int32_t)id);
                else if (t->unk >= 0)
                        r = token_array_append(out, t->unk);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* llama.cpp takes added tokens for words too; the library "tokenizers", whose files say whether words are taken whole,
 * does not. */
static bool is_word(const struct tokenizer *t, uint32_t id) {
        return token_is_plain(t, id) && !(t->def.exact && t->flags[id] & TOKEN_USER_DEFINED);
}

/* The token that has a whole word as its text, or TOKEN_NONE. */
static uint32_t find_word(const struct tokenizer *t, const char *word, size_t n) {
        char text[2 * DETOKENIZER_PIECE_MAX];
        size_t len = 0;
        uint32_t id;

        if (n > DETOKENIZER_PIECE_MAX || n > t->map.longest)
                return TOKEN_NONE;
        if (!t->raw && n == 1)
                return is_word(t, t->byte_ids[(unsigned char)word[0]]) ? t->byte_ids[(unsigned char)word[0]] : TOKEN_NONE;
        if (t->raw) {
                id = token_map_find(&t->map, word, n);
                return is_word(t, id) ? id : TOKEN_NONE;
        }
        for (size_t i = 0; i < n; i++)
                len += utf8_encode(byte_level_char((unsigned char)word[i]), text + len);
        id = token_map_find(&t->map, text, len);
        return is_word(t, id) ? id : TOKEN_NONE;
}

static void push_bytes(const struct tokenizer *t, struct merge_row *row, const char *word, size_t n) {
        for (size_t i = 0; i < n; i++)
                merge_row_push(row, t->byte_ids[(unsigned char)word[i]], (uint32_t)i);
}

/* A byte that is no UTF-8 is a character of its own, and no token's. */
static void push_characters(const struct tokenizer *t, struct merge_row *row, const char *word, size_t n) {
        for (size_t i = 0; i < n;) {
                uint32_t c;
                size_t len = utf8_decode(word + i, n - i, &c);

                merge_row_push(row, len ? token_map_find(&t->map, word + i, len) : TOKEN_NONE, (uint32_t)i);
                i += len ? len : 1;
        }
}

static int encode_piece(const struct tokenizer *t, struct merge_row *row, const char *word, size_t n,
                        struct token_array *out) {
        int r;

        if (n == 1 && !t->raw && token_is_plain(t, t->byte_ids[(unsigned char)word[0]]))
                return token_array_append(out, (int32_t)t->byte_ids[(unsigned char)word[0]]);

        r = merge_row_reset(row, n);
        if (r < 0)
                return r;
        (t->raw ? push_characters : push_bytes)(t, row, word, n);
        row->text = word;
        row->text_end = (uint32_t)n;
        r = merge_row_run(row, find_merge);
        for (uint32_t i = 0; r == 0 && i != MERGE_END; i = row->symbols[i].next) {
                const struct merge_symbol *s = &row->symbols[i];

                if (token_is_plain(t, s->id))
                        r = token_array_append(out, (int32_t)s->id);
                else
                        r = append_bytes(t, word + s->pos, merge_row_end_of(row, i) - s->pos, out);
        }
        return r;
}

static int encode_word(const struct tokenizer *t, struct merge_row *row, const char *word, size_t n, bool whole,
                       struct token_array *out) {
        int r = 0;

        if (whole) {
                uint32_t id = find_word(t, word, n);

                if (id != TOKEN_NONE)
                        return token_array_append(out, (int32_t)id);
        }
        for (size_t pos = 0, len; r == 0 && pos < n; pos += len) {
                len = tokenizer_piece_length(t, word + pos, n - pos, t->raw);
                r = encode_piece(t, row, word + pos, len, out);
        }
        return r;
}

static int encode_words(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n,
                        struct token_array *out) {
        struct pretokenize words;
        size_t start, end;
        int r = 0;

        pretokenize_begin(&words, t->pre->pretokenizer, &t->pre_index, text, n);
        while (r == 0 && pretokenize_next(&words, &start, &end))
                r = encode_word(t, row, text + start, end - start, t->ignore_merges, out);
        return r;
}

/* A word of line breaks alone may be a token that no merge makes. */
static int encode_line(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n,
                       struct token_array *out) {
        bool breaks = t->pre->habits & PRETOKENIZER_LINES && text[0] == '\n';
        int r = 0;

        for (size_t pos = 0, len; r == 0 && pos < n; pos += len) {
                len = t->words_apart && !t->ignore_merges ? metaspace_word_length(text + pos, n - pos) : n;
                r = encode_word(t, row, text + pos, len, breaks || t->ignore_merges, out);
        }
        return r;
}

static int encode_raw(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool prefix,
                      struct token_array *out) {
        struct buf escaped = BUF_NULL(UINT32_MAX);
        struct pretokenize lines;
        size_t start, end;
        int r;

        r = metaspace_escape(text, n, prefix, &escaped);
        pretokenize_begin(&lines, t->pre->pretokenizer, &t->pre_index, escaped.data, escaped.len);
        while (r == 0 && pretokenize_next(&lines, &start, &end))
                r = encode_line(t, row, escaped.data + start, end - start, out);
        buf_deinit(&escaped);
        return r;
}

int bpe_encode(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool prefix,
               struct token_array *out) {
        return t->raw ? encode_raw(t, row, text, n, prefix, out) : encode_words(t, row, text, n, out);
}

static int init_bytes(struct tokenizer *t) {
        for (unsigned b = 0; t->raw && b < 256; b++)
                t->byte_ids[b] = spm_find_byte(t, b);
        for (unsigned b = 0; !t->raw && b < 256; b++) {
                char text[4];
                size_t n = utf8_encode(byte_level_char((unsigned char)b), text);
                int r = token_map_intern(&t->map, text, n, &t->byte_ids[b]);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* Merges are read in blocks: the texts of a whole block are looked for in memory at once. */
#define BLOCK 32u

struct merge_text {
        const char *left;
        const char *right;
        char *joined;
        size_t n_left;
        size_t n_right;
        uint32_t hash_left;
        uint32_t hash_right;
        uint32_t hash_joined;
};

/* Splits "left right" at the first blank that isn't the first character. Leaves out what names no two symbols. */
static bool split_merge(const struct tokenizer *t, struct merge_text *m, const char *text, size_t n, char *joined) {
        const char *blank = n > 2 ? memchr(text + 1, ' ', n - 2) : NULL;

        if (!blank)
                return false;
        m->left = text;
        m->n_left = (size_t)(blank - text);
        m->right = blank + 1;
        m->n_right = n - m->n_left - 1;
        m->joined = joined;
        memcpy(joined, m->left, m->n_left);
        memcpy(joined + m->n_left, m->right, m->n_right);
        m->hash_left = token_map_hash(&t->map, m->left, m->n_left);
        m->hash_right = token_map_hash(&t->map, m->right, m->n_right);
        m->hash_joined = token_map_hash(&t->map, joined, m->n_left + m->n_right);
        return true;
}

/* The bytes that a text in byte-level symbols stands for; 0 where it has others. */
static size_t read_bytes(const char *text, size_t n, char *out) {
        size_t len = 0;

        for (size_t i = 0; i < n;) {
                uint32_t c;
                size_t size = utf8_decode(text + i, n - i, &c);
                int byte = size ? byte_level_byte(c) : -1;

                if (byte < 0)
                        return 0;
                out[len++] = (char)byte;
                i += size;
        }
        return len;
}

static void note_pairs(struct tokenizer *t, const struct merge_text *m, uint32_t rank) {
        char bytes[2 * DETOKENIZER_PIECE_MAX];
        size_t n;

        if (t->raw) {
                tokenizer_note_together(t, m->joined, m->n_left + m->n_right);
                return;
        }
        n = read_bytes(m->joined, m->n_left + m->n_right, bytes);
        tokenizer_note_together(t, bytes, n);
        if (n == 2 && rank < t->pairs->rank[byte_pair(bytes)])
                t->pairs->rank[byte_pair(bytes)] = rank;
}

static int add_merge(struct tokenizer *t, const struct merge_text *m, uint32_t rank) {
        struct merge_entry e = { .rank = rank };
        int r;

        r = token_map_intern_hashed(&t->map, m->left, m->n_left, m->hash_left, &e.left);
        if (r == 0)
                r = token_map_intern_hashed(&t->map, m->right, m->n_right, m->hash_right, &e.right);
        if (r == 0)
                r = token_map_intern_hashed(&t->map, m->joined, m->n_left + m->n_right, m->hash_joined, &e.merged);
        if (r == 0)
                merge_map_add(&t->merges, &e);
        if (r == 0)
                note_pairs(t, m, rank);
        if (t->words_apart && metaspace_is_inside(m->joined, m->n_left + m->n_right))
                t->words_apart = false;
        return r;
}

static int add_block(struct tokenizer *t, size_t first, size_t n, char *joined) {
        const uint64_t *offsets = t->def.merge_offsets;
        struct merge_text texts[BLOCK];
        bool whole[BLOCK];
        int r = 0;

        for (size_t i = 0; i < n; i++) {
                const char *text = t->def.merge_bytes + offsets[first + i];
                size_t len = (size_t)(offsets[first + i + 1] - offsets[first + i]);

                whole[i] = split_merge(t, &texts[i], text, len, joined);
                joined += len;
        }
        for (size_t i = 0; r == 0 && i < n; i++)
                if (whole[i])
                        r = add_merge(t, &texts[i], (uint32_t)(first + i));
        return r;
}

#define MERGE_TEXT_MAX (2u * DETOKENIZER_PIECE_MAX)

static int check_merges(const struct tokenizer_def *def, struct text_error *error) {
        for (size_t i = 0; i < def->n_merges; i++) {
                uint64_t start = def->merge_offsets[i], end = def->merge_offsets[i + 1];

                if (end >= start && end - start <= MERGE_TEXT_MAX)
                        continue;
                (void)snprintf(error->text, sizeof(error->text),
                               "tokenizer.ggml.merges: merge %zu has offsets %llu to %llu (at most %u bytes)", i,
                               (unsigned long long)start, (unsigned long long)end, MERGE_TEXT_MAX);
                return TOKENIZER_E_INVALID;
        }
        return 0;
}

static int init_merges(struct tokenizer *t, uint64_t seed, struct text_error *error) {
        _cleanup_free_ char *joined = NULL;
        int r;

        r = check_merges(&t->def, error);
        if (r)
                return r;
        r = merge_map_init(&t->merges, t->def.n_merges, seed);
        if (r < 0)
                return r;
        joined = malloc(BLOCK * MERGE_TEXT_MAX);
        t->pairs = t->raw ? NULL : calloc(1, sizeof(*t->pairs));
        if (!joined || (!t->raw && !t->pairs))
                return -ENOMEM;
        if (t->pairs)
                memset(t->pairs->rank, 0xff, sizeof(t->pairs->rank));
        for (size_t i = 0; r == 0 && i < t->def.n_merges; i += BLOCK)
                r = add_block(t, i, MIN(t->def.n_merges - i, (size_t)BLOCK), joined);
        return r;
}

int bpe_init(struct tokenizer *t, uint64_t seed, struct text_error *error) {
        int r;

        t->pre = pretokenizer_find(t->def.pre ? t->def.pre : "");
        if (!t->pre) {
                (void)snprintf(error->text, sizeof(error->text),
                               "tokenizer.ggml.pre: the pre-tokenizer '%.64s' is not supported", t->def.pre);
                return TOKENIZER_E_UNSUPPORTED;
        }
        pretokenizer_index_init(&t->pre_index, t->pre->pretokenizer);
        t->raw = t->pre->habits & PRETOKENIZER_RAW;
        t->words_apart = t->raw;
        t->ignore_merges = t->def.ignore_merges || (!t->def.exact && t->pre->habits & PRETOKENIZER_WHOLE_WORDS);
        t->add_bos = t->def.has_add_bos ? t->def.add_bos : t->pre->habits & PRETOKENIZER_BOS;
        if (t->pre->habits & PRETOKENIZER_LINES) /* the reference overrules files that say no */
                t->add_bos = true;
        t->add_space_prefix = t->def.has_add_space_prefix && t->def.add_space_prefix;
        r = init_bytes(t);
        return r < 0 ? r : init_merges(t, seed, error);
}
