/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "bench.h"

static const struct {
        const char *name;
        int (*main)(int argc, char **argv);
        const char *help;
} verbs[] = {
        { "clients", bench_clients_main, "many clients through the socket: throughput, time to first token, gaps" },
        { "ipc", bench_ipc_main, "what control costs: frames/s, round trip, memory per idle client" },
        { "tokenize", bench_tokenize_main, "text to ids and back, for comparison with a reference" },
        { "template", bench_template_main, "render a chat template with the JSON on standard input" },
        { "engine", bench_engine_main, "prefill and decode speed of the engine itself, against memory bandwidth" },
        { "kernels", bench_kernels_main, "matrix products format by format, against memory bandwidth and peak rates" },
        { "lossless", bench_lossless_main, "coding BF16 losslessly: speed of one core, and size" },
        { "device", bench_device_main, "matrix products on a device, against its memory and its rate of products" },
        { "load", bench_load_main, "how fast a model gets into memory, against reading its file" },
        { "simulate", bench_simulate_main, "the scheduler on a virtual machine with any number of clients" },
        { "logits", bench_logits_main, "every position's logits of a text, for comparison with a reference" },
        { NULL, NULL, NULL },
};

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench VERB [ARGUMENTS]\n\n");
        for (size_t i = 0; i < ARRAY_SIZE(verbs) && verbs[i].name; i++)
                (void)fprintf(f, "  %-9s %s\n", verbs[i].name, verbs[i].help);
        (void)fprintf(f, "\n`spark-bench VERB --help` tells what each takes.\n");
        return status;
}

int main(int argc, char **argv) {
        static char name[] = "spark-bench"; /* what getopt() complains as, whatever the verb */

        log_init("spark-bench", LOG_LEVEL_WARNING, 0);
        if (argc < 2)
                return usage(stderr, 64);
        if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
                return usage(stdout, 0);
        if (strcmp(argv[1], "--version") == 0)
                return puts("spark-bench " SPARK_VERSION) < 0;
        for (size_t i = 0; i < ARRAY_SIZE(verbs) && verbs[i].name; i++) {
                if (strcmp(argv[1], verbs[i].name) != 0)
                        continue;
                argv[1] = name;
                return verbs[i].main(argc - 1, argv + 1);
        }
        (void)fprintf(stderr, "spark-bench: no verb '%s'\n", argv[1]);
        return usage(stderr, 64);
}
