/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside libspark: connect.c (connecting), connection.c (the connection, processing), wait.c (waiting), request.c, session.c,
 * store.c, lease.c and job.c (what goes out); reply.h has what comes in.
 *
 * Locking: `lock` guards everything but the input side of the channel, which belongs to whoever dispatches. One thread
 * dispatches at a time (`dispatching`); it lets go of `lock` around each callback. Requests are freed only by the
 * dispatcher, or once they have ended.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/un.h>

#include "base/buf.h"
#include "base/list.h"
#include "channel.h"
#include "client/spark.h"
#include "reply.h"
#include "spark.pb-c.h"

#define CLIENT_BUCKETS 64u
#define CLIENT_FEATURE_AUTHORIZATION "authorization"
#define CLIENT_CREDIT_DEFAULT 256u
#define CLIENT_INLINE_MAX ((size_t)1 << 20)      /* larger inputs go into a memfd */
#define CLIENT_OUT_BYTES_MAX ((size_t)64 << 20)
#define CLIENT_OUT_BYTES_SPARE ((size_t)4 << 20) /* for credit and cancellations when requests fill the rest */
#define CLIENT_COLLECT_MAX ((size_t)256 << 20)   /* bytes of a result that nobody has taken yet */

struct request {
        struct list link; /* in a bucket */
        uint64_t id;
        spark_event_fn fn;
        void *userdata;
        uint32_t window;   /* tokens that may be under way */
        uint32_t consumed; /* and not granted again yet */
        bool manual_credit;
        bool streams;      /* tokens may come */
        bool forgotten;
        bool ended;        /* and waits to be taken */
        struct collected collected;
        struct reply *reply;
};

/* A thread in spark_wait() or spark_wait_hello(), on its stack. */
struct waiter {
        struct list link;
        uint64_t id; /* 0: the greeting */
        int event_fd;
        bool done;
        int code;
};

/* While a connection by path has not been greeted. */
struct connect_state {
        struct sockaddr_un addr;
        char *software;
        int timer_fd; /* -1: was not needed yet */
        int64_t until_ms;
        bool down; /* the socket has ended, another one is to come */
};

struct spark {
        atomic_uint refs;
        pthread_mutex_t lock;
        pthread_cond_t dispatch_ended;
        bool dispatching;
        pthread_t dispatcher;
        struct channel channel;
        int epoll_fd; /* the socket and failed_fd */
        int failed_fd; /* an eventfd, readable for ever once the connection failed */
        uint32_t epoll_events;
        bool output_dead; /* nothing more can be sent; what was received is still worth reading */
        struct connect_state *connect; /* NULL: greeted, or not made by path */
        bool failed;
        int failed_code;
        char failed_text[256];
        char *server_software;
        int max_priority;
        bool authorization; /* the service has CLIENT_FEATURE_AUTHORIZATION */
        bool interactive;   /* requests allow that a person is asked */
        uint64_t next_id;
        struct list buckets[CLIENT_BUCKETS];
        struct list waiters;
        struct buf text; /* of the token event that is being delivered */
};

DEFINE_CLEANUP(struct spark *, spark_unref)

/* Processes once; waits for another dispatcher until deadline (CLOCK_MONOTONIC, ms; -1: for ever). As spark_process(),
 * or -ETIMEDOUT. Takes the lock. */
int connection_process(struct spark *s, int64_t deadline);

/* connection.c; all with the lock held */
struct request *connection_find(struct spark *s, uint64_t id);
int connection_send(struct spark *s, const Spark__V1__ClientFrame *frame, const int *fds, size_t n_fds, size_t out_max);
void connection_flush(struct spark *s);

/* connect.c; all with the lock held. True until the greeting has come: only ours is sent. */
static inline bool connect_is_open(const struct spark *s) {
        return s->connect != NULL;
}
void connect_end(struct spark *s);
void connect_deinit(struct spark *s);
/* The connection has ended: true where it is made anew, or will be. */
bool connect_again(struct spark *s);
/* 1 = there is a socket to be read, 0 = not now, CHANNEL_E_EOF = there will be none. */
int connect_turn(struct spark *s);

/* request.c */
struct request_spec {
        spark_event_fn fn;
        void *userdata;
        uint32_t window;
        bool manual_credit;
        bool streams;
};
struct request *request_free(struct request *r);
/* Queues the frame (fd, -1 = none, goes with it) and enters the request. */
int request_start(struct spark *s, Spark__V1__ClientFrame *frame, int fd, const struct request_spec *spec,
                  uint64_t *ret_id);
/* The same with any number of descriptors (borrowed). */
int request_start_fds(struct spark *s, Spark__V1__ClientFrame *frame, const int *fds, size_t n_fds,
                      const struct request_spec *spec, uint64_t *ret_id);
/* Copies a caller's structure of another version: shorter ones end in zeros, longer ones must. 0, -EINVAL, -E2BIG. */
int arguments_copy(void *known, size_t known_size, const void *given);
/* The protocol's strings are never NULL. */
char *string_or_empty(const char *s);

/* A text that goes into the frame, or into a memfd where it is large. */
struct input {
        ProtobufCBinaryData bytes;
        protobuf_c_boolean in_fd;
        int fd;
};
#define INPUT_NULL ((struct input){ .fd = -1 })
int input_init(struct input *in, const char *text, size_t size);
void input_deinit(struct input *in);
#define _cleanup_input_ _cleanup_(input_deinit)

/* Messages of a chat; they borrow the caller's strings. */
struct conversation {
        Spark__V1__ChatMessage *messages;
        Spark__V1__ChatMessage **list;
};
int conversation_init(struct conversation *c, const struct spark_chat_message *given, size_t n);
void conversation_deinit(struct conversation *c);

int request_grant(struct spark *s, struct request *r, uint32_t tokens);
int request_send_cancel(struct spark *s, uint64_t id);

/* reply.c. Makes the public result of an ended request; takes its reply and tokens. 0 or -ENOMEM. */
int result_new(struct spark_result **ret, struct request *r);
