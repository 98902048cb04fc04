/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is counted of a client; groups and the whole are sums of these. Times in milliseconds. */

#include <stddef.h>
#include <stdint.h>

#include "measure.h"

/* Errors are counted by code; whatever has no place of its own goes to the first. */
#define LOAD_ERRORS 19u
size_t load_error_place(int code);
/* The name for a place, e.g. "BUSY". */
const char *load_error_name(size_t place);

struct load_stats {
        uint64_t requests;  /* ended, in whatever way, but for those in `cut` */
        uint64_t failed;    /* requests that failed, and clients that were not let in */
        uint64_t cancelled; /* as this tool had asked */
        uint64_t cut;       /* still under way when the run ended */
        uint64_t tokens;    /* received */
        uint64_t prompt_tokens;
        uint64_t cached_tokens; /* of prompt_tokens */
        uint64_t asked;     /* a sum over the prompts that were asked and the lengths that were wanted, whatever their
                             * order: two runs that asked the same have the same */
        uint64_t errors[LOAD_ERRORS];
        struct samples connect; /* from connect() to the service's greeting */
        struct samples ttft;    /* from the request to its first token */
        struct samples gap;     /* between the arrivals of tokens */
        struct samples queue;   /* as the service reports it */
        struct samples cancel;  /* from the cancellation to the request's end */
        struct samples total;   /* of requests that were answered in full */
};

void load_stats_deinit(struct load_stats *s);
/* Forgets everything but the connection times. */
void load_stats_reset(struct load_stats *s);
/* 0 or -ENOMEM. */
int load_stats_add(struct load_stats *s, const struct load_stats *more);
void load_stats_count_error(struct load_stats *s, int code);
/* Adds a request to `asked`. */
void load_stats_count_asked(struct load_stats *s, const char *prompt, size_t prompt_size, uint32_t tokens);
/* Tokens that cost the service work: generated, and of the prompts what no cache held. */
uint64_t load_stats_served(const struct load_stats *s);

/* Jain's fairness index, (sum x)^2 / (n sum x^2): 1 = all alike, 1/n = one has everything; 0 where nobody has anything.
 * (Jain, Chiu, Hawe: "A quantitative measure of fairness and discrimination", DEC-TR-301, 1984.) */
double load_jain(const double *x, size_t n);
