/* SPDX-License-Identifier: Apache-2.0 */

/*
 * SentencePiece-style BPE (Kudo and Richardson 2018): the whole text, spaces written as U+2581, begins as its
 * characters; neighbours whose joined text is a token are merged, highest score first. A character that no token has
 * becomes the tokens of its bytes.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer-internal.h"

/* Order of scores as order of unsigned numbers: the highest score is the lowest rank. */
static uint32_t rank_of_score(float score) {
        uint32_t bits;

        score += 0.0f; /* one zero, not two */
        memcpy(&bits, &score, sizeof(bits));
        bits ^= bits >> 31 ? UINT32_MAX : 1u << 31;
        return ~bits;
}

static bool is_piece(const struct tokenizer *t, uint32_t id) {
        return id != TOKEN_NONE && !(t->flags[id] & (TOKEN_HIDDEN | TOKEN_BYTE));
}

static bool find_merge(const struct merge_row *row, uint32_t left, uint32_t right, uint32_t *ret_rank,
                       uint32_t *ret_id) {
        const struct tokenizer *t = row->userdata;
        uint32_t start = row->symbols[left].pos, id;

        id = token_map_find(&t->map, row->text + start, merge_row_end_of(row, right) - start);
        if (!is_piece(t, id))
                return false;
        *ret_rank = rank_of_score(t->def.scores ? t->def.scores[id] : 0);
        *ret_id = id;
        return true;
}

/* Length of the character at s; a byte that is no UTF-8 is one of its own. Lenient: as the first byte announces it. */
static size_t char_length(const char *s, size_t n, bool lenient) {
        unsigned char lead = (unsigned char)s[0];
        uint32_t c;
        size_t len;

        if (lead < 0x80)
                return 1;
        if (!lenient) {
                len = utf8_decode(s, n, &c);
                return len ? len : 1;
        }
        len = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        return len < n ? len : n;
}

static uint32_t find_character(const struct tokenizer *t, const char *text, size_t n) {
        if ((unsigned char)text[0] < 0x80 && n == 1)
                return t->ascii_ids[(unsigned char)text[0]];
        if (n == SPM_SPACE_SIZE && memcmp(text, SPM_SPACE, SPM_SPACE_SIZE) == 0)
                return t->space_id;
        return token_map_find(&t->map, text, n);
}

static int push_characters(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool lenient) {
        size_t n_chars = 0;
        int r;

        for (size_t i = 0; n > MERGE_INLINE && i < n; i += char_length(text + i, n - i, lenient))
                n_chars++;
        r = merge_row_reset(row, n_chars);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n;) {
                size_t len = char_length(text + i, n - i, lenient);
                uint32_t id = find_character(t, text + i, len);

                merge_row_push(row, is_piece(t, id) ? id : TOKEN_NONE, (uint32_t)i);
                i += len;
        }
        row->text = text;
        row->text_end = (uint32_t)n;
        return 0;
}

static int append_bytes(const struct tokenizer *t, const char *text, size_t n, struct token_array *out) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++)
                r = token_array_append(out, (int32_t)t->byte_ids[(unsigned char)text[i]]);
        return r;
}

static int encode_escaped(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool lenient,
                          struct token_array *out) {
        int r;

        r = push_characters(t, row, text, n, lenient);
        if (r == 0)
                r = merge_row_run(row, find_merge);
        for (uint32_t i = 0; r == 0 && i != MERGE_END; i = row->symbols[i].next) {
                const struct merge_symbol *s = &row->symbols[i];

                if (s->id != TOKEN_NONE)
                        r = token_array_append(out, (int32_t)s->id);
                else
                        r = append_bytes(t, text + s->pos, merge_row_end_of(row, i) - s->pos, out);
        }
        return r;
}

/* In pieces that no merge reaches across: rows stay short. */
static int encode_word(const struct tokenizer *t, struct merge_row *row, const char *word, size_t n,
                       struct token_array *out) {
        int r = 0;

        for (size_t pos = 0, len; r == 0 && pos < n; pos += len) {
                len = tokenizer_piece_length(t, word + pos, n - pos, true);
                r = encode_escaped(t, row, word + pos, len, false, out);
        }
        return r;
}

int spm_encode(const struct tokenizer *t, struct merge_row *row, const char *text, size_t n, bool prefix, bool lenient,
               struct token_array *out) {
        struct buf escaped = BUF_NULL(UINT32_MAX);
        int r;

        r = metaspace_escape(text, n, prefix, &escaped);
        for (size_t pos = 0; r == 0 && pos < escaped.len;) {
                const char *word = escaped.data + pos;
                size_t len = escaped.len - pos;

                if (t->words_apart && !lenient)
                        len = metaspace_word_length(word, len);
                r = lenient ? encode_escaped(t, row, word, len, true, out) : encode_word(t, row, word, len, out);
                pos += len;
        }
        buf_deinit(&escaped);
        return r;
}

uint32_t spm_find_byte(const struct tokenizer *t, unsigned b) {
        char name[8];
        char byte = (char)b;
        uint32_t id;

        (void)snprintf(name, sizeof(name), "<0x%02X>", b & 0xff);
        id = token_map_find(&t->map, name, 6);
        if (id == TOKEN_NONE)
                id = token_map_find(&t->map, &byte, 1);
        return id == TOKEN_NONE ? (uint32_t)t->unk : id;
}

int spm_init(struct tokenizer *t, struct text_error *error) {
        t->add_bos = t->def.has_add_bos ? t->def.add_bos : true;
        t->add_space_prefix = t->def.has_add_space_prefix ? t->def.add_space_prefix : true;
        for (size_t i = 0; t->def.scores && i < t->n_tokens; i++)
                if (isnan(t->def.scores[i])) {
                        (void)snprintf(error->text, sizeof(error->text),
                                       "tokenizer.ggml.scores: the score of token %zu is not a number", i);
                        return TOKENIZER_E_INVALID;
                }
        for (unsigned b = 0; b < 256; b++)
                t->byte_ids[b] = spm_find_byte(t, b);
        for (unsigned b = 0; b < 128; b++) {
                char c = (char)b;

                t->ascii_ids[b] = token_map_find(&t->map, &c, 1);
        }
        t->space_id = token_map_find(&t->map, SPM_SPACE, SPM_SPACE_SIZE);
        t->words_apart = true;
        for (uint32_t id = 0; id < t->n_tokens; id++) {
                size_t n;
                const char *text = token_text(t, id, &n);

                if (!is_piece(t, id))
                        continue;
                tokenizer_note_together(t, text, n);
                if (metaspace_is_inside(text, n))
                        t->words_apart = false;
        }
        return 0;
}
