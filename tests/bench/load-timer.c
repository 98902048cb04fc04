/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "load-timer.h"

void load_timers_deinit(struct load_timers *s) {
        for (size_t i = 0; i < s->n; i++)
                s->heap[i]->place = 0;
        free(s->heap);
        *s = (struct load_timers){ 0 };
}

static bool before(const struct load_timer *a, const struct load_timer *b) {
        return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

static void put(struct load_timers *s, size_t i, struct load_timer *t) {
        s->heap[i] = t;
        t->place = i + 1;
}

/* Moves what stands at i to where it belongs. */
static void sift(struct load_timers *s, size_t i) {
        struct load_timer *t = s->heap[i];

        while (i > 0 && before(t, s->heap[(i - 1) / 2])) {
                put(s, i, s->heap[(i - 1) / 2]);
                i = (i - 1) / 2;
        }
        for (;;) {
                size_t child = 2 * i + 1;

                if (child + 1 < s->n && before(s->heap[child + 1], s->heap[child]))
                        child++;
                if (child >= s->n || !before(s->heap[child], t))
                        break;
                put(s, i, s->heap[child]);
                i = child;
        }
        put(s, i, t);
}

int load_timers_set(struct load_timers *s, struct load_timer *t, double at_us) {
        if (t->place == 0) {
                if (s->n == s->cap) {
                        size_t cap = s->cap ? s->cap * 2 : 64;
                        struct load_timer **p = reallocarray(s->heap, cap, sizeof(*p));

                        if (!p)
                                return -ENOMEM;
                        s->heap = p;
                        s->cap = cap;
                }
                put(s, s->n++, t);
        }
        t->at_us = at_us;
        t->order = s->order++;
        sift(s, t->place - 1);
        return 0;
}

void load_timers_clear(struct load_timers *s, struct load_timer *t) {
        size_t i = t->place - 1;
        struct load_timer *last;

        if (t->place == 0)
                return;
        t->place = 0;
        last = s->heap[--s->n];
        if (last == t)
                return;
        put(s, i, last);
        sift(s, i);
}

struct load_timer *load_timers_first(const struct load_timers *s) {
        return s->n > 0 ? s->heap[0] : NULL;
}
