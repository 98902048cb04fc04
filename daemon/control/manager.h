/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The one struct that owns everything of control, and its loop.
 *
 * A turn: sources put what has to be done on lists (models to move on, engines and connections to write to, connections
 * with frames left or to be closed), and one deferred source works these lists off after the sources that were ready with
 * it. So many small frames become few system calls, and no callback frees what another one holds.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/list.h"
#include "bus/bus.h"
#include "config/config.h"
#include "disk.h"
#include "job.h"
#include "keep/keep-clients.h"
#include "listener.h"
#include "memory/memory.h"
#include "model/model.h"
#include "model/residency.h"
#include "notify.h"
#include "request/pace.h"
#include "request/request.h"
#include "users/usage.h"
#include "users/user.h"

enum manager_state {
        MANAGER_STARTING,
        MANAGER_READY,
        MANAGER_STOPPING, /* running requests may go on for a while */
        MANAGER_CLOSING,  /* the last frames go out, the engines end */
};

/* Called after a model came, went, or changed its state or figures. Registered by whoever wants to tell others. */
struct manager_watcher {
        struct list link;
        void (*model_changed)(void *userdata, struct model *model, bool removed);
        void (*memory_changed)(void *userdata); /* what was given back, or how far; may be NULL */
        void *userdata;
};

struct inherited;
struct keep;
struct lease_keeper;
struct leases;
struct polkit;
struct pressure;
struct power;
struct sessions;
struct shed_table;
struct store;

struct manager {
        struct config *config;
        const char *config_file; /* as given on the command line; NULL = the default one, if there is one */
        sd_event *event;
        sd_event_source *turn, *tick, *listener_source;
        sd_event_source *signal_sources[4];
        enum manager_state state;
        uint64_t started_us, stop_us;
        uint64_t engine_gone_us; /* when an engine ended last; 0 = none yet */
        struct listener listener;
        bool listening;
        struct users users;
        struct memory memory;
        struct requests requests;
        struct models models;
        struct jobs jobs;
        struct residency_state residency;
        struct notify notify;
        struct pace pace;
        struct disk *disk;
        struct usage *usage;
        struct list connections;
        size_t n_connections;
        uint64_t last_client;
        struct list dirty_connections; /* something to write, or frames left to look at, or to be freed */
        struct list dirty_engines;
        struct list watchers;
        struct manager_watcher *own_watcher;
        struct bus *bus; /* NULL where none is wanted */
        struct leases *leases;
        struct lease_keeper *lease_keeper;
        struct sessions *sessions;
        struct store *store;
        struct inherited *inherited; /* until everything is in its place */
        struct keep *keep;
        struct clients_kept clients_kept;
        bool handed_on; /* what is kept is the next process's: it is not ended by being freed here */
        struct shed_table *shed;
        struct pressure *pressure;
        struct power *power;
        bool weights_are_copied; /* to a device, by the engine that was ready last */
};

/* config is taken over (on failure too). 0 or -errno, after having logged why. */
int manager_new(struct manager **ret, struct config *config, const char *config_file);
struct manager *manager_free(struct manager *m);
DEFINE_CLEANUP(struct manager *, manager_free)
/* Runs until told to stop. 0 or -errno. */
int manager_run(struct manager *m);
void manager_stop(struct manager *m);
/* Reads the configuration again. 0, or REQUEST_E_REFUSED with *error filled: it stays as it was. */
int manager_reload(struct manager *m, struct request_error *error);

/* Where clients come from. 0 or -errno, after having logged why. */
int manager_listen(struct manager *m);
void manager_listen_end(struct manager *m);

uint64_t manager_now_us(void);
/* Whom to ask for rights; NULL where there is no bus. */
struct polkit *manager_polkit(struct manager *m);
/* Makes sure that a turn follows. */
void manager_kick(struct manager *m);
/* True where requests are still taken. */
bool manager_accepts(const struct manager *m);
/* Root and the daemon's own user: may load and unload, and see everybody's requests. */
bool manager_is_privileged(uid_t uid);
void manager_watch(struct manager *m, struct manager_watcher *w);
void manager_model_changed(struct manager *m, struct model *model, bool removed);
void manager_memory_changed(struct manager *m);
