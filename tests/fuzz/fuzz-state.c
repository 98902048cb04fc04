/* SPDX-License-Identifier: Apache-2.0 */

/* What an earlier process wrote down of its clients, as another version or a damaged log may hold it: records, one behind the
 * other, each with its size. What comes of them holds together, whatever they say. */

#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "daemon/control/kept.h"
#include "message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_connection(const struct kept_connection *c) {
        if (c->id == 0 || c->output_skip > c->output.len)
                abort();
}

static void check_request(const struct kept_request *r) {
        if (r->key == 0)
                abort();
        if (!r->bad && r->tokens.len != (r->n_prompt + r->n_generated) * sizeof(uint32_t))
                abort();
        if (!r->bad && !r->accepted && r->tokens.len > 0)
                abort();
}

static void check(struct kept *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &k->connections)
                check_connection(LIST_ENTRY(pos, struct kept_connection, link));
        LIST_FOREACH(pos, tmp, &k->requests)
                check_request(LIST_ENTRY(pos, struct kept_request, link));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(kept_freep) struct kept *k = NULL;
        Spark__State__V1__Record *record;
        size_t at = 0, n;

        if (kept_new(&k) < 0)
                return 0;
        while (size - at >= 2) {
                n = (size_t)data[at] | (size_t)data[at + 1] << 8;
                at += 2;
                n = MIN(n, size - at);
                record = spark__state__v1__record__unpack(NULL, n, data + at);
                if (record) {
                        kept_apply(k, record);
                        spark__state__v1__record__free_unpacked(record, NULL);
                }
                at += n;
                check(k);
        }
        if (kept_sort(k) == 0)
                check(k);
        return 0;
}
