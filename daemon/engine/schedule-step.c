/* SPDX-License-Identifier: Apache-2.0 */

/* One step's rows. */

#include "base/macro.h"
#include "schedule.h"

#define ROWS_MIN 16u   /* of prompts in a step, whatever the target says: less would not pay for reading the weights */
#define STRETCH 1.5    /* prompts may make a step so much longer than decoding alone takes, even past the target */
#define ASIDE 16.0     /* steps in which only background prompts are read stay so much shorter: whoever comes waits for one */
#define STRETCH_ALONE 3.0 /* ... where nothing decodes: than a step of one row takes */
#define RIDERS 0.25    /* by how much lower classes may lengthen a step in which a higher one waits for its first token */

struct left {
        uint32_t rows;
        uint32_t logits;
};

/* Gives a request up to `most` of the rows that it wants. */
static uint32_t give(struct schedule_request *r, uint32_t most, struct left *left) {
        uint32_t n = MIN(MIN(most, r->want), left->rows);

        if (r->all_logits)
                n = MIN(n, left->logits);
        else if (n > 0 && n == r->want && left->logits == 0)
                n--; /* the last row waits for room for its logits */
        if (n == 0)
                return 0;
        r->rows = n;
        left->rows -= n;
        if (r->all_logits)
                left->logits -= n;
        else if (n == r->want)
                left->logits--;
        return n;
}

/* The highest class of which a request is still reading its prompt (in *ret_reads; SCHEDULE_BACKGROUND where nothing
 * reads), or the one that is furthest behind where that is lower. */
static enum schedule_class first_class(const struct schedule *s, enum schedule_class *ret_reads) {
        enum schedule_class top = SCHEDULE_BACKGROUND, behind = SCHEDULE_INTERACTIVE;

        for (uint32_t i = s->n_running; i-- > 0;) {
                if (s->running[i]->want == 0)
                        continue;
                behind = s->running[i]->class;
                if (!s->running[i]->decoding)
                        top = MAX(top, s->running[i]->class);
        }
        *ret_reads = top;
        return MIN(top, behind);
}

/* Rows for prompts of a step in which n_decoding rows decode. Where reading the weights takes longer than the target by
 * itself (a large model), the target can't be met, and rows are nearly free: then prompts may stretch the step. */
static uint32_t prompt_budget(const struct schedule_limits *l, enum schedule_class reads, uint32_t n_decoding,
                              uint32_t left) {
        double us = n_decoding > 0 ? l->target_us : 2.0 * l->target_us, least;
        uint32_t rows;

        if (reads == SCHEDULE_BACKGROUND)
                us /= ASIDE;

        if (l->target_us == 0)
                return left;
        least = schedule_pace_predict(l->pace, MAX(n_decoding, 1u)) * (n_decoding > 0 ? STRETCH : STRETCH_ALONE);
        rows = schedule_pace_rows(l->pace, MAX(us, least), 0, l->max_rows);
        rows = rows > n_decoding ? rows - n_decoding : 0;
        return MIN(MAX(rows, ROWS_MIN), left);
}

/* Rows that classes below the one that waits for its first token may have in a step of n rows of the others. */
static uint32_t rider_budget(const struct schedule_limits *l, uint32_t n) {
        double us = schedule_pace_predict(l->pace, n);

        if (!(us > 0))
                return 1;
        return MAX(schedule_pace_rows(l->pace, us * (1 + RIDERS), n, l->max_rows) - n, 1u);
}

static uint32_t give_decoding(const struct schedule *s, enum schedule_class from, enum schedule_class below,
                              uint32_t most, struct left *left) {
        uint32_t sum = 0;

        for (uint32_t i = 0; i < s->n_running && sum < most; i++) {
                struct schedule_request *r = s->running[i];

                if (r->decoding && r->want > 0 && r->class >= from && r->class < below)
                        sum += give(r, 1, left);
        }
        return sum;
}

static uint32_t give_prompts(const struct schedule *s, enum schedule_class from, enum schedule_class below,
                             uint32_t most, struct left *left) {
        uint32_t sum = 0;

        for (uint32_t i = 0; i < s->n_running && sum < most; i++) {
                struct schedule_request *r = s->running[i];

                if (!r->decoding && r->want > 0 && r->class >= from && r->class < below)
                        sum += give(r, most - sum, left);
        }
        return sum;
}

uint32_t schedule_rows(struct schedule *s, const struct schedule_limits *l) {
        struct left left = { .rows = l->max_rows, .logits = l->max_logits };
        enum schedule_class top, reads;
        uint32_t decoding, prompts, riders;

        schedule_sort(s);
        for (uint32_t i = 0; i < s->n_running; i++)
                s->running[i]->rows = 0;
        top = first_class(s, &reads);
        decoding = give_decoding(s, top, SCHEDULE_CLASSES, UINT32_MAX, &left);
        prompts = give_prompts(s, top, SCHEDULE_CLASSES, prompt_budget(l, reads, decoding, left.rows), &left);
        if (top == SCHEDULE_BACKGROUND)
                return decoding + prompts;
        riders = rider_budget(l, decoding + prompts);
        (void)give_decoding(s, SCHEDULE_BACKGROUND, top, riders, &left);
        return l->max_rows - left.rows;
}
