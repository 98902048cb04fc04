/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "request.h"

#define INVALID SPARK__V1__ERROR_CODE__INVALID_ARGUMENT

int failure_set(struct failure *f, Spark__V1__ErrorCode code, const char *format, ...) {
        va_list args;

        *f = (struct failure){ .code = code };
        va_start(args, format);
        (void)vsnprintf(f->text, sizeof(f->text), format, args);
        va_end(args);
        utf8_mend(f->text); /* it may end within a character of somebody's text, and control takes no such message */
        return REQUEST_E_FAILED;
}

void request_deinit(struct request *r) {
        free(r->tokens);
        free(r->generated);
        free(r->bias);
        free(r->stop_text);
        r->tokens = r->generated = NULL;
        r->bias = NULL;
        r->stop_text = NULL;
}

/* True when v lies in [low, high], which NaN never does. */
static bool within(float v, float low, float high) {
        return v >= low && v <= high;
}

static int check_ranges(const Spark__V1__Sampling *s, struct failure *f) {
        const struct {
                const char *name;
                float value, low, high;
        } fields[] = {
                { "temperature", s->temperature, 0, 100 },
                { "min_p", s->min_p, 0, 1 },
                { "presence_penalty", s->presence_penalty, -100, 100 },
                { "frequency_penalty", s->frequency_penalty, -100, 100 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                if (!within(fields[i].value, fields[i].low, fields[i].high))
                        return failure_set(f, INVALID, "sampling.%s must be %g to %g, not %g", fields[i].name,
                                           (double)fields[i].low, (double)fields[i].high, (double)fields[i].value);
        if (!(s->top_p > 0 && s->top_p <= 1))
                return failure_set(f, INVALID, "sampling.top_p must be above 0 and at most 1, not %g", (double)s->top_p);
        if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 100))
                return failure_set(f, INVALID, "sampling.repetition_penalty must be above 0 and at most 100, not %g",
                                   (double)s->repetition_penalty);
        if (s->penalty_window > REQUEST_WINDOW_MAX)
                return failure_set(f, INVALID, "sampling.penalty_window must be at most %u, not %u", REQUEST_WINDOW_MAX,
                                   s->penalty_window);
        if (s->logprobs > SAMPLER_LOGPROBS_MAX)
                return failure_set(f, INVALID, "sampling.logprobs must be at most %u, not %u", SAMPLER_LOGPROBS_MAX,
                                   s->logprobs);
        if (s->has_max_tokens && s->max_tokens == 0)
                return failure_set(f, INVALID, "sampling.max_tokens must be at least 1");
        return 0;
}

static int copy_bias(struct request *r, const Spark__V1__Sampling *s, uint32_t n_vocab, struct failure *f) {
        if (s->n_logit_bias == 0)
                return 0;
        if (s->n_logit_bias > REQUEST_BIAS_MAX)
                return failure_set(f, INVALID, "sampling.logit_bias has %zu entries, at most %u are allowed",
                                   s->n_logit_bias, REQUEST_BIAS_MAX);
        r->bias = calloc(s->n_logit_bias, sizeof(*r->bias));
        if (!r->bias)
                return -ENOMEM;
        for (size_t i = 0; i < s->n_logit_bias; i++) {
                const Spark__V1__LogitBias *b = s->logit_bias[i];

                if (!b->has_token || b->token >= n_vocab)
                        return failure_set(f, INVALID, "sampling.logit_bias[%zu].token must be below %u, not %u", i,
                                           n_vocab, b->token);
                if (!(b->bias < INFINITY))
                        return failure_set(f, INVALID,
                                           "sampling.logit_bias[%zu].bias must be finite or -infinity, not %g", i,
                                           (double)b->bias);
                r->bias[i] = (struct logit_bias){ .token = (int32_t)b->token, .bias = b->bias };
        }
        return 0;
}

static int copy_stop(struct request *r, const Spark__V1__Sampling *s, struct failure *f) {
        size_t total = 0, pos = 0;

        if (s->n_stop > STOP_STRINGS_MAX)
                return failure_set(f, INVALID, "sampling.stop has %zu strings, at most %u are allowed", s->n_stop,
                                   STOP_STRINGS_MAX);
        for (size_t i = 0; i < s->n_stop; i++) {
                size_t n = strnlen(s->stop[i], STOP_BYTES_MAX + 1);

                if (n < 1 || n > STOP_BYTES_MAX)
                        return failure_set(f, INVALID, "sampling.stop[%zu] must be of 1 to %u bytes", i, STOP_BYTES_MAX);
                total += n;
        }
        if (total == 0)
                return 0;
        r->stop_text = malloc(total);
        if (!r->stop_text)
                return -ENOMEM;
        for (size_t i = 0; i < s->n_stop; i++) {
                size_t n = strlen(s->stop[i]);

                memcpy(r->stop_text + pos, s->stop[i], n);
                r->stop[i] = (struct stop_string){ .text = r->stop_text + pos, .size = (uint16_t)n };
                pos += n;
        }
        r->n_stop = s->n_stop;
        return 0;
}

int request_set_sampling(struct request *r, const Spark__V1__Sampling *sampling, uint32_t n_vocab, uint64_t seed,
                         struct failure *f) {
        static const Spark__V1__Sampling defaults = SPARK__V1__SAMPLING__INIT;
        const Spark__V1__Sampling *s = sampling ? sampling : &defaults;
        int c;

        c = check_ranges(s, f);
        if (c == 0)
                c = copy_bias(r, s, n_vocab, f);
        if (c == 0)
                c = copy_stop(r, s, f);
        if (c != 0)
                return c;
        r->max_tokens = s->has_max_tokens ? s->max_tokens : REQUEST_ENDLESS;
        r->ignore_eos = s->ignore_eos;
        r->sampling = (struct sampler_params){
                .temperature = s->temperature,
                .top_k = s->top_k,
                .top_p = s->top_p,
                .min_p = s->min_p,
                .repetition_penalty = s->repetition_penalty,
                .presence_penalty = s->presence_penalty,
                .frequency_penalty = s->frequency_penalty,
                .penalty_window = s->penalty_window,
                .seed = s->has_seed ? s->seed : seed,
                .bias = r->bias,
                .n_bias = s->n_logit_bias,
                .logprobs = s->logprobs,
        };
        return 0;
}

int request_copy_tokens(const uint32_t *ids, size_t n, uint32_t n_vocab, const char *field, int32_t **ret,
                        struct failure *f) {
        _cleanup_free_ int32_t *tokens = NULL;

        tokens = calloc(n ? n : 1, sizeof(*tokens));
        if (!tokens)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                if (ids[i] >= n_vocab)
                        return failure_set(f, INVALID, "%s[%zu] must be below %u, not %u", field, i, n_vocab, ids[i]);
                tokens[i] = (int32_t)ids[i];
        }
        *ret = steal_ptr(&tokens);
        return 0;
}
