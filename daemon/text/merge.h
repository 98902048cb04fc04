/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Merging: a row of symbols, of which neighbours are joined, best rank first and leftmost among equals, until no pair
 * is left that may be joined. Symbols are a linked list and the candidates a heap, so that n symbols take
 * O(n log n) whatever they are.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_END UINT32_MAX

struct merge_symbol {
        uint32_t id;   /* TOKEN_NONE where no token has the text */
        uint32_t pos;  /* where its text begins */
        uint32_t next; /* MERGE_END at the end */
        uint32_t prev;
        uint32_t rank; /* of the pair with `next`; MERGE_END where it can't be joined or the symbol is gone */
        uint32_t joined; /* what the pair becomes */
};

/* What joining two neighbours would give. Stores rank and id and returns true, or false where they don't join. */
struct merge_row;
typedef bool (*merge_find_fn)(const struct merge_row *row, uint32_t left, uint32_t right, uint32_t *ret_rank,
                               uint32_t *ret_id);

#define MERGE_INLINE 128u

/* What was found for a pair of ids lately. Vocabularies are larger than caches, and texts are made of few pairs. */
struct merge_memo {
        uint32_t left; /* MERGE_END: free */
        uint32_t right;
        uint32_t rank;
        uint32_t joined;
};

struct merge_row {
        const void *userdata;
        const char *text;
        uint32_t text_end; /* where the last symbol's text ends */
        struct merge_symbol *symbols;
        size_t n_symbols;
        size_t cap_symbols;
        uint64_t *heap; /* rank << 32 | index of the left symbol */
        size_t n_heap;
        size_t cap_heap;
        uint64_t *sorted; /* keys as in the heap: what is due at the beginning, where that is much */
        size_t n_sorted;
        size_t at_sorted;
        struct merge_memo *memo; /* NULL where the row doesn't remember */
        struct merge_symbol inline_symbols[MERGE_INLINE];
        uint64_t inline_heap[MERGE_INLINE];
};

void merge_row_init(struct merge_row *row);
void merge_row_deinit(struct merge_row *row);
/* Has the row remember what pairs of ids join to, which must depend on the ids alone and always be the same. Pays off for
 * some thousand symbols and more. 0 or -ENOMEM. */
int merge_row_remember(struct merge_row *row);
/* Makes room for n symbols and empties the row. 0 or -ENOMEM. */
int merge_row_reset(struct merge_row *row, size_t n);
/* Appends; there must be room. */
static inline void merge_row_push(struct merge_row *row, uint32_t id, uint32_t pos) {
        uint32_t i = (uint32_t)row->n_symbols++;

        row->symbols[i] = (struct merge_symbol){ id, pos, i + 1, i - 1, MERGE_END, MERGE_END };
}
/* Joins what can be joined. Symbol 0 is the first of those that stay; `next` leads on. 0 or -ENOMEM. */
int merge_row_run(struct merge_row *row, merge_find_fn find);

static inline uint32_t merge_row_end_of(const struct merge_row *row, uint32_t i) {
        uint32_t next = row->symbols[i].next;

        return next == MERGE_END ? row->text_end : row->symbols[next].pos;
}
