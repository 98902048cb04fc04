/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What control answers by itself, at once: Models, Status, Jobs, JobCancel. Whether it may be answered was decided by then.
 */

#include "request/request-sink.h"
#include "spark.pb-c.h"
#include "status.h"

struct manager;

/* 0 and *ret, to be freed with status_free(); REQUEST_E_REFUSED with *error filled, or -ENOMEM. */
int look_answer(struct manager *m, const struct request_origin *origin, const Spark__V1__ClientFrame *f, Spark__V1__Done **ret,
                struct request_error *error);
