/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a model share: its states (model.c), and who holds it back (model-hold.c). */

#include "model.h"

void model_set_state(struct model *model, enum model_state state);
/* Closes the image and forgets what was promised to its engine. */
void model_drop_image(struct model *model);
/* Nothing happens where somebody holds it back. */
void model_start_engine(struct model *model);
/* The engine of a model that gives its memory back is gone. */
void model_given_back(struct model *model);
