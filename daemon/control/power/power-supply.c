/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Where power comes from: UPower where it is on the bus (whether the machine is on battery, how full that is, how much UPower
 * warns), else the kernel's files, looked at every few seconds. And which profile power-profiles-daemon has, under either of
 * its two names; where both are there (a newer one has both) they say the same.
 */

#include <string.h>

#include "base/log.h"
#include "event.h"
#include "power-private.h"

#define UPOWER "org.freedesktop.UPower"
#define UPOWER_PATH "/org/freedesktop/UPower"
#define UPOWER_DISPLAY UPOWER_PATH "/devices/DisplayDevice"
#define PROFILES_OLD "net.hadess.PowerProfiles"
#define PROFILES_OLD_PATH "/net/hadess/PowerProfiles"
#define PROFILES_NEW "org.freedesktop.UPower.PowerProfiles"
#define PROFILES_NEW_PATH "/org/freedesktop/UPower/PowerProfiles"
#define SYSFS_US (5u * 1000000u)
/* UPower's names for it: documentation of org.freedesktop.UPower.Device */
#define UPOWER_WARNING_LOW 3u
#define UPOWER_WARNING_CRITICAL 4u

typedef int (*property_fn)(struct power *p, const char *name, sd_bus_message *m);

/* ---- the kernel's files ---- */

static void set_source(struct power *p, enum power_source source) {
        if (p->state.source == source)
                return;
        p->state.source = source;
        log_info("power supply: %s", source == POWER_SOURCE_UPOWER  ? "UPower says"
                                     : source == POWER_SOURCE_SYSFS ? "the kernel says"
                                                                    : "nobody says, so it counts as mains");
        power_changed(p);
}

static void read_sysfs(struct power *p, uint64_t now_us) {
        struct power_reading r = { 0 };
        bool known = sysfs_read_supply(power_config(p)->sysfs, &r);

        p->sysfs_us = now_us;
        r.saver = p->state.saver;
        p->reading = r;
        set_source(p, known ? POWER_SOURCE_SYSFS : POWER_SOURCE_NONE);
        power_update(p, now_us);
}

static void upower_appeared(struct power *p);

void power_supply_tick(struct power *p, uint64_t now_us) {
        if (power_config(p)->source) { /* "none" */
                p->upower = false; /* what it says meanwhile is not kept */
                p->reading = (struct power_reading){ 0 };
                set_source(p, POWER_SOURCE_NONE);
        } else if (!p->upower && (p->sysfs_us == 0 || now_us - p->sysfs_us >= SYSFS_US)) {
                read_sysfs(p, now_us);
                if (p->bus.services[POWER_SERVICE_UPOWER].there) /* it has not answered, or was not to be heard */
                        upower_appeared(p);
                return;
        }
        power_update(p, now_us); /* time alone may settle it */
}

/* ---- UPower ---- */

static int on_upower(struct power *p, const char *name, sd_bus_message *m) {
        int on_battery, r;

        if (strcmp(name, "OnBattery") != 0)
                return 0;
        r = sd_bus_message_read(m, "b", &on_battery);
        if (r >= 0)
                p->reading.on_battery = on_battery;
        return r < 0 ? r : 1;
}

static int on_display(struct power *p, const char *name, sd_bus_message *m) {
        uint32_t number = 0;
        int present, r;

        if (strcmp(name, "Percentage") == 0) {
                r = sd_bus_message_read(m, "d", &p->reading.percent);
                if (r >= 0 && !(p->reading.percent >= 0 && p->reading.percent <= 100))
                        p->reading.percent = 100;
        } else if (strcmp(name, "WarningLevel") == 0) {
                r = sd_bus_message_read(m, "u", &number);
                p->reading.warning = number >= UPOWER_WARNING_CRITICAL ? POWER_WARNS_CRITICAL
                                     : number == UPOWER_WARNING_LOW    ? POWER_WARNS_LOW
                                                                       : POWER_WARNS_NOT;
        } else if (strcmp(name, "IsPresent") == 0) {
                r = sd_bus_message_read(m, "b", &present);
                if (r >= 0)
                        p->reading.has_battery = present;
        } else {
                return 0;
        }
        return r < 0 ? r : 1;
}

static void upower_read(struct power *p, sd_bus_message *m, property_fn fn) {
        if (power_config(p)->source || !p->upower) /* with what was before it comes as an answer */
                return;
        if (power_bus_read_properties(m, fn, p) < 0) {
                log_debug("UPower said something that can't be read");
                return;
        }
        power_update(p, manager_now_us());
}

static int on_upower_all(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;

        if (sd_bus_message_is_method_error(m, NULL) || power_config(p)->source)
                return 0; /* the kernel's files, then, until it is asked again */
        if (!p->upower)
                p->reading = (struct power_reading){ .saver = p->state.saver };
        p->upower = true;
        set_source(p, POWER_SOURCE_UPOWER);
        upower_read(p, m, on_upower);
        return 0;
}

static int on_display_all(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;

        if (p->upower && !sd_bus_message_is_method_error(m, NULL))
                upower_read(p, m, on_display);
        return 0;
}

static int on_changed(sd_bus_message *m, property_fn fn, struct power *p) {
        const char *interface;

        if (sd_bus_message_read(m, "s", &interface) >= 0)
                upower_read(p, m, fn);
        return 0;
}

static int on_upower_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return on_changed(m, on_upower, userdata);
}

static int on_display_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return on_changed(m, on_display, userdata);
}

static int match_properties(struct power *p, const char *name, const char *path, const char *interface,
                            sd_bus_message_handler_t handler) {
        char match[512];

        (void)snprintf(match, sizeof(match),
                       "type='signal',sender='%s',path='%s',interface='org.freedesktop.DBus.Properties',"
                       "member='PropertiesChanged',arg0='%s'", name, path, interface);
        return sd_bus_add_match_async(p->bus.bus, NULL, match, handler, NULL, p);
}

static int upower_match(struct power *p) {
        int r = match_properties(p, UPOWER, UPOWER_PATH, UPOWER, on_upower_changed);

        return r < 0 ? r : match_properties(p, UPOWER, UPOWER_DISPLAY, UPOWER ".Device", on_display_changed);
}

/* The one before the other: answers keep their order. */
static void upower_appeared(struct power *p) {
        (void)power_bus_get_all(p, UPOWER, UPOWER_PATH, UPOWER, on_upower_all);
        (void)power_bus_get_all(p, UPOWER, UPOWER_DISPLAY, UPOWER ".Device", on_display_all);
}

static void upower_vanished(struct power *p) {
        p->upower = false;
        p->sysfs_us = 0; /* with the next tick */
}

const struct power_service_info power_upower = { .name = UPOWER, .match = upower_match, .appeared = upower_appeared,
                                                 .vanished = upower_vanished };

/* ---- power-profiles-daemon ---- */

static void set_profile(struct power *p, const char *profile) {
        if (strcmp(p->state.profile, profile) == 0)
                return;
        (void)snprintf(p->state.profile, sizeof(p->state.profile), "%s", profile);
        p->state.saver = strcmp(p->state.profile, "power-saver") == 0;
        p->reading.saver = p->state.saver && !power_config(p)->source;
        power_update(p, manager_now_us());
        power_changed(p);
}

static int on_profile(struct power *p, const char *name, sd_bus_message *m) {
        const char *profile;
        int r;

        if (strcmp(name, "ActiveProfile") != 0)
                return 0;
        r = sd_bus_message_read(m, "s", &profile);
        if (r >= 0)
                set_profile(p, profile);
        return r < 0 ? r : 1;
}

static int on_profile_all(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        if (!sd_bus_message_is_method_error(m, NULL))
                (void)power_bus_read_properties(m, on_profile, userdata);
        return 0;
}

static int on_profile_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *interface;

        if (sd_bus_message_read(m, "s", &interface) >= 0)
                (void)power_bus_read_properties(m, on_profile, userdata);
        return 0;
}

static int old_match(struct power *p) {
        return match_properties(p, PROFILES_OLD, PROFILES_OLD_PATH, PROFILES_OLD, on_profile_changed);
}

static int new_match(struct power *p) {
        return match_properties(p, PROFILES_NEW, PROFILES_NEW_PATH, PROFILES_NEW, on_profile_changed);
}

static void old_appeared(struct power *p) {
        (void)power_bus_get_all(p, PROFILES_OLD, PROFILES_OLD_PATH, PROFILES_OLD, on_profile_all);
}

static void new_appeared(struct power *p) {
        (void)power_bus_get_all(p, PROFILES_NEW, PROFILES_NEW_PATH, PROFILES_NEW, on_profile_all);
}

/* The other name may still be there: it says so again, or nobody knows. */
static void profiles_vanished(struct power *p) {
        set_profile(p, "");
        for (size_t i = 0; i < POWER_SERVICES; i++) {
                const struct power_service *s = &p->bus.services[i];

                if (s->there && s->info->vanished == profiles_vanished)
                        s->info->appeared(p);
        }
}

const struct power_service_info power_profiles_old = { .name = PROFILES_OLD, .match = old_match, .appeared = old_appeared,
                                                       .vanished = profiles_vanished };
const struct power_service_info power_profiles_new = { .name = PROFILES_NEW, .match = new_match, .appeared = new_appeared,
                                                       .vanished = profiles_vanished };
