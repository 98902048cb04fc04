/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Characters are taken apart into a cluster: a starter and the marks that follow it. When the next starter comes, the
 * marks are put in their canonical order (sorted by counting: a cluster may be as long as the text), those that can are
 * joined with the starter, and the cluster goes out. A starter that joins with the one before does not end its cluster.
 */

#include "nfc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "base/utf8.h"
#include "nfc-table.h"

/* Hangul: The Unicode Standard, section 3.12 */
#define S_BASE 0xac00u
#define L_BASE 0x1100u
#define V_BASE 0x1161u
#define T_BASE 0x11a7u
#define L_COUNT 19u
#define V_COUNT 21u
#define T_COUNT 28u
#define S_COUNT (L_COUNT * V_COUNT * T_COUNT)

struct element {
        uint32_t code;
        uint8_t order;
};

struct cluster {
        struct element *items;
        struct element *sorted; /* room for as many */
        size_t n;
        size_t cap;
        struct buf *out;
};

bool nfc_is_ascii(const char *text, size_t n) {
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)text[i] >= 0x80)
                        return false;
        return true;
}

static uint8_t order_of(uint32_t c) {
        size_t lo = 0, hi = nfc_n_classes;

        if (c < 0x300)
                return 0;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if (c < nfc_classes[mid].first)
                        hi = mid;
                else if (c > nfc_classes[mid].last)
                        lo = mid + 1;
                else
                        return nfc_classes[mid].order;
        }
        return 0;
}

static const struct nfc_parts *find_parts(uint32_t c) {
        size_t lo = 0, hi = nfc_n_parts;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if (nfc_parts[mid].whole == c)
                        return &nfc_parts[mid];
                if (nfc_parts[mid].whole < c)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return NULL;
}

/* 0 where they don't join. */
static uint32_t join(uint32_t first, uint32_t second) {
        size_t lo = 0, hi = nfc_n_pairs;

        if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT)
                return S_BASE + ((first - L_BASE) * V_COUNT + second - V_BASE) * T_COUNT;
        if (first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0 && second > T_BASE && second < T_BASE + T_COUNT)
                return first + second - T_BASE;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                const struct nfc_pair *p = &nfc_pairs[mid];

                if (p->first == first && p->second == second)
                        return p->whole;
                if (p->first < first || (p->first == first && p->second < second))
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return 0;
}

static int append(struct cluster *k, uint32_t code, uint8_t order) {
        if (k->n == k->cap) {
                size_t cap = k->cap ? k->cap * 2 : 64;
                struct element *p = realloc(k->items, cap * sizeof(*p));

                if (!p)
                        return -ENOMEM;
                k->items = p;
                p = realloc(k->sorted, cap * sizeof(*p));
                if (!p)
                        return -ENOMEM;
                k->sorted = p;
                k->cap = cap;
        }
        k->items[k->n++] = (struct element){ code, order };
        return 0;
}

/* Marks by their class, those of one class as they came. */
static void sort_marks(struct element *items, struct element *sorted, size_t n) {
        size_t start[256] = { 0 }, at = 0;
        bool in_order = true;

        for (size_t i = 1; i < n && in_order; i++)
                in_order = items[i - 1].order <= items[i].order;
        if (in_order)
                return;
        for (size_t i = 0; i < n; i++)
                start[items[i].order]++;
        for (size_t i = 0; i < ARRAY_SIZE(start); i++) {
                size_t count = start[i];

                start[i] = at;
                at += count;
        }
        for (size_t i = 0; i < n; i++)
                sorted[start[items[i].order]++] = items[i];
        memcpy(items, sorted, n * sizeof(*items));
}

/* Joins marks with the starter; a mark that stays blocks those of its class. */
static void compose(struct cluster *k) {
        uint8_t last = 0;
        size_t kept = 1;

        if (k->n < 2 || k->items[0].order != 0)
                return;
        for (size_t i = 1; i < k->n; i++) {
                struct element e = k->items[i];
                uint32_t whole = e.order > last ? join(k->items[0].code, e.code) : 0;

                if (whole)
                        k->items[0].code = whole;
                else {
                        k->items[kept++] = e;
                        last = e.order;
                }
        }
        k->n = kept;
}

static void settle(struct cluster *k) {
        size_t from = k->n && k->items[0].order == 0;

        sort_marks(k->items + from, k->sorted, k->n - from);
        compose(k);
}

static int flush(struct cluster *k) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < k->n; i++) {
                char text[4];

                r = buf_append(k->out, text, utf8_encode(k->items[i].code, text));
        }
        k->n = 0;
        return r ? -ENOMEM : 0;
}

/* One character that has no parts. */
static int add(struct cluster *k, uint32_t c) {
        uint8_t order = order_of(c);
        uint32_t whole;
        int r;

        if (order == 0 && k->n > 0) {
                settle(k);
                whole = k->n == 1 ? join(k->items[0].code, c) : 0;
                if (whole) {
                        k->items[0].code = whole;
                        return 0;
                }
                r = flush(k);
                if (r < 0)
                        return r;
        }
        return append(k, c, order);
}

#define PARTS_MAX 8

/* The last part of a character has no parts itself; the first may, a few levels deep. */
static int add_apart(struct cluster *k, uint32_t c) {
        uint32_t behind[PARTS_MAX], s = c - S_BASE;
        const struct nfc_parts *p;
        size_t n = 0;
        int r;

        if (s < S_COUNT) {
                r = add(k, L_BASE + s / (V_COUNT * T_COUNT));
                if (r == 0)
                        r = add(k, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT);
                return r == 0 && s % T_COUNT ? add(k, T_BASE + s % T_COUNT) : r;
        }
        while (c >= 0xc0 && n < PARTS_MAX && (p = find_parts(c))) {
                if (p->second)
                        behind[n++] = p->second;
                c = p->first;
        }
        r = add(k, c);
        while (r == 0 && n > 0)
                r = add(k, behind[--n]);
        return r;
}

int nfc_normalize(const char *text, size_t n, struct buf *out) {
        struct cluster k = { .out = out };
        int r = 0;

        for (size_t i = 0; r == 0 && i < n;) {
                uint32_t c;
                size_t len = utf8_decode(text + i, n - i, &c);

                if (len)
                        r = add_apart(&k, c);
                else {
                        settle(&k);
                        r = flush(&k);
                        if (r == 0 && buf_append(out, text + i, 1))
                                r = -ENOMEM;
                }
                i += len ? len : 1;
        }
        if (r == 0) {
                settle(&k);
                r = flush(&k);
        }
        free(k.items);
        free(k.sorted);
        return r;
}
