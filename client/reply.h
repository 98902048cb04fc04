/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What comes in, turned into the public structures: a Done or an Error (struct reply), which shows what the frame has and owns
 * it, and the tokens before it (struct collected).
 */

#include "base/buf.h"
#include "client/spark.h"
#include "spark.pb-c.h"

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
        struct spark_job *jobs;
        const struct spark_job **job_list;
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

/* reply-status.c. 0 or -ENOMEM. */
int reply_show_models(struct reply *r, Spark__V1__ModelInfo *const *models, size_t n);
int reply_show_status(struct reply *r, const Spark__V1__StatusResult *p);

/* lease.c. 0 or -ENOMEM. */
int leases_show(struct reply *r, Spark__V1__LeaseInfo *const *leases, size_t n);

/* job.c. 0 or -ENOMEM. */
int jobs_show(struct reply *r, Spark__V1__JobInfo *const *jobs, size_t n);

/* weights.c: shows weights (NULL: not known, NULL is shown) as long as *all lives. 0 or -ENOMEM. */
struct shown_weights;
int weights_show(struct shown_weights **all, const Spark__V1__Weights *p, const struct spark_weights **ret);
void shown_weights_free(struct shown_weights *all);
