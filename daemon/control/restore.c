/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "keep/inherited.h"
#include "keep/keep.h"
#include "kept.h"
#include "manager.h"
#include "memory/lease-keep.h"
#include "model/model-keep.h"
#include "restore-clients.h"
#include "restore.h"
#include "session/session-keep.h"

/* What was read so far. */
struct restore {
        struct manager *manager;
        struct keep_records models, leases;
        struct sessions_kept sessions;
};

static void write_numbers(const struct manager *m, struct keep *k) {
        Spark__State__V1__Numbers numbers = SPARK__STATE__V1__NUMBERS__INIT;
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;

        numbers.model = m->models.last_id;
        numbers.lease = leases_last_id(m->leases);
        record.body_case = SPARK__STATE__V1__RECORD__BODY_NUMBERS;
        record.numbers = &numbers;
        keep_append(k, &record);
}

static void write_all(void *userdata, struct keep *k) {
        struct manager *m = userdata;

        write_numbers(m, k);
        models_keep_all(m, k);
        sessions_keep_all(m->sessions, k);
        leases_keep_all(m->leases, k);
        clients_write(m, k);
}

static void read_numbers(struct manager *m, const Spark__State__V1__Numbers *numbers) {
        m->models.last_id = MAX(m->models.last_id, numbers->model);
        leases_skip_ids(m->leases, numbers->lease);
}

static void read_record(void *userdata, const Spark__State__V1__Record *record) {
        struct restore *r = userdata;

        switch (record->body_case) {
        case SPARK__STATE__V1__RECORD__BODY_MODEL:
        case SPARK__STATE__V1__RECORD__BODY_MODEL_GONE:
                models_kept_read(&r->models, record);
                break;
        case SPARK__STATE__V1__RECORD__BODY_SESSION:
        case SPARK__STATE__V1__RECORD__BODY_SESSION_GONE:
        case SPARK__STATE__V1__RECORD__BODY_SESSION_TEXT:
                sessions_kept_read(&r->sessions, record);
                break;
        case SPARK__STATE__V1__RECORD__BODY_LEASE:
        case SPARK__STATE__V1__RECORD__BODY_LEASE_GONE:
                leases_kept_read(&r->leases, record);
                break;
        case SPARK__STATE__V1__RECORD__BODY_NUMBERS:
                read_numbers(r->manager, record->numbers);
                break;
        default:
                break;
        }
}

int restore_begin(struct manager *m) {
        int r = inherited_new(&m->inherited);

        if (r >= 0)
                r = keep_new(&m->keep, m->inherited, write_all, m);
        if (r < 0)
                log_error("descriptors that were handed over: %s", strerror(-r));
        return r;
}

int restore_all(struct manager *m) {
        struct restore restore = { .manager = m };
        int r = keep_read(m->keep, read_record, &restore);

        if (r >= 0)
                r = models_restore(m, &restore.models);
        if (r >= 0)
                r = sessions_restore(m, &restore.sessions);
        if (r >= 0)
                r = leases_restore(m, &restore.leases);
        keep_records_deinit(&restore.models);
        keep_records_deinit(&restore.leases);
        sessions_kept_deinit(&restore.sessions);
        return r;
}

static void read_client(void *userdata, const Spark__State__V1__Record *record) {
        kept_apply(userdata, record);
}

int restore_end(struct manager *m) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        int r = kept_new(&kept);

        if (r < 0)
                return r;
        if (keep_read(m->keep, read_client, kept) == 0)
                clients_restore(m, kept, m->inherited);
        sessions_restored(m);
        leases_restored(m->lease_keeper);
        keep_taken(m->keep);
        m->inherited = inherited_free(m->inherited);
        return 0;
}

void restore_keeping(struct manager *m, uint64_t now_us) {
        if (!keep_is_due(m->keep, now_us) || !keep_begin_again(m->keep, now_us))
                return;
        models_keep_again(m, m->keep);
        leases_keep_again(m->leases, m->keep);
        clients_keep_again(m);
        keep_end_again(m->keep);
}
