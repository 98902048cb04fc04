/* SPDX-License-Identifier: Apache-2.0 */

/*
 * KV memory that an engine gives back and takes again. One errand at a time: what is wanted by then goes with the next one, so
 * that an engine in a long step is not told the same again and again, and answers are never mixed up.
 */

#include "engine.h"
#include "manager.h"
#include "memory/shed.h"

static void resize_tell(struct engine *e) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Resize resize = SPARK__ENGINE__V1__RESIZE__INIT;
        struct engine_resize *r = &e->resize;

        if (r->key || (r->cache == r->told_cache && r->kv == r->told_kv))
                return;
        resize.key = r->last_key + 1;
        resize.cache_bytes = r->cache;
        resize.kv_bytes = r->kv;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE;
        frame.resize = &resize;
        if (engine_send(e, &frame, -1) < 0)
                return; /* it is not ready, or has enough to read: the next look comes */
        r->key = r->last_key = resize.key;
        r->told_cache = r->cache;
        r->told_kv = r->kv;
        r->sent_us = manager_now_us();
}

void engine_limit_kv(struct engine *e, uint64_t cache_bytes, uint64_t kv_bytes) {
        e->resize.cache = cache_bytes;
        e->resize.kv = kv_bytes;
        resize_tell(e);
}

bool engine_resizes(const struct engine *e) {
        const struct engine_resize *r = &e->resize;

        return r->key || r->cache != r->told_cache || r->kv != r->told_kv;
}

void engine_take_resized(struct engine *e, const Spark__Engine__V1__Resized *resized) {
        struct engine_resize *r = &e->resize;

        if (!r->key || resized->key != r->key)
                return; /* nobody asked */
        r->key = 0;
        r->freed += resized->freed_bytes;
        e->kv_resident = resized->kv_resident_bytes;
        shed_engine_resized(e, resized->freed_bytes);
        resize_tell(e);
}
