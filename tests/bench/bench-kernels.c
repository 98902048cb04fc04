/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench kernels: matrix products of the CPU backend, format by format. One row reads all weights for few
 * multiplications, so it is set against what a plain read loop reaches; many rows multiply what is in caches, so they
 * are set against loops of nothing but the instruction set's multiply-adds. The best of a number of rounds counts: what
 * else runs on the machine only makes rounds slower.
 */

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bench.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/lossless.h"
#include "measure.h"

#define N_IN 2048u
#define MANY_OUT 512u          /* outputs of the product of many rows */
#define ONE_BYTES (192ull << 20) /* weights of the product of one row: more than caches hold */
#define ROUND_US 250e3          /* what is measured for each figure, at least */
#define PEAK_ROUNDS (1u << 18)

static const enum fmt formats[] = { FMT_F32,  FMT_F16,  FMT_BF16, FMT_BF16_LL, FMT_F8_E4M3, FMT_Q8_0,   FMT_Q4_0,  FMT_Q4_1,
                                    FMT_Q5_0, FMT_Q5_1, FMT_Q2_K, FMT_Q3_K,    FMT_Q4_K,   FMT_Q5_K,  FMT_Q6_K,
                                    FMT_IQ4_NL, FMT_IQ4_XS, FMT_MXFP4, FMT_NVFP4 };

struct options {
        const char *isa, *format;
        unsigned threads, rows;
        bool json;
};

struct peaks {
        double bandwidth;        /* bytes/s */
        double floats, integers; /* multiply-adds/s */
};

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench kernels [-t THREADS] [-r ROWS] [--isa NAME] [--format NAME] [--json]\n\n"
                         "Speed of matrix products: with one row against memory, with ROWS (512) against peak rates.\n");
        return status;
}

/* About normally distributed, as trained weights are: it matters where exponents are coded. */
static void make_values(size_t n, float *ret) {
        for (size_t i = 0; i < n; i++) {
                ret[i] = 0;
                for (size_t j = 1; j < 5; j++) {
                        int range = 1990 + 13 * (int)j, middle = range / 2;

                        ret[i] += (float)((int)(i * (7919 + 1009 * j) % (size_t)range) - middle) * 1e-5f;
                }
        }
}

/* Coded BF16: each of the same panels with escapes of its own. */
static void *make_coded(const uint8_t *rows, uint32_t n_out, struct weight *ret) {
        size_t stride = fmt_row_bytes(fmt_info(FMT_BF16), N_IN);
        uint64_t once = lossless_measure(rows, stride, WEIGHT_PANEL, N_IN), at = 0, size;
        struct lossless_parts parts;
        void *data;

        if (!lossless_layout(1, n_out, N_IN, &parts))
                return NULL;
        size = parts.least + parts.panels * once;
        if (posix_memalign(&data, 64, size) != 0)
                return NULL;
        for (uint32_t p = 0; p < parts.panels; p++)
                at += lossless_encode(rows, stride, WEIGHT_PANEL, N_IN, at,
                                      (uint8_t *)data + (size_t)p * (N_IN / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES,
                                      (uint8_t *)data + parts.index + (size_t)p * parts.units * sizeof(uint64_t),
                                      (uint8_t *)data + parts.escapes);
        *ret = (struct weight){ .info = fmt_info(FMT_BF16_LL), .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = N_IN, .data = data,
                                .tail = size - parts.index };
        return data;
}

static void *make_plain(const struct fmt_info *info, const void *rows, uint32_t n_out, struct weight *ret) {
        size_t panel = fmt_row_bytes(info, N_IN) * WEIGHT_PANEL;
        void *data;

        if (posix_memalign(&data, 64, panel * (n_out / WEIGHT_PANEL)) != 0)
                return NULL;
        weight_pack(info, WEIGHT_PANEL, N_IN, 0, WEIGHT_PANEL, rows, data);
        for (uint32_t p = 1; p < n_out / WEIGHT_PANEL; p++)
                memcpy((uint8_t *)data + p * panel, data, panel);
        *ret = (struct weight){ .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = N_IN, .data = data };
        return data;
}

/* A matrix of `n_out` rows, the same 16 over and over. Returns the data, to be freed, or NULL. */
static void *make_weight(const struct fmt_info *info, uint32_t n_out, struct weight *ret) {
        const struct fmt_info *file_info = fmt_is_coded(info) ? fmt_info(FMT_BF16) : info;
        size_t n = (size_t)WEIGHT_PANEL * N_IN;
        float *values = malloc(n * sizeof(*values));
        void *rows = malloc(fmt_row_bytes(file_info, N_IN) * WEIGHT_PANEL), *data = NULL;

        if (values && rows) {
                make_values(n, values);
                if (fmt_encode(file_info, values, n, rows))
                        data = fmt_is_coded(info) ? make_coded(rows, n_out, ret) : make_plain(info, rows, n_out, ret);
        }
        free(values);
        free(rows);
        return data;
}

/* Seconds of a product of n_rows rows, the best of some; 0 where it fails. *ret_bytes: of the weights. */
static double time_product(struct backend *be, const struct fmt_info *info, uint32_t n_out, uint32_t n_rows, double *ret_bytes) {
        float *x = malloc((size_t)n_rows * N_IN * sizeof(*x)), *out = malloc((size_t)n_rows * n_out * sizeof(*out));
        struct weight w;
        struct matmul product = { .w = &w, .out = out, .out_stride = n_out };
        double best = 0, began = measure_now_us();
        void *data = make_weight(info, n_out, &w);

        if (x && out && data) {
                for (size_t i = 0; i < (size_t)n_rows * N_IN; i++)
                        x[i] = (float)((int)(i * 104729 % 1999) - 999) * 1e-3f;
                (void)be->ops->begin(be, NULL, NULL);
                began = measure_now_us();
                for (unsigned round = 0; round < 3 || measure_now_us() - began < ROUND_US; round++) {
                        double start = measure_now_us(), took;

                        if (be->ops->matmul(be, &product, 1, x, N_IN, n_rows) != 0) {
                                best = 0;
                                break;
                        }
                        took = measure_now_us() - start;
                        best = round == 0 || took < best ? took : best;
                }
                (void)be->ops->end(be);
                *ret_bytes = (double)n_out * (double)fmt_row_bytes(info, N_IN) + (double)w.tail;
        }
        free(data);
        free(out);
        free(x);
        return best * 1e-6;
}

/* --- peaks ------------------------------------------------------------------------------------------------------- */

struct peak_job {
        const struct peak_kernels *peak;
        bool integers;
        float sum;
};

static void *run_peak(void *userdata) {
        struct peak_job *job = userdata;
        int8_t bytes[64];
        float x[32];

        for (unsigned i = 0; i < 64; i++)
                bytes[i] = 1;
        for (unsigned i = 0; i < 32; i++)
                x[i] = 0.5f;
        job->sum = job->integers ? (float)job->peak->integers(PEAK_ROUNDS, bytes) : job->peak->floats(PEAK_ROUNDS, x);
        return NULL;
}

/* Multiply-adds per second of that many threads, the best of some; 0 where it can't be measured. */
static double measure_peak(const struct cpu_kernels *kernels, unsigned threads, bool integers) {
        double best = 0, work = (double)kernels->peak->chains * (integers ? 64 : 16) * PEAK_ROUNDS * threads;
        struct peak_job jobs[64];
        pthread_t ids[64];

        threads = MIN(threads, (unsigned)ARRAY_SIZE(jobs));
        for (unsigned round = 0; round < 40; round++) {
                double began = measure_now_us(), took;
                unsigned started = 0;

                for (; started < threads; started++) {
                        jobs[started] = (struct peak_job){ .peak = kernels->peak, .integers = integers };
                        if (pthread_create(&ids[started], NULL, run_peak, &jobs[started]) != 0)
                                break;
                }
                for (unsigned i = 0; i < started; i++)
                        (void)pthread_join(ids[i], NULL);
                took = measure_now_us() - began;
                if (started < threads)
                        return 0;
                best = round == 0 || took < best ? took : best;
        }
        return work / best * 1e6;
}

/* --- the table --------------------------------------------------------------------------------------------------- */

static double share(double part, double whole) {
        return whole > 0 ? part / whole : 0;
}

static bool measure_format(struct backend *be, const struct options *o, const struct fmt_info *info,
                           const struct peaks *peaks, bool first) {
        double row_bytes = (double)fmt_row_bytes(info, N_IN), bytes = 0, other, macs;
        uint32_t n_out = (uint32_t)((double)ONE_BYTES / row_bytes) / WEIGHT_PANEL * WEIGHT_PANEL;
        double one = time_product(be, info, n_out, 1, &bytes), many = time_product(be, info, MANY_OUT, o->rows, &other);
        bool floats = info->block == 1 || info->fmt == FMT_F8_E4M3 || info->fmt == FMT_BF16_LL;

        if (one <= 0 || many <= 0)
                return false;
        bytes /= one;
        macs = (double)MANY_OUT * N_IN * o->rows / many;
        if (o->json)
                printf("%s{\"format\":\"%s\",\"one_row_bytes_per_second\":%.4g,\"of_bandwidth\":%.3f,"
                       "\"macs_per_second\":%.4g,\"of_peak\":%.3f}",
                       first ? "" : ",", info->name, bytes, share(bytes, peaks->bandwidth), macs,
                       share(macs, floats ? peaks->floats : peaks->integers));
        else
                printf("  %-8s %7.1f GB/s %5.1f %%   %8.1f GMAC/s %5.1f %%\n", info->name, bytes * 1e-9,
                       100 * share(bytes, peaks->bandwidth), macs * 1e-9,
                       100 * share(macs, floats ? peaks->floats : peaks->integers));
        (void)fflush(stdout);
        return true;
}

static int run(const struct options *o) {
        const struct backend_config config = { .threads = o->threads, .isa = o->isa };
        const struct cpu_kernels *kernels = cpu_kernels_find(o->isa);
        struct backend *be;
        struct peaks peaks;
        bool first = true;

        if (!kernels || backend_cpu.open(&config, &be) != 0) {
                (void)fprintf(stderr, "spark-bench: kernels: no such instruction set here\n");
                return 1;
        }
        peaks = (struct peaks){ .bandwidth = measure_bandwidth(o->threads), .floats = measure_peak(kernels, o->threads, false),
                                .integers = measure_peak(kernels, o->threads, true) };
        if (o->json)
                printf("{\"kernels\":\"%s\",\"threads\":%u,\"rows\":%u,\"bandwidth\":%.4g,\"peak_float_macs\":%.4g,"
                       "\"peak_integer_macs\":%.4g,\"formats\":[", kernels->name, o->threads, o->rows, peaks.bandwidth,
                       peaks.floats, peaks.integers);
        else
                printf("%s: memory %.1f GB/s, at most %.1f GMAC/s of floats, %.1f of integers\n"
                       "  format   1 row, of memory       %u rows, of the peak\n",
                       be->ops->describe(be), peaks.bandwidth * 1e-9, peaks.floats * 1e-9, peaks.integers * 1e-9, o->rows);
        for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
                const struct fmt_info *info = fmt_info(formats[i]);

                if (!info || (o->format && fmt_info_by_name(o->format) != info))
                        continue;
                if (!measure_format(be, o, info, &peaks, first)) {
                        (void)fprintf(stderr, "spark-bench: kernels: %s failed\n", info->name);
                        backend_cpu.close(be);
                        return 1;
                }
                first = false;
        }
        if (o->json)
                printf("]}\n");
        backend_cpu.close(be);
        return 0;
}

int bench_kernels_main(int argc, char **argv) {
        static const struct option longs[] = { { "isa", required_argument, NULL, 'i' }, { "json", no_argument, NULL, 'j' },
                                               { "format", required_argument, NULL, 'f' }, { "help", no_argument, NULL, 'h' },
                                               { 0 } };
        struct options o = { .threads = 1, .rows = 512 };

        for (int c; (c = getopt_long(argc, argv, "t:r:h", longs, NULL)) >= 0;)
                switch (c) {
                case 't': o.threads = (unsigned)strtoul(optarg, NULL, 10); break;
                case 'r': o.rows = (unsigned)strtoul(optarg, NULL, 10); break;
                case 'i': o.isa = optarg; break;
                case 'f': o.format = optarg; break;
                case 'j': o.json = true; break;
                case 'h': return usage(stdout, 0);
                default: return usage(stderr, 64);
                }
        if (optind < argc || o.threads < 1 || o.threads > 64 || o.rows < 1 || o.rows > 4096 ||
            (o.format && !fmt_info_by_name(o.format)))
                return usage(stderr, 64);
        return run(&o);
}
