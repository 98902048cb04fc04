/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The simulator's numbers: draws that are a function of (seed, client, request, what for), in integers alone, so that a
 * seed means the same population on every machine and under every order of events; and histograms of times.
 */

#include <stdint.h>

/* 64 bits for the draw number `what` of a client's request number `request`. */
uint64_t sim_random(uint64_t seed, uint64_t client, uint64_t request, uint64_t what);
/* About lognormal: `median` times two to the power of a normal deviate times `spread` / 256; within [least, most]. Uses
 * the draws `what` to `what` + 2. */
uint32_t sim_random_length(uint64_t seed, uint64_t client, uint64_t request, uint64_t what, uint32_t median,
                           uint32_t spread, uint32_t least, uint32_t most);
/* Exponential with this mean; the mean is below 2^42. */
uint64_t sim_random_wait(uint64_t seed, uint64_t client, uint64_t request, uint64_t what, uint64_t mean);

/* Counts by value, exact below 64 and within 1.6 % above: 64 buckets for each power of two. */
#define SIM_BUCKETS (64u * 42u)

struct sim_histogram {
        uint64_t n;
        uint64_t most;
        uint64_t counts[SIM_BUCKETS];
};

void sim_histogram_add(struct sim_histogram *h, uint64_t value);
void sim_histogram_merge(struct sim_histogram *h, const struct sim_histogram *more);
/* The value that a share of `per_mille` of all does not exceed (the upper end of its bucket); 0 where there is none. */
uint64_t sim_histogram_quantile(const struct sim_histogram *h, uint32_t per_mille);
