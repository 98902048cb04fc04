/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "policy.h"

static void put_over(uint64_t *limit, uint64_t own) {
        if (own != CONFIG_UNSET)
                *limit = own;
}

void policy_resolve(struct policy *p, const struct config *config, uid_t uid) {
        const struct config_limits *l = &config->limits;
        const struct config_user *u = config_find_user(config, uid);
        uint64_t weight = 1, max_priority = l->max_priority;

        *p = (struct policy){
                .connections = l->connections_per_user,
                .requests = l->requests_per_user,
                .bytes = l->bytes_per_user,
                .running = l->running_per_user,
                .queued = l->queued_per_user,
                .kv = l->kv_per_user,
                .tokens_per_day = l->tokens_per_day,
                .store_bytes = config->store.bytes_per_user,
                .import = config->store.import == CONFIG_IMPORT_ALL    ? 1
                          : config->store.import == CONFIG_IMPORT_NONE ? 0
                                                                       : -1,
        };
        if (u) {
                put_over(&weight, u->weight);
                put_over(&max_priority, u->max_priority);
                put_over(&p->connections, u->connections);
                put_over(&p->requests, u->requests);
                put_over(&p->bytes, u->bytes);
                put_over(&p->running, u->running);
                put_over(&p->queued, u->queued);
                put_over(&p->kv, u->kv);
                put_over(&p->tokens_per_day, u->tokens_per_day);
                put_over(&p->store_bytes, u->store_bytes);
                if (u->import != CONFIG_UNSET)
                        p->import = u->import != 0;
        }
        p->weight = (uint32_t)weight;
        p->max_priority = (Spark__V1__Priority)max_priority;
}

int policy_priority(const struct policy *p, int asked, Spark__V1__Priority *ret) {
        switch (asked) {
        case SPARK__V1__PRIORITY__PRIORITY_UNSPECIFIED:
                *ret = MIN(p->max_priority, (Spark__V1__Priority)SPARK__V1__PRIORITY__NORMAL);
                return 0;
        case SPARK__V1__PRIORITY__BACKGROUND:
        case SPARK__V1__PRIORITY__NORMAL:
        case SPARK__V1__PRIORITY__INTERACTIVE:
                if (asked > (int)p->max_priority)
                        return POLICY_E_DENIED;
                *ret = (Spark__V1__Priority)asked;
                return 0;
        default:
                return POLICY_E_UNKNOWN;
        }
}

const char *policy_priority_name(Spark__V1__Priority priority) {
        switch (priority) {
        case SPARK__V1__PRIORITY__BACKGROUND:
                return "background";
        case SPARK__V1__PRIORITY__INTERACTIVE:
                return "interactive";
        default:
                return "normal";
        }
}

bool policy_priority_parse(const char *name, Spark__V1__Priority *ret) {
        for (int i = SPARK__V1__PRIORITY__BACKGROUND; i <= SPARK__V1__PRIORITY__INTERACTIVE; i++)
                if (strcmp(policy_priority_name((Spark__V1__Priority)i), name) == 0) {
                        *ret = (Spark__V1__Priority)i;
                        return true;
                }
        return false;
}

bool policy_may_import(const struct policy *p, bool privileged) {
        return p->import < 0 ? privileged : p->import != 0;
}

bool policy_may_share(const struct config *config, bool privileged) {
        switch (config->limits.share_prefixes) {
        case CONFIG_SHARE_ALL:
                return true;
        case CONFIG_SHARE_PRIVILEGED:
                return privileged;
        default:
                return false;
        }
}
