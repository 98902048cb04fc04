/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A conversation into prompt tokens: the model's template renders it, then it is tokenized with special tokens
 * recognised in what the template wrote, and never in what users wrote.
 *
 * How that is kept apart: in every string of the request (contents, names, tool definitions, template variables) the
 * text of a control token gets a mark after its first character, a run of private-use characters drawn at random for
 * this request. Marks have no case and are no white space, so that a template may trim, compare, split or search around
 * them; they stay where their token's text goes. In the rendered prompt marks are taken out again, and the stretch
 * of text between two control tokens of the template's own that held one is tokenized as plain text throughout.
 */

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "daemon/text/template.h"
#include "daemon/text/tokenizer.h"
#include "request.h"

struct chat;

/* Control tokens are found in the definition; source is the template. 0, REQUEST_E_FAILED where the template can't be
 * read (f says why), or -ENOMEM. def and tokenizer are borrowed. */
int chat_new(struct chat **ret, const struct tokenizer_def *def, const struct tokenizer *t, const char *source,
             size_t size, struct failure *f);
struct chat *chat_free(struct chat *c);
DEFINE_CLEANUP(struct chat *, chat_free)

/* Appends the prompt's tokens to *out. answer: an answer is to follow (add_generation_prompt, unless the request sets it).
 * seed: random, for the marks. 0, REQUEST_E_FAILED, or -ENOMEM. */
int chat_encode(const struct chat *c, const Spark__V1__Chat *chat, bool answer, const uint32_t seed[4], time_t now,
                struct token_array *out, struct failure *f);
