/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "conversation.h"

/* A file of JSON. What has a NUL in it is none, and could not be handed on as a string. */
static int read_json(const struct ctl *ctl, const char *path, struct buf *out) {
        int status = input_file(ctl, path, out);

        if (status)
                return status;
        if (out->len == 0 || memchr(out->data, 0, out->len))
                return ctl_fail(ctl, EXIT_BAD_DATA, "INVALID_ARGUMENT", NULL, "%s is not JSON: it %s.",
                                strcmp(path, "-") == 0 ? "Standard input" : path,
                                out->len == 0 ? "is empty" : "holds a NUL character");
        return 0;
}

int conversation_options_read(const struct ctl *ctl, struct conversation_options *o) {
        int status = o->tools_path ? read_json(ctl, o->tools_path, &o->tools) : 0;

        if (status == 0 && o->messages_path)
                status = read_json(ctl, o->messages_path, &o->messages);
        return status;
}

void conversation_options_deinit(struct conversation_options *o) {
        buf_deinit(&o->messages);
        buf_deinit(&o->tools);
}

void conversation_options_apply(const struct conversation_options *o, struct spark_chat_request *request) {
        request->tools_json = o->tools.data;
        request->template_args_json = o->template_args;
        if (o->messages_path)
                request->messages_json = o->messages.data;
}
