/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A request of a load run, from its prompt to its end. Owned by its client, used again for the next one. */

#include "base/buf.h"
#include "load-run.h"

struct load_request {
        struct list in_client;
        struct load_client *client;
        struct load_timer start;   /* closed loop: the next request */
        struct load_timer cancel;
        struct load_timer credit;  /* slow reader: the next token is taken */
        struct buf text;           /* prompt; with turns: the conversation so far */
        uint32_t turn;             /* of the conversation, from 0 */
        bool taken;                /* closed loop: for good */
        bool under_way, counts, cancelling;
        bool first;                /* no token has come */
        uint64_t id;               /* the transport's */
        double due_us, last_us, cancel_us;
        uint32_t tokens;           /* received */
        uint32_t read;             /* of these: taken by a slow reader */
        uint32_t cancel_at;        /* tokens after which it is cancelled; UINT32_MAX = never */
};

extern const struct load_listener load_request_listener;

/* A request of this client that is neither under way nor taken; NULL without memory. */
struct load_request *load_request_get(struct load_client *c);
/* Begins it; `due_us` is when it should have begun. Failures to send are told as any other. */
void load_request_begin(struct load_request *q, double due_us);
/* Cancels what is under way. */
void load_request_cancel(struct load_request *q);
void load_requests_free(struct load_client *c);

/* load-run.c: what a request's end means for the others. */
void load_run_connected(struct load_client *c);
void load_run_lost(struct load_client *c);
/* Whether the client has another request to begin. */
bool load_run_may_begin(const struct load_client *c);
/* The request is not under way any more; the client's next one begins after `pause_us` at the earliest. */
void load_run_request_ended(struct load_request *q, double pause_us);
