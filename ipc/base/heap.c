/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/heap.h"

int heap_reserve(struct heap *h, size_t n) {
        size_t cap = h->cap ? h->cap : 8;
        struct heap_node **nodes;

        if (n <= h->cap)
                return 0;
        while (cap < n)
                cap = cap > SIZE_MAX / 2 ? n : cap * 2;
        nodes = reallocarray(h->nodes, cap, sizeof(*nodes));
        if (!nodes)
                return -ENOMEM;
        h->nodes = nodes;
        h->cap = cap;
        return 0;
}

void heap_deinit(struct heap *h) {
        free(h->nodes);
        *h = HEAP_NULL;
}

static bool comes_before(const struct heap_node *a, const struct heap_node *b) {
        return a->key != b->key ? a->key < b->key : a->tie < b->tie;
}

static void put(struct heap *h, struct heap_node *node, size_t place) {
        h->nodes[place] = node;
        node->place = place;
}

static void sift_up(struct heap *h, struct heap_node *node, size_t place) {
        while (place > 0) {
                size_t parent = (place - 1) / 2;

                if (!comes_before(node, h->nodes[parent]))
                        break;
                put(h, h->nodes[parent], place);
                place = parent;
        }
        put(h, node, place);
}

static void sift_down(struct heap *h, struct heap_node *node, size_t place) {
        for (;;) {
                size_t child = 2 * place + 1;

                if (child >= h->n)
                        break;
                if (child + 1 < h->n && comes_before(h->nodes[child + 1], h->nodes[child]))
                        child++;
                if (!comes_before(h->nodes[child], node))
                        break;
                put(h, h->nodes[child], place);
                place = child;
        }
        put(h, node, place);
}

void heap_insert(struct heap *h, struct heap_node *node, uint64_t key) {
        node->key = key;
        sift_up(h, node, h->n++);
}

void heap_remove(struct heap *h, struct heap_node *node) {
        size_t place = node->place;
        struct heap_node *last;

        if (place == HEAP_NOWHERE)
                return;
        node->place = HEAP_NOWHERE;
        last = h->nodes[--h->n];
        if (last == node)
                return;
        if (place > 0 && comes_before(last, h->nodes[(place - 1) / 2]))
                sift_up(h, last, place);
        else
                sift_down(h, last, place);
}

void heap_update(struct heap *h, struct heap_node *node, uint64_t key) {
        bool grows = key > node->key;

        if (key == node->key)
                return;
        node->key = key;
        if (grows)
                sift_down(h, node, node->place);
        else
                sift_up(h, node, node->place);
}

bool heap_check(const struct heap *h) {
        for (size_t i = 0; i < h->n; i++)
                if (h->nodes[i]->place != i || (i > 0 && comes_before(h->nodes[i], h->nodes[(i - 1) / 2])))
                        return false;
        return h->n <= h->cap;
}
