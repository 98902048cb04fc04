/* SPDX-License-Identifier: Apache-2.0 */

/* What records of clients add up to. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/keep/keep-clients.h"
#include "daemon/control/kept.h"
#include "daemon/control/request/request.h"

#define KEY(sequence, slot) ((uint64_t)(sequence) << REQUEST_KEY_SLOT_BITS | (slot))

/* Applies one record, as keep_read() would hand it out. */
#define APPLY(k, BODY_CASE, body, ...)                                                                            \
        do {                                                                                                      \
                Spark__State__V1__Record record_ = SPARK__STATE__V1__RECORD__INIT;                                \
                record_.body_case = SPARK__STATE__V1__RECORD__BODY_##BODY_CASE;                                   \
                record_.body = (__VA_ARGS__);                                                                     \
                kept_apply((k), &record_);                                                                        \
        } while (0)

#define BYTES(text) ((ProtobufCBinaryData){ .len = sizeof(text) - 1, .data = (uint8_t *)(text) })

static int setup(void **state) {
        return kept_new((struct kept **)state);
}

static int teardown(void **state) {
        (void)kept_free(*state);
        return 0;
}

static struct kept_connection *connect_one(struct kept *k, uint64_t id) {
        Spark__State__V1__Connection m = SPARK__STATE__V1__CONNECTION__INIT;

        m.id = id;
        m.uid = 1000;
        m.unit = (char *)"user.slice";
        APPLY(k, CONNECTION, connection, &m);
        return kept_find_connection(k, id);
}

static void input(struct kept *k, uint64_t id, uint64_t taken, ProtobufCBinaryData kept) {
        Spark__State__V1__ConnectionInput m = SPARK__STATE__V1__CONNECTION_INPUT__INIT;

        m.id = id;
        m.taken = taken;
        m.kept = kept;
        APPLY(k, CONNECTION_INPUT, connection_input, &m);
}

static void output(struct kept *k, uint64_t id, ProtobufCBinaryData frames) {
        Spark__State__V1__ConnectionOutput m = SPARK__STATE__V1__CONNECTION_OUTPUT__INIT;

        m.id = id;
        m.frames = frames;
        APPLY(k, CONNECTION_OUTPUT, connection_output, &m);
}

static void sent(struct kept *k, uint64_t id, uint64_t total) {
        Spark__State__V1__ConnectionSent m = SPARK__STATE__V1__CONNECTION_SENT__INIT;

        m.id = id;
        m.sent = total;
        APPLY(k, CONNECTION_SENT, connection_sent, &m);
}

static struct kept_request *ask(struct kept *k, uint64_t key, uint64_t connection, uint64_t credit) {
        Spark__State__V1__Request m = SPARK__STATE__V1__REQUEST__INIT;

        m.key = key;
        m.connection = connection;
        m.id = 1;
        m.credit = credit;
        m.frame = BYTES("frame");
        m.model = (char *)"m";
        m.session = m.unit = (char *)"";
        APPLY(k, REQUEST, request, &m);
        return kept_find_request(k, key);
}

static void accept_it(struct kept *k, uint64_t key, uint32_t *prompt, size_t n) {
        Spark__State__V1__RequestAccepted m = SPARK__STATE__V1__REQUEST_ACCEPTED__INIT;

        m.key = key;
        m.prompt = prompt;
        m.n_prompt = n;
        m.seed = 7;
        APPLY(k, REQUEST_ACCEPTED, request_accepted, &m);
}

/* Tokens with this text; pending: it was not queued. */
static void tokens(struct kept *k, uint64_t key, uint32_t *ids, size_t n, uint32_t index, const char *text, bool pending) {
        Spark__State__V1__RequestTokens m = SPARK__STATE__V1__REQUEST_TOKENS__INIT;
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;
        uint8_t packed[256];

        t.index = index;
        t.ids = ids;
        t.n_ids = n;
        t.text = (ProtobufCBinaryData){ .len = strlen(text), .data = (uint8_t *)text };
        m.key = key;
        m.ids = ids;
        m.n_ids = n;
        if (pending)
                m.pending = (ProtobufCBinaryData){ .len = spark__v1__token__pack(&t, packed), .data = packed };
        APPLY(k, REQUEST_TOKENS, request_tokens, &m);
}

static void test_input(void **state) {
        struct kept *k = *state;
        struct kept_connection *c = connect_one(k, 5);

        assert_non_null(c);
        assert_string_equal(c->unit, "user.slice");
        input(k, 5, 0, BYTES("abc"));
        input(k, 5, 0, BYTES("def"));
        assert_int_equal(c->input.len, 6);
        input(k, 5, 4, BYTES("g"));
        assert_int_equal(c->input.len, 3);
        assert_memory_equal(c->input.data, "efg", 3);
        input(k, 5, 3, BYTES(""));
        assert_int_equal(c->input.len, 0);
        assert_false(c->bad);
        input(k, 5, 1, BYTES("x")); /* there is nothing that could be done with */
        assert_true(c->bad);
        assert_int_equal(k->spoiled, 1);
        input(k, 6, 0, BYTES("x")); /* nobody */
}

static void test_output(void **state) {
        struct kept *k = *state;
        struct kept_connection *c = connect_one(k, 5);

        output(k, 5, BYTES("\x02\0\0\0ab\x01\0\0\0c"));
        output(k, 5, BYTES("\x03\0\0\0def"));
        sent(k, 5, 2);
        assert_int_equal(c->output_skip, 2);
        assert_int_equal(c->output.len, 18);
        sent(k, 5, 8);
        assert_int_equal(c->output_skip, 2);
        assert_int_equal(c->output.len, 12);
        assert_memory_equal(c->output.data, "\x01\0\0\0c", 5);
        kept_connection_sent(k, c, 7); /* less than is known */
        assert_int_equal(c->sent, 8);
        kept_connection_sent(k, c, 18);
        assert_int_equal(c->output.len, 0);
        assert_int_equal(c->output_skip, 0);
        assert_false(c->bad);
        sent(k, 5, 19); /* more than was queued */
        assert_true(c->bad);
}

static void test_replaced_and_gone(void **state) {
        Spark__State__V1__ConnectionGone gone = SPARK__STATE__V1__CONNECTION_GONE__INIT;
        struct kept *k = *state;

        (void)connect_one(k, 5);
        output(k, 5, BYTES("\x01\0\0\0c"));
        (void)connect_one(k, 5); /* as it stands: nothing is to be sent */
        assert_int_equal(kept_find_connection(k, 5)->output.len, 0);
        gone.id = 5;
        APPLY(k, CONNECTION_GONE, connection_gone, &gone);
        assert_null(kept_find_connection(k, 5));
        assert_true(list_empty(&k->connections));
        assert_int_equal(k->last_connection, 5); /* never used again */
        assert_null(connect_one(k, 0));
}

static void test_tokens(void **state) {
        Spark__State__V1__RequestQueued queued = SPARK__STATE__V1__REQUEST_QUEUED__INIT;
        uint32_t prompt[] = { 1, 2, 3 }, ids[] = { 10, 11, 12 };
        struct kept *k = *state;
        struct kept_request *r = ask(k, KEY(3, 9), 5, 4);

        accept_it(k, r->key, prompt, 3);
        assert_int_equal(r->seed, 7);
        tokens(k, r->key, ids, 2, 0, "ab", false);
        assert_true(pending_is_empty(&r->pending));
        tokens(k, r->key, ids + 2, 1, 2, "c", true);
        assert_int_equal(r->n_prompt, 3);
        assert_int_equal(r->n_generated, 3);
        assert_int_equal(r->tokens.len, 6 * sizeof(uint32_t));
        assert_int_equal(((uint32_t *)(void *)r->tokens.data)[5], 12);
        assert_int_equal(r->credit, 1);
        assert_int_equal(r->pending.ids.len, sizeof(uint32_t));
        queued.key = r->key;
        APPLY(k, REQUEST_QUEUED, request_queued, &queued);
        assert_true(pending_is_empty(&r->pending));
        assert_false(r->bad);
        tokens(k, r->key, ids, 2, 3, "ab", false); /* more than it may send */
        assert_true(r->bad);
}

static void test_tokens_before_accepted(void **state) {
        uint32_t id = 1;
        struct kept *k = *state;
        struct kept_request *r = ask(k, KEY(1, 0), 5, 4);

        tokens(k, r->key, &id, 1, 0, "a", false);
        assert_true(r->bad);
}

static void test_credit(void **state) {
        Spark__State__V1__RequestCredit credit = SPARK__STATE__V1__REQUEST_CREDIT__INIT;
        struct kept *k = *state;
        struct kept_request *r = ask(k, KEY(1, 0), 5, 4), *all = ask(k, KEY(2, 1), 5, KEPT_CREDIT_ALL);
        uint32_t ids[] = { 1, 2 };

        credit.key = r->key;
        credit.tokens = 10;
        APPLY(k, REQUEST_CREDIT, request_credit, &credit);
        assert_int_equal(r->credit, 14);
        credit.tokens = UINT64_MAX;
        APPLY(k, REQUEST_CREDIT, request_credit, &credit);
        assert_true(r->credit == KEPT_CREDIT_ALL - 1);
        accept_it(k, all->key, NULL, 0);
        tokens(k, all->key, ids, 2, 0, "ab", false);
        assert_true(all->credit == KEPT_CREDIT_ALL);
}

static void test_pipe(void **state) {
        Spark__State__V1__RequestSent written = SPARK__STATE__V1__REQUEST_SENT__INIT;
        uint32_t ids[] = { 1, 2 };
        struct kept *k = *state;
        struct kept_request *r = ask(k, KEY(1, 0), 0, 8);

        accept_it(k, r->key, NULL, 0);
        tokens(k, r->key, ids, 2, 0, "Hello", true);
        tokens(k, r->key, ids, 1, 2, " you", true);
        assert_int_equal(r->text.len, 9);
        written.key = r->key;
        written.sent = 6;
        APPLY(k, REQUEST_SENT, request_sent, &written);
        assert_int_equal(r->text.len, 3);
        assert_memory_equal(r->text.data, "you", 3);
        kept_request_sent(k, r, 9);
        assert_int_equal(r->text.len, 0);
        kept_request_sent(k, r, 10);
        assert_true(r->bad);
}

/* What was being asked about is asked about again, unless it was granted meanwhile. */
static void test_rights(void **state) {
        Spark__State__V1__RequestGranted granted = SPARK__STATE__V1__REQUEST_GRANTED__INIT;
        Spark__State__V1__Connection connection = SPARK__STATE__V1__CONNECTION__INIT;
        Spark__State__V1__Request m = SPARK__STATE__V1__REQUEST__INIT;
        struct kept *k = *state;
        struct kept_request *r;

        connection.id = 5;
        connection.start_time = 4711;
        connection.rights = 3;
        APPLY(k, CONNECTION, connection, &connection);
        assert_int_equal(kept_find_connection(k, 5)->start_time, 4711);
        assert_int_equal(kept_find_connection(k, 5)->rights, 3);
        m.key = KEY(1, 0);
        m.connection = 5;
        m.asking = 1;
        m.granted = 3;
        APPLY(k, REQUEST, request, &m);
        r = kept_find_request(k, m.key);
        assert_true(r->asking);
        assert_int_equal(r->granted, 3);
        granted.key = KEY(2, 0); /* there is none */
        granted.granted = 9;
        APPLY(k, REQUEST_GRANTED, request_granted, &granted);
        assert_true(r->asking);
        granted.key = m.key;
        APPLY(k, REQUEST_GRANTED, request_granted, &granted);
        assert_false(r->asking);
        assert_int_equal(r->granted, 9);
        assert_int_equal(k->spoiled, 0);
}

static void test_order(void **state) {
        struct kept *k = *state;
        struct list *pos, *tmp;
        uint64_t last = 0;

        (void)ask(k, KEY(9, 1), 5, 1);
        (void)ask(k, KEY(2, 7), 5, 1); /* its slot is higher, it came earlier */
        (void)ask(k, KEY(4, 0), 5, 1);
        assert_int_equal(kept_sort(k), 0);
        LIST_FOREACH(pos, tmp, &k->requests) {
                const struct kept_request *r = LIST_ENTRY(pos, struct kept_request, link);

                assert_true(r->key > last);
                last = r->key;
        }
        assert_true(last == KEY(9, 1));
        assert_int_equal(k->last_request, 9);
}

#define KEPT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                KEPT_TEST(test_input),   KEPT_TEST(test_output), KEPT_TEST(test_replaced_and_gone),
                KEPT_TEST(test_tokens),  KEPT_TEST(test_tokens_before_accepted),
                KEPT_TEST(test_credit),  KEPT_TEST(test_pipe),   KEPT_TEST(test_order),
                KEPT_TEST(test_rights),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
