/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "merge.h"

/*
 * Only pairs that are due stand in the queue: those that go before both of their neighbours. No other pair can be the
 * best of all, so that the queue stays short (one entry for a row of equal symbols, where the plain way has them all),
 * and few entries grow stale. In a long row those that are due at the beginning are sorted instead: they are read in
 * order, so that it is known ahead which symbols come next.
 */

/* Four children a node: half the levels of a binary heap, and siblings share a cache line. */
#define ARITY 4u

void merge_row_init(struct merge_row *row) {
        row->symbols = row->inline_symbols;
        row->heap = row->inline_heap;
        row->n_symbols = row->n_heap = 0;
        row->cap_symbols = row->cap_heap = MERGE_INLINE;
        row->sorted = NULL;
        row->n_sorted = row->at_sorted = 0;
        row->memo = NULL;
}

void merge_row_deinit(struct merge_row *row) {
        if (row->symbols != row->inline_symbols)
                free(row->symbols);
        if (row->heap != row->inline_heap)
                free(row->heap);
        free(row->sorted);
        free(row->memo);
        merge_row_init(row);
}

#define MEMO_BITS 12u

int merge_row_remember(struct merge_row *row) {
        if (!row->memo)
                row->memo = malloc(sizeof(*row->memo) << MEMO_BITS);
        if (!row->memo)
                return -ENOMEM;
        memset(row->memo, 0xff, sizeof(*row->memo) << MEMO_BITS);
        return 0;
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

static void find_pair(const struct merge_row *row, merge_find_fn find, uint32_t i) {
        struct merge_symbol *s = &row->symbols[i];

        if (!find(row, i, s->next, &s->rank, &s->joined))
                s->rank = MERGE_END;
}

static void look_at_pair(const struct merge_row *row, merge_find_fn find, uint32_t i) {
        struct merge_symbol *s = &row->symbols[i];
        struct merge_memo *memo;
        uint32_t right;

        if (s->next == MERGE_END) {
                s->rank = MERGE_END;
                return;
        }
        right = row->symbols[s->next].id;
        if (!row->memo || s->id == MERGE_END || right == MERGE_END) {
                find_pair(row, find, i);
                return;
        }
        memo = &row->memo[(s->id * 0x9e3779b1u + right * 0x85ebca77u) >> (32 - MEMO_BITS)];
        if (memo->left == s->id && memo->right == right) {
                s->rank = memo->rank;
                s->joined = memo->joined;
                return;
        }
        find_pair(row, find, i);
        *memo = (struct merge_memo){ s->id, right, s->rank, s->joined };
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

/* By rank; what is of equal rank stays in order. One byte of the rank after the other, those that all share left out.
 * Returns where the result is: keys or other. */
static uint64_t *sort_keys(uint64_t *keys, uint64_t *other, size_t n) {
        for (unsigned shift = 32; shift < 64; shift += 8) {
                size_t counts[256] = { 0 }, at = 0;
                uint64_t *from = keys;

                for (size_t i = 0; i < n; i++)
                        counts[from[i] >> shift & 0xff]++;
                if (counts[from[0] >> shift & 0xff] == n)
                        continue;
                for (unsigned b = 0; b < 256; b++) {
                        size_t count = counts[b];

                        counts[b] = at;
                        at += count;
                }
                for (size_t i = 0; i < n; i++)
                        other[counts[from[i] >> shift & 0xff]++] = from[i];
                keys = other;
                other = from;
        }
        return keys;
}

static int seed_sorted(struct merge_row *row, size_t n_due) {
        _cleanup_free_ uint64_t *keys = calloc(n_due, sizeof(*keys)), *other = malloc(n_due * sizeof(*other));
        size_t n = 0;

        if (!keys || !other)
                return -ENOMEM;
        for (uint32_t i = 0; i < row->n_symbols; i++)
                if (is_due(row, i))
                        keys[n++] = (uint64_t)row->symbols[i].rank << 32 | i;
        free(row->sorted);
        row->sorted = sort_keys(keys, other, n);
        row->n_sorted = n;
        if (row->sorted == keys)
                keys = NULL;
        else
                other = NULL;
        return 0;
}

#define SORT_MIN 512u /* fewer keys are in the heap sooner than sorted */

static int seed(struct merge_row *row, merge_find_fn find) {
        size_t n_due = 0;
        int r = 0;

        row->n_sorted = row->at_sorted = 0;
        for (uint32_t i = 0; i < row->n_symbols; i++)
                look_at_pair(row, find, i);
        for (uint32_t i = 0; i < row->n_symbols; i++)
                n_due += is_due(row, i);
        if (n_due >= SORT_MIN)
                return seed_sorted(row, n_due);
        for (uint32_t i = 0; r == 0 && n_due > 0; i++)
                if (is_due(row, i)) {
                        r = enqueue(row, i);
                        n_due--;
                }
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

#define AHEAD 12u /* keys, as far as a fetch from memory takes */

/* The lowest key of the queue, which is not empty. What comes after it lies anywhere in a long row. */
static uint64_t take_first(struct merge_row *row) {
        if (row->at_sorted < row->n_sorted && (row->n_heap == 0 || row->sorted[row->at_sorted] < row->heap[0])) {
                size_t ahead = MIN(row->at_sorted + AHEAD, row->n_sorted - 1);

                __builtin_prefetch(&row->symbols[(uint32_t)row->sorted[ahead]], 1);
                return row->sorted[row->at_sorted++];
        }
        for (size_t k = 1; k < row->n_heap && k <= ARITY; k++)
                __builtin_prefetch(&row->symbols[(uint32_t)row->heap[k]], 1);
        return heap_pop(row);
}

/* A queued pair may be stale: one of its symbols was joined with another since. Then the rank that the symbol has now
 * differs, or it is as good as the queued one and the pair stands in the queue again at the same place. */
int merge_row_run(struct merge_row *row, merge_find_fn find) {
        int r;

        if (row->n_symbols == 0)
                return 0;
        row->symbols[row->n_symbols - 1].next = MERGE_END;
        r = seed(row, find);
        while (r == 0 && (row->n_heap > 0 || row->at_sorted < row->n_sorted)) {
                uint64_t key = take_first(row);

                if (row->symbols[(uint32_t)key].rank == (uint32_t)(key >> 32))
                        r = join(row, find, (uint32_t)key);
        }
        return r;
}
