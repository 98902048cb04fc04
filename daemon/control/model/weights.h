/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a loader said of a model's weights: how many there are of each kind, what they take, and how they are coded. Plain
 * structs and pure functions; zero is "not known".
 */

#include <stdbool.h>
#include <stdint.h>

#include "loadlink.h"
#include "spark.pb-c.h"

struct weights {
        struct loadlink_share kinds[LOADLINK_KINDS]; /* by enum loadlink_kind */
        struct loadlink_share coded;                 /* of these, losslessly */
        bool packed, estimated;
};

/* Weights as answers show them; points into itself. */
struct weights_view {
        Spark__V1__Weights message;
        Spark__V1__TensorShare shares[LOADLINK_KINDS];
        Spark__V1__TensorShare *list[LOADLINK_KINDS];
};

/* "attention"; NULL for a number that is no kind. */
const char *weights_kind_name(unsigned kind);
/* The kind of this name, or LOADLINK_KINDS. */
unsigned weights_kind_find(const char *name);
/* All kinds together. False where the sums make no sense: too large, or more coded than there are. */
bool weights_sum(const struct weights *w, struct loadlink_share *ret);
/* Out of a plan; not known where the plan says nothing that makes sense. */
struct weights weights_of_plan(const struct loadlink_record *plan);
/* 0 where they are not known. */
float weights_bits(const struct weights *w);
/* Fills *v and returns its message; NULL where they are not known. */
Spark__V1__Weights *weights_show(const struct weights *w, struct weights_view *v);
