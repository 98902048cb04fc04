/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a request share: its life (request.c), what is read of its frame (request-outline.c), the table
 * (requests.c), and what it may take and what it has taken (request-quota.c). */

#include "demand.h"
#include "manager.h"
#include "request.h"

int requests_add(struct requests *t, struct request *r);
void requests_remove(struct requests *t, struct request *r);
/* Under the key that an earlier process had given it; requests_added_again() (request-keep.h) when all are there. 0, or -errno (-EEXIST). */
int requests_add_again(struct requests *t, struct request *r, uint64_t key);

/* One that is in no table yet, of nobody's charge. NULL without memory. */
struct request *request_alloc(struct manager *m, enum request_kind kind, const struct request_origin *origin);
struct request *request_free(struct request *r);
DEFINE_CLEANUP(struct request *, request_free)

/* True for what is refused because of somebody's load or allowance. */
static inline bool request_error_is_quota(Spark__V1__ErrorCode code) {
        return code == SPARK__V1__ERROR_CODE__BUSY || code == SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED ||
               code == SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY;
}

/* What of a frame control looks at. */
struct request_outline {
        enum request_kind kind;
        const char *model;
        bool input_fd;
        uint64_t credit;
        int priority; /* as it came */
        bool session; /* sessions take it up */
        bool share;
        bool store; /* the model store takes it up */
        bool lease;
        bool look;
};

/* 0, or REQUEST_E_REFUSED: it asks for nothing that is known here. */
int request_outline_read(const Spark__V1__ClientFrame *f, struct request_outline *o);
/* Whether such requests are taken; whether the descriptor (-1 = none) is what it should be. 0 or REQUEST_E_REFUSED. */
int request_check_admission(struct manager *m, const struct request_outline *o, struct request_error *error);
int request_check_input(const struct request_outline *o, int fd, struct request_error *error);

/* To where its work is done. *fd and fds as in struct request_submit; what is taken of them is -1 afterwards. 0,
 * REQUEST_E_REFUSED with *error filled, or -errno: then it is to be freed. */
int request_place(struct request *r, const struct request_outline *o, const Spark__V1__ClientFrame *f, int *fd, int *fds,
                  size_t n_fds, struct request_error *error);

/* ---- request-ask.c ---- */
enum { REQUEST_ASKED = REQUEST_E_REFUSED + 1 };
/* Whether it can be refused at once: rights are missing, and there is nobody to be asked. 0 or REQUEST_E_REFUSED. */
int request_check_rights(const struct request_origin *origin, const struct demand *demand, struct request_error *error);
/* Asks for what is missing; the answer places the request, or ends it. Descriptors are taken over with that. 0: nothing is
 * missing; REQUEST_ASKED, REQUEST_E_REFUSED with *error filled, or -errno. */
int request_ask(struct request *r, const struct demand *demand, bool interactive, int *fd, int *fds, size_t n_fds,
                struct request_error *error);
struct request_question *request_question_free(struct request_question *q);

/* Whether they may have such a request now, and with which priority. 0 or REQUEST_E_REFUSED. */
int request_check_quota(struct manager *m, const struct request_origin *origin, enum request_kind kind,
                        int asked_priority, Spark__V1__Priority *ret_priority, struct request_error *error);
/* Whose it is and what that user may have, for the engine. */
void request_fill_policy(struct request *r, Spark__Engine__V1__Submit *submit);
/* The engine works on it. */
void request_begin(struct request *r);
/* Tokens that were generated for it. */
void request_charge_tokens(struct request *r, size_t n);
/* Enters what it took into the usage ledger; once. */
void request_settle(struct request *r);
void request_uncount(struct request *r);
/* request-lease.c: a lease, which is held as long as it runs. 0, REQUEST_E_REFUSED, or -errno. */
int request_submit_lease(struct request *r, const Spark__V1__ClientFrame *frame, struct request_error *error);
/* Starts to look usage up; the answer ends the request. 0, REQUEST_E_REFUSED, or -errno. */
int request_ask_usage(struct request *r, const Spark__V1__UsageQuery *q, struct request_error *error);
