/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ctl.h"
#include "power.h"

_printf_(2, 3) static void add(char out[POWER_LINE_MAX], const char *fmt, ...) {
        size_t n = strlen(out);
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(out + n, POWER_LINE_MAX - n, fmt, ap);
        va_end(ap);
}

const char *power_supply_line(const struct spark_power *p, char out[POWER_LINE_MAX]) {
        char word[40];

        out[0] = 0;
        add(out, "%s", format_safe(p->supply, word, sizeof(word)));
        if (p->has_battery)
                add(out, ", battery at %.0f %%", (double)p->percent);
        if (p->profile[0])
                add(out, ", profile %s", format_safe(p->profile, word, sizeof(word)));
        if (strcmp(p->serves, "background") != 0)
                add(out, strcmp(p->serves, "none") == 0 ? "; nothing is served" : "; served from '%s' on",
                    format_safe(p->serves, word, sizeof(word)));
        if (p->temperature_known)
                add(out, "; %d °C", p->temperature_c);
        if (p->throttled)
                add(out, ", throttled");
        if (p->watts_known)
                add(out, "; %.1f W", (double)p->watts);
        if (p->joules_per_token > 0)
                add(out, "; %.3g J per token (%s)", (double)p->joules_per_token,
                    format_safe(p->energy_source, word, sizeof(word)));
        else
                add(out, "; energy per token unknown");
        return out;
}

const char *power_sleep_line(const struct spark_power *p, char out[POWER_LINE_MAX]) {
        char word[40];

        out[0] = 0;
        add(out, "%s", format_safe(p->sleep, word, sizeof(word)));
        add(out, "; delays sleep: %s", format_safe(p->inhibitor, word, sizeof(word)));
        if (p->awake[0])
                add(out, "; keeps off %s", format_safe(p->awake, word, sizeof(word)));
        if (p->sleeps > 0)
                add(out, "; slept %u time%s, the last time ready after %u ms, in order again after %u ms", p->sleeps,
                    words_s(p->sleeps), p->sleep_ms, p->resume_ms);
        return out;
}

const char *power_caps_line(const struct spark_power *p, char out[POWER_LINE_MAX]) {
        char word[80];

        out[0] = 0;
        if (p->batch)
                add(out, "batch %u", p->batch);
        if (p->threads)
                add(out, "%sthreads %u", out[0] ? ", " : "", p->threads);
        if (p->clocks)
                add(out, "%sclocks %u %%", out[0] ? ", " : "", p->clocks);
        if (!out[0])
                return out;
        add(out, "; in force: %s", p->in_force[0] ? format_safe(p->in_force, word, sizeof(word)) : "nothing yet");
        if (p->clocks_by[0])
                add(out, " (%s)", format_safe(p->clocks_by, word, sizeof(word)));
        if (p->refused[0])
                add(out, "; refused: %s", format_safe(p->refused, word, sizeof(word)));
        return out;
}

const char *power_joules(uint64_t uj, uint64_t measured, uint64_t tokens, char out[32]) {
        const char *more = (double)measured < 0.9 * (double)tokens ? ">" : "";
        double joules = (double)uj / 1e6;

        if (measured == 0)
                (void)snprintf(out, 32, "%s", tokens > 0 ? "unknown" : "-");
        else
                (void)snprintf(out, 32, joules < 1e4 ? "%s%.1f J" : joules < 1e7 ? "%s%.1f kJ" : "%s%.1f MJ", more,
                               joules < 1e4 ? joules : joules < 1e7 ? joules / 1e3 : joules / 1e6);
        return out;
}

void power_json_joules(struct json *j, const char *name, uint64_t uj, uint64_t measured) {
        if (measured > 0)
                json_u64(j, name, uj);
        else
                json_string(j, name, "unknown");
}

void power_json(struct json *j, const struct spark_power *p) {
        if (!p)
                return;
        json_open(j, "power", '{');
        json_string(j, "supply", p->supply);
        json_string(j, "source", p->source);
        json_bool(j, "has_battery", p->has_battery);
        if (p->has_battery)
                json_number(j, "percent", p->percent, 9);
        json_string(j, "profile", p->profile);
        json_string(j, "serves", p->serves);
        json_bool(j, "throttled", p->throttled);
        if (p->temperature_known) {
                json_number(j, "temperature_c", p->temperature_c, 9);
                json_string(j, "temperature_source", p->temperature_source);
        }
        json_string(j, "sleep", p->sleep);
        json_string(j, "inhibitor", p->inhibitor);
        json_string(j, "awake", p->awake);
        json_u64(j, "sleeps", p->sleeps);
        json_u64(j, "sleep_ms", p->sleep_ms);
        json_u64(j, "resume_ms", p->resume_ms);
        json_u64(j, "batch", p->batch);
        json_u64(j, "threads", p->threads);
        json_u64(j, "clocks", p->clocks);
        json_string(j, "in_force", p->in_force);
        json_string(j, "clocks_by", p->clocks_by);
        json_string(j, "refused", p->refused);
        json_string(j, "energy_source", p->energy_source);
        power_json_joules(j, "energy_uj", p->energy_uj, p->energy_tokens);
        json_u64(j, "energy_tokens", p->energy_tokens);
        if (p->joules_per_token > 0)
                json_number(j, "joules_per_token", p->joules_per_token, 9);
        else
                json_string(j, "joules_per_token", "unknown");
        if (p->watts_known)
                json_number(j, "watts", p->watts, 9);
        json_open(j, "notes", '[');
        for (size_t i = 0; i < p->n_notes; i++)
                json_string(j, NULL, p->notes[i]);
        json_close(j, ']');
        json_close(j, '}');
}

void power_json_user(struct json *j, const struct spark_user_info *u) {
        power_json_joules(j, "energy_uj_today", u->energy_uj_today, u->energy_tokens_today);
        json_u64(j, "energy_tokens_today", u->energy_tokens_today);
        json_u64(j, "battery_tokens_today", u->battery_tokens_today);
        power_json_joules(j, "battery_energy_uj_today", u->battery_energy_uj_today, u->energy_tokens_today);
        json_u64(j, "battery_tokens_per_day", u->battery_tokens_per_day);
        json_u64(j, "battery_joules_per_day", u->battery_joules_per_day);
}
