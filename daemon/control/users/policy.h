/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a user may have and do: the configuration's `limits`, with what `users` says about the uid put over them. Pure
 * functions over the configuration; results are values, which go on holding when the configuration is replaced.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/config.h"
#include "spark.pb-c.h"

enum {
        POLICY_E_UNKNOWN = 1, /* no such priority */
        POLICY_E_DENIED = 2,  /* above the user's highest */
};

struct policy {
        uint32_t weight; /* of the user's share of the service; at least 1 */
        Spark__V1__Priority max_priority;
        uint64_t connections, requests, bytes;
        uint64_t running, queued; /* requests; this and what follows: 0 = no limit */
        uint64_t kv;              /* bytes */
        uint64_t tokens_per_day;
        uint64_t store_bytes; /* 0 = no limit */
        int import; /* into the model store: -1 = who is privileged, 0 = no, 1 = yes */
};

/* Nothing is limited, nothing is forbidden: for whoever needs a policy and has no configuration. */
#define POLICY_OPEN                                                                                             \
        ((struct policy){ .weight = 1, .max_priority = SPARK__V1__PRIORITY__INTERACTIVE,                        \
                          .connections = UINT64_MAX, .requests = UINT64_MAX, .bytes = UINT64_MAX })

void policy_resolve(struct policy *p, const struct config *config, uid_t uid);
/* The priority that a request which asks for `asked` (a number from outside) gets. 0 or POLICY_E_*. */
int policy_priority(const struct policy *p, int asked, Spark__V1__Priority *ret);
/* "background", "normal", "interactive" */
const char *policy_priority_name(Spark__V1__Priority priority);
/* The other way round; false for any other word. */
bool policy_priority_parse(const char *name, Spark__V1__Priority *ret);
/* True where a user may put models into the store. privileged: as manager_is_privileged() says of it. */
bool policy_may_import(const struct policy *p, bool privileged);
/* True where a user may declare prefixes public, which every user's requests then profit from. privileged: as
 * manager_is_privileged() says of it. */
bool policy_may_share(const struct config *config, bool privileged);
