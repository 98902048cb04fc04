/* SPDX-License-Identifier: Apache-2.0 */

/* sparkd: options and wiring; everything else is the manager's. */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "manager.h"
#include "memory/pressure.h"

#define TRY_HELP "Try: sparkd --help\n"

struct options {
        const char *config_file;
        bool check;
};

static void print_help(void) {
        (void)puts("Usage: sparkd [--config FILE] [--check]\n"
                   "\n"
                   "Keeps a language model resident and serves it to the programs of this machine.\n"
                   "\n"
                   "  -c, --config FILE  configuration (default: " CONFIG_DEFAULT_FILE ", where it exists)\n"
                   "      --check        read the configuration, print what is in effect, and end\n"
                   "  -h, --help         this\n"
                   "      --version      version");
}

/* -1 = go on, else the exit status. */
static int parse_options(int argc, char **argv, struct options *o) {
        static const struct option options[] = {
                { "config", required_argument, NULL, 'c' }, { "check", no_argument, NULL, 'k' },
                { "help", no_argument, NULL, 'h' },         { "version", no_argument, NULL, 'v' },
                { NULL, 0, NULL, 0 },
        };
        int c;

        while ((c = getopt_long(argc, argv, "c:h", options, NULL)) >= 0)
                switch (c) {
                case 'c':
                        o->config_file = optarg;
                        break;
                case 'k':
                        o->check = true;
                        break;
                case 'h':
                        print_help();
                        return 0;
                case 'v':
                        (void)puts("sparkd " SPARK_VERSION);
                        return 0;
                default:
                        (void)fputs(TRY_HELP, stderr);
                        return 64;
                }
        if (optind < argc) {
                (void)fprintf(stderr, "sparkd: unexpected argument '%s'\n" TRY_HELP, argv[optind]);
                return 64;
        }
        return -1;
}

static int read_config(const struct options *o, struct config **ret) {
        struct config_error error = { "" };
        const char *file = o->config_file ? o->config_file : CONFIG_DEFAULT_FILE;
        int r = config_load(ret, file, &error);

        if (r == -ENOENT && !o->config_file)
                r = config_parse(ret, "", "/", &error);
        if (r == CONFIG_E_INVALID)
                log_error("%s", error.text);
        else if (r < 0)
                log_error("%s: %s", file, strerror(-r));
        return r;
}

/* Prompts pass through our memory: it is nobody else's to look at, not even in a core dump. */
static void close_to_others(void) {
        static const struct rlimit no_core = { 0, 0 };

        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)prctl(PR_SET_DUMPABLE, 0);
}

int main(int argc, char **argv) {
        struct options o = { 0 };
        struct config *config = NULL;
        struct manager *m = NULL;
        int for_journal = getenv("JOURNAL_STREAM") != NULL, r;

        log_init("sparkd", LOG_LEVEL_INFO, for_journal);
        r = parse_options(argc, argv, &o);
        if (r >= 0)
                return r;
        if (read_config(&o, &config) != 0)
                return 78; /* EX_CONFIG */
        if (o.check) {
                config_print(config, stdout);
                (void)config_free(config);
                return fflush(stdout) == 0 ? 0 : 1;
        }
        log_init("sparkd", (enum log_level)config->log_level, for_journal);
        close_to_others();
        r = manager_new(&m, config, o.config_file); /* says what is wrong */
        if (r == 0) {
                pressure_listen(m->pressure, getenv("MEMORY_PRESSURE_WATCH"), getenv("MEMORY_PRESSURE_WRITE"));
                r = manager_run(m);
                if (r < 0)
                        log_error("ended: %s", strerror(-r));
        }
        (void)manager_free(m);
        return r < 0 ? 1 : 0;
}
