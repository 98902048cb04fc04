/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/utf8.h"
#include "byte-level.h"
#include "tokenizer-internal.h"

#define REPLACEMENT 0xfffdu

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        c |= 0x20;
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0xHH>" */
static size_t write_byte(const char *text, size_t n, char *out) {
        int high, low;

        if (n != 6)
                return 0;
        high = hex_digit(text[3]);
        low = hex_digit(text[4]);
        if (high < 0 || low < 0)
                return 0;
        out[0] = (char)(high << 4 | low);
        return 1;
}

static size_t write_unescaped(const char *text, size_t n, char *out) {
        size_t len = 0;

        for (size_t i = 0; i < n;) {
                if (n - i >= SPM_SPACE_SIZE && memcmp(text + i, SPM_SPACE, SPM_SPACE_SIZE) == 0) {
                        out[len++] = ' ';
                        i += SPM_SPACE_SIZE;
                } else
                        out[len++] = text[i++];
        }
        return len;
}

/* A character that stands for no byte stays what it is. */
static size_t write_byte_level(const char *text, size_t n, char *out) {
        size_t len = 0;

        for (size_t i = 0; i < n;) {
                uint32_t c;
                size_t size = utf8_decode(text + i, n - i, &c);
                int byte = size ? byte_level_byte(c) : -1;

                if (byte >= 0)
                        out[len++] = (char)byte;
                else {
                        memcpy(out + len, text + i, size ? size : 1);
                        len += size ? size : 1;
                }
                i += size ? size : 1;
        }
        return len;
}

size_t token_write_piece(const struct tokenizer *t, uint32_t id, bool special, char *out) {
        uint8_t flags = t->flags[id];
        const char *text;
        size_t n;

        text = token_text(t, id, &n);
        if (flags & TOKEN_HIDDEN && !special)
                return 0;
        if (flags & (TOKEN_HIDDEN | TOKEN_USER_DEFINED)) {
                memcpy(out, text, n);
                return n;
        }
        if (t->model == TOKENIZER_BPE && !t->raw)
                return flags & TOKEN_NORMAL ? write_byte_level(text, n, out) : 0;
        if (flags & TOKEN_BYTE)
                return write_byte(text, n, out);
        return flags & TOKEN_NORMAL ? write_unescaped(text, n, out) : 0;
}

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool special, bool raw) {
        *d = (struct detokenizer){ .t = t, .special = special, .raw = raw, .at_start = t->add_space_prefix };
}

/* How many of the bytes at s, which begin no whole character, to replace by one U+FFFD: as many as could have begun
 * one (Unicode 16, section 3.9, "substitution of maximal subparts"). */
static size_t bad_length(const char *s, size_t n) {
        for (size_t len = n < 3 ? n : 3; len > 1; len--)
                if (utf8_complete(s, len) == 0)
                        return len;
        return 1;
}

static size_t write_replaced(const char *s, size_t n, char *out) {
        size_t len = 0;

        for (size_t i = 0; i < n;) {
                uint32_t c;
                size_t size = utf8_decode(s + i, n - i, &c);

                if (size) {
                        memcpy(out + len, s + i, size);
                        len += size;
                        i += size;
                } else {
                        len += utf8_encode(REPLACEMENT, out + len);
                        i += bad_length(s + i, n - i);
                }
        }
        return len;
}

int detokenizer_push(struct detokenizer *d, int32_t id, char *out) {
        char bytes[sizeof(d->held) + DETOKENIZER_PIECE_MAX];
        char *piece = bytes + d->n_held;
        size_t n, whole;

        if (id < 0 || (uint32_t)id >= d->t->n_tokens)
                return -TOKENIZER_E_ID;
        n = token_write_piece(d->t, (uint32_t)id, d->special, piece);
        if (d->at_start && n > 0 && piece[0] == ' ')
                memmove(piece, piece + 1, --n);
        d->at_start = false;
        if (d->raw) {
                memcpy(out, piece, n);
                return (int)n;
        }
        memcpy(bytes, d->held, d->n_held);
        n += d->n_held;
        whole = utf8_complete(bytes, n);
        d->n_held = (unsigned)(n - whole);
        memcpy(d->held, bytes + whole, n - whole);
        return (int)write_replaced(bytes, whole, out);
}

int detokenizer_finish(struct detokenizer *d, char *out) {
        size_t n = write_replaced((const char *)d->held, d->n_held, out);

        d->n_held = 0;
        return (int)n;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, struct buf *out) {
        size_t n_before = out->len;
        struct detokenizer d;

        detokenizer_init(&d, t, special, true);
        for (size_t i = 0; i < n; i++) {
                char piece[DETOKENIZER_PIECE_MAX];
                int len, r;

                len = detokenizer_push(&d, ids[i], piece);
                r = len < 0 ? -len : buf_append(out, piece, (size_t)len);
                if (r) {
                        out->len = n_before;
                        if (out->data)
                                out->data[n_before] = 0;
                        return len < 0 ? TOKENIZER_E_ID : r == BUF_E_LIMIT ? TOKENIZER_E_LIMIT : r;
                }
        }
        return 0;
}
