/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-loader: one run per load, model file -> resident image. Started by control with the file and a link (see
 * ipc/loadlink.h); everything it needs is made first, then it locks itself up, and only then it looks at the file.
 */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "loadlink.h"
#include "modeldir.h"

#include "kernels/format.h"
#include "load.h"
#include "sandbox.h"

#define PROGRESS_INTERVAL_NS 100000000ll

struct options {
        int link_fd;
        int inputs[SOURCES_MAX];
        size_t n_inputs;
        const char *names[SOURCES_MAX]; /* of a directory's files */
        size_t n_names;
        bool plan_only;
};

struct reporter {
        int link_fd;
        int64_t last_ns;
};

_Static_assert(LOADER_E_INVALID == (int)LOADLINK_CODE_MODEL_INVALID && LOADER_E_UNSUPPORTED == (int)LOADLINK_CODE_UNSUPPORTED &&
                       LOADER_E_IO == (int)LOADLINK_CODE_IO,
               "codes go over the link as they are");

static int usage(void) {
        (void)fprintf(stderr, "usage: spark-loader --link FD (--input FD [--split FD]... | --file NAME=FD...) [--plan-only]\n"
                              "Started by sparkd; see ipc/loadlink.h for what it says on its link.\n");
        return EX_USAGE;
}

static bool parse_fd(const char *s, int *ret) {
        char *end;
        long v;

        errno = 0;
        v = strtol(s, &end, 10);
        if (errno || end == s || *end || v < 0 || v > 65535)
                return false;
        *ret = (int)v;
        return true;
}

/* --input is the first file, each --split another one. */
static bool add_input(struct options *o, bool split, const char *s) {
        if (o->n_names > 0 || split != (o->n_inputs > 0) || o->n_inputs == SOURCES_MAX || !parse_fd(s, &o->inputs[o->n_inputs]))
                return false;
        o->n_inputs++;
        return true;
}

/* NAME=FD: a file of a directory. */
static bool add_file(struct options *o, char *s) {
        char *number = strchr(s, '=');

        if (!number || o->n_inputs != o->n_names || o->n_inputs == SOURCES_MAX)
                return false;
        *number = 0;
        if (!modeldir_knows(s) || !parse_fd(number + 1, &o->inputs[o->n_inputs]))
                return false;
        o->names[o->n_names++] = s;
        o->n_inputs++;
        return true;
}

static bool parse_options(int argc, char **argv, struct options *o) {
        static const struct option options[] = {
                { "link", required_argument, NULL, 'l' },
                { "input", required_argument, NULL, 'i' },
                { "split", required_argument, NULL, 's' },
                { "file", required_argument, NULL, 'f' },
                { "plan-only", no_argument, NULL, 'p' },
                { NULL, 0, NULL, 0 },
        };
        int c;

        *o = (struct options){ .link_fd = -1 };
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == 'p')
                        o->plan_only = true;
                else if (c == 'l' && !parse_fd(optarg, &o->link_fd))
                        return false;
                else if ((c == 'i' || c == 's') && !add_input(o, c == 's', optarg))
                        return false;
                else if (c == 'f' && !add_file(o, optarg))
                        return false;
                else if (c == '?')
                        return false;
        }
        return optind == argc && o->link_fd >= 0 && o->n_inputs > 0;
}

static int compare_fds(const void *a, const void *b) {
        return *(const int *)a - *(const int *)b;
}

/* Everything but standard streams, link and inputs. */
static int close_others(const struct options *o) {
        int fds[SOURCES_MAX + 1], last = STDERR_FILENO;
        size_t n = 0;
        struct stat st;

        fds[n++] = o->link_fd;
        for (size_t i = 0; i < o->n_inputs; i++)
                fds[n++] = o->inputs[i];
        qsort(fds, n, sizeof(*fds), compare_fds);
        for (size_t i = 0; i < n; i++) {
                if (fds[i] <= last || fstat(fds[i], &st) < 0) /* one of the standard ones, given twice, or not open */
                        return -EBADF;
                if (fds[i] > last + 1 && close_range((unsigned)last + 1, (unsigned)fds[i] - 1, 0) < 0)
                        return -errno;
                last = fds[i];
        }
        return close_range((unsigned)last + 1, ~0u, 0) < 0 ? -errno : 0;
}

static int64_t now_ns(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void report_progress(void *arg, uint64_t done, uint64_t total) {
        struct reporter *r = arg;
        struct loadlink_record record = { .type = LOADLINK_PROGRESS, .done = done, .total = total };
        int64_t now = now_ns();

        if (now - r->last_ns < PROGRESS_INTERVAL_NS)
                return;
        r->last_ns = now;
        (void)loadlink_send(r->link_fd, &record, NULL, 0); /* nobody there: the kernel ends us (PDEATHSIG) */
}

static int send_plan(const struct loader *l, int link_fd) {
        const struct image_hparams *hp = &l->plan.hparams;
        struct loadlink_record record = {
                .type = LOADLINK_PLAN,
                .n_segments = (uint32_t)l->plan.n_segments,
                .total = loader_total(l),
                .n_params = l->plan.n_params,
                /* keys and values of all layers, two bytes each */
                .kv_bytes_per_token = (uint64_t)hp->n_layer * hp->n_head_kv * kv_position_bytes(KV_F16, hp->head_dim),
                .kv_bytes_per_token_q8_0 = (uint64_t)hp->n_layer * hp->n_head_kv * kv_position_bytes(KV_Q8_0, hp->head_dim),
                .context = hp->n_ctx,
                .vocabulary = (uint32_t)l->plan.vocab.n_tokens,
                .has_chat_template = l->plan.chat_template_size > 0,
        };

        (void)snprintf(record.architecture, sizeof(record.architecture), "%s", hp->arch);
        (void)snprintf(record.format, sizeof(record.format), "%s", image_plan_format(&l->plan));

        (void)memcpy(record.segment_bytes, l->plan.segment_size, l->plan.n_segments * sizeof(uint64_t));
        return loadlink_send(link_fd, &record, NULL, 0);
}

static int write_segments(struct loader *l, int link_fd) {
        struct loadlink_record record = { 0 };
        struct reporter reporter = { .link_fd = link_fd, .last_ns = now_ns() };
        const struct copy_progress progress = { report_progress, &reporter };
        int fds[LOADLINK_SEGMENTS_MAX], r;
        size_t n_fds = 0;

        r = loadlink_recv(link_fd, &record, fds, &n_fds);
        if (r == 0)
                return -EPIPE; /* control does not want it */
        if (r < 0)
                return r;
        if (record.type == LOADLINK_SEGMENTS)
                r = loader_write(l, fds, n_fds, &progress);
        else
                r = -EPROTO;
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]);
        return r;
}

static int work(struct loader *l, const struct options *o) {
        const struct loadlink_record done = { .type = LOADLINK_DONE };
        int r;

        r = loader_plan(l);
        if (!r)
                r = send_plan(l, o->link_fd);
        if (!r && !o->plan_only)
                r = write_segments(l, o->link_fd);
        if (!r)
                r = loadlink_send(o->link_fd, &done, NULL, 0);
        return r;
}

static int run(const struct options *o, struct loader_error *error) {
        struct sandbox_features features;
        struct loader l;
        int r;

        r = sandbox_enter_files(&features);
        if (r < 0) {
                log_error("the sandbox cannot be entered: %s", strerror(-r));
                return r;
        }
        if (!features.landlock)
                log_debug("no Landlock on this kernel; system call filter only");
        if (o->n_names > 0)
                r = loader_init_directory(&l, o->names, o->inputs, o->n_names, error);
        else
                r = loader_init(&l, o->inputs, o->n_inputs, error);
        if (!r)
                r = sandbox_enter_calls();
        if (!r)
                r = work(&l, o);
        loader_deinit(&l);
        return r;
}

static int report_failure(int link_fd, int r, const struct loader_error *error) {
        struct loadlink_record record = { .type = LOADLINK_ERROR, .code = r > 0 ? (uint32_t)r : LOADLINK_CODE_INTERNAL };

        if (r > 0)
                (void)snprintf(record.text, sizeof(record.text), "%s", error->text);
        else
                (void)snprintf(record.text, sizeof(record.text), "the loader failed: %s", strerror(-r));
        if (r != -EPIPE)
                (void)loadlink_send(link_fd, &record, NULL, 0);
        return EXIT_FAILURE;
}

int main(int argc, char **argv) {
        struct loader_error error = { 0 };
        struct options options;
        int r;

        log_init("spark-loader", LOG_LEVEL_INFO, 0);
        if (!parse_options(argc, argv, &options))
                return usage();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        r = close_others(&options);
        if (r < 0) {
                log_error("bad descriptors: %s", strerror(-r));
                return EX_USAGE;
        }
        r = run(&options, &error);
        r = r ? report_failure(options.link_fd, r, &error) : EXIT_SUCCESS;
        /* without destructors of libraries, which would ask for more than is allowed now (and by number, since sanitizers
         * hook the function) */
        (void)syscall(SYS_exit_group, r);
        return r;
}
