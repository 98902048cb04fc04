/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What status, models, ps and top have in common. */

#include "json.h"
#include "options.h"

/* The whole answer as an object. */
void status_json(struct json *j, const struct spark_status_result *s);
/* One model, with what its weights are. */
void status_model_show(const struct spark_model *m, bool json);
/* Keys of one model, for an open object. */
void status_json_model(struct json *j, const struct spark_model *m);
/* "models" and "requests" of an object. */
void status_json_models(struct json *j, const struct spark_model *const *models, size_t n);
void status_json_requests(struct json *j, const struct spark_status_result *s);
void status_json_leases(struct json *j, const struct spark_status_result *s);
