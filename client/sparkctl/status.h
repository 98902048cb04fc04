/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What status, models, ps and top have in common. */

#include "json.h"
#include "options.h"

/* The whole answer as an object. */
void status_json(struct json *j, const struct spark_status_result *s);
/* "models" and "requests" of an object. */
void status_json_models(struct json *j, const struct spark_model *const *models, size_t n);
void status_json_requests(struct json *j, const struct spark_status_result *s);
