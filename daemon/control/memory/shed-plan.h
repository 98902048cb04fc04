/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which memory is given back next, and which is taken again: pure functions over what is known of each model. Every step
 * gains in two coins: bytes that leave the host's memory (resident), and bytes that will not be asked of it any more
 * (reserved). Pressure needs the first kind; whoever takes the memory for a while needs both.
 *
 *   SHED_CACHE     all models at once: it costs nothing but computing, and only what was cached is gained
 *   SHED_SESSIONS  all models at once
 *   SHED_KV        model by model, no more than is needed: first down to what running requests hold, then below
 *   SHED_WEIGHTS   model by model: one that gave a part already, idle ones that nobody pinned, idle ones, then those in use; the least
 *                  recently used first. Its engine goes, and of its image as few bytes as will do, in whole segments
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shed_step {
        SHED_NOTHING,
        SHED_CACHE,    /* prefix caches are emptied and kept small */
        SHED_SESSIONS, /* idle sessions' KV goes to disk */
        SHED_KV,       /* the KV pools shrink to what running requests hold, then below */
        SHED_WEIGHTS,  /* models give up their engine and segments of their image: idle ones first, the least recently used first,
                        * then those in use; requests for them wait */
};

#define SHED_SEGMENTS_MAX 64u
#define SHED_WHOLE UINT64_MAX /* of segments: the image goes whole */

struct shed_gain {
        uint64_t resident, reserved;
};

/* One model: bytes of the host's memory. What was taken from it is the plan's own to note, with what that is reckoned to gain. */
struct shed_view {
        bool there;          /* it has an image, or an engine that could give something back */
        bool idle, pinned;
        uint64_t used_us;
        uint64_t fixed;      /* image, as far as it is there, and engine */
        uint64_t image;      /* of fixed */
        /* The image's segments, where single ones can be loaded again; n_segments 0: it goes whole or not at all. */
        const uint64_t *segment_bytes;
        size_t n_segments;
        uint64_t away;       /* of these (bit i: segment i): not there; SHED_WHOLE: none is */
        uint64_t kv;         /* its pool, whole */
        uint64_t kv_least;   /* it does not work with less */
        uint64_t kv_resident, kv_used, kv_cached;
        uint64_t kv_sessions; /* of kv_cached: idle sessions' whose KV can go to disk */
        /* taken */
        bool cache, sessions, weights;
        uint64_t kv_limit;   /* the pool now */
        uint64_t order;      /* of what was taken last from it; 0 = nothing */
        uint64_t image_gain; /* of weights_gain */
        struct shed_gain cache_gain, sessions_gain, kv_gain, weights_gain;
};

/* What shed.c keeps of a model between two plans. */
struct shed_model {
        struct shed_view view;
        bool known;            /* the view has been filled in */
        bool restoring;        /* its weights come back */
        uint64_t away_us;      /* since when its weights are gone */
        uint64_t flight;       /* resident bytes that its engine was told to free, not answered yet */
};

struct shed_action {
        enum shed_step step;
        size_t model;        /* SHED_KV and SHED_WEIGHTS */
        uint64_t kv_limit;   /* SHED_KV: the pool's new size */
        uint64_t segments;   /* SHED_WEIGHTS: these go (bit i: segment i), which may be none; or SHED_WHOLE */
};

/* Which segments to give up so that at least `bytes` come free: as few bytes as can be found, since those are read again; of equal
 * ones the last. Never the first, which has the tables; SHED_WHOLE where the others are not enough. `away`: are gone already. */
uint64_t shed_plan_choose(const uint64_t *segment_bytes, size_t n, uint64_t away, uint64_t bytes);

/* Everything that was taken. */
struct shed_gain shed_plan_given(const struct shed_view *views, size_t n);
/* These segments, or all, are no longer there: notes what that gains, and returns it. */
uint64_t shed_plan_part(struct shed_view *view, uint64_t segments);
/* Nothing was taken from it any more. */
void shed_plan_reset(struct shed_view *view);
/* The furthest step of what was taken. */
enum shed_step shed_plan_step(const struct shed_view *views, size_t n);
/* Finds what to take next so that as much as is wanted is given, no further than `limit`, and notes it in the views with what it
 * is reckoned to gain. False: it is enough, or there is nothing left. */
bool shed_plan_take(struct shed_view *views, size_t n, const struct shed_gain *want, enum shed_step limit, uint64_t *order,
                    struct shed_action *ret);
/* Finds what can be taken back, the last first, so that as much as is wanted stays given, and what comes back is no more than
 * `room`; notes it. SHED_KV may come back in part. False: nothing. */
bool shed_plan_return(struct shed_view *views, size_t n, const struct shed_gain *want, uint64_t room, struct shed_action *ret);
