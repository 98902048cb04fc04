/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What choosing from whole rows (sampler.c) and from their best logits (sampler-top.c) have in common: the same sums in the same
 * order, so that the same bits come out. */

#include <stdbool.h>

#include "sampler.h"

/* Bias or penalties: the backend's logits are not those that are chosen from. */
bool sampler_changes_logits(const struct sampler_params *p);
/* Weights of the first n candidates, on the scale where the best token has 1; their sum. */
double sampler_weigh(struct sampler *s, size_t n, float best, float temperature);
/* Top-p: how many of the first n candidates, best first, hold that part of total; at least 1, at most n. */
size_t sampler_cut_mass(const struct sampler *s, const struct sampler_params *p, size_t n, double total);
/* Min-p: drops candidates; how many are left. */
size_t sampler_cut_unlikely(struct sampler *s, const struct sampler_params *p, size_t n);
/* One of the first n candidates, by their weights. */
int32_t sampler_draw(const struct sampler *s, const struct sampler_params *p, size_t n, uint32_t index);
double sampler_log_sum(const struct backend_top *top);
