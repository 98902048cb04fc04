/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Models' images over a restart: their segments are in the service manager's store, a record says what they are. A new process
 * has the image as it is and starts an engine on it; what the model was read from is not opened.
 */

#include "keep/keep-records.h"

struct keep;
struct manager;
struct model;

/* Its image has come, or what is known of it has changed. */
void model_keep(struct model *model);
/* Segments of it have been closed, or will be: the store lets go of them, too. */
void model_keep_part(struct model *model);
/* Its image went whole for somebody who wanted memory: a record says so, that it comes back by itself, and not before. */
void model_keep_away(struct model *model);
/* Its image goes: before that. */
void model_keep_gone(struct model *model);
/* All that there are. */
void models_keep_all(struct manager *m, struct keep *k);

/* Gives the store all images anew: it has none. */
void models_keep_again(struct manager *m, struct keep *k);

/* What was read of models. */
void models_kept_read(struct keep_records *kept, const Spark__State__V1__Record *record);
/* Puts them into the table, which has those that are configured or stored already, and starts their engines. 0 or -errno. */
int models_restore(struct manager *m, const struct keep_records *kept);
