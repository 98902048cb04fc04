/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The models table: what is configured or was loaded, its state, its resident image (sealed memfds that control owns)
 * and the engine that serves it. Requests wait here until the engine is ready.
 *
 *   AVAILABLE -> LOADING (a loader runs) -> STARTING (an engine starts) -> READY -> UNLOADING -> AVAILABLE
 *   READY -> STARTING when the engine is lost; anything -> FAILED
 *
 * Nothing happens at once: model_kick() puts a model on the turn's list, and model_pump() moves it on.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/list.h"
#include "config/config.h"
#include "engine.pb-c.h"
#include "loadlink.h"
#include "memory/shed-plan.h"
#include "rate.h"
#include "request/request.h"
#include "residency.h"

struct engine;
struct store_model;

/* Who holds a model back: bits. */
enum model_hold {
        MODEL_HOLD_PRESSURE = 1u << 0,
        MODEL_HOLD_LEASE = 1u << 1,
        MODEL_HOLD_SLEEP = 1u << 2,
};

enum model_state {
        MODEL_AVAILABLE,
        MODEL_LOADING,
        MODEL_STARTING,
        MODEL_READY,
        MODEL_UNLOADING,
        MODEL_FAILED,
};

/* What the engine said of itself; strings are cut. */
struct model_facts {
        char architecture[64], format[32], backend[128], device[64], placement[16], kv_memory[16];
        uint64_t parameters, kv_bytes, other_bytes, device_bytes;
        uint32_t context, vocabulary;
        bool has_chat_template;
};

struct model {
        struct manager *manager;
        struct list link, kick_link;
        char name[CONFIG_MODEL_NAME_MAX + 1];
        char *path; /* "" = loaded from a descriptor, or none is needed */
        int input_fd; /* to be loaded from this, or -1 */
        bool is_default, configured;
        struct store_model *stored; /* of the store; else NULL */
        bool load_wanted; /* even without a request: the default model, or kept resident */
        unsigned holds; /* enum model_hold: as long as any is set, neither a load nor an engine of it is started */
        bool slept;     /* its engine was lost with the machine's sleep: its requests are not to blame */
        bool giving;    /* UNLOADING: its memory goes, and it comes back by itself when nobody holds it any more */
        struct shed_model shed; /* what memory was given back of it */
        bool lossless_configured; /* its BF16 weights are to be coded losslessly, whoever asks for it */
        bool lossless;    /* and so they are, in the load that is under way or was done */
        uint64_t context;
        size_t refs; /* requests that mean it */
        enum model_state state;
        struct request_error error; /* FAILED: why */
        uint64_t failed_us;
        struct load *load;
        struct engine *engine; /* LOADING: one that takes the image as it comes, or NULL */
        bool early_tried;      /* there was one, in this load */
        int segments[LOADLINK_SEGMENTS_MAX];
        size_t n_segments;
        uint64_t missing; /* of these (bit i: segment i): given back, to be loaded again before anything else */
        uint64_t kept; /* of these: in the service manager's store */
        uint64_t segment_bytes[LOADLINK_SEGMENTS_MAX];
        uint64_t image_checksum, files_mark; /* of the image's tables, and of the files that it was made of */
        uint64_t image_bytes, kv_promised, engine_promised, load_began_us, load_us;
        uint64_t keep_id; /* of the image that a later process finds; 0 = it would find none */
        struct plan plan; /* of the image that is there */
        uint64_t read_bytes, read_us; /* by its load, of its files */
        struct model_facts facts;
        struct list waiting; /* requests for the model as such, or until it is ready */
        struct list active;  /* requests that the engine has, or is about to get */
        unsigned restarts, deaths_in_row, start_failures;
        sd_event_source *restart_timer;
        struct rate generated; /* tokens */
        struct residency residency;
};

struct models {
        struct list list;
        uint64_t last_id; /* the highest keep_id */
        struct list kicked;
        bool overdue; /* a configured model waits for its name, which one of the store has that is in use */
};

/* Nothing is loaded or asked of it. */
static inline bool model_is_idle(const struct model *m) {
        return m->refs == 0 && m->residency.holders == 0 && !m->load_wanted &&
               (m->state == MODEL_AVAILABLE || m->state == MODEL_FAILED);
}

/* From the configuration, at the start and on reload. 0 or -errno. */
int models_configure(struct manager *m);
void models_deinit(struct manager *m);
/* name "" = the default model, or the only one there is. NULL with *error filled where there is none such. */
struct model *models_find(struct manager *m, const char *name, struct request_error *error);
/* The one of this name that is none of the store's. NULL where there is none. */
struct model *models_get_listed(struct manager *m, const char *name);
/* The model that a Load means, made where it is new; fd is taken over (or -1). NULL with *error filled. */
struct model *models_find_for_load(struct manager *m, const Spark__V1__Load *load, int fd, struct request_error *error);

/* A new entry of the table. NULL without memory. */
struct model *model_new(struct manager *m, const char *name, const char *path);
/* Ends what runs for it. Nothing may mean it any more. */
struct model *model_free(struct model *model);
DEFINE_CLEANUP(struct model *, model_free)
void model_kick(struct model *model);
/* Holds it back until model_release() of the same `why` (once, however often it was held): no load and no engine of it is
 * started, and requests that are not running yet wait; those that run go on. */
void model_hold(struct model *model, enum model_hold why);
/* The same, and what it has in memory is given back: its load is ended, its engine, too, and its image goes. Requests that ran
 * wait, and go on where they were when it is back, which is not counted as a loss. It comes back by itself when nobody
 * holds it any more, unless somebody unloads it meanwhile. */
void model_give_back(struct model *model, enum model_hold why);
void model_release(struct model *model, enum model_hold why);
/* What its requests wait for: the first of those who hold it, "memory", "lease", "sleep"; "power" (nothing is served), "room";
 * "" = nothing. */
const char *model_held_by(const struct model *model);
/* model-segments.c: as model_give_back(), but of the image these segments only (bit i: segment i; may be none); the rest stays, and
 * what has gone is loaded again alone. Again while it is held, it gives more. False where it went as a whole: that was wanted
 * (UINT64_MAX), or single segments could not be loaded again. */
bool model_give_back_part(struct model *model, enum model_hold why, uint64_t segments);
/* Some of its image is there, and no engine: it was given back in part. */
static inline bool model_is_part(const struct model *m) {
        return m->state == MODEL_AVAILABLE && m->n_segments > 0;
}
/* Single segments of its image could be loaded again, as far as is known. */
bool model_has_parts(const struct model *model);
/* Bytes of its image that are to be loaded again before it serves. */
uint64_t model_missing_bytes(const struct model *model);
/* Why it cannot be loaded with coded weights now: it is, or is being loaded, without. 0, or REQUEST_E_REFUSED with *error
 * filled. */
int model_check_lossless(const struct model *model, struct request_error *error);
/* Moves everything on that was kicked. */
void models_pump(struct manager *m);
/* Unloads one that is ready, or of which a part is there, and has no requests. */
void model_unload_idle(struct model *model);
/* What waits for it to be loaded is refused; it is as if nobody had asked. */
void model_give_up(struct model *model, const struct request_error *error);
/* Tells everybody who waits for it in which stage it is. */
void model_tell_waiting(struct model *model, const char *stage);
const char *model_state_name(const struct model *model);
/* Starts to unload models and lets engines end; true when all are gone. */
bool models_stop(struct manager *m);
/* Once a second. */
void models_tick(struct manager *m, uint64_t now_us);
/* Its KV cache is in a device's own memory: the host has as much as without. Where both share one, it is not away. */
bool model_kv_is_away(const struct model *model);
/* memory-count.c: brings the ledger's figures up to date from what models and users hold. */
void models_count_memory(struct manager *m);

/* From load.c: it has got on; it has ended. */
void model_load_progress(struct model *model, const struct load *load);
/* The image's tables and so many of its first tensors are in place: an engine that copies weights to a device can begin. */
void model_load_arrived(struct model *model, uint32_t tensors);
void model_load_done(struct model *model);
void model_load_failed(struct model *model, const struct request_error *error);
/* From model-keep.c: its image is there from before. */
void model_adopted(struct model *model);
/* From engine.c */
void model_engine_ready(struct model *model, const Spark__Engine__V1__Ready *ready);
/* The engine's process is gone and freed; error is set where the engine itself said why it can't serve. lost: it lost its
 * device, which another process may find in order. */
void model_engine_gone(struct model *model, bool was_ready, bool lost, uint64_t lived_us,
                       const struct request_error *error);
