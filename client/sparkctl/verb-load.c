/* SPDX-License-Identifier: Apache-2.0 */

/* load, unload. */

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/splitname.h"
#include "json.h"
#include "load-plan.h"
#include "model-file.h"
#include "options.h"
#include "weights.h"

struct load {
        bool dry_run;
        const char *name; /* that a file is to go by; NULL: made from the file's */
        const char *shape, *format;
        uint32_t context;
        bool lossless;
        const char *memory; /* as it was written */
        uint64_t memory_bytes;
        const struct spark_load_result *refused; /* while it is reported */
        int status;       /* of a call whose error was reported; else 0 */
};

static void json_sums(struct json *j, const struct call *call) {
        const struct load *load = call->data;

        load_plan_json(j, load->refused, load->dry_run);
}

/* The sums of what has no room belong to the answer. They live as long as the event. */
static void load_refused(struct call *call, const struct spark_load_result *sums) {
        struct load *load = call->data;

        call->quiet = true;
        call->more_json = json_sums;
        load->refused = sums;
        if (load->dry_run && !call->ctl->json)
                load_plan_print(sums);
        load->status = call_report(call);
        load->refused = NULL;
}

static int load_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct call *call = userdata;
        int r;

        if (event->type == SPARK_EVENT_PROGRESS) {
                byte_bar_show(call->ctl, event->progress);
                return 0;
        }
        r = call_event(s, event, userdata);
        if (event->type == SPARK_EVENT_ERROR && event->load && !call->cancelled)
                load_refused(call, event->load);
        return r;
}

static void json_load(const struct load *load, const struct spark_load_result *r) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        load_plan_json(&j, r, load->dry_run);
        if (!load->dry_run) {
                json_u64(&j, "bytes", r->read_bytes);
                json_number(&j, "ms", (double)r->read_ms, 9);
                json_u64(&j, "bytes_per_second", r->bytes_per_second);
        }
        json_close(&j, '}');
        (void)json_print(&j);
}

static void load_done(struct call *call, const struct spark_done *done) {
        const struct load *load = call->data;
        const struct spark_load_result *r = done->load;
        char name[80], a[32], b[32], c[32], d[32];

        if (!r)
                return;
        if (call->ctl->json) {
                json_load(load, r);
                return;
        }
        if (load->dry_run) {
                load_plan_print(r);
                return;
        }
        (void)printf("%s is loaded: %s + %s KV cache, in %s", format_safe(r->model, name, sizeof(name)),
                     words_bytes(r->image_bytes, a), words_bytes(r->kv_bytes, b),
                     format_duration((double)r->load_ms / 1000, c));
        if (r->bytes_per_second > 0)
                (void)printf(" (read at %s/s)", words_bytes(r->bytes_per_second, d));
        (void)printf(".\n");
        if (r->weights && r->weights->coded_parameters > 0)
                (void)printf("Its weights are losslessly coded, in %.2f bits each.\n", weights_bits(r->weights));
        else if (load->lossless)
                (void)printf("None of its weights could be coded: they are not BF16, or do not get smaller.\n");
}

/* Opens what is a file; names are the service's business. 0 or the exit status, reported. */
static int request_file(const struct ctl *ctl, const char *what, struct spark_load_request *request, int *fd,
                        char **path) {
        char first[PATH_MAX];
        int status;

        if (model_file_is_directory(what)) { /* as parts are found */
                *path = realpath(what, NULL);
                request->path = *path;
                return 0;
        }
        status = model_file_open(ctl, what, fd);
        if (status)
                return status;
        if (splitname_part(what, 1, first, sizeof(first))) { /* the service has to find the other parts itself */
                *path = realpath(what, NULL);
                request->path = *path;
        } else {
                request->use_fd = 1;
                request->fd = *fd;
        }
        return 0;
}

static int load_start(struct ctl *ctl, struct call *call, const char *what) {
        struct spark_load_request request = SPARK_LOAD_INIT;
        const struct load *load = call->data;
        _cleanup_free_ char *path = NULL;
        _cleanup_fd_ int fd = -1;
        char name[MODEL_NAME_BYTES + 1], hint[256];
        int status = 0;

        request.dry_run = load->dry_run;
        request.shape = load->shape;
        request.format = load->format;
        request.context = load->context;
        request.lossless = load->lossless;
        request.memory_bytes = load->memory_bytes;
        if (what && strchr(what, '/')) {
                request.model = load->name || model_file_is_directory(what) ? load->name : model_file_name(what, name);
                status = request_file(ctl, what, &request, &fd, &path);
        } else if (load->name) {
                return ctl_fail_usage(ctl, "load", "--name goes with a FILE (a path with '/' in it).");
        } else if (what) {
                request.model = what;
                call->hint_not_found = model_file_hint(what, hint, sizeof(hint));
        }
        if (!status)
                status = ctl_connect_asking(ctl, true);
        if (status)
                return status;
        status = call_wait(call, spark_load(ctl->spark, &request, load_event, call, &call->id));
        call->hint_not_found = NULL;
        return load->status ? load->status : status;
}

/* -1, or the exit status. */
static int check_options(const struct ctl *ctl, struct load *load, size_t n_arguments) {
        if (n_arguments != (load->shape ? 0 : 1))
                return ctl_fail_usage(ctl, "load", load->shape ? "--shape stands instead of a model." :
                                                                 "It takes the name or the file of a model.");
        if (!load->shape != !load->format)
                return ctl_fail_usage(ctl, "load", "--shape and --format go together.");
        if (!load->dry_run && (load->shape || load->context || load->memory))
                return ctl_fail_usage(ctl, "load", "--shape, --context and --memory go with --dry-run.");
        if (load->memory && !parse_size(load->memory, &load->memory_bytes))
                return ctl_fail_usage(ctl, "load", "--memory takes bytes, or a number with K, M, G or T (GiB), such as 121.7G.");
        return -1;
}

int verb_load(struct ctl *ctl, int argc, char **argv) {
        struct load load = { 0 };
        const struct option options[] = {
                { "dry-run", 0, OPTION_FLAG, &load.dry_run, NULL, 0, NULL,
                  "only say what it would take and whether it fits" },
                { "name", 0, OPTION_STRING, &load.name, NULL, 0, "NAME",
                  "what the model is to be called (default: as the file)" },
                { "context", 0, OPTION_U32, &load.context, NULL, 0, "N", "dry run: with a KV cache for N tokens" },
                { "shape", 0, OPTION_STRING, &load.shape, NULL, 0, "SHAPE",
                  "dry run: of no file, but a model of this shape (llama-70b, ...)" },
                { "format", 0, OPTION_STRING, &load.format, NULL, 0, "FORMAT", "of the shape's weights (q4_k, bf16, ...)" },
                { "lossless", 0, OPTION_FLAG, &load.lossless, NULL, 0, NULL,
                  "BF16 weights are coded: the same bits in about 70 % of the memory" },
                { "memory", 0, OPTION_STRING, &load.memory, NULL, 0, "SIZE",
                  "dry run: on a machine with so much memory (121.7G)" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "load",
                .usage = "[--dry-run] [--lossless] [--context N] [--memory SIZE] [--name NAME] NAME|FILE|--shape SHAPE --format FORMAT",
                .text = "Loads a model and keeps it resident. NAME is a model of the service's configuration. FILE is\n"
                        "a path with a '/' in it (./model.gguf): it is opened with your permissions and handed to the\n"
                        "service (a directory's files and the parts of a split model are found by their path, which the\n"
                        "service must be able to read). What would take the machine below its memory floor is refused,\n"
                        "with the sums (exit status 1).\n"
                        "With --json: model, dry_run, image_bytes, kv_bytes, available_bytes, floor_bytes, load_ms, fits,\n"
                        "architecture, format, parameters, engine_bytes, total_bytes, kv_format, kv_bytes_per_1000_tokens,\n"
                        "kv_tokens, context, context_max, promised_bytes, left_bytes (negative: missing), memory_bytes,\n"
                        "lossless, bits_per_weight, coded_parameters, coded_bytes, packed, estimated, kinds (kind,\n"
                        "parameters, bytes, bits_per_weight, share); of a load also\n"
                        "bytes, ms, bytes_per_second (of reading); of one for which there is no memory also error.\n",
                .options = options,
                .min_arguments = 0,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = load_done, .data = &load };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = check_options(ctl, &load, arguments.n);
        if (status < 0)
                status = load_start(ctl, &call, arguments.n ? arguments.items[0] : NULL);
        string_list_deinit(&arguments);
        return status;
}

static void unload_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;
        const char *model = call->data;

        if (!call->ctl->json) {
                (void)printf("%s is unloaded.\n", model);
                return;
        }
        json_open(&j, NULL, '{');
        json_string(&j, "model", model);
        json_bool(&j, "unloaded", true);
        json_close(&j, '}');
        (void)json_print(&j);
}

int verb_unload(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "unload",
                .usage = "NAME",
                .text = "Gives a model's memory back. With --json: model, unloaded.\n",
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = unload_done };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true) ?: -1;
        if (status < 0) {
                call.data = (void *)arguments.items[0];
                status = call_wait(&call, spark_unload(ctl->spark, arguments.items[0], call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}
