/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Records that were read out of the log, the last one of each thing that has a number: for those whose records say all of it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "state.pb-c.h"

struct keep_records {
        Spark__State__V1__Record **list;
        uint64_t *ids; /* [n] */
        size_t n;
        bool failed;   /* no memory: something is missing */
};

/* A copy of the record takes the place of the one before. */
void keep_records_put(struct keep_records *r, uint64_t id, const Spark__State__V1__Record *record);
/* NULL: there is none. */
const Spark__State__V1__Record *keep_records_find(const struct keep_records *r, uint64_t id);
void keep_records_drop(struct keep_records *r, uint64_t id);
void keep_records_deinit(struct keep_records *r);
