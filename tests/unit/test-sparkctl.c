/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Runs the real sparkctl against a service that answers each prompt as its text asks ("busy", "hang up", ...). The
 * program is looked for where the build puts it, next to this test's folder; without it the tests are skipped.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "fake-service.h"

#define BODY(name) SPARK__V1__CLIENT_FRAME__BODY_##name

/* ---- the service ---- */

struct service {
        bool has_template;
        const char *state;
        atomic_uint chats, generates;
};

static void answer_models(struct fake *f, uint64_t id, bool status) {
        const struct service *s = f->data;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ModelsResult models = SPARK__V1__MODELS_RESULT__INIT;
        Spark__V1__StatusResult st = SPARK__V1__STATUS_RESULT__INIT;
        Spark__V1__ModelInfo m = SPARK__V1__MODEL_INFO__INIT, *list[] = { &m };
        Spark__V1__RequestInfo q = SPARK__V1__REQUEST_INFO__INIT, *requests[] = { &q };

        m.name = (char *)"tiny \"1\"";
        m.state = (char *)s->state;
        m.is_default = 1;
        m.has_chat_template = s->has_template;
        m.architecture = (char *)"llama";
        m.parameters = 260000;
        m.image_bytes = 1536;
        q.pid = 4711;
        q.kind = (char *)"chat";
        q.unit = (char *)"evil\x1b[2J.service";
        if (status) {
                st.version = (char *)SPARK_VERSION;
                st.state = (char *)"ready";
                st.models = list;
                st.n_models = 1;
                st.requests = requests;
                st.n_requests = 1;
                st.memory_total = 128ull << 30;
                st.memory_available = 100ull << 30;
                st.memory_floor = 6ull << 30;
                done.result_case = SPARK__V1__DONE__RESULT_STATUS;
                done.status = &st;
        } else {
                models.models = list;
                models.n_models = 1;
                done.result_case = SPARK__V1__DONE__RESULT_MODELS;
                done.models = &models;
        }
        fake_send_done_message(f, id, &done);
}

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

static void answer_tokens(struct fake *f, const Spark__V1__ClientFrame *m) {
        const Spark__V1__Tokenize *t = m->tokenize;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__TokenizeResult ids = SPARK__V1__TOKENIZE_RESULT__INIT;
        uint32_t list[64];

        ids.ids = list;
        if (t->add_bos_eos)
                list[ids.n_ids++] = 1;
        if (t->special)
                list[ids.n_ids++] = 2;
        for (size_t i = 0; i < t->text.len && ids.n_ids < ARRAY_SIZE(list); i++)
                list[ids.n_ids++] = t->text.data[i];
        done.result_case = SPARK__V1__DONE__RESULT_TOKENIZE;
        done.tokenize = &ids;
        fake_send_done_message(f, m->id, &done);
}

static void answer_text(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__DetokenizeResult text = SPARK__V1__DETOKENIZE_RESULT__INIT;
        uint8_t bytes[64];

        text.text.data = bytes;
        for (size_t i = 0; i < m->detokenize->n_tokens && i < sizeof(bytes); i++)
                bytes[text.text.len++] = (uint8_t)m->detokenize->tokens[i];
        done.result_case = SPARK__V1__DONE__RESULT_DETOKENIZE;
        done.detokenize = &text;
        fake_send_done_message(f, m->id, &done);
}

static void answer_score(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ScoreResult score = SPARK__V1__SCORE_RESULT__INIT;

        score.tokens = m->score->text.len + m->score->context;
        score.nll = 0.1;
        score.perplexity = 1.1051709180756477;
        done.result_case = SPARK__V1__DONE__RESULT_SCORE;
        done.score = &score;
        fake_send_done_message(f, m->id, &done);
}

static void answer_load(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__LoadResult load = SPARK__V1__LOAD_RESULT__INIT;
        _cleanup_fd_ int fd = m->load->input_fd ? channel_take_fd(&f->c) : -1;
        struct stat st = { 0 };

        if (m->load->input_fd && fstat(fd, &st) < 0)
                fake_fault(f, "no descriptor");
        load.model = m->load->model[0] ? m->load->model : m->load->path[0] ? m->load->path : (char *)"from-fd";
        load.image_bytes = (uint64_t)st.st_size;
        load.kv_bytes = m->load->dry_run;
        done.result_case = SPARK__V1__DONE__RESULT_LOAD;
        done.load = &load;
        fake_send_done_message(f, m->id, &done);
}

static void fill_session(Spark__V1__SessionInfo *s, const char *id, uint64_t tokens) {
        *s = (Spark__V1__SessionInfo)SPARK__V1__SESSION_INFO__INIT;
        s->id = (char *)id;
        s->model = (char *)"tiny";
        s->name = (char *)"my\x1b[2J notes";
        s->state = (char *)"idle";
        s->tokens = tokens;
        s->persistent = true;
        s->stored_bytes = 2048;
}

/* Every request about a session is answered with what it asked for, as a session's id and length. */
static void answer_jobs(struct fake *f, uint64_t id) {
        Spark__V1__JobInfo load = SPARK__V1__JOB_INFO__INIT, import = SPARK__V1__JOB_INFO__INIT, *list[] = { &load, &import };
        Spark__V1__JobsResult result = SPARK__V1__JOBS_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;

        load.id = 7;
        load.kind = (char *)"load";
        load.model = (char *)"my\x1b[2J model";
        load.state = (char *)"running";
        load.stage = (char *)"load";
        load.done = 3ull << 30;
        load.total = 4ull << 30;
        load.bytes_per_second = 1ull << 30;
        load.eta_ms = 1000;
        load.own = 1;
        import.id = 8;
        import.kind = (char *)"import";
        import.model = (char *)"other";
        import.state = (char *)"waiting";
        result.jobs = list;
        result.n_jobs = 2;
        done.result_case = SPARK__V1__DONE__RESULT_JOBS;
        done.jobs = &result;
        fake_send_done_message(f, id, &done);
}

static void answer_session(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__SessionInfo s, *list[] = { &s };
        Spark__V1__SessionsResult result = SPARK__V1__SESSIONS_RESULT__INIT;
        Spark__V1__PrewarmResult prewarm = SPARK__V1__PREWARM_RESULT__INIT;

        fill_session(&s, "new", 0);
        done.result_case = SPARK__V1__DONE__RESULT_SESSION;
        done.session = &s;
        switch (m->body_case) {
        case BODY(SESSION_CREATE):
                if (!m->session_create->persistent)
                        fake_fault(f, "a session that ends with the command");
                break;
        case BODY(SESSION_APPEND):
                fill_session(&s, m->session_append->session, m->session_append->text.len + m->session_append->special);
                break;
        case BODY(SESSION_FORK):
                if (!m->session_fork->persistent)
                        fake_fault(f, "a fork that ends with the command");
                fill_session(&s, m->session_fork->name, 0);
                break;
        case BODY(SESSION_REWIND):
                fill_session(&s, m->session_rewind->session, m->session_rewind->tokens);
                break;
        case BODY(SESSIONS):
                result.sessions = list;
                result.n_sessions = 1;
                done.result_case = SPARK__V1__DONE__RESULT_SESSIONS;
                done.sessions = &result;
                break;
        case BODY(PREWARM):
                prewarm.tokens = (uint32_t)m->prewarm->text.len;
                prewarm.cached_tokens = m->prewarm->share;
                done.result_case = SPARK__V1__DONE__RESULT_PREWARM;
                done.prewarm = &prewarm;
                break;
        default:
                done.result_case = SPARK__V1__DONE__RESULT__NOT_SET;
        }
        fake_send_done_message(f, m->id, &done);
}

static bool answer_one(struct fake *f, const Spark__V1__ClientFrame *m) {
        struct service *s = f->data;
        const Spark__V1__ChatMessage *last;
        char kind[64];

        switch (m->body_case) {
        case BODY(HELLO):
                fake_send_hello(f);
                return true;
        case BODY(MODELS):
                answer_models(f, m->id, false);
                return true;
        case BODY(STATUS):
                answer_models(f, m->id, true);
                return true;
        case BODY(SESSION_CLOSE):
                if (strcmp(m->session_close->session, "foreign") == 0) {
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "There is none.", 0, 0, 0);
                        return true;
                }
                answer_session(f, m);
                return true;
        case BODY(FORGET):
                if (m->forget->all_users) {
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "Not yours.", 0, 0, 0);
                        return true;
                }
                answer_session(f, m);
                return true;
        case BODY(SESSION_CREATE):
        case BODY(SESSION_APPEND):
        case BODY(SESSION_FORK):
        case BODY(SESSION_REWIND):
        case BODY(SESSIONS):
        case BODY(PREWARM):
                answer_session(f, m);
                return true;
        case BODY(GENERATE):
                (void)atomic_fetch_add(&s->generates, 1);
                if (*m->generate->session) {
                        fake_send_token(f, m->id, 0, m->generate->session);
                        answer_session(f, m);
                        return true;
                }
                return answer_prompt(f, m->id, m->generate->raw_bytes ? "raw" : "plain",
                                     (const char *)m->generate->prompt.data, m->generate->prompt.len);
        case BODY(CHAT):
                (void)atomic_fetch_add(&s->chats, 1);
                if (*m->chat->messages_json || *m->chat->tools_json || *m->chat->template_args_json) {
                        (void)snprintf(kind, sizeof(kind), "%s %s %s", m->chat->messages_json, m->chat->tools_json,
                                       m->chat->template_args_json);
                        return answer_prompt(f, m->id, "json", kind, strlen(kind));
                }
                last = m->chat->messages[m->chat->n_messages - 1];
                (void)snprintf(kind, sizeof(kind), "chat%zu%s", m->chat->n_messages,
                               m->chat->n_messages > 2 ? m->chat->messages[m->chat->n_messages - 2]->content : "");
                return answer_prompt(f, m->id, kind, last->content, strlen(last->content));
        case BODY(TOKENIZE):
                answer_tokens(f, m);
                return true;
        case BODY(DETOKENIZE):
                answer_text(f, m);
                return true;
        case BODY(SCORE):
                answer_score(f, m);
                return true;
        case BODY(LOAD):
                answer_load(f, m);
                return true;
        case BODY(JOBS):
                answer_jobs(f, m->id);
                return true;
        case BODY(JOB_CANCEL):
                if (m->job_cancel->job == 8)
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "There is none.", 0, 0, 0);
                else
                        fake_send_done(f, m->id, 0);
                return true;
        case BODY(UNLOAD):
                fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "Not yours.", 0, 0, 0);
                return true;
        default:
                return true; /* credit, late cancellations */
        }
}

static void script_service(struct fake *f) {
        bool go_on = true;

        while (go_on) {
                Spark__V1__ClientFrame *m = fake_receive(f);

                if (!m)
                        return;
                go_on = answer_one(f, m);
                (void)message_free(&m->base);
        }
}

/* ---- running the program ---- */

struct fixture {
        struct fake fake;
        struct service service;
        char dir[64], socket[100], program[4096];
};

struct output {
        int status;
        struct buf out, err;
};

static struct fixture fixture;

static int group_setup(void **state) {
        struct fixture *x = &fixture;
        char *slash;
        ssize_t n;

        n = readlink("/proc/self/exe", x->program, sizeof(x->program) - 32);
        if (n < 0)
                return -1;
        x->program[n] = 0;
        for (int i = 0; i < 2 && (slash = strrchr(x->program, '/')); i++)
                *slash = 0;
        n = (ssize_t)strlen(x->program);
        (void)snprintf(x->program + n, sizeof(x->program) - (size_t)n, "/bin/sparkctl");
        (void)snprintf(x->dir, sizeof(x->dir), "/tmp/test-sparkctl-XXXXXX");
        if (!mkdtemp(x->dir))
                return -1;
        (void)snprintf(x->socket, sizeof(x->socket), "%.63s/sock", x->dir);
        return 0;
}

static int group_teardown(void **state) {
        (void)rmdir(fixture.dir);
        return 0;
}

static int setup(void **state) {
        struct fixture *x = &fixture;

        *state = x;
        x->service = (struct service){ .has_template = true, .state = "ready" };
        return fake_start_at(&x->fake, x->socket, script_service, &x->service);
}

static int teardown(void **state) {
        struct fixture *x = *state;

        fake_stop(&x->fake);
        if (x->fake.fault[0])
                print_error("service: %s\n", x->fake.fault);
        return x->fake.fault[0] != 0;
}

static void output_free(struct output *o) {
        buf_deinit(&o->out);
        buf_deinit(&o->err);
}
#define _cleanup_output_ _cleanup_(output_free)

static void set_nonblock_read(int fd, struct buf *b, bool *open) {
        char piece[4096];
        ssize_t n = read(fd, piece, sizeof(piece));

        if (n > 0)
                assert_int_equal(buf_append(b, piece, (size_t)n), 0);
        else
                *open = false;
}

/* Waits for the child, taking its output; `interrupt_after` (may be NULL) is a text on standard output that makes us
 * send SIGINT. */
static void collect(pid_t pid, int out, int err, const char *interrupt_after, struct output *o) {
        bool out_open = true, err_open = true;
        int status;

        while (out_open || err_open) {
                struct pollfd fds[] = { { .fd = out_open ? out : -1, .events = POLLIN },
                                        { .fd = err_open ? err : -1, .events = POLLIN } };

                if (poll(fds, 2, 20000) <= 0) {
                        (void)kill(pid, SIGKILL);
                        break;
                }
                if (fds[0].revents)
                        set_nonblock_read(out, &o->out, &out_open);
                if (fds[1].revents)
                        set_nonblock_read(err, &o->err, &err_open);
                if (interrupt_after && o->out.data && strstr(o->out.data, interrupt_after)) {
                        (void)kill(pid, SIGINT);
                        interrupt_after = NULL;
                }
        }
        (void)close(out);
        (void)close(err);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        o->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void child(struct fixture *x, int in, int out, int err, const char **argv) {
        const char *full[32] = { x->program, "-S", x->socket };

        for (size_t i = 0; i < 28 && argv[i]; i++)
                full[i + 3] = argv[i];
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
                _exit(126);
        (void)unsetenv("SPARK_SOCKET");
        (void)execv(x->program, (char **)full);
        _exit(127);
}

static struct output run_full(struct fixture *x, const char *input, size_t n_input, const char *interrupt_after,
                              const char **argv) {
        struct output o = { .out = BUF_NULL(1 << 20), .err = BUF_NULL(1 << 20) };
        int out[2], err[2], in = fd_memfd_new("input", 0);
        pid_t pid;

        if (getenv("SPARK_TEST_EMULATED")) {
                print_message("skipped: an emulator cannot start programs\n");
                skip();
        }
        if (access(x->program, X_OK) < 0) {
                print_message("skipped: %s is not built\n", x->program);
                skip();
        }
        assert_int_equal(write(in, input, n_input), n_input);
        assert_int_equal(lseek(in, 0, SEEK_SET), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                child(x, in, out[1], err[1], argv);
        (void)close(in);
        (void)close(out[1]);
        (void)close(err[1]);
        collect(pid, out[0], err[0], interrupt_after, &o);
        /* so that tests may compare strings */
        assert_int_equal(buf_reserve(&o.out, 1), 0);
        assert_int_equal(buf_reserve(&o.err, 1), 0);
        return o;
}

#define RUN(...) run_full(*state, "", 0, NULL, (const char *[]){ __VA_ARGS__, NULL })
#define RUN_INPUT(text, ...) run_full(*state, text, sizeof(text) - 1, NULL, (const char *[]){ __VA_ARGS__, NULL })
#define RUN_INTERRUPT(after, text, ...) \
        run_full(*state, text, sizeof(text) - 1, after, (const char *[]){ __VA_ARGS__, NULL })

static void expect(const struct output *o, int status, const char *out) {
        if (o->status != status || (out && strcmp(o->out.data, out) != 0))
                fail_msg("status %d, wrote '%s', and '%s'", o->status, o->out.data, o->err.data);
}

/* ---- generate ---- */

static void test_generate(void **state) {
        struct fixture *x = *state;

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
        x->service.has_template = false;
        {
                _cleanup_output_ struct output o = RUN("generate", "hello");
                expect(&o, 0, "plain[hello]");
        }
}

/* A model that isn't loaded yet does not say whether it has a template. */
static void test_generate_not_loaded(void **state) {
        struct fixture *x = *state;

        x->service.state = "available";
        {
                _cleanup_output_ struct output o = RUN("generate", "hello");
                expect(&o, 0, "chat1[hello]");
                assert_int_equal(atomic_load(&x->service.generates), 0);
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "no template"); /* and still not ready */
                expect(&o, 65, "");
                assert_int_equal(atomic_load(&x->service.generates), 0);
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

/* ---- the command line ---- */

static void test_usage(void **state) {
        static const char *const wrong[][5] = {
                { "generate" },
                { "generate", "a", "b" },
                { "generate", "-t" },
                { "generate", "-t", "warm", "a" },
                { "generate", "-n", "-1", "a" },
                { "generate", "-n", "4294967296", "a" },
                { "generate", "--seed", "18446744073709551616", "a" },
                { "generate", "--raw=1", "a" },
                { "generate", "--max-token", "1", "a" },
                { "generate", "-x", "a" },
                { "generate", "--logprobs", "3", "a" },
                { "generate", "--raw", "--system", "s", "a" },
                { "generate", "--special", "a" },
                { "generate", "--no-bos", "a" },
                { "detokenize", "1", "x2" },
                { "detokenize", "4294967296" },
                { "status", "now" },
                { "load" },
                { "load", "--name", "a", "b" },
                { "session" },
                { "session", "dance" },
                { "session", "append", "id" },
                { "session", "rewind", "id", "-3" },
                { "session", "list", "now" },
                { "session", "close" },
                { "generate", "--session", "id", "--system", "s" },
                { "prewarm" },
                { "forget", "me" },
                { "dance" },
                { "--frob", "status" },
                { "bad", "--json" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                _cleanup_output_ struct output o = run_full(*state, "", 0, NULL, (const char **)wrong[i]);

                if (o.status != 64)
                        fail_msg("case %zu gave %d", i, o.status);
                assert_non_null(strstr(i + 1 < ARRAY_SIZE(wrong) ? o.err.data : o.out.data, "--help"));
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "--min-p P"));
        }
        {
                _cleanup_output_ struct output o = RUN("--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "perplexity"));
        }
}

static void test_no_service(void **state) {
        struct fixture *x = *state;

        listener_deinit(&x->fake.listener);
        {
                _cleanup_output_ struct output o = RUN("status");
                expect(&o, 69, "");
                assert_non_null(strstr(o.err.data, "systemctl start sparkd"));
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "tokenize", "a");
                assert_int_equal(o.status, 69);
                assert_non_null(strstr(o.out.data, "{\"error\":{\"code\":\"NOT_RUNNING\""));
        }
        {
                _cleanup_output_ struct output o = RUN("doctor", "--json");
                assert_int_equal(o.status, 1);
                assert_non_null(strstr(o.out.data, "\"check\":\"socket\",\"status\":\"fail\""));
                assert_non_null(strstr(o.out.data, "\"ok\":false"));
        }
}

/* ---- the other verbs ---- */

static void test_tokens(void **state) {
        {
                _cleanup_output_ struct output o = RUN("tokenize", "AB");
                expect(&o, 0, "65 66\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("A\n\0", "tokenize", "--special", "--bos", "-");
                expect(&o, 0, "1 2 65 10 0\n");
        }
        {
                _cleanup_output_ struct output o = RUN("tokenize", "--json", "A");
                expect(&o, 0, "{\"ids\":[65]}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("detokenize", "65", "66,67", "10");
                expect(&o, 0, "ABC\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("72 105\n", "detokenize", "-", "--json");
                expect(&o, 0, "{\"text\":\"Hi\"}\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("0123456789", "perplexity", "--context", "100", "-");
                expect(&o, 0, "tokens 110\nnll 0.1\nperplexity 1.10517092\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("0123456789", "perplexity", "-", "--json");
                expect(&o, 0, "{\"tokens\":10,\"nll\":0.10000000000000001,\"perplexity\":1.1051709180756477}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("perplexity", "/no/such/file");
                expect(&o, 65, "");
        }
}

static void test_status(void **state) {
        {
                _cleanup_output_ struct output o = RUN("status");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "100.00 GiB available of 128.00 GiB"));
                assert_non_null(strstr(o.out.data, "tiny \"1\""));
                /* nobody's name gets to the terminal's controls */
                assert_non_null(strstr(o.out.data, "evil?[2J.service"));
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "status");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"memory\":{\"total\":137438953472,"));
        }
        {
                _cleanup_output_ struct output o = RUN("models");
                assert_int_equal(o.status, 0);
                assert_true(o.out.data[0] == '*');
        }
        {
                _cleanup_output_ struct output o = RUN("ps", "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"pid\":4711"));
                assert_non_null(strstr(o.out.data, "evil\\u001b[2J"));
        }
        {
                _cleanup_output_ struct output o = RUN("doctor");
                assert_true(o.status == 0 || o.status == 1);
                assert_non_null(strstr(o.out.data, "ok    service"));
        }
}

static void test_jobs(void **state) {
        {
                _cleanup_output_ struct output o = RUN("jobs");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "     7  load     my?[2J model "));
                assert_non_null(strstr(o.out.data, "load 75 % "));
                assert_non_null(strstr(o.out.data, " 1.00 GiB/s "));
                assert_non_null(strstr(o.out.data, "1.0 s  root"));
                assert_non_null(strstr(o.out.data, "waiting "));
        }
        {
                _cleanup_output_ struct output o = RUN("jobs", "list", "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"jobs\":[{\"id\":7,\"kind\":\"load\",\"model\":\"my\\u001b[2J model\",\"uid\":0,"
                                                   "\"own\":true,\"state\":\"running\",\"stage\":\"load\",\"done\":3221225472,"
                                                   "\"total\":4294967296,\"bytes_per_second\":1073741824,\"eta_ms\":1000},"));
        }
        {
                _cleanup_output_ struct output o = RUN("jobs", "cancel", "7", "9");
                expect(&o, 0, "Job 7 is cancelled.\nJob 9 is cancelled.\n");
        }
        {
                _cleanup_output_ struct output o = RUN("jobs", "cancel", "7", "8", "9", "--json");
                assert_int_equal(o.status, 64);
                assert_non_null(strstr(o.out.data, "{\"id\":7,\"cancelled\":true}\n"));
                assert_non_null(strstr(o.out.data, "There is none."));
                assert_null(strstr(o.out.data, "\"id\":9"));
        }
        {
                _cleanup_output_ struct output o = RUN("jobs", "cancel", "18446744073709551616");
                assert_int_equal(o.status, 64);
        }
}

static void test_session(void **state) {
        {
                _cleanup_output_ struct output o = RUN("session", "create", "--name", "my notes", "-m", "tiny");
                expect(&o, 0, "new\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "append", "one", "text");
                expect(&o, 0, "4\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("more text\n", "session", "append", "--special", "one", "-");
                expect(&o, 0, "11\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "fork", "--name", "other", "one");
                expect(&o, 0, "other\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "rewind", "one", "18446744073709551615");
                expect(&o, 0, "18446744073709551615\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "rewind", "one", "5", "--json");
                expect(&o, 0, "{\"id\":\"one\",\"model\":\"tiny\",\"name\":\"my\\u001b[2J notes\",\"uid\":0,\"tokens\":5,"
                              "\"persistent\":true,\"state\":\"idle\",\"idle_s\":0,\"stored_bytes\":2048}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "close", "one", "two");
                expect(&o, 0, "");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "close", "one", "foreign", "two", "--json");
                assert_int_equal(o.status, 64);
                assert_non_null(strstr(o.out.data, "There is none."));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "list");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "new  uid 0  tiny  idle  0 tokens"));
                assert_non_null(strstr(o.out.data, "2.0 KiB on disk"));
                assert_non_null(strstr(o.out.data, "my?[2J notes")); /* nobody's name gets to the terminal's controls */
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "session", "list");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"sessions\":[{\"id\":\"new\""));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "rewind"));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "create", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "--name NAME"));
        }
}

static void test_generate_in_session(void **state) {
        struct fixture *x = *state;

        {
                _cleanup_output_ struct output o = RUN("generate", "--session", "one", "hello");
                expect(&o, 0, "one");
                assert_int_equal(atomic_load(&x->service.chats), 0); /* whatever template the model has */
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--session", "one", "--no-bos", "--json", "hello");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"text\":\"one\""));
                assert_non_null(strstr(o.out.data, "\"session\":{\"id\":\"one\",\"tokens\":0}"));
        }
}

static void test_prewarm(void **state) {
        {
                _cleanup_output_ struct output o = RUN("prewarm", "system");
                expect(&o, 0, "tokens 6\ncached 0\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("a prompt\n", "prewarm", "--share", "-", "--json");
                expect(&o, 0, "{\"tokens\":9,\"cached_tokens\":1}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("forget");
                expect(&o, 0, "");
        }
        {
                _cleanup_output_ struct output o = RUN("forget", "--json", "-m", "tiny");
                expect(&o, 0, "{}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("forget", "--all");
                expect(&o, 77, "");
        }
}

static void test_load(void **state) {
        struct fixture *x = *state;
        char path[160];
        int fd;

        {
                _cleanup_output_ struct output o = RUN("load", "name", "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"model\":\"name\",\"dry_run\":false,\"image_bytes\":0,"));
        }
        (void)snprintf(path, sizeof(path), "%.63s/m 1.gguf", x->dir);
        fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "12345", 5), 5);
        (void)close(fd);
        {
                _cleanup_output_ struct output o = RUN("load", "--dry-run", path, "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"model\":\"m-1\",\"dry_run\":true,\"image_bytes\":5,"));
        }
        {
                _cleanup_output_ struct output o = RUN("load", "--name", "other", path, "--json");
                assert_non_null(strstr(o.out.data, "{\"model\":\"other\",\"dry_run\":false,\"image_bytes\":5,"));
        }
        (void)unlink(path);
        {
                _cleanup_output_ struct output o = RUN("load", path);
                expect(&o, 65, "");
        }
        {
                _cleanup_output_ struct output o = RUN("load", "/dev/null");
                expect(&o, 65, "");
        }
        (void)snprintf(path, sizeof(path), "%.63s/m-00001-of-00003.gguf", x->dir);
        fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "12345", 5), 5);
        (void)close(fd);
        {
                _cleanup_output_ struct output o = RUN("load", path, "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"model\":\"m\",")); /* the service finds the others */
                assert_non_null(strstr(o.out.data, "\"image_bytes\":0,")); /* by the path */
        }
        (void)unlink(path);
        {
                _cleanup_output_ struct output o = RUN("unload", "name");
                expect(&o, 77, "");
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
        struct fixture *x = *state;
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
                child(x, slave, slave, err[1], argv);
        (void)close(slave);
        (void)close(err[1]);
        collect(pid, master, err[0], NULL, &o);
        assert_int_equal(o.status, 0);
        assert_string_equal(o.out.data, "raw[hello]\r\n"); /* one newline after it */
        output_free(&o);
}

#define CTL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                CTL_TEST(test_generate),       CTL_TEST(test_generate_not_loaded), CTL_TEST(test_generate_json),
                CTL_TEST(test_generate_errors), CTL_TEST(test_interrupt),          CTL_TEST(test_usage),
                CTL_TEST(test_no_service),     CTL_TEST(test_tokens),              CTL_TEST(test_status),
                CTL_TEST(test_load),           CTL_TEST(test_chat),                CTL_TEST(test_chat_interrupt),
                CTL_TEST(test_chat_messages),
                CTL_TEST(test_terminal),       CTL_TEST(test_session),             CTL_TEST(test_generate_in_session),
                CTL_TEST(test_prewarm),        CTL_TEST(test_jobs),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
