/* SPDX-License-Identifier: Apache-2.0 */

/* models ls, show, import, verify, rm, pin, alias: what the service knows, and what its store keeps. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "import-files.h"
#include "json.h"
#include "model-file.h"
#include "models.h"
#include "options.h"
#include "status.h"
#include "subverbs.h"
#include "users.h"
#include "weights.h"

/* ---- answers ---- */

static void json_files(struct json *j, const struct spark_stored *s) {
        json_open(j, "files", '[');
        for (size_t i = 0; i < s->n_files; i++) {
                json_open(j, NULL, '{');
                json_string(j, "role", s->files[i]->role);
                json_string(j, "name", s->files[i]->name);
                json_u64(j, "bytes", s->files[i]->bytes);
                json_string(j, "sha256", s->files[i]->sha256);
                json_close(j, '}');
        }
        json_close(j, ']');
}

static void json_stored(const struct spark_stored *s) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        json_string(&j, "digest", s->digest);
        json_open(&j, "names", '[');
        for (size_t i = 0; i < s->n_names; i++)
                json_string(&j, NULL, s->names[i]);
        json_close(&j, ']');
        json_files(&j, s);
        json_u64(&j, "bytes", s->bytes);
        json_u64(&j, "imported", s->imported);
        json_u64(&j, "uid", s->uid);
        json_bool(&j, "pinned", s->pinned);
        json_bool(&j, "damaged", s->damaged);
        json_string(&j, "state", s->state);
        json_string(&j, "architecture", s->architecture);
        json_string(&j, "format", s->format);
        json_u64(&j, "parameters", s->parameters);
        json_u64(&j, "context", s->context);
        json_u64(&j, "vocabulary", s->vocabulary);
        json_bool(&j, "has_chat_template", s->has_chat_template);
        json_u64(&j, "image_bytes", s->image_bytes);
        json_u64(&j, "kv_bytes", s->kv_bytes);
        json_u64(&j, "available_bytes", s->available_bytes);
        json_u64(&j, "floor_bytes", s->floor_bytes);
        json_u64(&j, "freed_bytes", s->freed_bytes);
        json_string(&j, "method", s->method);
        weights_json(&j, s->weights);
        json_close(&j, '}');
        (void)json_print(&j);
}

bool models_done_json(const struct call *call, const struct spark_done *done) {
        if (call->ctl->json && done->stored)
                json_stored(done->stored);
        return call->ctl->json || !done->stored;
}

static void print_plan(const struct spark_stored *s) {
        uint64_t need = s->image_bytes + s->kv_bytes;
        uint64_t left = s->available_bytes > s->floor_bytes ? s->available_bytes - s->floor_bytes : 0;
        char a[32], b[32], c[32], d[32], e[32];

        if (need < s->image_bytes) /* it overflowed */
                need = UINT64_MAX;
        (void)printf("memory        %s (weights) + %s (KV cache of one context) = %s; %s are available, %s of them stay\n"
                     "              free: %s\n", words_bytes(s->image_bytes, a), words_bytes(s->kv_bytes, b),
                     words_bytes(need, c), words_bytes(s->available_bytes, d), words_bytes(s->floor_bytes, e),
                     strcmp(s->state, "ready") == 0 ? "it is loaded" : need <= left ? "it fits" : "a whole context does not fit now");
}

static void print_stored(const struct spark_stored *s) {
        char text[300], bytes[32], when[64] = "";
        struct user_names names = { 0 };
        time_t t = (time_t)s->imported;
        struct tm tm;

        (void)printf("digest        sha256:%s\n", format_safe(s->digest, text, sizeof(text)));
        (void)printf("names        ");
        for (size_t i = 0; i < s->n_names; i++)
                (void)printf(" %s", format_safe(s->names[i], text, sizeof(text)));
        (void)printf("%s\n", s->n_names ? "" : " (none)");
        if (localtime_r(&t, &tm))
                (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
        (void)printf("stored        %s, imported %s by %s%s%s\n", words_bytes(s->bytes, bytes), when,
                     user_name(&names, s->uid), s->pinned ? "; pinned" : "", s->damaged ? "; DAMAGED: import it again" : "");
        (void)printf("state         %s\n", format_safe(s->state, text, sizeof(text)));
        (void)printf("architecture  %s\n", format_safe(s->architecture, text, sizeof(text)));
        (void)printf("weights       %" PRIu64 " parameters%s%s\n", s->parameters, *s->format ? ", most of them " : "",
                     format_safe(s->format, text, sizeof(text)));
        (void)printf("context       %u tokens\nvocabulary    %u tokens\nchat template %s\n", s->context, s->vocabulary,
                     s->has_chat_template ? "yes" : "no");
        weights_print(s->weights);
        print_plan(s);
        for (size_t i = 0; i < s->n_files; i++)
                (void)printf("%-13s %s  %s  %s\n", s->files[i]->role, s->files[i]->sha256,
                             words_bytes(s->files[i]->bytes, bytes), format_safe(s->files[i]->name, text, sizeof(text)));
}

static void done_show(struct call *call, const struct spark_done *done) {
        if (!models_done_json(call, done))
                print_stored(done->stored);
}

static void done_import(struct call *call, const struct spark_done *done) {
        const struct spark_stored *s = done->stored;
        char bytes[32];

        if (models_done_json(call, done))
                return;
        (void)printf("sha256:%s\n%s, %s.\n", s->digest, words_bytes(s->bytes, bytes),
                     strcmp(s->method, "known") == 0     ? "which the store had already"
                     : strcmp(s->method, "reflink") == 0 ? "cloned into the store"
                                                         : "copied into the store");
}

static void done_remove(struct call *call, const struct spark_done *done) {
        const struct spark_stored *s = done->stored;
        char bytes[32], name[80];

        if (models_done_json(call, done))
                return;
        if (s->n_files == 0)
                (void)printf("The model is removed; %s are free again.\n", words_bytes(s->freed_bytes, bytes));
        else
                (void)printf("The name is removed; the model stays, as %s.\n",
                             s->n_names ? format_safe(s->names[0], name, sizeof(name)) : s->digest);
}

static void done_verify(struct call *call, const struct spark_done *done) {
        char bytes[32];

        if (!models_done_json(call, done))
                (void)printf("%s verified: as they were stored.\n", words_bytes(done->stored->bytes, bytes));
}

static void done_quiet(struct call *call, const struct spark_done *done) {
        (void)models_done_json(call, done);
}

int models_event_bar(struct spark *s, const struct spark_event *event, void *userdata) {
        struct call *call = userdata;

        if (event->type == SPARK_EVENT_PROGRESS) {
                byte_bar_show(call->ctl, event->progress);
                return 0;
        }
        return call_event(s, event, userdata);
}

/* ---- subverbs ---- */

static int start_import(struct ctl *ctl, const char *path, struct spark_import_request *request) {
        struct call call = { .ctl = ctl, .on_done = done_import };
        char name[MODEL_NAME_BYTES + 1];
        struct import_files files = { .n = 0 };
        int status;

        if (!request->name)
                request->name = model_file_name(path, name);
        if (!request->name)
                return ctl_fail_usage(ctl, "models import", "'%.100s' gives no name; --name is wanted.", path);
        status = import_files_open(ctl, &files, path);
        if (!status)
                status = ctl_connect_asking(ctl, true);
        if (!status) {
                request->fds = files.fds;
                request->files = files.names;
                request->n_files = files.n;
                status = call_wait(&call, spark_model_import(ctl->spark, request, models_event_bar, &call, &call.id));
        }
        import_files_deinit(&files);
        return status;
}

static int run_import(struct ctl *ctl, int argc, char **argv) {
        struct spark_import_request request = SPARK_IMPORT_INIT;
        bool replace = false, pin = false;
        const struct option options[] = {
                { "name", 0, OPTION_STRING, &request.name, NULL, 0, "NAME", "default: as the file or directory" },
                { "replace", 0, OPTION_FLAG, &replace, NULL, 0, NULL, "take the name from the model that has it" },
                { "pin", 0, OPTION_FLAG, &pin, NULL, 0, NULL, "and keep it, whatever is removed" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "models import",
                .usage = "[--name NAME] [--replace] [--pin] FILE|DIRECTORY",
                .text = "Takes a model's files into the service's store and prints its digest. They are opened with your\n"
                        "permissions; of a split model (-00001-of-00003), the first part is named; of a directory, what\n"
                        "is read of one (config.json, tokenizer.json, *.safetensors ...) is taken. They are cloned where\n"
                        "the file system can do that, else copied, and can be changed or deleted afterwards. What is\n"
                        "there already is only given the name. What the service could not load is refused.\n"
                        "With --json: as models show, with method (reflink, copy, known).\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0) {
                request.replace = replace;
                request.pin = pin;
                status = start_import(ctl, arguments.items[0], &request);
        }
        string_list_deinit(&arguments);
        return status;
}

typedef int (*model_fn)(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);

/* What takes names of models and nothing else. */
static int run_each(struct ctl *ctl, const struct option_spec *spec, int argc, char **argv, model_fn start,
                    void (*on_done)(struct call *call, const struct spark_done *done)) {
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true);
        for (size_t i = 0; i < arguments.n && status == 0; i++) {
                struct call call = { .ctl = ctl, .on_done = on_done };

                status = call_wait(&call, start(ctl->spark, arguments.items[i], models_event_bar, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}

/* A model that is not of the store: what lists say of it. */
struct show {
        const char *name;
        bool found;
};

static bool is_meant(const struct spark_model *m, const char *name) {
        return !m->digest[0] && strcmp(m->name, name) == 0;
}

static void done_find(struct call *call, const struct spark_done *done) {
        struct show *show = call->data;

        for (size_t i = 0; i < done->n_models && !show->found; i++) {
                if (!is_meant(done->models[i], show->name))
                        continue;
                show->found = true;
                status_model_show(done->models[i], call->ctl->json);
        }
}

static int show_model(struct ctl *ctl, const char *name) {
        struct show show = { .name = name };
        struct call find = { .ctl = ctl, .on_done = done_find, .data = &show };
        struct call stored = { .ctl = ctl, .on_done = done_show };
        int status = call_wait(&find, spark_models(ctl->spark, call_event, &find, &find.id));

        if (status || show.found)
                return status;
        return call_wait(&stored, spark_model_show(ctl->spark, name, call_event, &stored, &stored.id));
}

static int run_show(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "models show",
                .usage = "MODEL",
                .text = "What the store knows of a model: digest, names, files, what it is, and the memory it would take.\n"
                        "MODEL is any of its names, or sha256: and the first digits of its digest. With --json: digest,\n"
                        "names, files (role, name, bytes, sha256), bytes, imported, uid, pinned, damaged, state,\n"
                        "architecture, format, parameters, context, vocabulary, has_chat_template, image_bytes, kv_bytes,\n"
                        "available_bytes, floor_bytes, freed_bytes, method, bits_per_weight, coded_parameters, coded_bytes, packed,\n"
                        "estimated, kinds (kind, parameters, bytes, bits_per_weight, share). Of a model that is not of the store, what\n"
                        "models ls says of it, with its kinds where it is loaded.\n",
                .min_arguments = 1,
                .max_arguments = 1,
        };

        struct string_list arguments = { 0 };
        int status = options_parse(ctl, &spec, argc, argv, &arguments);

        if (status < 0)
                status = ctl_connect(ctl) ?: show_model(ctl, arguments.items[0]);
        string_list_deinit(&arguments);
        return status;
}

static int run_verify(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "models verify",
                .usage = "MODEL...",
                .text = "Hashes what is stored of a model and compares. A damaged file is put in quarantine, and the model\n"
                        "is not loaded again until it was imported anew (exit status 65).\n"
                        "With --json: as models show.\n",
                .min_arguments = 1,
                .max_arguments = SIZE_MAX,
        };

        return run_each(ctl, &spec, argc, argv, spark_model_verify, done_verify);
}

static int run_remove(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "models rm",
                .usage = "MODEL...",
                .text = "Removes names from the store, and with its last name a model. Named by its digest\n"
                        "(sha256:...), a model goes with all its names. What is loaded or pinned stays.\n"
                        "With --json: as models show, of what is left, with freed_bytes.\n",
                .min_arguments = 1,
                .max_arguments = SIZE_MAX,
        };

        return run_each(ctl, &spec, argc, argv, spark_model_remove, done_remove);
}

static int run_pin(struct ctl *ctl, int argc, char **argv) {
        bool remove = false;
        const struct option options[] = {
                { "remove", 0, OPTION_FLAG, &remove, NULL, 0, NULL, "no longer" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "models pin",
                .usage = "[--remove] MODEL",
                .text = "A pinned model is not removed, nor its last name. With --json: as models show.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = done_quiet };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true) ?: -1;
        if (status < 0)
                status = call_wait(&call, spark_model_pin(ctl->spark, arguments.items[0], !remove, call_event, &call,
                                                          &call.id));
        string_list_deinit(&arguments);
        return status;
}

static int run_alias(struct ctl *ctl, int argc, char **argv) {
        bool replace = false;
        const struct option options[] = {
                { "replace", 0, OPTION_FLAG, &replace, NULL, 0, NULL, "take the name from the model that has it" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "models alias",
                .usage = "[--replace] MODEL NAME",
                .text = "Gives a stored model another name. With --json: as models show.\n",
                .options = options,
                .min_arguments = 2,
                .max_arguments = 2,
        };
        struct call call = { .ctl = ctl, .on_done = done_quiet };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true) ?: -1;
        if (status < 0)
                status = call_wait(&call, spark_model_alias(ctl->spark, arguments.items[0], arguments.items[1], replace,
                                                            call_event, &call, &call.id));
        string_list_deinit(&arguments);
        return status;
}

static const struct subverb list[] = {
        { "ls", verb_models_list, "which there are (so does `sparkctl models`)" },
        { "show", run_show, "all about a stored one" },
        { "import", run_import, "take a model's files into the store" },
        { "verify", run_verify, "hash what is stored, and compare" },
        { "rm", run_remove, "remove a name, or a model" },
        { "pin", run_pin, "keep a model, whatever is removed" },
        { "alias", run_alias, "give a stored model another name" },
};

int verb_models(struct ctl *ctl, int argc, char **argv) {
        static const struct subverbs subverbs = {
                .verb = "models",
                .usage = "[SUBVERB] [ARGUMENTS]",
                .text = "Lists the models that the service knows; '*' marks the default one. With --json: models.\n\n"
                        "The service's store keeps models by their SHA-256, under names that every verb understands.\n",
                .otherwise = verb_models_list,
                .list = list,
                .n = ARRAY_SIZE(list),
        };

        return subverbs_run(&subverbs, ctl, argc, argv);
}
