/* SPDX-License-Identifier: Apache-2.0 */

/* The table of requests: a key is a slot and a number that never comes again. */

#include <errno.h>
#include <stdlib.h>

#include "request-keep.h"
#include "request-private.h"

void requests_init(struct requests *t) {
        *t = (struct requests){ 0 };
}

void requests_deinit(struct requests *t) {
        free(t->slots);
        free(t->free_slots);
        *t = (struct requests){ 0 };
}

static int requests_grow(struct requests *t) {
        size_t n = t->n_slots ? t->n_slots * 2 : 64;
        struct request **slots;
        uint32_t *unused;

        if (n > 1u << REQUEST_KEY_SLOT_BITS)
                return -ENOBUFS;
        slots = reallocarray(t->slots, n, sizeof(void *));
        if (!slots)
                return -ENOMEM;
        t->slots = slots;
        unused = reallocarray(t->free_slots, n, sizeof(*unused));
        if (!unused)
                return -ENOMEM;
        t->free_slots = unused;
        for (size_t i = t->n_slots; i < n; i++) {
                slots[i] = NULL;
                unused[t->n_free++] = (uint32_t)i;
        }
        t->n_slots = n;
        return 0;
}

int requests_add(struct requests *t, struct request *r) {
        uint32_t slot;
        int e;

        if (t->n_free == 0) {
                e = requests_grow(t);
                if (e < 0)
                        return e;
        }
        slot = t->free_slots[--t->n_free];
        t->slots[slot] = r;
        t->count++;
        r->key = ++t->sequence << REQUEST_KEY_SLOT_BITS | slot;
        return 0;
}

int requests_add_again(struct requests *t, struct request *r, uint64_t key) {
        size_t slot = key & ((1u << REQUEST_KEY_SLOT_BITS) - 1);
        int e;

        while (slot >= t->n_slots) {
                e = requests_grow(t);
                if (e < 0)
                        return e;
        }
        if (t->slots[slot])
                return -EEXIST;
        t->n_free = 0; /* which are free is seen when all are there */
        t->slots[slot] = r;
        t->count++;
        r->key = key;
        t->sequence = MAX(t->sequence, key >> REQUEST_KEY_SLOT_BITS);
        return 0;
}

void requests_added_again(struct requests *t) {
        t->n_free = 0;
        for (size_t i = 0; i < t->n_slots; i++)
                if (!t->slots[i])
                        t->free_slots[t->n_free++] = (uint32_t)i;
}

void requests_remove(struct requests *t, struct request *r) {
        uint32_t slot = (uint32_t)(r->key & ((1u << REQUEST_KEY_SLOT_BITS) - 1));

        if (r->key == 0)
                return;
        t->slots[slot] = NULL;
        t->free_slots[t->n_free++] = slot;
        t->count--;
        r->key = 0;
}

struct request *requests_find(const struct requests *t, uint64_t key) {
        uint64_t slot = key & ((1u << REQUEST_KEY_SLOT_BITS) - 1);

        if (slot >= t->n_slots || !t->slots[slot] || t->slots[slot]->key != key)
                return NULL;
        return t->slots[slot];
}
