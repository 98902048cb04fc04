/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a request share: its life (request.c), the table (requests.c), and what it may take and what it has
 * taken (request-quota.c). */

#include "manager.h"
#include "request.h"

int requests_add(struct requests *t, struct request *r);
void requests_remove(struct requests *t, struct request *r);

void request_error_set_va(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, va_list ap)
        _printf_(3, 0);
/* True for what is refused because of somebody's load or allowance. */
static inline bool request_error_is_quota(Spark__V1__ErrorCode code) {
        return code == SPARK__V1__ERROR_CODE__BUSY || code == SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED;
}

/* Whether the user may have such a request now, and with which priority. 0 or REQUEST_E_REFUSED. */
int request_check_quota(struct manager *m, const struct user *user, enum request_kind kind, int asked_priority,
                        Spark__V1__Priority *ret_priority, struct request_error *error);
/* Whose it is and what that user may have, for the engine. */
void request_fill_policy(const struct request *r, Spark__Engine__V1__Submit *submit);
/* The engine works on it. */
void request_begin(struct request *r);
/* Tokens that were generated for it. */
void request_charge_tokens(struct request *r, size_t n);
/* Enters what it took into the usage ledger; once. */
void request_settle(struct request *r);
void request_uncount(struct request *r);
/* Starts to look usage up; the answer ends the request. 0, REQUEST_E_REFUSED, or -errno. */
int request_ask_usage(struct request *r, const Spark__V1__UsageQuery *q, struct request_error *error);
