/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Intrusive doubly linked list. A head and a detached node both point at themselves. */

#include <stdbool.h>

#include "macro.h"

struct list {
        struct list *next;
        struct list *prev;
};

static inline void list_init(struct list *l) {
        l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l) {
        return l->next == l;
}

static inline void list_append(struct list *head, struct list *node) {
        node->prev = head->prev;
        node->next = head;
        head->prev->next = node;
        head->prev = node;
}

/* Takes the node out, leaves it detached; harmless on a detached node. */
static inline void list_remove(struct list *node) {
        node->prev->next = node->next;
        node->next->prev = node->prev;
        list_init(node);
}

static inline struct list *list_pop(struct list *head) {
        struct list *n = head->next;

        if (n == head)
                return NULL;
        list_remove(n);
        return n;
}

#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)
/* Safe against removal of the current node. */
#define LIST_FOREACH(pos, tmp, head) \
        for (pos = (head)->next, tmp = pos->next; pos != (head); pos = tmp, tmp = pos->next)
