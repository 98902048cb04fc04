/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An engine reduced to what the scheduler sees of it, for the scheduler's tests: requests that want so many rows. */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/schedule.h"

#define MANY 400u

static inline uint32_t random_next(uint32_t *x) {
        *x = *x * 1664525u + 1013904223u;
        return *x >> 8;
}

/* What a test's engine knows of a request. */
struct item {
        struct schedule_request r; /* first */
        struct schedule_who who;
        bool here;
        uint32_t prompt, output; /* left to be served */
        uint64_t served;         /* units */
};

struct world {
        struct schedule s;
        struct schedule_pace pace;
        struct schedule_limits limits;
        struct item items[MANY];
};

static inline void world_open(struct world *w, const struct schedule_config *config) {
        memset(w, 0, sizeof(*w));
        assert_int_equal(schedule_init(&w->s, config), 0);
        w->limits = (struct schedule_limits){
                .max_rows = w->s.config.max_rows, .max_logits = w->s.config.max_rows, .pace = &w->pace,
        };
}

static inline void world_close(struct world *w) {
        for (unsigned i = 0; i < MANY; i++)
                if (w->items[i].here)
                        schedule_remove(&w->s, &w->items[i].r);
        assert_int_equal(w->s.n_running + w->s.n_waiting + w->s.n_idle, 0);
        schedule_deinit(&w->s);
}

static inline struct item *come(struct world *w, unsigned i, uint32_t uid, uint64_t client, enum schedule_class class,
                                uint32_t prompt, uint32_t output) {
        struct item *item = &w->items[i];

        assert_false(item->here);
        *item = (struct item){ .here = true, .prompt = prompt, .output = output };
        item->who = (struct schedule_who){ .uid = uid, .client = client, .class = class };
        assert_int_equal(schedule_add(&w->s, &item->r, &item->who), 0);
        return item;
}

static inline void go(struct world *w, struct item *item) {
        schedule_remove(&w->s, &item->r);
        item->here = false;
}

static inline void fill_slots(struct world *w) {
        struct schedule_request *victim, *next;
        unsigned guard = 0;

        while (schedule_has_slot(&w->s) && (next = schedule_next(&w->s)))
                schedule_start(&w->s, next);
        while (schedule_swap(&w->s, &victim, &next)) {
                schedule_make_way(&w->s, victim);
                schedule_start(&w->s, next);
                assert_true(guard++ < 10 * w->s.config.max_running);
        }
}

/* Admission, rows, service. Finished ones go. */
static inline uint32_t step(struct world *w) {
        uint32_t sum = 0, n, logits = 0;

        fill_slots(w);
        for (uint32_t i = 0; i < w->s.n_running; i++) {
                struct item *item = (struct item *)w->s.running[i];

                item->r.decoding = item->prompt == 0;
                item->r.want = item->prompt ? item->prompt : 1;
        }
        n = schedule_rows(&w->s, &w->limits);
        for (uint32_t i = w->s.n_running; i-- > 0;) {
                struct item *item = (struct item *)w->s.running[i];
                uint32_t rows = item->r.rows;

                sum += rows;
                assert_true(rows <= item->r.want);
                logits += item->r.all_logits ? rows : rows > 0 && rows == item->r.want;
                schedule_charge(&w->s, &item->r, rows);
                item->served += (uint64_t)rows * (item->r.decoding ? SCHEDULE_DECODE_COST : SCHEDULE_PREFILL_COST);
                if (item->prompt)
                        item->prompt -= rows;
                else
                        item->output -= rows;
                if (item->prompt == 0 && item->output == 0)
                        go(w, item);
        }
        assert_int_equal(sum, n);
        assert_true(n <= w->limits.max_rows && logits <= w->limits.max_logits);
        return n;
}

static inline uint64_t served_of(const struct world *w, uint32_t uid) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < MANY; i++)
                if (w->items[i].who.uid == uid)
                        sum += w->items[i].served;
        return sum;
}
