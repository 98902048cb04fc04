/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Keeps the text of special tokens that users wrote apart from the special tokens that a template writes: marks in
 * strings before rendering, plain tokenizing around them after it. See chat.h for the idea.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "daemon/text/tokenizer.h"

#define GUARD_MARK_CHARS 6u
#define GUARD_MARK_BYTES (3u * GUARD_MARK_CHARS)

struct guard_string {
        const char *text;
        size_t size;
};

/* The texts that TOKENIZE_SPECIAL would turn into a token and plain tokenizing would not. */
struct guard {
        struct guard_string *strings; /* sorted by bytes, a prefix before what it begins */
        size_t n;
        bool first[256]; /* bytes that one begins with */
};

int guard_init(struct guard *g, const struct tokenizer_def *def, const struct tokenizer *t); /* 0 or -ENOMEM */
void guard_deinit(struct guard *g);

/* A mark from 128 random bits: GUARD_MARK_CHARS private-use characters. */
void guard_make_mark(const uint32_t random[4], char mark[GUARD_MARK_BYTES]);
/* Appends text with marks. An end of text that begins a special token is marked, too, whatever it will meet. 0,
 * BUF_E_LIMIT or -ENOMEM. */
int guard_mark(const struct guard *g, const char mark[GUARD_MARK_BYTES], const char *text, size_t n, struct buf *out);
/* Tokenizes what was rendered with marked strings; takes the marks out of `text`. 0 or -ENOMEM. */
int guard_encode(const struct guard *g, const char mark[GUARD_MARK_BYTES], const struct tokenizer *t, char *text,
                 size_t n, struct token_array *out);
