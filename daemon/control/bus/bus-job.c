/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The objects below /org/sparkd/Spark1/job: org.sparkd.Spark1.Job. How they get on is looked at a few times a second while
 * there are any, and told where it has changed.
 */

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "bus-objects.h"
#include "job.h"

#define LOOK_US (250u * 1000u)

#define PROPERTIES(P)                                                           \
        P("Id", 't', "t", id, CONST)                                            \
        P("Kind", 's', "s", kind, CONST)                                        \
        P("Model", 's', "s", model, CONST)                                      \
        P("Uid", 'u', "u", uid, CONST)                                          \
        P("State", 's', "s", state, INVALIDATES)                                \
        P("Stage", 's', "s", stage, INVALIDATES)                                \
        P("Progress", 't', "t", done, INVALIDATES)                              \
        P("Total", 't', "t", total, INVALIDATES)                                \
        P("BytesPerSecond", 't', "t", bytes_per_second, INVALIDATES)            \
        P("EtaMs", 't', "t", eta_ms, INVALIDATES)

#define IN_TABLE(name, type, signature, field, how) \
        { name, type, BUS_PROPERTY_TOLD_##how, offsetof(struct bus_job_view, field) },
#define IN_VTABLE(name, type, signature, field, how) \
        SD_BUS_PROPERTY(name, signature, bus_hidden_get, 0, BUS_PROPERTY_FLAG_##how),

static const struct bus_property properties[] = { PROPERTIES(IN_TABLE) };
const struct bus_class bus_class_job = { BUS_IFACE_JOB, properties, ARRAY_SIZE(properties) };

/* One that was told of. */
struct bus_job {
        struct list link;
        const struct job *job;
        uint64_t told[ARRAY_SIZE(properties)];
};

static void path_of_job(const struct job *job, char out[64]) {
        (void)snprintf(out, 64, BUS_PATH_JOB "/%" PRIu64, job->id);
}

static struct job *job_of_path(struct bus *b, const char *path) {
        static const char prefix[] = BUS_PATH_JOB "/";
        struct list *pos, *tmp;
        char own[64];

        if (strncmp(path, prefix, strlen(prefix)) != 0)
                return NULL;
        LIST_FOREACH(pos, tmp, &b->manager->jobs.list) {
                struct job *job = LIST_ENTRY(pos, struct job, link);

                path_of_job(job, own);
                if (strcmp(path, own) == 0)
                        return job;
        }
        return NULL;
}

static void view_job(const struct job *job, struct bus_job_view *ret) {
        struct job_progress p;

        job_fill_progress(job, &p);
        *ret = (struct bus_job_view){
                .kind = (char *)job_kind_name(job),
                .state = (char *)p.state,
                .stage = (char *)p.stage,
                .model = (char *)job->model,
                .uid = job->uid,
                .id = job->id,
                .done = p.done,
                .total = p.total,
                .bytes_per_second = p.bytes_per_second,
                .eta_ms = p.eta_ms,
        };
}

bool bus_job_view(struct bus *b, const char *path, struct bus_job_view *ret) {
        const struct job *job = job_of_path(b, path);

        if (job)
                view_job(job, ret);
        return job;
}

/* ---- all of them ---- */

bool bus_jobs_has_others(struct bus *b, uid_t uid) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->manager->jobs.list)
                if (LIST_ENTRY(pos, struct job, link)->uid != uid)
                        return true;
        return false;
}

int bus_jobs_append(struct bus *b, sd_bus_message *reply, uid_t uid, bool all) {
        struct list *pos, *tmp;
        int r = 0;

        LIST_FOREACH(pos, tmp, &b->manager->jobs.list) {
                const struct job *job = LIST_ENTRY(pos, struct job, link);
                struct bus_job_view view;
                char path[64];

                if (r < 0 || (!all && job->uid != uid))
                        continue;
                path_of_job(job, path);
                view_job(job, &view);
                r = bus_object_append(reply, path, &bus_class_job, &view);
        }
        return r;
}

static int list_jobs(struct bus_call *c, sd_bus_message *reply) {
        struct list *pos, *tmp;
        int r = sd_bus_message_open_container(reply, 'a', "(tosssu)");

        LIST_FOREACH(pos, tmp, &c->peer->bus->manager->jobs.list) {
                const struct job *job = LIST_ENTRY(pos, struct job, link);
                struct job_progress p;
                char path[64];

                if (r < 0 || (job->uid != c->peer->user->uid && !bus_call_may(c, RIGHT_OBSERVE_OTHERS)))
                        continue;
                path_of_job(job, path);
                job_fill_progress(job, &p);
                r = sd_bus_message_append(reply, "(tosssu)", job->id, path, job_kind_name(job), p.state, job->model,
                                          (uint32_t)job->uid);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

void bus_operation_list_jobs(struct bus_call *c) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);

        if (r >= 0)
                r = list_jobs(c, reply);
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

/* ---- Cancel ---- */

static uint32_t cancel_requires(struct bus_call *c) {
        const struct job *job = job_of_path(c->peer->bus, sd_bus_message_get_path(c->message));

        return job && job->uid != c->peer->user->uid ? RIGHT_BIT(RIGHT_MANAGE_MODELS) : 0;
}

static void operation_cancel(struct bus_call *c) {
        struct job *job = job_of_path(c->peer->bus, sd_bus_message_get_path(c->message));

        if (!job) {
                bus_call_fail_named(c, SD_BUS_ERROR_UNKNOWN_OBJECT, "There is no such job (any more).");
                return;
        }
        job_cancel(job, c->peer->user->uid, bus_call_may(c, RIGHT_MANAGE_MODELS));
        bus_call_reply_empty(c);
}

static int on_cancel(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        static const struct bus_demand demand = { .run = operation_cancel, .adjust = cancel_requires };

        return bus_call_begin(userdata, m, &demand, error);
}

static const sd_bus_vtable job_vtable[] = {
        SD_BUS_VTABLE_START(0),
        PROPERTIES(IN_VTABLE)
        SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_cancel, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static int on_find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret_found,
                   sd_bus_error *error) {
        *ret_found = userdata;
        return job_of_path(userdata, path) != NULL;
}

/* ---- signals ---- */

static void tell_progress(struct bus *b, struct bus_job *o) {
        char *names[ARRAY_SIZE(properties) + 1], path[64];
        struct bus_job_view view;

        view_job(o->job, &view);
        path_of_job(o->job, path);
        if (bus_properties_changed(&bus_class_job, &view, o->told, names) > 0)
                bus_hidden_changed(b, path, BUS_IFACE_JOB, names);
}

static int on_look(sd_event_source *source, uint64_t usec, void *userdata) {
        struct bus *b = userdata;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->jobs)
                tell_progress(b, LIST_ENTRY(pos, struct bus_job, link));
        if (list_empty(&b->jobs))
                return 0;
        (void)sd_event_source_set_time_relative(source, LOOK_US);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static void watch_jobs(struct bus *b) {
        int enabled = SD_EVENT_OFF;

        if (!b->job_timer &&
            sd_event_add_time_relative(b->manager->event, &b->job_timer, CLOCK_MONOTONIC, LOOK_US, LOOK_US / 10, on_look, b) < 0)
                return;
        (void)sd_event_source_get_enabled(b->job_timer, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void)sd_event_source_set_time_relative(b->job_timer, LOOK_US);
        (void)sd_event_source_set_enabled(b->job_timer, SD_EVENT_ONESHOT);
}

static void add_job(struct bus *b, const struct job *job) {
        struct bus_job *o = calloc(1, sizeof(*o));
        char *names[ARRAY_SIZE(properties) + 1];
        struct bus_job_view view;

        if (!o) /* it is there, and nothing is told of it */
                return;
        o->job = job;
        view_job(job, &view);
        (void)bus_properties_changed(&bus_class_job, &view, o->told, names);
        list_append(&b->jobs, &o->link);
        watch_jobs(b);
}

static void drop_job(struct bus *b, const struct job *job) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->jobs) {
                struct bus_job *o = LIST_ENTRY(pos, struct bus_job, link);

                if (o->job != job)
                        continue;
                list_remove(pos);
                free(o);
        }
}

static void on_job(void *userdata, const struct job *job, bool removed, enum job_result result) {
        struct bus *b = userdata;
        char path[64];
        int r;

        path_of_job(job, path);
        if (!removed) {
                add_job(b, job);
                bus_hidden_added(b, path, BUS_IFACE_JOB);
                r = sd_bus_emit_signal(b->bus, BUS_PATH, BUS_IFACE_MANAGER, "JobNew", "to", job->id, path);
        } else {
                drop_job(b, job);
                r = sd_bus_emit_signal(b->bus, BUS_PATH, BUS_IFACE_MANAGER, "JobRemoved", "tos", job->id, path,
                                       job_result_name(result));
                bus_hidden_removed(b, path, BUS_IFACE_JOB);
        }
        if (r < 0)
                log_debug("a signal could not be sent: %s", strerror(-r));
}

/* ---- life ---- */

int bus_jobs_register(struct bus *b) {
        struct jobs *j = &b->manager->jobs;
        struct list *pos, *tmp;

        j->told = on_job;
        j->userdata = b;
        LIST_FOREACH(pos, tmp, &j->list)
                add_job(b, LIST_ENTRY(pos, struct job, link));
        return sd_bus_add_fallback_vtable(b->bus, NULL, BUS_PATH_JOB, BUS_IFACE_JOB, job_vtable, on_find, b);
}

void bus_jobs_deinit(struct bus *b) {
        struct list *node;

        b->manager->jobs.told = NULL;
        b->job_timer = sd_event_source_disable_unref(b->job_timer);
        while ((node = list_pop(&b->jobs)))
                free(LIST_ENTRY(node, struct bus_job, link));
}
