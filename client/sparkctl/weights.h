/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a model's weights are, for people and for programs. NULL: not known. */

#include "client/spark.h"
#include "json.h"

/* Bits of one of them; 0 where that is not known. */
double weights_bits(const struct spark_weights *w);
/* Lines on standard output: the whole, and each kind's share. */
void weights_print(const struct spark_weights *w);
/* Adds keys to an open object: bits_per_weight, coded_parameters, coded_bytes, packed, kinds. */
void weights_json(struct json *j, const struct spark_weights *w);
