/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Codes BF16 weights losslessly (kernels/lossless.h) while they are copied. What a coded tensor takes depends on its values, and an
 * image's plan needs exact sizes: so weights are read twice. The first time each panel is measured; then every panel's escapes have
 * their place, and the second time panels are coded in any order, by several threads, each decoded again and compared. Kept between
 * the two are eight bytes for every panel, or, where the file has columns for rows (copy.h, gather), for every unit of 4096 elements.
 *
 * A file that changes in between is found: a panel that does not measure what it did is not coded at all.
 */

#include <stdbool.h>

#include "daemon/image/plan.h"
#include "kernels/lossless.h"

enum coder_fault {
        CODER_OK = 0,
        CODER_CHANGED,    /* not the values that were measured */
        CODER_UNFAITHFUL, /* what was coded is not decoded to what it was: a defect of this program */
};

/* Of n_rows rows from `row` on, elements [first, first + n) of those that lie at src in the file's way: to dst, a row after another,
 * n BF16 numbers each. */
typedef void coder_gather(const void *arg, uint64_t row, unsigned n_rows, uint64_t first, uint64_t n, const char *src, void *dst);

struct coder_tensor {
        uint64_t *at;   /* [n + 1]: bytes of escapes of panel (or unit) i in at[i + 1]; when decided: where they begin. NULL = stays plain */
        uint64_t n;
        bool by_units;
        struct lossless_parts parts;
};

struct coder {
        struct coder_tensor *tensors; /* as in the plan */
        size_t n;
};

#define CODER_NULL ((struct coder){ 0 })

/* For the tensors of this plan. 0 or -ENOMEM. */
int coder_init(struct coder *c, const struct image_plan *plan);
void coder_deinit(struct coder *c);
/* Whether a matrix of this form can be coded. */
bool coder_can(const struct image_tensor *t);
/* Tensor number i, which can be, is to be measured. 0 or -ENOMEM. */
int coder_add(struct coder *c, const struct image_plan *plan, uint32_t i, bool by_units);
/* What was added and not given up. */
static inline bool coder_has(const struct coder *c, uint32_t i) {
        return c && c->tensors[i].at;
}

/* Whole panels of tensor i: rows [row, row + n) of all its matrices one after another, which end with a panel or their matrix.
 * data: the tensor's, or NULL to measure. */
enum coder_fault coder_rows(const struct coder *c, uint32_t i, const struct image_tensor *t, uint64_t row, uint64_t n, const char *src,
                            char *data);
/* Elements [k, k + n) of K of all rows of a matrix, by units: k is a multiple of LOSSLESS_UNIT, and n is one or leads to the end. */
enum coder_fault coder_columns(const struct coder *c, uint32_t i, const struct image_tensor *t, uint64_t matrix, uint64_t k, uint64_t n,
                               coder_gather *gather, const void *arg, const char *src, char *data);
/* When all is measured: what gets smaller is coded in this plan, which has to be laid out again; the rest stays as it is. */
void coder_decide(struct coder *c, struct image_plan *plan);
