/* SPDX-License-Identifier: Apache-2.0 */

/* A lease that is a request: it runs until it is cancelled, or its connection ends. */

#include <string.h>

#include "memory/lease-keep.h"
#include "memory/lease.h"
#include "request-private.h"

static void on_progress(void *userdata, struct lease *lease, const char *stage, uint64_t done, uint64_t total) {
        request_progress(userdata, stage, done, total);
}

static void on_ended(void *userdata, struct lease *lease, const struct request_error *error) {
        request_fail(userdata, error); /* and with it the lease */
}

static const struct lease_holder request_holder = { .progress = on_progress, .ended = on_ended };

static int read_policy(const char *word, enum lease_policy *ret, struct request_error *error) {
        if (!*word)
                *ret = LEASE_AS_CONFIGURED;
        else if (strcmp(word, "wait") == 0)
                *ret = LEASE_WAIT;
        else if (strcmp(word, "busy") == 0)
                *ret = LEASE_BUSY;
        else
                return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "policy: there is no '%.32s'; it is \"wait\" or \"busy\".", word);
        return 0;
}

int request_submit_lease(struct request *r, const Spark__V1__ClientFrame *frame, struct request_error *error) {
        const Spark__State__V1__Lease *kept = lease_kept_find(r->manager->lease_keeper, r->key);
        struct lease_ask ask = { .user = r->user, .pid = r->origin.pid, .unit = r->origin.unit, .request = r->key,
                                 .authorised = request_origin_may(&r->origin, RIGHT_MANAGE_MODELS) };
        int e = 0;

        if (kept)
                return lease_restore(r->manager->leases, kept, -1, &request_holder, r, &r->lease, error);
        if (frame->body_case == SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY) {
                const Spark__V1__ReserveMemory *m = frame->reserve_memory;

                ask.kind = LEASE_MEMORY;
                ask.bytes = m->bytes;
                ask.who = m->who;
                ask.why = m->why;
                ask.missing_only = m->missing_only;
                e = read_policy(m->policy, &ask.policy, error);
        } else {
                ask.kind = LEASE_WARM;
                ask.model = frame->hold_warm->model;
                ask.who = frame->hold_warm->who;
                ask.why = frame->hold_warm->why;
        }
        return e ? e : lease_new(r->manager->leases, &ask, &request_holder, r, &r->lease, error);
}

bool request_holds_lease(const struct request *r) {
        return r->lease && r->lease->granted;
}
