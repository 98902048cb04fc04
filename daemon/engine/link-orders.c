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
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CAP:
                *ret = (struct order){ .kind = ORDER_CAP, .key = m->cap->key, .batch = m->cap->batch,
                                       .caps = { m->cap->threads, m->cap->clocks, m->cap->undo } };
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

static Spark__Engine__V1__Clocks clocks_message(enum backend_clocks clocks) {
        static const Spark__Engine__V1__Clocks messages[] = {
                [BACKEND_CLOCKS_FREE] = SPARK__ENGINE__V1__CLOCKS__CLOCKS_FREE,
                [BACKEND_CLOCKS_UCLAMP] = SPARK__ENGINE__V1__CLOCKS__CLOCKS_UCLAMP,
                [BACKEND_CLOCKS_NVML] = SPARK__ENGINE__V1__CLOCKS__CLOCKS_NVML,
                [BACKEND_CLOCKS_UNSUPPORTED] = SPARK__ENGINE__V1__CLOCKS__CLOCKS_UNSUPPORTED,
                [BACKEND_CLOCKS_FORBIDDEN] = SPARK__ENGINE__V1__CLOCKS__CLOCKS_FORBIDDEN,
        };

        return messages[clocks];
}

static int cap(struct link *l, const struct order *order) {
        Spark__Engine__V1__Capped m = SPARK__ENGINE__V1__CAPPED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        bool wanted = order->caps.clocks > 0 && order->caps.clocks < 100;
        struct backend_capped capped = { .clocks = wanted ? BACKEND_CLOCKS_UNSUPPORTED : BACKEND_CLOCKS_FREE };
        struct backend *be = l->host->backend;

        if (be->ops->cap)
                be->ops->cap(be, &order->caps, &capped);
        m.key = order->key;
        m.batch = l->host->engine ? engine_cap_batch(l->host->engine, order->batch) : 0;
        m.threads = capped.threads;
        m.clocks = clocks_message(capped.clocks);
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_CAPPED;
        frame.capped = &m;
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
        case ORDER_CAP:
                r = cap(l, order);
                break;
        default:
                r = self_test(l, order);
                break;
        }
        free(order);
        return r;
}
