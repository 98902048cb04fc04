/* SPDX-License-Identifier: Apache-2.0 */

/* usage: what was used, by day and model. */

#include <stdio.h>

#include "json.h"
#include "options.h"
#include "power.h"
#include "users.h"

static void json_rows(struct json *j, const struct spark_usage_result *u) {
        json_open(j, "rows", '[');
        for (size_t i = 0; i < u->n_rows; i++) {
                const struct spark_usage_row *r = u->rows[i];

                json_open(j, NULL, '{');
                json_string(j, "day", r->day);
                json_u64(j, "uid", r->uid);
                json_string(j, "model", r->model);
                json_u64(j, "requests", r->requests);
                json_u64(j, "prompt_tokens", r->prompt_tokens);
                json_u64(j, "cached_tokens", r->cached_tokens);
                json_u64(j, "completion_tokens", r->completion_tokens);
                json_u64(j, "refused", r->refused);
                power_json_joules(j, "energy_uj", r->energy_uj, r->energy_tokens);
                json_u64(j, "energy_tokens", r->energy_tokens);
                json_close(j, '}');
        }
        json_close(j, ']');
}

static uint64_t computed_tokens(const struct spark_usage_row *r) {
        return r->prompt_tokens - (r->cached_tokens < r->prompt_tokens ? r->cached_tokens : r->prompt_tokens) + r->completion_tokens;
}

static void print_rows(const struct spark_usage_result *u) {
        struct user_names names = { 0 };
        char joules[32];

        (void)printf("%-10s  %-16s %-24s %9s %12s %12s %12s %8s %10s\n", "DAY", "USER", "MODEL", "REQUESTS", "PROMPT", "CACHED",
                     "GENERATED", "REFUSED", "ENERGY");
        for (size_t i = 0; i < u->n_rows; i++) {
                const struct spark_usage_row *r = u->rows[i];
                char day[16], model[72];

                (void)printf("%-10s  %-16s %-24s %9llu %12llu %12llu %12llu %8llu %10s\n", format_safe(r->day, day, sizeof(day)),
                             user_name(&names, r->uid), r->model[0] ? format_safe(r->model, model, sizeof(model)) : "-",
                             (unsigned long long)r->requests, (unsigned long long)r->prompt_tokens,
                             (unsigned long long)r->cached_tokens, (unsigned long long)r->completion_tokens,
                             (unsigned long long)r->refused,
                             power_joules(r->energy_uj, r->energy_tokens, computed_tokens(r), joules));
        }
        if (u->n_rows > 0)
                (void)printf("\n");
        (void)printf("You have used %llu tokens today", (unsigned long long)u->tokens_today);
        if (u->tokens_per_day)
                (void)printf(", of the %llu that you may use a day", (unsigned long long)u->tokens_per_day);
        (void)printf(" (prompts without what the cache had, and answers; days end at midnight UTC).\n"
                     "The energy for that: %s.\n",
                     power_joules(u->energy_uj_today, u->energy_tokens_today, u->tokens_today, joules));
}

static void usage_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!done->usage)
                return;
        if (!call->ctl->json) {
                print_rows(done->usage);
                return;
        }
        json_open(&j, NULL, '{');
        json_rows(&j, done->usage);
        json_u64(&j, "tokens_today", done->usage->tokens_today);
        json_u64(&j, "tokens_per_day", done->usage->tokens_per_day);
        power_json_joules(&j, "energy_uj_today", done->usage->energy_uj_today, done->usage->energy_tokens_today);
        json_u64(&j, "energy_tokens_today", done->usage->energy_tokens_today);
        json_close(&j, '}');
        (void)json_print(&j);
}

int verb_usage(struct ctl *ctl, int argc, char **argv) {
        struct spark_usage_request request = SPARK_USAGE_INIT;
        bool all = false;
        uint32_t given = 0;
        const struct option options[] = {
                { "days", 0, OPTION_U32, &request.days, &given, 1, "N", "today and the days before it (default 7, at most 400)" },
                OPTION_ALL(&all),
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "usage",
                .usage = "[--days N] [--all]",
                .text = "Shows what you have used of each model on each day: requests, tokens of prompts, how many of\n"
                        "these the prefix cache had, tokens generated, requests that were refused because you had too\n"
                        "many or had spent your allowance, and the energy that was measured for the tokens computed\n"
                        "(with > in front where it was not measured for all of them). Days are those of UTC.\n"
                        "With --json: rows [{day, uid, model, requests, prompt_tokens, cached_tokens,\n"
                        "completion_tokens, refused, energy_uj (or \"unknown\"), energy_tokens (that it was measured\n"
                        "for)}], tokens_today, tokens_per_day (0 = no limit), energy_uj_today, energy_tokens_today.\n",
                .options = options,
        };
        struct call call = { .ctl = ctl, .on_done = usage_done };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status < 0 && given && request.days == 0)
                return ctl_fail_usage(ctl, "usage", "--days takes at least 1, which is today.");
        if (status < 0)
                status = ctl_connect_asking(ctl, all) ?: -1;
        if (status < 0) {
                request.all_users = all;
                status = call_wait(&call, spark_usage(ctl->spark, &request, call_event, &call, &call.id));
        }
        return status;
}
