/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "client/spark.h"
#include "fake-client.h"

#define GENERATE SPARK__V1__CLIENT_FRAME__BODY_GENERATE

static uint64_t generate(struct spark *s, const char *prompt, spark_event_fn fn, void *userdata) {
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        uint64_t id = 0;

        g.prompt = prompt;
        g.prompt_size = strlen(prompt);
        assert_int_equal(spark_generate(s, &g, fn, userdata, &id), 0);
        assert_true(id != 0);
        return id;
}

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

static void script_silent(struct fake *f) {
        fake_greet(f);
        while (!f->fault[0]) {
                Spark__V1__ClientFrame *m = fake_receive(f);

                if (!m)
                        break;
                (void)message_free(&m->base);
        }
}

static void test_bad_arguments(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_silent, NULL);
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

struct seen {
        struct spark *s;
        char text[4096];
        size_t n_text;
        uint32_t n_tokens, n_progress, n_done, n_error;
        int code, cancel_at;
        uint64_t id;
        uint64_t total;
};

static int on_event(struct spark *s, const struct spark_event *e, void *userdata) {
        struct seen *seen = userdata;

        seen->id = e->id;
        switch (e->type) {
        case SPARK_EVENT_TOKEN:
                assert_int_equal(e->tokens->index, seen->n_tokens);
                seen->n_tokens += (uint32_t)e->tokens->n;
                if (seen->n_text + e->tokens->text_size < sizeof(seen->text))
                        memcpy(seen->text + seen->n_text, e->tokens->text, e->tokens->text_size + 1);
                seen->n_text += e->tokens->text_size;
                return seen->cancel_at && seen->n_tokens >= (uint32_t)seen->cancel_at;
        case SPARK_EVENT_PROGRESS:
                seen->n_progress++;
                seen->total = e->progress->total;
                return 0;
        case SPARK_EVENT_DONE:
                assert_int_equal(e->done->completion_tokens, seen->n_tokens);
                seen->n_done++;
                return 0;
        default:
                seen->n_error++;
                seen->code = e->error->code;
                return 0;
        }
}

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
        struct seen a = { 0 };
        struct spark_result *b = NULL;
        uint64_t id_a = generate(s, "a", on_event, &a), id_b = generate(s, "b", NULL, NULL);

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
        struct seen seen = { 0 };
        uint64_t id = generate(s, "x", on_event, &seen);

        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        assert_string_equal(seen.text, "hi");
        client_finish(&f, s);
}

/* Through the event loop's door, without spark_wait(). */
static void test_event_loop(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_interleaved, NULL);
        struct seen a = { 0 }, b = { 0 };

        (void)generate(s, "a", on_event, &a);
        (void)generate(s, "b", on_event, &b);
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
                struct seen seen = { 0 };
                struct spark_result *result = NULL;
                unsigned total = totals[i];
                struct fake f;
                struct spark *s = client_start(&f, script_credit, &total);
                uint64_t id;

                g.credit = windows[i];
                assert_int_equal(spark_generate(s, &g, i % 2 ? on_event : NULL, &seen, &id), 0);
                assert_int_equal(spark_wait(s, id, 20000, &result), 0);
                assert_int_equal(i % 2 ? seen.n_tokens : result->tokens->n, total);
                (void)spark_result_free(result);
                client_finish(&f, s);
        }
}

static void test_manual_credit(void **state) {
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct seen seen = { 0 };
        unsigned total = 10;
        struct fake f;
        struct spark *s = client_start(&f, script_credit, &total);
        uint64_t id;

        g.credit = 4;
        g.flags = SPARK_MANUAL_CREDIT;
        assert_int_equal(spark_generate(s, &g, on_event, &seen, &id), 0);
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
        uint64_t id = generate(s, "x", NULL, NULL);

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
        struct seen seen = { .cancel_at = 2 };
        uint64_t id = generate(s, "x", on_event, &seen);

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
        struct seen seen = { 0 };
        uint64_t id = generate(s, "x", on_event, &seen), next;

        assert_int_equal(spark_forget(s, id), 0);
        next = generate(s, "y", NULL, NULL);
        assert_int_equal(spark_wait(s, id, 0, NULL), -ENOENT);
        assert_int_equal(spark_wait(s, next, 10000, NULL), 0);
        assert_int_equal(seen.n_tokens + seen.n_error + seen.n_done, 0);
        assert_int_equal(spark_forget(s, id), 0);
        client_finish(&f, s);
}

/* ---- results ---- */

static void script_results(struct fake *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__TokenizeResult ids = SPARK__V1__TOKENIZE_RESULT__INIT;
        Spark__V1__DetokenizeResult text = SPARK__V1__DETOKENIZE_RESULT__INIT;
        Spark__V1__ScoreResult score = SPARK__V1__SCORE_RESULT__INIT;
        Spark__V1__StatusResult status = SPARK__V1__STATUS_RESULT__INIT;
        Spark__V1__ModelInfo model = SPARK__V1__MODEL_INFO__INIT, *models[] = { &model, &model };
        Spark__V1__RequestInfo info = SPARK__V1__REQUEST_INFO__INIT, *infos[] = { &info };
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Progress progress = SPARK__V1__PROGRESS__INIT;
        uint64_t id;

        fake_greet(f);
        ids.ids = (uint32_t[]){ 3, 1, 4 };
        ids.n_ids = 3;
        done.result_case = SPARK__V1__DONE__RESULT_TOKENIZE;
        done.tokenize = &ids;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE), &done);

        text.text = (ProtobufCBinaryData){ .data = (uint8_t *)"a\0\xff", .len = 3 };
        done.result_case = SPARK__V1__DONE__RESULT_DETOKENIZE;
        done.detokenize = &text;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_DETOKENIZE), &done);

        id = fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_SCORE);
        progress.stage = (char *)"score";
        progress.done = 1;
        progress.total = 1ull << 40;
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_PROGRESS;
        frame.progress = &progress;
        fake_send(f, &frame);
        score.tokens = 10;
        score.nll = 1.25;
        score.perplexity = 3.49;
        done.result_case = SPARK__V1__DONE__RESULT_SCORE;
        done.score = &score;
        fake_send_done_message(f, id, &done);

        model.name = (char *)"m";
        model.context = 2048;
        info.pid = 77;
        status.version = (char *)"9";
        status.models = models;
        status.n_models = 2;
        status.requests = infos;
        status.n_requests = 1;
        done.result_case = SPARK__V1__DONE__RESULT_STATUS;
        done.status = &status;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_STATUS), &done);
}

static void test_results(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_results, NULL);
        struct spark_tokenize_request t = SPARK_TOKENIZE_INIT;
        struct spark_detokenize_request d = SPARK_DETOKENIZE_INIT;
        struct spark_score_request sc = SPARK_SCORE_INIT;
        struct spark_result *result = NULL;
        struct seen seen = { 0 };
        uint64_t id;

        t.text = "abc";
        t.text_size = 3;
        assert_int_equal(spark_tokenize(s, &t, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_int_equal(result->done->n_ids, 3);
        assert_int_equal(result->done->ids[2], 4);
        result = spark_result_free(result);

        d.ids = (uint32_t[]){ 1 };
        d.n_ids = 1;
        assert_int_equal(spark_detokenize(s, &d, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_int_equal(result->done->text_size, 3);
        assert_memory_equal(result->done->text, "a\0\xff", 4);
        result = spark_result_free(result);

        sc.text = "abc";
        sc.text_size = 3;
        assert_int_equal(spark_score(s, &sc, on_event, &seen, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        assert_int_equal(seen.n_progress, 1);
        assert_true(seen.total == 1ull << 40);

        assert_int_equal(spark_status(s, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_non_null(result->done->status);
        assert_string_equal(result->done->status->version, "9");
        assert_string_equal(result->done->status->state, "");
        assert_int_equal(result->done->status->n_models, 2);
        assert_string_equal(result->done->status->models[1]->name, "m");
        assert_int_equal(result->done->status->models[1]->context, 2048);
        assert_int_equal(result->done->status->requests[0]->pid, 77);
        (void)spark_result_free(result);
        client_finish(&f, s);
}

/* ---- large inputs and descriptors ---- */

static void script_large(struct fake *f) {
        const size_t size = *(const size_t *)f->data;
        Spark__V1__ClientFrame *m;
        uint64_t fd_size = 0;
        int fd;

        fake_greet(f);
        m = fake_expect(f, GENERATE);
        if (!m)
                return;
        fd = channel_take_fd(&f->c);
        if (size <= 1u << 20) {
                if (fd >= 0 || m->generate->input_fd || m->generate->prompt.len != size)
                        fake_fault(f, "a small prompt belongs into the frame");
        } else {
                if (!m->generate->input_fd || m->generate->prompt.len != 0 || fd_memfd_check_sealed(fd, &fd_size) < 0)
                        fake_fault(f, "no sealed memfd");
                if (fd_size != size)
                        fake_fault(f, "memfd of %llu bytes", (unsigned long long)fd_size);
        }
        (void)fd_close(fd);
        fake_send_done(f, m->id, 0);
        (void)message_free(&m->base);

        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_LOAD);
        fd = channel_take_fd(&f->c);
        if (m && (!m->load->input_fd || fd < 0 || !m->load->dry_run))
                fake_fault(f, "load without its descriptor");
        (void)fd_close(fd);
        if (m)
                fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__NO_MEMORY, "Too large.", 12ull << 32, 1ull << 32, 0);
        (void)message_free(&m->base);
}

/* A dry run of a shape, a load with progress, and a load for which there is no memory, whose sums come along. */
static void script_loads(struct fake *f) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__LoadResult load = SPARK__V1__LOAD_RESULT__INIT;
        Spark__V1__Progress progress = SPARK__V1__PROGRESS__INIT;
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ClientFrame *m;

        fake_greet(f);
        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_LOAD);
        if (m && (strcmp(m->load->shape, "llama-70b") != 0 || strcmp(m->load->format, "q4_k") != 0 || m->load->context != 77 ||
                  !m->load->dry_run))
                fake_fault(f, "shape, format or context is missing");
        load.model = (char *)"llama-70b";
        load.fits = true;
        load.left_bytes = 3ll << 40;
        load.kv_format = (char *)"q8_0";
        load.context_max = 131072;
        done.result_case = SPARK__V1__DONE__RESULT_LOAD;
        done.load = &load;
        if (m)
                fake_send_done_message(f, m->id, &done);
        (void)message_free(&m->base);

        frame.id = fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_LOAD);
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_PROGRESS;
        frame.progress = &progress;
        progress.stage = (char *)"load";
        progress.done = 1ull << 33;
        progress.total = 1ull << 40;
        progress.bytes_per_second = 3ull << 33;
        progress.eta_ms = 41;
        fake_send(f, &frame);
        error.code = SPARK__V1__ERROR_CODE__NO_MEMORY;
        error.message = (char *)"Too large.";
        error.load = &load;
        load.fits = false;
        load.left_bytes = -(5ll << 32);
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = &error;
        fake_send(f, &frame);

        frame.id = fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_LOAD);
        fake_send(f, &frame);
}

struct seen_load {
        uint64_t per_second, eta_ms;
        int64_t left;
        int code, with_done;
};

static int on_load(struct spark *s, const struct spark_event *e, void *userdata) {
        struct seen_load *seen = userdata;

        if (e->type == SPARK_EVENT_PROGRESS) {
                seen->per_second = e->progress->bytes_per_second;
                seen->eta_ms = e->progress->eta_ms;
        } else if (e->type == SPARK_EVENT_ERROR) {
                seen->code = e->error->code;
                seen->left = e->load ? e->load->left_bytes : 0;
        } else {
                seen->with_done++;
        }
        return 0;
}

static void test_loads(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_loads, NULL);
        struct spark_load_request l = SPARK_LOAD_INIT;
        struct spark_result *result = NULL;
        struct seen_load seen = { 0 };
        uint64_t id;

        l.shape = "llama-70b";
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l.format = "q4_k";
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL); /* a shape cannot be loaded */
        l.dry_run = 1;
        l.path = "/x";
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l.path = NULL;
        l.context = 77;
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_null(result->load);
        assert_true(result->done->load->fits && result->done->load->left_bytes == 3ll << 40);
        assert_true(result->done->load->context_max == 131072);
        assert_string_equal(result->done->load->kv_format, "q8_0");
        result = spark_result_free(result);

        l = (struct spark_load_request)SPARK_LOAD_INIT;
        l.model = "m";
        l.context = 1;
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), -EINVAL);
        l.context = 0;
        assert_int_equal(spark_load(s, &l, on_load, &seen, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), SPARK_NO_MEMORY);
        assert_true(seen.per_second == 3ull << 33 && seen.eta_ms == 41);
        assert_true(seen.code == SPARK_NO_MEMORY && seen.left == -(5ll << 32) && seen.with_done == 0);
        assert_int_equal(spark_load(s, &l, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), SPARK_NO_MEMORY);
        assert_true(result->load && !result->load->fits && !result->done);
        (void)spark_result_free(result);
        client_finish(&f, s);
}

static void test_large_input(void **state) {
        size_t sizes[] = { 1u << 20, (1u << 20) + 1, 5u << 20 };

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                struct fake f;
                struct spark *s = client_start(&f, script_large, &sizes[i]);
                struct spark_generate_request g = SPARK_GENERATE_INIT;
                struct spark_load_request l = SPARK_LOAD_INIT;
                struct spark_result *result = NULL;
                _cleanup_free_ char *prompt = malloc(sizes[i]);
                _cleanup_fd_ int fd = fd_memfd_new("model", 10);
                uint64_t id;

                assert_non_null(prompt);
                memset(prompt, 'a', sizes[i]);
                g.prompt = prompt;
                g.prompt_size = sizes[i];
                assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
                assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
                l.use_fd = 1;
                l.fd = fd;
                l.dry_run = 1;
                assert_int_equal(spark_load(s, &l, NULL, NULL, &id), 0);
                assert_int_equal(spark_wait(s, id, 10000, &result), SPARK_NO_MEMORY);
                assert_true(result->error->have == 12ull << 32 && result->error->max == 1ull << 32);
                (void)spark_result_free(result);
                client_finish(&f, s);
        }
}

/* ---- a service that misbehaves ---- */

enum wrong {
        WRONG_ID,
        WRONG_SECOND_END,
        WRONG_SECOND_HELLO,
        WRONG_NO_HELLO,
        WRONG_TOKEN_ARRAYS,
        WRONG_EMPTY_TOKEN,
        WRONG_GARBAGE,
        WRONG_UTF8,
        WRONG_OVERSIZE,
        WRONG_ZERO_LENGTH,
        WRONG_FD,
        WRONG_CLOSE,
        WRONG_CLOSE_WITHIN_FRAME,
        WRONG_CONNECTION_ERROR,
        N_WRONG,
};

static void wrong_arrays(struct fake *f, uint64_t id) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;

        t.n_ids = 2;
        t.ids = (uint32_t[]){ 1, 2 };
        t.top_n = 0x80000001u;
        t.n_top_ids = t.n_top_logprobs = 2;
        t.top_ids = t.ids;
        t.top_logprobs = (float[]){ 0, 0 };
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_TOKEN;
        frame.token = &t;
        fake_send(f, &frame);
}

static void script_wrong(struct fake *f) {
        const enum wrong wrong = *(const enum wrong *)f->data;
        _cleanup_fd_ int fd = fd_memfd_new("x", 1);
        uint64_t id;

        if (wrong == WRONG_NO_HELLO)
                (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        else
                fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "x");
        switch (wrong) {
        case WRONG_ID:
                fake_send_token(f, id + 1000, 0, "y");
                break;
        case WRONG_SECOND_END:
                fake_send_done(f, id, 1);
                fake_send_done(f, id, 1);
                break;
        case WRONG_SECOND_HELLO:
                fake_send_hello(f);
                break;
        case WRONG_TOKEN_ARRAYS:
                wrong_arrays(f, id);
                break;
        case WRONG_EMPTY_TOKEN:
                fake_send_tokens(f, id, NULL, 0, 1, "x");
                break;
        case WRONG_GARBAGE:
                fake_send_raw(f, "\x03\0\0\0\xff\xff\xff", 7);
                break;
        case WRONG_UTF8:
                fake_send_error(f, id, 1, "\xff", 0, 0, 0);
                break;
        case WRONG_OVERSIZE:
                fake_send_raw(f, "\xff\xff\xff\xff", 4);
                break;
        case WRONG_ZERO_LENGTH:
                fake_send_raw(f, "\0\0\0\0", 4);
                break;
        case WRONG_FD:
                (void)channel_queue(&f->c, "\x08\x01", 2, &fd, 1);
                fake_flush(f);
                break;
        case WRONG_CLOSE_WITHIN_FRAME:
                fake_send_raw(f, "\x03\0\0\0a", 5);
                break;
        case WRONG_CONNECTION_ERROR:
                fake_send_error(f, 0, SPARK__V1__ERROR_CODE__STOPPING, "Going down.", 0, 0, 0);
                break;
        default:
                break;
        }
}

static void test_wrong(void **state) {
        for (enum wrong w = 0; w < N_WRONG; w++) {
                struct spark_result *result = NULL;
                struct spark_error error;
                struct seen seen = { 0 };
                struct fake f;
                struct spark *s = client_start(&f, script_wrong, &w);
                uint64_t a = generate(s, "x", NULL, NULL), b = generate(s, "y", on_event, &seen);
                int expected = w == WRONG_CLOSE || w == WRONG_CLOSE_WITHIN_FRAME ? SPARK_DISCONNECTED
                             : w == WRONG_CONNECTION_ERROR                        ? SPARK_STOPPING
                                                                                  : SPARK_PROTOCOL;

                assert_int_equal(spark_wait(s, b, 10000, NULL), expected);
                assert_int_equal(seen.n_error, 1);
                assert_int_equal(seen.code, expected);
                assert_int_equal(spark_failed(s, &error), 1);
                assert_int_equal(error.code, expected);
                assert_true(error.message[0] != 0);
                assert_int_equal(spark_wait(s, a, 10000, &result), w == WRONG_SECOND_END ? 0 : expected);
                if (w != WRONG_NO_HELLO)
                        assert_string_equal(result->tokens->text, "x");
                (void)spark_result_free(result);
                assert_int_equal(spark_process(s), -ENOTCONN);
                assert_int_equal(spark_models(s, NULL, NULL, NULL), -ENOTCONN);
                assert_int_equal(spark_wait_hello(s, 0), expected == SPARK_DISCONNECTED ? -ENOTCONN : expected);
                client_finish(&f, s);
        }
}

/* The daemon says why it hangs up, while we are still sending: the reason must not be lost. */
static void script_refuse(struct fake *f) {
        fake_send_error(f, 0, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "Too many connections.", 0, 0, 0);
}

static void test_refused(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_refuse, NULL);
        struct spark_error error;

        (void)usleep(50000);
        (void)spark_models(s, NULL, NULL, NULL);
        assert_int_equal(spark_wait_hello(s, 10000), SPARK_QUOTA_EXCEEDED);
        assert_int_equal(spark_failed(s, &error), 1);
        assert_string_equal(error.message, "Too many connections.");
        client_finish(&f, s);
}

/* A code that can't be one is still an error, and never looks like one of ours. */
static void script_strange_codes(struct fake *f) {
        fake_greet(f);
        fake_send_error(f, fake_expect_id(f, GENERATE), 0, "No code.", 0, 0, 0);
        fake_send_error(f, fake_expect_id(f, GENERATE), -5, "A negative code.", 0, 0, 0);
        fake_send_error(f, fake_expect_id(f, GENERATE), 77, "A newer code.", 0, 0, 0);
        fake_send_error(f, 0, -5, "", 0, 0, 0);
}

static void test_strange_codes(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_strange_codes, NULL);

        assert_int_equal(spark_wait(s, generate(s, "x", NULL, NULL), 10000, NULL), SPARK_INTERNAL);
        assert_int_equal(spark_wait(s, generate(s, "x", NULL, NULL), 10000, NULL), SPARK_INTERNAL);
        assert_int_equal(spark_wait(s, generate(s, "x", NULL, NULL), 10000, NULL), 77);
        while (!spark_failed(s, NULL)) {
                struct pollfd p = { .fd = spark_fd(s), .events = POLLIN };

                assert_int_equal(poll(&p, 1, 10000), 1);
                (void)spark_process(s);
        }
        assert_int_equal(spark_wait_hello(s, 0), -ENOTCONN);
        client_finish(&f, s);
}

/* ---- threads, signals, reentrancy ---- */

static int on_event_reenter(struct spark *s, const struct spark_event *e, void *userdata) {
        struct seen *seen = userdata;

        assert_int_equal(spark_process(s), -EDEADLK);
        assert_int_equal(spark_wait(s, e->id, -1, NULL), -EDEADLK);
        assert_int_equal(spark_wait_hello(s, -1), -EDEADLK);
        if (e->type == SPARK_EVENT_DONE) {
                /* the last reference, from within */
                seen->n_done++;
                seen->s = spark_unref(seen->s);
        }
        return 0;
}

static void script_one(struct fake *f) {
        uint64_t id;

        fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "x");
        fake_send_done(f, id, 1);
}

static void test_reenter(void **state) {
        struct fake f;
        struct seen seen = { 0 };

        seen.s = client_start(&f, script_one, NULL);
        (void)generate(seen.s, "x", on_event_reenter, &seen);
        while (seen.s) {
                struct pollfd p = { .fd = spark_fd(seen.s), .events = POLLIN };

                assert_int_equal(poll(&p, 1, 10000), 1);
                (void)spark_process(seen.s);
        }
        assert_int_equal(seen.n_done, 1);
        fake_stop(&f);
}

/* Answers requests in any number, each with as many tokens as its prompt is long. */
static void script_echo(struct fake *f) {
        fake_greet(f);
        while (!f->fault[0]) {
                Spark__V1__ClientFrame *m = fake_receive(f);

                if (!m)
                        return;
                if (m->body_case == GENERATE) {
                        for (size_t i = 0; i < m->generate->prompt.len; i++)
                                fake_send_token(f, m->id, (uint32_t)i, "e");
                        fake_send_done(f, m->id, (uint32_t)m->generate->prompt.len);
                }
                (void)message_free(&m->base);
        }
}

enum { THREADS = 6, PER_THREAD = 40 };

static void *many_requests(void *p) {
        struct spark *s = p;
        char prompt[PER_THREAD + 1] = { 0 };

        for (size_t i = 0; i < PER_THREAD; i++) {
                struct spark_generate_request g = SPARK_GENERATE_INIT;
                struct spark_result *result = NULL;
                uint64_t id;
                bool good;

                prompt[i] = 'p';
                g.prompt = prompt;
                g.prompt_size = i + 1;
                if (spark_generate(s, &g, NULL, NULL, &id) != 0 || spark_wait(s, id, 20000, &result) != 0)
                        return (void *)"failed";
                good = result->tokens->n == i + 1 && result->tokens->text_size == i + 1;
                (void)spark_result_free(result);
                if (!good)
                        return (void *)"wrong length";
        }
        return NULL;
}

static void test_threads(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_echo, NULL);
        pthread_t threads[THREADS];

        for (size_t i = 0; i < THREADS; i++)
                assert_int_equal(pthread_create(&threads[i], NULL, many_requests, s), 0);
        for (size_t i = 0; i < THREADS; i++) {
                void *fault = NULL;

                assert_int_equal(pthread_join(threads[i], &fault), 0);
                if (fault)
                        fail_msg("thread: %s", (const char *)fault);
        }
        client_finish(&f, s);
}

static void on_alarm(int sig) {
}

static void test_interrupted(void **state) {
        struct sigaction sa = { .sa_handler = on_alarm };
        const struct itimerval timer = { .it_value = { .tv_usec = 50000 } };
        struct fake f;
        struct spark *s;
        sigset_t alarm_only;
        uint64_t id;

        /* blocked while the service's thread is born, so that only this one is interrupted */
        (void)sigemptyset(&alarm_only);
        (void)sigaddset(&alarm_only, SIGALRM);
        assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
        assert_int_equal(pthread_sigmask(SIG_BLOCK, &alarm_only, NULL), 0);
        s = client_start(&f, script_silent, NULL);
        assert_int_equal(pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL), 0);
        id = generate(s, "x", NULL, NULL);
        assert_int_equal(spark_wait_hello(s, 10000), 0);
        assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), -EINTR);
        assert_int_equal(spark_wait(s, id, 0, NULL), -ETIMEDOUT);
        client_finish(&f, s);
}

/* Closing with requests open frees them; nobody is called. */
static void test_close_with_open_requests(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_silent, NULL);
        struct seen seen = { 0 };

        for (int i = 0; i < 100; i++)
                (void)generate(s, "x", i % 2 ? on_event : NULL, &seen);
        client_finish(&f, s);
        assert_int_equal(seen.n_error, 0);
}

/* A service that reads nothing: requests are refused at the limit, and the queue's rest is kept for cancellations. */
static void script_deaf(struct fake *f) {
        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        while (!atomic_load(&f->stop))
                (void)usleep(1000);
}

static void test_deaf_service(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_deaf, NULL);
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        _cleanup_free_ char *prompt = calloc(1, 1u << 20);
        uint64_t id = 0;
        int r = 0;

        g.prompt = prompt;
        g.prompt_size = 1u << 20;
        for (unsigned i = 0; i < 100 && r == 0; i++)
                r = spark_generate(s, &g, NULL, NULL, &id);
        assert_int_equal(r, -ENOBUFS);
        assert_int_equal(spark_cancel(s, id), 0);
        assert_int_equal(spark_wait(s, id, 20, NULL), -ETIMEDOUT);
        atomic_store(&f.stop, true);
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
                cmocka_unit_test(test_results),
                cmocka_unit_test(test_loads),
                cmocka_unit_test(test_large_input),
                cmocka_unit_test(test_wrong),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_strange_codes),
                cmocka_unit_test(test_reenter),
                cmocka_unit_test(test_threads),
                cmocka_unit_test(test_interrupted),
                cmocka_unit_test(test_close_with_open_requests),
                cmocka_unit_test(test_deaf_service),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
