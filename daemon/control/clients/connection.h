/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A client's connection: who it is, its frames, its running requests (streams). An idle one costs its struct and an
 * event source; buffers come and go with traffic. Owned by the manager's list; closed in the turn after its end was
 * decided, never from within a callback.
 */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/list.h"
#include "channel.h"
#include "peer.h"
#include "request/request.h"

struct inherited;
struct keep;
struct kept_connection;
struct kept_request;
struct manager;

enum {
        CONNECTION_E_UNUSABLE = 1, /* what was kept of it does not fit together */
};

enum connection_state {
        CONNECTION_NEW,     /* Hello is due */
        CONNECTION_OPEN,
        CONNECTION_CLOSING, /* the last frames go out */
        CONNECTION_DEAD,    /* freed in this turn */
};

struct connection {
        struct manager *manager;
        struct list link;       /* manager->connections */
        struct list dirty_link; /* manager->dirty_connections */
        enum connection_state state;
        bool blocked;      /* the socket takes no more for now */
        bool frames_left;  /* received, not looked at yet */
        bool charged;
        bool prefill_progress; /* the client knows that feature */
        bool of_bus;       /* its user is the one that the bus named */
        bool kept;         /* a later process would go on with it (connection-keep.c); then: */
        size_t input_kept; /* received bytes that are kept, */
        size_t input_new;  /* and, while they are looked at, that are not yet */
        uint64_t fds_kept; /* received descriptors that were kept, since it was made; those up to fds_dropped are not any more */
        uint64_t fds_dropped;
        struct channel_transfer transfer;
        bool normal_only;      /* as struct request_origin's */
        uint32_t rights;       /* (rights.h) that it has; for further ones polkit is asked, unless it is of the bus */
        uint32_t events;   /* what the source watches */
        struct user *user;
        struct peer peer;
        struct channel channel;
        sd_event_source *source;
        struct list streams;
        size_t n_streams;
        uint64_t client;   /* number of the connection */
        uint64_t since_us; /* accepted, or when closing began */
        uint64_t input_charged; /* bytes of the input buffer, charged to the user */
        void (*gone)(void *userdata); /* told when it is freed; NULL = nobody cares */
        void *gone_userdata;
};

/* Takes over an accepted socket. Turns it away with a sentence where limits are reached. 0 or -errno. The bus hands out
 * sockets of its own this way: peer_uid other than -1 stands for the uid at the far end of a socketpair. */
int connection_new(struct manager *m, int fd, uid_t peer_uid);
/* The same for one that an earlier process had; fd is taken over. 0, CONNECTION_E_UNUSABLE, or -errno. */
int connection_restore(struct manager *m, int fd, const struct kept_connection *kept, struct inherited *in,
                       struct connection **ret);
struct connection *connection_free(struct connection *c);
/* Works off what is due in a turn; may free it. */
void connection_turn(struct connection *c);
void connection_tick(struct connection *c, uint64_t now_us);
/* Says why, lets queued frames go out, closes. */
void connection_fail(struct connection *c, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
/* The same with BUSY and a time after which another try makes sense. */
void connection_fail_busy(struct connection *c, uint32_t retry_after_ms, const char *fmt, ...) _printf_(3, 4);
/* Nothing further is read; closes when everything is out. */
void connection_finish(struct connection *c);

/* ---- over restarts ---- */

/* From here on a later process would go on with it and with what runs on it. Does nothing where nothing is kept. */
void connection_keep(struct connection *c);
/* The store has nothing of it any more. One that was kept, or has requests, is with the next snapshot. */
void connection_keep_again(struct connection *c);
/* Appends it and its requests, as they stand. */
void connection_write(struct connection *c, struct keep *k);
/* Takes up a request of it where an earlier process left off, or says why not. */
void connection_restore_request(struct connection *c, const struct kept_request *kept, int input_fd);
