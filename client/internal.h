/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside libspark: connection.c (the connection, processing), wait.c (waiting), request.c and session.c (what goes out),
 * reply.c (what comes in, turned into the public structures).
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
#include "spark.pb-c.h"

#define CLIENT_BUCKETS 64u
#define CLIENT_CREDIT_DEFAULT 256u
#define CLIENT_INLINE_MAX ((size_t)1 << 20)      /* larger inputs go into a memfd */
#define CLIENT_OUT_BYTES_MAX ((size_t)64 << 20)
#define CLIENT_OUT_BYTES_SPARE ((size_t)4 << 20) /* for credit and cancellations when requests fill the rest */
#define CLIENT_COLLECT_MAX ((size_t)256 << 20)   /* bytes of a result that nobody has taken yet */

/* A Done or Error with the structures that show it. */
struct reply {
        ProtobufCMessage *frame; /* owns the strings */
        char *text;              /* detokenize */
        struct spark_done done;
        struct spark_error error;
        struct spark_load_result load;
        const struct spark_load_result *refused; /* with an error: its sums, or NULL */
        struct spark_status_result status;
        struct spark_memory memory;
        struct spark_power power;
        struct spark_model *models;
        const struct spark_model **model_list;
        struct spark_request_info *requests;
        const struct spark_request_info **request_list;
        struct spark_user_info *users;
        const struct spark_user_info **user_list;
        struct spark_usage_result usage;
        struct spark_usage_row *usage_rows;
        const struct spark_usage_row **usage_list;
        struct spark_session *sessions;
        const struct spark_session **session_list;
        struct spark_lease *leases;
        const struct spark_lease **lease_list;
        struct spark_stored stored;
        struct shown_weights *weights; /* all of them */
        struct spark_stored_file *stored_files;
        const struct spark_stored_file **stored_list;
        char message[256];       /* of an error that the library made */
};

/* Tokens gathered for a request without a callback. */
struct collected {
        struct buf text;
        struct buf ids;
        struct buf logprobs;
        struct buf top_ids;
        struct buf top_logprobs;
        size_t top_n;
};

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
void connection_watch(struct spark *s);

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
/* The same with any number of descriptors (borrowed). */
int request_start_fds(struct spark *s, Spark__V1__ClientFrame *frame, const int *fds, size_t n_fds,
                      const struct request_spec *spec, uint64_t *ret_id);
int request_start(struct spark *s, Spark__V1__ClientFrame *frame, int fd, const struct request_spec *spec,
                  uint64_t *ret_id);
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

/* lease.c. 0 or -ENOMEM. */
int leases_show(struct reply *r, Spark__V1__LeaseInfo *const *leases, size_t n);

/* weights.c: shows weights (NULL: not known, NULL is shown) as long as *all lives. 0 or -ENOMEM. */
struct shown_weights;
int weights_show(struct shown_weights **all, const Spark__V1__Weights *p, const struct spark_weights **ret);
void shown_weights_free(struct shown_weights *all);

/* reply.c */
int error_code(const Spark__V1__Error *e, int otherwise); /* always positive */
struct reply *reply_free(struct reply *r);
DEFINE_CLEANUP(struct reply *, reply_free)
/* Takes over the frame when it succeeds. 0 or -ENOMEM. */
int reply_new(struct reply **ret, Spark__V1__ServerFrame *frame);
int reply_new_error(struct reply **ret, int code, const char *message);
/* Shows a Token as the public structure; text is copied to *text for its NUL. 0, SPARK_PROTOCOL when its arrays don't
 * fit together, -ENOMEM. */
int reply_show_tokens(const Spark__V1__Token *token, struct buf *text, struct spark_tokens *ret);
/* 0, SPARK_PROTOCOL when it doesn't fit what came before, BUF_E_LIMIT, -ENOMEM. */
int collected_add(struct collected *c, const struct spark_tokens *t);
void collected_init(struct collected *c);
void collected_deinit(struct collected *c);
/* Makes the public result of an ended request; takes its reply and tokens. 0 or -ENOMEM. */
int result_new(struct spark_result **ret, struct request *r);
