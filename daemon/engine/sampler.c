/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "sampler-private.h"

#define BUCKETS 512u      /* of the histogram for top-p */
#define BUCKET_WIDTH 0.05f /* in units of logit / temperature: the last bucket holds everything below e^-25.6 */

int sampler_init(struct sampler *s, uint32_t n_vocab) {
        *s = (struct sampler){ .n_vocab = n_vocab };
        s->counts = calloc(n_vocab, sizeof(*s->counts));
        s->candidates = malloc(n_vocab * sizeof(*s->candidates));
        s->weights = malloc(n_vocab * sizeof(*s->weights));
        if (!s->counts || !s->candidates || !s->weights) {
                sampler_deinit(s);
                return -ENOMEM;
        }
        return 0;
}

void sampler_deinit(struct sampler *s) {
        free(s->counts);
        free(s->candidates);
        free(s->weights);
        *s = (struct sampler){ 0 };
}

void sampler_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
        uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];

        for (unsigned round = 0; round < 10; round++) {
                uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;

                c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
                c1 = (uint32_t)p1;
                c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
                c3 = (uint32_t)p0;
                k0 += 0x9E3779B9u;
                k1 += 0xBB67AE85u;
        }
        out[0] = c0;
        out[1] = c1;
        out[2] = c2;
        out[3] = c3;
}

/* Uniform in [0, 1). */
static double draw_uniform(uint64_t seed, uint32_t index) {
        const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, counter[4] = { index };
        uint32_t out[4];

        sampler_philox(key, counter, out);
        return (double)(((uint64_t)out[0] << 32 | out[1]) >> 11) * 0x1p-53;
}

/* Keeps what was finite finite: extreme parameters are no fault of the model's. */
static float clamp_logit(float v) {
        return v > FLT_MAX ? FLT_MAX : v;
}

static void apply_bias(const struct sampler_params *p, float *logits) {
        for (size_t i = 0; i < p->n_bias; i++) {
                float *v = &logits[p->bias[i].token];

                if (*v < INFINITY) /* else the model's logit is at fault, and stays for best_token() to see */
                        *v = clamp_logit(*v + p->bias[i].bias);
        }
}

static bool has_penalties(const struct sampler_params *p) {
        return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

bool sampler_changes_logits(const struct sampler_params *p) {
        return p->n_bias > 0 || has_penalties(p);
}

static void apply_penalties(struct sampler *s, const struct sampler_params *p, float *logits, const int32_t *history,
                            size_t n_history) {
        size_t n = MIN(n_history, (size_t)p->penalty_window);
        const int32_t *window = history + (n_history - n);

        if (!has_penalties(p))
                return;
        for (size_t i = 0; i < n; i++)
                s->counts[window[i]]++;
        for (size_t i = 0; i < n; i++) {
                int32_t id = window[i];
                float v = logits[id];

                if (s->counts[id] == 0)
                        continue; /* seen already */
                if (p->repetition_penalty != 1)
                        v = v > 0 ? v / p->repetition_penalty : v * p->repetition_penalty;
                v = v - (float)s->counts[id] * p->frequency_penalty - p->presence_penalty;
                if (logits[id] < INFINITY)
                        logits[id] = clamp_logit(v);
                s->counts[id] = 0;
        }
}

/* The best token, the lowest id of equal ones; -1 where a logit is NaN or +infinity, or all are -infinity. */
static int32_t best_token(const float *logits, uint32_t n) {
        float best = -INFINITY;
        int32_t id = -1;

        for (uint32_t i = 0; i < n; i++) {
                if (!(logits[i] < INFINITY))
                        return -1;
                if (logits[i] > best) {
                        best = logits[i];
                        id = (int32_t)i;
                }
        }
        return id;
}

/* Best first: higher logit, then lower id. */
static bool better(const struct sampler_candidate *a, const struct sampler_candidate *b) {
        return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* The heap's root is the worst of those kept. */
static void heap_sift(struct sampler_candidate *h, size_t n, size_t i) {
        for (;;) {
                size_t worst = i, l = 2 * i + 1;

                if (l < n && better(&h[worst], &h[l]))
                        worst = l;
                if (l + 1 < n && better(&h[worst], &h[l + 1]))
                        worst = l + 1;
                if (worst == i)
                        return;
                struct sampler_candidate t = h[i];

                h[i] = h[worst];
                h[worst] = t;
                i = worst;
        }
}

static void heap_build(struct sampler_candidate *h, size_t n) {
        for (size_t i = n / 2; i-- > 0;)
                heap_sift(h, n, i);
}

/* A heap into best-first order: the worst goes to the end, again and again. */
static void heap_sort(struct sampler_candidate *h, size_t n) {
        while (n > 1) {
                struct sampler_candidate worst = h[0];

                h[0] = h[--n];
                h[n] = worst;
                heap_sift(h, n, 0);
        }
}

/* The k best, sorted. Ties beyond the k-th go to lower ids, because they come first. skip: an id to leave out, or -1. */
static size_t select_top(const float *logits, uint32_t n_vocab, size_t k, int32_t skip,
                         struct sampler_candidate *out) {
        size_t n = 0;

        for (uint32_t i = 0; i < n_vocab; i++) {
                if (n == k && (k == 0 || !(logits[i] > out[0].logit)))
                        continue;
                if ((int32_t)i == skip || logits[i] == -INFINITY)
                        continue;
                if (n < k) {
                        out[n++] = (struct sampler_candidate){ logits[i], (int32_t)i };
                        if (n == k)
                                heap_build(out, n);
                } else {
                        out[0] = (struct sampler_candidate){ logits[i], (int32_t)i };
                        heap_sift(out, n, 0);
                }
        }
        if (n < k)
                heap_build(out, n);
        heap_sort(out, n);
        return n;
}

/* Every possible token, in the order of ids. */
static size_t select_all(const float *logits, uint32_t n_vocab, struct sampler_candidate *out) {
        size_t n = 0;

        for (uint32_t i = 0; i < n_vocab; i++)
                if (logits[i] != -INFINITY)
                        out[n++] = (struct sampler_candidate){ logits[i], (int32_t)i };
        return n;
}

static uint32_t bucket_of(float logit, float best, float temperature) {
        float d = (best - logit) / temperature;

        return d < (BUCKETS - 1) * BUCKET_WIDTH ? (uint32_t)(d / BUCKET_WIDTH) : BUCKETS - 1;
}

/* The best tokens of the whole vocabulary that surely hold p of the probability, sorted; *ret_total is the whole's
 * weight, on the scale where the best token has weight 1. */
static size_t select_mass(struct sampler *s, const float *logits, float best, float temperature, float p,
                          double *ret_total) {
        double mass[BUCKETS] = { 0 }, total = 0, sum = 0;
        uint32_t last = 0;
        size_t n = 0;

        for (uint32_t i = 0; i < s->n_vocab; i++)
                if (logits[i] != -INFINITY)
                        mass[bucket_of(logits[i], best, temperature)] += (double)expf((logits[i] - best) / temperature);
        for (uint32_t b = 0; b < BUCKETS; b++)
                total += mass[b];
        while (last < BUCKETS - 1 && (sum += mass[last]) < (double)p * total * (1 + 1e-9))
                last++;
        for (uint32_t i = 0; i < s->n_vocab; i++)
                if (logits[i] != -INFINITY && bucket_of(logits[i], best, temperature) <= last)
                        s->candidates[n++] = (struct sampler_candidate){ logits[i], (int32_t)i };
        heap_build(s->candidates, n);
        heap_sort(s->candidates, n);
        *ret_total = total;
        return n;
}

double sampler_weigh(struct sampler *s, size_t n, float best, float temperature) {
        double sum = 0;

        for (size_t i = 0; i < n; i++) {
                s->weights[i] = expf((s->candidates[i].logit - best) / temperature);
                sum += (double)s->weights[i];
        }
        return sum;
}

size_t sampler_cut_mass(const struct sampler *s, const struct sampler_params *p, size_t n, double total) {
        double sum = 0;
        size_t kept;

        for (kept = 0; kept < n && sum < (double)p->top_p * total; kept++)
                sum += (double)s->weights[kept];
        return MAX(kept, (size_t)1);
}

size_t sampler_cut_unlikely(struct sampler *s, const struct sampler_params *p, size_t n) {
        size_t kept = 0;

        if (!(p->min_p > 0))
                return n;
        for (size_t i = 0; i < n; i++) {
                if (s->weights[i] < p->min_p)
                        continue;
                s->weights[kept] = s->weights[i];
                s->candidates[kept++] = s->candidates[i];
        }
        return kept; /* the best one has weight 1 and stays */
}

/* Candidates and weights of what truncation leaves; their number. */
static size_t truncate_candidates(struct sampler *s, const struct sampler_params *p, const float *logits, float best) {
        bool top_k = p->top_k > 0 && p->top_k < s->n_vocab, top_p = p->top_p < 1;
        double total, sum;
        size_t n;

        if (top_k)
                n = select_top(logits, s->n_vocab, p->top_k, -1, s->candidates);
        else if (top_p)
                n = select_mass(s, logits, best, p->temperature, p->top_p, &total);
        else
                n = select_all(logits, s->n_vocab, s->candidates);
        sum = sampler_weigh(s, n, best, p->temperature);
        if (top_p)
                n = sampler_cut_mass(s, p, n, top_k ? sum : total);
        return sampler_cut_unlikely(s, p, n);
}

int32_t sampler_draw(const struct sampler *s, const struct sampler_params *p, size_t n, uint32_t index) {
        double sum = 0, target;
        size_t i;

        for (i = 0; i < n; i++)
                sum += (double)s->weights[i];
        target = draw_uniform(p->seed, index) * sum;
        sum = 0;
        for (i = 0; i + 1 < n; i++) {
                sum += (double)s->weights[i];
                if (target < sum)
                        break;
        }
        return s->candidates[i].id;
}

/* In double throughout: a mean over many tokens is compared to four digits and more. */
static double log_sum_exp(const float *logits, uint32_t n, float best) {
        double sum = 0;

        for (uint32_t i = 0; i < n; i++)
                sum += exp((double)logits[i] - (double)best);
        return (double)best + log(sum);
}

double sampler_log_sum(const struct backend_top *top) {
        return (double)top->largest + log(top->sum);
}

static void fill_logprobs(struct sampler *s, const struct sampler_params *p, const float *logits, double lse,
                          struct sampler_choice *c) {
        size_t k = MIN(p->logprobs, SAMPLER_LOGPROBS_MAX) - 1;

        c->logprob = (float)((double)logits[c->token] - lse);
        c->n_top = (uint32_t)select_top(logits, s->n_vocab, MIN(k, (size_t)s->n_vocab - 1), c->token, s->candidates);
        for (uint32_t i = 0; i < c->n_top; i++) {
                c->top_ids[i] = s->candidates[i].id;
                c->top_logprobs[i] = (float)((double)s->candidates[i].logit - lse);
        }
}

int sampler_choose(struct sampler *s, const struct sampler_params *p, float *logits, const struct backend_top *top,
                   const int32_t *history, size_t n_history, uint32_t index, struct sampler_choice *ret) {
        int32_t best;

        apply_bias(p, logits);
        apply_penalties(s, p, logits, history, n_history);
        best = best_token(logits, s->n_vocab);
        if (best < 0)
                return SAMPLER_E_LOGITS;
        if (p->temperature == 0)
                ret->token = best;
        else
                ret->token = sampler_draw(s, p, truncate_candidates(s, p, logits, logits[best]), index);
        ret->logprob = 0;
        ret->n_top = 0;
        if (p->logprobs > 0)
                fill_logprobs(s, p, logits, top ? sampler_log_sum(top) : log_sum_exp(logits, s->n_vocab, logits[best]), ret);
        return 0;
}

double sampler_nll(const float *logits, uint32_t n_vocab, int32_t token) {
        int32_t best = best_token(logits, n_vocab);

        return best < 0 ? (double)NAN : log_sum_exp(logits, n_vocab, logits[best]) - (double)logits[token];
}
