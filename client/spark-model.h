/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_MODEL_H)
#define SPARK_MODEL_H

/*
 * Models, and their way into memory. Part of spark.h.
 */

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
        uint64_t missing_bytes;     /* of its image: given back, and loaded again before it serves; image_bytes are there */
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
/* What the service knows: spark_done.models. */
int spark_models(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id);

#endif
