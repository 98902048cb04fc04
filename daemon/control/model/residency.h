/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which models are in memory, and why:
 *
 *   always   so it is configured (`resident` of the model; else the default one)
 *   loaded   by hand (Load): until it is unloaded by hand
 *   held     somebody holds it (HoldWarm), as long as that lasts
 *   demand   requests came for it
 *
 * Those of the last kind are unloaded when they were idle for a while, or earlier, the least recently used first, where
 * another model that is wanted would have no room otherwise: below the memory floor, or by `residency` of the configuration.
 * None is that has requests, nor one that has only just come (else two that do not fit together would push each other
 * out all the time): the one that is wanted waits for a while then. Requests for a model that was unloaded load it again.
 *
 * What waits is asked again when a model has changed, and once a second. Everything here is the manager's; what is kept of
 * a model is in the model.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct manager;
struct model;
struct plan;
struct request_error;

/* Part of struct manager. */
struct residency_state {
        bool changed;       /* something, so that those that wait for room are to be asked again */
        uint64_t settle_us; /* until then memory of models that have gone may still become free */
};

/* Part of struct model. */
struct residency {
        uint64_t resident; /* enum config_resident, as it is in effect: ALWAYS or DEMAND */
        uint64_t idle_us;  /* 0 = never unloaded for idleness */
        bool by_hand;      /* Load asked for it */
        bool again;        /* is being unloaded, and is to be loaded again then */
        unsigned holders;
        uint64_t used_us;  /* last sign of a request */
        uint64_t ready_us; /* since when it is ready */
        uint64_t waits_us; /* since when it waits for room; 0 = it does not */
        uint64_t retry_us; /* ALWAYS, and it could not be loaded: when it is tried again; 0 = it is not */
        unsigned failures; /* in a row */
};

/* From models_configure(), of each model of the configuration. */
struct config_model;
void residency_configure(struct model *model, const struct config_model *config);
/* Its state is another one. */
void residency_moved(struct model *model);
/* A request for it came or went. */
void residency_use(struct model *model);
/* It stays as long as somebody holds it, and is loaded where it is not. */
void residency_hold(struct model *model);
void residency_release(struct model *model);

/* Before anything is done to load it: whether there may be one model more. Where not, others may have been told to go, and
 * the model is kicked when it makes sense to ask again; or what waits for it was refused. */
bool residency_admits(struct model *model);
/* A load of it has its plan, and that says that it fits into memory; whether the configuration lets so much be taken. */
bool residency_allows(const struct model *model, const struct plan *plan);
/* It does not fit: true where it is worth waiting (load_retry() will be called), false: it has to be refused. */
bool residency_make_room(struct model *model, const struct plan *plan);
/* A sentence on what models could make room, for an error; "" where there is none. Returns out. */
const char *residency_explain(const struct model *model, char *out, size_t size);
/* It could not be loaded. One that is always to be there is tried again by itself, less and less often, unless its files are what
 * is wrong; until then, or as long as residency_forget() was not called, it is as any other. */
void residency_failed(struct model *model, const struct request_error *error);
/* Nobody wants it to be tried again, or everything is different now. */
void residency_forget(struct model *model);
/* It is not waiting any more. */
void residency_done(struct model *model);
/* It is about to lose its memory; called while it is known how much that is. */
void residency_unloading(struct model *model);

/* Once a second. */
void residency_tick(struct manager *m, uint64_t now_us);
/* Once a turn: asks again for those that wait, where something has changed. */
void residency_turn(struct manager *m);

/* "always", "loaded", "held", "demand"; "" for a model that is not there and that nobody wants. */
const char *residency_name(const struct model *model);
/* Until it is unloaded for idleness, 0 = it is not. */
uint64_t residency_unload_us(const struct model *model, uint64_t now_us);
