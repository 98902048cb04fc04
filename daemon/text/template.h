/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Chat templates: the Jinja subset that models ship, rendered with Hugging Face's semantics (trim_blocks,
 * lstrip_blocks, tojson, strftime_now, raise_exception, loop controls). A template is a stranger's program: parsing and
 * rendering are bounded in steps, depth, memory and output.
 */

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/buf.h"

enum {
        TEMPLATE_E_SYNTAX = 1, /* not a template we can read; text names line and construct */
        TEMPLATE_E_RENDER = 2, /* refused by the template (raise_exception) or an error while rendering */
        TEMPLATE_E_LIMIT = 3,  /* too many steps, too deep, too much output or memory */
        TEMPLATE_E_INPUT = 4,  /* the conversation's JSON is malformed; text names the field */
};

struct template_error {
        char text[512];
        unsigned line; /* of the template, 0 where unknown */
};

struct template;

/* 0, TEMPLATE_E_SYNTAX, TEMPLATE_E_LIMIT, or -ENOMEM. source need not be NUL-terminated. */
int template_parse(struct template **ret, const char *source, size_t size, struct template_error *error);
struct template *template_free(struct template *t);

struct template_limits {
        uint64_t steps;    /* of about ten nanoseconds; 0 = 4 million, and 16 for each byte of JSON */
        size_t output;     /* bytes; 0 = 16 MiB */
        size_t memory;     /* bytes; 0 = 256 MiB */
        unsigned depth;    /* 0 = 100 */
};

/* Renders with the variables of a JSON object (`json`: "messages", "tools", "add_generation_prompt", "bos_token",
 * ..., "now": ISO 8601 date and time for strftime_now; absent: `now` below) and appends the prompt to *out.
 * 0, TEMPLATE_E_*, or -ENOMEM; *out is unchanged on failure. A template may be rendered by several threads at once. */
int template_render(const struct template *t, const char *json, size_t json_size, time_t now,
                    const struct template_limits *limits, struct buf *out, struct template_error *error);
