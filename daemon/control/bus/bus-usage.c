/* SPDX-License-Identifier: Apache-2.0 */

/* ListUsage: the usage ledger, as a client of the socket would ask for it. */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "bus-internal.h"

#define ROW "(susttttttt)"

static int append_row(sd_bus_message *reply, const Spark__V1__UsageRow *row) {
        return sd_bus_message_append(reply, ROW, row->day, row->uid, row->model, row->requests, row->prompt_tokens,
                                     row->cached_tokens, row->completion_tokens, row->refused, row->energy_uj, row->energy_tokens);
}

static int append_rows(sd_bus_message *reply, const Spark__V1__UsageResult *report) {
        int r = sd_bus_message_open_container(reply, 'a', ROW);

        for (size_t i = 0; r >= 0 && i < report->n_rows; i++)
                r = append_row(reply, report->rows[i]);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static void usage_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_call *c = userdata;
        sd_bus_message *reply = NULL;
        int e;

        c->request = NULL;
        e = sd_bus_message_new_method_return(c->message, &reply);
        if (e >= 0)
                e = append_rows(reply, done->usage_report);
        if (e < 0)
                log_debug("usage could not be told on the bus: %s", strerror(-e));
        bus_call_reply(c, e < 0 ? sd_bus_message_unref(reply) : reply);
}

uint32_t bus_usage_requires(struct bus_call *c) {
        uint32_t days;
        int all;

        if (sd_bus_message_read(c->message, "ub", &days, &all) < 0)
                all = 0;
        return RIGHT_BIT(all ? RIGHT_OBSERVE_OTHERS : RIGHT_USE);
}

void bus_operation_list_usage(struct bus_call *c) {
        static const struct request_sink sink = {
                .token = bus_call_ignore_token, .progress = bus_call_ignore_progress, .done = usage_done, .error = bus_call_error
        };
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__UsageQuery query = SPARK__V1__USAGE_QUERY__INIT;
        struct request_error error;
        int all = 0, r = sd_bus_message_read(c->message, "ub", &query.days, &all);

        if (r < 0) {
                bus_call_refuse(c, r, &error);
                return;
        }
        query.all_users = all;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY;
        frame.usage_query = &query;
        bus_call_submit(c, &frame, NULL, 0, &sink);
}
