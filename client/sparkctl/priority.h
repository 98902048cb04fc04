/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* --priority of the verbs that make the model work. */

#include "options.h"

/* The row of a verb's option table for a `const char *` that holds the word. */
#define PRIORITY_OPTION_ROW(word)                                                                                      \
        { "priority", 0, OPTION_STRING, &(word), NULL, 0, "P", "background, normal or interactive" }

/* "background", "normal", "interactive"; "" for the default, "?" for a number from a newer service. */
const char *priority_name(int priority);
/* Checks the word (NULL: not given). 0 or the exit status. */
int priority_check(const struct ctl *ctl, const char *verb, const char *word);
/* What to ask for, once connected: the word, or, where none was given and a person waits, the highest one if the service
 * lets us have it. */
int priority_choose(const struct ctl *ctl, const char *word, bool person_waits);
