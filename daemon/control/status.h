/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Answers to Models and Status, made from live state: what was measured or reported, nothing estimated. Everything in
 * such an answer is owned by it.
 */

#include <sys/types.h>

#include "manager.h"
#include "spark.pb-c.h"

/* Done with models or status set; NULL without memory. Free with status_free(). all: other users' requests and
 * leases are shown, too. */
Spark__V1__Done *status_new_models(struct manager *m);
Spark__V1__Done *status_new_status(struct manager *m, uid_t viewer, bool all);
Spark__V1__Done *status_copy(const Spark__V1__Done *done);
Spark__V1__Done *status_free(Spark__V1__Done *done);
DEFINE_CLEANUP(Spark__V1__Done *, status_free)
/* One model's figures; strings are borrowed from the model, valid until the next turn. */
void status_fill_model(struct model *model, Spark__V1__ModelInfo *info);
