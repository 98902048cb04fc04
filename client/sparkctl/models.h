/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What verbs about stored models share. */

#include "ctl.h"

/* A spark_event_fn of a call whose progress is a bar of bytes. */
int models_event_bar(struct spark *s, const struct spark_event *event, void *userdata);
/* Prints the stored model where --json is wanted; true where that, or nothing, was all there is to say. */
bool models_done_json(const struct call *call, const struct spark_done *done);
