/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The configuration: read once from a libconfig file (again on SIGHUP), checked in full before anything of it is used,
 * and read-only afterwards. A fault names the file, the line and the key. A plain struct, owned by the manager.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/macro.h"

#define CONFIG_DEFAULT_FILE "/etc/sparkd/sparkd.conf"
#define CONFIG_MODELS_MAX 64u
#define CONFIG_USERS_MAX 1024u
#define CONFIG_MODEL_NAME_MAX 64u /* bytes, without NUL */

enum {
        CONFIG_E_INVALID = 1, /* see struct config_error */
};

enum config_bus { CONFIG_BUS_NONE, CONFIG_BUS_SESSION, CONFIG_BUS_SYSTEM };
/* Who may do something; CONFIG_WHO_WORDS. */
enum config_who { CONFIG_WHO_NONE, CONFIG_WHO_PRIVILEGED, CONFIG_WHO_ALL };
/* Who may declare prefixes public. */
enum config_share { CONFIG_SHARE_NONE, CONFIG_SHARE_PRIVILEGED, CONFIG_SHARE_ALL };

struct config_error {
        char text[512]; /* "FILE:LINE: sentence" */
};

struct config_model {
        char *name;
        char *path; /* absolute; "" with the null backend */
        bool is_default;
        bool lossless; /* its BF16 weights are coded when it is loaded */
        uint64_t context; /* 0 = the model's own */
        uint64_t resident; /* enum config_resident */
        uint64_t idle_seconds; /* CONFIG_UNSET: as `residency` says */
};

/* When a model is in memory: always; for requests, until it was idle for a while; AUTO: the default model always, others for
 * requests. */
enum config_resident { CONFIG_RESIDENT_AUTO, CONFIG_RESIDENT_ALWAYS, CONFIG_RESIDENT_DEMAND };

/* See residency.h. */
struct config_residency {
        uint64_t idle_seconds; /* without requests: unloaded; 0 = never */
        uint64_t min_seconds;  /* not unloaded for another one before it was resident for so long */
        uint64_t wait_seconds; /* a load without room waits for so long until others may be unloaded */
        uint64_t max_models;   /* loaded at once; 0 = no limit */
        uint64_t max_bytes;    /* of all of them; 0 = no limit but the memory floor */
        uint64_t holds;        /* enum config_who: HoldWarm */
};

/* What requests do that need memory which was given away: wait until it is back, or hear BUSY. */
enum config_lease_policy { CONFIG_LEASE_WAIT, CONFIG_LEASE_BUSY };

struct config_leases {
        uint64_t who;            /* enum config_who: ReserveMemory */
        uint64_t per_user;       /* of both kinds */
        uint64_t bytes_per_user; /* 0 = no limit */
        uint64_t policy;         /* enum config_lease_policy, where the lease does not say */
        uint64_t retry_seconds;  /* that BUSY tells to wait */
};

struct config_limits {
        uint64_t connections, connections_per_user;
        uint64_t requests, requests_per_user, requests_per_connection;
        uint64_t bytes_per_user; /* kept requests, journals and input buffers of one uid */
        uint64_t running_per_user, queued_per_user, kv_per_user, tokens_per_day; /* of one uid; 0 = no limit */
        uint64_t max_priority;   /* Spark__V1__Priority */
        uint64_t share_prefixes; /* enum config_share */
        uint64_t sessions_per_user;
        uint64_t session_bytes_per_user; /* on disk */
        uint64_t session_idle_seconds;   /* after that a persistent one is on disk only */
        uint64_t output_frames, output_bytes; /* per connection */
        uint64_t output_seconds; /* unread for so long: SLOW_READER */
        uint64_t hello_seconds;
        uint64_t engine_seconds; /* without an answer to a ping: the engine is taken for dead */
        uint64_t step_timeout_ms; /* of a device, longer than a step is expected to take: the engine ends; 0 = never */
        uint64_t engine_losses;  /* of one request: ENGINE_LOST */
        uint64_t load_seconds;   /* without progress: the load is given up */
        uint64_t stop_seconds;   /* SIGTERM: running requests may go on for so long */
        uint64_t sequences, rows; /* of an engine's step; 0 = its own default */
};

/* Who may put models into the store. */
enum config_import { CONFIG_IMPORT_NONE, CONFIG_IMPORT_PRIVILEGED, CONFIG_IMPORT_ALL };

struct config_store {
        uint64_t enabled;
        uint64_t import;         /* enum config_import */
        uint64_t imports;        /* and verifications, at once */
        uint64_t max_bytes;      /* of all that is stored; 0 = no limit */
        uint64_t bytes_per_user; /* of the models that one uid has a name for; 0 = no limit */
        uint64_t reserve;        /* bytes of its file system that stay free */
};

/* Who keeps the machine awake while an interactive request of theirs runs. */
enum config_awake { CONFIG_AWAKE_NOBODY, CONFIG_AWAKE_PEOPLE, CONFIG_AWAKE_ALL };
#define CONFIG_SERVES_NONE 4u /* above every Spark__V1__Priority */

/* What engines are to do without, by the state of the power supply; 0 = no cap. On a critical battery they count as low. */
enum config_caps_state { CONFIG_CAPS_MAINS, CONFIG_CAPS_BATTERY, CONFIG_CAPS_LOW, CONFIG_CAPS_HOT, CONFIG_CAPS_STATES };

struct config_caps {
        uint64_t batch;   /* rows of a step */
        uint64_t threads; /* that compute */
        uint64_t clocks;  /* percent of the highest ones; 100 = no cap */
};

/* What the power supply, sleep and heat change; see power-policy.h. */
struct config_power {
        uint64_t source;      /* 0 = whoever can say, 1 = nobody is asked */
        uint64_t sleep;       /* takes part in the machine's going to sleep: 0 or 1 */
        uint64_t stay_awake;  /* enum config_awake */
        uint64_t on_battery, on_low, on_critical, when_hot; /* the lowest Spark__V1__Priority served then, or
                                                             * CONFIG_SERVES_NONE */
        uint64_t power_saver; /* the profile of this name counts as being on battery: 0 or 1 */
        uint64_t wait;        /* what is deferred on battery waits (1) or is refused (0) */
        struct config_caps caps[CONFIG_CAPS_STATES];
        uint64_t low_percent, critical_percent; /* of the battery */
        uint64_t battery_tokens_per_day, battery_joules_per_day; /* of one uid, on battery; 0 = no limit */
        char *sysfs;          /* where the kernel's files are */
};

/* What some users may have. CONFIG_UNSET: as everybody, by `limits`. */
struct config_user {
        char *user, *group; /* as written, or NULL */
        uint64_t uid;       /* as written */
        uid_t *uids;        /* who is meant by any of the three: at least one, but for a group without members */
        size_t n_uids;
        uint64_t weight;       /* of the user's share of the service */
        uint64_t max_priority; /* Spark__V1__Priority */
        uint64_t connections, requests, bytes, running, queued, kv, tokens_per_day;
        uint64_t import;      /* into the store: 0 or 1 */
        uint64_t store_bytes; /* there */
};
#define CONFIG_UNSET UINT64_MAX

struct config {
        char *file; /* NULL = built-in defaults */
        char *socket;
        uint64_t socket_mode;
        char *state_dir;
        uint64_t bus; /* enum config_bus */
        char *backend; /* "auto", "cpu", "cuda", "null" */
        uint64_t threads; /* 0 = one per core */
        char *cuda_library;   /* path of libspark-cuda.so; "" = where it is installed */
        char *cuda_placement; /* "auto", "unified", "device" */
        char *cuda_activations; /* "bf16", "fp8" */
        uint64_t log_level; /* enum log_level */
        struct config_model *models;
        size_t n_models;
        struct config_user *users;
        size_t n_users;
        uint64_t memory_floor; /* bytes; CONFIG_FLOOR_AUTO */
        uint64_t memory_kv;    /* bytes for each model's KV cache; 0 = chosen from what is free */
        uint64_t memory_pressure; /* given back when the machine is short of memory: 0 or 1 */
        uint64_t memory_restore_seconds; /* with room for so long it is taken again */
        uint64_t memory_wait_seconds; /* requests for a model that was given back wait for so long, then they are BUSY */
        char *kv_format;       /* "f16", "q8_0" or "f32" */
        uint64_t inter_token_ms; /* wanted gap between two tokens of a running stream */
        struct config_limits limits;
        struct config_store store;
        struct config_leases leases;
        struct config_residency residency;
        struct config_power power;
        uint64_t null_step_us; /* null backend: pretended time of a step */
};

#define CONFIG_FLOOR_AUTO UINT64_MAX

/* Reads and checks a file. Relative paths in it are relative to its folder. 0, CONFIG_E_INVALID with *error filled, or
 * -errno (-ENOENT: there is no such file). */
int config_load(struct config **ret, const char *file, struct config_error *error);
/* As config_load() for a text that is no file; relative paths stay relative to `folder`. */
int config_parse(struct config **ret, const char *text, const char *folder, struct config_error *error);
struct config *config_free(struct config *config);
DEFINE_CLEANUP(struct config *, config_free)
/* Prints the effective configuration, in the syntax of the file. */
void config_print(const struct config *config, FILE *out);
/* The first entry of 'users' that means this uid, or NULL. */
const struct config_user *config_find_user(const struct config *config, uid_t uid);
bool config_is_null_backend(const struct config *config);
/* True where a string may be a model's name: 1-64 of letters, digits, "._:-", not beginning with a dot. */
bool config_model_name_valid(const char *name);
