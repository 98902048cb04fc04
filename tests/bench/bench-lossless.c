/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench lossless: how fast one core codes BF16 losslessly and how small it gets, on Gaussian numbers, against copying them.
 * Figures are bytes of BF16 per second; the best of a number of rounds counts, since what else runs on the machine only makes rounds
 * slower.
 */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bench.h"
#include "kernels/format.h"
#include "kernels/lossless.h"
#include "lossless-layouts.h"
#include "measure.h"
#include "random-bf16.h"

#define N_IN 8192u
#define N_OUT 4096u /* 64 MiB: more than caches hold */
#define ROUND_US 300e3

static const double sigmas[] = { 0.0056, 0.0125, 0.02, 0.033, 0.1 };

struct matrix {
        uint8_t *src;
        uint8_t *coded, *copy;
        struct lossless_parts parts;
        uint64_t escapes;
};

enum what { COPY, MEASURE, ENCODE, VERIFY, ALL, DECODE, DECODE_ROWS, WHATS };

static const char *const names[WHATS] = { "copy", "measure", "encode", "verify", "all", "decode", "decode_rows" };

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench lossless [--layouts [-m FILE]] [--json]\n\n"
                         "Lossless coding of BF16 on one core, in MB/s of BF16, and bits per weight. --layouts compares other\n"
                         "codes, on Gaussian weights or on those of a GGUF file that are in BF16.\n");
        return status;
}

/* One panel, one thing; false where it went wrong. */
static bool run_panel(struct matrix *m, enum what what, uint64_t panel, uint64_t *escapes) {
        const size_t bytes = (size_t)WEIGHT_PANEL * N_IN * 2;
        const uint8_t *src = m->src + panel * bytes;
        uint8_t *columns = m->coded + panel * (N_IN / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES), *tail = m->coded + m->parts.escapes;
        uint8_t *index = m->coded + m->parts.index + panel * m->parts.units * sizeof(uint64_t);
        uint64_t measured = 0;

        if (what == COPY)
                memcpy(m->copy + panel * bytes, src, bytes);
        if (what == MEASURE || what == ALL)
                measured = lossless_measure(src, N_IN * 2, WEIGHT_PANEL, N_IN);
        if (what == ENCODE || what == ALL) {
                uint64_t took = lossless_encode(src, N_IN * 2, WEIGHT_PANEL, N_IN, *escapes, columns, index, tail);

                *escapes += took;
                if (what == ALL && took != measured)
                        return false;
        } else {
                *escapes += measured;
        }
        if (what == VERIFY || what == ALL)
                return lossless_verify(columns, index, tail, src, N_IN * 2, WEIGHT_PANEL, N_IN);
        if (what == DECODE)
                lossless_decode(columns, index, tail, WEIGHT_PANEL, N_IN, m->copy + panel * bytes, N_IN * 2);
        for (unsigned row = 0; what == DECODE_ROWS && row < WEIGHT_PANEL; row++)
                lossless_decode_row(columns, index, tail, row, N_IN, m->copy + panel * bytes + (size_t)row * N_IN * 2);
        return true;
}

/* Bytes per second; 0 where something went wrong. */
static double measure_what(struct matrix *m, enum what what) {
        double began = measure_now_us(), best = 0;

        for (unsigned round = 0; round < 3 || measure_now_us() - began < ROUND_US; round++) {
                double start = measure_now_us(), took;
                uint64_t escapes = 0;

                for (uint64_t panel = 0; panel < N_OUT / WEIGHT_PANEL; panel++)
                        if (!run_panel(m, what, panel, &escapes))
                                return 0;
                took = measure_now_us() - start;
                best = round == 0 || took < best ? took : best;
        }
        return (double)N_OUT * N_IN * 2 / best * 1e6;
}

static bool measure_matrix(struct matrix *m, double sigma, bool json, bool first) {
        double rates[WHATS], bits;
        uint64_t escapes = 0;

        random_bf16((uint16_t *)m->src, (size_t)N_OUT * N_IN, sigma);
        for (uint64_t panel = 0; panel < N_OUT / WEIGHT_PANEL; panel++)
                if (!run_panel(m, ALL, panel, &escapes))
                        return false;
        bits = (double)(m->parts.least - LOSSLESS_SLACK + escapes) * 8 / ((double)N_OUT * N_IN);
        for (enum what what = 0; what < WHATS; what++) {
                rates[what] = measure_what(m, what);
                if (rates[what] <= 0)
                        return false;
        }
        if (json)
                printf("%s{\"sigma\":%g,\"bits_per_weight\":%.4f", first ? "" : ",", sigma, bits);
        else
                printf("  %-7g %7.3f", sigma, bits);
        for (enum what what = 0; what < WHATS; what++)
                if (json)
                        printf(",\"%s_bytes_per_second\":%.4g", names[what], rates[what]);
                else
                        printf(" %11.0f", rates[what] * 1e-6);
        printf("%s", json ? "}" : "\n");
        (void)fflush(stdout);
        return true;
}

static int run(bool json) {
        const size_t bytes = (size_t)N_OUT * N_IN * 2;
        struct matrix m = { .src = malloc(bytes), .copy = malloc(bytes) };
        bool ok = lossless_layout(1, N_OUT, N_IN, &m.parts) && m.src && m.copy &&
                  posix_memalign((void **)&m.coded, 64, m.parts.least + bytes / 2) == 0;

        if (ok) {
                memset(m.copy, 0, bytes);
                if (json) {
                        printf("{\"matrices\":[");
                } else {
                        printf("  sigma   bits/wt");
                        for (enum what what = 0; what < WHATS; what++)
                                printf(" %11s", names[what]);
                        printf("   MB/s of BF16\n");
                }
                for (size_t i = 0; ok && i < ARRAY_SIZE(sigmas); i++)
                        ok = measure_matrix(&m, sigmas[i], json, i == 0);
                printf("%s", json ? "]}\n" : "");
        }
        free(m.coded);
        free(m.copy);
        free(m.src);
        if (!ok)
                (void)fprintf(stderr, "spark-bench: lossless: no memory, or what was coded does not come back\n");
        return !ok;
}

int bench_lossless_main(int argc, char **argv) {
        static const struct option longs[] = { { "json", no_argument, NULL, 'j' }, { "layouts", no_argument, NULL, 'l' },
                                               { "help", no_argument, NULL, 'h' }, { 0 } };
        const char *model = NULL;
        bool json = false, compare = false;

        for (int c; (c = getopt_long(argc, argv, "m:h", longs, NULL)) >= 0;)
                switch (c) {
                case 'j': json = true; break;
                case 'l': compare = true; break;
                case 'm': model = optarg; break;
                case 'h': return usage(stdout, 0);
                default: return usage(stderr, 64);
                }
        if (optind < argc || (model && !compare))
                return usage(stderr, 64);
        return compare ? layouts_compare(model, json) : run(json);
}
