/* SPDX-License-Identifier: Apache-2.0 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl.h"
#include "options.h"

static const struct {
        const char *name;
        verb_fn run;
        const char *help;
} verbs[] = {
        { "status", verb_status, "what the service does: models, requests, memory" },
        { "models", verb_models, "the models it knows, and its store: ls, show, import, verify, rm, pin, alias" },
        { "ps", verb_ps, "the requests that run or wait" },
        { "top", verb_top, "who is using it, as it goes" },
        { "usage", verb_usage, "tokens and requests used, by day and model" },
        { "load", verb_load, "load a model and keep it resident" },
        { "pack", verb_pack, "write a model's image into the store, losslessly coded or as it is" },
        { "yield", verb_yield, "give memory to another program for a while" },
        { "hold", verb_hold, "keep a model resident for a while" },
        { "jobs", verb_jobs, "loads, imports, packs that are under way: list, cancel" },
        { "leases", verb_leases, "who holds memory, or a model" },
        { "unload", verb_unload, "give a model's memory back" },
        { "generate", verb_generate, "answer or continue one prompt" },
        { "chat", verb_chat, "talk" },
        { "tokenize", verb_tokenize, "text to token ids" },
        { "detokenize", verb_detokenize, "token ids to text" },
        { "perplexity", verb_perplexity, "how well a model predicts a text" },
        { "session", verb_session, "texts that grow and are kept: create, append, fork, rewind, close, list" },
        { "prewarm", verb_prewarm, "read the beginning of prompts ahead of time" },
        { "forget", verb_forget, "drop what was read ahead" },
        { "doctor", verb_doctor, "check the machine and the service, say what to do" },
};

static int usage(void) {
        (void)printf("Usage: sparkctl [OPTIONS] VERB [ARGUMENTS]\n\n"
                     "The command line of sparkd, which keeps one language model resident for all programs.\n\n"
                     "Verbs:\n");
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                (void)printf("  %-12s %s\n", verbs[i].name, verbs[i].help);
        (void)printf("\nOptions, before or after the verb:\n");
        options_print_global_help();
        (void)printf("      --version                  sparkctl's version\n\n"
                     "`sparkctl VERB --help` tells what each takes.\n\n"
                     "Exit status: 0 done, 64 wrong usage, 65 bad data, 69 the service is not there, 75 busy (try\n"
                     "again), 77 not permitted, 130 interrupted, 1 anything else.\n");
        return EXIT_DONE;
}

/* Errors in the command line itself are to be told in JSON, too, wherever --json stands. */
static bool wants_json(int argc, char **argv) {
        for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--json") == 0)
                        return true;
        return false;
}

static int run_verb(struct ctl *ctl, int argc, char **argv) {
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                if (strcmp(argv[0], verbs[i].name) == 0)
                        return verbs[i].run(ctl, argc, argv);
        return ctl_fail_usage(ctl, NULL, "There is no verb '%.100s'.", argv[0]);
}

/* "help", "help VERB", "help VERB SUBVERB": what --help says behind them. */
static int help(struct ctl *ctl, int argc, char **argv) {
        char option[] = "--help", *behind[] = { argc > 1 ? argv[1] : NULL, option, option };

        if (argc < 2)
                return usage();
        if (argc > 2 && argv[2][0] != '-')
                behind[1] = argv[2];
        return run_verb(ctl, ARRAY_SIZE(behind), behind);
}

static int run(struct ctl *ctl, int argc, char **argv) {
        int first = argc, status;

        status = options_parse_global(ctl, argc, argv, &first);
        if (status >= 0)
                return status;
        if (first >= argc) {
                if (argc < 2)
                        return ctl_fail_usage(ctl, NULL, "A verb is missing.");
                return usage();
        }
        if (strcmp(argv[first], "help") == 0)
                return help(ctl, argc - first, argv + first);
        return run_verb(ctl, argc - first, argv + first);
}

/* A caller may have closed any of the three, and the connection would get its number: then it got the messages, too. */
static void open_standard_files(void) {
        int fd;

        do
                fd = open("/dev/null", O_RDWR);
        while (fd >= 0 && fd <= STDERR_FILENO);
        (void)fd_close(fd);
}

int main(int argc, char **argv) {
        const char *socket = getenv("SPARK_SOCKET"), *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
        struct ctl ctl = {
                .socket = socket && *socket ? socket : SPARK_SOCKET_DEFAULT,
                .json = wants_json(argc, argv),
                .tty_in = isatty(STDIN_FILENO),
                .tty_out = isatty(STDOUT_FILENO),
                .tty_err = isatty(STDERR_FILENO),
                .signal_fd = -1,
        };
        int status;

        ctl.dumb = term && strcmp(term, "dumb") == 0;
        ctl.colours = ctl.tty_out && !ctl.dumb && !(no_color && *no_color); /* https://no-color.org */
        open_standard_files();
        status = run(&ctl, argc, argv);
        ctl_progress_clear(&ctl);
        ctl_agent_end(&ctl);
        ctl.spark = spark_unref(ctl.spark);
        (void)fd_close(ctl.signal_fd);
        return ctl_finish(&ctl, status);
}
