/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#define SPARK_H

/*
 * libspark: use the machine's shared language model, which the service sparkd keeps resident, from C.
 *
 * A `struct spark` is a connection. Requests are started with spark_generate() and its siblings, any number at once;
 * each is known by an id that is never used twice on a connection. What comes back arrives as events: any number of
 * SPARK_EVENT_TOKEN and SPARK_EVENT_PROGRESS, then exactly one SPARK_EVENT_DONE or SPARK_EVENT_ERROR.
 *
 * There are two ways to receive them, which may be mixed on a connection:
 *   - with a callback: it is called from spark_process(), which an event loop calls whenever spark_fd() is readable, or
 *     from spark_wait();
 *   - without (callback NULL): the library collects, and spark_wait() returns the whole result.
 *
 * Errors: functions return 0 (or what they document), -errno when something failed on this side or the connection is
 * gone (-ENOTCONN), and, where documented, a positive enum spark_code when the service refused. Nothing in the library
 * ends the process, writes to standard error, or keeps global state.
 *
 * Threads: every function may be called from any thread with the same connection, which has one mutex. Callbacks run in
 * the thread that processes, one at a time per connection and without that mutex held, so they may call anything but
 * spark_process() and spark_wait() on the same connection (-EDEADLK). Different connections share nothing.
 *
 * Structures that the caller fills start with their size: initialise them with their _INIT macro, then set fields.
 * Zero means the default everywhere, so what a later version adds has no effect on older callers. Structures that the
 * library hands out may grow at their end: never copy them by sizeof.
 *
 * Text is UTF-8 unless a field says otherwise. Sizes are in bytes, times in milliseconds unless a name says otherwise.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define SPARK_SOCKET_DEFAULT "/run/sparkd/sparkd.sock"

struct spark;

/* What the service answers instead of a result. The numbers are the protocol's and stay. */
enum spark_code {
        SPARK_INVALID_ARGUMENT = 1,
        SPARK_INVALID_UTF8 = 2,
        SPARK_CONTEXT_OVERFLOW = 3, /* see spark_error.have and .max, in tokens */
        SPARK_MODEL_NOT_FOUND = 4,
        SPARK_MODEL_INVALID = 5,
        SPARK_BUSY = 6,             /* see spark_error.retry_after_ms */
        SPARK_QUOTA_EXCEEDED = 7,
        SPARK_PERMISSION_DENIED = 8,
        SPARK_NO_MEMORY = 9,        /* see spark_error.have and .max, in bytes */
        SPARK_CANCELLED = 10,
        SPARK_SLOW_READER = 11,
        SPARK_DEFERRED_ON_BATTERY = 12,
        SPARK_ENGINE_LOST = 13,
        SPARK_STOPPING = 14,
        SPARK_UNIMPLEMENTED = 15,
        SPARK_INTERNAL = 16,
        SPARK_DISCONNECTED = 1000,  /* made by the library: the connection ended before the request did */
        SPARK_PROTOCOL = 1001       /* made by the library: the service sent something that makes no sense */
};

/* Who is waiting for a request. Between users, clients and requests of one priority the service is shared out fairly;
 * a higher one comes first, and a lower one is never starved to nothing. The numbers are the protocol's and stay. */
enum spark_priority {
        SPARK_PRIORITY_DEFAULT = 0,     /* normal, or the highest that the caller may use where that is lower */
        SPARK_PRIORITY_BACKGROUND = 1,  /* takes what is left */
        SPARK_PRIORITY_NORMAL = 2,
        SPARK_PRIORITY_INTERACTIVE = 3  /* a person is waiting */
};

/* "INVALID_ARGUMENT", ...; "UNKNOWN" for a number this version does not know. */
const char *spark_code_name(int code);

struct spark_error {
        int code;                /* enum spark_code, or a number from a newer service */
        const char *message;     /* a sentence for a person */
        uint32_t retry_after_ms; /* SPARK_BUSY, SPARK_QUOTA_EXCEEDED: when it makes sense to try again; 0: not by waiting */
        uint64_t have;           /* SPARK_CONTEXT_OVERFLOW, SPARK_NO_MEMORY: what the request needs */
        uint64_t max;            /* ... and what there is */
        int needs_person;        /* SPARK_PERMISSION_DENIED: a person who is asked might allow it, see
                                  * spark_set_interactive_authorization() */
};

/* ---- connection ---------------------------------------------------------------------------------------------- */

/* Connects to the service at `path` (NULL: SPARK_SOCKET_DEFAULT) and greets it; `software` names the caller for people
 * who look at the service, e.g. "myeditor 2.1" (NULL: nothing; at most 128 bytes). Does not wait for the answer: see
 * spark_wait_hello(). 0 and the connection in *ret, or -errno: -ENOENT and -ECONNREFUSED when the service does not run,
 * -EACCES when the caller may not use its socket, -EAGAIN when too many wait to be let in.
 *
 * A service that is being restarted is waited for, three seconds at most: here, where it refuses (-ECONNREFUSED, -EAGAIN), and
 * later, in spark_process(), where the connection ends before the greeting was answered. Until then requests are held back,
 * so nothing can have been done twice. What comes later is never tried again. */
int spark_connect(struct spark **ret, const char *path, const char *software);

/* The same over a connected stream socket, such as org.sparkd.Spark1.Manager.OpenSession() hands out. Takes ownership
 * of fd when it succeeds. */
int spark_connect_fd(struct spark **ret, int fd, const char *software);

/* References. The last spark_unref() closes the connection, which cancels what still runs; callbacks are not called any
 * more. May be called from a callback. Both return their argument or NULL: `s = spark_unref(s)`. */
struct spark *spark_ref(struct spark *s);
struct spark *spark_unref(struct spark *s);

/* Waits until the service has answered the greeting, at most timeout_ms (-1: as long as it takes). 0, a positive enum
 * spark_code when the service refused, -ETIMEDOUT, -EINTR, -ENOTCONN. Needed only by those who want to know. */
int spark_wait_hello(struct spark *s, int timeout_ms);

/* What the service calls itself, e.g. "sparkd 0.1.0"; NULL until its greeting came. Lives as long as the connection. */
const char *spark_server_software(struct spark *s);

/* The highest enum spark_priority that the caller may ask for: above it requests are refused with
 * SPARK_PERMISSION_DENIED. SPARK_PRIORITY_DEFAULT until the service's greeting came, or where it doesn't say. */
int spark_max_priority(struct spark *s);

/* 1 when the connection has failed and *ret_error (may be NULL) says why, 0 when it is fine. The error lives as long as
 * the connection. */
int spark_failed(struct spark *s, struct spark_error *ret_error);

/* ---- event loop ---------------------------------------------------------------------------------------------- */

/* A descriptor to poll for POLLIN: readable when spark_process() has something to do, be it reading or writing. It
 * stays the same for the life of the connection and is not to be read, written or closed. */
int spark_fd(struct spark *s);
/* What to poll for: always POLLIN, for symmetry with other libraries. */
int spark_events(struct spark *s);

/* Reads, writes and calls callbacks; a bounded amount of work per call. Never waits for the service, only for another
 * thread that is processing the same connection. 1 = something was done, 0 = nothing to do, -ENOTCONN = the connection
 * is gone (after all events were delivered: every open request had its SPARK_EVENT_ERROR), -EDEADLK from a callback. */
int spark_process(struct spark *s);

/* ---- events -------------------------------------------------------------------------------------------------- */

enum spark_event_type {
        SPARK_EVENT_TOKEN = 1,
        SPARK_EVENT_PROGRESS = 2,
        SPARK_EVENT_DONE = 3,
        SPARK_EVENT_ERROR = 4
};

/* One or more generated tokens. */
struct spark_tokens {
        const uint32_t *ids;        /* [n] */
        size_t n;
        const char *text;           /* what they add: whole characters unless raw_bytes; may be empty; NUL-terminated */
        size_t text_size;           /* without the NUL */
        uint32_t index;             /* of ids[0], counted from 0 in this request */
        const float *logprobs;      /* [n], natural logarithm; NULL unless asked for */
        size_t top_n;               /* best others per token */
        const uint32_t *top_ids;    /* [n][top_n] */
        const float *top_logprobs;  /* [n][top_n] */
};

struct spark_progress {
        const char *stage;          /* "queue", "survey", "load", "prefill", "score", "import", "verify", "pack", "hash", "room"
                                     * (others have to be unloaded first); of leases "yield", "granted", "warm" */
        uint64_t done;              /* tokens for "prefill" and "score", bytes else */
        uint64_t total;             /* 0 = unknown */
        uint64_t bytes_per_second;  /* of stages that count bytes, over the last seconds; 0 = not known (yet) */
        uint64_t eta_ms;            /* until the stage is done, at that speed; 0 = not known */
};

enum spark_finish {
        SPARK_FINISH_STOP = 1,        /* the model ended its answer */
        SPARK_FINISH_STOP_STRING = 2, /* one of the stop strings was about to come (it is not part of the text) */
        SPARK_FINISH_LENGTH = 3       /* max_tokens, or the end of the context */
};

/* What weights of one kind take in memory. */
struct spark_tensor_share {
        const char *kind;           /* "embedding", "attention", "feed_forward", "experts", "output", "other" */
        uint64_t parameters;
        uint64_t bytes;
};

/* What a model's weights are. */
struct spark_weights {
        const struct spark_tensor_share *const *kinds; /* [n_kinds], those that there are */
        size_t n_kinds;
        uint64_t parameters;        /* of all kinds; so bytes */
        uint64_t bytes;
        uint64_t coded_parameters;  /* of these: coded losslessly */
        uint64_t coded_bytes;
        int packed;                 /* from a packed image */
        int estimated;              /* of a shape: what coded weights take depends on their values */
};

struct spark_model {
        const char *name;
        const char *path;           /* "" when loaded from a descriptor */
        const char *state;          /* "available", "loading", "starting", "ready", "failed" */
        int is_default;
        int has_chat_template;
        const char *architecture;   /* this and what follows: once it was loaded */
        const char *format;         /* of most weights, e.g. "Q4_K" */
        const char *backend;        /* what computes, e.g. "cpu (avx2, 2 threads)" */
        const char *error;          /* state "failed": why */
        uint64_t parameters;
        uint64_t image_bytes;
        uint64_t kv_bytes;
        uint64_t generated_tokens;  /* since the service started */
        float tokens_per_second;    /* generated, over the last seconds */
        uint32_t context;           /* tokens */
        uint32_t vocabulary;        /* tokens */
        uint32_t running;           /* requests */
        uint32_t queued;            /* requests */
        uint32_t engine_restarts;
        uint32_t load_percent;      /* state "loading" */
        uint64_t kv_used_bytes;     /* of kv_bytes: held by requests */
        uint64_t kv_cached_bytes;   /* of kv_bytes: the prefix cache, given back whenever requests need it */
        const char *digest;         /* of the model store: SHA-256 in hexadecimal digits, else ""; so what follows */
        const char *const *aliases; /* [n_aliases] further names */
        size_t n_aliases;
        uint64_t stored_bytes;
        int pinned;
        int damaged;                /* a file is missing or was found damaged */
        const char *device;         /* that computes, e.g. "NVIDIA GB10 (sm_121)"; "": the host's processors */
        const char *placement;      /* where weights are: "host", "unified", "device"; "" until it was loaded */
        const char *kv_memory;      /* where the KV cache is: "host", "device" */
        uint64_t device_bytes;      /* of a device's own memory that are taken */
        const char *load_stage;     /* state "loading": what load_percent is of, "survey" or "load" */
        int lossless;               /* some of its weights are coded losslessly */
        int packed;                 /* its file is a packed image */
        const struct spark_weights *weights; /* NULL where that is not known */
        const char *resident;       /* why it is in memory: "always", "loaded", "held", "demand"; "" = it is not */
        uint64_t idle_ms;           /* state "ready": since its last request */
        uint64_t unload_ms;         /* until it is unloaded for idleness; 0 = it is not */
        uint32_t holders;           /* spark_hold_warm() leases */
        const char *held;           /* what its requests wait for: "memory", "lease", "sleep", "power", "room"; "" = nothing
                                     * holds it back */
        uint64_t missing_bytes;     /* of its image: given back, and loaded again before it serves; image_bytes are there */
};

struct spark_stored_file {
        const char *role;           /* "model", "part" */
        const char *name;           /* as it was imported */
        const char *sha256;         /* 64 hexadecimal digits */
        uint64_t bytes;
};

/* A model of the store. */
struct spark_stored {
        const char *digest;         /* "" after the model was removed; then nothing but freed_bytes is set */
        const char *const *names;   /* [n_names], the oldest first */
        size_t n_names;
        const struct spark_stored_file *const *files; /* [n_files] */
        size_t n_files;
        uint64_t bytes;             /* of all files */
        uint64_t imported;          /* seconds since 1970 */
        uint32_t uid;               /* who imported it first */
        int pinned;
        int damaged;
        const char *state;          /* as spark_model.state */
        const char *architecture;
        const char *format;         /* of most weights; "" = not known */
        uint64_t parameters;
        uint32_t context;           /* tokens */
        uint32_t vocabulary;        /* tokens */
        int has_chat_template;
        uint64_t image_bytes;       /* that it takes when it is loaded, */
        uint64_t kv_bytes;          /* and a KV cache for one whole context */
        uint64_t available_bytes;   /* of the machine, now */
        uint64_t floor_bytes;       /* kept free */
        uint64_t freed_bytes;       /* removing: of the disk */
        const char *method;         /* importing: "reflink", "copy", "known" (the store had it), packing: "pack", else "" */
        const struct spark_weights *weights; /* NULL where that is not known */
};

struct spark_request_info {
        uint32_t uid;
        uint32_t pid;
        const char *unit;           /* systemd unit of the client, "" where unknown */
        const char *model;
        const char *kind;           /* "generate", "chat", ... */
        const char *state;          /* "queued", "running", "paused" */
        uint32_t prompt_tokens;
        uint32_t completion_tokens;
        float age_ms;
        int priority;               /* enum spark_priority */
        float tokens_per_second;    /* generated, since the first one */
        uint32_t cached_tokens;     /* of the prompt */
};

/* What a user has at the moment, and may have. Limits: 0 = none. */
struct spark_user_info {
        uint32_t uid;
        uint32_t weight;            /* of its share of the service */
        uint32_t connections;
        uint32_t running;           /* requests */
        uint32_t queued;            /* requests */
        uint32_t sessions;
        uint64_t bytes;             /* kept for it: requests, answers, input */
        uint64_t kv_used_bytes;     /* held by its requests */
        uint64_t kv_cached_bytes;   /* its part of the prefix cache */
        uint64_t kv_limit_bytes;
        uint64_t tokens_today;      /* of prompts, as far as they were computed, and generated ones */
        uint64_t tokens_per_day;    /* limit */
        float tokens_per_second;    /* generated, over the last seconds */
        uint64_t energy_uj_today;   /* measured for its tokens today (UTC) */
        uint64_t battery_tokens_today; /* computed on battery; so this: */
        uint64_t battery_energy_uj_today;
        uint64_t battery_tokens_per_day; /* limits; 0 = none */
        uint64_t battery_joules_per_day;
        uint64_t energy_tokens_today; /* that it was measured for; 0 = not known */
};

/* What one user has used of one model on one day. */
struct spark_usage_row {
        const char *day;            /* YYYY-MM-DD, UTC */
        uint32_t uid;
        const char *model;          /* "" where it is not known which */
        uint64_t requests;
        uint64_t prompt_tokens;
        uint64_t cached_tokens;     /* of prompt_tokens: needed no work */
        uint64_t completion_tokens;
        uint64_t refused;           /* requests refused: busy or quota */
        uint64_t energy_uj;         /* measured for tokens that were computed, */
        uint64_t energy_tokens;     /* so many; 0 = not known */
};

struct spark_usage_result {
        const struct spark_usage_row *const *rows; /* [n_rows], by day, uid and model */
        size_t n_rows;
        uint64_t tokens_today;      /* of the caller */
        uint64_t tokens_per_day;    /* its limit; 0 = none */
        uint64_t energy_uj_today;   /* of the caller; measured for */
        uint64_t energy_tokens_today; /* so many tokens; 0 = not known */
};

struct spark_load_result {
        const char *model;          /* the name it goes by */
        uint64_t image_bytes;
        uint64_t kv_bytes;
        uint64_t available_bytes;   /* memory available when planned */
        uint64_t floor_bytes;       /* kept free */
        float load_ms;              /* until the model could serve; of a dry run: until the plan stood */
        uint64_t engine_bytes;      /* activations, logits and what else an engine takes, as planned */
        uint64_t promised_bytes;    /* to others when planned, of available_bytes */
        uint64_t kv_bytes_per_1000_tokens; /* in kv_format */
        const char *kv_format;
        uint64_t kv_tokens;         /* that the planned KV cache holds */
        uint32_t context;           /* the longest that one sequence can get with it */
        uint32_t context_max;       /* the longest with all the memory that there was */
        int64_t left_bytes;         /* free above the floor afterwards, as planned; negative: so much is missing */
        int fits;
        const char *architecture;
        const char *format;         /* of most weights */
        uint64_t parameters;
        uint64_t read_bytes;        /* of the model's files; 0: of a dry run */
        float read_ms;              /* that took */
        uint64_t bytes_per_second;  /* the one by the other */
        const struct spark_weights *weights; /* NULL where that is not known */
        uint64_t memory_bytes;      /* of a dry run for another machine: as it was asked; else 0 */
};

struct spark_session {
        const char *id;
        const char *model;
        const char *name;           /* for people; may be "" */
        const char *state;          /* "idle", "busy", "stored" (on disk; comes back by itself) */
        uint32_t uid;
        int persistent;
        uint64_t tokens;
        uint64_t stored_bytes;      /* on disk; 0: not there as it stands now */
        float idle_s;               /* seconds since it was used */
};

struct spark_lease; /* spark-lease.h */
struct spark_job;   /* spark-job.h */

/* The memory ledger: bytes of the host's memory unless it says otherwise. */
struct spark_memory {
        uint64_t machine;           /* that the machine has, */
        uint64_t machine_available; /* and that anybody could take of it */
        uint64_t limit;             /* that a control group allows the service; 0 = no limit */
        uint64_t available;         /* to the service: the lower of what machine and limit leave */
        uint64_t floor;             /* of that stays free */
        uint64_t headroom;          /* that may be promised now */
        uint64_t missing;           /* to the floor; 0 = it holds */
        uint64_t promised;          /* to what the service has begun, not taken yet */
        uint64_t given;             /* given back for somebody who asked for it: not to be taken */
        uint64_t images;            /* of the service; so the next eight */
        uint64_t kv;
        uint64_t kv_used;           /* of kv: held by running requests */
        uint64_t kv_cached;         /* of kv: the prefix caches */
        uint64_t kv_resident;       /* of kv: in memory, as far as engines say so */
        uint64_t engine;            /* engines' other memory */
        uint64_t control;           /* the daemon itself */
        uint64_t users;             /* of control: requests, answers that wait, sessions' text */
        uint64_t device;            /* of devices' own memory */
        uint64_t ours;              /* all of the service that is in the host's memory */
        uint64_t others;            /* what is taken and not the service's */
        int pressure_known;
        float pressure_some;        /* per cent of the last 10 s in which somebody, */
        float pressure_full;        /* or everybody, waited for memory */
        const char *pressure_source; /* who tells when that happens: "service manager", "control group", "machine"; "" = nobody */
        int pressure;               /* the service gives back for it */
        const char *step;           /* how far: "nothing", "cache", "sessions", "kv", "weights" */
        uint64_t shed;              /* so much */
};

/* Power supply, sleep, heat and energy, as the service sees them. */
struct spark_power {
        const char *supply;         /* "mains", "battery", "low", "critical" */
        const char *source;         /* that says so: "upower", "sysfs", "none" */
        int has_battery;
        float percent;              /* of the battery */
        const char *profile;        /* "power-saver", "balanced", "performance"; "" = not known */
        const char *serves;         /* the lowest priority that is served now; "none": everything waits */
        int throttled;              /* a device that computes slows down for heat or power, now or lately */
        int temperature_known;
        int temperature_c;
        const char *temperature_source; /* "device", "sysfs" */
        const char *sleep;          /* "awake", "preparing", "asleep", "resuming" */
        const char *inhibitor;      /* that delays sleep: "held", "released", "absent", "refused", "off" */
        const char *awake;          /* what a person's interactive request holds up: "" = nothing, "idle", "sleep",
                                     * "sleep:idle" */
        uint32_t sleeps;            /* since the start */
        uint32_t sleep_ms;          /* the last time: from its announcement until the service was ready for it */
        uint32_t resume_ms;         /* the last time: until all engines were tested */
        const char *energy_source;  /* "nvml", "rapl", "unknown" */
        uint64_t energy_uj;         /* since the start, while tokens were computed; */
        uint64_t energy_tokens;     /* these, of prompts and answers */
        float joules_per_token;     /* over the last minute of work; 0 = not measured */
        int watts_known;
        float watts;                /* lately */
        const char *const *notes;   /* [n_notes] sentences for a person: what is not there, or was refused */
        size_t n_notes;
        uint32_t batch;             /* what engines are to do without, 0 = no cap: rows of a step; */
        uint32_t threads;           /* threads of the host's that compute; */
        uint32_t clocks;            /* percent of the highest clocks */
        const char *in_force;       /* of these, those that all engines keep to: "batch threads clocks" */
        const char *clocks_by;      /* who caps them: "uclamp", "nvml", "" = nobody */
        const char *refused;        /* "clocks: not permitted" and the like, "" = nothing was */
};

struct spark_status_result {
        const char *version;
        const char *state;          /* "starting", "ready", "stopping" */
        float uptime_s;
        uint32_t connections;
        uint32_t requests_running;
        uint32_t requests_queued;
        uint64_t memory_total;      /* bytes, of the machine; so the next two */
        uint64_t memory_available;
        uint64_t memory_floor;
        uint64_t memory_images;     /* bytes, of the service; so the next two */
        uint64_t memory_kv;
        uint64_t memory_engine;
        const struct spark_model *const *models; /* [n_models] */
        size_t n_models;
        const struct spark_request_info *const *requests; /* [n_requests] */
        size_t n_requests;
        const struct spark_user_info *const *users; /* [n_users]: the caller; root and the service's user: everybody */
        size_t n_users;
        uint64_t memory_kv_used;    /* of memory_kv: held by requests */
        uint64_t memory_kv_cached;  /* of memory_kv: the prefix cache */
        const char *const *warnings; /* [n_warnings] sentences for a person: what does not work as it should */
        size_t n_warnings;
        const struct spark_lease *const *leases; /* [n_leases], the oldest first */
        size_t n_leases;
        uint64_t leased_bytes;      /* asked for by all of them together */
        const struct spark_memory *memory; /* NULL: the service does not say */
        const struct spark_power *power; /* NULL: the service is older than that */
};

/* How a request ended. Which fields are set depends on the request; the others are zero. */
struct spark_done {
        int finish;                 /* generate, chat: enum spark_finish */
        uint64_t seed;              /* generate, chat: the one that was used */
        uint32_t prompt_tokens;     /* generate, chat, score, prewarm (of the prefix); so the next two */
        uint32_t cached_tokens;     /* of the prompt: needed no work */
        uint32_t completion_tokens;
        float queue_ms;             /* generate, chat, score; so the next two */
        float prefill_ms;
        float decode_ms;
        const uint32_t *ids;        /* tokenize: [n_ids] */
        size_t n_ids;
        const char *text;           /* detokenize: exact bytes, NUL-terminated beyond text_size */
        size_t text_size;
        uint64_t score_tokens;      /* score: how many were scored */
        double nll;                 /* score: mean negative log-likelihood per token, natural logarithm */
        double perplexity;          /* score */
        const struct spark_model *const *models; /* models: [n_models] */
        size_t n_models;
        const struct spark_load_result *load;     /* load, else NULL */
        const struct spark_status_result *status; /* status, else NULL */
        const struct spark_usage_result *usage;   /* usage, else NULL */
        const struct spark_session *session; /* what concerns one session: as it stands then; else NULL */
        const struct spark_session *const *sessions; /* session list: [n_sessions] */
        size_t n_sessions;
        const struct spark_stored *stored;   /* what concerns one stored model, else NULL */
        const struct spark_job *const *jobs; /* jobs: [n_jobs], the oldest first */
        size_t n_jobs;
};

/* Everything here and below lives until the callback returns. */
struct spark_event {
        int type;                              /* enum spark_event_type */
        uint64_t id;                           /* of the request */
        const struct spark_tokens *tokens;     /* SPARK_EVENT_TOKEN, else NULL; likewise: */
        const struct spark_progress *progress;
        const struct spark_done *done;
        const struct spark_error *error;
        const struct spark_load_result *load;  /* with an error: the sums of a load for which there is no memory, else NULL */
};

/* Return 0 to go on; anything else cancels the request (it still ends with an event). What the callback has seen counts
 * as consumed: the service may send as many tokens again (unless SPARK_MANUAL_CREDIT). */
typedef int (*spark_event_fn)(struct spark *s, const struct spark_event *event, void *userdata);

/* ---- requests ------------------------------------------------------------------------------------------------
 *
 * Each function copies what it is given, starts the request and returns without waiting: 0 and the id in *ret_id (may
 * be NULL), -EINVAL for arguments that contradict each other, -E2BIG for a structure of a newer library with fields set
 * that this one does not know, -EMSGSIZE for a request that fits into no frame (4 MiB; prompts and texts of any size
 * do: they travel in a sealed memory file), -ENOBUFS when too much waits to be sent, -ENOTCONN, -ENOMEM. Everything
 * else is refused by the service and comes as SPARK_EVENT_ERROR. Where another thread processes, events may come before
 * the function has returned; *ret_id is set by then.
 */

enum {
        SPARK_MANUAL_CREDIT = 1 /* the caller grants tokens with spark_credit() */
};

/* spark_sampling.set: which of the fields hold; the others have the defaults named there. */
enum {
        SPARK_SET_TEMPERATURE = 1 << 0,
        SPARK_SET_TOP_K = 1 << 1,
        SPARK_SET_TOP_P = 1 << 2,
        SPARK_SET_MIN_P = 1 << 3,
        SPARK_SET_REPETITION_PENALTY = 1 << 4,
        SPARK_SET_PRESENCE_PENALTY = 1 << 5,
        SPARK_SET_FREQUENCY_PENALTY = 1 << 6,
        SPARK_SET_PENALTY_WINDOW = 1 << 7,
        SPARK_SET_SEED = 1 << 8,
        SPARK_SET_MAX_TOKENS = 1 << 9
};

struct spark_logit_bias {
        uint32_t token;
        float bias; /* added to the logit; -INFINITY: never this token */
};

/* How tokens are chosen. Ranges are those of the protocol; the service refuses others (SPARK_INVALID_ARGUMENT). */
struct spark_sampling {
        size_t size;
        uint32_t set;              /* SPARK_SET_* */
        float temperature;         /* 0.8; 0 = greedy */
        uint32_t top_k;            /* 40; 0 = all */
        float top_p;               /* 0.95 */
        float min_p;               /* 0.05 */
        float repetition_penalty;  /* 1 */
        float presence_penalty;    /* 0 */
        float frequency_penalty;   /* 0 */
        uint32_t penalty_window;   /* 64 tokens */
        uint64_t seed;             /* drawn by the service, see spark_done.seed */
        uint32_t max_tokens;       /* up to the end of the context */
        uint32_t logprobs;         /* n > 0: of the chosen token and the n - 1 best others */
        int ignore_eos;            /* go on after end-of-sequence tokens */
        const char *const *stop;   /* [n_stop] strings that end the answer */
        size_t n_stop;
        const struct spark_logit_bias *logit_bias; /* [n_logit_bias] */
        size_t n_logit_bias;
};
#define SPARK_SAMPLING_INIT { sizeof(struct spark_sampling), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, 0 }

/* Completes a prompt: either text (`prompt`, `prompt_size`) or tokens. Events: tokens, done. */
struct spark_generate_request {
        size_t size;
        const char *model;         /* NULL or "": the default model */
        const char *prompt;        /* UTF-8 (any bytes with raw_bytes) */
        size_t prompt_size;        /* of `prompt` */
        const uint32_t *prompt_tokens; /* [n_prompt_tokens], instead of text */
        size_t n_prompt_tokens;
        const struct spark_sampling *sampling; /* NULL: defaults */
        int special;               /* recognise the text of special tokens in the prompt */
        int no_bos;                /* no beginning-of-sequence token, even where the model wants one */
        int raw_bytes;             /* the prompt need not be UTF-8, and events' text need not be whole characters */
        uint32_t credit;           /* tokens that may be under way unconsumed; 0 = 256 */
        uint32_t flags;            /* SPARK_MANUAL_CREDIT */
        uint32_t reserved;         /* was padding: anything */
        int priority;              /* enum spark_priority */
        const char *session;       /* goes on where that session stands, and becomes part of it; NULL: none */
};
#define SPARK_GENERATE_INIT { sizeof(struct spark_generate_request), NULL, NULL, 0, NULL, 0, NULL, 0, 0, 0, 0, 0, 0, 0, NULL }
int spark_generate(struct spark *s, const struct spark_generate_request *request, spark_event_fn fn, void *userdata,
                   uint64_t *ret_id);

struct spark_chat_message {
        size_t size;
        const char *role;            /* "system", "user", "assistant", "tool", or what the model's template knows */
        const char *content;         /* NUL-terminated, NULL: empty */
        const char *tool_calls_json; /* assistant: JSON array of tool calls */
        const char *tool_call_id;    /* tool: which call this answers */
        const char *name;
        const char *content_json;    /* instead of content: JSON array of parts, string or null */
        const char *reasoning_content; /* assistant: what it thought before it answered */
};
#define SPARK_CHAT_MESSAGE_INIT { sizeof(struct spark_chat_message), NULL, NULL, NULL, NULL, NULL, NULL, NULL }

/* Answers a conversation, which the model's chat template turns into a prompt. Events: tokens, done. */
struct spark_chat_request {
        size_t size;
        const char *model;
        const struct spark_chat_message *messages; /* [n_messages], at least one; all of the same `size` */
        size_t n_messages;
        const char *tools_json;         /* JSON array of tool definitions */
        const char *template_args_json; /* JSON object: further variables for the template */
        const struct spark_sampling *sampling;
        uint32_t credit;
        uint32_t flags;
        int priority;                   /* enum spark_priority */
        const char *messages_json;      /* instead of messages: JSON array of objects, as the template takes them */
};
#define SPARK_CHAT_INIT { sizeof(struct spark_chat_request), NULL, NULL, 0, NULL, NULL, NULL, 0, 0, 0, NULL }
int spark_chat(struct spark *s, const struct spark_chat_request *request, spark_event_fn fn, void *userdata,
               uint64_t *ret_id);

/* Text to token ids: spark_done.ids. */
struct spark_tokenize_request {
        size_t size;
        const char *model;
        const char *text;
        size_t text_size;
        int special;               /* recognise the text of special tokens */
        int add_bos_eos;           /* add what the model adds to a prompt */
        int raw_bytes;             /* the text need not be UTF-8 */
};
#define SPARK_TOKENIZE_INIT { sizeof(struct spark_tokenize_request), NULL, NULL, 0, 0, 0, 0 }
int spark_tokenize(struct spark *s, const struct spark_tokenize_request *request, spark_event_fn fn, void *userdata,
                   uint64_t *ret_id);

/* Token ids to text: spark_done.text. */
struct spark_detokenize_request {
        size_t size;
        const char *model;
        const uint32_t *ids;
        size_t n_ids;
        int special;               /* render special tokens as text (else they vanish) */
};
#define SPARK_DETOKENIZE_INIT { sizeof(struct spark_detokenize_request), NULL, NULL, 0, 0 }
int spark_detokenize(struct spark *s, const struct spark_detokenize_request *request, spark_event_fn fn,
                     void *userdata, uint64_t *ret_id);

/* Log-likelihood of a text or of tokens: spark_done.nll and .perplexity. Events: progress, done. */
struct spark_score_request {
        size_t size;
        const char *model;
        const char *text;
        size_t text_size;
        const uint32_t *ids;       /* instead of text */
        size_t n_ids;
        uint32_t context;          /* tokens per window; 0 = the model's context */
        uint32_t reserved;         /* was padding: anything */
        int priority;              /* enum spark_priority */
};
#define SPARK_SCORE_INIT { sizeof(struct spark_score_request), NULL, NULL, 0, NULL, 0, 0, 0, 0 }
int spark_score(struct spark *s, const struct spark_score_request *request, spark_event_fn fn, void *userdata,
                uint64_t *ret_id);

/* Loads a model and keeps it resident: a configured one by its name alone; or another one from an absolute path that
 * the service reads, or from the descriptor of a file that the caller has opened (borrowed), which then goes by `model`
 * (NULL: the service finds a name). Events: progress, done (spark_done.load). What does not fit ends with SPARK_NO_MEMORY,
 * and the sums are in the event as well. A dry run may be of a shape that the service knows, without a file. */
struct spark_load_request {
        size_t size;
        const char *model;         /* letters, digits and "._:-" */
        const char *path;
        int use_fd;                /* `fd` holds */
        int fd;
        int dry_run;               /* only plan the memory */
        const char *shape;         /* dry run: instead of a model, "llama-70b"; an unknown one is refused with a list */
        const char *format;        /* with shape: of its weights, "q4_k" */
        uint32_t context;          /* dry run: plan a KV cache of so many tokens; 0 = as a load would choose it */
        int lossless;              /* BF16 weights are coded: the same bits in about 70 % of the memory; the model is read once
                                    * more, before its plan (progress "survey"). SPARK_BUSY where it is loaded without */
        uint64_t memory_bytes;     /* dry run: on a machine with so much memory; 0 = on this one */
};
#define SPARK_LOAD_INIT { sizeof(struct spark_load_request), NULL, NULL, 0, 0, 0, NULL, NULL, 0, 0, 0 }
int spark_load(struct spark *s, const struct spark_load_request *request, spark_event_fn fn, void *userdata,
               uint64_t *ret_id);

int spark_unload(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* What the service knows (spark_done.models) and does (spark_done.status). */
int spark_models(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id);
int spark_status(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id);

/* What was used, by day and model: spark_done.usage. */
struct spark_usage_request {
        size_t size;
        uint32_t days;             /* today and the days before it; 0 = 7, at most 400 */
        int all_users;             /* takes the right "observe-others" (spark-job.h) */
};
#define SPARK_USAGE_INIT { sizeof(struct spark_usage_request), 0, 0 }
int spark_usage(struct spark *s, const struct spark_usage_request *request, spark_event_fn fn, void *userdata,
                uint64_t *ret_id);

/* Asks for the end of a request, which then ends with SPARK_CANCELLED (or as it would have, where it was faster). An id
 * that has ended is fine. 0, -EINVAL for an id that was never used, -ENOTCONN, -ENOMEM. */
int spark_cancel(struct spark *s, uint64_t id);
/* SPARK_MANUAL_CREDIT: grants further tokens. Generation pauses while the service has none left. */
int spark_credit(struct spark *s, uint64_t id, uint32_t tokens);

/* ---- sessions ------------------------------------------------------------------------------------------------
 *
 * A session is a text that grows, kept by the service: a sequence of tokens, with what was computed for them where there
 * is room. It belongs to the user who made it and is named by an id. It lives as long as the connection that made it, or,
 * if persistent, until it is closed: over disconnects, the loss of engines and restarts of the service. What comes out
 * of it is what a request with the whole text as its prompt would get, bit for bit.
 *
 * One request at a time goes on with a session; a second one is SPARK_BUSY. A request that ends early (cancelled, an
 * error) leaves the session with the prompt and the tokens that were delivered, or, where none were, as it was.
 */

struct spark_session_create_request {
        size_t size;
        const char *model;
        const char *name;          /* for people; at most 64 bytes */
        int persistent;            /* outlives this connection */
};
#define SPARK_SESSION_CREATE_INIT { sizeof(struct spark_session_create_request), NULL, NULL, 0 }
/* An empty session: spark_done.session. The model need not be loaded. */
int spark_session_create(struct spark *s, const struct spark_session_create_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Adds text or tokens to the end of a session and reads them ahead. To the first text the beginning-of-sequence token
 * is added where the model wants one. Events: progress, done (spark_done.session). */
struct spark_session_append_request {
        size_t size;
        const char *session;
        const char *text;          /* UTF-8 */
        size_t text_size;
        const uint32_t *tokens;    /* [n_tokens], instead of text */
        size_t n_tokens;
        int special;               /* recognise the text of special tokens */
        int no_bos;
        uint32_t priority;
};
#define SPARK_SESSION_APPEND_INIT { sizeof(struct spark_session_append_request), NULL, NULL, 0, NULL, 0, 0, 0, 0 }
int spark_session_append(struct spark *s, const struct spark_session_append_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Another session with the same text, which then goes its own way; costs next to nothing. A session that is busy is
 * forked as it stood when its last request ended. spark_done.session is the new one. */
struct spark_session_fork_request {
        size_t size;
        const char *session;
        const char *name;          /* NULL or "": as the other one */
        int persistent;
};
#define SPARK_SESSION_FORK_INIT { sizeof(struct spark_session_fork_request), NULL, NULL, 0 }
int spark_session_fork(struct spark *s, const struct spark_session_fork_request *request, spark_event_fn fn,
                       void *userdata, uint64_t *ret_id);

/* Cuts a session back to its first `tokens` tokens. */
struct spark_session_rewind_request {
        size_t size;
        const char *session;
        uint64_t tokens;
};
#define SPARK_SESSION_REWIND_INIT { sizeof(struct spark_session_rewind_request), NULL, 0 }
int spark_session_rewind(struct spark *s, const struct spark_session_rewind_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Ends a session, with what is on disk of it; a request that goes on with it ends with SPARK_CANCELLED. */
int spark_session_close(struct spark *s, const char *session, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* The user's sessions (root and the service's user: everybody's): spark_done.sessions. */
int spark_session_list(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id);

/* ---- prefix cache -------------------------------------------------------------------------------------------- */

/* Reads the beginning of prompts to come ahead of time, so that they start at once: a text, tokens, or the beginning of
 * a conversation as the model's chat template renders it; exactly one of these. What is cached serves this user's
 * requests only, unless it is shared (which not everybody may). Events: progress, done (prompt_tokens, cached_tokens). */
struct spark_prewarm_request {
        size_t size;
        const char *model;
        const char *text;
        size_t text_size;
        const uint32_t *tokens;    /* [n_tokens] */
        size_t n_tokens;
        const struct spark_chat_message *messages; /* [n_messages], all of the same `size` */
        size_t n_messages;
        const char *tools_json;         /* with messages; so the next one */
        const char *template_args_json;
        int special;               /* with text; so the next one */
        int no_bos;
        int share;                 /* let every user's requests profit */
        uint32_t priority;
        const char *messages_json; /* instead of messages: JSON array of objects */
};
#define SPARK_PREWARM_INIT \
        { sizeof(struct spark_prewarm_request), NULL, NULL, 0, NULL, 0, NULL, 0, NULL, NULL, 0, 0, 0, 0, NULL }
int spark_prewarm(struct spark *s, const struct spark_prewarm_request *request, spark_event_fn fn, void *userdata,
                  uint64_t *ret_id);

/* Drops what the prefix cache holds for this user: of one model, or of all (NULL). */
struct spark_forget_prefixes_request {
        size_t size;
        const char *model;
        int all_users;             /* everybody's, shared ones included (takes the right "manage-models") */
};
#define SPARK_FORGET_PREFIXES_INIT { sizeof(struct spark_forget_prefixes_request), NULL, 0 }
int spark_forget_prefixes(struct spark *s, const struct spark_forget_prefixes_request *request, spark_event_fn fn,
                          void *userdata, uint64_t *ret_id);

/* ---- model store ---------------------------------------------------------------------------------------------
 *
 * The service keeps files by their SHA-256, under names. Wherever a model is named, a stored one may be named by any of
 * its names or as "sha256:" and the first digits (at least 4) of its digest. Each of these ends with spark_done.stored.
 */

/* Takes files into the store: one, the parts of a split model, or those of a directory in Hugging Face's layout, whose
 * names are then the ones that are read there (config.json, ...), without folders. Descriptors are borrowed, of regular
 * files open for reading; the service reads what they show, whether it could open the files itself or not. What is no
 * model that can be loaded is refused (SPARK_MODEL_INVALID). Events: progress ("import", bytes), done. */
struct spark_import_request {
        size_t size;
        const char *name;          /* 1 to 64 of letters, digits and "._:-"; not beginning with "." or "sha256:" */
        const int *fds;            /* [n_files], 1 to 64 */
        const char *const *files;  /* [n_files] what the files are called */
        size_t n_files;
        int replace;               /* the name may mean another model now; one without a name left goes */
        int pin;
};
#define SPARK_IMPORT_INIT { sizeof(struct spark_import_request), NULL, NULL, NULL, 0, 0, 0 }
int spark_model_import(struct spark *s, const struct spark_import_request *request, spark_event_fn fn, void *userdata,
                       uint64_t *ret_id);
/* Packs a model: the image that a load would keep in memory becomes a file of the store, and a model of its own, which loads
 * as fast as it can be read. Either of a model that the service knows, or of files as spark_model_import() takes them. Events:
 * progress ("survey" with lossless, "pack", "hash"; bytes), done. */
struct spark_pack_request {
        size_t size;
        const char *name;          /* that the packed model shall have, as spark_import_request.name */
        const char *model;         /* what is packed; NULL: the files */
        const int *fds;            /* [n_files] as in spark_import_request; so the next two */
        const char *const *files;
        size_t n_files;
        int lossless;              /* as spark_load_request.lossless */
        int replace;
        int pin;
};
#define SPARK_PACK_INIT { sizeof(struct spark_pack_request), NULL, NULL, NULL, NULL, 0, 0, 0, 0 }
int spark_model_pack(struct spark *s, const struct spark_pack_request *request, spark_event_fn fn, void *userdata,
                     uint64_t *ret_id);
int spark_model_show(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* Hashes what is stored; SPARK_MODEL_INVALID where it is damaged. Events: progress ("verify", bytes), done. */
int spark_model_verify(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* A name: removes it, and with the last name the model. A digest: the model with all its names. */
int spark_model_remove(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* A pinned model is not removed, nor its last name. */
int spark_model_pin(struct spark *s, const char *model, int pinned, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* Another name for a stored model; replace: which may mean another one now. */
int spark_model_alias(struct spark *s, const char *model, const char *alias, int replace, spark_event_fn fn,
                      void *userdata, uint64_t *ret_id);

/* ---- waiting ------------------------------------------------------------------------------------------------- */

/* All that a request without a callback gave. Exactly one of done and error is set. tokens holds everything generated,
 * joined (never NULL; empty for requests that generate nothing, partial when an error ended it). */
struct spark_result {
        const struct spark_tokens *tokens;
        const struct spark_done *done;
        const struct spark_error *error;
        const struct spark_load_result *load; /* as spark_event.load */
};

/* Processes until the request has ended, at most timeout_ms (-1: as long as it takes). 0 when it is done, the positive
 * enum spark_code of its error, -ETIMEDOUT or -EINTR (a signal handler ran): it goes on and can be waited for again;
 * -ENOENT: no such request (with a callback: it has ended; without: its result was taken), -EDEADLK from a callback.
 * ret (may be NULL) gets the result of a request without a callback: free it with spark_result_free(). */
int spark_wait(struct spark *s, uint64_t id, int timeout_ms, struct spark_result **ret);
struct spark_result *spark_result_free(struct spark_result *result);

/* Cancels and forgets: no further event (but for one that another thread is just delivering), no result. An id that has
 * ended is fine. 0, -EINVAL, -ENOTCONN, -ENOMEM. */
int spark_forget(struct spark *s, uint64_t id);

/* ---- leases -------------------------------------------------------------------------------------------------- */
#include "spark-lease.h"

/* ---- rights and jobs ----------------------------------------------------------------------------------------- */
#include "spark-job.h"

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
