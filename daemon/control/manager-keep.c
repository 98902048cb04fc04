/* SPDX-License-Identifier: Apache-2.0 */

#include "inherited.h"
#include "keep-clients.h"
#include "kept.h"
#include "manager-keep.h"
#include "manager.h"

static void write_all(void *userdata, struct keep *k) {
        clients_write(userdata, k);
}

static void read_one(void *userdata, const Spark__State__V1__Record *record) {
        kept_apply(userdata, record);
}

int manager_keep_take_up(struct manager *m) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        int r = kept_new(&kept);

        if (r >= 0)
                r = keep_new(&m->keep, m->inherited, write_all, m);
        if (r < 0)
                return r;
        if (keep_read(m->keep, read_one, kept) == 0)
                clients_restore(m, kept, m->inherited);
        keep_taken(m->keep);
        m->inherited = inherited_free(m->inherited);
        return 0;
}

void manager_keep_turn(struct manager *m) {
        clients_commit(m);
        keep_turn(m->keep);
}

bool manager_keep_hand_on(struct manager *m) {
        if (!keep_is_on(m->keep))
                return false;
        clients_hand_on(m);
        return true;
}

void manager_keep_end(struct manager *m) {
        m->keep = keep_free(m->keep);
        m->inherited = inherited_free(m->inherited);
        clients_deinit(m);
}
