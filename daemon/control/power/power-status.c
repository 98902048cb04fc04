/* SPDX-License-Identifier: Apache-2.0 */

/* What status says of power. */

#include "power-private.h"
#include "power-status.h"

void power_fill_info(struct power *p, struct power_view *v, Spark__V1__PowerInfo *info) {
        const struct power_state *s = power_state(p);
        struct power_energy energy = power_energy(p);
        int32_t celsius;

        *info = (Spark__V1__PowerInfo)SPARK__V1__POWER_INFO__INIT;
        info->supply = (char *)power_level_name(s->level);
        info->source = (char *)power_source_name(s->source);
        info->has_battery = s->has_battery;
        info->percent = s->percent;
        info->profile = (char *)s->profile;
        info->serves = (char *)power_serves_name(s->serves);
        info->throttled = s->throttled;
        info->temperature_known = s->temperature_known;
        info->temperature_c = s->temperature_c;
        info->temperature_source = (char *)(s->temperature_known ? "device" : "");
        if (!s->temperature_known && sysfs_read_temperature(power_config(p)->sysfs, &celsius)) {
                info->temperature_known = true;
                info->temperature_c = celsius;
                info->temperature_source = (char *)"sysfs";
        }
        info->sleep = (char *)sleep_state_name(s->sleep);
        info->inhibitor = (char *)power_inhibitor_name(s->inhibitor);
        info->awake = (char *)power_awake_name(s->awake);
        info->sleeps = s->sleeps;
        info->sleep_ms = s->sleep_ms;
        info->resume_ms = s->resume_ms;
        info->energy_source = (char *)energy.source;
        info->energy_uj = energy.uj;
        info->energy_tokens = energy.tokens;
        info->joules_per_token = energy.joules_per_token;
        info->watts_known = energy.watts_known;
        info->watts = energy.watts;
        info->batch = s->caps.batch;
        info->threads = s->caps.threads;
        info->clocks = s->caps.clocks;
        info->in_force = (char *)s->in_force;
        info->clocks_by = (char *)s->clocks_by;
        info->refused = (char *)s->refused;
        while (info->n_notes < POWER_NOTES_MAX && (v->notes[info->n_notes] = (char *)power_note(p, info->n_notes)))
                info->n_notes++;
        info->notes = v->notes;
}

void power_fill_user(const struct power *p, uid_t uid, Spark__V1__UserInfo *info) {
        struct usage_counts spent = usage_spent(p->manager->usage, uid);

        info->energy_uj_today = spent.energy_uj;
        info->energy_tokens_today = spent.energy_tokens;
        info->battery_tokens_today = spent.battery_tokens;
        info->battery_energy_uj_today = spent.battery_uj;
        info->battery_tokens_per_day = power_config(p)->battery_tokens_per_day;
        info->battery_joules_per_day = power_config(p)->battery_joules_per_day;
}
