/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Choosing from the best logits of a row alone, as choosing from the whole row would, bit for bit.
 *
 * Greedy, top-k and log-probabilities are plain. Top-p needs the weight of the whole row at the temperature asked for, which is
 * known at temperature 1 only; the rest's weight at another one lies between bounds, and mostly both ends cut the candidates
 * off at the same place. Then so does the true sum, however it is rounded. Where they don't, and where min-p might keep more
 * than is there, SAMPLER_E_MORE says so, and the row is fetched.
 */

#include <math.h>
#include <stdlib.h>

#include "base/macro.h"
#include "sampler-private.h"

#define SLACK 1e-5  /* of all weight: by which sums may be off that were made elsewhere */
#define MARGIN 1e-4 /* of the rest's weight: logits are divided by the temperature in single precision */

uint32_t sampler_top(const struct sampler_params *p, uint32_t n_vocab) {
        uint32_t k = MIN(p->logprobs, SAMPLER_LOGPROBS_MAX);

        if (sampler_changes_logits(p))
                return 0;
        if (p->temperature == 0)
                k = MAX(k, 1u);
        else if (p->top_k > 0 && p->top_k < n_vocab)
                k = p->top_k <= SAMPLER_TOP_MAX ? MAX(k, p->top_k) : 0;
        else
                k = p->top_p < 1 || p->min_p > 0 ? SAMPLER_TOP_MAX : 0;
        return MIN(k, n_vocab);
}

/* Possible tokens among the k best, into s->candidates. */
static size_t take(struct sampler *s, const float *values, const int32_t *ids, size_t k) {
        size_t n = 0;

        while (n < k && values[n] != -INFINITY) {
                s->candidates[n] = (struct sampler_candidate){ values[n], ids[n] };
                n++;
        }
        return n;
}

/* Bounds of the weight of what is not among n candidates, which weigh `sum`. */
static void bound_rest(const struct sampler *s, const struct backend_top *top, size_t n, float temperature, double sum,
                       double *ret_low, double *ret_high) {
        double rest = top->sum, others = (double)s->n_vocab - (double)n, t = (double)temperature;
        double last = (double)s->candidates[n - 1].logit - (double)top->largest, high;

        for (size_t i = 0; i < n; i++)
                rest -= exp((double)s->candidates[i].logit - (double)top->largest);
        *ret_low = temperature == 1 ? MAX(rest - SLACK * top->sum, 0.0) * (1 - MARGIN) : 0;
        rest = MAX(rest, 0.0) + SLACK * top->sum;
        if (temperature <= 1) /* each weighs at most as much more than at 1 as the last candidate */
                high = rest * exp(last * (1 / t - 1));
        else /* the sum of powers below 1 is largest where all are alike */
                high = pow(others, 1 - 1 / t) * pow(rest, 1 / t);
        high = MIN(high, others * exp(last / t)); /* and none weighs more than the last candidate */
        *ret_high = high * (1 + MARGIN) + MARGIN * MARGIN * sum;
}

/* Top-p of everything, from n candidates. 0: they don't tell. */
static size_t cut_mass(struct sampler *s, const struct sampler_params *p, const struct backend_top *top, size_t n,
                       bool all) {
        double sum = sampler_weigh(s, n, top->largest, p->temperature), low = 0, high = 0;
        size_t fewest, most;

        if (!all)
                bound_rest(s, top, n, p->temperature, sum, &low, &high);
        low = (sum + low) * (1 - 1e-9);
        high = (sum + high) * (1 + 1e-9);
        fewest = sampler_cut_mass(s, p, n, low);
        most = sampler_cut_mass(s, p, n, high);
        if (fewest != most || (most == n && sum < (double)p->top_p * high && !all))
                return 0;
        return most;
}

static int by_id(const void *a, const void *b) {
        const struct sampler_candidate *x = a, *y = b;

        return (x->id > y->id) - (x->id < y->id);
}

/* Min-p alone, whose tokens are drawn in the order of ids. 0: there may be more of them. */
static size_t cut_unlikely(struct sampler *s, const struct sampler_params *p, const struct backend_top *top, size_t n,
                           bool all) {
        (void)sampler_weigh(s, n, top->largest, p->temperature);
        if (!all && !(s->weights[n - 1] < p->min_p * (1 - 1e-6f)))
                return 0;
        n = sampler_cut_unlikely(s, p, n);
        qsort(s->candidates, n, sizeof(*s->candidates), by_id);
        (void)sampler_weigh(s, n, top->largest, p->temperature);
        return n;
}

/* What truncation leaves of n candidates. 0: they don't tell. */
static size_t truncate_top(struct sampler *s, const struct sampler_params *p, const struct backend_top *top, size_t n,
                           bool all) {
        double sum;

        if (p->top_k == 0 || p->top_k >= s->n_vocab) {
                if (!(p->top_p < 1))
                        return cut_unlikely(s, p, top, n, all);
                n = cut_mass(s, p, top, n, all);
                return sampler_cut_unlikely(s, p, n);
        }
        n = MIN(n, (size_t)p->top_k);
        sum = sampler_weigh(s, n, top->largest, p->temperature);
        if (p->top_p < 1)
                n = sampler_cut_mass(s, p, n, sum);
        return sampler_cut_unlikely(s, p, n);
}

/* The candidates' order may have been changed: values and ids have it. */
static void fill_logprobs(const struct sampler_params *p, const struct backend_top *top, const float *values,
                          const int32_t *ids, size_t n, struct sampler_choice *c) {
        size_t most = MIN(p->logprobs, SAMPLER_LOGPROBS_MAX) - 1;
        double lse = sampler_log_sum(top);

        for (size_t i = 0; i < n; i++) {
                float logprob = (float)((double)values[i] - lse);

                if (ids[i] == c->token) {
                        c->logprob = logprob;
                } else if (c->n_top < most) {
                        c->top_ids[c->n_top] = ids[i];
                        c->top_logprobs[c->n_top++] = logprob;
                }
        }
}

int sampler_choose_top(struct sampler *s, const struct sampler_params *p, const struct backend_top *top,
                       const float *values, const int32_t *ids, uint32_t index, struct sampler_choice *ret) {
        uint32_t k = sampler_top(p, s->n_vocab);
        size_t n, kept;

        if (top->bad)
                return SAMPLER_E_LOGITS;
        n = take(s, values, ids, k);
        if (n == 0) /* not of the same row */
                return SAMPLER_E_LOGITS;
        ret->token = ids[0];
        if (p->temperature != 0) {
                kept = truncate_top(s, p, top, n, n < k || k == s->n_vocab);
                if (kept == 0)
                        return SAMPLER_E_MORE;
                ret->token = sampler_draw(s, p, kept, index);
        }
        ret->logprob = 0;
        ret->n_top = 0;
        if (p->logprobs > 0)
                fill_logprobs(p, top, values, ids, n, ret);
        return 0;
}
