/* SPDX-License-Identifier: Apache-2.0 */

/* Leases: what goes out, and how those that there are are shown. */

#include <errno.h>
#include <stdlib.h>

#include "internal.h"

int spark_reserve_memory(struct spark *s, const struct spark_reserve_memory_request *request, spark_event_fn fn, void *userdata,
                         uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ReserveMemory m = SPARK__V1__RESERVE_MEMORY__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_reserve_memory_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (a.bytes == 0)
                return -EINVAL;
        m.bytes = a.bytes;
        m.who = string_or_empty(a.who);
        m.why = string_or_empty(a.why);
        m.missing_only = a.missing_only != 0;
        m.policy = string_or_empty(a.policy);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY;
        frame.reserve_memory = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_hold_warm(struct spark *s, const struct spark_hold_warm_request *request, spark_event_fn fn, void *userdata,
                    uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__HoldWarm m = SPARK__V1__HOLD_WARM__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_hold_warm_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.who = string_or_empty(a.who);
        m.why = string_or_empty(a.why);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_HOLD_WARM;
        frame.hold_warm = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int leases_show(struct reply *r, Spark__V1__LeaseInfo *const *leases, size_t n) {
        r->leases = calloc(n ? n : 1, sizeof(*r->leases));
        r->lease_list = calloc(n ? n : 1, sizeof(struct spark_lease *));
        if (!r->leases || !r->lease_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const Spark__V1__LeaseInfo *p = leases[i];

                r->leases[i] = (struct spark_lease){
                        .id = p->id,
                        .kind = p->kind,
                        .state = p->state,
                        .bytes = p->bytes,
                        .given_bytes = p->given_bytes,
                        .model = p->model,
                        .policy = p->policy,
                        .age_s = p->age_s,
                        .own = p->own,
                        .uid = p->uid,
                        .pid = p->pid,
                        .unit = p->unit,
                        .who = p->who,
                        .why = p->why,
                };
                r->lease_list[i] = &r->leases[i];
        }
        return 0;
}
