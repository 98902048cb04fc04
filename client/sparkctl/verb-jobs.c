/* SPDX-License-Identifier: Apache-2.0 */

/* jobs, jobs cancel: loads, imports, packs and what else takes time. */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "options.h"
#include "subverbs.h"
#include "users.h"

#define WATCH_MS 500

/* ---- the list ---- */

struct jobs {
        struct ctl *ctl;
        struct spark_jobs_request request;
        struct user_names names;
        bool watch;
        size_t n; /* that were shown last */
};

static void json_jobs(const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        json_open(&j, "jobs", '[');
        for (size_t i = 0; i < done->n_jobs; i++) {
                const struct spark_job *job = done->jobs[i];

                json_open(&j, NULL, '{');
                json_u64(&j, "id", job->id);
                json_string(&j, "kind", job->kind);
                json_string(&j, "model", job->model);
                json_u64(&j, "uid", job->uid);
                json_bool(&j, "own", job->own);
                json_string(&j, "state", job->state);
                json_string(&j, "stage", job->stage);
                json_u64(&j, "done", job->done);
                json_u64(&j, "total", job->total);
                json_u64(&j, "bytes_per_second", job->bytes_per_second);
                json_u64(&j, "eta_ms", job->eta_ms);
                json_close(&j, '}');
        }
        json_close(&j, ']');
        json_close(&j, '}');
        (void)json_print(&j);
}

/* "load 42 %"; a stage that has no end yet, how far it is; "waiting". */
static const char *format_progress(const struct spark_job *job, char out[64]) {
        char stage[24], bytes[32];

        (void)format_safe(job->stage[0] ? job->stage : job->state, stage, sizeof(stage));
        if (job->total > 0 && job->done <= job->total)
                (void)snprintf(out, 64, "%s %u %%", stage, (unsigned)((double)job->done / (double)job->total * 100));
        else if (job->done > 0)
                (void)snprintf(out, 64, "%s %s", stage, words_bytes(job->done, bytes));
        else
                (void)snprintf(out, 64, "%s", stage);
        return out;
}

static void print_job(struct jobs *jobs, const struct spark_job *job) {
        char kind[16], model[48], progress[64], rate[40] = "-", bytes[32], left[32] = "-";

        if (job->bytes_per_second > 0)
                (void)snprintf(rate, sizeof(rate), "%s/s", words_bytes(job->bytes_per_second, bytes));
        if (job->eta_ms > 0)
                (void)format_duration((double)job->eta_ms / 1000, left);
        (void)printf("%6" PRIu64 "  %-8s %-24s %-14s %13s %12s  %s\n", job->id, format_safe(job->kind, kind, sizeof(kind)),
                     job->model[0] ? format_safe(job->model, model, sizeof(model)) : "-", format_progress(job, progress), rate, left,
                     user_name(&jobs->names, job->uid));
}

static void print_jobs(struct jobs *jobs, const struct spark_done *done) {
        bool live = jobs->watch && jobs->ctl->tty_out;

        if (live && !jobs->ctl->dumb)
                (void)printf("\033[H\033[J"); /* home, and all behind it gone */
        if (done->n_jobs == 0)
                (void)printf("Nothing is being loaded, imported or packed%s.\n", jobs->request.all_users ? "" : " for you");
        else
                (void)printf("%6s  %-8s %-24s %-14s %13s %12s  %s\n", "ID", "KIND", "MODEL", "PROGRESS", "SPEED", "LEFT", "USER");
        for (size_t i = 0; i < done->n_jobs; i++)
                print_job(jobs, done->jobs[i]);
        if (live)
                (void)printf("\nCtrl-C ends.\n");
}

static void done_jobs(struct call *call, const struct spark_done *done) {
        struct jobs *jobs = call->data;

        jobs->n = done->n_jobs;
        if (call->ctl->json)
                json_jobs(done);
        else
                print_jobs(jobs, done);
        (void)fflush(stdout); /* whoever watches through a pipe is told now, too */
}

static int ask(struct jobs *jobs) {
        struct call call = { .ctl = jobs->ctl, .on_done = done_jobs, .data = jobs };

        return call_wait(&call, spark_jobs(jobs->ctl->spark, &jobs->request, call_event, &call, &call.id));
}

/* 0 = time is up, or the exit status: an interrupt ends it in order. */
static int rest(struct ctl *ctl) {
        struct pollfd pfd = { .fd = ctl->signal_fd, .events = POLLIN };

        if (poll(&pfd, 1, WATCH_MS) < 0 && errno != EINTR)
                return ctl_fail(ctl, EXIT_OTHER, "INTERNAL", NULL, "Waiting failed: %s.", strerror(errno));
        if (!pfd.revents)
                return 0;
        ctl_signals_take(ctl);
        return EXIT_INTERRUPTED;
}

/* On a terminal until an interrupt; elsewhere until nothing is left. */
static int watch(struct jobs *jobs) {
        int status = ask(jobs);

        /* once is enough to be asked */
        (void)spark_set_interactive_authorization(jobs->ctl->spark, 0);
        ctl_agent_end(jobs->ctl);
        while (status == 0 && (jobs->n > 0 || (jobs->ctl->tty_out && !jobs->ctl->json))) {
                status = rest(jobs->ctl);
                if (status == 0)
                        status = ask(jobs);
        }
        return status;
}

static int run_list(struct ctl *ctl, int argc, char **argv) {
        struct jobs jobs = { .ctl = ctl, .request = SPARK_JOBS_INIT };
        bool all = false;
        const struct option options[] = {
                OPTION_ALL(&all),
                { "watch", 0, OPTION_FLAG, &jobs.watch, NULL, 0, NULL, "again and again: on a terminal until Ctrl-C, else until none is left" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "jobs list",
                .usage = "[--all] [--watch]",
                .text = "Lists the work that takes time: loads of models, whoever caused them, imports, packs, verifications\n"
                        "and dry runs, with how far they are. Yours; to root and the service's own user everybody's.\n"
                        "With --json: jobs [{id, kind, model, uid, own, state, stage, done, total, bytes_per_second, eta_ms}];\n"
                        "with --watch one object a line.\n",
                .options = options,
        };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status < 0)
                status = ctl_connect_asking(ctl, all) ?: -1;
        if (status >= 0)
                return status;
        jobs.request.all_users = all;
        return jobs.watch ? watch(&jobs) : ask(&jobs);
}

/* ---- cancel ---- */

static void done_cancel(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;
        const uint64_t *id = call->data;

        if (!call->ctl->json) {
                (void)printf("Job %" PRIu64 " is cancelled.\n", *id);
                return;
        }
        json_open(&j, NULL, '{');
        json_u64(&j, "id", *id);
        json_bool(&j, "cancelled", true);
        json_close(&j, '}');
        (void)json_print(&j);
}

static int run_cancel(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "jobs cancel",
                .usage = "JOB...",
                .text = "Ends jobs; who waits for them is told so. Of a load, who waits for it besides you goes on waiting,\n"
                        "unless you may manage models: then it ends for all. Others' jobs take that right, too.\n"
                        "With --json: id, cancelled.\n",
                .min_arguments = 1,
                .max_arguments = SIZE_MAX,
        };
        struct string_list arguments = { 0 };
        uint64_t id;
        int status = options_parse(ctl, &spec, argc, argv, &arguments);

        if (status < 0)
                status = ctl_connect_asking(ctl, true);
        for (size_t i = 0; i < arguments.n && status == 0; i++) {
                struct call call = { .ctl = ctl, .on_done = done_cancel, .data = &id };

                if (!parse_u64(arguments.items[i], UINT64_MAX, &id))
                        status = ctl_fail_usage(ctl, "jobs cancel", "'%.40s' is no number of a job.", arguments.items[i]);
                else
                        status = call_wait(&call, spark_job_cancel(ctl->spark, id, call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}

/* ---- the verb ---- */

static const struct subverb list[] = {
        { "list", run_list, "which there are (so does `sparkctl jobs`)" },
        { "cancel", run_cancel, "end them" },
};

int verb_jobs(struct ctl *ctl, int argc, char **argv) {
        static const struct subverbs subverbs = {
                .verb = "jobs",
                .usage = "[SUBVERB] [ARGUMENTS]",
                .text = "Work that takes time: what is being loaded, imported, packed or verified.\n",
                .more = "Options of list, which may be left out:\n"
                        "      --all                      of all users, where you may observe them\n"
                        "      --watch                    again and again\n\n",
                .otherwise = run_list,
                .list = list,
                .n = ARRAY_SIZE(list),
        };

        return subverbs_run(&subverbs, ctl, argc, argv);
}
