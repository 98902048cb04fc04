/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who gets rows in a step: pure code over plain arrays, no clock, no model.
 *
 * Every decoding sequence gets its one row first; what is left of the step is shared out among the sequences that are
 * still reading their prompts, in chunks, beginning with another one each step. A row's result does not depend on its
 * company (design promise 1), so that these choices move only time, never text.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct schedule_entry {
        uint32_t want;   /* rows that the sequence could use now: 0 = paused, 1 = decoding, more = a prompt's rest */
        bool all_logits; /* every row needs logits, not just the last one */
        uint32_t rows;   /* out: rows of this step */
};

struct schedule_limits {
        uint32_t max_rows;     /* of a step */
        uint32_t max_logits;   /* rows of a step that can have logits */
        uint32_t prefill_rows; /* most rows for prompts, so that decoding sequences are not kept waiting */
};

/* Fills in `rows` of all entries, beginning the round at `first`. Returns the number of rows. Nobody starves as long as
 * there are no more entries than rows and logits. */
uint32_t schedule_rows(struct schedule_entry *entries, size_t n, size_t first, const struct schedule_limits *limits);

struct schedule_waiting {
        uint64_t client;
        uint32_t weight; /* at least 1 */
};

/* Which of n waiting requests (in the order of their arrival, n > 0) is to be admitted next: the oldest one of the
 * client that has the fewest running sequences for its weight. */
size_t schedule_next(const struct schedule_waiting *waiting, size_t n, const uint64_t *running_clients,
                     size_t n_running);

/* Prompt rows that fit in a step of target_us, by what earlier steps took per row (0 = not known yet). */
uint32_t schedule_prefill_rows(double us_per_row, uint32_t target_us, uint32_t max_rows);
