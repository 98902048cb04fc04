/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One spark-engine process, from its start to the moment when it is really gone. It is pinged; one that does not answer
 * is killed. Whatever ends it, everything it had said is read first, then the model hears that it is gone.
 * Owned by the model.
 */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/list.h"
#include "base/macro.h"
#include "channel.h"
#include "power/power.h"
#include "request/request.h"

enum engine_state {
        ENGINE_STARTING,
        ENGINE_READY,
        ENGINE_ENDING, /* told to end, or killed */
};

/* Memory of its KV cache that it was told to do without. */
struct engine_resize {
        uint64_t key;           /* of the errand under way; 0 = none */
        uint64_t last_key, sent_us;
        uint64_t cache, kv;     /* wanted, as in Resize */
        uint64_t told_cache, told_kv; /* told last */
        uint64_t freed;         /* given back to the system by all of it */
};

#define ENGINE_RESIZE_NULL \
        ((struct engine_resize){ .cache = UINT64_MAX, .kv = UINT64_MAX, .told_cache = UINT64_MAX, .told_kv = UINT64_MAX })

struct engine_user {
        uint32_t uid;
        uint64_t kv_used, kv_cached; /* bytes */
};

struct engine {
        struct manager *manager;
        struct model *model;
        enum engine_state state;
        bool was_ready, closed, faulty, retired, watching_write;
        pid_t pid;
        int pidfd;
        struct channel channel;
        sd_event_source *io_source, *exit_source, *kill_timer;
        struct list commands;   /* requests with something to tell */
        struct list dirty_link; /* manager->dirty_engines */
        struct request_error error;
        uint64_t started_us, ready_us, ending_us;
        uint64_t ping_cookie, ping_sent_us, heard_us; /* heard: the last answer to a ping, or Ready */
        bool ping_pending;
        bool changed; /* it did something since it was last asked: what it said then is out of date */
        uint64_t kv_used, kv_cached, kv_resident; /* as it said last; so this: */
        struct engine_resize resize;
        struct power_engine power;
        struct engine_user *users;
        size_t n_users;
};

/* Spawns it and sends Init with the model's segments; where the model is being loaded with those of the load, which it can only
 * read, and engine_tell_image() has to follow. 0 or -errno. */
int engine_start(struct engine **ret, struct model *model);
/* engine-init.c: queues Init; for engine_start(). 0, CHANNEL_E_FULL or -errno. */
int engine_queue_init(struct engine *engine);
/* How much of the image that it was started with is there: so many first tensors, or all of it, sealed. */
void engine_tell_image(struct engine *engine, uint32_t tensors, bool whole);
/* Kills what is left of it without a word to the model. */
struct engine *engine_discard(struct engine *engine);
DEFINE_CLEANUP(struct engine *, engine_discard)
/* Asks it to end; model_engine_gone() follows. */
void engine_stop(struct engine *engine);
/* Kills it, with a word in the log; another one follows. */
void engine_replace(struct engine *engine, const char *why);
/* The same, but what it has said until then counts (tokens of requests that run), and it has less time. */
void engine_retire(struct engine *engine);
/* A request has something to tell. */
void engine_add_command(struct engine *engine, struct request *r);
/* Queues a message that belongs to no request; fd (-1 = none) is duplicated. 0 or -errno (-EAGAIN: not now). */
int engine_send(struct engine *engine, const Spark__Engine__V1__ControlFrame *frame, int fd);
/* Writes what is due. The engine lives on whatever happens: a fault ends the process, not the struct. */
void engine_flush(struct engine *engine);
/* engine-resize.c: its prefix cache and its KV may take no more than this (UINT64_MAX: as at the start); told at once, or when
 * it has answered what it was told before. shed_engine_resized() follows. */
void engine_limit_kv(struct engine *engine, uint64_t cache_bytes, uint64_t kv_bytes);
/* True until it has answered all that it was told. */
bool engine_resizes(const struct engine *engine);
void engine_take_resized(struct engine *engine, const Spark__Engine__V1__Resized *resized);
/* Once a second: ping, deadlines. */
void engine_tick(struct engine *engine, uint64_t now_us);
/* True unless the engine ought to have answered a ping by now. */
bool engine_moves(const struct engine *engine, uint64_t now_us);
