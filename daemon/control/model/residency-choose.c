/* SPDX-License-Identifier: Apache-2.0 */

#include "base/checked.h"
#include "base/macro.h"
#include "residency-choose.h"

static void add(struct residency_lack *sum, const struct residency_view *v) {
        if (!checked_add(sum->bytes, v->bytes, &sum->bytes))
                sum->bytes = UINT64_MAX;
        sum->models++;
}

static bool covers(const struct residency_lack *sum, const struct residency_lack *lack) {
        return sum->bytes >= lack->bytes && sum->models >= lack->models;
}

static struct residency_lack sum_of(const struct residency_view *views, size_t n, enum residency_standing standing) {
        struct residency_lack sum = { 0 };

        for (size_t i = 0; i < n; i++)
                if (views[i].standing == standing)
                        add(&sum, &views[i]);
        return sum;
}

/* Of those that may go and are marked, or are not, the one that was used least, or most, recently. */
static struct residency_view *next_of(struct residency_view *views, size_t n, bool marked, uint64_t beyond, bool oldest) {
        struct residency_view *best = NULL;

        for (size_t i = 0; i < n; i++) {
                struct residency_view *v = &views[i];

                if (v->standing != RESIDENCY_IDLE || v->evict != marked || (marked && v->used_us >= beyond))
                        continue;
                if (!best || (oldest ? v->used_us < best->used_us : v->used_us > best->used_us))
                        best = v;
        }
        return best;
}

static struct residency_lack marked_of(const struct residency_view *views, size_t n) {
        struct residency_lack sum = { 0 };

        for (size_t i = 0; i < n; i++)
                if (views[i].evict)
                        add(&sum, &views[i]);
        return sum;
}

static void mark(struct residency_view *views, size_t n, const struct residency_lack *lack) {
        struct residency_lack sum = { 0 };
        struct residency_view *v;

        while (!covers(&sum, lack) && (v = next_of(views, n, false, 0, true))) {
                v->evict = true;
                add(&sum, v);
        }
        /* one large model may have made smaller ones that came before it needless */
        for (uint64_t beyond = UINT64_MAX; (v = next_of(views, n, true, beyond, false));) {
                beyond = v->used_us;
                v->evict = false;
                sum = marked_of(views, n);
                v->evict = !covers(&sum, lack);
        }
}

enum residency_verdict residency_choose(struct residency_view *views, size_t n, const struct residency_lack *lack) {
        const struct residency_lack going = sum_of(views, n, RESIDENCY_GOING), idle = sum_of(views, n, RESIDENCY_IDLE),
                                    later = sum_of(views, n, RESIDENCY_LATER);
        struct residency_lack left = *lack, all = idle;

        for (size_t i = 0; i < n; i++)
                views[i].evict = false;
        if (lack->bytes == 0 && lack->models == 0)
                return RESIDENCY_ROOM;
        left.bytes -= MIN(left.bytes, going.bytes);
        left.models -= MIN(left.models, going.models);
        if (covers(&idle, &left)) {
                mark(views, n, &left);
                return RESIDENCY_SOON;
        }
        if (!checked_add(all.bytes, later.bytes, &all.bytes))
                all.bytes = UINT64_MAX;
        all.models += later.models;
        return covers(&all, &left) ? RESIDENCY_WAIT : RESIDENCY_NEVER;
}
