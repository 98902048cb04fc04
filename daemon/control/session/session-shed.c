/* SPDX-License-Identifier: Apache-2.0 */

/* Sessions while memory is short: those that rested for a moment go to disk as they would after a long while, KV first. */

#include <string.h>

#include "model/engine.h"
#include "session-private.h"

/* Can its KV, if the engine has it, go to disk? */
static bool can_go(const struct session *s, uint64_t now_us) {
        return s->persistent && !s->turn && !s->closing && s->text && session_idle_us(s, now_us) >= SESSION_HURRY_US;
}

uint64_t sessions_idle_kv(const struct sessions *t, const struct model *model) {
        uint64_t now_us = manager_now_us(), tokens = 0;
        struct list *pos, *tmp;

        if (!model->engine)
                return 0;
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, (struct list *)&t->buckets[i]) {
                        const struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (s->kv_engine == model->engine->started_us && strcmp(s->model, model->name) == 0 && can_go(s, now_us))
                                tokens += s->n;
                }
        return (uint64_t)((double)tokens / 1000 * (double)model->plan.kv_per_1000);
}

bool sessions_put_away(struct sessions *t, bool on) {
        uint64_t now_us = manager_now_us();
        struct list *pos, *tmp;
        bool away = true;

        t->hurry = on;
        for (size_t i = 0; on && i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (!can_go(s, now_us))
                                continue;
                        session_store_tick(s, now_us);
                        away = away && s->stored;
                }
        return away;
}
