/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What top shows, as lines of text: top-lines.c makes them from an answer of the service, verb-top.c prints them or puts
 * them on the screen.
 */

#include "ctl.h"
#include "users.h"

#define TOP_LINE_MAX 240u /* bytes, without NUL */

enum top_sort { TOP_SORT_RATE, TOP_SORT_PRIORITY, TOP_SORT_TOKENS, TOP_SORT_AGE, TOP_SORT_USER, TOP_SORTS };

enum top_style { TOP_PLAIN, TOP_STRONG, TOP_HEADING, TOP_ALERT };

struct top_line {
        enum top_style style;
        char text[TOP_LINE_MAX + 1];
};

struct top_lines {
        struct top_line *lines;
        size_t n, cap;
        bool failed; /* out of memory: some are missing */
};

/* "tokens/s", ... */
const char *top_sort_name(enum top_sort sort);
void top_lines_deinit(struct top_lines *l);
/* Replaces what l holds. */
void top_lines_fill(struct top_lines *l, const struct spark_status_result *s, enum top_sort sort,
                    struct user_names *names);
