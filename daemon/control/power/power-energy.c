/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "power-energy.h"

void energy_init(struct energy *e, energy_spend spend, void *userdata) {
        *e = (struct energy){ .spend = spend, .userdata = userdata, .others.uid = ENERGY_OTHERS };
        for (size_t i = 0; i < ENERGY_BUCKETS; i++)
                list_init(&e->shares[i]);
        list_init(&e->others.link);
}

void energy_deinit(struct energy *e) {
        struct list *node;

        for (size_t i = 0; i < ENERGY_BUCKETS; i++)
                while ((node = list_pop(&e->shares[i])))
                        free(LIST_ENTRY(node, struct energy_share, link));
        e->n_shares = 0;
}

static struct energy_share *share_get(struct energy *e, uid_t uid, const char *model) {
        struct list *bucket = &e->shares[uid % ENERGY_BUCKETS], *pos, *tmp;
        struct energy_share *s;

        LIST_FOREACH(pos, tmp, bucket) {
                s = LIST_ENTRY(pos, struct energy_share, link);
                if (s->uid == uid && strcmp(s->model, model) == 0)
                        return s;
        }
        if (e->n_shares >= ENERGY_SHARES_MAX || !(s = calloc(1, sizeof(*s))))
                return &e->others;
        s->uid = uid;
        (void)snprintf(s->model, sizeof(s->model), "%s", model);
        list_append(bucket, &s->link);
        e->n_shares++;
        return s;
}

void energy_add_tokens(struct energy *e, uid_t uid, const char *model, uint64_t tokens) {
        if (tokens == 0)
                return;
        share_get(e, uid, model)->tokens += tokens;
        e->tokens += tokens;
}

double energy_joules_per_token(const struct energy *e) {
        return e->sum_tokens ? (double)e->sum_uj / 1e6 / (double)e->sum_tokens : 0;
}

/* An interval's energy on its way to those whose it is. */
struct settlement {
        uint64_t uj, tokens; /* of the interval */
        uint64_t given, seen; /* of both, so far */
};

/* Up to this share so much of the whole is due; what is left of that over those before is this share's. So nothing is lost by
 * rounding. */
static void share_settle(struct energy *e, const struct energy_share *s, struct settlement *of) {
        uint64_t due;

        of->seen += s->tokens;
        due = (uint64_t)((double)of->uj * ((double)of->seen / (double)of->tokens));
        if (s->tokens > 0)
                e->spend(e->userdata, s->uid, s->model, due - of->given, s->tokens);
        of->given = due;
}

/* The tokens of the interval that ends took so much. 0: nobody knows. */
static void interval_settle(struct energy *e, uint64_t uj) {
        struct settlement of = { .uj = uj, .tokens = e->tokens };
        struct list *pos, *tmp;

        if (e->tokens == 0)
                return;
        for (size_t i = 0; uj > 0 && i < ENERGY_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &e->shares[i])
                        share_settle(e, LIST_ENTRY(pos, struct energy_share, link), &of);
        if (uj > 0)
                share_settle(e, &e->others, &of);
        energy_deinit(e);
        e->others.tokens = e->tokens = 0;
}

static void interval_keep(struct energy *e, uint64_t uj) {
        size_t at = e->n_intervals++ % ENERGY_INTERVALS;

        e->sum_uj += uj - e->interval_uj[at];
        e->sum_tokens += e->tokens - e->interval_tokens[at];
        e->interval_uj[at] = uj;
        e->interval_tokens[at] = e->tokens;
        e->total_uj += uj;
        e->total_tokens += e->tokens;
}

static void measured(struct energy *e, uint64_t uj, uint64_t us, bool working) {
        if (us > 0) {
                e->watts = (float)((double)uj / (double)us);
                e->watts_known = true;
        }
        uj += e->carried_uj;
        e->carried_uj = 0;
        if (e->tokens == 0) {
                e->carried_uj = working ? uj : 0;
                return;
        }
        interval_keep(e, uj);
        interval_settle(e, uj);
}

void energy_read(struct energy *e, uint64_t uj, uint64_t now_us, bool working) {
        bool fresh = e->has_base && uj >= e->base_uj && now_us - e->base_us <= ENERGY_FRESH_US;
        uint64_t used = fresh ? uj - e->base_uj : 0, us = fresh ? now_us - e->base_us : 0;

        if (fresh)
                measured(e, used, us, working);
        else
                energy_lose(e);
        e->has_base = true;
        e->base_uj = uj;
        e->base_us = now_us;
}

void energy_lose(struct energy *e) {
        interval_settle(e, (uint64_t)(energy_joules_per_token(e) * 1e6 * (double)e->tokens));
        e->has_base = e->watts_known = false;
        e->carried_uj = 0;
}
