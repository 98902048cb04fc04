/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "clients/connection.h"
#include "event.h"
#include "keep/inherited.h"
#include "keep/keep.h"
#include "keep/unit.h"
#include "manager.h"
#include "memory/lease-keep.h"
#include "memory/lease.h"
#include "memory/pressure.h"
#include "memory/shed.h"
#include "model/engine.h"
#include "power/power.h"
#include "restore-clients.h"
#include "restore.h"
#include "session/session.h"
#include "store/store.h"

#define TICK_US 1000000u
#define CLOSE_US (5u * 1000000u)        /* last frames and engines have so long */
#define UNIT_ASK_US (2u * 1000000u)     /* for what systemd says of our unit: on a busy machine it takes its time */
#define LASTS_US (60u * 1000000u)       /* whoever runs for so long does not crash again and again */
#define FDS_RESERVED 2048u              /* descriptors for anything but connections */
#define DISK_JOBS 4096u                 /* under way at once */
#define DISK_START_US (2u * 1000000u)   /* what was stored is known when the first client comes, unless the disk is slow */
#define DISK_END_US (5u * 1000000u)     /* what is not written then is lost */

uint64_t manager_now_us(void) {
        return clock_now_us();
}

struct polkit *manager_polkit(struct manager *m) {
        return bus_polkit(m->bus);
}

void manager_kick(struct manager *m) {
        (void)sd_event_source_set_enabled(m->turn, SD_EVENT_ONESHOT);
}

bool manager_accepts(const struct manager *m) {
        return m->state == MANAGER_STARTING || m->state == MANAGER_READY;
}

bool manager_is_privileged(uid_t uid) {
        return uid == 0 || uid == geteuid();
}

void manager_watch(struct manager *m, struct manager_watcher *w) {
        list_append(&m->watchers, &w->link);
}

void manager_model_changed(struct manager *m, struct model *model, bool removed) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->watchers) {
                struct manager_watcher *w = LIST_ENTRY(pos, struct manager_watcher, link);

                w->model_changed(w->userdata, model, removed);
        }
}

void manager_memory_changed(struct manager *m) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->watchers) {
                struct manager_watcher *w = LIST_ENTRY(pos, struct manager_watcher, link);

                if (w->memory_changed)
                        w->memory_changed(w->userdata);
        }
}

/* ---- stopping ---- */

static void close_all(struct manager *m) {
        struct list *pos, *tmp;

        keep_forget(m->keep);
        m->state = MANAGER_CLOSING;
        m->stop_us = manager_now_us();
        for (size_t i = 0; i < m->requests.n_slots; i++)
                if (m->requests.slots[i])
                        request_fail_with(m->requests.slots[i], SPARK__V1__ERROR_CODE__STOPPING,
                                          "The daemon is shutting down.");
        LIST_FOREACH(pos, tmp, &m->connections)
                connection_fail(LIST_ENTRY(pos, struct connection, link), SPARK__V1__ERROR_CODE__STOPPING,
                                "The daemon is shutting down.");
        (void)models_stop(m);
}

static size_t attached_requests(const struct manager *m) {
        size_t n = 0;

        for (size_t i = 0; i < m->requests.n_slots; i++)
                n += m->requests.slots[i] && m->requests.slots[i]->sink && m->requests.slots[i]->kind != REQUEST_LEASE;
        return n;
}

static void check_stop(struct manager *m) {
        uint64_t now_us = manager_now_us();

        if (m->state == MANAGER_STOPPING &&
            ((attached_requests(m) == 0 && !bus_is_busy(m->bus)) ||
             now_us >= m->stop_us + m->config->limits.stop_seconds * 1000000u))
                close_all(m);
        if (m->state != MANAGER_CLOSING)
                return;
        if ((list_empty(&m->connections) && !bus_is_busy(m->bus) && models_stop(m) && disk_pending(m->disk) == 0) ||
            now_us > m->stop_us + CLOSE_US)
                (void)sd_event_exit(m->event, 0);
}

/* Where that can't be found out it is taken for a restart: a stop only loses its time to finish then. */
static bool is_restart(struct manager *m) {
        int r;

        if (!keep_is_on(m->keep) || !manager_accepts(m))
                return false;
        r = unit_ask_restarts(UNIT_ASK_US);
        if (r < 0)
                log_notice("whether this is a restart is not known: %s", strerror(-r));
        return r != 0;
}

void manager_stop(struct manager *m) {
        if (!manager_accepts(m)) { /* asked twice: at once */
                if (m->state == MANAGER_STOPPING)
                        close_all(m);
                return;
        }
        log_info("stopping");
        notify_stopping(m);
        m->state = MANAGER_STOPPING;
        m->stop_us = manager_now_us();
        requests_end_questions(m); /* nobody is to type a password for a service that goes */
        manager_listen_end(m);
        manager_kick(m);
}

/* Another process follows at once and goes on: nobody is told anything, nothing is waited for. */
static void hand_over(struct manager *m) {
        if (!clients_hand_on(m)) {
                manager_stop(m);
                return;
        }
        keep_lasts(m->keep);
        log_info("ending for a restart; what is loaded and what runs stays");
        (void)sd_event_exit(m->event, 0);
}

/* ---- the turn ---- */

static void list_move(struct list *from, struct list *to) {
        struct list *node;

        while ((node = list_pop(from)))
                list_append(to, node);
}

static int on_turn(sd_event_source *source, void *userdata) {
        struct manager *m = userdata;
        struct list now, *node;

        list_init(&now);
        sessions_turn(m->sessions);
        store_turn(m->store);
        shed_turn(m);
        jobs_turn(&m->jobs);
        leases_turn(m->leases);
        residency_turn(m);
        power_turn(m->power);
        models_pump(m);
        keep_commit(m->keep);
        list_move(&m->dirty_engines, &now);
        while ((node = list_pop(&now)))
                engine_flush(LIST_ENTRY(node, struct engine, dirty_link));
        list_move(&m->dirty_connections, &now);
        while ((node = list_pop(&now)))
                connection_turn(LIST_ENTRY(node, struct connection, dirty_link));
        bus_turn(m->bus);
        clients_commit(m);
        keep_turn(m->keep);
        restore_keeping(m, manager_now_us());
        if (!manager_accepts(m))
                check_stop(m);
        return 0;
}

/* Started, in the service manager's eyes: the default model serves, or it is known that it won't. */
static void check_ready(struct manager *m) {
        struct list *pos, *tmp;

        if (m->state != MANAGER_STARTING)
                return;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->load_wanted && model->state != MODEL_READY && !model->holds)
                        return;
        }
        m->state = MANAGER_READY;
        keep_ready(m->keep);
        notify_ready(m);
        manager_kick(m);
        event_log(EVENT_READY, NULL, "READY");
}

static void on_model_changed(void *userdata, struct model *model, bool removed) {
        check_ready(userdata);
}

static int on_tick(sd_event_source *source, uint64_t usec, void *userdata) {
        struct manager *m = userdata;
        uint64_t now_us = manager_now_us();
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->connections)
                connection_tick(LIST_ENTRY(pos, struct connection, link), now_us);
        models_tick(m, now_us);
        residency_tick(m, now_us);
        leases_tick(m->leases);
        pressure_tick(m->pressure, now_us);
        shed_tick(m, now_us);
        users_tick(&m->users);
        rate_tick(&m->requests.ended);
        usage_tick(m->usage, now_us, usage_day_now());
        sessions_tick(m->sessions, now_us);
        store_tick(m->store, now_us);
        power_tick(m->power, now_us);
        if (now_us - m->started_us > LASTS_US)
                keep_lasts(m->keep);
        if (keep_is_due(m->keep, now_us))
                manager_kick(m); /* at the end of a turn everything stands as it is to be kept */
        check_ready(m);
        bus_tick(m->bus, now_us);
        notify_update(m, now_us);
        if (!manager_accepts(m))
                check_stop(m);
        (void)sd_event_source_set_time_relative(source, pace_next_us(m));
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* ---- configuration ---- */

/* Every connection takes a socket and a pidfd. */
static void raise_fd_limit(const struct config *config) {
        struct rlimit limit;
        uint64_t need = 2 * config->limits.connections + FDS_RESERVED;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        if (limit.rlim_cur < need) {
                limit.rlim_cur = MIN((uint64_t)limit.rlim_max, need);
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
        if (limit.rlim_cur < need)
                log_warning("%llu connections need %llu descriptors, %llu are allowed",
                            (unsigned long long)config->limits.connections, (unsigned long long)need,
                            (unsigned long long)limit.rlim_cur);
}

static void apply_limits(struct manager *m) {
        log_set_level((enum log_level)m->config->log_level); /* engines take it with their next start */
        m->users.limits[USER_SESSIONS] = m->config->limits.sessions_per_user;
        m->users.limits[USER_DISK] = m->config->limits.session_bytes_per_user;
        memory_set_floor(&m->memory, m->config->memory_floor);
        users_configure(&m->users, m->config);
        raise_fd_limit(m->config);
}

static void warn_unchangeable(const struct config *old, const struct config *new) {
        if (strcmp(old->socket, new->socket) != 0 || strcmp(old->backend, new->backend) != 0 || old->bus != new->bus ||
            strcmp(old->state_dir, new->state_dir) != 0 || old->store.enabled != new->store.enabled)
                log_warning("socket, state_dir, bus, backend and store.enabled change with a restart only");
}

/* What cannot change while we run stays as it was. */
static void keep_unchangeable(struct config *old, struct config *new) {
        char *t;

        t = old->socket, old->socket = new->socket, new->socket = t;
        t = old->backend, old->backend = new->backend, new->backend = t;
        t = old->state_dir, old->state_dir = new->state_dir, new->state_dir = t;
        new->bus = old->bus;
        new->store.enabled = old->store.enabled;
}

int manager_reload(struct manager *m, struct request_error *refused) {
        const char *file = m->config_file ? m->config_file : CONFIG_DEFAULT_FILE;
        struct config_error error;
        struct config *config;
        int r;

        notify_reloading(m);
        r = config_load(&config, file, &error);
        if (r) {
                request_error_set(refused, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "the configuration stays as it was: %s",
                                  r < 0 ? strerror(-r) : error.text);
                event_log(EVENT_RELOAD_REFUSED, NULL, "%s", refused->text);
        } else {
                warn_unchangeable(m->config, config);
                keep_unchangeable(m->config, config);
                (void)config_free(m->config);
                m->config = config;
                apply_limits(m);
                power_configure(m->power);
                if (models_configure(m) < 0)
                        log_error("out of memory while taking over the models");
                event_log(EVENT_RELOADED, NULL, "configuration reloaded");
        }
        if (m->notify.ready)
                notify_ready(m);
        return r ? REQUEST_E_REFUSED : 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        struct request_error unused;
        struct manager *m = userdata;

        if (si->ssi_signo == SIGHUP)
                (void)manager_reload(m, &unused);
        else if (si->ssi_signo == SIGTERM && is_restart(m))
                hand_over(m);
        else
                manager_stop(m);
        return 0;
}

/* ---- life ---- */

static int add_signals(struct manager *m) {
        static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
        sigset_t set;
        int r;

        (void)signal(SIGPIPE, SIG_IGN);
        (void)signal(SIGXFSZ, SIG_IGN); /* a limit is an error of the call that meets it */
        (void)sigemptyset(&set);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                (void)sigaddset(&set, signals[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
                r = sd_event_add_signal(m->event, &m->signal_sources[i], signals[i], on_signal, m);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int add_sources(struct manager *m) {
        int r;

        r = sd_event_add_defer(m->event, &m->turn, on_turn, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->turn, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &m->tick, CLOCK_MONOTONIC, PACE_US, PACE_US / 4, on_tick, m);
        if (r >= 0)
                r = add_signals(m);
        return r;
}

/* Under systemd it is there (StateDirectory=). Where there is not even a place for it, what is kept on disk says so. */
static void make_state_dir(const struct manager *m) {
        const char *path = m->config->state_dir;

        if (mkdir(path, 0700) == 0)
                log_info("made the folder %s for sessions, usage and the model store", path);
        else if (errno != EEXIST)
                log_warning("there is no folder %s for sessions, usage and the model store (state_dir), and it can't be made: %s", path,
                            strerror(errno));
}

static int manager_set_up(struct manager *m) {
        int r;

        make_state_dir(m);
        r = restore_begin(m);
        if (r < 0)
                return r;
        r = memory_init(&m->memory, m->config->memory_floor);
        if (r < 0)
                return r;
        apply_limits(m);
        r = sd_event_new(&m->event);
        if (r >= 0)
                r = add_sources(m);
        if (r >= 0)
                r = disk_new(&m->disk, m->event, DISK_JOBS);
        if (r >= 0)
                r = usage_new(&m->usage, m->disk, m->config->state_dir, usage_day_now());
        if (r >= 0)
                r = sessions_new(&m->sessions, m);
        if (r >= 0)
                r = shed_table_new(&m->shed, m);
        if (r >= 0)
                r = pressure_new(&m->pressure, m);
        if (r >= 0)
                r = leases_new(&m->leases, m, &lease_source_shed);
        if (r >= 0)
                r = lease_keeper_new(&m->lease_keeper, m);
        if (r >= 0)
                r = power_new(&m->power, m);
        if (r >= 0)
                r = models_configure(m);
        if (r >= 0)
                r = store_new(&m->store, m);
        return r;
}

static struct manager_watcher *manager_add_own_watcher(struct manager *m) {
        struct manager_watcher *w = calloc(1, sizeof(*w));

        if (!w)
                return NULL;
        w->model_changed = on_model_changed;
        w->userdata = m;
        manager_watch(m, w);
        return w;
}

int manager_new(struct manager **ret, struct config *config, const char *config_file) {
        _cleanup_(manager_freep) struct manager *m = calloc(1, sizeof(*m));
        int r;

        if (!m) {
                (void)config_free(config);
                return -ENOMEM;
        }
        m->config = config;
        m->config_file = config_file;
        m->started_us = manager_now_us();
        m->listener = LISTENER_NULL;
        m->memory.meminfo_fd = m->memory.psi_fd = -1;
        users_init(&m->users);
        requests_init(&m->requests);
        notify_init(&m->notify);
        list_init(&m->models.list);
        list_init(&m->models.kicked);
        list_init(&m->connections);
        list_init(&m->dirty_connections);
        list_init(&m->dirty_engines);
        list_init(&m->watchers);
        r = jobs_init(&m->jobs, m);
        if (r >= 0)
                r = manager_set_up(m);
        if (r < 0) {
                log_error("setting up: %s", strerror(-r));
                return r;
        }
        m->own_watcher = manager_add_own_watcher(m);
        if (!m->own_watcher)
                return -ENOMEM;
        (void)disk_drain(m->disk, DISK_START_US);
        r = restore_all(m);
        if (r >= 0)
                r = manager_listen(m);
        if (r >= 0)
                r = bus_new(&m->bus, m);
        if (r >= 0)
                r = restore_end(m);
        if (r < 0)
                return r;
        *ret = steal_ptr(&m);
        return 0;
}

struct manager *manager_free(struct manager *m) {
        struct list *pos, *tmp;

        if (!m)
                return NULL;
        if (manager_accepts(m)) { /* this is no stop: what ends from here on stays for the next process */
                m->handed_on = true;
                m->keep = keep_free(m->keep);
        }
        m->state = MANAGER_CLOSING;
        m->bus = bus_free(m->bus);
        LIST_FOREACH(pos, tmp, &m->connections)
                (void)connection_free(LIST_ENTRY(pos, struct connection, link));
        m->lease_keeper = lease_keeper_free(m->lease_keeper);
        m->leases = leases_free(m->leases);
        models_deinit(m);
        m->pressure = pressure_free(m->pressure);
        m->power = power_free(m->power);
        if (m->usage)
                usage_end(m->usage);
        m->disk = disk_free(m->disk, DISK_END_US);
        m->usage = usage_free(m->usage);
        m->sessions = sessions_free(m->sessions);
        m->store = store_free(m->store);
        m->shed = shed_table_free(m->shed);
        requests_deinit(&m->requests);
        manager_listen_end(m);
        jobs_deinit(&m->jobs);
        for (size_t i = 0; i < ARRAY_SIZE(m->signal_sources); i++)
                m->signal_sources[i] = sd_event_source_disable_unref(m->signal_sources[i]);
        m->turn = sd_event_source_disable_unref(m->turn);
        m->tick = sd_event_source_disable_unref(m->tick);
        m->event = sd_event_unref(m->event);
        memory_deinit(&m->memory);
        m->keep = keep_free(m->keep);
        m->inherited = inherited_free(m->inherited);
        clients_deinit(m);
        (void)config_free(m->config);
        free(m->own_watcher);
        free(m);
        return NULL;
}

int manager_run(struct manager *m) {
        int r;

        check_ready(m); /* there may be nothing to wait for */
        manager_kick(m);
        r = sd_event_loop(m->event);
        return r < 0 ? r : 0;
}
