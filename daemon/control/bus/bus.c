/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus-internal.h"
#include "bus-objects.h"
#include "job.h"

#define RETRY_US (5u * 1000000u)    /* a bus that is not there */
#define DENIED_US (60u * 1000000u)  /* one that does not want us */
#define ANSWER_US (15u * 1000000u)  /* one that took the connection and does not answer, as when it just comes up or ends */
#define FLUSH_US (1u * 1000000u)    /* the last answers have so long */
#define FLUSH_ROUNDS 64

/* Leaves the bus: calls end with it, pipes and sessions' sockets do not. */
static void bus_disconnect(struct bus *b, uint64_t retry_in_us) {
        bus_peers_deinit(b);
        polkit_set_bus(&b->polkit, NULL);
        bus_models_deinit(b);
        bus_sessions_deinit(b);
        bus_jobs_deinit(b);
        b->bus = sd_bus_close_unref(b->bus);
        b->lost = false;
        b->retry_us = manager_now_us() + retry_in_us;
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct bus *b = userdata;

        log_warning("the connection to the bus is lost; it is looked for again");
        b->lost = true; /* freed in the turn, not under sd-bus's feet */
        manager_kick(b->manager);
        return 0;
}

static int on_name(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct bus *b = userdata;
        uint32_t answer = 0;

        /* an answer made up here, because the connection broke or the bus was silent, is no refusal */
        if (sd_bus_message_is_method_error(m, NULL) &&
            !sd_bus_message_is_method_error(m, SD_BUS_ERROR_ACCESS_DENIED)) {
                log_warning("the bus did not answer (%s); it is looked for again",
                            sd_bus_message_get_error(m)->name);
                b->lost = true;
                manager_kick(b->manager);
                return 0;
        }
        if (sd_bus_message_is_method_error(m, NULL)) {
                log_warning("the bus does not let us have the name " BUS_NAME " (%s); is its policy file installed?",
                            sd_bus_message_get_error(m)->message);
                b->retry_us = manager_now_us() + DENIED_US;
                b->lost = true;
                manager_kick(b->manager);
                return 0;
        }
        b->answered = true;
        (void)sd_bus_message_read(m, "u", &answer);
        if (answer != 1)
                log_warning("somebody else has the name " BUS_NAME " on the bus; we take it when it is free");
        b->complained = false;
        return 0;
}

/* At once, or when whoever had it before us has gone. Nobody takes it from us: we have not allowed that. */
static int on_acquired(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name;

        if (sd_bus_message_read(m, "s", &name) >= 0 && strcmp(name, BUS_NAME) == 0)
                log_info("on the bus as " BUS_NAME);
        return 0;
}

static int bus_set_up(struct bus *b) {
        int r;

        (void)sd_bus_set_close_on_exit(b->bus, false); /* which would wait for the bus */
        r = sd_bus_match_signal_async(b->bus, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                      "org.freedesktop.DBus.Local", "Disconnected", on_disconnected, NULL, b);
        if (r >= 0)
                r = sd_bus_match_signal_async(b->bus, NULL, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                              "org.freedesktop.DBus", "NameAcquired", on_acquired, NULL, b);
        if (r >= 0)
                r = bus_manager_register(b);
        if (r >= 0)
                r = sd_bus_request_name_async(b->bus, NULL, BUS_NAME, SD_BUS_NAME_QUEUE, on_name, b);
        if (r >= 0)
                r = sd_bus_attach_event(b->bus, b->manager->event, SD_EVENT_PRIORITY_NORMAL);
        return r;
}

/* Connecting only begins here; the rest of it comes as events. */
static void bus_connect(struct bus *b) {
        bool system = b->manager->config->bus == CONFIG_BUS_SYSTEM;
        int r = system ? sd_bus_open_system(&b->bus) : sd_bus_open_user(&b->bus);

        if (r >= 0)
                r = bus_set_up(b);
        b->answered = false;
        b->connected_us = manager_now_us();
        if (r >= 0) {
                polkit_set_bus(&b->polkit, system ? b->bus : NULL);
                b->models_dirty = true;
                manager_kick(b->manager);
                return;
        }
        if (!b->complained)
                log_warning("the %s bus cannot be reached (%s): going on without it, and looking for it again",
                            system ? "system" : "session", strerror(-r));
        b->complained = true;
        bus_disconnect(b, RETRY_US);
}

static void on_model_changed(void *userdata, struct model *model, bool removed) {
        struct bus *b = userdata;

        if (removed && b->bus)
                bus_models_remove(b, model);
        b->models_dirty = true;
        manager_kick(b->manager);
}

int bus_new(struct bus **ret, struct manager *m) {
        struct bus *b;

        if (m->config->bus == CONFIG_BUS_NONE) {
                *ret = NULL;
                return 0;
        }
        b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->manager = m;
        list_init(&b->models);
        list_init(&b->sessions);
        list_init(&b->jobs);
        list_init(&b->peers);
        list_init(&b->pipes);
        polkit_init(&b->polkit);
        if (bus_machine_new(b) < 0) {
                free(b);
                return -ENOMEM;
        }
        bus_leases_init(b);
        b->watcher = (struct manager_watcher){ .model_changed = on_model_changed, .userdata = b };
        manager_watch(m, &b->watcher);
        bus_connect(b);
        *ret = b;
        return 0;
}

/* Answers that the bus has not taken yet. */
static void bus_flush(struct bus *b) {
        uint64_t end = manager_now_us() + FLUSH_US, now_us, n;

        for (int i = 0; i < FLUSH_ROUNDS && sd_bus_get_n_queued_write(b->bus, &n) >= 0 && n > 0; i++) {
                now_us = manager_now_us();
                if (now_us >= end || sd_bus_process(b->bus, NULL) < 0 || sd_bus_wait(b->bus, end - now_us) < 0)
                        return;
        }
}

struct bus *bus_free(struct bus *b) {
        if (!b)
                return NULL;
        if (b->bus && !b->lost)
                bus_flush(b);
        bus_disconnect(b, 0);
        bus_pipes_deinit(b);
        b->machine = bus_machine_free(b->machine);
        bus_leases_deinit(b);
        list_remove(&b->watcher.link);
        free(b);
        return NULL;
}

void bus_turn(struct bus *b) {
        if (!b)
                return;
        if (b->calls_dirty) {
                b->calls_dirty = false;
                bus_peers_turn(b);
                bus_pipes_turn(b);
        }
        if (b->lost)
                bus_disconnect(b, b->retry_us > manager_now_us() ? DENIED_US : RETRY_US);
        if (!b->bus)
                return;
        bus_manager_turn(b);
        bus_machine_turn(b);
        if (b->models_dirty)
                bus_models_turn(b);
        b->models_dirty = false;
}

void bus_tick(struct bus *b, uint64_t now_us) {
        if (!b)
                return;
        if (b->bus && !b->answered && !b->lost && now_us >= b->connected_us + ANSWER_US) {
                log_warning("the bus does not answer; it is looked for again");
                b->lost = true;
        }
        if (!b->bus && now_us >= b->retry_us && manager_accepts(b->manager))
                bus_connect(b);
        if (b->bus && !b->lost)
                bus_machine_tick(b);
        /* figures that nobody announces, such as the progress of a load */
        b->models_dirty = true;
        manager_kick(b->manager);
}

bool bus_is_busy(const struct bus *b) {
        uint64_t n = 0;

        if (!b)
                return false;
        if (b->bus)
                (void)sd_bus_get_n_queued_write(b->bus, &n);
        return n > 0 || !list_empty(&b->pipes);
}
