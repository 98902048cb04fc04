/* SPDX-License-Identifier: Apache-2.0 */

/* yield, hold: memory for another program, a model that stays. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "lease.h"
#include "options.h"

static void held_json(const struct lease_run *l) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        if (strcmp(l->stage, "granted") == 0) {
                json_bool(&j, "granted", true);
                json_u64(&j, "wanted_bytes", l->progress.total);
                json_u64(&j, "given_bytes", l->progress.done);
        } else {
                json_bool(&j, "warm", true);
                json_string(&j, "model", l->data);
        }
        json_close(&j, '}');
        (void)json_print(&j);
        (void)fflush(stdout);
}

/* A command's output is its own; people hear of it on standard error. */
static void granted(struct lease_run *l) {
        FILE *out = l->command ? stderr : stdout;
        char given[32], wanted[32];

        if (l->ctl->json) {
                held_json(l);
                return;
        }
        if (l->progress.total == 0)
                (void)fprintf(out, "There is enough memory; nothing had to be given back.");
        else if (l->progress.done >= l->progress.total)
                (void)fprintf(out, "%s were given back.", words_bytes(l->progress.done, given));
        else
                (void)fprintf(out, "%s were given back, which is all there was, of %s.", words_bytes(l->progress.done, given),
                              words_bytes(l->progress.total, wanted));
        (void)fprintf(out, l->command ? "\n" : " Ctrl-C lets the service have them again.\n");
        (void)fflush(out);
}

static void warm(struct lease_run *l) {
        if (l->ctl->json)
                held_json(l);
        else if (!l->command)
                (void)printf("The model is resident, and stays so until Ctrl-C.\n");
        (void)fflush(stdout);
}

static int check_size(const struct ctl *ctl, const char *text, uint64_t *ret) {
        if (parse_size(text, ret))
                return -1;
        return ctl_fail_usage(ctl, "yield", "'%.40s' is no size: a number, with or without K, M, G or T.", text);
}

int verb_yield(struct ctl *ctl, int argc, char **argv) {
        struct spark_reserve_memory_request request = SPARK_RESERVE_MEMORY_INIT;
        bool missing_only = false;
        const struct option options[] = {
                { "missing-only", 0, OPTION_FLAG, &missing_only, NULL, 0, NULL, "only what the machine has too little free for" },
                { "why", 0, OPTION_STRING, &request.why, NULL, 0, "TEXT", "what for, for people (`sparkctl leases`)" },
                { "policy", 0, OPTION_STRING, &request.policy, NULL, 0, "P",
                  "requests meanwhile: wait, or busy (default: as configured)" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "yield",
                .usage = "[OPTIONS] SIZE [-- COMMAND ...]",
                .text = "Makes the service give memory back (40G; K, M, G, T are powers of 1024) and do without it, while\n"
                        "COMMAND runs or, without one, until Ctrl-C; then it takes the memory again by itself. The command is\n"
                        "started when the memory is there; signals go to it, and its exit status is sparkctl's. Requests\n"
                        "that need what was given away wait, or are refused as busy.\n"
                        "With --json, when the memory is there: granted, wanted_bytes, given_bytes.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct string_list arguments = { 0 };
        struct lease_run l = { .ctl = ctl, .stage = "granted", .on_held = granted, .call = { .ctl = ctl }, .signal_fd = -1 };
        int status;

        status = lease_take_command(&l, spec.verb, &argc, argv);
        if (status < 0)
                status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = check_size(ctl, arguments.items[0], &request.bytes);
        string_list_deinit(&arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true) ?: lease_begin(&l) ?: -1;
        if (status < 0) {
                request.who = l.who;
                request.missing_only = missing_only;
                status = lease_wait(&l, spark_reserve_memory(ctl->spark, &request, lease_event, &l, &l.call.id));
        }
        return status;
}

int verb_hold(struct ctl *ctl, int argc, char **argv) {
        struct spark_hold_warm_request request = SPARK_HOLD_WARM_INIT;
        const struct option options[] = {
                { "why", 0, OPTION_STRING, &request.why, NULL, 0, "TEXT", "what for, for people (`sparkctl leases`)" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "hold",
                .usage = "[OPTIONS] NAME [-- COMMAND ...]",
                .text = "Keeps a model resident, and loads it where it is not, while COMMAND runs or, without one, until\n"
                        "Ctrl-C. The command is started when the model is ready; signals go to it, and its exit status is\n"
                        "sparkctl's. With --json, when the model is ready: warm, model.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct string_list arguments = { 0 };
        struct lease_run l = { .ctl = ctl, .stage = "warm", .on_held = warm, .call = { .ctl = ctl }, .signal_fd = -1 };
        int status;

        status = lease_take_command(&l, spec.verb, &argc, argv);
        if (status < 0)
                status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0) {
                request.model = arguments.items[0];
                l.data = (void *)arguments.items[0];
        }
        string_list_deinit(&arguments);
        if (status < 0)
                status = ctl_connect_asking(ctl, true) ?: lease_begin(&l) ?: -1;
        if (status < 0) {
                request.who = l.who;
                status = lease_wait(&l, spark_hold_warm(ctl->spark, &request, lease_event, &l, &l.call.id));
        }
        return status;
}
