/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "merge.h"

/*
 * Only pairs that are due stand in the queue: those that go before both of their neighbours. No other pair can be the
 * best of all, so that the queue stays short (one entry for a row of equal symbols, where the plain way has them all),
 * and few entries grow stale.
 */

/* Four children a node: half the levels of a binary heap, and siblings share a cache line. */
#define ARITY 4u

void merge_row_init(struct merge_row *row) {
        row->symbols = row->inline_symbols;
        row->heap = row->inline_heap;
        row->n_symbols = row->n_heap = 0;
        row->cap_symbols = row->cap_heap = MERGE_INLINE;
}

void merge_row_deinit(struct merge_row *row) {
        if (row->symbols != row->inline_symbols)
                free(row->symbols);
        if (row->heap != row->inline_heap)
                free(row->heap);
        merge_row_init(row);
}

int merge_row_reset(struct merge_row *row, size_t n) {
        struct merge_symbol *p;

        row->n_symbols = row->n_heap = 0;
        if (n <= row->cap_symbols)
                return 0;
        if (n >= MERGE_END)
                return -ENOMEM;
        p = malloc(n * sizeof(*p));
        if (!p)
                return -ENOMEM;
        if (row->symbols != row->inline_symbols)
                free(row->symbols);
        row->symbols = p;
        row->cap_symbols = n;
        return 0;
}

static int heap_grow(struct merge_row *row) {
        size_t cap = row->cap_heap * 2;
        bool is_inline = row->heap == row->inline_heap;
        uint64_t *p;

        p = is_inline ? malloc(cap * sizeof(*p)) : realloc(row->heap, cap * sizeof(*p));
        if (!p)
                return -ENOMEM;
        if (is_inline)
                for (size_t i = 0; i < row->n_heap; i++)
                        p[i] = row->heap[i];
        row->heap = p;
        row->cap_heap = cap;
        return 0;
}

static void sift_down(uint64_t *heap, size_t n, size_t i, uint64_t key) {
        for (;;) {
                size_t child = i * ARITY + 1, end = child + ARITY, best = child;

                if (child >= n)
                        break;
                if (end > n)
                        end = n;
                for (size_t c = child + 1; c < end; c++)
                        if (heap[c] < heap[best])
                                best = c;
                if (heap[best] >= key)
                        break;
                heap[i] = heap[best];
                i = best;
        }
        heap[i] = key;
}

static int heap_push(struct merge_row *row, uint64_t key) {
        size_t i = row->n_heap;
        int r;

        if (i == row->cap_heap) {
                r = heap_grow(row);
                if (r < 0)
                        return r;
        }
        row->n_heap++;
        while (i > 0) {
                size_t parent = (i - 1) / ARITY;

                if (row->heap[parent] <= key)
                        break;
                row->heap[i] = row->heap[parent];
                i = parent;
        }
        row->heap[i] = key;
        return 0;
}

static uint64_t heap_pop(struct merge_row *row) {
        uint64_t top = row->heap[0];

        row->n_heap--;
        if (row->n_heap > 0)
                sift_down(row->heap, row->n_heap, 0, row->heap[row->n_heap]);
        return top;
}

static void look_at_pair(struct merge_row *row, merge_find_fn find, uint32_t i) {
        struct merge_symbol *s = &row->symbols[i];

        if (s->next == MERGE_END || !find(row, i, s->next, &s->rank, &s->joined))
                s->rank = MERGE_END;
}

static uint32_t rank_at(const struct merge_row *row, uint32_t i) {
        return i == MERGE_END ? MERGE_END : row->symbols[i].rank;
}

/* Whether the pair that begins with symbol i goes before both pairs that it shares a symbol with. */
static bool is_due(const struct merge_row *row, uint32_t i) {
        const struct merge_symbol *s = &row->symbols[i];

        return s->rank != MERGE_END && s->rank < rank_at(row, s->prev) && s->rank <= rank_at(row, s->next);
}

static int enqueue(struct merge_row *row, uint32_t i) {
        return heap_push(row, (uint64_t)row->symbols[i].rank << 32 | i);
}

static int seed(struct merge_row *row, merge_find_fn find) {
        int r = 0;

        for (uint32_t i = 0; i < row->n_symbols; i++)
                look_at_pair(row, find, i);
        for (uint32_t i = 0; r == 0 && i < row->n_symbols; i++)
                if (is_due(row, i))
                        r = enqueue(row, i);
        return r;
}

/* Joins symbol i with its next. The two pairs that this makes are queued if they are due, and the pairs beside them if
 * they have become so. */
static int join(struct merge_row *row, merge_find_fn find, uint32_t i) {
        struct merge_symbol *s = &row->symbols[i], *gone = &row->symbols[s->next];
        uint32_t before = rank_at(row, s->prev), after = gone->rank;
        int r = 0;

        s->id = s->joined;
        s->next = gone->next;
        gone->rank = MERGE_END;
        if (s->next != MERGE_END)
                row->symbols[s->next].prev = i;
        look_at_pair(row, find, i);
        if (s->prev != MERGE_END)
                look_at_pair(row, find, s->prev);

        if (is_due(row, i))
                r = enqueue(row, i);
        if (r == 0 && s->next != MERGE_END && rank_at(row, s->next) >= after && is_due(row, s->next))
                r = enqueue(row, s->next);
        if (r < 0 || s->prev == MERGE_END)
                return r;
        if (is_due(row, s->prev))
                return enqueue(row, s->prev);
        i = row->symbols[s->prev].prev;
        return i != MERGE_END && rank_at(row, i) > before && is_due(row, i) ? enqueue(row, i) : 0;
}

/* A queued pair may be stale: one of its symbols was joined with another since. Then the rank that the symbol has now
 * differs, or it is as good as the queued one and the pair stands in the queue again at the same place. */
int merge_row_run(struct merge_row *row, merge_find_fn find) {
        int r;

        if (row->n_symbols == 0)
                return 0;
        row->symbols[row->n_symbols - 1].next = MERGE_END;
        r = seed(row, find);
        while (r == 0 && row->n_heap > 0) {
                uint64_t key = heap_pop(row);
                uint32_t i = (uint32_t)key;

                for (size_t k = 0; k < row->n_heap && k <= ARITY; k++) /* what comes next lies anywhere in a long row */
                        __builtin_prefetch(&row->symbols[(uint32_t)row->heap[k]], 1);
                if (row->symbols[i].rank == (uint32_t)(key >> 32))
                        r = join(row, find, i);
        }
        return r;
}
