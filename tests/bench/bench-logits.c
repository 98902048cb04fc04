/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench logits: every position's logits of a text, float32, for comparison with a reference. KV in F32; the text
 * begins with BOS as the model wants it; special tokens in it are text.
 */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "bench.h"
#include "daemon/engine/host.h"
#include "daemon/loader/load.h"

#define TEXT_LIMIT (256u << 20)

struct options {
        const char *model, *text, *out, *backend, *library, *placement;
        unsigned threads;
        bool lossless;
};

static const struct engine_events no_events;

static int say(const char *what, const char *text, int status) {
        (void)fprintf(stderr, "spark-bench: %s: %s\n", what, text);
        return status;
}

static int read_file(const char *path, struct buf *out) {
        FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
        char part[4096];
        size_t n;
        int r = 0;

        if (!f)
                return -errno;
        while (r == 0 && (n = fread(part, 1, sizeof(part), f)) > 0)
                r = buf_append(out, part, n);
        if (r == 0 && ferror(f))
                r = -EIO;
        if (f != stdin)
                (void)fclose(f);
        return r == BUF_E_LIMIT ? -EFBIG : r;
}

static int write_row(void *userdata, size_t pos, const float *logits) {
        const struct host *h = ((void **)userdata)[0];
        FILE *f = ((void **)userdata)[1];

        return fwrite(logits, sizeof(*logits), h->model->shape.n_vocab, f) == h->model->shape.n_vocab ? 0 : -EIO;
}

static int encode(const struct host *h, const struct buf *text, struct token_array *out) {
        size_t n;
        const int32_t *opening = tokenizer_opening(h->tokenizer, &n);
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++)
                r = token_array_append(out, opening[i]);
        return r == 0 && text->len > 0 ? tokenizer_encode(h->tokenizer, text->data, text->len, 0, out) : r;
}

static int write_logits(struct host *h, const struct options *o, const struct buf *text) {
        struct token_array tokens = { 0 };
        struct failure f = { .text = "" };
        void *userdata[2] = { h, NULL };
        FILE *out;
        int r;

        r = encode(h, text, &tokens);
        out = r == 0 ? fopen(o->out, "we") : NULL;
        if (r == 0 && !out)
                r = -errno;
        userdata[1] = out;
        if (r == 0)
                r = engine_run_logits(h->engine, tokens.ids, tokens.n, write_row, userdata, &f);
        if (out && fclose(out) != 0 && r == 0)
                r = -errno;
        if (r == 0)
                (void)printf("%zu rows of %u\n", tokens.n, h->model->shape.n_vocab);
        token_array_deinit(&tokens);
        if (r > 0)
                return say(o->text, f.text, 65);
        return r < 0 ? say(o->out, strerror(-r), 1) : 0;
}

static int run(const struct options *o) {
        const struct host_config config = {
                .backend = o->backend,
                .be = { .isa = "auto", .threads = o->threads, .library = o->library, .placement = o->placement,
                        .hang_ms = BENCH_HANG_MS, .log_name = "spark-bench", .log_level = LOG_LEVEL_WARNING },
                .engine = { .max_sequences = 1, .kv_format = KV_F32 },
        };
        struct buf text = BUF_NULL(TEXT_LIMIT);
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        struct host host = HOST_NULL;
        int fds[IMAGE_SEGMENTS_MAX], r;
        size_t n_fds = 0;

        r = read_file(o->text, &text);
        if (r < 0) {
                buf_deinit(&text);
                return say(o->text, strerror(-r), 65);
        }
        r = loader_load_path_as(o->model, o->lossless, fds, &n_fds, &error);
        if (r != 0) {
                r = say(o->model, r < 0 ? strerror(-r) : error.text, 65);
        } else {
                r = host_open(&host, &config, fds, n_fds, &no_events, NULL, &f);
                if (r != 0)
                        r = say(o->model, r < 0 ? strerror(-r) : f.text, r < 0 ? 1 : 65);
                else if (!host.engine)
                        r = say(o->model, "a vocabulary without weights", 65);
                else
                        r = write_logits(&host, o, &text);
        }
        host_close(&host);
        for (size_t i = 0; i < n_fds; i++)
                (void)fd_close(fds[i]);
        buf_deinit(&text);
        return r;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench logits -m FILE -f TEXT|- -o OUT.f32 [-t THREADS] [--backend B] [--library FILE]\n"
                         "                          [--placement P] [--lossless]\n\n"
                         "Writes every position's logits, little-endian float32, row after row.\n\n"
                         "  --lossless    weights in BF16 are coded as they are loaded\n");
        return status;
}

int bench_logits_main(int argc, char **argv) {
        static const struct option long_options[] = {
                { "backend", required_argument, NULL, 'B' },
                { "library", required_argument, NULL, 'L' },
                { "placement", required_argument, NULL, 'P' },
                { "lossless", no_argument, NULL, 'l' },
                { "help", no_argument, NULL, 'h' },
                { 0 },
        };
        struct options o = { .backend = "auto" };
        int c;

        while ((c = getopt_long(argc, argv, "m:f:o:t:h", long_options, NULL)) >= 0) {
                switch (c) {
                case 'm':
                        o.model = optarg;
                        break;
                case 'f':
                        o.text = optarg;
                        break;
                case 'o':
                        o.out = optarg;
                        break;
                case 't':
                        o.threads = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'L':
                        o.library = optarg;
                        break;
                case 'P':
                        o.placement = optarg;
                        break;
                case 'l':
                        o.lossless = true;
                        break;
                case 'B':
                        o.backend = optarg;
                        break;
                case 'h':
                        return usage(stdout, 0);
                default:
                        return usage(stderr, 64);
                }
        }
        if (!o.model || !o.text || !o.out || optind != argc)
                return usage(stderr, 64);
        return run(&o);
}
