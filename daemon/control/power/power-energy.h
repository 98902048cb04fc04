/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tokens cost: energy that a counter says was used in an interval is shared out among those for whom tokens were
 * computed in it, by their number. An interval that is too long to say so (nothing was computed for a while, or the counter was
 * not read) is not measured: its tokens cost their users what tokens cost lately, and count for no mean. Energy of a time in
 * which nothing was computed is nobody's.
 *
 * In memory only, per day (UTC). Embedded in struct power; knows no clock and no file.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

#define ENERGY_FRESH_US (2500u * 1000u) /* an interval is measured that is no longer than this */
#define ENERGY_INTERVALS 60u            /* that the mean is over */
#define ENERGY_USERS_MAX 4096u          /* of a day; those beyond share one sum */
#define ENERGY_BUCKETS 64u

struct energy_spent {
        uint64_t uj, tokens; /* today; tokens whose energy was measured or taken from the mean */
        uint64_t battery_uj, battery_tokens; /* battery_tokens: all of them, measured or not */
};

struct energy_user {
        struct list link;
        uid_t uid;
        uint64_t tokens; /* in the interval that runs */
        struct energy_spent spent;
};

struct energy {
        struct list users[ENERGY_BUCKETS];
        size_t n_users;
        struct energy_user others;
        int64_t day;
        bool on_battery;
        bool has_base;       /* of the counter: */
        uint64_t base_uj, base_us;
        uint64_t tokens;     /* in the interval that runs */
        uint64_t carried_uj; /* used by work that has given no token yet */
        uint64_t interval_uj[ENERGY_INTERVALS], interval_tokens[ENERGY_INTERVALS];
        size_t n_intervals;  /* ever */
        uint64_t sum_uj, sum_tokens;     /* of the intervals kept */
        uint64_t total_uj, total_tokens; /* measured, since the start */
        float watts; /* of the last measured interval */
        bool watts_known;
};

void energy_init(struct energy *e, int64_t day);
void energy_deinit(struct energy *e);
/* So many were computed for the user; counted: by what the counter is about. */
void energy_add_tokens(struct energy *e, uid_t uid, uint64_t tokens, bool counted);
/* The counter says so: ends an interval. working: something is being computed. */
void energy_read(struct energy *e, uint64_t uj, uint64_t now_us, bool working);
/* Another counter from here on, or none: what was not measured is settled. */
void energy_lose(struct energy *e);
/* Another day: what was spent is forgotten. */
void energy_set_day(struct energy *e, int64_t day);
/* 0 = not measured. */
double energy_joules_per_token(const struct energy *e);
struct energy_spent energy_spent(const struct energy *e, uid_t uid);
