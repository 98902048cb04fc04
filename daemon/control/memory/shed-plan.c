/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"
#include "shed-plan.h"

static uint64_t less(uint64_t a, uint64_t b) {
        return a > b ? a - b : 0;
}

static void gain_add(struct shed_gain *sum, const struct shed_gain *g) {
        sum->resident += g->resident;
        sum->reserved += g->reserved;
}

struct shed_gain shed_plan_given(const struct shed_view *views, size_t n) {
        struct shed_gain sum = { 0 };

        for (size_t i = 0; i < n; i++) {
                gain_add(&sum, &views[i].cache_gain);
                gain_add(&sum, &views[i].sessions_gain);
                gain_add(&sum, &views[i].kv_gain);
                gain_add(&sum, &views[i].weights_gain);
        }
        return sum;
}

enum shed_step shed_plan_step(const struct shed_view *views, size_t n) {
        enum shed_step step = SHED_NOTHING;

        for (size_t i = 0; i < n; i++) {
                const struct shed_view *v = &views[i];
                enum shed_step here = v->weights ? SHED_WEIGHTS : v->kv_limit < v->kv ? SHED_KV : v->sessions ? SHED_SESSIONS :
                                      v->cache ? SHED_CACHE : SHED_NOTHING;

                step = MAX(step, here);
        }
        return step;
}

void shed_plan_reset(struct shed_view *v) {
        v->cache = v->sessions = v->weights = false;
        v->kv_limit = v->kv;
        v->order = v->away = v->image_gain = 0;
        v->cache_gain = v->sessions_gain = v->kv_gain = v->weights_gain = (struct shed_gain){ 0 };
}

static bool gain_is_enough(const struct shed_gain *given, const struct shed_gain *want) {
        return given->resident >= want->resident && given->reserved >= want->reserved;
}

/* ---- taking ---- */

static bool take_caches(struct shed_view *views, size_t n, uint64_t *order) {
        bool any = false;

        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];

                if (!v->there || v->cache || v->weights || v->kv == 0)
                        continue;
                v->cache = any = true;
                v->order = ++*order;
                v->cache_gain.resident = less(v->kv_cached, v->kv_sessions);
        }
        return any;
}

static bool take_sessions(struct shed_view *views, size_t n, uint64_t *order) {
        bool any = false;

        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];

                if (!v->there || v->sessions || v->weights || v->kv == 0)
                        continue;
                v->sessions = any = true;
                v->order = ++*order;
                v->sessions_gain.resident = MIN(v->kv_cached, v->kv_sessions);
        }
        return any;
}

/* What of the pool's resident part is not gained by the steps before. */
static uint64_t kv_left(const struct shed_view *v) {
        return less(v->kv_resident, v->cache_gain.resident + v->sessions_gain.resident + v->kv_gain.resident);
}

/* The pool shrinks so far that both lacks are made up for, but not below `least`. */
static bool take_kv(struct shed_view *v, const struct shed_gain *lack, uint64_t least) {
        uint64_t resident = kv_left(v), size = v->kv_limit - MIN(v->kv_limit, lack->reserved);
        uint64_t wanted = less(resident, lack->resident);

        wanted = MAX(wanted, least);
        if (wanted < resident) /* else shrinking it so far would free nothing */
                size = MIN(size, wanted);
        size = MAX(size, least);
        if (!v->there || v->weights || size >= v->kv_limit)
                return false;
        v->kv_gain.reserved += v->kv_limit - size;
        v->kv_gain.resident += less(resident, size);
        v->kv_limit = size;
        return true;
}

/* Of those not in `out`: the smallest that is enough alone (enough), or the largest that is not; of equal ones the last. n: none. */
static size_t choose_one(const uint64_t *bytes, size_t n, uint64_t out, uint64_t lack, bool enough) {
        size_t best = n;

        for (size_t i = n; i-- > 1;) {
                if (out >> i & 1 || (bytes[i] >= lack) != enough)
                        continue;
                if (best == n || (enough ? bytes[i] < bytes[best] : bytes[i] > bytes[best]))
                        best = i;
        }
        return best;
}

/* Large ones, as long as they are not too large, and behind each of them what would be enough with those so far. */
uint64_t shed_plan_choose(const uint64_t *segment_bytes, size_t n, uint64_t away, uint64_t bytes) {
        uint64_t chosen = 0, sum = 0, best = SHED_WHOLE, best_sum = UINT64_MAX;

        if (bytes == 0)
                return 0;
        n = MIN(n, (size_t)SHED_SEGMENTS_MAX);
        for (;;) {
                size_t i = choose_one(segment_bytes, n, away | chosen, bytes - sum, true);

                if (i < n && sum + segment_bytes[i] < best_sum) {
                        best = chosen | (uint64_t)1 << i;
                        best_sum = sum + segment_bytes[i];
                }
                i = choose_one(segment_bytes, n, away | chosen, bytes - sum, false);
                if (i >= n)
                        return best;
                chosen |= (uint64_t)1 << i;
                sum += segment_bytes[i];
        }
}

/* It gave a part, and has more. */
static bool has_a_part(const struct shed_view *v) {
        return v->weights && v->n_segments > 0 && v->away != SHED_WHOLE && v->image > v->image_gain;
}

/* True where a is to give its weights before b. */
static bool goes_before(const struct shed_view *a, const struct shed_view *b) {
        if (a->weights != b->weights)
                return a->weights; /* it cannot serve anyway */
        if (a->idle != b->idle)
                return a->idle;
        if (a->pinned != b->pinned)
                return b->pinned;
        return a->used_us < b->used_us;
}

uint64_t shed_plan_part(struct shed_view *v, uint64_t segments) {
        uint64_t sum = 0;

        if (segments == SHED_WHOLE)
                sum = less(v->image, v->image_gain);
        for (size_t i = 0; i < v->n_segments && segments != SHED_WHOLE; i++)
                if (segments & ~v->away & (uint64_t)1 << i)
                        sum += v->segment_bytes[i];
        v->away |= segments;
        v->image_gain += sum;
        v->weights_gain.resident += sum;
        v->weights_gain.reserved += sum;
        return sum;
}

/* With the engine goes all that is no segment. */
static void take_engine(struct shed_view *v) {
        const struct shed_gain g = { .resident = v->fixed - v->image + kv_left(v),
                                     .reserved = v->fixed - v->image + v->kv_limit };

        v->weights = true;
        gain_add(&v->weights_gain, &g);
}

static bool take_weights(struct shed_view *views, size_t n, const struct shed_gain *lack, uint64_t *order,
                         struct shed_action *ret) {
        struct shed_view *best = NULL;
        struct shed_gain rest, before = { 0 };

        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];

                if ((has_a_part(v) || (v->there && !v->weights && v->fixed + v->kv > 0)) && (!best || goes_before(v, best)))
                        best = v;
        }
        if (!best)
                return false;
        before = best->weights_gain;
        if (!best->weights)
                take_engine(best);
        rest.resident = less(lack->resident, best->weights_gain.resident - before.resident);
        rest.reserved = less(lack->reserved, best->weights_gain.reserved - before.reserved);
        ret->segments = best->n_segments == 0 ? SHED_WHOLE
                                              : shed_plan_choose(best->segment_bytes, best->n_segments, best->away,
                                                                 MAX(rest.resident, rest.reserved));
        (void)shed_plan_part(best, ret->segments);
        best->order = ++*order;
        ret->model = (size_t)(best - views);
        return true;
}

/* The pools that idle models have first, as with weights. */
static bool take_pools(struct shed_view *views, size_t n, const struct shed_gain *lack, bool below_use, uint64_t *order,
                       struct shed_action *ret) {
        struct shed_view *best = NULL, tried;

        for (size_t i = 0; i < n; i++) {
                tried = views[i];
                if (take_kv(&tried, lack, below_use ? tried.kv_least : MAX(tried.kv_used, tried.kv_least)) &&
                    (!best || goes_before(&views[i], best)))
                        best = &views[i];
        }
        if (!best)
                return false;
        (void)take_kv(best, lack, below_use ? best->kv_least : MAX(best->kv_used, best->kv_least));
        best->order = ++*order;
        ret->model = (size_t)(best - views);
        ret->kv_limit = best->kv_limit;
        return true;
}

bool shed_plan_take(struct shed_view *views, size_t n, const struct shed_gain *want, enum shed_step limit, uint64_t *order,
                    struct shed_action *ret) {
        struct shed_gain given = shed_plan_given(views, n), lack;
        struct shed_action action = { 0 };

        if (gain_is_enough(&given, want))
                return false;
        lack.resident = less(want->resident, given.resident);
        lack.reserved = less(want->reserved, given.reserved);
        if (limit >= SHED_CACHE && take_caches(views, n, order))
                action.step = SHED_CACHE;
        else if (limit >= SHED_SESSIONS && take_sessions(views, n, order))
                action.step = SHED_SESSIONS;
        else if (limit >= SHED_KV && (take_pools(views, n, &lack, false, order, &action) ||
                                      take_pools(views, n, &lack, true, order, &action)))
                action.step = SHED_KV;
        else if (limit >= SHED_WEIGHTS && take_weights(views, n, &lack, order, &action))
                action.step = SHED_WEIGHTS;
        else
                return false;
        *ret = action;
        return true;
}

/* ---- taking back ---- */

static bool can_spare(const struct shed_gain *surplus, const struct shed_gain *gain) {
        return surplus->resident >= gain->resident && surplus->reserved >= gain->reserved;
}

/* With the weights all that was taken from it before comes back: its next engine begins anew. */
static struct shed_gain gain_of(const struct shed_view *v) {
        return shed_plan_given(v, 1);
}

static bool return_weights(struct shed_view *views, size_t n, const struct shed_gain *surplus, uint64_t room, size_t *ret) {
        struct shed_view *last = NULL;

        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];
                struct shed_gain gain = gain_of(v);

                if (v->weights && can_spare(surplus, &gain) && MAX(gain.reserved, gain.resident) <= room &&
                    (!last || v->order > last->order))
                        last = v;
        }
        if (!last)
                return false;
        shed_plan_reset(last);
        *ret = (size_t)(last - views);
        return true;
}

static bool return_pool(struct shed_view *views, size_t n, const struct shed_gain *surplus, uint64_t room,
                        struct shed_action *ret) {
        struct shed_view *last = NULL;
        uint64_t back, resident;

        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];

                if (v->kv_limit < v->kv && !v->weights && (!last || v->order > last->order))
                        last = v;
        }
        if (!last)
                return false;
        back = MIN(last->kv - last->kv_limit, room);
        back = MIN(back, surplus->reserved);
        resident = MIN(last->kv_gain.resident, back); /* it may fill again, as far as it was full */
        if (resident > surplus->resident)
                back = surplus->resident;
        if (back == 0)
                return false;
        last->kv_limit += back;
        last->kv_gain.reserved -= MIN(last->kv_gain.reserved, back);
        last->kv_gain.resident -= MIN(last->kv_gain.resident, back);
        ret->model = (size_t)(last - views);
        ret->kv_limit = last->kv_limit;
        return true;
}

/* All at once, as they were taken. */
static bool return_caches(struct shed_view *views, size_t n, const struct shed_gain *surplus, bool sessions, uint64_t room) {
        struct shed_gain sum = { 0 };
        bool any = false;

        for (size_t i = 0; i < n; i++) {
                gain_add(&sum, sessions ? &views[i].sessions_gain : &views[i].cache_gain);
                any = any || (sessions ? views[i].sessions : views[i].cache);
        }
        if (!any || !can_spare(surplus, &sum) || sum.resident > room)
                return false;
        for (size_t i = 0; i < n; i++) {
                struct shed_view *v = &views[i];

                *(sessions ? &v->sessions : &v->cache) = false;
                *(sessions ? &v->sessions_gain : &v->cache_gain) = (struct shed_gain){ 0 };
        }
        return true;
}

bool shed_plan_return(struct shed_view *views, size_t n, const struct shed_gain *want, uint64_t room, struct shed_action *ret) {
        struct shed_gain given = shed_plan_given(views, n);
        struct shed_gain surplus = { less(given.resident, want->resident), less(given.reserved, want->reserved) };
        struct shed_action action = { 0 };

        if (!gain_is_enough(&given, want)) /* what gained nothing, too, would be taken again at once, and so on */
                return false;
        if (return_weights(views, n, &surplus, room, &action.model))
                action.step = SHED_WEIGHTS;
        else if (return_pool(views, n, &surplus, room, &action))
                action.step = SHED_KV;
        else if (shed_plan_step(views, n) <= SHED_SESSIONS && return_caches(views, n, &surplus, true, room))
                action.step = SHED_SESSIONS;
        else if (shed_plan_step(views, n) == SHED_CACHE && return_caches(views, n, &surplus, false, room))
                action.step = SHED_CACHE;
        else
                return false;
        *ret = action;
        return true;
}
