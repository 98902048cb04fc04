/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "inherited.h"
#include "keep-clients.h"
#include "kept.h"
#include "lease-private.h"
#include "manager.h"
#include "model-keep.h"
#include "restore.h"

/* What was read so far. */
struct restore {
        struct manager *manager;
        struct models_kept models;
};

static void write_numbers(const struct manager *m, struct keep *k) {
        Spark__State__V1__Numbers numbers = SPARK__STATE__V1__NUMBERS__INIT;
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;

        numbers.model = m->models.last_id;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_NUMBERS;
        record.numbers = &numbers;
        keep_append(k, &record);
}

static void write_all(void *userdata, struct keep *k) {
        struct manager *m = userdata;

        write_numbers(m, k);
        models_keep_all(m, k);
        leases_keep_all(m, k);
        clients_write(m, k);
}

static void read_numbers(struct manager *m, const Spark__State__V1__Numbers *numbers) {
        m->models.last_id = MAX(m->models.last_id, numbers->model);
}

static void read_record(void *userdata, const Spark__State__V1__Record *record) {
        struct restore *r = userdata;

        switch (record->body_case) {
        case SPARK__STATE__V1__RECORD__BODY_MODEL:
        case SPARK__STATE__V1__RECORD__BODY_MODEL_GONE:
                models_kept_read(&r->models, record);
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
        models_kept_deinit(&restore.models);
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
        leases_restore(m);
        if (keep_read(m->keep, read_client, kept) == 0)
                clients_restore(m, kept, m->inherited);
        keep_taken(m->keep);
        m->inherited = inherited_free(m->inherited);
        return 0;
}
