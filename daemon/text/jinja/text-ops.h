/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What filters and methods of strings share. Results keep the MARKUP flag of their input. */

#include "render.h"

enum text_case {
        CASE_UPPER,
        CASE_LOWER,
        CASE_CAPITALIZE, /* first character title case, the others lower */
        CASE_TITLE,      /* str.title(): every run of cased characters */
        CASE_FILTER_TITLE, /* the filter: words end at white space, hyphens and opening brackets */
        CASE_SWAP,
};

int text_map_case(struct render *r, const struct value *s, enum text_case mode, struct value *ret);
/* count < 0: all */
int text_replace(struct render *r, const struct value *s, const struct value *from, const struct value *to, int64_t count,
                 struct value *ret);
/* Without white space, or without the characters of `chars` (V_MISSING or none: white space), on the sides asked for. */
int text_strip(struct render *r, const struct value *s, const struct value *chars, bool left, bool right,
               struct value *ret);
int text_join(struct render *r, const struct value *separator, const struct list *items, bool convert, struct value *ret);
/* Lines as str.splitlines() cuts them. */
int text_splitlines(struct render *r, const struct value *s, bool keep, struct value *ret);
int text_pad(struct render *r, const struct value *s, size_t left, size_t right, const struct value *fill,
             struct value *ret);
/* An argument as an int, or `missing`; TypeError for anything else. */
int arg_int(struct render *r, const struct value *v, int64_t missing, int64_t *ret);
/* An argument that must be a string. */
int arg_text(struct render *r, const struct value *v);
