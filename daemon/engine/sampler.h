/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From logits to a token. A pure function of the logits, the tokens so far, the parameters, the seed and the token's
 * position in the output: no state is carried from token to token, so that a replayed request draws the same.
 *
 * In this order:
 *   1. logit bias is added (several for one token add up; -infinity forbids it);
 *   2. penalties, for each distinct token in the last penalty_window tokens of prompt and output: repetition divides a
 *      positive logit and multiplies a negative one, then frequency * count and presence are subtracted;
 *   -- log-probabilities are of the distribution at this point, before temperature and truncation --
 *   3. temperature 0: the highest logit, of equal ones the lowest id; done. Else logits are divided by it;
 *   4. top-k: the k highest (equal logits: lower ids first);
 *   5. top-p: the shortest prefix of those, best first, that holds at least p of their probability;
 *   6. min-p: those at least min_p times as probable as the best;
 *   7. one is drawn by its share, with 53 random bits of Philox4x32-10 (Salmon et al. 2011), key = seed, counter =
 *      position.
 *
 * A vocabulary is never sorted whole: top-k keeps a heap of k, top-p alone sorts only what a histogram of
 * probabilities shows to be needed.
 *
 * Where a backend finds the best logits of a row itself (backend.h, top), they are mostly all that is looked at: see
 * sampler_choose_top(). Which way a choice is made depends on the parameters and the row alone, and shows in nothing: the
 * two give the same token and the same bits of log-probabilities.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/operands.h"

enum {
        SAMPLER_E_LOGITS = 1, /* a logit is NaN or +infinity, or no token is possible */
        SAMPLER_E_MORE = 2,   /* sampler_choose_top(): the best logits don't tell, all are needed */
};

#define SAMPLER_TOP_MAX 256u

#define SAMPLER_LOGPROBS_MAX 21u

struct logit_bias {
        int32_t token;
        float bias;
};

struct sampler_params {
        float temperature;
        uint32_t top_k; /* 0 = all */
        float top_p;
        float min_p;
        float repetition_penalty;
        float presence_penalty;
        float frequency_penalty;
        uint32_t penalty_window;
        uint64_t seed;
        const struct logit_bias *bias;
        size_t n_bias;
        uint32_t logprobs; /* n > 0: the chosen token's and those of the n - 1 best others */
};

struct sampler_choice {
        int32_t token;
        float logprob;
        uint32_t n_top; /* best others, best first */
        int32_t top_ids[SAMPLER_LOGPROBS_MAX - 1];
        float top_logprobs[SAMPLER_LOGPROBS_MAX - 1];
};

struct sampler_candidate {
        float logit;
        int32_t id;
};

/* Work space for one vocabulary; one per thread. */
struct sampler {
        uint32_t n_vocab;
        uint16_t *counts;                     /* [n_vocab], zero between calls */
        struct sampler_candidate *candidates; /* [n_vocab] */
        float *weights;                       /* [n_vocab] */
};

int sampler_init(struct sampler *s, uint32_t n_vocab); /* 0 or -ENOMEM */
void sampler_deinit(struct sampler *s);

/* Chooses from logits [n_vocab] (changed in place). top: what the backend said of them where it was asked because
 * sampler_top() is not 0, else NULL. history: prompt and output so far; index: position of the token to be chosen in the
 * output. 0 or SAMPLER_E_LOGITS. */
int sampler_choose(struct sampler *s, const struct sampler_params *p, float *logits, const struct backend_top *top,
                   const int32_t *history, size_t n_history, uint32_t index, struct sampler_choice *ret);

/* How many of the best logits a choice by these parameters may get by with; 0: all are needed, bias or penalties change them
 * or nothing cuts the rest off. */
uint32_t sampler_top(const struct sampler_params *p, uint32_t n_vocab);
/* Chooses from the sampler_top() best logits of a row, best first. 0, SAMPLER_E_LOGITS, or SAMPLER_E_MORE. */
int sampler_choose_top(struct sampler *s, const struct sampler_params *p, const struct backend_top *top,
                       const float *values, const int32_t *ids, uint32_t index, struct sampler_choice *ret);

/* -log softmax(logits)[token] in double; NaN where the logits are not finite. */
double sampler_nll(const float *logits, uint32_t n_vocab, int32_t token);

/* Philox4x32-10: one block of 128 bits. */
void sampler_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
