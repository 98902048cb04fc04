/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * spark-bench: measuring and comparing with references. Each verb is a function of its own file, bench-VERB.c, that
 * gets the arguments behind the verb (argv[0] is the verb) and returns the process's exit status (sysexits where
 * sparkctl has them: 64 usage, 65 bad data, 69 daemon not there, 1 anything else).
 */

#define BENCH_HANG_MS 600000u /* that a device may take for a step: the largest models' prompts, or a sanitizer around it */

int bench_tokenize_main(int argc, char **argv);
int bench_template_main(int argc, char **argv);
int bench_logits_main(int argc, char **argv);
int bench_engine_main(int argc, char **argv);
int bench_kernels_main(int argc, char **argv);
int bench_lossless_main(int argc, char **argv);
int bench_device_main(int argc, char **argv);
int bench_clients_main(int argc, char **argv);
int bench_ipc_main(int argc, char **argv);
int bench_load_main(int argc, char **argv);
int bench_simulate_main(int argc, char **argv);
