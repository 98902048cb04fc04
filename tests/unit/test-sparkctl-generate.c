/* SPDX-License-Identifier: Apache-2.0 */

/* sparkctl generate and chat: each prompt is answered as its text asks ("busy", "hang up", ...). */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <pty.h>

#include "sparkctl-fixture.h"

/* ---- the service ---- */

static void answer_logprobs(struct fake *f, uint64_t id) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;

        t.ids = (uint32_t[]){ 5, 6 };
        t.n_ids = 2;
        t.text = (ProtobufCBinaryData){ .data = (uint8_t *)"ab", .len = 2 };
        t.logprobs = (float[]){ -0.5f, -1.25f };
        t.n_logprobs = 2;
        t.top_n = 1;
        t.top_ids = (uint32_t[]){ 7, 8 };
        t.top_logprobs = (float[]){ -2, -3 };
        t.n_top_ids = t.n_top_logprobs = 2;
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_TOKEN;
        frame.token = &t;
        fake_send(f, &frame);
        fake_send_done(f, id, 2);
}

static void answer_slowly(struct fake *f, uint64_t id) {
        fake_send_token(f, id, 0, "first");
        if (fake_expect_id(f, BODY(CANCEL)) != id)
                fake_fault(f, "cancel of another request");
        fake_send_error(f, id, SPARK__V1__ERROR_CODE__CANCELLED, "Cancelled.", 0, 0, 0);
}

static const struct {
        const char *prompt;
        int code;
} refusals[] = {
        { "bad argument", 1 }, { "bad utf8", 2 }, { "too long", 3 }, { "no model", 4 }, { "no template", 5 },
        { "busy", 6 },         { "quota", 7 },    { "denied", 8 },   { "memory", 9 },   { "lost", 13 },
        { "stopping", 14 },    { "internal", 16 }, { "strange", 99 },
};

/* Answers as the prompt asks. False = hang up. */
static bool answer_prompt(struct fake *f, uint64_t id, const char *kind, const char *prompt, size_t n) {
        char text[300];

        for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
                if (strlen(refusals[i].prompt) == n && memcmp(prompt, refusals[i].prompt, n) == 0) {
                        fake_send_error(f, id, refusals[i].code, "A reason.", 300, 200,
                                        refusals[i].code == 6 ? 1500 : 0);
                        return true;
                }
        }
        if (n == 7 && memcmp(prompt, "hang up", n) == 0) {
                fake_send_token(f, id, 0, "par");
                return false;
        }
        if (n == 4 && memcmp(prompt, "slow", n) == 0) {
                answer_slowly(f, id);
        } else if (n == 8 && memcmp(prompt, "logprobs", n) == 0) {
                answer_logprobs(f, id);
        } else if (n == 5 && memcmp(prompt, "bytes", n) == 0) {
                fake_send_token(f, id, 0, "\xc3");
                fake_send_token(f, id, 1, "\xa4\xff\"\\\n\x01");
                fake_send_done(f, id, 2);
        } else {
                (void)snprintf(text, sizeof(text), "%s[%.*s]", kind, (int)MIN(n, (size_t)200), prompt);
                fake_send_token(f, id, 0, text);
                fake_send_done(f, id, 1);
        }
        return true;
}

static bool answer_one(struct fake *f, const Spark__V1__ClientFrame *m) {
        struct ctl *x = f->data;
        const Spark__V1__ChatMessage *last;
        char kind[64];

        switch (m->body_case) {
        case BODY(GENERATE):
                (void)atomic_fetch_add(&x->generates, 1);
                return answer_prompt(f, m->id, m->generate->raw_bytes ? "raw" : "plain",
                                     (const char *)m->generate->prompt.data, m->generate->prompt.len);
        case BODY(CHAT):
                (void)atomic_fetch_add(&x->chats, 1);
                if (*m->chat->messages_json || *m->chat->tools_json || *m->chat->template_args_json) {
                        (void)snprintf(kind, sizeof(kind), "%s %s %s", m->chat->messages_json, m->chat->tools_json,
                                       m->chat->template_args_json);
                        return answer_prompt(f, m->id, "json", kind, strlen(kind));
                }
                last = m->chat->messages[m->chat->n_messages - 1];
                (void)snprintf(kind, sizeof(kind), "chat%zu%s", m->chat->n_messages,
                               m->chat->n_messages > 2 ? m->chat->messages[m->chat->n_messages - 2]->content : "");
                return answer_prompt(f, m->id, kind, last->content, strlen(last->content));
        default:
                return true; /* credit, late cancellations */
        }
}

/* ---- generate ---- */

static void test_generate(void **state) {
        struct ctl *x = *state;

        {
                _cleanup_output_ struct output o = RUN("generate", "hello");
                expect(&o, 0, "chat1[hello]"); /* a pipe: no newline is added */
                assert_string_equal(o.err.data, "");
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--raw", "hello");
                expect(&o, 0, "raw[hello]");
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--system", "be kind", "hello");
                expect(&o, 0, "chat2[hello]");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("from stdin\n", "generate", "-");
                expect(&o, 0, "chat1[from stdin]");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("exact \xff\r\n", "generate", "--raw", "-");
                expect(&o, 0, "raw[exact \xff\r\n]");
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--", "--raw");
                expect(&o, 0, "chat1[--raw]");
        }
        x->has_template = false;
        {
                _cleanup_output_ struct output o = RUN("generate", "hello");
                expect(&o, 0, "plain[hello]");
        }
}

/* A model that isn't loaded yet does not say whether it has a template. */
static void test_generate_not_loaded(void **state) {
        struct ctl *x = *state;

        x->model_state = "available";
        {
                _cleanup_output_ struct output o = RUN("generate", "hello");
                expect(&o, 0, "chat1[hello]");
                assert_int_equal(atomic_load(&x->generates), 0);
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "no template"); /* and still not ready */
                expect(&o, 65, "");
                assert_int_equal(atomic_load(&x->generates), 0);
        }
}

static void test_generate_json(void **state) {
        {
                _cleanup_output_ struct output o = RUN("generate", "bytes", "--json");
                expect(&o, 0, "{\"text\":\"\xc3\xa4\xef\xbf\xbd\\\"\\\\\\n\\u0001\",\"tokens\":[100,101],"
                       "\"finish_reason\":\"stop\",\"usage\":{\"prompt_tokens\":7,\"cached_tokens\":2,"
                       "\"completion_tokens\":2},\"timing\":{\"queue_ms\":0.5,\"prefill_ms\":1.5,\"decode_ms\":2.5},"
                       "\"seed\":18364758544493064720,\"model\":\"tiny \\\"1\\\"\"}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "generate", "--raw", "--logprobs", "2", "logprobs");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"logprobs\":[{\"id\":5,\"logprob\":-0.5,\"top\":[{\"id\":7,"
                                                   "\"logprob\":-2}]},{\"id\":6,\"logprob\":-1.25,\"top\":[{\"id\":8,"
                                                   "\"logprob\":-3}]}]"));
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--raw", "too long", "--json");
                expect(&o, 65, "{\"error\":{\"code\":\"CONTEXT_OVERFLOW\",\"message\":\"A reason.\",\"hint\":"
                       "\"Shorten the input, or use a model with a longer context.\",\"have\":300,\"max\":200}}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "generate", "busy");
                assert_int_equal(o.status, 75);
                assert_non_null(strstr(o.out.data, "\"retry_after_ms\":1500"));
                assert_string_equal(o.err.data, "");
        }
}

static void test_generate_errors(void **state) {
        static const struct {
                const char *prompt;
                int status;
        } cases[] = {
                { "bad argument", 64 }, { "bad utf8", 65 }, { "too long", 65 }, { "no model", 1 },
                { "no template", 65 },  { "busy", 75 },     { "quota", 75 },    { "denied", 77 },
                { "memory", 1 },        { "lost", 1 },      { "stopping", 75 }, { "internal", 1 },
                { "strange", 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_output_ struct output o = RUN("generate", "--raw", cases[i].prompt);

                expect(&o, cases[i].status, "");
                assert_non_null(strstr(o.err.data, "sparkctl: A reason.\n"));
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "hang up");
                expect(&o, 69, "par");
                assert_non_null(strstr(o.err.data, "closed the connection"));
        }
}

static void test_interrupt(void **state) {
        {
                _cleanup_output_ struct output o = RUN_INTERRUPT("first", "", "generate", "slow");
                expect(&o, 130, "first");
        }
}

/* ---- chat ---- */

static void test_chat(void **state) {
        {
                _cleanup_output_ struct output o = RUN_INPUT("one\n\ntwo\\\nlines\nend", "chat");
                expect(&o, 0, "chat1[one]\nchat3chat1[one][two\nlines]\nchat5chat3chat1[one][two\nlines][end]\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("one\nbusy\nthree\n", "chat", "--system", "s");
                expect(&o, 75, "chat2[one]\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("one\n", "chat", "--json");
                assert_int_equal(o.status, 0);
                assert_int_equal(strncmp(o.out.data, "{\"text\":\"chat1[one]\"", 20), 0);
        }
}

/* A conversation from a file or a pipe, and what the template gets besides. */
static void test_chat_messages(void **state) {
        char path[] = "/tmp/test-sparkctl-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, "[{\"t\":1}]", 9), 9);
        (void)close(fd);
        {
                _cleanup_output_ struct output o = RUN_INPUT("[{\"role\":\"user\"}]", "chat", "--messages", "-");
                expect(&o, 0, "json[[{\"role\":\"user\"}]  ]");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("[7]", "chat", "--messages", "-", "--tools", path,
                                                             "--template-args", "{}", "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"text\":\"json[[7] [{\\\"t\\\":1}] {}]\""));
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("x", "generate", "--tools", path, "hello");
                expect(&o, 0, "json[ [{\"t\":1}] ]");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("x\n", "chat", "--template-args", "{\"a\":1}");
                expect(&o, 0, "json[  {\"a\":1}]\n");
        }
        {
                _cleanup_output_ struct output o = RUN("chat", "--messages", path, "--system", "s");
                expect(&o, 64, "");
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--raw", "--tools", path, "hello");
                expect(&o, 64, "");
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--session", "s", "--template-args", "{}", "hello");
                expect(&o, 64, "");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("", "chat", "--messages", "-");
                expect(&o, 65, "");
                assert_non_null(strstr(o.err.data, "Standard input is not JSON: it is empty"));
        }
        {
                _cleanup_output_ struct output o = RUN("chat", "--messages", "/nonexistent/file");
                expect(&o, 65, "");
        }
        (void)unlink(path);
}

/* Ctrl-C stops the answer, not the chat: what came of it stays in the history. */
static void test_chat_interrupt(void **state) {
        _cleanup_output_ struct output o = RUN_INTERRUPT("first", "slow\nmore\n", "chat");

        expect(&o, 0, "first\nchat3first[more]\n");
}

/* ---- on a terminal ---- */

static void test_terminal(void **state) {
        struct ctl *x = *state;
        struct output o = { .out = BUF_NULL(1 << 20), .err = BUF_NULL(1 << 20) };
        const char *argv[] = { "generate", "--raw", "hello", NULL };
        int master, slave, err[2];
        pid_t pid;

        if (getenv("SPARK_TEST_EMULATED") || access(x->program, X_OK) < 0)
                skip();
        assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                run_child(x, slave, slave, err[1], argv);
        (void)close(slave);
        (void)close(err[1]);
        output_collect(pid, master, err[0], NULL, &o);
        assert_int_equal(o.status, 0);
        assert_string_equal(o.out.data, "raw[hello]\r\n"); /* one newline after it */
        output_free(&o);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                CTL_TEST(test_generate),
                CTL_TEST(test_generate_not_loaded),
                CTL_TEST(test_generate_json),
                CTL_TEST(test_generate_errors),
                CTL_TEST(test_interrupt),
                CTL_TEST(test_chat),
                CTL_TEST(test_chat_interrupt),
                CTL_TEST(test_chat_messages),
                CTL_TEST(test_terminal),
        };

        ctl.answer = answer_one;
        return cmocka_run_group_tests(tests, ctl_group_setup, ctl_group_teardown);
}
