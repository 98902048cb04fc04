/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/macro.h"
#include "keep-records.h"

static Spark__State__V1__Record *copy_record(const Spark__State__V1__Record *record) {
        size_t size = spark__state__v1__record__get_packed_size(record);
        _cleanup_free_ uint8_t *data = malloc(size + 1);

        if (!data)
                return NULL;
        (void)spark__state__v1__record__pack(record, data);
        return spark__state__v1__record__unpack(NULL, size, data);
}

static int add(struct keep_records *r, uint64_t id, const Spark__State__V1__Record *record) {
        Spark__State__V1__Record **list = reallocarray(r->list, r->n + 1, sizeof(*list));
        uint64_t *ids;

        if (!list)
                return -ENOMEM;
        r->list = list;
        ids = reallocarray(r->ids, r->n + 1, sizeof(*ids));
        if (!ids)
                return -ENOMEM;
        r->ids = ids;
        list[r->n] = copy_record(record);
        if (!list[r->n])
                return -ENOMEM;
        ids[r->n++] = id;
        return 0;
}

void keep_records_put(struct keep_records *r, uint64_t id, const Spark__State__V1__Record *record) {
        keep_records_drop(r, id);
        if (add(r, id, record) < 0)
                r->failed = true;
}

const Spark__State__V1__Record *keep_records_find(const struct keep_records *r, uint64_t id) {
        for (size_t i = 0; i < r->n; i++)
                if (r->ids[i] == id)
                        return r->list[i];
        return NULL;
}

void keep_records_drop(struct keep_records *r, uint64_t id) {
        for (size_t i = 0; i < r->n; i++)
                if (r->ids[i] == id) {
                        spark__state__v1__record__free_unpacked(r->list[i], NULL);
                        r->list[i] = r->list[--r->n];
                        r->ids[i] = r->ids[r->n];
                        return;
                }
}

void keep_records_deinit(struct keep_records *r) {
        for (size_t i = 0; i < r->n; i++)
                spark__state__v1__record__free_unpacked(r->list[i], NULL);
        free(r->list);
        free(r->ids);
        *r = (struct keep_records){ 0 };
}
