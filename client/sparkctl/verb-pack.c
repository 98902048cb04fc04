/* SPDX-License-Identifier: Apache-2.0 */

/* pack: a model's image becomes a model of the store. */

#include <stdio.h>
#include <string.h>

#include "import-files.h"
#include "model-file.h"
#include "models.h"
#include "options.h"
#include "weights.h"

static void pack_done(struct call *call, const struct spark_done *done) {
        const struct spark_pack_request *request = call->data;
        const struct spark_stored *s = done->stored;
        char bytes[32], name[80];

        if (models_done_json(call, done))
                return;
        (void)printf("sha256:%s\n%s, packed into the store as %s", s->digest, words_bytes(s->bytes, bytes),
                     format_safe(request->name, name, sizeof(name)));
        if (s->weights && s->weights->parameters)
                (void)printf(": %.2f bits per weight", weights_bits(s->weights));
        (void)printf(".\n");
        if (request->lossless && (!s->weights || s->weights->coded_parameters == 0))
                (void)printf("None of its weights could be coded: they are not BF16, or do not get smaller.\n");
}

static int pack(struct ctl *ctl, const char *what, struct spark_pack_request *request) {
        struct call call = { .ctl = ctl, .on_done = pack_done, .data = request };
        struct import_files files = { .n = 0 };
        char hint[256];
        int status = 0;

        if (strchr(what, '/')) {
                status = import_files_open(ctl, &files, what);
        } else {
                request->model = what;
                call.hint_not_found = model_file_hint(what, hint, sizeof(hint));
        }
        if (!status)
                status = ctl_connect_asking(ctl, true);
        if (!status) {
                request->fds = files.fds;
                request->files = files.names;
                request->n_files = files.n;
                status = call_wait(&call, spark_model_pack(ctl->spark, request, models_event_bar, &call, &call.id));
        }
        import_files_deinit(&files);
        return status;
}

int verb_pack(struct ctl *ctl, int argc, char **argv) {
        struct spark_pack_request request = SPARK_PACK_INIT;
        bool lossless = false, replace = false, pin = false;
        const struct option options[] = {
                { "lossless", 0, OPTION_FLAG, &lossless, NULL, 0, NULL,
                  "BF16 weights are coded: the same bits in about 70 % of the room" },
                { "name", 0, OPTION_STRING, &request.name, NULL, 0, "NAME", "that the packed model is to have" },
                { "replace", 0, OPTION_FLAG, &replace, NULL, 0, NULL, "take the name from the model that has it" },
                { "pin", 0, OPTION_FLAG, &pin, NULL, 0, NULL, "and keep it, whatever is removed" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "pack",
                .usage = "[--lossless] [--replace] [--pin] --name NAME MODEL|FILE|DIRECTORY",
                .text = "Writes what a load would keep in memory into a file of the service's store: a model of its own,\n"
                        "which loads as fast as it can be read. MODEL is any model that the service knows. FILE is a path\n"
                        "with a '/' in it, opened with your permissions (of a split model, the first part; of a directory,\n"
                        "what is read of one). With --lossless, values are looked through first, then coded and checked.\n"
                        "Ctrl-C ends it, and nothing of it stays. With --json: as models show, with method (pack).\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0 && !request.name)
                status = ctl_fail_usage(ctl, "pack", "--name is wanted: the packed model goes by it.");
        if (status < 0) {
                request.lossless = lossless;
                request.replace = replace;
                request.pin = pin;
                status = pack(ctl, arguments.items[0], &request);
        }
        string_list_deinit(&arguments);
        return status;
}
