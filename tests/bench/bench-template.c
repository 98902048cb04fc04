/* SPDX-License-Identifier: Apache-2.0 */

/* `spark-bench template -f TEMPLATE.jinja [--repeat N]`: renders the JSON object on standard input. With --repeat it
 * prints how long parsing and rendering take instead of the prompt. */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "bench.h"
#include "daemon/text/template.h"

#define INPUT_MAX ((size_t)64 << 20)

DEFINE_CLEANUP(struct template *, template_free)

static int read_all(FILE *f, struct buf *b) {
        char block[65536];
        size_t n;
        int r;

        while ((n = fread(block, 1, sizeof(block), f)) > 0) {
                r = buf_append(b, block, n);
                if (r)
                        return r;
        }
        return ferror(f) ? -EIO : 0;
}

static int read_file(const char *path, struct buf *b) {
        FILE *f = fopen(path, "re");
        int r;

        if (!f)
                return -errno;
        r = read_all(f, b);
        (void)fclose(f);
        return r;
}

static int report(const char *what, int r, const struct template_error *e) {
        if (r < 0)
                (void)fprintf(stderr, "spark-bench: %s: %s\n", what, strerror(-r));
        else if (e->line)
                (void)fprintf(stderr, "spark-bench: %s: line %u: %s\n", what, e->line, e->text);
        else
                (void)fprintf(stderr, "spark-bench: %s: %s\n", what, e->text);
        return r < 0 ? 1 : 65;
}

static double seconds(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int measure(const struct buf *source, const struct buf *json, unsigned long n, struct buf *out) {
        _cleanup_(template_freep) struct template *t = NULL;
        struct template_error e;
        double start = seconds(), parsed, rendered;
        int r;

        for (unsigned long i = 0; i < n; i++) {
                t = template_free(t);
                r = template_parse(&t, source->data, source->len, &e);
                if (r)
                        return report("template", r, &e);
        }
        parsed = seconds();
        for (unsigned long i = 0; i < n; i++) {
                buf_clear(out);
                r = template_render(t, json->data, json->len, time(NULL), NULL, out, &e);
                if (r)
                        return report("template", r, &e);
        }
        rendered = seconds();
        (void)printf("parse %.1f us, render %.1f us, %zu bytes\n", (parsed - start) / (double)n * 1e6,
                     (rendered - parsed) / (double)n * 1e6, out->len);
        return 0;
}

static int render(const struct buf *source, const struct buf *json, struct buf *out) {
        _cleanup_(template_freep) struct template *t = NULL;
        struct template_error e;
        int r;

        r = template_parse(&t, source->data, source->len, &e);
        if (!r)
                r = template_render(t, json->data, json->len, time(NULL), NULL, out, &e);
        if (r)
                return report("template", r, &e);
        if (out->len && fwrite(out->data, 1, out->len, stdout) != out->len)
                return 1;
        return fflush(stdout) ? 1 : 0;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench template -f TEMPLATE.jinja [--repeat N] < VARIABLES.json\n");
        return status;
}

int bench_template_main(int argc, char **argv) {
        static const struct option options[] = {
                { "file", required_argument, NULL, 'f' },
                { "repeat", required_argument, NULL, 'r' },
                { "help", no_argument, NULL, 'h' },
                { NULL, 0, NULL, 0 },
        };
        struct buf source = BUF_NULL(INPUT_MAX), json = BUF_NULL(INPUT_MAX), out = BUF_NULL(INPUT_MAX);
        const char *path = NULL;
        unsigned long repeat = 0;
        int c, r;

        while ((c = getopt_long(argc, argv, "f:h", options, NULL)) >= 0)
                switch (c) {
                case 'f':
                        path = optarg;
                        break;
                case 'r':
                        repeat = strtoul(optarg, NULL, 10);
                        break;
                case 'h':
                        return usage(stdout, 0);
                default:
                        return usage(stderr, 64);
                }
        if (!path || optind != argc)
                return usage(stderr, 64);
        r = read_file(path, &source);
        if (r)
                (void)fprintf(stderr, "spark-bench: %s: %s\n", path, r < 0 ? strerror(-r) : "too large");
        if (!r) {
                r = read_all(stdin, &json);
                if (r)
                        (void)fprintf(stderr, "spark-bench: standard input: %s\n", r < 0 ? strerror(-r) : "too large");
        }
        r = r ? 65 : repeat ? measure(&source, &json, repeat, &out) : render(&source, &json, &out);
        buf_deinit(&source);
        buf_deinit(&json);
        buf_deinit(&out);
        return r;
}
