/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an earlier process kept of its clients: connections, requests and their numbers, as its records (proto/state.proto) add up
 * to when they are read one after the other. It knows nothing of sockets; restoring (restore-clients.h) makes living things of it.
 *
 * The records are our own, but another version's, perhaps: one that makes no sense (bytes taken that never came, tokens of a
 * request that was not accepted) spoils what it is about, and that alone.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/macro.h"
#include "request/pending.h"
#include "session/session-file.h"
#include "state.pb-c.h"

#define KEPT_BUCKETS 1024u
#define KEPT_TOKENS_MAX ((size_t)1 << 28)
#define KEPT_CREDIT_ALL UINT64_MAX

/* In the table of its kind, by its number. */
struct kept_place {
        struct list link;
        uint64_t number;
};

struct kept_connection {
        struct list link;
        struct kept_place place;
        uint64_t id;
        bool bad;
        uint32_t uid, pid;
        char unit[128];
        bool greeted, prefill_progress, of_bus, normal_only, closing;
        uint64_t sent;
        struct buf input, output; /* output: whole frames, the first output_skip bytes are sent */
        size_t output_skip;
        uint64_t descriptors;     /* received and handed out; so many further ones are in the store: */
        uint32_t descriptors_kept;
        uint64_t start_time;
        uint32_t rights;
};

struct kept_request {
        struct list link;
        struct kept_place place;
        uint64_t key;
        bool bad;
        uint64_t connection; /* 0 = a pipe */
        uint64_t id, client, credit, arrived_us, first_token_us, seed, session_tokens, sent, kv_limit;
        uint32_t uid, pid, kind, priority, losses;
        char unit[128], model[CONFIG_MODEL_NAME_MAX + 1], session[SESSION_ID_TEXT + 1];
        bool input, accepted, begun, ended, asking;
        uint32_t granted;
        struct buf frame;
        struct buf tokens; /* uint32_t: the prompt's, then the generated ones */
        size_t n_prompt, n_generated;
        struct pending pending;
        struct buf text;
};

struct kept {
        struct list connections, requests; /* in the order in which they came */
        struct list connection_buckets[KEPT_BUCKETS], request_buckets[KEPT_BUCKETS];
        uint64_t last_connection, last_request; /* keys: what lies above the slot */
        size_t spoiled;
};

int kept_new(struct kept **ret);
struct kept *kept_free(struct kept *k);
DEFINE_CLEANUP(struct kept *, kept_free)
/* A keep_reader: takes up what a record says. Records of other things are passed over. */
void kept_apply(struct kept *k, const Spark__State__V1__Record *record);
/* NULL where there is none. */
struct kept_connection *kept_find_connection(struct kept *k, uint64_t id);
struct kept_request *kept_find_request(struct kept *k, uint64_t key);
/* So many bytes had reached it when the last process ended: more than it could write down. */
void kept_connection_sent(struct kept *k, struct kept_connection *c, uint64_t sent);
void kept_request_sent(struct kept *k, struct kept_request *r, uint64_t sent);
/* Puts the requests in the order in which they came. 0 or -ENOMEM. */
int kept_sort(struct kept *k);
