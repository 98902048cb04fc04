/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: leases, as they are asked for, as they go on and end, and as the list shows them. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

static void send_progress(struct fake *f, uint64_t id, const char *stage, uint64_t done, uint64_t total) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Progress p = SPARK__V1__PROGRESS__INIT;

        p.stage = (char *)stage;
        p.done = done;
        p.total = total;
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_PROGRESS;
        frame.progress = &p;
        fake_send(f, &frame);
}

/* What a lease told, in one line. */
struct heard {
        char text[256];
        int code;
        bool stop_when_held; /* the callback asks for the end */
};

static int on_event(struct spark *s, const struct spark_event *e, void *userdata) {
        struct heard *h = userdata;
        size_t n = strlen(h->text);

        if (e->type == SPARK_EVENT_PROGRESS)
                (void)snprintf(h->text + n, sizeof(h->text) - n, "%s %llu/%llu; ", e->progress->stage,
                               (unsigned long long)e->progress->done, (unsigned long long)e->progress->total);
        else if (e->type == SPARK_EVENT_ERROR)
                h->code = e->error->code;
        return e->type == SPARK_EVENT_PROGRESS && h->stop_when_held && strcmp(e->progress->stage, "granted") == 0;
}

/* ---- memory ---- */

static void script_memory(struct fake *f) {
        Spark__V1__ClientFrame *m;
        uint64_t id;

        fake_greet(f);
        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY);
        if (!m || f->fault[0])
                return;
        id = m->id;
        if (m->reserve_memory->bytes != 40ull << 30 || strcmp(m->reserve_memory->who, "blender") != 0 ||
            strcmp(m->reserve_memory->why, "a film") != 0 || !m->reserve_memory->missing_only ||
            strcmp(m->reserve_memory->policy, "busy") != 0)
                fake_fault(f, "the question");
        (void)message_free(&m->base);
        send_progress(f, id, "yield", 10, 40);
        send_progress(f, id, "granted", 40, 40);
        if (fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_CANCEL) != id)
                fake_fault(f, "what was cancelled");
        fake_send_error(f, id, SPARK_CANCELLED, "Cancelled.", 0, 0, 0);
}

static void test_memory(void **state) {
        struct spark_reserve_memory_request r = SPARK_RESERVE_MEMORY_INIT;
        struct heard heard = { .stop_when_held = true };
        struct fake f;
        struct spark *s = client_start(&f, script_memory, NULL);
        uint64_t id = 0;

        assert_int_equal(spark_reserve_memory(s, &r, on_event, &heard, &id), -EINVAL); /* nothing is asked for */
        r.bytes = 40ull << 30;
        r.who = "blender";
        r.why = "a film";
        r.missing_only = 2;
        r.policy = "busy";
        assert_int_equal(spark_reserve_memory(s, &r, on_event, &heard, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), SPARK_CANCELLED);
        assert_string_equal(heard.text, "yield 10/40; granted 40/40; ");
        assert_int_equal(heard.code, SPARK_CANCELLED);
        client_finish(&f, s);
}

/* An older program's structure is shorter, a newer one's is longer. */
static void script_sizes(struct fake *f) {
        fake_greet(f);
        for (int i = 0; i < 2; i++) {
                Spark__V1__ClientFrame *m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY);

                if (!m || f->fault[0])
                        return;
                if (m->reserve_memory->bytes != 7 || *m->reserve_memory->policy || *m->reserve_memory->who)
                        fake_fault(f, "question %d", i);
                fake_send_error(f, m->id, SPARK_PERMISSION_DENIED, "No.", 0, 0, 0);
                (void)message_free(&m->base);
        }
}

static void test_sizes(void **state) {
        struct {
                struct spark_reserve_memory_request known;
                uint64_t more;
        } newer = { .known = SPARK_RESERVE_MEMORY_INIT };
        struct spark_hold_warm_request hold = SPARK_HOLD_WARM_INIT;
        struct heard heard = { 0 };
        struct fake f;
        struct spark *s = client_start(&f, script_sizes, NULL);
        uint64_t id = 0;

        newer.known.bytes = 7;
        newer.known.size = offsetof(struct spark_reserve_memory_request, who);
        newer.known.who = "not there yet";
        assert_int_equal(spark_reserve_memory(s, &newer.known, on_event, &heard, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), SPARK_PERMISSION_DENIED);
        newer.known.who = NULL;
        newer.known.size = sizeof(newer);
        newer.more = 1;
        assert_int_equal(spark_reserve_memory(s, &newer.known, on_event, &heard, &id), -E2BIG);
        newer.more = 0;
        assert_int_equal(spark_reserve_memory(s, &newer.known, on_event, &heard, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), SPARK_PERMISSION_DENIED);
        assert_int_equal(spark_reserve_memory(s, NULL, on_event, &heard, &id), -EINVAL);
        hold.size = 3;
        assert_int_equal(spark_hold_warm(s, &hold, on_event, &heard, &id), -EINVAL);
        client_finish(&f, s);
}

/* ---- models ---- */

static void script_warm(struct fake *f) {
        Spark__V1__ClientFrame *m;

        fake_greet(f);
        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_HOLD_WARM);
        if (!m || f->fault[0])
                return;
        if (strcmp(m->hold_warm->model, "chat") != 0 || *m->hold_warm->who || strcmp(m->hold_warm->why, "a demo") != 0)
                fake_fault(f, "the question");
        send_progress(f, m->id, "load", 1, 2);
        send_progress(f, m->id, "warm", 2, 2);
        (void)message_free(&m->base);
        /* and the service goes */
}

static void test_warm(void **state) {
        struct spark_hold_warm_request r = SPARK_HOLD_WARM_INIT;
        struct heard heard = { 0 };
        struct fake f;
        struct spark *s = client_start(&f, script_warm, NULL);
        uint64_t id = 0;

        r.model = "chat";
        r.why = "a demo";
        assert_int_equal(spark_hold_warm(s, &r, on_event, &heard, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), SPARK_DISCONNECTED);
        assert_string_equal(heard.text, "load 1/2; warm 2/2; ");
        assert_int_equal(heard.code, SPARK_DISCONNECTED);
        client_finish(&f, s);
}

/* ---- the list ---- */

static void script_list(struct fake *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__StatusResult status = SPARK__V1__STATUS_RESULT__INIT;
        Spark__V1__LeaseInfo leases[2] = { SPARK__V1__LEASE_INFO__INIT, SPARK__V1__LEASE_INFO__INIT };
        Spark__V1__LeaseInfo *list[2] = { &leases[0], &leases[1] };
        Spark__V1__ModelInfo model = SPARK__V1__MODEL_INFO__INIT, *models[1] = { &model };

        fake_greet(f);
        leases[0].id = 7;
        leases[0].kind = (char *)"memory";
        leases[0].state = (char *)"granted";
        leases[0].bytes = 11;
        leases[0].given_bytes = 10;
        leases[0].policy = (char *)"wait";
        leases[0].age_s = 1.5f;
        leases[0].own = true;
        leases[0].uid = 1000;
        leases[0].pid = 77;
        leases[0].unit = (char *)"app.scope";
        leases[0].who = (char *)"blender";
        leases[0].why = (char *)"a film";
        leases[1].id = 9;
        leases[1].kind = (char *)"warm";
        leases[1].state = (char *)"load";
        leases[1].model = (char *)"chat";
        model.resident = (char *)"held";
        model.idle_ms = 5;
        model.unload_ms = 6;
        model.holders = 1;
        status.leases = list;
        status.n_leases = 2;
        status.leased_bytes = 11;
        status.models = models;
        status.n_models = 1;
        done.result_case = SPARK__V1__DONE__RESULT_STATUS;
        done.status = &status;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_STATUS), &done);
}

static void test_list(void **state) {
        struct spark_result *result = NULL;
        const struct spark_status_result *status;
        const struct spark_lease *l;
        struct fake f;
        struct spark *s = client_start(&f, script_list, NULL);
        uint64_t id = 0;

        assert_int_equal(spark_status(s, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, &result), 0);
        status = result->done->status;
        assert_int_equal(status->n_leases, 2);
        assert_int_equal(status->leased_bytes, 11);
        l = status->leases[0];
        assert_int_equal(l->id, 7);
        assert_string_equal(l->kind, "memory");
        assert_string_equal(l->state, "granted");
        assert_int_equal(l->bytes, 11);
        assert_int_equal(l->given_bytes, 10);
        assert_string_equal(l->policy, "wait");
        assert_true(l->age_s > 1.4f && l->age_s < 1.6f);
        assert_int_equal(l->own, 1);
        assert_int_equal(l->uid, 1000);
        assert_int_equal(l->pid, 77);
        assert_string_equal(l->unit, "app.scope");
        assert_string_equal(l->who, "blender");
        assert_string_equal(l->why, "a film");
        l = status->leases[1];
        assert_string_equal(l->model, "chat");
        assert_string_equal(l->state, "load");
        assert_string_equal(l->who, "");
        assert_int_equal(l->own, 0);
        assert_string_equal(status->models[0]->resident, "held");
        assert_int_equal(status->models[0]->idle_ms, 5);
        assert_int_equal(status->models[0]->unload_ms, 6);
        assert_int_equal(status->models[0]->holders, 1);
        result = spark_result_free(result);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_memory),
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_warm),
                cmocka_unit_test(test_list),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
