/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a model share: its states (model.c), its engines (model-engine.c), and who holds it back (model-hold.c). */

#include "event.h"
#include "model.h"

void model_set_state(struct model *model, enum model_state state);
/* With whatever waits for it; the event is logged. */
void model_fail(struct model *model, enum event event, const struct request_error *error);
/* Its engine ended because it was to: the image goes, and whoever asked for that is answered. */
void model_unloaded(struct model *model);
/* Nobody but an engine that has it mapped holds the image any more; it counts as ours until that is gone. */
void model_close_image(struct model *model);
/* Closes segments without freeing them in the loop. */
void model_close_segments(const struct model *model, int *fds, size_t n);
/* Closes the image and forgets what was promised to its engine. */
void model_drop_image(struct model *model);
/* model-segments.c: what a load brought becomes the image, or what was missing of it. */
void model_take_image(struct model *model, struct load *load);
/* Bytes of the image's segments that are there. */
uint64_t model_count_image(const struct model *model);
/* Its engine ends; model_given_back() follows. Whoever has its segments closes them. */
void model_end_engine(struct model *model);
/* Nothing happens where somebody holds it back. */
void model_start_engine(struct model *model);
/* The engine of a model that gives its memory back is gone. */
void model_given_back(struct model *model);
