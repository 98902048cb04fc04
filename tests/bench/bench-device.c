/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench device: matrix products of a backend with a device, format by format, in the shapes of models of 8 and 70 billion
 * parameters, for one row to 2,048. Few rows are set against what the device reads, many against its rate of matrix products,
 * both measured in the same run. A step goes through several matrices of a shape, more than the device's caches hold, as a model's
 * layers do; the median of a number of steps counts, behind two that make and keep the graph. Each format has a backend of its own, which gives the memory back.
 */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "bench.h"
#include "kernels/backend.h"
#include "measure.h"

#define STEP_BYTES (256ull << 20) /* of weights that a step reads, at least */
#define COPIES_MAX 64u
#define WARM_UP 2u
#define ROUND_US 150e3 /* what is measured for each figure, at least */
#define ROWS_MAX 2048u

static const enum fmt formats[] = { FMT_BF16, FMT_BF16_LL, FMT_F16, FMT_F32,  FMT_F8_E4M3, FMT_Q8_0,   FMT_Q4_0,   FMT_Q4_1, FMT_Q5_0, FMT_Q5_1,
                                    FMT_Q2_K, FMT_Q3_K, FMT_Q4_K, FMT_Q5_K,    FMT_Q6_K,   FMT_IQ4_NL, FMT_IQ4_XS,
                                    FMT_MXFP4, FMT_NVFP4 };

static const struct matrix {
        const char *model, *name;
        uint32_t n_out, n_in;
} matrices[] = {
        { "8b", "attn_q", 4096, 4096 },    { "8b", "attn_k", 1024, 4096 },    { "8b", "ffn_up", 14336, 4096 },
        { "8b", "ffn_down", 4096, 14336 }, { "8b", "output", 128256, 4096 },  { "70b", "attn_q", 8192, 8192 },
        { "70b", "ffn_up", 28672, 8192 },  { "70b", "ffn_down", 8192, 28672 },
};

static const uint32_t row_counts[] = { 1, 8, 64, ROWS_MAX };

struct options {
        const char *backend, *library, *format, *model;
        uint32_t rows; /* 0 = all of them */
        bool json, quick;
};

struct limits {
        double read, copy, ops;
};

/* One matrix's copies and what goes in and out. */
struct subject {
        struct backend *be;
        struct weight weights[COPIES_MAX];
        uint32_t n_weights;
        float *x, *out;
        int32_t token[ROWS_MAX];
        uint32_t pos[ROWS_MAX], seq[ROWS_MAX];
};

static int say(const char *what, const char *text, int status) {
        (void)fprintf(stderr, "spark-bench: device: %s: %s\n", what, text);
        return status;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench device [--backend B] [--library FILE] [--format F] [--model 8b|70b] [-r ROWS]\n"
                         "                          [--quick] [--json]\n\n"
                         "Speed of matrix products: few rows against the device's memory, many against its rate of products.\n\n"
                         "  --backend B   cuda (default)\n"
                         "  --library F   the CUDA backend's shared object\n"
                         "  -r N          rows (1, 8, 64 and 2048, one after another)\n"
                         "  --quick       one small matrix and one round: whether it works, not how fast\n");
        return status;
}

/* As many copies as a step is to read. 0 or as backend.h has it. */
static int make_weights(struct subject *s, const struct fmt_info *info, const struct matrix *m, uint64_t step_bytes) {
        uint64_t bytes = 0;
        int r = 0;

        if (!weight_bytes(info, WEIGHT_PANELS, m->n_out, m->n_in, &bytes) || bytes == 0)
                return BACKEND_E_UNSUPPORTED;
        for (s->n_weights = 0; r == 0 && s->n_weights < COPIES_MAX && s->n_weights * bytes < step_bytes; s->n_weights++) {
                struct weight *w = &s->weights[s->n_weights];

                *w = (struct weight){ .info = info, .layout = WEIGHT_PANELS, .n_out = m->n_out, .n_in = m->n_in };
                r = s->be->ops->fill(s->be, w, 0.02f, s->n_weights + 1);
        }
        return r;
}

static int make_rows(struct subject *s, uint32_t n_in, uint32_t n_out) {
        float *host = malloc((size_t)ROWS_MAX * n_in * sizeof(*host));
        void *x = NULL, *out = NULL;
        int r;

        if (!host)
                return BACKEND_E_NO_MEMORY;
        for (size_t i = 0; i < (size_t)ROWS_MAX * n_in; i++)
                host[i] = (float)((int)(i * 104729 % 1999) - 999) * 1e-3f;
        r = s->be->ops->alloc(s->be, (size_t)ROWS_MAX * n_in * sizeof(float), &x);
        r = r ? r : s->be->ops->alloc(s->be, (size_t)ROWS_MAX * n_out * sizeof(float), &out);
        r = r ? r : s->be->ops->upload(s->be, x, host, (size_t)ROWS_MAX * n_in * sizeof(float));
        s->x = x;
        s->out = out;
        free(host);
        return r;
}

static void drop_rows(struct subject *s) {
        if (s->x)
                s->be->ops->release(s->be, s->x);
        if (s->out)
                s->be->ops->release(s->be, s->out);
        s->x = s->out = NULL;
}

static int run_step(struct subject *s, uint32_t n_rows) {
        static const uint32_t no_pages[1];
        const uint32_t *tables[1] = { no_pages };
        const struct batch batch = { .n_rows = n_rows, .token = s->token, .pos = s->pos, .seq = s->seq, .n_seqs = 1,
                                     .page_table = tables };
        const struct backend_ops *ops = s->be->ops;
        int r = ops->begin(s->be, &batch, NULL);

        for (uint32_t i = 0; r == 0 && i < s->n_weights; i++) {
                const struct weight *w = &s->weights[i];
                const struct matmul product = { .w = w, .out = s->out, .out_stride = w->n_out };

                r = ops->matmul(s->be, &product, 1, s->x, w->n_in, n_rows);
        }
        return r ? r : ops->end(s->be);
}

/* Seconds of one matrix's product, of the median step. 0 or as backend.h has it. */
static int time_step(struct subject *s, uint32_t n_rows, bool quick, double *ret) {
        struct samples all = { 0 };
        double began;
        int r = 0;

        for (unsigned i = 0; r == 0 && i < (quick ? 1 : WARM_UP); i++) /* kernels come to the device, then graphs are made */
                r = run_step(s, n_rows);
        began = measure_now_us();
        while (r == 0 && (all.n < 1 || (!quick && (all.n < 3 || measure_now_us() - began < ROUND_US)))) {
                double start = measure_now_us();

                r = run_step(s, n_rows);
                if (r == 0 && samples_add(&all, measure_now_us() - start) < 0)
                        r = BACKEND_E_NO_MEMORY;
        }
        *ret = samples_quantile(&all, 0.5) * 1e-6 / s->n_weights;
        samples_deinit(&all);
        return r;
}

static double share(double part, double whole) {
        return whole > 0 ? part / whole : 0;
}

/* tail: bytes that a matrix has behind its panels. */
static void print(const struct options *o, const struct limits *l, const struct fmt_info *info, const struct matrix *m,
                  uint64_t tail, uint32_t rows, double seconds, bool first) {
        double bytes = 0, ops = 2.0 * m->n_out * m->n_in * rows / seconds;
        uint64_t n;

        if (weight_bytes(info, WEIGHT_PANELS, m->n_out, m->n_in, &n))
                bytes = (double)(n + tail) / seconds;
        if (o->json)
                (void)printf("%s{\"format\":\"%s\",\"model\":\"%s\",\"matrix\":\"%s\",\"n_out\":%u,\"n_in\":%u,\"rows\":%u,"
                             "\"us\":%.2f,\"bytes_per_second\":%.4g,\"of_read\":%.3f,\"ops_per_second\":%.4g,\"of_ops\":%.3f}",
                             first ? "" : ",", info->name, m->model, m->name, m->n_out, m->n_in, rows, seconds * 1e6, bytes,
                             share(bytes, l->read), ops, share(ops, l->ops));
        else
                (void)printf("  %-8s %-3s %-9s %6u x %5u  %4u rows %10.1f us %8.1f GB/s %5.1f %% %8.2f TFLOP/s %5.1f %%\n",
                             info->name, m->model, m->name, m->n_out, m->n_in, rows, seconds * 1e6, bytes * 1e-9,
                             100 * share(bytes, l->read), ops * 1e-12, 100 * share(ops, l->ops));
        (void)fflush(stdout);
}

static int measure_matrix(struct subject *s, const struct options *o, const struct limits *l, const struct fmt_info *info,
                          const struct matrix *m, bool *first) {
        int r;

        r = make_weights(s, info, m, o->quick ? 1 : STEP_BYTES);
        r = r ? r : make_rows(s, m->n_in, m->n_out);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(row_counts); i++) {
                double seconds;

                if (o->rows ? i > 0 : o->quick && row_counts[i] > 8)
                        break;
                r = time_step(s, o->rows ? o->rows : row_counts[i], o->quick, &seconds);
                if (r == 0)
                        print(o, l, info, m, s->weights[0].tail, o->rows ? o->rows : row_counts[i], seconds, *first);
                *first = *first && r != 0;
        }
        if (r >= 0)
                drop_rows(s);
        return r;
}

static int open_backend(const struct options *o, struct backend **ret) {
        const struct backend_config config = { .isa = "auto", .library = o->library, .hang_ms = BENCH_HANG_MS, .log_name = "spark-bench",
                                               .log_level = LOG_LEVEL_WARNING };
        struct backend_error error;
        int r;

        r = backend_open(o->backend, &config, ret, &error);
        if (r != 0)
                return say(o->backend, error.text, r == BACKEND_E_MISSING ? 64 : 1);
        if ((*ret)->ops->fill)
                return 0;
        *ret = (*ret)->ops->close(*ret);
        return say(o->backend, "it has no device (`spark-bench kernels` measures processors)", 64);
}

static int measure_format(const struct options *o, const struct limits *l, const struct fmt_info *info, bool *first) {
        static const struct matrix small = { "-", "small", 160, 512 };
        struct subject *s = calloc(1, sizeof(*s));
        int r = s ? open_backend(o, &s->be) : say(info->name, "no memory", 1), c = 0;

        for (size_t i = 0; r == 0 && c == 0 && i < ARRAY_SIZE(matrices); i++) {
                if (o->model && strcmp(o->model, matrices[i].model) != 0)
                        continue;
                c = measure_matrix(s, o, l, info, o->quick ? &small : &matrices[i], first);
                if (o->quick)
                        break;
        }
        if (c != 0)
                r = say(info->name, c == BACKEND_E_NO_MEMORY ? "no memory" : c > 0 ? "not computed" : strerror(-c), 1);
        if (s && s->be)
                s->be->ops->close(s->be);
        free(s);
        return r;
}

static int run(const struct options *o) {
        struct limits l = { 0 };
        struct backend *be;
        bool first = true;
        int r;

        r = open_backend(o, &be);
        if (r != 0)
                return r;
        if (!o->quick && be->ops->limits && be->ops->limits(be, &l.read, &l.copy, &l.ops) != 0)
                r = say(o->backend, "its limits can't be measured", 1);
        if (o->json)
                (void)printf("{\"device\":\"%s\",\"read_bandwidth\":%.4g,\"copy_bandwidth\":%.4g,\"matrix_ops\":%.4g,\"products\":[",
                             be->ops->describe(be), l.read, l.copy, l.ops);
        else
                (void)printf("%s: reads %.1f GB/s, copies %.1f GB/s, %.1f TFLOP/s of products in bfloat16\n",
                             be->ops->describe(be), l.read * 1e-9, l.copy * 1e-9, l.ops * 1e-12);
        be->ops->close(be);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(formats); i++) {
                const struct fmt_info *info = fmt_info(formats[i]);

                if (info && (!o->format || fmt_info_by_name(o->format) == info))
                        r = measure_format(o, &l, info, &first);
        }
        if (o->json)
                (void)printf("]}\n");
        return r;
}

int bench_device_main(int argc, char **argv) {
        static const struct option longs[] = {
                { "backend", required_argument, NULL, 'B' }, { "library", required_argument, NULL, 'L' },
                { "format", required_argument, NULL, 'F' },  { "model", required_argument, NULL, 'M' },
                { "quick", no_argument, NULL, 'q' },         { "json", no_argument, NULL, 'j' },
                { "help", no_argument, NULL, 'h' },          { 0 },
        };
        struct options o = { .backend = "cuda" };
        unsigned long rows = 0;

        for (int c; (c = getopt_long(argc, argv, "r:h", longs, NULL)) >= 0;)
                switch (c) {
                case 'r': rows = strtoul(optarg, NULL, 10); break;
                case 'B': o.backend = optarg; break;
                case 'L': o.library = optarg; break;
                case 'F': o.format = optarg; break;
                case 'M': o.model = optarg; break;
                case 'q': o.quick = true; break;
                case 'j': o.json = true; break;
                case 'h': return usage(stdout, 0);
                default: return usage(stderr, 64);
                }
        if (optind < argc || rows > ROWS_MAX || (o.format && !fmt_info_by_name(o.format)) ||
            (o.model && strcmp(o.model, "8b") != 0 && strcmp(o.model, "70b") != 0))
                return usage(stderr, 64);
        o.rows = (uint32_t)rows;
        return run(&o);
}
