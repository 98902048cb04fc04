/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "event.h"
#include "keep/keep-clients.h"
#include "lease.h"
#include "manager.h"
#include "model/load.h"
#include "users/user.h"

struct leases {
        struct manager *manager;
        const struct lease_source *source;
        struct manager_watcher models;
        struct list list;
        struct list watchers;
        uint64_t last_id;
        bool news; /* one of them has some */
};

static void on_model_changed(void *userdata, struct model *model, bool removed);

/* ---- the table ---- */

const struct lease_source lease_source_shed = { .begin = shed_new, .end = shed_free };

int leases_new(struct leases **ret, struct manager *m, const struct lease_source *source) {
        struct leases *t = calloc(1, sizeof(*t));

        if (!t)
                return -ENOMEM;
        t->manager = m;
        t->source = source;
        list_init(&t->list);
        list_init(&t->watchers);
        t->models = (struct manager_watcher){ .model_changed = on_model_changed, .userdata = t };
        list_init(&t->models.link);
        manager_watch(m, &t->models);
        *ret = t;
        return 0;
}

struct leases *leases_free(struct leases *t) {
        struct list *pos, *tmp;

        if (!t)
                return NULL;
        LIST_FOREACH(pos, tmp, &t->list)
                (void)lease_free(LIST_ENTRY(pos, struct lease, link));
        list_remove(&t->models.link);
        free(t);
        return NULL;
}

void leases_watch(struct leases *t, struct lease_watcher *w) {
        list_append(&t->watchers, &w->link);
}

struct list *leases_list(struct leases *t) {
        return &t->list;
}

static void tell_watchers(struct lease *lease, bool removed) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &lease->table->watchers) {
                struct lease_watcher *w = LIST_ENTRY(pos, struct lease_watcher, link);

                w->changed(w->userdata, lease, removed);
        }
}

uint64_t leases_last_id(const struct leases *t) {
        return t->last_id;
}

void leases_skip_ids(struct leases *t, uint64_t last) {
        t->last_id = MAX(t->last_id, last);
}

uint64_t leases_bytes(const struct leases *t) {
        struct list *pos, *tmp;
        uint64_t sum = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&t->list)
                sum += LIST_ENTRY(pos, struct lease, link)->bytes; /* of at most 2^50 each */
        return sum;
}

size_t leases_at_rest(const struct leases *t) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&t->list) {
                const struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                n += lease->fd < 0 && lease->granted;
        }
        return n;
}

/* ---- names ---- */

const char *lease_kind_name(const struct lease *lease) {
        return lease->kind == LEASE_MEMORY ? "memory" : "warm";
}

const char *lease_state_name(const struct lease *lease) {
        if (lease->kind == LEASE_MEMORY)
                return lease->granted ? "granted" : "yield";
        return lease->granted ? "warm" : "load";
}

const char *lease_policy_name(const struct lease *lease) {
        if (lease->kind != LEASE_MEMORY)
                return "";
        return lease->policy == LEASE_BUSY ? "busy" : "wait";
}

void lease_show(const struct lease *lease, uid_t viewer, bool all, Spark__V1__LeaseInfo *ret) {
        *ret = (Spark__V1__LeaseInfo)SPARK__V1__LEASE_INFO__INIT;
        ret->id = lease->id;
        ret->kind = (char *)lease_kind_name(lease);
        ret->state = (char *)lease_state_name(lease);
        ret->bytes = lease->bytes;
        ret->given_bytes = lease->given;
        ret->model = lease->model ? lease->model->name : (char *)"";
        ret->age_s = (float)((double)(manager_now_us() - lease->since_us) / 1e6);
        ret->policy = (char *)lease_policy_name(lease);
        ret->own = lease->user->uid == viewer;
        if (!ret->own && !all)
                return;
        ret->uid = lease->user->uid;
        ret->pid = (uint32_t)lease->pid;
        ret->unit = (char *)lease->unit;
        ret->who = (char *)lease->who;
        ret->why = (char *)lease->why;
}

/* ---- what may be asked for ---- */

static int refuse(struct request_error *e, Spark__V1__ErrorCode code, const char *text) {
        request_error_set(e, code, "%s", text);
        return REQUEST_E_REFUSED;
}

static bool is_plain(const char *text) {
        for (const unsigned char *p = (const unsigned char *)text; p && *p; p++)
                if (*p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0)) /* U+0080 to U+009F are, too */
                        return false;
        return true;
}

static int check_text(const char *name, const char *text, size_t max, struct request_error *error) {
        if (text && strlen(text) > max)
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "%s has more than %zu bytes.", name, max);
        else if (!is_plain(text))
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "%s contains a control character.", name);
        else
                return 0;
        return REQUEST_E_REFUSED;
}

static bool may(uint64_t who, const struct lease_ask *ask) {
        return who == CONFIG_WHO_ALL ||
               (who == CONFIG_WHO_PRIVILEGED && (ask->authorised || manager_is_privileged(ask->user->uid)));
}

static int check_ask(const struct leases *t, const struct lease_ask *ask, struct request_error *error) {
        const struct config *c = t->manager->config;
        bool memory = ask->kind == LEASE_MEMORY;
        char machine[WORDS_BYTES];
        int r;

        if (!may(memory ? c->leases.who : c->residency.holds, ask))
                return refuse(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                              memory ? "Your user may not make the service give memory back (memory.leases)."
                                     : "Your user may not hold models resident (residency.holds).");
        r = check_text("who", ask->who, LEASE_WHO_MAX, error);
        if (!r)
                r = check_text("why", ask->why, LEASE_WHY_MAX, error);
        if (r || !memory)
                return r;
        if (ask->bytes == 0 || ask->bytes > LEASE_BYTES_MAX)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes: it must be 1 to 2^50.");
        if (ask->bytes > t->manager->memory.total) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes: the machine has %s.",
                                  words_bytes(t->manager->memory.total, machine));
                return REQUEST_E_REFUSED;
        }
        return 0;
}

static int check_quota(const struct leases *t, const struct user *user, uint64_t bytes, struct request_error *error) {
        const struct config_leases *c = &t->manager->config->leases;
        bool privileged = manager_is_privileged(user->uid);
        char most[WORDS_BYTES], has[WORDS_BYTES];

        if (user->charged[USER_LEASES] >= c->per_user && !privileged) {
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "Your user has %" PRIu64 " lease%s, which is all it may have at once (memory.leases_per_user).",
                                  user->charged[USER_LEASES], words_s(user->charged[USER_LEASES]));
                return REQUEST_E_REFUSED;
        }
        if (c->bytes_per_user && !privileged && bytes > c->bytes_per_user - MIN(c->bytes_per_user, user->charged[USER_LEASED])) {
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "bytes: your user may reserve %s at once (memory.lease_bytes_per_user) and has reserved %s.",
                                  words_bytes(c->bytes_per_user, most), words_bytes(user->charged[USER_LEASED], has));
                return REQUEST_E_REFUSED;
        }
        return 0;
}

/* ---- news ---- */

static void note(struct lease *lease) {
        lease->has_news = true;
        lease->table->news = true;
        manager_kick(lease->table->manager);
}

/* From shed.c, in the loop. */
static void on_shed(void *userdata, uint64_t freed, enum shed_step step, bool done) {
        struct lease *lease = userdata;

        lease->given = MAX(lease->given, freed);
        lease->shed_done = lease->shed_done || done;
        note(lease);
}

static void progress(struct lease *lease, const char *stage, uint64_t done, uint64_t total) {
        if (lease->holder && lease->holder->progress)
                lease->holder->progress(lease->userdata, lease, stage, done, total);
}

static void tell_memory(struct lease *lease) {
        char asked[WORDS_BYTES], given[WORDS_BYTES];

        if (lease->granted)
                return;
        if (!lease->shed_done) {
                progress(lease, "yield", lease->given, lease->wanted);
                return;
        }
        lease->granted = true;
        if (!lease->granted_kept)
                event_log(EVENT_LEASE_GRANTED, NULL,
                          "lease %" PRIu64 ": '%s' (uid %u, pid %d) has asked for %s of memory, %s were given back",
                          lease->id, lease->who, (unsigned)lease->user->uid, (int)lease->pid,
                          words_bytes(lease->bytes, asked), words_bytes(lease->given, given));
        progress(lease, "granted", lease->given, lease->wanted);
}

static void tell_warm(struct lease *lease) {
        const struct model *model = lease->model;
        bool ready = model->state == MODEL_READY, before = lease->granted;

        lease->granted = ready;
        if (ready && !before)
                progress(lease, "warm", model->image_bytes, model->image_bytes);
        else if (!ready && model->load)
                progress(lease, model->load->stage, model->load->stage_done, model->load->stage_total);
}

/* The holder lets go of it within this, or it is the table's. */
static void end(struct lease *lease, const struct request_error *error) {
        bool own = lease->fd >= 0;

        if (lease->holder && lease->holder->ended)
                lease->holder->ended(lease->userdata, lease, error);
        if (own)
                (void)lease_free(lease);
}

void leases_turn(struct leases *t) {
        struct list *pos, *tmp;

        if (!t->news)
                return;
        t->news = false;
        LIST_FOREACH(pos, tmp, &t->list) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);
                const struct request_error error = lease->error;

                if (!lease->has_news)
                        continue;
                lease->has_news = false;
                if (lease->failed) {
                        end(lease, &error);
                        continue;
                }
                (lease->kind == LEASE_MEMORY ? tell_memory : tell_warm)(lease);
                tell_watchers(lease, false);
        }
}

void leases_tick(struct leases *t) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->list) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->kind == LEASE_WARM && (!lease->granted || lease->model->state != MODEL_READY))
                        note(lease);
        }
}

static void on_model_changed(void *userdata, struct model *model, bool removed) {
        struct leases *t = userdata;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->list) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->model == model)
                        note(lease);
        }
}

void leases_model_failed(struct leases *t, const struct model *model, const struct request_error *error) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->list) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->model != model)
                        continue;
                lease->failed = true;
                lease->error = *error;
                note(lease);
        }
}

bool leases_refuse(const struct leases *t, const struct model *model, struct request_error *error) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&t->list) {
                const struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->kind != LEASE_MEMORY || lease->policy != LEASE_BUSY)
                        continue;
                request_error_set(error, SPARK__V1__ERROR_CODE__BUSY,
                                  "Model '%s' is unloaded for a while: another program has asked for its memory "
                                  "(`sparkctl leases`).",
                                  model->name);
                error->retry_after_ms = (uint32_t)(t->manager->config->leases.retry_seconds * 1000u);
                return true;
        }
        return false;
}

/* ---- life ---- */

static uint64_t real_us(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* Of what is asked for, what the machine does not have above the floor. What was given to others is theirs. */
static uint64_t missing_of(struct manager *m, uint64_t bytes) {
        models_count_memory(m);
        return bytes - MIN(bytes, memory_free_for_us(&m->memory));
}

static int begin_shed(struct lease *lease) {
        const struct shed_want want = { .bytes = lease->wanted, .limit = SHED_WEIGHTS, .exact = true, .told = on_shed,
                                        .userdata = lease };

        if (want.bytes == 0) { /* there is enough */
                lease->shed_done = true;
                return 0;
        }
        return lease->table->source->begin(&lease->shed, lease->table->manager, &want);
}

static int begin_memory(struct lease *lease, const struct lease_ask *ask) {
        lease->policy = ask->policy;
        if (lease->policy == LEASE_AS_CONFIGURED)
                lease->policy = lease->table->manager->config->leases.policy == CONFIG_LEASE_BUSY ? LEASE_BUSY : LEASE_WAIT;
        lease->wanted = ask->missing_only ? missing_of(lease->table->manager, ask->bytes) : ask->bytes;
        return begin_shed(lease);
}

static int begin_warm(struct lease *lease, const char *name, struct request_error *error) {
        struct model *model = models_find(lease->table->manager, name ? name : "", error);

        if (!model)
                return REQUEST_E_REFUSED;
        lease->model = model;
        residency_hold(model);
        return 0;
}

static void charge_found(struct lease *lease) {
        user_charge_found(lease->user, USER_LEASES, 1);
        user_charge_found(lease->user, USER_LEASED, lease->bytes);
}

/* One without an id, a user and anything else. NULL without memory. */
static struct lease *lease_alloc(struct leases *t, enum lease_kind kind) {
        struct lease *lease = calloc(1, sizeof(*lease));

        if (!lease)
                return NULL;
        lease->table = t;
        lease->kind = kind;
        lease->fd = -1;
        lease->since_us = manager_now_us();
        lease->since_real_us = real_us();
        list_init(&lease->link);
        return lease;
}

/* From here on it is one of the table's. */
static void enter(struct lease *lease, uint64_t id, const struct lease_holder *holder, void *userdata) {
        lease->id = id;
        lease->table->last_id = MAX(lease->table->last_id, id);
        lease->holder = holder;
        lease->userdata = userdata;
        list_append(&lease->table->list, &lease->link);
        note(lease);
}

static void copy(char *out, size_t size, const char *text) {
        (void)snprintf(out, size, "%s", text ? text : "");
}

int lease_new(struct leases *t, const struct lease_ask *ask, const struct lease_holder *holder, void *userdata,
              struct lease **ret, struct request_error *error) {
        _cleanup_(lease_freep) struct lease *lease = NULL;
        int r;

        r = check_ask(t, ask, error);
        if (r)
                return r;
        lease = lease_alloc(t, ask->kind);
        if (!lease)
                return -ENOMEM;
        lease->pid = ask->pid;
        lease->request = ask->request;
        lease->bytes = ask->kind == LEASE_MEMORY ? ask->bytes : 0;
        copy(lease->unit, sizeof(lease->unit), ask->unit);
        copy(lease->who, sizeof(lease->who), ask->who);
        copy(lease->why, sizeof(lease->why), ask->why);
        r = check_quota(t, ask->user, lease->bytes, error);
        if (r)
                return r;
        lease->user = user_ref(ask->user);
        charge_found(lease);
        r = ask->kind == LEASE_MEMORY ? begin_memory(lease, ask) : begin_warm(lease, ask->model, error);
        if (r)
                return r;
        enter(lease, t->last_id + 1, holder, userdata);
        *ret = steal_ptr(&lease);
        return 0;
}

static int on_hang_up(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        end(userdata, NULL);
        return 0;
}

/* A hang-up is told whatever one listens for. */
static int watch_fd(struct lease *lease) {
        return sd_event_add_io(lease->table->manager->event, &lease->source, lease->fd, 0, on_hang_up, lease);
}

int lease_new_fd(struct leases *t, const struct lease_ask *ask, const struct lease_holder *holder, void *userdata, int *ret_fd,
                 struct lease **ret, struct request_error *error) {
        _cleanup_(lease_freep) struct lease *lease = NULL;
        _cleanup_fd_ int far = -1;
        int pair[2], r;

        r = lease_new(t, ask, holder, userdata, &lease, error);
        if (r)
                return r;
        if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        lease->fd = pair[0];
        far = pair[1];
        r = watch_fd(lease);
        if (r < 0)
                return r;
        *ret_fd = fd_steal(&far);
        if (ret)
                *ret = lease;
        (void)steal_ptr(&lease);
        return 0;
}

struct lease *lease_free(struct lease *lease) {
        if (!lease)
                return NULL;
        if (lease->id) {
                list_remove(&lease->link);
                tell_watchers(lease, true);
                if (lease->kind == LEASE_MEMORY && !clients_are_handed_on(lease->table->manager, lease->kept))
                        event_log(EVENT_LEASE_ENDED, NULL, "lease %" PRIu64 ": the memory of '%s' (uid %u) may be used again",
                                  lease->id, lease->who, (unsigned)lease->user->uid);
        }
        lease->source = sd_event_source_disable_unref(lease->source);
        lease->fd = fd_close(lease->fd);
        if (lease->shed)
                lease->shed = lease->table->source->end(lease->shed);
        if (lease->model)
                residency_release(lease->model);
        if (lease->user) {
                user_release(lease->user, USER_LEASES, 1);
                user_release(lease->user, USER_LEASED, lease->bytes);
                lease->user = user_unref(lease->user);
        }
        free(lease);
        return NULL;
}

/* ---- over a restart ---- */

void lease_record(const struct lease *lease, Spark__State__V1__Lease *ret) {
        *ret = (Spark__State__V1__Lease)SPARK__STATE__V1__LEASE__INIT;
        ret->id = lease->id;
        ret->kind = (char *)lease_kind_name(lease);
        ret->uid = lease->user->uid;
        ret->pid = (uint32_t)lease->pid;
        ret->unit = (char *)lease->unit;
        ret->who = (char *)lease->who;
        ret->why = (char *)lease->why;
        ret->bytes = lease->bytes;
        ret->model = lease->model ? lease->model->name : (char *)"";
        ret->since_us = lease->since_real_us;
        ret->policy = (char *)lease_policy_name(lease);
        ret->wanted = lease->wanted;
        ret->request = lease->request;
        ret->granted = lease->granted || lease->granted_kept;
}

int lease_restore(struct leases *t, const Spark__State__V1__Lease *record, int fd, const struct lease_holder *holder,
                  void *userdata, struct lease **ret, struct request_error *error) {
        _cleanup_(lease_freep) struct lease *lease =
                lease_alloc(t, strcmp(record->kind, "warm") == 0 ? LEASE_WARM : LEASE_MEMORY);
        int r;

        if (!lease) {
                (void)fd_close(fd);
                return -ENOMEM;
        }
        lease->fd = fd;
        lease->pid = (pid_t)record->pid;
        lease->request = record->request;
        lease->bytes = record->bytes;
        lease->wanted = record->wanted;
        lease->policy = strcmp(record->policy, "busy") == 0 ? LEASE_BUSY : LEASE_WAIT;
        if (lease->since_real_us > record->since_us) /* as old as it was */
                lease->since_us -= MIN(lease->since_us, lease->since_real_us - record->since_us);
        lease->since_real_us = record->since_us;
        copy(lease->unit, sizeof(lease->unit), record->unit);
        copy(lease->who, sizeof(lease->who), record->who);
        copy(lease->why, sizeof(lease->why), record->why);
        lease->user = users_get(&t->manager->users, record->uid);
        if (!lease->user)
                return -ENOMEM;
        charge_found(lease);
        r = lease->kind == LEASE_MEMORY ? begin_shed(lease) : begin_warm(lease, record->model, error);
        if (r == 0 && fd >= 0)
                r = watch_fd(lease);
        if (r)
                return r;
        lease->kept = true;
        lease->granted_kept = record->granted;
        enter(lease, record->id, holder, userdata);
        *ret = steal_ptr(&lease);
        return 0;
}
