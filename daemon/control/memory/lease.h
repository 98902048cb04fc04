/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Leases: somebody asks for something and has it until they let go of it.
 *
 *   memory   the service gives so many bytes back (shed.h) and does without them until the lease ends; then it takes
 *            them again by itself. Admission counts them as used meanwhile.
 *   warm     a model is loaded and stays resident (residency.h)
 *
 * A lease is held by a request (ReserveMemory, HoldWarm: as long as it runs) or by a descriptor (the write end of a pipe,
 * as long as anybody has it open; as logind's inhibitor locks). Whichever it is, its holder hears of it through struct
 * lease_holder, from leases_turn(): never from within the call that made it.
 *
 * The table is the manager's; each lease belongs to whoever made it, those with a descriptor to the table.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#include "base/list.h"
#include "base/macro.h"
#include "request-error.h"
#include "shed.h"
#include "spark.pb-c.h"
#include "state.pb-c.h"

#define LEASE_WHO_MAX 128u /* bytes */
#define LEASE_WHY_MAX 256u
#define LEASE_UNIT_MAX 128u
#define LEASE_BYTES_MAX ((uint64_t)1 << 50)

struct lease;
struct leases;
struct manager;
struct model;

enum lease_kind { LEASE_MEMORY, LEASE_WARM };

/* Requests that need what was given away: wait until it is back, or are refused with BUSY. */
enum lease_policy { LEASE_AS_CONFIGURED, LEASE_WAIT, LEASE_BUSY };

/* What is asked for. Strings are copied. */
struct lease_ask {
        enum lease_kind kind;
        struct user *user;
        pid_t pid;
        const char *unit, *who, *why; /* NULL = "" */
        uint64_t bytes;               /* memory: at least 1 */
        bool missing_only;            /* of that, what the machine has too little free for above the floor */
        enum lease_policy policy;
        const char *model;            /* warm: a name, "" = the default model */
        bool authorised;              /* it counts among the privileged, whoever its user is */
        uint64_t request;             /* key of the request that is to hold it, or 0 */
};

/* Any may be NULL. */
struct lease_holder {
        /* done of total bytes; stage "yield", "granted"; "load", "room", "warm" (total 0: not known). */
        void (*progress)(void *userdata, struct lease *lease, const char *stage, uint64_t done, uint64_t total);
        /* It has ended; error says why, NULL: its descriptor was closed. A lease of a request is to be freed by the callee, one
         * with a descriptor is freed by the table afterwards. */
        void (*ended)(void *userdata, struct lease *lease, const struct request_error *error);
};

struct lease {
        struct leases *table;
        struct list link;
        uint64_t id; /* never used again */
        uint64_t request; /* key of the one that holds it, or 0 */
        enum lease_kind kind;
        struct user *user;
        pid_t pid;
        char unit[LEASE_UNIT_MAX + 1], who[LEASE_WHO_MAX + 1], why[LEASE_WHY_MAX + 1];
        uint64_t bytes;  /* asked for */
        uint64_t wanted; /* to be given back: with missing_only what is missing */
        uint64_t given;  /* so far */
        enum lease_policy policy;
        struct model *model;
        uint64_t since_us, since_real_us; /* CLOCK_MONOTONIC, CLOCK_REALTIME */
        bool granted;    /* all that could be given was; the model is ready */
        bool granted_kept; /* a later process knows that it was, or an earlier one did: nobody is told of it as news */
        const struct lease_holder *holder;
        void *userdata;
        /* inside */
        struct shed *shed;
        bool has_news, shed_done, failed;
        bool kept; /* a later process knows of it */
        struct request_error error;
        int fd; /* the end of the pipe that we watch, or -1 */
        sd_event_source *source;
};

/* Called after a lease came, was granted, got on, or (removed) before it goes. */
struct lease_watcher {
        struct list link;
        void (*changed)(void *userdata, struct lease *lease, bool removed);
        void *userdata;
};

/* Who brings memory back, as shed.h says of each. */
struct lease_source {
        int (*begin)(struct shed **ret, struct manager *m, const struct shed_want *want);
        struct shed *(*end)(struct shed *s);
};
/* shed.c */
extern const struct lease_source lease_source_shed;

/* 0 or -errno. */
int leases_new(struct leases **ret, struct manager *m, const struct lease_source *source);
/* Ends those with a descriptor; no other may be left. */
struct leases *leases_free(struct leases *t);
/* Once a turn, once a second: tells holders what there is to tell. */
void leases_turn(struct leases *t);
void leases_tick(struct leases *t);
void leases_watch(struct leases *t, struct lease_watcher *w);
/* Requests that are a lease which has what it asked for: nothing goes on for them. */
size_t leases_at_rest(const struct leases *t);
/* All of them, the oldest first: struct lease, by its link. */
struct list *leases_list(struct leases *t);
/* The highest number that was given to one; and no lower one is from here on. */
uint64_t leases_last_id(const struct leases *t);
void leases_skip_ids(struct leases *t, uint64_t last);
/* Bytes that all of them together have asked for. */
uint64_t leases_bytes(const struct leases *t);

/* Begins one. 0; REQUEST_E_REFUSED with *error filled, which names the field; or -errno. holder must outlive it. */
int lease_new(struct leases *t, const struct lease_ask *ask, const struct lease_holder *holder, void *userdata,
              struct lease **ret, struct request_error *error);
/* The same, held by a descriptor, which is the caller's to pass on: the lease lives until no copy of it is open. It never becomes
 * readable or writable in a way that means anything. *ret (may be NULL) is borrowed. */
int lease_new_fd(struct leases *t, const struct lease_ask *ask, const struct lease_holder *holder, void *userdata, int *ret_fd,
                 struct lease **ret, struct request_error *error);
/* Ends it: what was given away may be taken again. */
struct lease *lease_free(struct lease *lease);
DEFINE_CLEANUP(struct lease *, lease_free)

/* As a later process may want it, and taken up there: what was granted is held from the first moment on, without asking whether
 * it may be, and no more or less than was. fd: the end of the pipe that was watched (lease->fd), taken over (on failure too); -1:
 * of a request. Strings are borrowed. As lease_new() (refused: there is no such model any more). */
void lease_record(const struct lease *lease, Spark__State__V1__Lease *ret);
int lease_restore(struct leases *t, const Spark__State__V1__Lease *record, int fd, const struct lease_holder *holder,
                  void *userdata, struct lease **ret, struct request_error *error);

/* A model cannot be had: those who hold it hear so. */
void leases_model_failed(struct leases *t, const struct model *model, const struct request_error *error);
/* Whether requests that find the model given away are to be refused: then true, with BUSY in *error. */
bool leases_refuse(const struct leases *t, const struct model *model, struct request_error *error);

/* "memory", "warm"; "yield", "granted", "load", "warm"; "wait", "busy" */
const char *lease_kind_name(const struct lease *lease);
const char *lease_state_name(const struct lease *lease);
const char *lease_policy_name(const struct lease *lease);
/* As a viewer may see it, with all: who may observe others. Strings are borrowed. */
void lease_show(const struct lease *lease, uid_t viewer, bool all, Spark__V1__LeaseInfo *ret);
