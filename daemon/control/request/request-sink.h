/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Both ends of a request (request.h): who asks, where the answer goes, and what is said where there is none. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macro.h"
#include "request-error.h"
#include "rights/rights.h"
#include "spark.pb-c.h"
#include "users/user.h"

struct rate;
struct request;

/* Sets BUSY, with a wait that goes by how fast others `ended` lately. REQUEST_E_REFUSED. */
int request_refuse_busy(struct request_error *e, const struct rate *ended, const char *fmt, ...) _printf_(3, 4);

/* Tokens and done are the callee's to read, not to keep. After done() or error() the request is gone. */
struct request_sink {
        void (*token)(void *userdata, struct request *r, const Spark__V1__Token *token);
        void (*progress)(void *userdata, struct request *r, const Spark__V1__Progress *progress);
        void (*done)(void *userdata, struct request *r, const Spark__V1__Done *done);
        void (*error)(void *userdata, struct request *r, const Spark__V1__Error *error);
};

/* Who asks. unit and peer are borrowed and must live as long as the sink is attached. */
struct request_origin {
        struct user *user;
        pid_t pid;
        const char *unit;
        const struct peer *peer; /* whom polkit may be asked about for rights that it lacks; NULL: nobody */
        uint64_t client;  /* the same for all requests of a connection: fairness is among these */
        uint32_t granted; /* rights (rights.h) that it has beyond what its user's are */
        bool normal_only; /* may not ask for the priority that comes first */
};

/* By whom it is, or because it was granted. */
bool request_origin_may(const struct request_origin *o, enum right right);

struct request_submit {
        const Spark__V1__ClientFrame *frame;
        const void *packed; /* the same, packed; NULL = pack it here */
        size_t packed_size;
        int input_fd;       /* -1, or taken over (on failure too) */
        int *input_fds;     /* [n_input_fds], ModelImport, ModelPack: the same */
        size_t n_input_fds;
        struct request_origin origin;
        const struct request_sink *sink;
        void *userdata;
};
