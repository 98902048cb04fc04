/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "prefix-private.h"

int prefix_heap_reserve(struct prefix_heap *h, uint32_t n) {
        struct prefix_item **items;
        uint32_t cap;

        if (n <= h->cap)
                return 0;
        cap = MAX(n, h->cap > UINT32_MAX / 2 ? UINT32_MAX : h->cap * 2);
        items = reallocarray(h->items, cap, sizeof(*items));
        if (!items)
                return -ENOMEM;
        h->items = items;
        h->cap = cap;
        return 0;
}

void prefix_heap_deinit(struct prefix_heap *h) {
        free(h->items);
        *h = (struct prefix_heap){ 0 };
}

static bool before(const struct prefix_item *a, const struct prefix_item *b) {
        return a->key < b->key || (a->key == b->key && a->order < b->order);
}

static void put(struct prefix_heap *h, uint32_t pos, struct prefix_item *i) {
        h->items[pos] = i;
        i->pos = pos;
}

void prefix_heap_place(struct prefix_heap *h, struct prefix_item *i) {
        uint32_t pos = i->pos == UINT32_MAX ? h->n++ : i->pos, child;

        for (; pos > 0 && before(i, h->items[(pos - 1) / 2]); pos = (pos - 1) / 2)
                put(h, pos, h->items[(pos - 1) / 2]);
        while ((child = 2 * pos + 1) < h->n) {
                child += child + 1 < h->n && before(h->items[child + 1], h->items[child]);
                if (!before(h->items[child], i))
                        break;
                put(h, pos, h->items[child]);
                pos = child;
        }
        put(h, pos, i);
}

void prefix_heap_remove(struct prefix_heap *h, struct prefix_item *i) {
        struct prefix_item *last;

        if (i->pos == UINT32_MAX)
                return;
        last = h->items[--h->n];
        if (last != i) {
                last->pos = i->pos;
                h->items[i->pos] = last;
                prefix_heap_place(h, last);
        }
        i->pos = UINT32_MAX;
}
