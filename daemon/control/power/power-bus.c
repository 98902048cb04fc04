/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A connection of its own to the bus on which logind and the others are: it serves nothing, so that whatever happens to the
 * service's name on the bus leaves sleep and supply alone. Nothing here waits for the bus, and nobody is started by a
 * question: who is not there has nothing to say.
 */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "power-private.h"

#define RETRY_US (5u * 1000000u)
#define CALL_US (10u * 1000000u) /* an answer that takes longer comes too late */
#define DBUS "org.freedesktop.DBus"
#define PROPERTIES_MAX 256

static const struct power_service_info *const infos[POWER_SERVICES] = {
        [POWER_SERVICE_LOGIND] = &power_logind,
        [POWER_SERVICE_UPOWER] = &power_upower,
        [POWER_SERVICE_PROFILES_OLD] = &power_profiles_old,
        [POWER_SERVICE_PROFILES_NEW] = &power_profiles_new,
};

static void service_set(struct power_service *s, bool there) {
        if (there == s->there)
                return;
        s->there = there;
        if (there)
                s->info->appeared(s->power);
        else
                s->info->vanished(s->power);
        manager_kick(s->power->manager);
}

void power_bus_disconnect(struct power *p) {
        struct power_bus *b = &p->bus;

        for (size_t i = 0; i < POWER_SERVICES; i++)
                service_set(&b->services[i], false);
        b->bus = sd_bus_close_unref(b->bus);
        b->lost = false;
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;

        p->bus.lost = true;
        manager_kick(p->manager);
        return 0;
}

static int on_owner(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power_service *s = userdata;
        const char *name, *before, *after;

        if (sd_bus_message_read(m, "sss", &name, &before, &after) < 0)
                return 0;
        if (*before)
                service_set(s, false); /* another process is another one, even where there is no gap */
        if (*after)
                service_set(s, true);
        return 0;
}

static int on_has_owner(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        int there = 0;

        if (!sd_bus_message_is_method_error(m, NULL) && sd_bus_message_read(m, "b", &there) >= 0 && there)
                service_set(userdata, true);
        return 0;
}

static int service_watch(struct power_service *s) {
        sd_bus *bus = s->power->bus.bus;
        char match[256];
        int r;

        (void)snprintf(match, sizeof(match),
                       "type='signal',sender='" DBUS "',path='/org/freedesktop/DBus',interface='" DBUS
                       "',member='NameOwnerChanged',arg0='%s'", s->info->name);
        r = sd_bus_add_match_async(bus, NULL, match, on_owner, NULL, s);
        if (r >= 0)
                r = s->info->match(s->power);
        if (r >= 0)
                r = sd_bus_call_method_async(bus, NULL, DBUS, "/org/freedesktop/DBus", DBUS, "NameHasOwner", on_has_owner, s,
                                             "s", s->info->name);
        return r;
}

static int bus_set_up(struct power *p) {
        struct power_bus *b = &p->bus;
        int r;

        (void)sd_bus_set_close_on_exit(b->bus, false);
        (void)sd_bus_set_method_call_timeout(b->bus, CALL_US);
        r = sd_bus_match_signal_async(b->bus, NULL, DBUS ".Local", "/org/freedesktop/DBus/Local", DBUS ".Local", "Disconnected",
                                      on_disconnected, NULL, p);
        for (size_t i = 0; i < POWER_SERVICES && r >= 0; i++) {
                b->services[i] = (struct power_service){ .power = p, .info = infos[i] };
                r = service_watch(&b->services[i]);
        }
        if (r >= 0)
                r = sd_bus_attach_event(b->bus, p->manager->event, SD_EVENT_PRIORITY_NORMAL);
        return r;
}

void power_bus_connect(struct power *p) {
        struct power_bus *b = &p->bus;
        bool system = p->manager->config->bus == CONFIG_BUS_SYSTEM;
        int r;

        for (size_t i = 0; i < POWER_SERVICES; i++)
                b->services[i] = (struct power_service){ .power = p, .info = infos[i] };
        if (p->manager->config->bus == CONFIG_BUS_NONE)
                return;
        r = system ? sd_bus_open_system(&b->bus) : sd_bus_open_user(&b->bus);
        if (r >= 0)
                r = bus_set_up(p);
        if (r >= 0)
                return;
        if (!b->complained)
                log_info("sleep and power supply are not heard of: the %s bus cannot be reached (%s)",
                         system ? "system" : "session", strerror(-r));
        b->complained = true;
        power_bus_disconnect(p);
        b->retry_us = manager_now_us() + RETRY_US;
}

void power_bus_turn(struct power *p) {
        if (!p->bus.lost)
                return;
        power_bus_disconnect(p);
        p->bus.retry_us = manager_now_us() + RETRY_US;
}

void power_bus_tick(struct power *p, uint64_t now_us) {
        if (!p->bus.bus && now_us >= p->bus.retry_us && manager_accepts(p->manager))
                power_bus_connect(p);
}

int power_bus_new_call(struct power *p, const char *name, const char *path, const char *interface, const char *method,
                       sd_bus_message **ret) {
        int r;

        if (!p->bus.bus)
                return -ENOTCONN;
        r = sd_bus_message_new_method_call(p->bus.bus, ret, name, path, interface, method);
        if (r >= 0)
                r = sd_bus_message_set_auto_start(*ret, false);
        return r < 0 ? r : 0;
}

int power_bus_get_all(struct power *p, const char *name, const char *path, const char *interface,
                      sd_bus_message_handler_t answer) {
        sd_bus_message *m = NULL;
        int r = power_bus_new_call(p, name, path, DBUS ".Properties", "GetAll", &m);

        if (r >= 0)
                r = sd_bus_message_append(m, "s", interface);
        if (r >= 0)
                r = sd_bus_call_async(p->bus.bus, NULL, m, answer, p, CALL_US);
        (void)sd_bus_message_unref(m);
        return r < 0 ? r : 0;
}

static int read_property(sd_bus_message *m, int (*fn)(struct power *p, const char *name, sd_bus_message *m), struct power *p) {
        const char *name, *contents;
        char type;
        int r;

        r = sd_bus_message_read(m, "s", &name);
        if (r >= 0)
                r = sd_bus_message_peek_type(m, &type, &contents);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(m, 'v', contents);
        if (r < 0)
                return r;
        r = fn(p, name, m);
        if (r == 0)
                r = sd_bus_message_skip(m, contents);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

int power_bus_read_properties(sd_bus_message *m, int (*fn)(struct power *p, const char *name, sd_bus_message *m),
                              struct power *p) {
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");

        for (int i = 0; r >= 0 && i < PROPERTIES_MAX; i++) {
                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        break;
                r = read_property(m, fn, p);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}
