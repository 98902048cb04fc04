/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a command line adds to a chat: tool definitions, variables for the template, and a whole conversation in JSON.
 * Whether they make sense is the service's to say. */

#include "base/buf.h"
#include "input.h"
#include "options.h"

struct conversation_options {
        const char *messages_path; /* NULL: not given */
        const char *tools_path;
        const char *template_args; /* JSON itself */
        struct buf messages;
        struct buf tools;
};
#define CONVERSATION_OPTIONS_INIT { .messages = BUF_NULL(INPUT_MAX), .tools = BUF_NULL(INPUT_MAX) }

/* The rows of a verb's option table for a `struct conversation_options o`. */
#define TEMPLATE_OPTION_ROWS(o)                                                                                        \
        { "tools", 0, OPTION_STRING, &(o).tools_path, NULL, 0, "FILE",                                                 \
          "JSON array of tool definitions for the chat template" },                                                    \
        { "template-args", 0, OPTION_STRING, &(o).template_args, NULL, 0, "JSON",                                      \
          "object of variables for the chat template, e.g. '{\"enable_thinking\": false}'" }
#define MESSAGES_OPTION_ROW(o)                                                                                         \
        { "messages", 0, OPTION_STRING, &(o).messages_path, NULL, 0, "FILE|-",                                         \
          "answer this conversation, a JSON array of messages, and end" }

static inline bool conversation_options_given(const struct conversation_options *o) {
        return o->tools_path || o->template_args || o->messages_path;
}
/* Reads the files. 0 or the exit status. */
int conversation_options_read(const struct ctl *ctl, struct conversation_options *o);
void conversation_options_deinit(struct conversation_options *o);
/* Puts them into the request, which borrows them. */
void conversation_options_apply(const struct conversation_options *o, struct spark_chat_request *request);
