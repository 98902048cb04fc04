/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the power supply means for requests: pure functions over the configuration and what was read of the machine, so
 * that every cell of the table can be tested.
 *
 *   level      comes from                                     serves (by default)                       caps
 *   mains      no battery, or it is charged                    everything                                mains_*
 *   battery    on battery, or the profile power-saver          on_battery (normal and interactive)       battery_*
 *   low        low_percent, or UPower warns                    on_low (interactive)                      low_*
 *   critical   critical_percent, or UPower warns of that       on_critical (nothing: all is parked)      low_*
 *   hot        besides: an engine's device is throttled        when_hot (everything)                     the lower, of hot_*
 *
 * The emptier level counts at once; a fuller one when it is more than that by some percent, or has lasted for some seconds, so
 * that a loose plug does not make the service flap.
 */

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "spark.pb-c.h"

#define POWER_HYSTERESIS_PERCENT 3.0
#define POWER_SETTLE_US (3u * 1000000u) /* mains, or no saver, for so long: then it counts */
#define POWER_HOT_US (30u * 1000000u)   /* throttled lately counts as hot for so long */
#define POWER_DEFER_RETRY_MS 60000u     /* nobody knows when the plug is put in: ask again every minute */

enum power_level { POWER_MAINS, POWER_BATTERY, POWER_LOW, POWER_CRITICAL, POWER_LEVELS };
/* As UPower has them, in the order of need. */
enum power_warning { POWER_WARNS_NOT, POWER_WARNS_LOW, POWER_WARNS_CRITICAL };
enum power_verdict {
        POWER_SERVE,
        POWER_WAIT,  /* until there is power again */
        POWER_REFUSE /* DEFERRED_ON_BATTERY */
};

/* What is known of the machine. Zero-initialised: mains, nothing else is known. */
struct power_reading {
        bool on_battery, has_battery, saver; /* has_battery: one that tells its charge */
        double percent;
        enum power_warning warning;
};

/* What engines are to do without; 0 = no cap. */
struct power_caps {
        uint32_t batch, threads, clocks;
};

/* A level with its history. Zero-initialised: mains. */
struct power_meter {
        enum power_level level;
        uint64_t better_since_us; /* so long has the reading been of a fuller level; 0 = it is not */
};

/* True where the level changed. */
bool power_meter_read(struct power_meter *m, const struct config_power *c, const struct power_reading *r, uint64_t now_us);
/* The lowest priority that is served, or CONFIG_SERVES_NONE. */
uint32_t power_serves(const struct config_power *c, enum power_level level, bool hot);
struct power_caps power_caps(const struct config_power *c, enum power_level level, bool hot);
/* What becomes of a request with this priority. One that only heat holds up waits; a person's interactive request is never
 * refused for want of power. */
enum power_verdict power_judge(const struct config_power *c, enum power_level level, bool hot, Spark__V1__Priority priority);
/* "mains", "battery", "low", "critical" */
const char *power_level_name(enum power_level level);
/* "background", "normal", "interactive", "none" */
const char *power_serves_name(uint32_t serves);
/* True where this user's interactive request keeps the machine awake: people are those with a uid of their own, not
 * services. */
bool power_keeps_awake(const struct config_power *c, uid_t uid);
