/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A binary heap of nodes that are embedded in what they stand for: least key first, ties by the lower `tie`. A node
 * knows its place, so that its key can be changed and it can be taken out from the middle in O(log n). Memory is one
 * array of pointers; nodes are the caller's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAP_NOWHERE SIZE_MAX

struct heap_node {
        uint64_t key, tie; /* tie: set by the caller, while the node is in no heap */
        size_t place; /* HEAP_NOWHERE: in no heap */
};

struct heap {
        struct heap_node **nodes;
        size_t n, cap;
};

#define HEAP_NULL ((struct heap){ 0 })
#define HEAP_NODE_NULL ((struct heap_node){ .place = HEAP_NOWHERE })

/* Room for n nodes all in all, so that heap_insert() of that many cannot fail. 0 or -ENOMEM. */
int heap_reserve(struct heap *h, size_t n);
/* Frees the array; nodes still in it are left with a place that means nothing. */
void heap_deinit(struct heap *h);

static inline bool heap_has(const struct heap_node *node) {
        return node->place != HEAP_NOWHERE;
}
static inline struct heap_node *heap_top(const struct heap *h) {
        return h->n > 0 ? h->nodes[0] : NULL;
}
/* The node is in no heap, and there is room. */
void heap_insert(struct heap *h, struct heap_node *node, uint64_t key);
/* Does nothing where the node is in no heap. */
void heap_remove(struct heap *h, struct heap_node *node);
/* Changes the key of a node that is in the heap. */
void heap_update(struct heap *h, struct heap_node *node, uint64_t key);

/* For tests: true where the order holds and every node knows its place. */
bool heap_check(const struct heap *h);
