/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>

#include "power-energy.h"

void energy_init(struct energy *e, int64_t day) {
        *e = (struct energy){ .day = day };
        for (size_t i = 0; i < ENERGY_BUCKETS; i++)
                list_init(&e->users[i]);
        list_init(&e->others.link);
}

static void users_clear(struct energy *e) {
        struct list *node;

        for (size_t i = 0; i < ENERGY_BUCKETS; i++)
                while ((node = list_pop(&e->users[i])))
                        free(LIST_ENTRY(node, struct energy_user, link));
        e->n_users = 0;
}

void energy_deinit(struct energy *e) {
        users_clear(e);
}

static struct energy_user *user_find(const struct energy *e, uid_t uid) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&e->users[uid % ENERGY_BUCKETS]) {
                struct energy_user *u = LIST_ENTRY(pos, struct energy_user, link);

                if (u->uid == uid)
                        return u;
        }
        return NULL;
}

static struct energy_user *user_get(struct energy *e, uid_t uid) {
        struct energy_user *u = user_find(e, uid);

        if (u || e->n_users >= ENERGY_USERS_MAX || !(u = calloc(1, sizeof(*u))))
                return u ? u : &e->others;
        u->uid = uid;
        list_append(&e->users[uid % ENERGY_BUCKETS], &u->link);
        e->n_users++;
        return u;
}

void energy_add_tokens(struct energy *e, uid_t uid, uint64_t tokens, bool counted) {
        struct energy_user *u;

        if (tokens == 0)
                return;
        u = user_get(e, uid);
        if (e->on_battery)
                u->spent.battery_tokens += tokens;
        if (!counted)
                return;
        u->tokens += tokens;
        e->tokens += tokens;
}

double energy_joules_per_token(const struct energy *e) {
        return e->sum_tokens ? (double)e->sum_uj / 1e6 / (double)e->sum_tokens : 0;
}

static void user_settle(struct energy *e, struct energy_user *u, double uj_per_token) {
        uint64_t uj = (uint64_t)((double)u->tokens * uj_per_token);

        if (uj > 0)
                u->spent.tokens += u->tokens;
        u->spent.uj += uj;
        if (e->on_battery)
                u->spent.battery_uj += uj;
        u->tokens = 0;
}

/* The tokens of the interval that ends cost so much each. */
static void interval_settle(struct energy *e, double uj_per_token) {
        struct list *pos, *tmp;

        if (e->tokens == 0)
                return;
        for (size_t i = 0; i < ENERGY_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &e->users[i])
                        user_settle(e, LIST_ENTRY(pos, struct energy_user, link), uj_per_token);
        user_settle(e, &e->others, uj_per_token);
        e->tokens = 0;
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
        interval_settle(e, (double)uj / (double)e->tokens);
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
        interval_settle(e, energy_joules_per_token(e) * 1e6);
        e->has_base = e->watts_known = false;
        e->carried_uj = 0;
}

void energy_set_day(struct energy *e, int64_t day) {
        if (day == e->day)
                return;
        e->day = day;
        users_clear(e);
        e->others.spent = (struct energy_spent){ 0 };
        e->others.tokens = 0;
        e->tokens = 0;
}

struct energy_spent energy_spent(const struct energy *e, uid_t uid) {
        const struct energy_user *u = user_find(e, uid);

        return u ? u->spent : e->n_users >= ENERGY_USERS_MAX ? e->others.spent : (struct energy_spent){ 0 };
}
