/* SPDX-License-Identifier: Apache-2.0 */

/* UsageQuery: a request that no engine hears of. The ledger answers it when the disk has. */

#include <stdlib.h>

#include "request-private.h"

#define DAYS_DEFAULT 7u

struct report {
        Spark__V1__UsageRow *rows;
        Spark__V1__UsageRow **list;
        char (*days)[16];
};

static void report_deinit(struct report *r) {
        free(r->rows);
        free(r->list);
        free(r->days);
}

static bool report_init(struct report *r, const struct usage_row *rows, size_t n) {
        *r = (struct report){ .rows = calloc(n + 1, sizeof(*r->rows)), .list = calloc(n + 1, sizeof(void *)),
                              .days = calloc(n + 1, sizeof(*r->days)) };
        if (!r->rows || !r->list || !r->days)
                return false;
        for (size_t i = 0; i < n; i++) {
                Spark__V1__UsageRow *row = &r->rows[i];

                spark__v1__usage_row__init(row);
                usage_day_format(rows[i].day, r->days[i]);
                row->day = r->days[i];
                row->uid = rows[i].uid;
                row->model = (char *)rows[i].model;
                row->requests = rows[i].counts.requests;
                row->prompt_tokens = rows[i].counts.prompt;
                row->cached_tokens = rows[i].counts.cached;
                row->completion_tokens = rows[i].counts.completion;
                row->refused = rows[i].counts.refused;
                row->energy_uj = rows[i].counts.energy_uj;
                row->energy_tokens = rows[i].counts.energy_tokens;
                r->list[i] = row;
        }
        return true;
}

/* Where the disk failed the rows are those in memory: what there is, and status says why it is not more. */
static void on_answer(void *userdata, int error, const struct usage_row *rows, size_t n) {
        _cleanup_(report_deinit) struct report report = { 0 };
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__UsageResult result = SPARK__V1__USAGE_RESULT__INIT;
        struct request *r = userdata;
        struct usage_counts spent;

        if (error == USAGE_E_TOO_MANY) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "days: these have more than %u rows; ask for fewer.", USAGE_ROWS_MAX);
                return;
        }
        if (error < 0 || !report_init(&report, rows, n)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        result.rows = report.list;
        result.n_rows = n;
        result.tokens_today = usage_today(r->manager->usage, r->user->uid);
        spent = usage_spent(r->manager->usage, r->user->uid);
        result.energy_uj_today = spent.energy_uj;
        result.energy_tokens_today = spent.energy_tokens;
        result.tokens_per_day = r->user->policy.tokens_per_day;
        done.result_case = SPARK__V1__DONE__RESULT_USAGE_REPORT;
        done.usage_report = &result;
        request_finish(r, &done);
}

int request_ask_usage(struct request *r, const Spark__V1__UsageQuery *q, struct request_error *error) {
        uint32_t days = q->days ? q->days : DAYS_DEFAULT;
        struct usage_question question = { .last = usage_day_now(), .all_users = q->all_users, .uid = r->user->uid };
        int e;

        if (days > USAGE_DAYS_MAX) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "days is %u, at most %u are kept.", days,
                                  USAGE_DAYS_MAX);
                return REQUEST_E_REFUSED;
        }
        question.first = question.last - days + 1;
        e = usage_ask(&r->usage, r->manager->usage, &question, on_answer, r);
        if (e == USAGE_E_BUSY)
                return request_refuse_busy(error, &r->manager->requests.ended,
                                           "The daemon looks up usage for others; it does so for a few at a time.");
        return e;
}
