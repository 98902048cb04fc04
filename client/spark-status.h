/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_STATUS_H)
#define SPARK_STATUS_H

/*
 * What the service does, what its users have and what they used. Part of spark.h.
 */

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
        int has_battery;            /* and its charge is known */
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

/* What the service does: spark_done.status. */
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

#endif
