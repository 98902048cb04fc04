/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_EVENT_H)
#define SPARK_EVENT_H

/*
 * What comes back of requests: events, and whole results for those that have no callback. Part of spark.h.
 *
 * Which fields of an event are set depends on the request; the structures that they point to are declared beside it.
 */

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
                                     * (others have to be unloaded first), "power" (it waits for that); of leases "yield", "granted", "warm" */
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

/* ---- without a callback ---- */

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

/* ---- ending one early, and letting it go on ---- */

/* Asks for the end of a request, which then ends with SPARK_CANCELLED (or as it would have, where it was faster). An id
 * that has ended is fine. 0, -EINVAL for an id that was never used, -ENOTCONN, -ENOMEM. */
int spark_cancel(struct spark *s, uint64_t id);
/* SPARK_MANUAL_CREDIT: grants further tokens. Generation pauses while the service has none left. */
int spark_credit(struct spark *s, uint64_t id, uint32_t tokens);

/* Cancels and forgets: no further event (but for one that another thread is just delivering), no result. An id that has
 * ended is fine. 0, -EINVAL, -ENOTCONN, -ENOMEM. */
int spark_forget(struct spark *s, uint64_t id);

#endif
