/* SPDX-License-Identifier: Apache-2.0 */

/* prewarm, forget: what the prefix cache is to have, and what no longer. */

#include <inttypes.h>
#include <stdio.h>

#include "input.h"
#include "json.h"
#include "options.h"

static void prewarm_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!call->ctl->json) {
                (void)printf("tokens %" PRIu32 "\ncached %" PRIu32 "\n", done->prompt_tokens, done->cached_tokens);
                return;
        }
        json_open(&j, NULL, '{');
        json_u64(&j, "tokens", done->prompt_tokens);
        json_u64(&j, "cached_tokens", done->cached_tokens);
        json_close(&j, '}');
        (void)json_print(&j);
}

int verb_prewarm(struct ctl *ctl, int argc, char **argv) {
        struct spark_prewarm_request request = SPARK_PREWARM_INIT;
        bool share = false, special = false, no_bos = false;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: the service's default model" },
                { "share", 0, OPTION_FLAG, &share, NULL, 0, NULL,
                  "let every user's requests profit (not everybody may)" },
                { "special", 0, OPTION_FLAG, &special, NULL, 0, NULL, "recognise the text of special tokens" },
                { "no-bos", 0, OPTION_FLAG, &no_bos, NULL, 0, NULL, "no beginning-of-sequence token in front" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "prewarm",
                .usage = "[-m M] [--share] [--special] [--no-bos] TEXT|-",
                .text = "Reads a text ahead of time, so that prompts which begin with it start at once. '-' reads\n"
                        "standard input, byte for byte. What is read ahead serves your own requests only, unless it\n"
                        "is shared. Prints its tokens, and how many of them had been read already.\n"
                        "With --json: tokens, cached_tokens.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = prewarm_done, .show_progress = true };
        struct string_list arguments = { 0 };
        struct buf text = BUF_NULL(INPUT_MAX);
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = input_text(ctl, arguments.items[0], &text) ?: ctl_connect_asking(ctl, share) ?: -1;
        if (status < 0) {
                request.text = text.data;
                request.text_size = text.len;
                request.share = share;
                request.special = special;
                request.no_bos = no_bos;
                status = call_wait(&call, spark_prewarm(ctl->spark, &request, call_event, &call, &call.id));
        }
        buf_deinit(&text);
        string_list_deinit(&arguments);
        return status;
}

static void forget_done(struct call *call, const struct spark_done *done) {
        if (call->ctl->json)
                (void)printf("{}\n");
}

int verb_forget(struct ctl *ctl, int argc, char **argv) {
        struct spark_forget_prefixes_request request = SPARK_FORGET_PREFIXES_INIT;
        bool all = false;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: of all models" },
                { "all", 0, OPTION_FLAG, &all, NULL, 0, NULL,
                  "everybody's, the shared ones included, where you may manage models" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "forget",
                .usage = "[-m M] [--all]",
                .text = "Drops what the service keeps of prompts that it has read for you, so that they have to be\n"
                        "read anew. Sessions stay.\n",
                .options = options,
        };
        struct call call = { .ctl = ctl, .on_done = forget_done };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status < 0)
                status = ctl_connect_asking(ctl, all) ?: -1;
        if (status < 0) {
                request.all_users = all;
                status = call_wait(&call, spark_forget_prefixes(ctl->spark, &request, call_event, &call, &call.id));
        }
        return status;
}
