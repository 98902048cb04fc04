/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "event.h"
#include "power-private.h"
#include "request/request.h"

/* ---- words ---- */

const char *power_source_name(enum power_source source) {
        static const char *const names[] = { "none", "upower", "sysfs" };

        return names[source];
}

const char *power_inhibitor_name(enum power_inhibitor inhibitor) {
        static const char *const names[] = { "off", "absent", "refused", "released", "held" };

        return names[inhibitor];
}

const char *power_awake_name(enum power_awake awake) {
        static const char *const names[] = { "", "idle", "sleep", "sleep:idle" };

        return names[awake];
}

const char *power_note(const struct power *p, size_t i) {
        const struct {
                bool is_so;
                const char *text;
        } notes[] = {
                { p->state.inhibitor == INHIBITOR_ABSENT && !p->bus.bus,
                  "No bus is connected: the machine's sleep and its power profile are not heard of." },
                { p->state.inhibitor == INHIBITOR_ABSENT && p->bus.bus,
                  "logind is not on the bus: the machine's sleep is not heard of." },
                { p->state.inhibitor == INHIBITOR_REFUSED, "logind does not let the service delay the machine's sleep." },
                { p->blocks[POWER_BLOCK_SLEEP].refused,
                  "logind does not let the service forbid sleep while a person waits for an answer." },
                { p->blocks[POWER_BLOCK_IDLE].refused,
                  "logind does not let the service keep the machine from being idle while a person waits for an answer." },
                { strstr(p->state.refused, "not permitted"),
                  "Clocks are not capped: the driver lets only root do that." },
                { strstr(p->state.refused, "clocks: unsupported"),
                  "Clocks are not capped: neither the kernel nor a driver does it here." },
                { strstr(p->state.refused, "threads:"), "Threads are not capped: an engine's are not the host's." },
                { p->sleeper.late, "The last time that the machine slept not everything was parked and written in time." },
                { p->rapl.forbidden && !p->energy_engine,
                  "The processor's energy counter (RAPL) is there, but only root may read it; docs/power.md says what to do." },
        };

        for (size_t k = 0; k < ARRAY_SIZE(notes); k++)
                if (notes[k].is_so && i-- == 0)
                        return notes[k].text;
        return NULL;
}

/* ---- what is in effect ---- */

const struct power_state *power_state(const struct power *p) {
        return &p->state;
}

void power_watch(struct power *p, struct power_watcher *w) {
        list_append(&p->watchers, &w->link);
}

void power_changed(struct power *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->watchers) {
                struct power_watcher *w = LIST_ENTRY(pos, struct power_watcher, link);

                w->changed(w->userdata, &p->state);
        }
        manager_kick(p->manager);
}

void power_kick_all(struct power *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                manager_model_changed(p->manager, model, false);
                model_kick(model);
        }
        requests_pump_credit(p->manager);
}

static void tell_level(const struct power *p, enum power_level before) {
        char battery[48] = "";

        if (p->reading.has_battery)
                (void)snprintf(battery, sizeof(battery), ", the battery has %.0f %%", p->reading.percent);
        event_log(p->state.level > before ? EVENT_POWER_LESS : EVENT_POWER_MORE, NULL,
                  "power supply: %s (was %s)%s; lowest priority served: %s", power_level_name(p->state.level),
                  power_level_name(before), battery, power_serves_name(p->state.serves));
}

void power_update(struct power *p, uint64_t now_us) {
        struct power_state *s = &p->state, before = *s;
        bool hot = p->hot_until_us > now_us;

        (void)power_meter_read(&p->meter, power_config(p), &p->reading, now_us);
        if (!hot)
                p->hot_until_us = 0;
        s->level = p->meter.level;
        s->has_battery = p->reading.has_battery;
        s->percent = (float)p->reading.percent;
        s->throttled = hot;
        s->serves = power_serves(power_config(p), s->level, hot);
        s->caps = power_caps(power_config(p), s->level, hot);
        p->parked = s->serves == CONFIG_SERVES_NONE;
        if (s->level != before.level) {
                tell_level(p, before.level);
                power_logind_tick(p); /* on a low battery nobody keeps the machine awake */
        } else if (s->throttled != before.throttled) {
                event_log(hot ? EVENT_POWER_LESS : EVENT_POWER_MORE, NULL, "an engine's device %s; lowest priority served: %s",
                          hot ? "slows down for heat or power" : "runs as fast as it can again", power_serves_name(s->serves));
        }
        if (s->serves != before.serves)
                power_kick_all(p);
        if (s->level != before.level || s->has_battery != before.has_battery || s->throttled != before.throttled ||
            s->serves != before.serves || s->caps.batch != before.caps.batch || s->caps.threads != before.caps.threads ||
            s->caps.clocks != before.caps.clocks)
                power_changed(p);
        power_caps_update(p);
}

/* ---- requests ---- */

bool power_is_parked(const struct power *p) {
        return p && p->parked;
}

bool power_keeps_waiting(const struct power *p, const struct request *r) {
        return p && request_kind_computes(r->kind) &&
               power_judge(power_config(p), p->state.level, p->state.throttled, r->priority) != POWER_SERVE;
}

/* There is power again, but not for long enough to count. */
static bool is_settling(const struct power *p) {
        return !p->reading.on_battery && !(p->reading.saver && power_config(p)->power_saver);
}

static uint32_t retry_ms(const struct power *p) {
        return is_settling(p) ? POWER_SETTLE_US / 1000 : POWER_DEFER_RETRY_MS;
}

/* "the machine runs on battery (37 %)" */
static const char *reason(const struct power *p, char out[96]) {
        const struct power_reading *r = &p->reading;
        size_t n;

        if (is_settling(p))
                return "the machine had too little power until a moment ago";
        if (!r->on_battery)
                return "the power profile is 'power-saver'";
        n = (size_t)snprintf(out, 96,
                             p->state.level >= POWER_LOW ? "the battery is nearly empty" : "the machine runs on battery");
        if (r->has_battery)
                (void)snprintf(out + n, 96 - n, " (%.0f %%)", r->percent);
        return out;
}

static int check_budget(const struct power *p, const struct user *user, struct request_error *error) {
        const struct config_power *c = power_config(p);
        struct usage_counts spent = usage_spent(p->manager->usage, user->uid);
        bool joules = c->battery_joules_per_day && (power_has_meter(p) || spent.battery_uj > 0);
        char why[96];

        if (p->state.level == POWER_MAINS)
                return 0;
        if (joules && spent.battery_uj / 1000000 >= c->battery_joules_per_day)
                request_error_set(error, SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY,
                                  "Your user has used %llu joules on battery today, of the %llu that it may use; %s.",
                                  (unsigned long long)(spent.battery_uj / 1000000), (unsigned long long)c->battery_joules_per_day,
                                  reason(p, why));
        else if (!joules && c->battery_tokens_per_day && spent.battery_tokens >= c->battery_tokens_per_day)
                request_error_set(error, SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY,
                                  "Your user has used %llu tokens on battery today, of the %llu that it may use; %s.",
                                  (unsigned long long)spent.battery_tokens, (unsigned long long)c->battery_tokens_per_day,
                                  reason(p, why));
        else
                return 0;
        error->retry_after_ms = MIN(usage_ms_left_today(), retry_ms(p));
        return REQUEST_E_REFUSED;
}

int power_admit(const struct power *p, const struct user *user, Spark__V1__Priority priority, struct request_error *error) {
        char why[96];

        if (!p)
                return 0;
        if (power_judge(power_config(p), p->state.level, p->state.throttled, priority) != POWER_REFUSE)
                return check_budget(p, user, error);
        if (p->parked)
                request_error_set(error, SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY,
                                  "No requests are served now: %s.", reason(p, why));
        else
                request_error_set(error, SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY,
                                  "Requests of priority '%s' are not served now, only from '%s' on: %s.",
                                  policy_priority_name(priority), power_serves_name(p->state.serves), reason(p, why));
        error->retry_after_ms = retry_ms(p);
        return REQUEST_E_REFUSED;
}

/* ---- life ---- */

void power_turn(struct power *p) {
        power_bus_turn(p);
        power_engines_turn(p);
}

void power_tick(struct power *p, uint64_t now_us) {
        power_bus_tick(p, now_us);
        power_meter_tick(p, now_us);
        power_supply_tick(p, now_us);
        power_logind_tick(p);
        (void)sleeper_step(&p->sleeper, now_us);
}

bool power_is_busy(const struct power *p) {
        const struct power_meter *m = p ? &p->meter : NULL;

        return p && (p->sleeper.state != SLEEP_AWAKE || p->hot_until_us ||
                     (m->better_since_us && manager_now_us() - m->better_since_us <= POWER_SETTLE_US));
}

void power_configure(struct power *p) {
        if (!p)
                return;
        power_logind_configure(p);
        p->sysfs_us = 0;
        power_update(p, manager_now_us());
}

int power_new(struct power **ret, struct manager *m) {
        struct power *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->manager = m;
        list_init(&p->watchers);
        p->state.serves = SPARK__V1__PRIORITY__BACKGROUND;
        p->state.clocks_by = p->state.refused = "";
        energy_init(&p->energy, power_spend, p);
        p->slept_us = power_slept_us();
        r = power_logind_init(p);
        if (r < 0) {
                (void)power_free(p);
                return r;
        }
        rapl_open(&p->rapl, power_config(p)->sysfs);
        power_bus_connect(p);
        power_supply_tick(p, manager_now_us());
        *ret = p;
        return 0;
}

struct power *power_free(struct power *p) {
        if (!p)
                return NULL;
        power_bus_disconnect(p);
        power_logind_deinit(p);
        power_settle(p);
        rapl_close(&p->rapl);
        energy_deinit(&p->energy);
        free(p);
        return NULL;
}
