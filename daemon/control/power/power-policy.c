/* SPDX-License-Identifier: Apache-2.0 */

#include <math.h>

#include "power-policy.h"
#include "users/policy.h"

/* As systemd's ranges are: people, and those whose home folder is carried about. */
#define UID_PEOPLE_FIRST 1000u
#define UID_PEOPLE_LAST 60513u

const char *power_level_name(enum power_level level) {
        static const char *const names[POWER_LEVELS] = { "mains", "battery", "low", "critical" };

        return names[level];
}

const char *power_serves_name(uint32_t serves) {
        return serves == CONFIG_SERVES_NONE ? "none" : policy_priority_name((Spark__V1__Priority)serves);
}

/* margin: how much fuller the battery must be than what the level asks for. */
static enum power_level level_of(const struct config_power *c, const struct power_reading *r, double margin) {
        double percent = r->has_battery ? r->percent : INFINITY;

        if (r->on_battery) {
                if (r->warning == POWER_WARNS_CRITICAL || percent <= (double)c->critical_percent + margin)
                        return POWER_CRITICAL;
                if (r->warning == POWER_WARNS_LOW || percent <= (double)c->low_percent + margin)
                        return POWER_LOW;
        }
        return r->on_battery || (r->saver && c->power_saver) ? POWER_BATTERY : POWER_MAINS;
}

bool power_meter_read(struct power_meter *m, const struct config_power *c, const struct power_reading *r, uint64_t now_us) {
        enum power_level now = level_of(c, r, 0), settled;

        if (now >= m->level) {
                bool changed = now > m->level;

                m->level = now;
                m->better_since_us = 0;
                return changed;
        }
        if (m->better_since_us == 0)
                m->better_since_us = now_us;
        if (now_us - m->better_since_us < POWER_SETTLE_US)
                return false;
        settled = level_of(c, r, POWER_HYSTERESIS_PERCENT);
        if (settled >= m->level)
                return false;
        m->level = settled;
        m->better_since_us = 0;
        return true;
}

static uint32_t serves_at(const struct config_power *c, enum power_level level) {
        switch (level) {
        case POWER_BATTERY:
                return (uint32_t)c->on_battery;
        case POWER_LOW:
                return (uint32_t)c->on_low;
        case POWER_CRITICAL:
                return (uint32_t)c->on_critical;
        default:
                return SPARK__V1__PRIORITY__BACKGROUND;
        }
}

uint32_t power_serves(const struct config_power *c, enum power_level level, bool hot) {
        uint32_t serves = serves_at(c, level);

        return hot ? MAX(serves, (uint32_t)c->when_hot) : serves;
}

static uint32_t lower(uint64_t a, uint64_t b) {
        return (uint32_t)(a && b ? MIN(a, b) : MAX(a, b));
}

struct power_caps power_caps(const struct config_power *c, enum power_level level, bool hot) {
        static const enum config_caps_state states[POWER_LEVELS] = {
                [POWER_MAINS] = CONFIG_CAPS_MAINS, [POWER_BATTERY] = CONFIG_CAPS_BATTERY,
                [POWER_LOW] = CONFIG_CAPS_LOW, [POWER_CRITICAL] = CONFIG_CAPS_LOW,
        };
        const struct config_caps *a = &c->caps[states[level]], none = { 0 }, *b = hot ? &c->caps[CONFIG_CAPS_HOT] : &none;
        struct power_caps out = { lower(a->batch, b->batch), lower(a->threads, b->threads), lower(a->clocks, b->clocks) };

        if (out.clocks == 100)
                out.clocks = 0;
        return out;
}

enum power_verdict power_judge(const struct config_power *c, enum power_level level, bool hot, Spark__V1__Priority priority) {
        if ((uint32_t)priority >= power_serves(c, level, hot))
                return POWER_SERVE;
        if (c->wait || priority == SPARK__V1__PRIORITY__INTERACTIVE || (uint32_t)priority >= serves_at(c, level))
                return POWER_WAIT;
        return POWER_REFUSE;
}

bool power_keeps_awake(const struct config_power *c, uid_t uid) {
        switch (c->stay_awake) {
        case CONFIG_AWAKE_ALL:
                return true;
        case CONFIG_AWAKE_PEOPLE:
                return uid >= UID_PEOPLE_FIRST && uid <= UID_PEOPLE_LAST;
        default:
                return false;
        }
}
