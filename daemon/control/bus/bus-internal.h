/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of the bus share. bus.c: the connection to it; bus-peer.c: callers and their calls; bus-call.c: calls
 * that are answered by a request's end; bus-pipe.c: Generate; bus-store.c: the model store; bus-manager.c, bus-model.c, bus-session.c: the objects.
 *
 * A call whose caller matters waits until the bus has said who that is, then its operation runs, which answers it at
 * once (bus_call_reply(), bus_call_fail(): the call is gone) or leaves a request running that will. A caller that
 * leaves the bus takes its calls with it. Pipes and sessions were handed over and outlive both caller and bus.
 */

#include <systemd/sd-bus.h>

#include "base/list.h"
#include "bus-options.h"
#include "bus-property.h"
#include "bus-text.h"
#include "bus.h"
#include "manager.h"
#include "memory/lease.h"
#include "peer.h"
#include "request/request.h"
#include "rights/authorize.h"

#define BUS_NAME "org.sparkd.Spark1"
#define BUS_PATH "/org/sparkd/Spark1"
#define BUS_PATH_MODEL BUS_PATH "/model"
#define BUS_PATH_SESSION BUS_PATH "/session"
#define BUS_PATH_JOB BUS_PATH "/job"
#define BUS_PATH_MEMORY BUS_PATH "/memory"
#define BUS_PATH_POWER BUS_PATH "/power"
#define BUS_IFACE_MANAGER BUS_NAME ".Manager"
#define BUS_IFACE_MODEL BUS_NAME ".Model"
#define BUS_IFACE_SESSION BUS_NAME ".Session"
#define BUS_IFACE_JOB BUS_NAME ".Job"
#define BUS_IFACE_MEMORY BUS_NAME ".Memory"
#define BUS_IFACE_POWER BUS_NAME ".Power"

struct bus_call;
struct bus_machine;
typedef void (*bus_operation)(struct bus_call *c);

/* What a method does and what it takes: rights (bits) that it can't do without, and such that show it more. */
struct bus_demand {
        bus_operation run;
        uint32_t required, optional;
        uint32_t (*adjust)(struct bus_call *c); /* required, as the arguments have it; the message may be left anywhere */
        bool always; /* while the service stops, too */
};

struct bus {
        struct manager *manager;
        struct manager_watcher watcher;
        sd_bus *bus;   /* NULL: not connected */
        bool lost;     /* to be closed in the next turn */
        bool complained;
        bool models_dirty, calls_dirty;
        uint64_t retry_us; /* when to look for the bus again */
        uint64_t connected_us; /* when connecting to it began */
        bool answered;         /* it has answered since then */
        enum manager_state told_state;
        uint64_t told_floor;
        char told_default[256];
        struct list models;   /* objects */
        struct list sessions; /* connections that were handed out */
        struct list jobs;     /* as they were told of */
        sd_event_source *job_timer;
        struct bus_machine *machine;
        struct list peers;
        size_t n_peers;
        struct list pipes;
        struct polkit polkit;
        struct lease_watcher lease_watcher;
};

/* Somebody on the bus with calls under way. */
struct bus_peer {
        struct bus *bus;
        struct list link;
        char *name; /* unique name */
        sd_bus_slot *query, *watch;
        struct user *user; /* NULL: not known yet */
        struct peer peer;
        gid_t *groups; /* as the bus says; NULL where it does not */
        size_t n_groups;
        uint64_t client;
        struct list calls;
        size_t n_calls;
};

struct bus_call {
        struct bus_peer *peer;
        struct list link;
        sd_bus_message *message;
        const struct bus_demand *demand;
        bus_operation operation;
        struct authorization authorization;
        uint32_t may_do_without; /* rights that it would like to have, as adjust() found */
        struct request *request;
        struct lease *lease;   /* that it waits for, or NULL; the table's, by the descriptor: */
        int lease_fd;          /* or -1 */
        struct request_error lease_failed; /* code 0: it has not */
        uint64_t charged; /* for the message */
        struct bus_text text;
        uint32_t n_tokens;
        bool plain_due;        /* to be asked again without chat template */
        enum { CALL_TEXT_GOES_ON, CALL_TEXT_FULL, CALL_TEXT_QUOTA, CALL_TEXT_NO_MEMORY } text_state;
        char model[CONFIG_MODEL_NAME_MAX + 1];
};

/* ---- bus-peer.c ---- */
/* For handlers of sd-bus: takes the call up; it runs when the caller is known and may have what it demands. */
int bus_call_begin(struct bus *b, sd_bus_message *m, const struct bus_demand *demand, sd_bus_error *error);
/* Sends (and takes over) a reply, NULL = out of memory; frees the call. */
void bus_call_reply(struct bus_call *c, sd_bus_message *reply);
void bus_call_reply_empty(struct bus_call *c);
void bus_call_fail(struct bus_call *c, const struct request_error *error);
void bus_call_fail_with(struct bus_call *c, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
/* By an error that is not ours. */
void bus_call_fail_named(struct bus_call *c, const char *name, const char *text);
/* Answers a refused or failed (negative) request_submit() or reading of arguments. */
void bus_call_refuse(struct bus_call *c, int r, struct request_error *error);
void bus_peers_turn(struct bus *b);
void bus_peers_deinit(struct bus *b);

/* ---- bus-rights.c ---- */
/* Runs the call, or ends it, now or later. */
void bus_call_authorize(struct bus_call *c);
bool bus_call_may(const struct bus_call *c, enum right right);
struct request_origin bus_call_origin(const struct bus_call *c);

/* ---- bus-call.c: operations ---- */
void bus_operation_complete(struct bus_call *c);
void bus_operation_load(struct bus_call *c);
void bus_operation_unload(struct bus_call *c);
void bus_operation_model_load(struct bus_call *c);
void bus_operation_model_unload(struct bus_call *c);
/* What a turn does for a call that has something due. May free it. */
void bus_call_turn(struct bus_call *c);

/* Submits what its request is; fds (taken over) may come along. The call may be gone afterwards. */
void bus_call_submit(struct bus_call *c, const Spark__V1__ClientFrame *frame, int *fds, size_t n_fds,
                     const struct request_sink *sink);
/* For sinks of requests whose end alone answers the call. */
void bus_call_ignore_token(void *userdata, struct request *r, const Spark__V1__Token *token);
void bus_call_ignore_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress);
void bus_call_done_empty(void *userdata, struct request *r, const Spark__V1__Done *done);
void bus_call_error(void *userdata, struct request *r, const Spark__V1__Error *error);

/* ---- bus-usage.c ---- */
/* Everybody's is a right of its own. */
uint32_t bus_usage_requires(struct bus_call *c);
void bus_operation_list_usage(struct bus_call *c);

/* ---- bus-store.c ---- */
void bus_operation_import_model(struct bus_call *c);
void bus_operation_pack_model(struct bus_call *c);
void bus_operation_remove_model(struct bus_call *c);
int bus_store_list(struct bus *b, sd_bus_message *reply);

/* A prompt as Generate and Complete take it. */
struct bus_prompt {
        sd_bus_message *message; /* with the arguments (sa{sv}) */
        bool plain; /* no chat template, whatever the model has */
        uint32_t credit; /* 0 = whatever comes */
        struct request_origin origin;
        const struct request_sink *sink;
        void *userdata;
};
/* As request_submit(). */
int bus_prompt_submit(struct bus *b, const struct bus_prompt *p, struct request **ret, struct request_error *error);
/* Charges the user for a message (sa{sv}) that is kept while its request runs, by its prompt's size. 0,
 * REQUEST_E_REFUSED, or -errno. */
int bus_prompt_charge(struct user *user, sd_bus_message *m, uint64_t *ret_charged, struct request_error *error);
/* True where a chat was refused because the model, not known when asked, turned out to have no template. */
bool bus_prompt_wants_plain(const struct request *r, const Spark__V1__Error *error);

/* ---- bus-pipe.c ---- */
void bus_operation_generate(struct bus_call *c);
void bus_pipes_turn(struct bus *b);
void bus_pipes_deinit(struct bus *b);

/* ---- bus-manager.c: /org/sparkd/Spark1 ---- */
int bus_manager_register(struct bus *b);
/* Tells what changed since it was told. */
void bus_manager_turn(struct bus *b);
void bus_operation_reload(struct bus_call *c);

/* ---- bus-model.c ---- */
extern const struct bus_class bus_class_model;
/* "/" where there is none. 0 or -ENAMETOOLONG. */
int bus_model_path(const struct model *model, char *out, size_t size);
void bus_models_turn(struct bus *b);
/* The model is about to be freed. */
void bus_models_remove(struct bus *b, struct model *model);
void bus_models_deinit(struct bus *b);
int bus_models_list(struct bus *b, sd_bus_message *reply);
/* For GetManagedObjects. */
int bus_models_append(struct bus *b, sd_bus_message *reply);
