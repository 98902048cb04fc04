/* SPDX-License-Identifier: Apache-2.0 */

/*
 * logind: an inhibitor that delays the machine's sleep is held as long as we run, and given back when we are ready for it
 * (org.freedesktop.login1(5), "Inhibitor Locks"). Another one, which forbids sleep, is held only while a person waits for an
 * answer, and never on a low battery.
 *
 * Who is not in the foreground may block "idle" but not "sleep" by polkit's defaults; the package has a rule for the
 * service's user. Where that is not in effect "idle" alone is taken, and status says so.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "disk.h"
#include "event.h"
#include "power-private.h"
#include "session/session.h"
#include "users/usage.h"

#define LOGIND "org.freedesktop.login1"
#define LOGIND_PATH "/org/freedesktop/login1"
#define LOGIND_MANAGER "org.freedesktop.login1.Manager"
#define STEP_US (10u * 1000u) /* while it is about to sleep, or waking */
#define RETRY_US (5u * 1000000u)

/* ---- inhibitors ---- */

static int inhibit(struct power *p, const char *what, const char *mode, const char *why, sd_bus_message_handler_t answer,
                   void *userdata) {
        sd_bus_message *m = NULL;
        int r = power_bus_new_call(p, LOGIND, LOGIND_PATH, LOGIND_MANAGER, "Inhibit", &m);

        if (r >= 0)
                r = sd_bus_message_append(m, "ssss", what, "sparkd", why, mode);
        if (r >= 0)
                r = sd_bus_call_async(p->bus.bus, NULL, m, answer, userdata, 0);
        (void)sd_bus_message_unref(m);
        return r < 0 ? r : 0;
}

/* The descriptor of an answer, ours; -1 where it is an error. */
static int take_fd(sd_bus_message *m) {
        int fd;

        if (sd_bus_message_is_method_error(m, NULL) || sd_bus_message_read(m, "h", &fd) < 0)
                return -1;
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* A policy's "no" stays one. Anything else, such as no answer while the machine starts, passes. */
static uint64_t retry_at(const sd_bus_error *e) {
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_ACCESS_DENIED) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED))
                return UINT64_MAX;
        return manager_now_us() + RETRY_US;
}

static void set_inhibitor(struct power *p, enum power_inhibitor inhibitor) {
        if (p->state.inhibitor == inhibitor)
                return;
        p->state.inhibitor = inhibitor;
        power_changed(p);
}

static int on_delay(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;
        int fd = take_fd(m);

        p->delay_asked = false;
        if (fd < 0) {
                const sd_bus_error *e = sd_bus_message_get_error(m);

                if (!p->delay_refused)
                        log_warning("logind lets us not delay the machine's sleep (%s): requests may lose an engine when it "
                                    "sleeps",
                                    e && e->message ? e->message : "no descriptor came");
                p->delay_refused = true;
                p->delay_retry_us = retry_at(e);
                set_inhibitor(p, INHIBITOR_REFUSED);
                return 0;
        }
        p->delay_refused = false;
        if (p->sleeper.state == SLEEP_ASLEEP || !power_config(p)->sleep) { /* not wanted any more */
                (void)fd_close(fd);
                return 0;
        }
        (void)fd_close(p->delay_fd); /* after the new one is there: never without */
        p->delay_fd = fd;
        set_inhibitor(p, INHIBITOR_HELD);
        return 0;
}

static void take_delay(struct power *p) {
        if (!power_config(p)->sleep || p->delay_asked)
                return;
        if (inhibit(p, "sleep", "delay", "Requests are parked and sessions written first.", on_delay, p) == 0)
                p->delay_asked = true;
}

/* ---- keeping the machine awake ---- */

/* One inhibitor for each: for several at once logind asks polkit about something else altogether (systemd 252). */
static const char *const block_names[POWER_BLOCKS] = { [POWER_BLOCK_SLEEP] = "sleep", [POWER_BLOCK_IDLE] = "idle" };

static void tell_awake(struct power *p) {
        bool sleep = p->blocks[POWER_BLOCK_SLEEP].fd >= 0, idle = p->blocks[POWER_BLOCK_IDLE].fd >= 0;
        enum power_awake awake = sleep ? (idle ? AWAKE_SLEEP_IDLE : AWAKE_SLEEP) : idle ? AWAKE_IDLE : AWAKE_NOTHING;

        if (p->state.awake == awake)
                return;
        p->state.awake = awake;
        power_changed(p);
}

static void let_sleep(struct power *p) {
        for (size_t i = 0; i < POWER_BLOCKS; i++)
                p->blocks[i].fd = fd_close(p->blocks[i].fd);
        tell_awake(p);
}

/* Runs: one that waits for its turn or for its reader keeps nobody awake. */
static bool request_keeps_awake(const struct power *p, const struct request *r) {
        return r && r->sink && r->model && r->state == REQUEST_SENT && !r->engine_queued && !r->engine_paused && !r->stalled &&
               r->priority == SPARK__V1__PRIORITY__INTERACTIVE && power_keeps_awake(power_config(p), r->user->uid);
}

static bool wants_awake(const struct power *p) {
        const struct requests *t = &p->manager->requests;

        if (p->state.level >= POWER_LOW || p->sleeper.state != SLEEP_AWAKE || t->count == 0)
                return false;
        for (size_t i = 0; i < t->n_slots; i++)
                if (request_keeps_awake(p, t->slots[i]))
                        return true;
        return false;
}

static int on_block(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power_block *b = userdata;
        const char *name = block_names[b - b->power->blocks];
        int fd = take_fd(m);

        b->asked = false;
        if (fd < 0) {
                if (!b->refused)
                        log_info("logind lets us not hold up '%s' while a person waits", name);
                b->refused = true;
                b->retry_us = retry_at(sd_bus_message_get_error(m));
                return 0;
        }
        b->refused = false;
        if (!wants_awake(b->power)) { /* it has ended meanwhile */
                (void)fd_close(fd);
                return 0;
        }
        (void)fd_close(b->fd);
        b->fd = fd;
        tell_awake(b->power);
        return 0;
}

static void ask_awake(struct power *p) {
        uint64_t now_us = manager_now_us();

        for (size_t i = 0; i < POWER_BLOCKS; i++) {
                struct power_block *b = &p->blocks[i];

                if (b->fd < 0 && !b->asked && (!b->refused || now_us >= b->retry_us))
                        b->asked = inhibit(p, block_names[i], "block", "Somebody waits for an answer.", on_block, b) == 0;
        }
}

/* A request shorter than a tick is not worth two calls on the bus. */
void power_logind_tick(struct power *p) {
        bool there = p->bus.services[POWER_SERVICE_LOGIND].there;

        if (there && p->state.inhibitor == INHIBITOR_REFUSED && p->sleeper.state == SLEEP_AWAKE &&
            manager_now_us() >= p->delay_retry_us)
                take_delay(p);
        if (there && wants_awake(p))
                ask_awake(p);
        else
                let_sleep(p);
}

/* ---- sleep ---- */

static void set_sleep(struct power *p) {
        p->state.sleep = p->sleeper.state;
        p->state.sleeps = p->sleeper.sleeps;
        p->state.sleep_ms = p->sleeper.sleep_ms;
        p->state.resume_ms = p->sleeper.resume_ms;
        power_changed(p);
        power_kick_all(p);
}

static void park(void *userdata) {
        struct power *p = userdata;

        log_info("the machine is about to sleep: requests are parked");
        let_sleep(p);
        set_sleep(p);
        power_engines_turn(p);
        (void)sd_event_source_set_time_relative(p->sleep_timer, 0);
        (void)sd_event_source_set_enabled(p->sleep_timer, SD_EVENT_ONESHOT);
}

static bool is_parked(void *userdata) {
        struct power *p = userdata;
        struct manager *m = p->manager;

        bool rest = power_engines_rest(p), sessions = sessions_sync(m->sessions), usage = usage_sync(m->usage);

        p->awaited = !rest ? "an engine" : !sessions ? "a session" : "the usage ledger";
        return rest && sessions && usage;
}

static void release(void *userdata, bool in_time) {
        struct power *p = userdata;
        size_t unsaved = sessions_count_unsaved(p->manager->sessions);

        p->delay_fd = fd_close(p->delay_fd);
        if (p->state.inhibitor == INHIBITOR_HELD)
                p->state.inhibitor = INHIBITOR_RELEASED;
        set_sleep(p);
        if (in_time && unsaved)
                event_log(EVENT_SLEEP_LATE, NULL,
                          "ready for the machine's sleep after %u ms, but %zu session%s could not be written: in memory only",
                          p->sleeper.sleep_ms, unsaved, words_s(unsaved));
        else if (in_time)
                event_log(EVENT_SLEEP, NULL, "ready for the machine's sleep after %u ms", p->sleeper.sleep_ms);
        else
                event_log(EVENT_SLEEP_LATE, NULL,
                          "the machine's sleep is delayed no longer, though after %u ms not everything is parked and written: "
                          "%s is awaited", p->sleeper.sleep_ms, p->awaited);
}

static void wake(void *userdata) {
        struct power *p = userdata;

        log_info("the machine is awake: engines are tested");
        take_delay(p);
        power_engines_test(p);
        set_sleep(p);
        (void)sd_event_source_set_time_relative(p->sleep_timer, 0);
        (void)sd_event_source_set_enabled(p->sleep_timer, SD_EVENT_ONESHOT);
}

static bool is_awake(void *userdata) {
        return power_engines_tested(userdata, manager_now_us());
}

static void go_on(void *userdata) {
        struct power *p = userdata;

        set_sleep(p);
        event_log(EVENT_RESUMED, NULL, "going on %u ms after the machine's sleep", p->sleeper.resume_ms);
}

static int on_prepare(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;
        int before;

        if (sd_bus_message_read(m, "b", &before) < 0 || !power_config(p)->sleep)
                return 0;
        if (before)
                sleeper_prepare(&p->sleeper, manager_now_us());
        else
                sleeper_wake(&p->sleeper, manager_now_us());
        manager_kick(p->manager);
        return 0;
}

static int on_step(sd_event_source *source, uint64_t usec, void *userdata) {
        struct power *p = userdata;

        manager_kick(p->manager); /* what the loop has to do for it */
        if (!sleeper_step(&p->sleeper, manager_now_us()))
                return 0;
        (void)sd_event_source_set_time_relative(source, STEP_US);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* Signals may have been missed; what is so now can be asked. */
static int on_property(struct power *p, const char *name, sd_bus_message *m) {
        uint64_t patience_us;
        int preparing, r;

        if (strcmp(name, "InhibitDelayMaxUSec") == 0) {
                r = sd_bus_message_read(m, "t", &patience_us);
                if (r >= 0)
                        sleeper_hurry(&p->sleeper, patience_us);
                return r < 0 ? r : 1;
        }
        if (strcmp(name, "PreparingForSleep") != 0)
                return 0;
        r = sd_bus_message_read(m, "b", &preparing);
        if (r < 0 || !power_config(p)->sleep)
                return r < 0 ? r : 1;
        if (preparing)
                sleeper_prepare(&p->sleeper, manager_now_us());
        else
                sleeper_wake(&p->sleeper, manager_now_us());
        return 1;
}

static int on_properties(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct power *p = userdata;

        if (sd_bus_message_is_method_error(m, NULL) || power_bus_read_properties(m, on_property, p) < 0)
                sleeper_wake(&p->sleeper, manager_now_us()); /* nobody says that the machine is to sleep */
        manager_kick(p->manager);
        return 0;
}

static void ask(void *userdata) {
        struct power *p = userdata;

        if (power_bus_get_all(p, LOGIND, LOGIND_PATH, LOGIND_MANAGER, on_properties) < 0)
                sleeper_wake(&p->sleeper, manager_now_us());
}

/* ---- its coming and going ---- */

static int match(struct power *p) {
        return sd_bus_match_signal_async(p->bus.bus, NULL, LOGIND, LOGIND_PATH, LOGIND_MANAGER, "PrepareForSleep", on_prepare,
                                         NULL, p);
}

static void appeared(struct power *p) {
        p->delay_asked = p->delay_refused = false;
        for (size_t i = 0; i < POWER_BLOCKS; i++)
                p->blocks[i].asked = p->blocks[i].refused = false;
        ask(p);
        if (p->sleeper.state == SLEEP_AWAKE || p->sleeper.state == SLEEP_RESUMING)
                take_delay(p);
}

/* One that restarts takes up the inhibitors that it gave out: those are kept, and taken anew when it is back. */
static void vanished(struct power *p) {
        p->delay_asked = false;
        for (size_t i = 0; i < POWER_BLOCKS; i++)
                p->blocks[i].asked = false;
        if (power_config(p)->sleep)
                set_inhibitor(p, INHIBITOR_ABSENT);
}

void power_logind_configure(struct power *p) {
        if (!power_config(p)->sleep) {
                p->delay_fd = fd_close(p->delay_fd);
                set_inhibitor(p, INHIBITOR_OFF);
                sleeper_wake(&p->sleeper, manager_now_us());
        } else if (p->state.inhibitor == INHIBITOR_OFF) {
                set_inhibitor(p, INHIBITOR_ABSENT);
                if (p->bus.services[POWER_SERVICE_LOGIND].there)
                        appeared(p);
        }
}

const struct power_service_info power_logind = { .name = LOGIND, .match = match, .appeared = appeared, .vanished = vanished };

static const struct sleep_ops ops = { .park = park, .is_parked = is_parked, .release = release, .wake = wake,
                                      .is_awake = is_awake, .go_on = go_on, .ask = ask };

int power_logind_init(struct power *p) {
        int r;

        sleeper_init(&p->sleeper, &ops, p);
        p->delay_fd = -1;
        for (size_t i = 0; i < POWER_BLOCKS; i++)
                p->blocks[i] = (struct power_block){ .power = p, .fd = -1 };
        p->state.inhibitor = power_config(p)->sleep ? INHIBITOR_ABSENT : INHIBITOR_OFF;
        r = sd_event_add_time_relative(p->manager->event, &p->sleep_timer, CLOCK_MONOTONIC, 0, 1, on_step, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->sleep_timer, SD_EVENT_OFF);
        /* the inhibitor is given back in time even where the loop has much to do */
        if (r >= 0)
                r = sd_event_source_set_priority(p->sleep_timer, SD_EVENT_PRIORITY_IMPORTANT);
        return r < 0 ? r : 0;
}

void power_logind_deinit(struct power *p) {
        p->sleep_timer = sd_event_source_disable_unref(p->sleep_timer);
        p->delay_fd = fd_close(p->delay_fd);
        for (size_t i = 0; i < POWER_BLOCKS; i++)
                p->blocks[i].fd = fd_close(p->blocks[i].fd);
}
