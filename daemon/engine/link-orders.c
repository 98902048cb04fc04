/* SPDX-License-Identifier: Apache-2.0 */

/* Orders: what control tells the engine as such, not for a request. They are carried out by the step thread, between two
 * steps. */

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "link-private.h"

static void read_order(const Spark__Engine__V1__ControlFrame *m, struct order *ret) {
        switch (m->body_case) {
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE:
                *ret = (struct order){ .kind = ORDER_RESIZE, .key = m->resize->key, .cache_bytes = m->resize->cache_bytes,
                                       .kv_bytes = m->resize->kv_bytes };
                return;
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PAUSE:
                *ret = (struct order){ .kind = ORDER_PAUSE, .key = m->pause->key, .on = m->pause->on };
                return;
        default:
                *ret = (struct order){ .kind = ORDER_SELF_TEST, .key = m->self_test->key };
                return;
        }
}

int link_take_order(struct link *l, const Spark__Engine__V1__ControlFrame *m) {
        _cleanup_free_ struct order *order = malloc(sizeof(*order));

        if (!order)
                return -ENOMEM;
        read_order(m, order);
        if (order->key == 0)
                return LINK_E_PROTOCOL;
        if (queue_push(&l->step_queue, (struct queue_item){ .type = STEP_ORDER, .ptr = order }) != 0)
                return LINK_E_PROTOCOL; /* control floods without waiting for answers */
        (void)steal_ptr(&order);
        return 0;
}

static int answer(struct link *l, const Spark__Engine__V1__EngineFrame *frame) {
        struct frame *packed = frame_new(frame);

        if (!packed)
                return -ENOMEM;
        link_send_frame(l, packed);
        return 0;
}

static int resize(struct link *l, const struct order *order) {
        Spark__Engine__V1__Resized m = SPARK__ENGINE__V1__RESIZED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct engine_stats stats = { 0 };

        if (l->host->engine) {
                m.freed_bytes = engine_resize(l->host->engine, order->cache_bytes, order->kv_bytes);
                engine_get_stats(l->host->engine, &stats);
        }
        log_info("KV may take %llu bytes, and takes %llu; %llu were given back", (unsigned long long)stats.kv_limit_bytes,
                 (unsigned long long)stats.kv_resident_bytes, (unsigned long long)m.freed_bytes);
        m.key = order->key;
        m.kv_bytes = stats.kv_limit_bytes;
        m.kv_resident_bytes = stats.kv_resident_bytes;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESIZED;
        frame.resized = &m;
        return answer(l, &frame);
}

static int pause_steps(struct link *l, const struct order *order) {
        Spark__Engine__V1__Paused m = SPARK__ENGINE__V1__PAUSED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        l->resting = order->on;
        m.key = order->key;
        m.on = order->on;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PAUSED;
        frame.paused = &m;
        return answer(l, &frame);
}

static int self_test(struct link *l, const struct order *order) {
        Spark__Engine__V1__Tested m = SPARK__ENGINE__V1__TESTED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct failure f = { .text = "" };
        int r = 0;

        if (l->host->engine) /* what has only a vocabulary computes nothing, and tested nothing at the start */
                r = engine_self_test(l->host->engine, &f);
        if (r < 0)
                return r;
        m.key = order->key;
        m.error = r > 0 ? f.text : m.error;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TESTED;
        frame.tested = &m;
        return answer(l, &frame);
}

int link_do_order(struct link *l, struct order *order) {
        int r;

        switch (order->kind) {
        case ORDER_RESIZE:
                r = resize(l, order);
                break;
        case ORDER_PAUSE:
                r = pause_steps(l, order);
                break;
        default:
                r = self_test(l, order);
                break;
        }
        free(order);
        return r;
}
