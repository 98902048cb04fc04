/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: what goes out of a request, and the streams that come back. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

#define GENERATE SPARK__V1__CLIENT_FRAME__BODY_GENERATE

/* ---- what goes out ---- */

static void script_fields(struct fake *f) {
        Spark__V1__ClientFrame *m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);

        if (m && (m->id != 0 || m->hello->protocol_version != 1 || strcmp(m->hello->software, "test 1.0") != 0))
                fake_fault(f, "hello");
        (void)message_free(&m->base);
        fake_send_hello(f);

        m = fake_expect(f, GENERATE);
        if (m) {
                const Spark__V1__Generate *g = m->generate;
                const Spark__V1__Sampling *p = g->sampling;

                if (strcmp(g->model, "m") != 0 || g->prompt.len != 3 || memcmp(g->prompt.data, "a\0b", 3) != 0 ||
                    g->input_fd || !g->special || !g->no_bos || !g->raw_bytes || g->credit != 9)
                        fake_fault(f, "generate");
                if (!p || !p->has_temperature || p->temperature != 0 || p->has_top_k || p->has_top_p || !p->has_seed ||
                    p->seed != 5 || !p->has_max_tokens || p->max_tokens != 3 || p->logprobs != 4 || p->n_stop != 2 ||
                    strcmp(p->stop[1], "two") != 0 || p->n_logit_bias != 1 || p->logit_bias[0]->token != 8 ||
                    p->logit_bias[0]->bias != -1.5f || !p->ignore_eos)
                        fake_fault(f, "sampling");
                fake_send_done(f, m->id, 0);
        }
        (void)message_free(&m->base);

        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_CHAT);
        if (m) {
                const Spark__V1__Chat *c = m->chat;

                if (c->n_messages != 2 || strcmp(c->messages[0]->role, "system") != 0 ||
                    strcmp(c->messages[1]->content, "hi") != 0 || c->messages[0]->content[0] != 0 || c->sampling ||
                    strcmp(c->tools_json, "[]") != 0 || strcmp(c->messages[0]->content_json, "null") != 0 ||
                    strcmp(c->messages[1]->reasoning_content, "hm") != 0 || c->messages_json[0])
                        fake_fault(f, "chat");
                fake_send_done(f, m->id, 0);
        }
        (void)message_free(&m->base);

        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_CHAT);
        if (m) {
                if (m->chat->n_messages != 0 || strcmp(m->chat->messages_json, "[{}]") != 0 ||
                    strcmp(m->chat->template_args_json, "{\"a\":1}") != 0)
                        fake_fault(f, "chat in JSON");
                fake_send_done(f, m->id, 0);
        }
        (void)message_free(&m->base);
}

static void test_fields(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_fields, NULL);
        struct spark_sampling sampling = SPARK_SAMPLING_INIT;
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct spark_chat_message messages[] = { SPARK_CHAT_MESSAGE_INIT, SPARK_CHAT_MESSAGE_INIT };
        struct spark_chat_request c = SPARK_CHAT_INIT;
        const char *stop[] = { "one", "two" };
        const struct spark_logit_bias bias = { .token = 8, .bias = -1.5f };
        struct spark_result *result = NULL;
        uint64_t id;

        assert_int_equal(spark_wait_hello(s, 10000), 0);
        assert_string_equal(spark_server_software(s), "fake 1.0");
        sampling.set = SPARK_SET_TEMPERATURE | SPARK_SET_SEED | SPARK_SET_MAX_TOKENS;
        sampling.seed = 5;
        sampling.top_k = 1000; /* not in `set`: does not count */
        sampling.max_tokens = 3;
        sampling.logprobs = 4;
        sampling.stop = stop;
        sampling.n_stop = 2;
        sampling.logit_bias = &bias;
        sampling.n_logit_bias = 1;
        sampling.ignore_eos = 1;
        g.model = "m";
        g.prompt = "a\0b";
        g.prompt_size = 3;
        g.sampling = &sampling;
        g.special = g.no_bos = g.raw_bytes = 1;
        g.credit = 9;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_non_null(result->done);
        assert_null(result->error);
        assert_int_equal(result->tokens->n, 0);
        assert_string_equal(result->tokens->text, "");
        assert_int_equal(result->done->prompt_tokens, 7);
        assert_int_equal(result->done->cached_tokens, 2);
        assert_true(result->done->seed == 0xfedcba9876543210u);
        assert_int_equal(result->done->finish, SPARK_FINISH_STOP);
        assert_true(result->done->decode_ms == 2.5f);
        result = spark_result_free(result);
        assert_int_equal(spark_wait(s, id, 0, &result), -ENOENT);

        messages[0].role = "system";
        messages[1].role = "user";
        messages[1].content = "hi";
        messages[0].content_json = "null";
        messages[1].reasoning_content = "hm";
        c.messages = messages;
        c.n_messages = 2;
        c.tools_json = "[]";
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        c = (struct spark_chat_request)SPARK_CHAT_INIT;
        c.messages_json = "[{}]";
        c.template_args_json = "{\"a\":1}";
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        client_finish(&f, s);
}

static void test_bad_arguments(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, client_script_silent, NULL);
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct spark_chat_request c = SPARK_CHAT_INIT;
        struct spark_load_request l = SPARK_LOAD_INIT;
        struct spark_chat_message message = SPARK_CHAT_MESSAGE_INIT;
        struct spark_sampling sampling = SPARK_SAMPLING_INIT;
        struct {
                struct spark_generate_request known;
                uint64_t newer;
        } newer = { .known = SPARK_GENERATE_INIT };
        const char *stop[] = { NULL };
        _cleanup_free_ char *big = NULL;
        uint64_t id;

        g.size = 3;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), -EINVAL);
        g.size = sizeof(g);
        g.prompt_size = 1;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), -EINVAL);
        g.prompt = "a";
        g.n_prompt_tokens = 1;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), -EINVAL);
        g.prompt_tokens = &(uint32_t){ 1 }; /* both */
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), -EINVAL);
        g.n_prompt_tokens = 0;
        g.sampling = &sampling;
        sampling.stop = stop;
        sampling.n_stop = 1;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), -EINVAL);
        assert_int_equal(spark_generate(s, NULL, NULL, NULL, &id), -EINVAL);

        newer.known.size = sizeof(newer);
        assert_int_equal(spark_generate(s, &newer.known, NULL, NULL, &id), 0);
        newer.newer = 1;
        assert_int_equal(spark_generate(s, &newer.known, NULL, NULL, &id), -E2BIG);
        newer.known.size = offsetof(struct spark_generate_request, special); /* an older caller */
        assert_int_equal(spark_generate(s, &newer.known, NULL, NULL, &id), 0);

        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), -EINVAL);
        c.messages = &message;
        c.n_messages = 1;
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), -EINVAL); /* no role */
        message.role = "user";
        c.messages_json = "[]";
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), -EINVAL); /* messages twice */
        c.messages_json = NULL;
        message.size = offsetof(struct spark_chat_message, content_json);
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), 0); /* an older caller */
        message.size = sizeof(message);
        big = malloc(5u << 20);
        assert_non_null(big);
        memset(big, 'x', 5u << 20);
        big[(5u << 20) - 1] = 0;
        message.role = "user";
        message.content = big;
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), -EMSGSIZE);

        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l.path = "/x";
        l.use_fd = 1;
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l = (struct spark_load_request)SPARK_LOAD_INIT;
        l.use_fd = 1;
        l.fd = -1;
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l.fd = 9999;
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EBADF);
        assert_int_equal(spark_cancel(s, 0), -EINVAL);
        assert_int_equal(spark_cancel(s, 99), -EINVAL);
        assert_int_equal(spark_credit(s, 99, 1), -EINVAL);
        assert_int_equal(spark_forget(s, 99), -EINVAL);
        assert_int_equal(spark_wait(s, 99, 0, NULL), -ENOENT);
        client_finish(&f, s);
}

static void test_connect(void **state) {
        struct spark *s = NULL;
        char path[64], name[200];
        int fd = fd_memfd_new("x", 0);

        (void)snprintf(path, sizeof(path), "/tmp/test-libspark-%ld.sock", (long)getpid());
        assert_int_equal(spark_connect(&s, path, NULL), -ENOENT);
        memset(name, 'n', sizeof(name));
        name[199] = 0;
        assert_int_equal(spark_connect(&s, name, NULL), -ENAMETOOLONG);
        assert_int_equal(spark_connect(&s, "", NULL), -EINVAL);
        assert_int_equal(spark_connect_fd(&s, fd, name), -EINVAL); /* software too long */
        assert_true(fcntl(fd, F_GETFD) >= 0); /* still ours */
        assert_null(s);
        (void)fd_close(fd);
        assert_null(spark_unref(NULL));
        assert_null(spark_ref(NULL));
        assert_null(spark_result_free(NULL));
        assert_string_equal(spark_code_name(SPARK_CONTEXT_OVERFLOW), "CONTEXT_OVERFLOW");
        assert_string_equal(spark_code_name(SPARK_DISCONNECTED), "DISCONNECTED");
        assert_string_equal(spark_code_name(99), "UNKNOWN");
        assert_string_equal(spark_code_name(-1), "UNKNOWN");
}

/* ---- streams ---- */

/* Two requests whose frames come interleaved, sent in pieces that respect no border. */
static void script_interleaved(struct fake *f) {
        uint64_t a, b;

        fake_greet(f);
        a = fake_expect_id(f, GENERATE);
        b = fake_expect_id(f, GENERATE);
        for (uint32_t i = 0; i < 5; i++) {
                fake_send_token(f, a, i, "a");
                fake_send_tokens(f, b, (uint32_t[]){ 1, 2 }, 2, 2 * i, "b\xc3\xa4");
        }
        fake_send_done(f, b, 10);
        fake_send_done(f, a, 5);
}

static void test_interleaved(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_interleaved, NULL);
        struct client_seen a = { 0 };
        struct spark_result *b = NULL;
        uint64_t id_a = client_generate(s, "a", client_see, &a), id_b = client_generate(s, "b", NULL, NULL);

        assert_int_equal(spark_wait(s, id_a, 10000, NULL), 0);
        assert_string_equal(a.text, "aaaaa");
        assert_int_equal(a.n_done, 1);
        assert_int_equal(a.id, id_a);
        assert_int_equal(spark_wait(s, id_b, 10000, &b), 0);
        assert_string_equal(b->tokens->text, "b\xc3\xa4" "b\xc3\xa4" "b\xc3\xa4" "b\xc3\xa4" "b\xc3\xa4");
        assert_int_equal(b->tokens->n, 10);
        assert_int_equal(b->tokens->ids[9], 2);
        assert_null(b->tokens->logprobs);
        (void)spark_result_free(b);
        client_finish(&f, s);
}

static void script_bytewise(struct fake *f) {
        /* hello, then for request 1 a token "h", a token "i" and Done */
        static const uint8_t wire[] = { 6,    0,    0,    0,    0x12, 4, 0x08, 1, 0x1a, 0, 13, 0, 0, 0, 0x08,
                                        1,    0x1a, 9,    0x0a, 1,    5, 0x12, 2, 'h',  'i', 0x18, 0, 0, 0 };

        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        (void)fake_expect_id(f, GENERATE);
        for (size_t i = 0; i < 27; i++) {
                fake_send_raw(f, wire + i, 1);
                (void)usleep(500);
        }
        fake_send_done(f, 1, 1);
}

static void test_half_frames(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_bytewise, NULL);
        struct client_seen seen = { 0 };
        uint64_t id = client_generate(s, "x", client_see, &seen);

        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        assert_string_equal(seen.text, "hi");
        client_finish(&f, s);
}

/* Through the event loop's door, without spark_wait(). */
static void test_event_loop(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_interleaved, NULL);
        struct client_seen a = { 0 }, b = { 0 };

        (void)client_generate(s, "a", client_see, &a);
        (void)client_generate(s, "b", client_see, &b);
        for (unsigned turns = 0; a.n_done + b.n_done < 2; turns++) {
                struct pollfd p = { .fd = spark_fd(s), .events = (short)spark_events(s) };

                assert_true(turns < 1000);
                assert_int_equal(poll(&p, 1, 10000), 1);
                assert_true(spark_process(s) >= 0);
        }
        assert_string_equal(a.text, "aaaaa");
        assert_int_equal(b.n_tokens, 10);
        for (unsigned i = 0; spark_process(s) != -ENOTCONN; i++) {
                struct pollfd p = { .fd = spark_fd(s), .events = POLLIN };

                assert_true(i < 10);
                assert_int_equal(poll(&p, 1, 10000), 1); /* tells of the end */
        }
        assert_int_equal(spark_process(s), -ENOTCONN);
        client_finish(&f, s);
}

/* The service counts what it may send and stops when there is no credit left. */
static void script_credit(struct fake *f) {
        const unsigned total = *(const unsigned *)f->data;
        Spark__V1__ClientFrame *m;
        unsigned sent = 0, credit = 0;
        uint64_t id = 0;

        fake_greet(f);
        m = fake_expect(f, GENERATE);
        if (m) {
                credit = m->generate->credit ? m->generate->credit : 256;
                id = m->id;
                (void)message_free(&m->base);
        }
        while (sent < total && !f->fault[0]) {
                if (sent < credit) {
                        fake_send_token(f, id, sent++, "t");
                        continue;
                }
                m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_CREDIT);
                if (m && (m->id != id || m->credit->tokens == 0))
                        fake_fault(f, "credit of %u for %llu", m->credit->tokens, (unsigned long long)m->id);
                if (m) {
                        credit += m->credit->tokens;
                        (void)message_free(&m->base);
                }
                if (credit - sent > 300)
                        fake_fault(f, "more credit than was consumed");
        }
        fake_send_done(f, id, sent);
}

static void test_credit(void **state) {
        static const unsigned totals[] = { 1, 255, 256, 257, 5000 }, windows[] = { 0, 1, 2, 3, 300 };

        for (size_t i = 0; i < ARRAY_SIZE(totals); i++) {
                struct spark_generate_request g = SPARK_GENERATE_INIT;
                struct client_seen seen = { 0 };
                struct spark_result *result = NULL;
                unsigned total = totals[i];
                struct fake f;
                struct spark *s = client_start(&f, script_credit, &total);
                uint64_t id;

                g.credit = windows[i];
                assert_int_equal(spark_generate(s, &g, i % 2 ? client_see : NULL, &seen, &id), 0);
                assert_int_equal(spark_wait(s, id, 20000, &result), 0);
                assert_int_equal(i % 2 ? seen.n_tokens : result->tokens->n, total);
                (void)spark_result_free(result);
                client_finish(&f, s);
        }
}

static void test_manual_credit(void **state) {
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct client_seen seen = { 0 };
        unsigned total = 10;
        struct fake f;
        struct spark *s = client_start(&f, script_credit, &total);
        uint64_t id;

        g.credit = 4;
        g.flags = SPARK_MANUAL_CREDIT;
        assert_int_equal(spark_generate(s, &g, client_see, &seen, &id), 0);
        assert_int_equal(spark_wait(s, id, 300, NULL), -ETIMEDOUT);
        assert_int_equal(seen.n_tokens, 4); /* and no more, however long we wait */
        assert_int_equal(spark_credit(s, id, 6), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        assert_int_equal(seen.n_tokens, 10);
        assert_int_equal(spark_credit(s, id, 6), 0); /* has ended: harmless */
        client_finish(&f, s);
}

static void script_cancel(struct fake *f) {
        uint64_t id;

        fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "one");
        fake_send_token(f, id, 1, "two");
        if (fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_CANCEL) != id)
                fake_fault(f, "cancel of another request");
        fake_send_error(f, id, SPARK__V1__ERROR_CODE__CANCELLED, "Cancelled.", 0, 0, 0);
        if (fake_receive(f))
                fake_fault(f, "something after the end");
}

static void test_cancel(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_cancel, NULL);
        struct spark_result *result = NULL;
        uint64_t id = client_generate(s, "x", NULL, NULL);

        assert_int_equal(spark_cancel(s, id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), SPARK_CANCELLED);
        assert_null(result->done);
        assert_int_equal(result->error->code, SPARK_CANCELLED);
        assert_string_equal(result->error->message, "Cancelled.");
        assert_string_equal(result->tokens->text, "onetwo"); /* what came before */
        (void)spark_result_free(result);
        assert_int_equal(spark_cancel(s, id), 0);
        client_finish(&f, s);
}

static void test_cancel_from_callback(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_cancel, NULL);
        struct client_seen seen = { .cancel_at = 2 };
        uint64_t id = client_generate(s, "x", client_see, &seen);

        assert_int_equal(spark_wait(s, id, 10000, NULL), SPARK_CANCELLED);
        assert_int_equal(seen.n_error, 1);
        assert_int_equal(seen.n_tokens, 2);
        client_finish(&f, s);
}

static void script_forget(struct fake *f) {
        uint64_t id, next;

        fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_CANCEL);
        next = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "late");
        fake_send_error(f, id, SPARK__V1__ERROR_CODE__CANCELLED, "Cancelled.", 0, 0, 0);
        fake_send_done(f, next, 0);
}

static void test_forget(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_forget, NULL);
        struct client_seen seen = { 0 };
        uint64_t id = client_generate(s, "x", client_see, &seen), next;

        assert_int_equal(spark_forget(s, id), 0);
        next = client_generate(s, "y", NULL, NULL);
        assert_int_equal(spark_wait(s, id, 0, NULL), -ENOENT);
        assert_int_equal(spark_wait(s, next, 10000, NULL), 0);
        assert_int_equal(seen.n_tokens + seen.n_error + seen.n_done, 0);
        assert_int_equal(spark_forget(s, id), 0);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_fields),
                cmocka_unit_test(test_bad_arguments),
                cmocka_unit_test(test_connect),
                cmocka_unit_test(test_interleaved),
                cmocka_unit_test(test_half_frames),
                cmocka_unit_test(test_event_loop),
                cmocka_unit_test(test_credit),
                cmocka_unit_test(test_manual_credit),
                cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_cancel_from_callback),
                cmocka_unit_test(test_forget),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
