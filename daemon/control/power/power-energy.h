/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tokens cost: energy that a counter says was used in an interval is shared out among those for whom tokens were
 * computed in it, by their number: who had n of the N tokens of an interval that took E is charged E n / N, to the microjoule,
 * so that the shares of an interval are E together. An interval that is too long to say so (nothing was computed for a while, or the counter was
 * not read) is not measured: its tokens cost their users what tokens cost lately, and count for no mean. Energy of a time in
 * which nothing was computed is nobody's.
 *
 * What was spent is handed on, to the usage ledger, when an interval is settled: nothing is summed up here but the mean. Embedded in
 * struct power; knows no clock and no file.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "config/config.h"

#define ENERGY_FRESH_US (2500u * 1000u) /* an interval is measured that is no longer than this */
#define ENERGY_INTERVALS 60u            /* that the mean is over */
#define ENERGY_SHARES_MAX 4096u         /* of an interval; those beyond share one */
#define ENERGY_BUCKETS 64u
#define ENERGY_OTHERS ((uid_t)-1)

/* tokens took so much energy. */
typedef void (*energy_spend)(void *userdata, uid_t uid, const char *model, uint64_t uj, uint64_t tokens);

/* Of the interval that runs. */
struct energy_share {
        struct list link;
        uid_t uid;
        uint64_t tokens;
        char model[CONFIG_MODEL_NAME_MAX + 1];
};

struct energy {
        energy_spend spend;
        void *userdata;
        struct list shares[ENERGY_BUCKETS];
        size_t n_shares;
        struct energy_share others; /* ENERGY_OTHERS, of no model in particular */
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

void energy_init(struct energy *e, energy_spend spend, void *userdata);
void energy_deinit(struct energy *e);
/* So many were computed for the user with the model, by what the counter is about. */
void energy_add_tokens(struct energy *e, uid_t uid, const char *model, uint64_t tokens);
/* The counter says so: ends an interval. working: something is being computed. */
void energy_read(struct energy *e, uint64_t uj, uint64_t now_us, bool working);
/* Another counter from here on, or none: what was not measured is settled. */
void energy_lose(struct energy *e);
/* 0 = not measured. */
double energy_joules_per_token(const struct energy *e);
