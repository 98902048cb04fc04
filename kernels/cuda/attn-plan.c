/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention's plan of a step. Items of a run of rows stand split by split, so that warps that are at work together read the
 * same K and V; tiles with the longest context come first, because the last ones decide how long all take.
 */

#include <string.h>

#include "attn.h"
#include "base/macro.h"

struct run {
        uint32_t first, n; /* rows of one sequence */
};

/* The run that starts at a row. */
static struct run run_at(const struct batch *batch, uint32_t row) {
        struct run run = { .first = row };

        while (row + run.n < batch->n_rows && batch->seq[row + run.n] == batch->seq[row])
                run.n++;
        return run;
}

static uint32_t first_split(const struct batch *batch, uint32_t window, uint32_t row) {
        uint32_t pos = batch->pos[row];

        return cuda_attn_split_of(window > 0 && pos >= window ? pos - window + 1 : 0);
}

static uint32_t last_split(const struct batch *batch, uint32_t row) {
        return cuda_attn_split_of(batch->pos[row]);
}

static uint32_t count_items(const struct batch *batch, uint32_t window, struct run run) {
        uint32_t n = 0;

        for (uint32_t row = run.first; row < run.first + run.n; row++)
                n += last_split(batch, row) - first_split(batch, window, row) + 1;
        return n;
}

/* How many items are left for runs of several rows when single ones have theirs. */
static uint32_t count_left(const struct batch *batch, uint32_t window, uint32_t max_items) {
        for (uint32_t row = 0; row < batch->n_rows;) {
                struct run run = run_at(batch, row);

                if (run.n == 1)
                        max_items -= MIN(max_items, count_items(batch, window, run));
                row += run.n;
        }
        return max_items;
}

/* Whether the kernel for many rows serves it; if not it takes of the items that are left. */
static bool is_long(const struct batch *batch, uint32_t window, uint32_t tile_rows, struct run run, uint32_t *left) {
        uint32_t n;

        if (tile_rows == 0 || run.n == 1)
                return false;
        if (run.n >= CUDA_ATTN_RUN)
                return true;
        n = count_items(batch, window, run);
        if (n > *left)
                return true;
        *left -= n;
        return false;
}

/* How many there are of everything, and where. */
static void count(const struct batch *batch, uint32_t window, uint32_t tile_rows, uint32_t left, struct cuda_attn_plan *plan) {
        *plan = (struct cuda_attn_plan){ 0 };
        for (uint32_t row = 0; row < batch->n_rows;) {
                struct run run = run_at(batch, row);

                if (is_long(batch, window, tile_rows, run, &left)) {
                        plan->n_tiles += (run.n + tile_rows - 1) / tile_rows;
                } else {
                        plan->n_items += count_items(batch, window, run);
                        plan->n_rows += run.n;
                }
                row += run.n;
        }
        plan->n_partials = plan->n_items;
        plan->items_at = (uint32_t)sizeof(*plan);
        plan->rows_at = plan->items_at + plan->n_items * (uint32_t)sizeof(struct cuda_attn_item);
        plan->tiles_at = plan->rows_at + plan->n_rows * (uint32_t)sizeof(struct cuda_attn_row);
        plan->bytes = plan->tiles_at + plan->n_tiles * (uint32_t)sizeof(struct cuda_attn_tile);
}

size_t cuda_attn_plan_bytes(const struct batch *batch, uint32_t window, uint32_t tile_rows, uint32_t max_items) {
        struct cuda_attn_plan plan;

        count(batch, window, tile_rows, count_left(batch, window, max_items), &plan);
        return plan.bytes;
}

/* Writes the run's rows and items; returns the number of partials so far. */
static uint32_t make_items(const struct batch *batch, uint32_t window, struct run run, uint32_t partial,
                           struct cuda_attn_row *rows, struct cuda_attn_item *items) {
        uint32_t splits = 0;
        size_t n = 0;

        for (uint32_t i = 0; i < run.n; i++) {
                uint32_t row = run.first + i, last = last_split(batch, row);

                rows[i] = (struct cuda_attn_row){ row, partial, last - first_split(batch, window, row) + 1 };
                partial += rows[i].n_partials;
                splits = MAX(splits, last + 1);
        }
        for (uint32_t split = first_split(batch, window, run.first); split < splits; split++)
                for (uint32_t i = 0; i < run.n; i++) {
                        uint32_t first = first_split(batch, window, run.first + i);

                        if (split >= first && split - first < rows[i].n_partials)
                                items[n++] = (struct cuda_attn_item){ rows[i].row, split,
                                                                      rows[i].first_partial + split - first };
                }
        return partial;
}

static uint32_t make_tiles(struct run run, uint32_t tile_rows, struct cuda_attn_tile *tiles) {
        uint32_t n = (run.n + tile_rows - 1) / tile_rows;

        for (uint32_t i = 0; i < n; i++) {
                uint32_t at = (n - 1 - i) * tile_rows;

                tiles[i].first = run.first + at;
                tiles[i].n = MIN(tile_rows, run.n - at);
        }
        return n;
}

void cuda_attn_plan_make(const struct batch *batch, uint32_t window, uint32_t tile_rows, uint32_t max_items,
                         struct cuda_attn_plan *ret) {
        uint32_t n_rows = 0, n_tiles = 0, partial = 0, left = count_left(batch, window, max_items);
        struct cuda_attn_item *items;
        struct cuda_attn_row *rows;
        struct cuda_attn_tile *tiles;

        count(batch, window, tile_rows, left, ret);
        items = (struct cuda_attn_item *)((uint8_t *)ret + ret->items_at);
        rows = (struct cuda_attn_row *)((uint8_t *)ret + ret->rows_at);
        tiles = (struct cuda_attn_tile *)((uint8_t *)ret + ret->tiles_at);
        for (uint32_t row = 0; row < batch->n_rows;) {
                struct run run = run_at(batch, row);

                if (is_long(batch, window, tile_rows, run, &left)) {
                        n_tiles += make_tiles(run, tile_rows, tiles + n_tiles);
                } else {
                        partial = make_items(batch, window, run, partial, rows + n_rows, items + partial);
                        n_rows += run.n;
                }
                row += run.n;
        }
}

size_t cuda_attn_partial_bytes(uint32_t n_partials, uint32_t n_heads, uint32_t head_dim) {
        return (size_t)n_partials * n_heads * (head_dim + 2) * sizeof(float);
}
