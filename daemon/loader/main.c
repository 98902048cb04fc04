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
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "loadlink.h"
#include "modeldir.h"

#include "daemon/cage/cage.h"
#include "load.h"
#include "record.h"
#include "sandbox.h"
#include "shape.h"

#define PROGRESS_INTERVAL_MS 100

struct options {
        int link_fd;
        int inputs[SOURCES_MAX];
        size_t n_inputs;
        const char *names[SOURCES_MAX]; /* of a directory's files */
        size_t n_names;
        bool plan_only, lossless, pack;
        uint64_t segments; /* that are to be written; 0 = all */
        uint64_t segment_bytes;
        const char *shape, *format; /* instead of inputs */
        struct image_step step;
};

struct reporter {
        int link_fd;
        struct loader *loader; /* whose tensors arrive, or NULL */
        bool arrived;          /* that some have, was told */
        int64_t last_ms;
        enum loadlink_phase phase;
};

_Static_assert(LOADER_E_INVALID == (int)LOADLINK_CODE_MODEL_INVALID && LOADER_E_UNSUPPORTED == (int)LOADLINK_CODE_UNSUPPORTED &&
                       LOADER_E_IO == (int)LOADLINK_CODE_IO && LOADER_E_INTERNAL == (int)LOADLINK_CODE_INTERNAL,
               "codes go over the link as they are");

static int usage(void) {
        (void)fprintf(stderr, "usage: spark-loader --link FD (--input FD [--split FD]... | --file NAME=FD...) [--plan-only]\n"
                              "           [--lossless] [--pack | --segments HEX] [--segment-bytes N] [--rows N] [--sequences N]\n"
                              "       spark-loader --link FD --shape NAME --format FORMAT [--lossless] [--rows N] [--sequences N]\n"
                              "Started by sparkd; see ipc/loadlink.h for what it says on its link.\n");
        return EX_USAGE;
}

/* 0 to 65536: descriptors, and sizes of a step. */
static bool parse_number(const char *s, int *ret) {
        char *end;
        long v;

        errno = 0;
        v = strtol(s, &end, 10);
        if (errno || end == s || *end || v < 0 || v > 65536)
                return false;
        *ret = (int)v;
        return true;
}

/* 64 bits, not none. */
static bool parse_large(const char *s, int base, uint64_t *ret) {
        char *end;

        errno = 0;
        *ret = strtoull(s, &end, base);
        return !errno && end != s && !*end && strchr("0123456789abcdef", *s) && *ret != 0;
}

/* --input is the first file, each --split another one. */
static bool add_input(struct options *o, bool split, const char *s) {
        if (o->n_names > 0 || split != (o->n_inputs > 0) || o->n_inputs == SOURCES_MAX ||
            !parse_number(s, &o->inputs[o->n_inputs]))
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
        if (!modeldir_knows(s) || !parse_number(number + 1, &o->inputs[o->n_inputs]))
                return false;
        o->names[o->n_names++] = s;
        o->n_inputs++;
        return true;
}

static bool parse_option(struct options *o, int c, char *s) {
        int v = 0;

        switch (c) {
        case 'p':
                o->plan_only = true;
                return true;
        case 'L':
                o->lossless = true;
                return true;
        case 'P':
                o->pack = true;
                return true;
        case 'l':
                return parse_number(s, &o->link_fd);
        case 'i':
        case 's':
                return add_input(o, c == 's', s);
        case 'f':
                return add_file(o, s);
        case 'm':
                return parse_large(s, 16, &o->segments);
        case 'b':
                return parse_large(s, 10, &o->segment_bytes);
        case 'S':
                o->shape = s;
                return true;
        case 'F':
                o->format = s;
                return true;
        case 'r':
        case 'q':
                if (!parse_number(s, &v))
                        return false;
                *(c == 'r' ? &o->step.rows : &o->step.sequences) = (uint32_t)v;
                return true;
        default:
                return false;
        }
}

static bool parse_options(int argc, char **argv, struct options *o) {
        static const struct option options[] = {
                { "link", required_argument, NULL, 'l' },
                { "input", required_argument, NULL, 'i' },
                { "split", required_argument, NULL, 's' },
                { "file", required_argument, NULL, 'f' },
                { "plan-only", no_argument, NULL, 'p' },
                { "lossless", no_argument, NULL, 'L' },
                { "pack", no_argument, NULL, 'P' },
                { "segments", required_argument, NULL, 'm' },
                { "segment-bytes", required_argument, NULL, 'b' },
                { "shape", required_argument, NULL, 'S' },
                { "format", required_argument, NULL, 'F' },
                { "rows", required_argument, NULL, 'r' },
                { "sequences", required_argument, NULL, 'q' },
                { NULL, 0, NULL, 0 },
        };
        int c;

        *o = (struct options){ .link_fd = -1 };
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
                if (!parse_option(o, c, optarg))
                        return false;
        if (optind != argc || o->link_fd < 0 || !o->shape != !o->format || (o->segments && (o->pack || o->shape)))
                return false;
        return o->shape ? o->n_inputs == 0 && !o->pack : o->n_inputs > 0;
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

static void report_progress(void *arg, uint64_t done, uint64_t total) {
        struct reporter *r = arg;
        struct loadlink_record record = { .type = LOADLINK_PROGRESS, .done = done, .total = total, .phase = r->phase };
        int64_t now = clock_now_ms();

        if (r->loader)
                record.tensors = (uint32_t)loader_arrived(r->loader);
        /* the first tensors are told of at once: somebody may wait for them */
        if (now - r->last_ms < PROGRESS_INTERVAL_MS && (record.tensors == 0 || r->arrived))
                return;
        r->arrived = r->arrived || record.tensors > 0;
        r->last_ms = now;
        (void)loadlink_send(r->link_fd, &record, NULL, 0); /* nobody there: the kernel ends us (PDEATHSIG) */
}

static int send_plan(const struct loader *l, const struct options *o) {
        struct loadlink_record record;
        int r;

        record_plan(&l->plan, loader_total(l), &o->step, &record);
        record.packed = l->packed != NULL;
        r = loader_checksum(l, &record.checksum);
        return r ? r : loadlink_send(o->link_fd, &record, NULL, 0);
}

static int write_segments(struct loader *l, int link_fd) {
        struct loadlink_record record = { 0 };
        struct reporter reporter = { .link_fd = link_fd, .loader = l, .last_ms = clock_now_ms() };
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
        struct reporter reporter = { .link_fd = o->link_fd, .last_ms = clock_now_ms(), .phase = LOADLINK_PHASE_SURVEY };
        const struct copy_progress survey = { report_progress, &reporter };
        int r;

        l->options = (struct loader_options){ .lossless = o->lossless, .pack = o->pack, .segments = o->segments,
                                               .segment_bytes = o->segment_bytes, .survey = &survey };
        r = loader_plan(l);
        if (!r)
                r = send_plan(l, o);
        if (!r && !o->plan_only)
                r = write_segments(l, o->link_fd);
        if (!r)
                r = loadlink_send(o->link_fd, &done, NULL, 0);
        return r;
}

/* Reads nothing, and yet: the names are a client's. */
static int work_shape(const struct options *o, struct loader_error *error) {
        const struct loadlink_record done = { .type = LOADLINK_DONE };
        const char *format = o->lossless && strcasecmp(o->format, "bf16") == 0 ? "bf16_ll" : o->format;
        struct image_plan plan = IMAGE_PLAN_NULL;
        struct loadlink_record record;
        bool estimated = false;
        int r;

        r = sandbox_enter_calls(false);
        if (!r)
                r = shape_plan(&plan, o->shape, format, LOADLINK_SEGMENT_BYTES, &estimated, error);
        if (!r) {
                record_plan(&plan, plan.data_size, &o->step, &record);
                record.estimated = estimated;
                r = loadlink_send(o->link_fd, &record, NULL, 0);
        }
        if (!r)
                r = loadlink_send(o->link_fd, &done, NULL, 0);
        image_plan_deinit(&plan);
        return r;
}

static int run(const struct options *o, struct loader_error *error) {
        bool landlock;
        struct loader l;
        int r;

        r = cage_enter_files(&landlock);
        if (r < 0) {
                log_error("the sandbox cannot be entered: %s", strerror(-r));
                return r;
        }
        if (!landlock)
                log_debug("no Landlock on this kernel; system call filter only");
        if (o->shape)
                return work_shape(o, error);
        if (o->n_names > 0)
                r = loader_init_directory(&l, o->names, o->inputs, o->n_names, error);
        else
                r = loader_init(&l, o->inputs, o->n_inputs, error);
        if (!r)
                r = sandbox_enter_calls(o->pack);
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
