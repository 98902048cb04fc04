/* SPDX-License-Identifier: Apache-2.0 */

/* load, unload. */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "json.h"
#include "model-file.h"
#include "options.h"

struct load {
        bool dry_run;
        const char *name; /* that a file is to go by; NULL: made from the file's */
        struct byte_bar bar;
};

/* "load [#####     ] 52 %  3.1 GiB/s  4.2 s left" */
void byte_bar_show(struct ctl *ctl, struct byte_bar *b, const struct spark_progress *p) {
        char rate[32], left[32], bar[25];
        double seconds, speed, share;
        size_t filled;

        if (strcmp(b->stage, p->stage) != 0) {
                (void)snprintf(b->stage, sizeof(b->stage), "%.31s", p->stage);
                b->start_ms = ctl_now_ms();
                b->start_done = p->done;
        }
        if (p->total == 0 || p->done > p->total)
                return;
        share = (double)p->done / (double)p->total;
        filled = (size_t)(share * (sizeof(bar) - 1));
        memset(bar, ' ', sizeof(bar) - 1);
        memset(bar, '#', filled);
        bar[sizeof(bar) - 1] = 0;
        seconds = (double)(ctl_now_ms() - b->start_ms) / 1000;
        speed = seconds > 0.2 && p->done > b->start_done ? (double)(p->done - b->start_done) / seconds : 0;
        if (speed > 0)
                ctl_progress(ctl, "%s [%s] %3u %%  %s/s  %s left", b->stage, bar, (unsigned)(share * 100),
                             format_bytes((uint64_t)speed, rate),
                             format_duration((double)(p->total - p->done) / speed, left));
        else
                ctl_progress(ctl, "%s [%s] %3u %%", b->stage, bar, (unsigned)(share * 100));
}

static int load_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct call *call = userdata;

        if (event->type == SPARK_EVENT_PROGRESS) {
                struct load *load = call->data;

                byte_bar_show(call->ctl, &load->bar, event->progress);
                return 0;
        }
        return call_event(s, event, userdata);
}

static void json_load(const struct load *load, const struct spark_load_result *r) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        json_string(&j, "model", r->model);
        json_bool(&j, "dry_run", load->dry_run);
        json_u64(&j, "image_bytes", r->image_bytes);
        json_u64(&j, "kv_bytes", r->kv_bytes);
        json_u64(&j, "available_bytes", r->available_bytes);
        json_u64(&j, "floor_bytes", r->floor_bytes);
        json_number(&j, "load_ms", r->load_ms, 9);
        json_close(&j, '}');
        (void)json_print(&j);
}

static void load_done(struct call *call, const struct spark_done *done) {
        const struct load *load = call->data;
        const struct spark_load_result *r = done->load;
        char name[80], a[32], b[32], c[32], d[32], e[32];

        if (!r)
                return;
        if (call->ctl->json) {
                json_load(load, r);
                return;
        }
        (void)format_safe(r->model, name, sizeof(name));
        if (!load->dry_run) {
                (void)printf("%s is loaded: %s + %s KV cache, in %s.\n", name, format_bytes(r->image_bytes, a),
                             format_bytes(r->kv_bytes, b), format_duration((double)r->load_ms / 1000, c));
                return;
        }
        (void)printf("%s would take %s (weights) + %s (KV cache) = %s.\n"
                     "%s are available, %s of them stay free: it fits.\n",
                     name, format_bytes(r->image_bytes, a), format_bytes(r->kv_bytes, b),
                     format_bytes(r->image_bytes + r->kv_bytes, c), format_bytes(r->available_bytes, d),
                     format_bytes(r->floor_bytes, e));
}

/* Where "-00001-of-00003" begins in front of the suffix, NULL when the file is no shard. The service has to find the
 * other shards itself, so it gets the path. */
const char *model_file_find_shard(const char *path) {
        const char *dot = strrchr(path, '.'), *p;

        if (!dot || dot - path < 15)
                return NULL;
        p = dot - 15;
        if (p[0] != '-' || memcmp(p + 6, "-of-", 4) != 0)
                return NULL;
        for (int i = 1; i <= 5; i++)
                if (p[i] < '0' || p[i] > '9' || p[i + 9] < '0' || p[i + 9] > '9')
                        return NULL;
        return p;
}

bool model_file_is_directory(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* "models/Some Model-00001-of-00003.gguf" -> "Some-Model"; a directory's name is taken whole. */
const char *model_file_name(const char *path, char out[MODEL_NAME_BYTES + 1]) {
        _cleanup_free_ char *whole = model_file_is_directory(path) ? realpath(path, NULL) : NULL;
        const char *slash = strrchr(whole ? whole : path, '/'), *base = slash ? slash + 1 : path;
        const char *end = whole ? NULL : model_file_find_shard(path);
        size_t n;

        while (*base == '.')
                base++;
        if (!end && !whole)
                end = strrchr(base, '.');
        n = end && end > base ? (size_t)(end - base) : strlen(base);
        n = MIN(n, (size_t)MODEL_NAME_BYTES);
        for (size_t i = 0; i < n; i++)
                out[i] = isalnum((unsigned char)base[i]) || strchr("._:-", base[i]) ? base[i] : '-';
        out[n] = 0;
        return n > 0 ? out : NULL;
}

int model_file_open(const struct ctl *ctl, const char *path, int *ret_fd) {
        _cleanup_fd_ int fd = -1;
        struct stat st;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 && (errno == EACCES || errno == EPERM))
                return ctl_fail(ctl, EXIT_NOT_PERMITTED, "PERMISSION_DENIED", "Give yourself permission to read it.",
                                "%s can't be opened: %s.", path, strerror(errno));
        if (fd < 0)
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE",
                                "Check the path; a name without '/' means a configured model.",
                                "%s can't be opened: %s.", path, strerror(errno));
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE", "A model is one file, e.g. in GGUF format.",
                                "%s is not a regular file.", path);
        *ret_fd = fd_steal(&fd);
        return 0;
}

static int load_start(struct ctl *ctl, struct call *call, const char *what) {
        struct spark_load_request request = SPARK_LOAD_INIT;
        const struct load *load = call->data;
        _cleanup_free_ char *path = NULL;
        _cleanup_fd_ int fd = -1;
        char name[MODEL_NAME_BYTES + 1];
        int status;

        request.dry_run = load->dry_run;
        if (!strchr(what, '/')) {
                if (load->name)
                        return ctl_fail_usage(ctl, "load", "--name goes with a FILE (a path with '/' in it).");
                request.model = what;
        } else if (model_file_is_directory(what)) { /* its files are found by the path, as shards are */
                path = realpath(what, NULL);
                request.path = path;
                request.model = load->name;
        } else {
                request.model = load->name ? load->name : model_file_name(what, name);
                status = model_file_open(ctl, what, &fd);
                if (status)
                        return status;
                if (model_file_find_shard(what)) {
                        path = realpath(what, NULL);
                        request.path = path;
                } else {
                        request.use_fd = 1;
                        request.fd = fd;
                }
        }
        status = ctl_connect(ctl);
        if (status)
                return status;
        return call_wait(call, spark_load(ctl->spark, &request, load_event, call, &call->id));
}

int verb_load(struct ctl *ctl, int argc, char **argv) {
        struct load load = { 0 };
        const struct option options[] = {
                { "dry-run", 0, OPTION_FLAG, &load.dry_run, NULL, 0, NULL,
                  "only say what it would take and whether it fits" },
                { "name", 0, OPTION_STRING, &load.name, NULL, 0, "NAME",
                  "what the model is to be called (default: as the file)" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "load",
                .usage = "[--dry-run] [--name NAME] NAME|FILE",
                .text = "Loads a model and keeps it resident. NAME is a model of the service's configuration. FILE is\n"
                        "a path with a '/' in it (./model.gguf): it is opened with your permissions and handed to the\n"
                        "service (a directory's files and the shards of a split model are found by their path, which\n"
                        "the service must be able to read). What would take the machine below its memory floor is refused, with the sums.\n"
                        "With --json: model, dry_run, image_bytes, kv_bytes, available_bytes, floor_bytes, load_ms.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = load_done, .data = &load };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = load_start(ctl, &call, arguments.items[0]);
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
                status = ctl_connect(ctl) ?: -1;
        if (status < 0) {
                call.data = (void *)arguments.items[0];
                status = call_wait(&call, spark_unload(ctl->spark, arguments.items[0], call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}
