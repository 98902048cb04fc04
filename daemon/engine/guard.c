/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "guard.h"

#define PRIVATE_FIRST 0xE000u
#define PRIVATE_COUNT 6400u

enum {
        TYPE_UNKNOWN = 2,
        TYPE_CONTROL = 3,
        TYPE_USER_DEFINED = 4,
        TYPE_MASK = 0x0f, /* without how it is recognised */
};

static int compare_strings(const void *a, const void *b) {
        const struct guard_string *x = a, *y = b;
        int c = memcmp(x->text, y->text, MIN(x->size, y->size));

        return c ? c : (x->size > y->size) - (x->size < y->size);
}

/* Plain tokenizing recognises some (user-defined ones in some families): those are everybody's to write. */
static int is_plain(const struct tokenizer *t, const struct guard_string *s, int32_t id, bool *ret) {
        struct token_array a = { 0 };
        int r;

        r = tokenizer_encode(t, s->text, s->size, 0, &a);
        *ret = a.n == 1 && a.ids[0] == id;
        token_array_deinit(&a);
        return r;
}

int guard_init(struct guard *g, const struct tokenizer_def *def, const struct tokenizer *t) {
        *g = (struct guard){ 0 };
        g->strings = calloc(def->n_tokens ? def->n_tokens : 1, sizeof(*g->strings));
        if (!g->strings)
                return -ENOMEM;
        for (size_t i = 0; i < def->n_tokens; i++) {
                struct guard_string s = {
                        .text = def->token_bytes + def->token_offsets[i],
                        .size = (size_t)(def->token_offsets[i + 1] - def->token_offsets[i]),
                };
                unsigned type = def->types[i] & TYPE_MASK;
                bool plain;
                int r;

                if (s.size == 0 || type < TYPE_UNKNOWN || type > TYPE_USER_DEFINED)
                        continue;
                r = is_plain(t, &s, (int32_t)i, &plain);
                if (r < 0) {
                        guard_deinit(g);
                        return r;
                }
                if (plain)
                        continue;
                g->strings[g->n++] = s;
                g->first[(unsigned char)s.text[0]] = true;
        }
        qsort(g->strings, g->n, sizeof(*g->strings), compare_strings);
        return 0;
}

void guard_deinit(struct guard *g) {
        free(g->strings);
        *g = (struct guard){ 0 };
}

/* First of [lo, hi), which agree in their first d bytes and are longer, whose byte d is at least c. */
static size_t lower_bound(const struct guard *g, size_t lo, size_t hi, size_t d, unsigned c) {
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if ((unsigned char)g->strings[mid].text[d] < c)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return lo;
}

/* Length of the longest string that text begins with, 0 for none; *ret_open: the text ends within one. */
static size_t match(const struct guard *g, const char *text, size_t n, bool *ret_open) {
        size_t lo = 0, hi = g->n, longest = 0;

        *ret_open = false;
        if (n == 0 || !g->first[(unsigned char)text[0]])
                return 0;
        for (size_t d = 0;; d++) {
                while (lo < hi && g->strings[lo].size == d) {
                        longest = d;
                        lo++;
                }
                if (lo == hi)
                        return longest;
                if (d == n) {
                        *ret_open = true;
                        return longest;
                }
                lo = lower_bound(g, lo, hi, d, (unsigned char)text[d]);
                hi = lower_bound(g, lo, hi, d, (unsigned char)text[d] + 1u);
        }
}

void guard_make_mark(const uint32_t random[4], char mark[GUARD_MARK_BYTES]) {
        const uint64_t halves[2] = { (uint64_t)random[0] << 32 | random[1], (uint64_t)random[2] << 32 | random[3] };

        for (unsigned i = 0; i < GUARD_MARK_CHARS; i++) {
                uint64_t v = halves[i / 3];

                for (unsigned k = 0; k < i % 3; k++)
                        v /= PRIVATE_COUNT;
                (void)utf8_encode(PRIVATE_FIRST + (uint32_t)(v % PRIVATE_COUNT), mark + 3 * (size_t)i);
        }
}

static size_t character_size(const char *text, size_t n) {
        size_t k = 1;

        while (k < n && ((unsigned char)text[k] & 0xC0) == 0x80)
                k++;
        return k;
}

int guard_mark(const struct guard *g, const char mark[GUARD_MARK_BYTES], const char *text, size_t n, struct buf *out) {
        size_t copied = 0;
        int r = 0;

        for (size_t i = 0; i < n && r == 0; i++) {
                bool open;
                size_t end;

                if (match(g, text + i, n - i, &open) == 0 && !open)
                        continue;
                end = i + character_size(text + i, n - i);
                r = buf_append(out, text + copied, end - copied);
                if (r == 0)
                        r = buf_append(out, mark, GUARD_MARK_BYTES);
                copied = end;
        }
        return r == 0 ? buf_append(out, text + copied, n - copied) : r;
}

struct marks {
        size_t *at; /* offsets in the text without marks, ascending */
        size_t n;
};

/* Closes the text up over the marks. */
static int take_marks(const char mark[GUARD_MARK_BYTES], char *text, size_t *n, struct marks *ret) {
        size_t len = 0, cap = 0;

        for (size_t i = 0; i < *n;) {
                if (*n - i < GUARD_MARK_BYTES || memcmp(text + i, mark, GUARD_MARK_BYTES) != 0) {
                        text[len++] = text[i++];
                        continue;
                }
                if (ret->n == cap) {
                        size_t *grown = reallocarray(ret->at, cap ? 2 * cap : 64, sizeof(*grown));

                        if (!grown)
                                return -ENOMEM;
                        ret->at = grown;
                        cap = cap ? 2 * cap : 64;
                }
                ret->at[ret->n++] = len;
                i += GUARD_MARK_BYTES;
        }
        *n = len;
        return 0;
}

struct encoder {
        const struct tokenizer *t;
        const char *text;
        const struct marks *marks;
        size_t mark;    /* the first mark behind `stretch` */
        size_t done;    /* text before this is tokenized */
        size_t stretch; /* text since the last special token of the template's own */
        struct token_array *out;
};

static int encode_part(struct encoder *e, size_t end, unsigned flags) {
        int r = 0;

        if (end > e->done)
                r = tokenizer_encode(e->t, e->text + e->done, end - e->done, flags, e->out);
        e->done = end;
        return r;
}

/* The stretch ends at `end`: if it holds a mark, what is before it goes out with its special tokens, the stretch
 * itself without any. */
static int end_stretch(struct encoder *e, size_t end) {
        size_t first = e->mark;
        int r;

        while (e->mark < e->marks->n && e->marks->at[e->mark] <= end)
                e->mark++;
        if (e->mark == first)
                return 0;
        r = encode_part(e, e->stretch, TOKENIZE_SPECIAL);
        return r == 0 ? encode_part(e, end, 0) : r;
}

static bool has_mark(const struct marks *marks, size_t first, size_t begin, size_t end) {
        while (first < marks->n && marks->at[first] <= begin)
                first++;
        return first < marks->n && marks->at[first] <= end;
}

static int encode_marked(const struct guard *g, struct encoder *e, size_t n) {
        size_t near = 0; /* the first mark that the text at i can still meet */
        int r = 0;

        for (size_t i = 0; i < n && r == 0;) {
                bool open;
                size_t size = match(g, e->text + i, n - i, &open);

                while (near < e->marks->n && e->marks->at[near] <= i)
                        near++;
                if (size == 0 || has_mark(e->marks, near, i, i + size)) {
                        i++;
                        continue;
                }
                r = end_stretch(e, i);
                i += size;
                e->stretch = i;
        }
        if (r == 0)
                r = end_stretch(e, n);
        return r == 0 ? encode_part(e, n, TOKENIZE_SPECIAL) : r;
}

int guard_encode(const struct guard *g, const char mark[GUARD_MARK_BYTES], const struct tokenizer *t, char *text,
                 size_t n, struct token_array *out) {
        struct marks marks = { 0 };
        struct encoder e = { .t = t, .text = text, .marks = &marks, .out = out };
        int r;

        r = take_marks(mark, text, &n, &marks);
        if (r == 0 && marks.n == 0)
                r = tokenizer_encode(t, text, n, TOKENIZE_SPECIAL, out);
        else if (r == 0)
                r = encode_marked(g, &e, n);
        free(marks.at);
        return r;
}
