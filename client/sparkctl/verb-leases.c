/* SPDX-License-Identifier: Apache-2.0 */

/* leases: who holds memory, or a model. */

#include <stdio.h>
#include <string.h>

#include "json.h"
#include "options.h"
#include "status.h"
#include "users.h"

void status_json_leases(struct json *j, const struct spark_status_result *s) {
        json_open(j, "leases", '[');
        for (size_t i = 0; i < s->n_leases; i++) {
                const struct spark_lease *l = s->leases[i];

                json_open(j, NULL, '{');
                json_u64(j, "id", l->id);
                json_string(j, "kind", l->kind);
                json_string(j, "state", l->state);
                json_u64(j, "bytes", l->bytes);
                json_u64(j, "given_bytes", l->given_bytes);
                json_string(j, "model", l->model);
                json_string(j, "policy", l->policy);
                json_number(j, "age_s", l->age_s, 9);
                json_bool(j, "own", l->own);
                if (l->pid) { /* else it is somebody else's */
                        json_u64(j, "uid", l->uid);
                        json_u64(j, "pid", l->pid);
                        json_string(j, "unit", l->unit);
                        json_string(j, "who", l->who);
                        json_string(j, "why", l->why);
                }
                json_close(j, '}');
        }
        json_close(j, ']');
        json_u64(j, "leased_bytes", s->leased_bytes);
}

static void print_lease(struct user_names *names, const struct spark_lease *l) {
        char kind[16], state[16], bytes[32] = "-", given[32] = "-", model[32], age[32], who[140], why[300];
        bool memory = strcmp(l->kind, "memory") == 0;

        if (memory) {
                (void)words_bytes(l->bytes, bytes);
                (void)words_bytes(l->given_bytes, given);
        }
        (void)printf("%6llu  %-7s %-8s %11s %11s  %-20s %10s  ", (unsigned long long)l->id,
                     format_safe(l->kind, kind, sizeof(kind)), format_safe(l->state, state, sizeof(state)), bytes, given,
                     l->model[0] ? format_safe(l->model, model, sizeof(model)) : "-", format_duration((double)l->age_s, age));
        if (!l->pid)
                (void)printf("somebody else\n");
        else
                (void)printf("%s %u %s%s%s\n", user_name(names, l->uid), l->pid, format_safe(l->who, who, sizeof(who)),
                             l->why[0] ? ": " : "", format_safe(l->why, why, sizeof(why)));
}

static void done_leases(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;
        struct user_names names = { 0 };

        if (!done->status)
                return;
        if (call->ctl->json) {
                json_open(&j, NULL, '{');
                status_json_leases(&j, done->status);
                json_close(&j, '}');
                (void)json_print(&j);
                return;
        }
        if (done->status->n_leases == 0) {
                (void)printf("Nobody holds memory or a model.\n");
                return;
        }
        (void)printf("%6s  %-7s %-8s %11s %11s  %-20s %10s  %s\n", "ID", "KIND", "STATE", "ASKED", "GIVEN", "MODEL", "AGE",
                     "USER, PID, WHO");
        for (size_t i = 0; i < done->status->n_leases; i++)
                print_lease(&names, done->status->leases[i]);
}

int verb_leases(struct ctl *ctl, int argc, char **argv) {
        bool all = false;
        const struct option options[] = { OPTION_ALL(&all), OPTION_END };
        const struct option_spec spec = {
                .verb = "leases",
                .usage = "[--all]",
                .text = "Lists who has made the service give memory back (`sparkctl yield`), and who keeps a model resident\n"
                        "(`sparkctl hold`). Of other users' leases root, the service's own user and, with --all, who may\n"
                        "observe others see all, everybody what they are and what they hold.\n"
                        "With --json: leases [{id, kind, state, bytes, given_bytes, model, policy, age_s, own, uid, pid, unit,\n"
                        "who, why}], leased_bytes.\n",
                .options = options,
        };
        struct spark_status_request request = SPARK_STATUS_INIT;
        struct call call = { .ctl = ctl, .on_done = done_leases };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status < 0)
                status = ctl_connect_asking(ctl, all) ?: -1;
        request.all_users = all;
        if (status < 0)
                status = call_wait(&call, spark_status_query(ctl->spark, &request, call_event, &call, &call.id));
        return status;
}
