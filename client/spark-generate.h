/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_GENERATE_H)
#define SPARK_GENERATE_H

/*
 * Text to tokens and on: completing, chats, tokenizing, scoring. Part of spark.h.
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

#endif
