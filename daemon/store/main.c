/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-store: one run per file that comes into the store or is verified. Control touches no model bytes; this is who
 * does, with two descriptors and a link (see ipc/storelink.h) and nothing else.
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
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "storelink.h"

#include "copy.h"
#include "daemon/cage/cage.h"
#include "sandbox.h"

#define PROGRESS_INTERVAL_MS 100

struct options {
        int link_fd, input_fd, output_fd;
};

struct reporter {
        int link_fd;
        int64_t last_ms;
};

static int usage(void) {
        (void)fprintf(stderr, "usage: spark-store --link FD --input FD [--output FD]\n"
                              "Started by sparkd; see ipc/storelink.h for what it says on its link.\n");
        return EX_USAGE;
}

static bool parse_fd(const char *s, int *ret) {
        char *end;
        long v;

        errno = 0;
        v = strtol(s, &end, 10);
        if (errno || end == s || *end || v <= STDERR_FILENO || v > 65535)
                return false;
        *ret = (int)v;
        return true;
}

static bool parse_options(int argc, char **argv, struct options *o) {
        static const struct option options[] = {
                { "link", required_argument, NULL, 'l' },
                { "input", required_argument, NULL, 'i' },
                { "output", required_argument, NULL, 'o' },
                { NULL, 0, NULL, 0 },
        };
        int c;

        *o = (struct options){ .link_fd = -1, .input_fd = -1, .output_fd = -1 };
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                int *fd = c == 'l' ? &o->link_fd : c == 'i' ? &o->input_fd : c == 'o' ? &o->output_fd : NULL;

                if (!fd || !parse_fd(optarg, fd))
                        return false;
        }
        return optind == argc && o->link_fd >= 0 && o->input_fd >= 0 && o->link_fd != o->input_fd &&
               o->output_fd != o->link_fd && o->output_fd != o->input_fd;
}

static void report_progress(void *arg, uint64_t done, uint64_t total) {
        struct reporter *r = arg;
        const struct storelink_record record = { .type = STORELINK_PROGRESS, .done = done, .total = total };
        int64_t now = clock_now_ms();

        if (now - r->last_ms < PROGRESS_INTERVAL_MS)
                return;
        r->last_ms = now;
        (void)storelink_send(r->link_fd, &record); /* nobody there: the kernel ends us (PDEATHSIG) */
}

static int enter_sandbox(const struct options *o) {
        struct stat st;

        if (fstat(o->input_fd, &st) < 0)
                return -errno;
        return store_sandbox_enter(o->output_fd >= 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0);
}

static int report(const struct options *o, const struct store_copy *c, int r) {
        struct storelink_record record = { .type = r ? STORELINK_ERROR : STORELINK_DONE };

        if (r == 0) {
                record.done = record.total = c->size;
                record.method = c->method;
                memcpy(record.digest, c->digest, sizeof(record.digest));
        } else if (r > 0) {
                record.code = (uint32_t)r;
                (void)snprintf(record.text, sizeof(record.text), "%s", c->error);
        } else {
                record.code = STORELINK_CODE_INTERNAL;
                (void)snprintf(record.text, sizeof(record.text), "spark-store failed: %s", strerror(-r));
        }
        (void)storelink_send(o->link_fd, &record);
        return r ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run(const struct options *o) {
        struct reporter reporter = { .link_fd = o->link_fd, .last_ms = clock_now_ms() };
        bool landlock;
        struct hasher hasher;
        struct store_copy c = { .hasher = &hasher, .input = o->input_fd, .output = o->output_fd,
                                .progress = report_progress, .arg = &reporter };
        int r;

        r = cage_enter_files(&landlock);
        if (r < 0)
                return report(o, &c, r);
        r = hasher_init(&hasher);
        if (r == 0)
                r = enter_sandbox(o);
        if (r == 0)
                r = store_copy_run(&c);
        r = report(o, &c, r);
        hasher_deinit(&hasher);
        return r;
}

int main(int argc, char **argv) {
        struct options options;
        int r;

        log_init("spark-store", LOG_LEVEL_INFO, 0);
        if (!parse_options(argc, argv, &options))
                return usage();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        r = run(&options);
        /* without destructors of libraries, which would ask for more than is allowed now */
        (void)syscall(SYS_exit_group, r);
        return r;
}
