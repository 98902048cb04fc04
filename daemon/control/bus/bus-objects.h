/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Objects of the bus beside the manager and the models: sessions, jobs. What of them is shown is a "view" each, filled when
 * somebody asks.
 */

#include "bus-internal.h"

/* ---- bus-hidden.c: objects that are their user's ---- */
int bus_hidden_register(struct bus *b);
/* oa{sa{sv}} of one object, as GetManagedObjects has it. */
int bus_object_append(sd_bus_message *m, const char *path, const struct bus_class *class, const void *view);
/* The getter of their vtables, which is never asked. */
int bus_hidden_get(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                   void *userdata, sd_bus_error *error);
/* Signals that say no more than that there is such an object, or is no more, or has changed: everybody hears them. */
void bus_hidden_added(struct bus *b, const char *path, const char *interface);
void bus_hidden_removed(struct bus *b, const char *path, const char *interface);
void bus_hidden_changed(struct bus *b, const char *path, const char *interface, char **names);

/* ---- bus-session.c ---- */
struct bus_session_view {
        char *id, *kind, *model, *name, *state;
        uint32_t uid;
        uint64_t tokens, idle_us, stored_bytes;
        protobuf_c_boolean persistent;
};
extern const struct bus_class bus_class_session;
int bus_sessions_register(struct bus *b);
/* False where there is none. Strings live until the next turn. */
bool bus_session_view(struct bus *b, const char *path, struct bus_session_view *ret);
int bus_sessions_append(struct bus *b, sd_bus_message *reply, uid_t uid, bool all);
bool bus_sessions_has_others(struct bus *b, uid_t uid);
void bus_operation_open_session(struct bus_call *c);
void bus_sessions_deinit(struct bus *b);

/* ---- bus-job.c ---- */
struct bus_job_view {
        char *kind, *state, *stage, *model;
        uint32_t uid;
        uint64_t id, done, total, bytes_per_second, eta_ms;
};
extern const struct bus_class bus_class_job;
int bus_jobs_register(struct bus *b);
bool bus_job_view(struct bus *b, const char *path, struct bus_job_view *ret);
int bus_jobs_append(struct bus *b, sd_bus_message *reply, uid_t uid, bool all);
bool bus_jobs_has_others(struct bus *b, uid_t uid);
void bus_operation_list_jobs(struct bus_call *c);
void bus_jobs_deinit(struct bus *b);

/* ---- bus-machine.c: memory and power ---- */
int bus_machine_new(struct bus *b);
struct bus_machine *bus_machine_free(struct bus_machine *m);
int bus_machine_register(struct bus *b);
void bus_machine_turn(struct bus *b);
void bus_machine_tick(struct bus *b);
int bus_machine_append(struct bus *b, sd_bus_message *reply);

/* ---- bus-lease.c ---- */
uint32_t bus_reserve_requires(struct bus_call *c);
uint32_t bus_hold_requires(struct bus_call *c);
uint32_t bus_leases_require(struct bus_call *c);
void bus_operation_reserve_memory(struct bus_call *c);
void bus_operation_hold_warm(struct bus_call *c);
void bus_operation_list_leases(struct bus_call *c);
/* For a call that waits for its lease. May free it. */
void bus_lease_turn(struct bus_call *c);
void bus_leases_init(struct bus *b);
void bus_leases_deinit(struct bus *b);
