/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"
#include "schedule.h"

#define CHUNK_MIN 16u        /* a smaller chunk would not pay for reading the weights */
#define PREFILL_ROWS_MIN 32u

struct left {
        uint32_t rows;
        uint32_t prefill;
        uint32_t logits;
};

/* Gives an entry up to `most` further rows of what is left. */
static void give(struct schedule_entry *e, uint32_t most, struct left *left) {
        uint32_t n = MIN(most, e->want - e->rows);

        n = MIN(n, left->rows);
        n = MIN(n, left->prefill);
        if (e->all_logits)
                n = MIN(n, left->logits);
        else if (n > 0 && e->rows + n == e->want && left->logits == 0)
                n--; /* the last row waits for room for its logits */
        if (n == 0)
                return;
        e->rows += n;
        left->rows -= n;
        left->prefill -= n;
        if (e->all_logits)
                left->logits -= n;
        else if (e->rows == e->want)
                left->logits--;
}

static size_t turn(size_t first, size_t i, size_t n) {
        return (first % n + i) % n;
}

uint32_t schedule_rows(struct schedule_entry *entries, size_t n, size_t first, const struct schedule_limits *limits) {
        struct left left = { .rows = limits->max_rows, .prefill = UINT32_MAX, .logits = limits->max_logits };
        size_t n_prefill = 0;
        uint32_t share;

        for (size_t i = 0; i < n; i++) {
                struct schedule_entry *e = &entries[turn(first, i, n)];

                e->rows = 0;
                if (e->want == 1)
                        give(e, 1, &left);
                else if (e->want > 1)
                        n_prefill++;
        }
        if (n_prefill > 0) {
                left.prefill = MAX(limits->prefill_rows, 1u);
                left.prefill = MIN(left.prefill, left.rows);
                share = MAX(left.prefill / (uint32_t)n_prefill, CHUNK_MIN);
                for (size_t i = 0; i < n; i++)
                        if (entries[turn(first, i, n)].want > 1)
                                give(&entries[turn(first, i, n)], share, &left);
                for (size_t i = 0; i < n; i++) /* what short prompts left over */
                        if (entries[turn(first, i, n)].want > 1)
                                give(&entries[turn(first, i, n)], UINT32_MAX, &left);
        }
        return limits->max_rows - left.rows;
}

size_t schedule_next(const struct schedule_waiting *waiting, size_t n, const uint64_t *running_clients,
                     size_t n_running) {
        double best_load = 0;
        size_t best = n;

        for (size_t i = 0; i < n; i++) {
                uint32_t running = 0;
                double load;

                for (size_t k = 0; k < n_running; k++)
                        running += running_clients[k] == waiting[i].client;
                load = (double)running / waiting[i].weight;
                if (best < n && load >= best_load)
                        continue;
                best = i;
                best_load = load;
                if (running == 0)
                        break;
        }
        return best;
}

uint32_t schedule_prefill_rows(double us_per_row, uint32_t target_us, uint32_t max_rows) {
        uint32_t least = MIN(PREFILL_ROWS_MIN, max_rows);
        double rows;

        if (target_us == 0)
                return max_rows;
        if (!(us_per_row > 0))
                return least; /* the first steps measure */
        rows = target_us / us_per_row;
        if (rows >= max_rows)
                return max_rows;
        return MAX((uint32_t)rows, least);
}
