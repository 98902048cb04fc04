/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aside.h"
#include "base/checked.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/utf8.h"
#include "base/words.h"
#include "load.h"
#include "manager.h"
#include "plan.h"
#include "spawn.h"

#define OOM_SCORE "500"         /* rather the loader than anybody else */
#define CODED_FORMAT "bf16_ll"  /* of a shape whose weights are coded */
#define LOAD_CHANGED \
        "The model's files have changed since they were loaded, so what was given back of its memory can't be loaded again."

/* ---- ends ---- */

struct load *load_free(struct load *load) {
        if (!load)
                return NULL;
        load->link_source = sd_event_source_disable_unref(load->link_source);
        load->exit_source = sd_event_source_disable_unref(load->exit_source);
        load->pidfd = spawn_abandon(load->manager->event, load->pidfd);
        load->link = fd_close(load->link);
        model_files_deinit(&load->files);
        aside_close(load->segments, load->n_segments);
        free(load);
        return NULL;
}

static void load_fail(struct load *load, Spark__V1__ErrorCode code, const char *text) {
        if (load->failed)
                return;
        load->failed = true;
        request_error_set(&load->error, code, "%s", text);
        spawn_kill(load->pidfd, SIGKILL); /* the rest happens when it is gone */
}

static void answer_dry_run(struct load *load) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__LoadResult result = SPARK__V1__LOAD_RESULT__INIT;
        struct weights_view weights;

        plan_show(&load->plan, &weights, &result);
        result.model = load->model->name;
        result.kv_format = load->manager->config->kv_format;
        result.load_ms = (float)((double)(manager_now_us() - load->started_us) / 1000.0);
        done.result_case = SPARK__V1__DONE__RESULT_LOAD;
        done.load = &result;
        request_finish(load->request, &done);
}

/* The loader is gone and reaped: the one place from which a load ends. Frees it. */
static void load_end(struct load *load) {
        struct request_error error = load->error;

        if (load->request && load->failed)
                request_fail(load->request, &error);
        else if (load->request)
                answer_dry_run(load);
        else if (load->failed)
                model_load_failed(load->model, &error);
        else
                model_load_done(load->model);
}

static void load_seal(struct load *load) {
        for (size_t i = 0; i < load->n_segments && !load->failed; i++) {
                int r = fd_memfd_seal(load->segments[i]);

                if (r < 0)
                        request_error_set(&load->error, SPARK__V1__ERROR_CODE__INTERNAL,
                                          "The image could not be sealed: %s.", strerror(-r));
                load->failed = r < 0;
        }
}

/* ---- records ---- */

static void refuse_memory(struct load *load) {
        const struct plan *p = &load->plan;
        char need[32], image[32], kv[32], engine[32], available[32], floor[32], promised[32], missing[32], others[160];

        (void)words_bytes(p->need, need);
        (void)words_bytes(p->image, image);
        (void)words_bytes(p->kv, kv);
        (void)words_bytes(p->engine, engine);
        (void)words_bytes(p->available, available);
        (void)words_bytes(p->floor, floor);
        (void)words_bytes(p->promised, promised);
        (void)words_bytes(p->need - MIN(p->need, p->room), missing);
        load->failed = true;
        request_error_set(&load->error, SPARK__V1__ERROR_CODE__NO_MEMORY,
                          "Model '%s' needs %s (weights %s, KV cache %s for %" PRIu64 " tokens, engine %s); %s are available, "
                          "of which %s are kept free and %s are promised to others: %s are missing.%s",
                          load->model->name, need, image, kv, p->kv_tokens, engine, available, floor, promised, missing,
                          load->machine ? "" : residency_explain(load->model, others, sizeof(others)));
        load->error.have = p->need;
        load->error.max = p->room;
        load->error.has_plan = true;
        load->error.plan = *p;
        spawn_kill(load->pidfd, SIGKILL);
}

/* UINT64_MAX where the model's numbers make no sense. */
static uint64_t kv_per_token(const struct config *c, const struct loadlink_record *plan) {
        uint64_t bytes = plan->kv_bytes_per_token;

        if (strcmp(c->kv_format, "q8_0") == 0)
                return plan->kv_bytes_per_token_q8_0;
        if (strcmp(c->kv_format, "f32") == 0 && !checked_mul(bytes, 2, &bytes))
                return UINT64_MAX;
        return bytes;
}

/* What a hostile file may have said, made printable. */
static void take_text(char *out, size_t size, const char *text, size_t n) {
        (void)snprintf(out, size, "%.*s", (int)strnlen(text, n), text);
        for (char *p = out; *p; p++)
                if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
                        *p = '?';
}

/* Does the plan leave the floor alone? Also chooses how much KV cache the model gets. */
static bool plan_fits(struct load *load, const struct loadlink_record *plan, uint64_t image) {
        struct manager *m = load->manager;
        struct plan_question q = {
                .image = image,
                .engine = plan->engine_bytes,
                .kv_per_token = kv_per_token(m->config, plan),
                .kv_configured = m->config->memory_kv,
                .trained = plan->context,
                .context = load->model->context,
                .asked = load->context,
        };

        models_count_memory(m);
        q.available = load->machine ? load->machine : memory_available(&m->memory);
        q.floor = load->machine ? memory_floor_of(m->config->memory_floor, load->machine) : m->memory.floor;
        q.promised = load->machine ? 0 : m->memory.untouched + m->memory.given;
        plan_reckon(&q, &load->plan);
        load->plan.machine = load->machine;
        load->plan.weights = weights_of_plan(plan);
        load->plan.parameters = plan->n_params;
        take_text(load->plan.architecture, sizeof(load->plan.architecture), plan->architecture, sizeof(plan->architecture));
        take_text(load->plan.format, sizeof(load->plan.format), plan->format, sizeof(plan->format));
        return load->plan.fits;
}

static void hand_segments(struct load *load, const struct loadlink_record *plan) {
        struct loadlink_record answer = { .version = LOADLINK_VERSION, .type = LOADLINK_SEGMENTS,
                                          .n_segments = 0 };
        int r = 0;

        for (size_t i = 0; i < plan->n_segments && r >= 0; i++) {
                if (load->missing && !(load->missing >> i & 1))
                        continue;
                r = fd_memfd_new("sparkd-image", plan->segment_bytes[i]);
                if (r >= 0)
                        load->segments[load->n_segments++] = r;
        }
        answer.n_segments = (uint32_t)load->n_segments;
        if (r >= 0)
                r = loadlink_send(load->link, &answer, load->segments, load->n_segments);
        load->handed_us = manager_now_us();
        speed_add(&load->speed, load->handed_us, 0);
        if (r < 0)
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The image's memory could not be handed out.");
}

/* What is to be loaded goes together with what is there. */
static bool plan_is_the_same(const struct load *load, const struct loadlink_record *plan) {
        const struct model *model = load->model;

        return plan->checksum == model->image_checksum && plan->n_segments == model->n_segments &&
               memcmp(plan->segment_bytes, model->segment_bytes, plan->n_segments * sizeof(*plan->segment_bytes)) == 0;
}

/* Bytes of the segments that are loaded, or of all. They were checked when the plan came. */
static uint64_t planned_bytes(const struct load *load, bool all) {
        uint64_t sum = 0;

        for (size_t i = 0; i < load->record.n_segments; i++)
                if (all || !load->missing || load->missing >> i & 1)
                        sum += load->segment_bytes[i];
        return sum;
}

/* Takes the memory, waits for it, or is refused. */
static void load_decide(struct load *load) {
        uint64_t image = planned_bytes(load, false);
        bool fits = plan_fits(load, &load->record, image);

        if (!load->request)
                fits = fits && residency_allows(load->model, &load->plan);
        if (!fits && !load->request && residency_make_room(load->model, &load->plan)) {
                load->waits = true;
                load->stage = "room";
                load->stage_done = load->stage_total = 0;
                load->plan = (struct plan){ 0 };
                return;
        }
        if (!fits) {
                refuse_memory(load);
                load->plan = (struct plan){ 0 }; /* nothing is charged */
                return;
        }
        residency_done(load->model);
        load->active_us = manager_now_us();
        load->image_bytes = image;
        load->plan.image = planned_bytes(load, true);
        if (!load->request) /* --plan-only: it ends by itself */
                hand_segments(load, &load->record);
}

static void on_plan(struct load *load, const struct loadlink_record *plan) {
        uint64_t all = 0;

        if (load->planned || plan->n_segments == 0 || plan->n_segments > LOADLINK_SEGMENTS_MAX) {
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader's plan makes no sense.");
                return;
        }
        load->planned = true;
        for (size_t i = 0; i < plan->n_segments; i++) {
                load->segment_bytes[i] = plan->segment_bytes[i];
                if (plan->segment_bytes[i] == 0 || !checked_add(all, plan->segment_bytes[i], &all)) {
                        load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader's plan makes no sense.");
                        return;
                }
        }
        if (load->missing && !plan_is_the_same(load, plan)) {
                load_fail(load, SPARK__V1__ERROR_CODE__MODEL_INVALID, LOAD_CHANGED);
                return;
        }
        load->checksum = plan->checksum;
        load->read_bytes = plan->total;
        load->record = *plan;
        load_decide(load);
}

void load_retry(struct load *load) {
        if (!load->waits || load->failed)
                return;
        load->waits = false;
        load_decide(load);
}

/* The loader has read a hostile file: its sentence is shown to people, so it is made printable. */
static void on_error(struct load *load, const struct loadlink_record *rec) {
        Spark__V1__ErrorCode code = SPARK__V1__ERROR_CODE__INTERNAL;
        char text[sizeof(rec->text)];

        memcpy(text, rec->text, sizeof(text));
        text[sizeof(text) - 1] = 0;
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f)
                        *p = '?';
        if (!utf8_valid(text, strlen(text), NULL))
                for (char *p = text; *p; p++)
                        if ((unsigned char)*p >= 0x80)
                                *p = '?';
        if (rec->code == LOADLINK_CODE_MODEL_INVALID || rec->code == LOADLINK_CODE_UNSUPPORTED)
                code = load->shape ? SPARK__V1__ERROR_CODE__INVALID_ARGUMENT : SPARK__V1__ERROR_CODE__MODEL_INVALID;
        load_fail(load, code, *text ? text : "The loader failed without saying why.");
}

static void on_survey(struct load *load, const struct loadlink_record *rec) {
        load->stage = "survey";
        load->stage_done = MIN(rec->done, rec->total);
        load->stage_total = rec->total;
        speed_add(&load->speed, load->active_us, load->stage_done);
        if (load->request)
                request_progress_at(load->request, load->stage, &load->speed, load->stage_done, load->stage_total);
        else
                model_load_progress(load->model, load);
}

static void on_written(struct load *load, const struct loadlink_record *rec) {
        load->stage = "load";
        load->done_bytes = load->stage_done = MIN(rec->done, load->image_bytes);
        load->stage_total = load->image_bytes;
        speed_add(&load->speed, load->active_us, load->done_bytes);
        if (!load->request)
                model_load_progress(load->model, load);
}

static void on_record(struct load *load, const struct loadlink_record *rec) {
        load->active_us = manager_now_us();
        switch (rec->type) {
        case LOADLINK_PLAN:
                on_plan(load, rec);
                return;
        case LOADLINK_PROGRESS:
                (rec->phase == LOADLINK_PHASE_SURVEY ? on_survey : on_written)(load, rec);
                if (!load->request && load->n_segments > 0 && rec->tensors > 0)
                        model_load_arrived(load->model, rec->tensors);
                return;
        case LOADLINK_DONE:
                load->written = true;
                load->written_us = load->active_us;
                return;
        case LOADLINK_ERROR:
                on_error(load, rec);
                return;
        default:
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader sent a record that nobody knows.");
        }
}

/* Reads what is there, at most a few records a turn. False when the link has ended. */
static bool load_read(struct load *load) {
        struct loadlink_record rec;

        for (int i = 0; i < 16; i++) {
                int r = loadlink_recv_record(load->link, &rec);

                if (r == -EAGAIN)
                        return true;
                if (r == 0)
                        return false;
                if (r < 0) {
                        load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader sent a malformed record.");
                        return false;
                }
                on_record(load, &rec);
        }
        return true;
}

static int on_link(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct load *load = userdata;

        if (!load_read(load))
                load->link_source = sd_event_source_disable_unref(load->link_source);
        return 0;
}

static int on_exit_of_loader(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct load *load = userdata;
        char how[64], text[160];
        siginfo_t info;

        if (spawn_reap(load->pidfd, &info) == 0)
                return 0;
        load->exit_source = sd_event_source_disable_unref(load->exit_source);
        load->pidfd = fd_close(load->pidfd);
        for (int i = 0; i < 64 && load->link_source && load_read(load); i++) /* what it said last */
                ;
        spawn_describe_exit(&info, how, sizeof(how));
        if (!load->failed && info.si_code == CLD_EXITED && info.si_status == 127) {
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "spark-loader could not be executed.");
        } else if (!load->failed && (info.si_code != CLD_EXITED || info.si_status != 0)) {
                (void)snprintf(text, sizeof(text), "The loader ended with %s while it read the model's file.", how);
                load_fail(load, info.si_code == CLD_EXITED ? SPARK__V1__ERROR_CODE__INTERNAL
                                                           : SPARK__V1__ERROR_CODE__MODEL_INVALID, text);
        } else if (!load->planned || (!load->request && !load->written)) {
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader ended before it was done.");
        }
        if (!load->request)
                load_seal(load);
        load_end(load);
        return 0;
}

/* ---- start ---- */

/* wanted: of a dry run, else NULL. */
static int spawn_loader(struct load *load, int link, const Spark__V1__Load *wanted) {
        const struct config_limits *limits = &load->manager->config->limits;
        char arguments[MODEL_FILES_MAX + 1][MODELDIR_NAME_MAX + 12], rows[24], sequences[24], missing[24];
        char *argv[2 * (MODEL_FILES_MAX + 1) + 13];
        int fds[MODEL_FILES_MAX + 1];
        size_t n = 0;
        struct spawn s = { .program = "spark-loader", .argv = argv, .fds = fds, .oom_score_adj = OOM_SCORE };

        argv[n++] = (char *)"spark-loader";
        argv[n++] = (char *)"--link";
        argv[n++] = arguments[0];
        spawn_argument(0, NULL, arguments[0], sizeof(arguments[0]));
        fds[0] = link;
        for (size_t i = 0; i < load->files.n; i++) {
                argv[n++] = (char *)model_files_argument(&load->files, i, i + 1, arguments[i + 1], sizeof(arguments[0]));
                argv[n++] = arguments[i + 1];
                fds[i + 1] = load->files.fds[i];
        }
        (void)snprintf(rows, sizeof(rows), "%" PRIu64, limits->rows);
        (void)snprintf(sequences, sizeof(sequences), "%" PRIu64, limits->sequences);
        argv[n++] = (char *)"--rows";
        argv[n++] = rows;
        argv[n++] = (char *)"--sequences";
        argv[n++] = sequences;
        if (wanted && load->shape) {
                argv[n++] = (char *)"--shape";
                argv[n++] = wanted->shape;
                argv[n++] = (char *)"--format";
                argv[n++] = load->lossless ? (char *)CODED_FORMAT : wanted->format;
        } else if (wanted) {
                argv[n++] = (char *)"--plan-only";
        }
        if (load->lossless && !load->shape)
                argv[n++] = (char *)"--lossless";
        if (load->missing) {
                (void)snprintf(missing, sizeof(missing), "%" PRIx64, load->missing);
                argv[n++] = (char *)"--segments";
                argv[n++] = missing;
        }
        argv[n] = NULL;
        s.n_fds = load->files.n + 1;
        return spawn_process(&s, &load->pid, &load->pidfd);
}

static int start(struct load **ret, struct model *model, struct request *request, const Spark__V1__Load *wanted,
                 struct request_error *error) {
        _cleanup_(load_freep) struct load *load = calloc(1, sizeof(*load));
        _cleanup_fd_ int far = -1;
        int pair[2], r;

        if (!load)
                return -ENOMEM;
        load->manager = model->manager;
        load->model = model;
        load->request = request;
        load->pidfd = load->link = -1;
        load->started_us = load->active_us = manager_now_us();
        load->context = wanted ? wanted->context : 0;
        load->machine = wanted ? wanted->memory : 0;
        load->lossless = wanted ? wanted->lossless : model->lossless;
        load->shape = wanted && *wanted->shape;
        load->stage = "load";
        load->missing = request ? 0 : model->missing;
        r = load->shape ? 0 : model_files_open(&load->files, model, error);
        if (r)
                return r;
        load->mark = model_files_mark(&load->files);
        if (load->missing && load->mark != model->files_mark) {
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_INVALID, "%s", LOAD_CHANGED);
                return REQUEST_E_REFUSED;
        }
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        load->link = pair[0];
        far = pair[1];
        r = fd_set_nonblock(load->link, 1);
        if (r >= 0)
                r = spawn_loader(load, far, wanted);
        if (r == -ENOENT) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INTERNAL, "spark-loader is not installed.");
                return REQUEST_E_REFUSED;
        }
        if (r >= 0)
                r = sd_event_add_io(model->manager->event, &load->link_source, load->link, EPOLLIN, on_link, load);
        if (r >= 0)
                r = sd_event_add_io(model->manager->event, &load->exit_source, load->pidfd, EPOLLIN, on_exit_of_loader,
                                    load);
        if (r < 0)
                return r;
        log_info("model '%s': %s", model->name, request ? "planning" : "loading");
        *ret = steal_ptr(&load);
        return 0;
}

int load_start(struct load **ret, struct model *model, struct request_error *error) {
        return start(ret, model, NULL, NULL, error);
}

int load_start_dry(struct load **ret, struct model *model, struct request *request, const Spark__V1__Load *wanted,
                   struct request_error *error) {
        return start(ret, model, request, wanted, error);
}

void load_tick(struct load *load, uint64_t now_us) {
        if (!load->failed && !load->waits && now_us > load->active_us + load->manager->config->limits.load_seconds * 1000000u)
                load_fail(load, SPARK__V1__ERROR_CODE__INTERNAL, "The loader did not move for too long and was ended.");
}
