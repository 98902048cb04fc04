/* SPDX-License-Identifier: Apache-2.0 */

/* 'power': keys, and what has to hold between them. */

#include "config-private.h"

#define POWER(key, type, lowest, highest, value, words) \
        { "power", #key, type, offsetof(struct config, power.key), lowest, highest, value, NULL, words }
#define YES_NO(key, value) POWER(key, KEY_INDEX, 0, 0, value, CONFIG_YES_WORDS)
#define CAPS(name, state, batch_rows)                                                                                       \
        { "power", name "_batch", KEY_NUMBER, offsetof(struct config, power.caps[state].batch), 0, 65536, batch_rows, NULL, NULL }, \
        { "power", name "_threads", KEY_NUMBER, offsetof(struct config, power.caps[state].threads), 0, 1024, 0, NULL, NULL },      \
        { "power", name "_clocks", KEY_NUMBER, offsetof(struct config, power.caps[state].clocks), 0, 100, 0, NULL, NULL }
#define SERVES(key, value) POWER(key, KEY_INDEX, 1, 0, value, CONFIG_PRIORITY_WORDS " none")

const struct key config_power_keys[] = {
        POWER(source, KEY_INDEX, 0, 0, 0, "auto none"),
        YES_NO(sleep, 1),
        POWER(stay_awake, KEY_INDEX, 0, 0, CONFIG_AWAKE_PEOPLE, "no people all"),
        SERVES(on_battery, 2),
        SERVES(on_low, 3),
        SERVES(on_critical, CONFIG_SERVES_NONE),
        SERVES(when_hot, 1),
        CAPS("mains", CONFIG_CAPS_MAINS, 0),
        CAPS("battery", CONFIG_CAPS_BATTERY, 128),
        CAPS("low", CONFIG_CAPS_LOW, 32),
        CAPS("hot", CONFIG_CAPS_HOT, 0),
        YES_NO(power_saver, 1),
        { "power", "deferred", KEY_INDEX, offsetof(struct config, power.wait), 0, 0, 0, NULL, "refuse wait" },
        POWER(low_percent, KEY_NUMBER, 0, 100, 20, NULL),
        POWER(critical_percent, KEY_NUMBER, 0, 100, 5, NULL),
        POWER(battery_tokens_per_day, KEY_NUMBER, 0, 1ull << 53, 0, NULL),
        POWER(battery_joules_per_day, KEY_NUMBER, 0, 1ull << 40, 0, NULL),
        { "power", "sysfs", KEY_PATH, offsetof(struct config, power.sysfs), 0, 0, 0, "/sys", NULL },
};
const size_t config_n_power_keys = ARRAY_SIZE(config_power_keys);

/* Where the first of these that is set stands: what is at odds with others has a line, too. */
static const config_setting_t *first_of(const config_setting_t *group, const char *const *names) {
        const config_setting_t *found = NULL;

        for (; group && !found && *names; names++)
                found = config_setting_get_member(group, *names);
        return found ? found : group;
}

int config_check_power(struct reader *r, const config_setting_t *s) {
        static const char *const percents[] = { "critical_percent", "low_percent", NULL },
                                 *const serves[] = { "on_critical", "on_low", "on_battery", NULL };
        const struct config_power *p = &r->config->power;

        if (p->critical_percent > p->low_percent)
                return config_fault(r, first_of(s, percents), "'critical_percent' is %llu, more than 'low_percent' (%llu)",
                                    (unsigned long long)p->critical_percent, (unsigned long long)p->low_percent);
        if (p->on_battery > p->on_low || p->on_low > p->on_critical)
                return config_fault(r, first_of(s, serves),
                                    "'on_battery', 'on_low' and 'on_critical' must not serve more the emptier the battery is");
        return 0;
}
