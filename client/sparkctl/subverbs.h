/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Verbs that have verbs of their own: `sparkctl jobs cancel 7`. */

#include "ctl.h"

struct subverb {
        const char *name;
        verb_fn run; /* gets its own name as argv[0] */
        const char *help;
};

struct subverbs {
        const char *verb;
        const char *usage;   /* "SUBVERB [ARGUMENTS]" */
        const char *text;    /* paragraphs for --help, in front of the list */
        const char *more;    /* and behind it, or NULL */
        const char *missing; /* what is said where none is named; NULL: `otherwise` gets the verb's own arguments */
        verb_fn otherwise;
        const struct subverb *list;
        size_t n;
};

/* The verb: runs the subverb that argv[1] names, or prints the help. Exit status. */
int subverbs_run(const struct subverbs *s, struct ctl *ctl, int argc, char **argv);
