/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What generate and chat have in common: the sampling options, and writing an answer as it comes. */

#include "base/buf.h"
#include "json.h"
#include "options.h"

struct sampling_options {
        struct spark_sampling s;
        struct string_list stop;
        bool ignore_eos;
};
#define SAMPLING_OPTIONS_INIT { .s = SPARK_SAMPLING_INIT }

/* The rows of a verb's option table for a `struct sampling_options o`. */
#define SAMPLING_OPTION_ROWS(o)                                                                                        \
        { "max-tokens", 'n', OPTION_U32, &(o).s.max_tokens, &(o).s.set, SPARK_SET_MAX_TOKENS, "MAX",                   \
          "tokens at most (default: up to the end of the context)" },                                                  \
        { "temperature", 't', OPTION_FLOAT, &(o).s.temperature, &(o).s.set, SPARK_SET_TEMPERATURE, "TEMP",             \
          "0 = always the likeliest token (default 0.8)" },                                                            \
        { "top-p", 0, OPTION_FLOAT, &(o).s.top_p, &(o).s.set, SPARK_SET_TOP_P, "P",                                    \
          "smallest set of tokens with this probability (default 0.95)" },                                             \
        { "top-k", 0, OPTION_U32, &(o).s.top_k, &(o).s.set, SPARK_SET_TOP_K, "K",                                      \
          "only the K likeliest tokens (default 40; 0 = all)" },                                                       \
        { "min-p", 0, OPTION_FLOAT, &(o).s.min_p, &(o).s.set, SPARK_SET_MIN_P, "P",                                    \
          "only tokens at least P times as likely as the likeliest (default 0.05)" },                                  \
        { "seed", 0, OPTION_U64, &(o).s.seed, &(o).s.set, SPARK_SET_SEED, "N",                                         \
          "same seed, same answer (default: drawn)" },                                                                 \
        { "stop", 0, OPTION_LIST, &(o).stop, NULL, 0, "S", "end the answer before this text (may be repeated)" },      \
        { "repetition-penalty", 0, OPTION_FLOAT, &(o).s.repetition_penalty, &(o).s.set, SPARK_SET_REPETITION_PENALTY,  \
          "X", "1 = none (default)" },                                                                                 \
        { "presence-penalty", 0, OPTION_FLOAT, &(o).s.presence_penalty, &(o).s.set, SPARK_SET_PRESENCE_PENALTY, "X",   \
          "0 = none (default)" },                                                                                      \
        { "frequency-penalty", 0, OPTION_FLOAT, &(o).s.frequency_penalty, &(o).s.set, SPARK_SET_FREQUENCY_PENALTY,     \
          "X", "0 = none (default)" },                                                                                 \
        { "penalty-window", 0, OPTION_U32, &(o).s.penalty_window, &(o).s.set, SPARK_SET_PENALTY_WINDOW, "N",           \
          "tokens that the penalties look back (default 64)" },                                                        \
        { "logprobs", 0, OPTION_U32, &(o).s.logprobs, NULL, 0, "N",                                                    \
          "with --json: log-probabilities of each token and the N - 1 best others" },                                  \
        { "ignore-eos", 0, OPTION_FLAG, &(o).ignore_eos, NULL, 0, NULL, "go on after the model ended its answer" }

/* Completes o->s from what was parsed. */
void sampling_options_finish(struct sampling_options *o);
void sampling_options_deinit(struct sampling_options *o);

/* An answer as it comes: written to standard output at once, or with --json gathered. */
struct answer {
        struct ctl *ctl;
        bool echo;       /* write it as it comes */
        char last;       /* byte that was written */
        struct buf text; /* all of it */
        struct buf ids;
        struct buf logprobs; /* of the tokens, then as top_n says */
        struct buf top_ids;
        struct buf top_logprobs;
        size_t top_n;
        bool failed;     /* out of memory */
        bool done;
        struct spark_done end; /* numbers only: its pointers are not valid */
        const char *session;   /* id of the session that went on, NULL = none; borrowed */
        uint64_t session_tokens; /* that it has now; 0 where that was not said */
};

void answer_init(struct answer *a, struct ctl *ctl);
void answer_deinit(struct answer *a);
/* Hooks of a call whose data is a struct answer. */
void answer_tokens(struct call *call, const struct spark_tokens *tokens);
void answer_done(struct call *call, const struct spark_done *done);
/* Ends the text: a newline on a terminal. */
void answer_finish(struct answer *a);
/* One object: text, tokens, finish_reason, usage, timing, model, seed, logprobs. 0 or -errno. */
int answer_print_json(const struct answer *a, const char *model, bool cancelled);
