/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which counter tells what tokens cost, and when it is read. An engine whose device counts energy tells it with every answer to a
 * ping; of several engines one is listened to, since they may share the device. Where none does, the processor's own counter
 * is read, once a second and only while something is computed.
 *
 * While the machine sleeps our clock stands still, but no counter does: it goes on, or begins anew, which looks as if it had
 * wrapped. An interval with a sleep in it is not measured, whoever announced the sleep, or nobody.
 */

#include <time.h>

#include "model/engine.h"
#include "power-private.h"

#define SLEPT_US (100 * 1000) /* two clocks are not read at once */

int64_t power_slept_us(void) {
        struct timespec awake, all;

        (void)clock_gettime(CLOCK_MONOTONIC, &awake);
        (void)clock_gettime(CLOCK_BOOTTIME, &all);
        return (int64_t)(all.tv_sec - awake.tv_sec) * 1000000 + (all.tv_nsec - awake.tv_nsec) / 1000;
}

/* The counter in use says so. */
static void take_counter(struct power *p, uint64_t uj, uint64_t now_us, bool working) {
        int64_t slept_us = power_slept_us();

        if (slept_us - p->slept_us > SLEPT_US)
                energy_lose(&p->energy);
        p->slept_us = slept_us;
        energy_read(&p->energy, uj, now_us, working);
}

static bool model_works(const struct model *model) {
        return !list_empty(&model->active);
}

static bool anything_works(const struct power *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list)
                if (model_works(LIST_ENTRY(pos, struct model, link)))
                        return true;
        return false;
}

/* ---- engines ---- */

static void take_heat(struct power *p, struct engine *e, const Spark__Engine__V1__State *s, uint64_t now_us) {
        e->power.throttled = s->throttled;
        e->power.temperature_known = s->temperature_known;
        e->power.temperature_c = s->temperature_c;
        if (!s->throttled)
                return;
        p->hot_until_us = now_us + POWER_HOT_US;
        power_update(p, now_us);
}

void power_take_state(struct power *p, struct engine *e, const Spark__Engine__V1__State *s) {
        uint64_t now_us = manager_now_us();

        if (!p)
                return;
        take_heat(p, e, s, now_us);
        e->power.energy_known = s->energy_known;
        e->power.watts_known = s->power_known;
        e->power.power_mw = s->power_mw;
        if (!s->energy_known)
                return;
        if (!p->energy_engine) {
                energy_lose(&p->energy);
                p->energy_engine = e;
                power_changed(p); /* the source is another */
        }
        if (p->energy_engine == e)
                take_counter(p, s->energy_uj, now_us, model_works(e->model));
}

void power_engine_gone(struct power *p, const struct engine *e) {
        if (!p)
                return;
        power_caps_engine_gone(p, e);
        if (p->energy_engine != e)
                return;
        energy_lose(&p->energy);
        p->energy_engine = NULL;
        power_changed(p);
}

void power_note_work(struct power *p) {
        if (p && !p->energy_engine && !anything_works(p) && p->energy.tokens == 0 && rapl_read(&p->rapl))
                take_counter(p, p->rapl.uj, manager_now_us(), false);
}

void power_note_tokens(struct power *p, const struct model *model, uid_t uid, uint64_t tokens) {
        const struct usage_counts counts = { .battery_tokens = tokens };

        if (!p)
                return;
        if (p->state.level > POWER_MAINS)
                usage_add(p->manager->usage, uid, model->name, &counts);
        if (p->energy_engine ? model->engine && model->engine->power.energy_known : p->rapl.n > 0)
                energy_add_tokens(&p->energy, uid, model->name, tokens);
}

void power_spend(void *userdata, uid_t uid, const char *model, uint64_t uj, uint64_t tokens) {
        struct power *p = userdata;
        const struct usage_counts counts = {
                .energy_uj = uj, .energy_tokens = tokens, .battery_uj = p->state.level > POWER_MAINS ? uj : 0,
        };

        usage_add(p->manager->usage, uid, model, &counts);
}

/* ---- once a second ---- */

static void read_temperature(struct power *p) {
        struct power_state *s = &p->state;
        struct list *pos, *tmp;

        s->temperature_known = s->temperature_of_device = false;
        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                const struct engine *e = LIST_ENTRY(pos, struct model, link)->engine;

                if (!e || !e->power.temperature_known)
                        continue;
                s->temperature_c = s->temperature_known ? MAX(s->temperature_c, e->power.temperature_c) : e->power.temperature_c;
                s->temperature_known = s->temperature_of_device = true;
        }
}

void power_meter_tick(struct power *p, uint64_t now_us) {
        bool works = anything_works(p);

        read_temperature(p);
        if (p->energy_engine || p->rapl.n == 0)
                return;
        if (works || p->energy.tokens > 0) {
                if (rapl_read(&p->rapl))
                        take_counter(p, p->rapl.uj, now_us, works);
                else
                        energy_lose(&p->energy);
        }
}

void power_settle(struct power *p) {
        if (!p->energy_engine && p->energy.tokens > 0 && rapl_read(&p->rapl))
                take_counter(p, p->rapl.uj, manager_now_us(), false);
        energy_lose(&p->energy);
}

/* ---- what is told ---- */

bool power_has_meter(const struct power *p) {
        return p->energy_engine || p->rapl.n > 0;
}

struct power_energy power_energy(const struct power *p) {
        const struct energy *e = &p->energy;
        struct power_energy out = {
                .source = p->energy_engine ? "nvml" : p->rapl.n > 0 ? "rapl" : "unknown",
                .uj = e->total_uj,
                .tokens = e->total_tokens,
                .joules_per_token = (float)energy_joules_per_token(e),
                .watts_known = e->watts_known,
                .watts = e->watts,
        };

        if (p->energy_engine && p->energy_engine->power.watts_known) {
                out.watts_known = true;
                out.watts = (float)p->energy_engine->power.power_mw / 1000.0f;
        }
        return out;
}
