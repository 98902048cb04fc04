/* SPDX-License-Identifier: Apache-2.0 */

/* The engine behind its socketpair, all three threads, with the null backend. */

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/engine/link.h"
#include "message.h"

#define PATIENCE_MS 20000

typedef Spark__Engine__V1__EngineFrame EngineFrame;
typedef Spark__Engine__V1__ControlFrame ControlFrame;

static const struct channel_limits limits = {
        .frame_max = CHANNEL_FRAME_MAX_PRIVATE, .out_frames = 100000, .out_bytes = 256u << 20, .in_fds = 64,
};

struct fixture {
        struct channel control, engine_end;
        pthread_t thread;
        struct engine_config config;
        unsigned step_us;
        int result;
        EngineFrame *last; /* freed with the next one */
};

static void *engine_main(void *userdata) {
        struct fixture *x = userdata;
        struct host_config config = {
                .backend = "null", .be = { .isa = "auto", .null_step_us = x->step_us }, .engine = x->config,
        };
        struct host host = HOST_NULL;
        struct link *l = NULL;
        struct failure f = { .text = "" };
        bool stuck;

        x->result = link_new(&l, &x->engine_end, 512);
        if (x->result == 0)
                x->result = host_open(&host, &config, NULL, 0, &link_events, l, &f);
        if (x->result == 0)
                x->result = link_run(l, &host, &stuck);
        host_close(&host);
        (void)link_free(l);
        return NULL;
}

static void start(struct fixture *x) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(channel_init(&x->control, fds[0], &limits), 0);
        assert_int_equal(channel_init(&x->engine_end, fds[1], &limits), 0);
        x->last = NULL;
        assert_int_equal(pthread_create(&x->thread, NULL, engine_main, x), 0);
}

/* Closes control's end: the engine must end by itself. */
static void stop(struct fixture *x, int expected) {
        (void)shutdown(x->control.fd, SHUT_RDWR);
        assert_int_equal(pthread_join(x->thread, NULL), 0);
        assert_int_equal(x->result, expected);
        if (x->last)
                (void)message_free(&x->last->base);
        channel_deinit(&x->control);
        channel_deinit(&x->engine_end);
}

static void send_frame(struct fixture *x, const ControlFrame *m, const int *fds, size_t n_fds) {
        assert_int_equal(message_queue_fds(&x->control, &m->base, fds, n_fds), 0);
        while (channel_flush(&x->control) == 0) {
                struct pollfd p = { .fd = x->control.fd, .events = POLLOUT };

                assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        }
}

static void submit(struct fixture *x, Spark__Engine__V1__Submit *s, const int *fds, size_t n_fds) {
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT;
        m.submit = s;
        send_frame(x, &m, fds, n_fds);
}

static void send_cancel(struct fixture *x, uint64_t key) {
        Spark__Engine__V1__CancelRequest c = SPARK__ENGINE__V1__CANCEL_REQUEST__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        c.key = key;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL;
        m.cancel = &c;
        send_frame(x, &m, NULL, 0);
}

static void send_window(struct fixture *x, uint64_t key, uint32_t tokens) {
        Spark__Engine__V1__Window w = SPARK__ENGINE__V1__WINDOW__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        w.key = key;
        w.tokens = tokens;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW;
        m.window = &w;
        send_frame(x, &m, NULL, 0);
}

/* The next frame, or NULL when none comes within ms. */
static EngineFrame *receive_within(struct fixture *x, int ms) {
        struct channel_frame frame;
        int r;

        if (x->last)
                (void)message_free(&x->last->base);
        x->last = NULL;
        while ((r = channel_next(&x->control, &frame)) == 0) {
                struct pollfd p = { .fd = x->control.fd, .events = POLLIN };

                if (poll(&p, 1, ms) != 1)
                        return NULL;
                assert_int_equal(channel_read(&x->control), 1);
        }
        assert_int_equal(r, 1);
        assert_int_equal(message_unpack(&spark__engine__v1__engine_frame__descriptor, frame.data, frame.size,
                                        (ProtobufCMessage **)&x->last, NULL), 0);
        return x->last;
}

static EngineFrame *receive(struct fixture *x) {
        EngineFrame *m = receive_within(x, PATIENCE_MS);

        assert_non_null(m);
        return m;
}

struct generate {
        Spark__V1__Sampling sampling;
        Spark__V1__Generate generate;
        Spark__Engine__V1__Submit submit;
};

static void generate_init(struct generate *g, uint64_t key, const char *prompt, uint32_t max_tokens, uint32_t credit) {
        spark__v1__sampling__init(&g->sampling);
        spark__v1__generate__init(&g->generate);
        spark__engine__v1__submit__init(&g->submit);
        g->sampling.has_max_tokens = true;
        g->sampling.max_tokens = max_tokens;
        g->sampling.has_seed = true;
        g->sampling.seed = key;
        g->generate.prompt.data = (uint8_t *)prompt;
        g->generate.prompt.len = strlen(prompt);
        g->generate.sampling = &g->sampling;
        g->submit.key = key;
        g->submit.credit = credit;
        g->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE;
        g->submit.generate = &g->generate;
}

struct stream {
        bool accepted;
        uint32_t n; /* tokens */
        size_t n_text;
        char text[4096];
        bool finished;
        Spark__V1__FinishReason reason;
        uint32_t completion;
        Spark__V1__ErrorCode code;
        char message[256];
        uint64_t have, max;
};

static void take_chunks(const EngineFrame *m, struct stream *streams, size_t n, uint64_t first) {
        for (size_t i = 0; i < m->tokens->n_chunks; i++) {
                const Spark__Engine__V1__TokenChunk *c = m->tokens->chunks[i];
                struct stream *s = &streams[c->key - first];

                assert_in_range(c->key, first, first + n - 1);
                assert_true(s->accepted && !s->finished);
                assert_int_equal(c->token->index, s->n);
                assert_int_equal(c->token->n_ids, 1);
                s->n++;
                if (s->n_text + c->token->text.len < sizeof(s->text))
                        memcpy(s->text + s->n_text, c->token->text.data, c->token->text.len);
                s->n_text += c->token->text.len;
        }
}

/* Sorts one frame into the streams of keys [first, first + n). True when it ended one. */
static bool take(const EngineFrame *m, struct stream *streams, size_t n, uint64_t first) {
        struct stream *s;

        switch (m->body_case) {
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED:
                streams[m->accepted->key - first].accepted = true;
                return false;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS:
                take_chunks(m, streams, n, first);
                return false;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED:
                s = &streams[m->finished->key - first];
                assert_false(s->finished);
                s->finished = true;
                s->reason = m->finished->done->finish_reason;
                s->completion = m->finished->done->usage ? m->finished->done->usage->completion_tokens : 0;
                return true;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED:
                s = &streams[m->failed->key - first];
                assert_false(s->finished);
                s->finished = true;
                s->code = m->failed->error->code;
                (void)snprintf(s->message, sizeof(s->message), "%s", m->failed->error->message);
                s->have = m->failed->error->have;
                s->max = m->failed->error->max;
                return true;
        default:
                return false;
        }
}

static void collect(struct fixture *x, struct stream *streams, size_t n, uint64_t first, size_t ends) {
        while (ends > 0)
                ends -= take(receive(x), streams, n, first);
}

static void test_streams(void **state) {
        static struct stream alone[8], company[8];
        struct fixture x = { .step_us = 0 };
        struct generate g;

        memset(alone, 0, sizeof(alone));
        memset(company, 0, sizeof(company));
        start(&x);
        for (uint64_t k = 0; k < 8; k++) {
                char prompt[] = "once a";

                prompt[5] = (char)('a' + k);
                generate_init(&g, 1 + k, prompt, 100 + (uint32_t)k, 1000);
                submit(&x, &g.submit, NULL, 0);
                collect(&x, alone, 8, 1, 1);
                assert_int_equal(alone[k].reason, SPARK__V1__FINISH_REASON__LENGTH);
                assert_int_equal(alone[k].n, 100 + k);
                assert_int_equal(alone[k].completion, 100 + k);
                assert_int_equal(alone[k].n_text, 100 + k);
        }
        for (uint64_t k = 0; k < 8; k++) {
                char prompt[] = "once a";

                prompt[5] = (char)('a' + k);
                generate_init(&g, 101 + k, prompt, 100 + (uint32_t)k, 1000);
                g.sampling.seed = 1 + k;
                submit(&x, &g.submit, NULL, 0);
        }
        collect(&x, company, 8, 101, 8);
        for (unsigned k = 0; k < 8; k++) {
                assert_int_equal(alone[k].n_text, company[k].n_text);
                assert_memory_equal(alone[k].text, company[k].text, alone[k].n_text);
        }
        assert_memory_not_equal(alone[0].text, alone[1].text, 100);
        stop(&x, LINK_E_CLOSED);
}

static void test_credit_and_cancel(void **state) {
        struct stream s[2] = { { 0 } };
        struct fixture x = { .step_us = 0 };
        struct generate g;

        start(&x);
        generate_init(&g, 1, "x", 20, 5);
        submit(&x, &g.submit, NULL, 0);
        while (s[0].n < 5)
                assert_false(take(receive(&x), s, 2, 1));
        assert_null(receive_within(&x, 100)); /* paused */
        send_window(&x, 1, 7);
        while (s[0].n < 12)
                assert_false(take(receive(&x), s, 2, 1));
        assert_null(receive_within(&x, 100));
        send_window(&x, 1, 8);
        collect(&x, s, 2, 1, 1);
        assert_int_equal(s[0].n, 20);
        assert_int_equal(s[0].reason, SPARK__V1__FINISH_REASON__LENGTH);

        generate_init(&g, 2, "x", 1000000, 10);
        submit(&x, &g.submit, NULL, 0);
        while (s[1].n < 10)
                assert_false(take(receive(&x), s, 2, 1));
        send_cancel(&x, 2);
        send_cancel(&x, 77); /* nobody: ignored */
        collect(&x, s, 2, 1, 1);
        assert_int_equal(s[1].code, SPARK__V1__ERROR_CODE__CANCELLED);
        stop(&x, LINK_E_CLOSED);
}

static struct stream one(struct fixture *x, Spark__Engine__V1__Submit *s, const int *fds, size_t n_fds) {
        static uint64_t key = 1000;
        struct stream ret = { 0 };

        s->key = ++key;
        submit(x, s, fds, n_fds);
        collect(x, &ret, 1, key, 1);
        return ret;
}

#define expect_failure(x, g, c, word)                                              \
        do {                                                                       \
                struct stream _s = one(x, &(g).submit, NULL, 0);                   \
                assert_int_equal(_s.code, SPARK__V1__ERROR_CODE__##c);             \
                assert_non_null(strstr(_s.message, word));                         \
        } while (0)

static void test_refusals(void **state) {
        struct fixture x = { .config = { .context = 64 } };
        uint32_t tokens[2] = { 1, 258 };
        struct generate g;
        struct stream s;
        char *stops[1] = { (char *)"" };

        start(&x);
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.has_temperature = true;
        g.sampling.temperature = NAN;
        expect_failure(&x, g, INVALID_ARGUMENT, "temperature");
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.has_top_p = true;
        g.sampling.top_p = 0;
        expect_failure(&x, g, INVALID_ARGUMENT, "top_p");
        generate_init(&g, 1, "x", 0, 100);
        expect_failure(&x, g, INVALID_ARGUMENT, "max_tokens");
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.n_stop = 1;
        g.sampling.stop = stops;
        expect_failure(&x, g, INVALID_ARGUMENT, "stop[0]");
        generate_init(&g, 1, "a\xff", 4, 100);
        expect_failure(&x, g, INVALID_UTF8, "byte 1");
        g.generate.raw_bytes = true;
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.n, 4);
        generate_init(&g, 1, "", 4, 100);
        g.generate.no_bos = true;
        expect_failure(&x, g, INVALID_ARGUMENT, "empty");
        g.generate.no_bos = false;
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.n, 4);
        generate_init(&g, 1, "x", 4, 100);
        g.generate.prompt_tokens = tokens;
        g.generate.n_prompt_tokens = 1;
        expect_failure(&x, g, INVALID_ARGUMENT, "both");
        g.generate.prompt.len = 0;
        g.generate.n_prompt_tokens = 2;
        expect_failure(&x, g, INVALID_ARGUMENT, "prompt_tokens[1]");
        generate_init(&g, 1, "0123456789012345678901234567890123456789012345678901234567890123", 4, 100);
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW);
        assert_int_equal(s.have, 66);
        assert_int_equal(s.max, 64);
        generate_init(&g, 1, "01234567890123456789012345678901234567890123456789012345678901", 4, 100);
        s = one(&x, &g.submit, NULL, 0); /* room for one */
        assert_int_equal(s.n, 1);
        assert_int_equal(s.reason, SPARK__V1__FINISH_REASON__LENGTH);
        g.submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST__NOT_SET;
        expect_failure(&x, g, UNIMPLEMENTED, "kind");
        stop(&x, LINK_E_CLOSED);
}

static void test_input_fd(void **state) {
        struct fixture x = { .config = { .context = 4096 } };
        _cleanup_fd_ int sealed = -1, open_fd = -1;
        struct generate g;
        struct stream s;

        start(&x);
        sealed = fd_memfd_new_sealed("t", "hello", 5);
        open_fd = fd_memfd_new("t", 5);
        assert_true(sealed >= 0 && open_fd >= 0);
        generate_init(&g, 1, "", 4, 100);
        g.generate.input_fd = true;
        s = one(&x, &g.submit, &sealed, 1);
        assert_int_equal(s.n, 4);
        s = one(&x, &g.submit, &open_fd, 1);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(s.message, "sealed"));
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        stop(&x, LINK_E_CLOSED);
}

static void test_tokenize(void **state) {
        Spark__V1__Tokenize t = SPARK__V1__TOKENIZE__INIT;
        Spark__V1__Detokenize d = SPARK__V1__DETOKENIZE__INIT;
        Spark__Engine__V1__Submit s = SPARK__ENGINE__V1__SUBMIT__INIT;
        struct fixture x = { 0 };
        uint32_t ids[3];
        EngineFrame *m;

        start(&x);
        t.text.data = (uint8_t *)"a\n\xc3\xa4";
        t.text.len = 4;
        s.key = 5;
        s.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_TOKENIZE;
        s.tokenize = &t;
        submit(&x, &s, NULL, 0);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED);
        assert_int_equal(m->finished->key, 5);
        assert_int_equal(m->finished->done->tokenize->n_ids, 4);
        assert_int_equal(m->finished->done->tokenize->ids[0], 'a' - 32);
        assert_int_equal(m->finished->done->tokenize->ids[1], (uint8_t)('\n' - 32));
        ids[0] = 'h' - 32;
        ids[1] = FAKE_EOS;
        ids[2] = 'i' - 32;
        d.n_tokens = 3;
        d.tokens = ids;
        s.key = 6;
        s.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_DETOKENIZE;
        s.detokenize = &d;
        submit(&x, &s, NULL, 0);
        m = receive(&x);
        assert_int_equal(m->finished->done->detokenize->text.len, 2);
        assert_memory_equal(m->finished->done->detokenize->text.data, "hi", 2);
        stop(&x, LINK_E_CLOSED);
}

static void test_ping(void **state) {
        Spark__Engine__V1__Ping ping = SPARK__ENGINE__V1__PING__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        struct fixture x = { 0 };
        struct stream s = { 0 };
        struct generate g;
        EngineFrame *e;

        start(&x);
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PING;
        m.ping = &ping;
        ping.cookie = 99;
        send_frame(&x, &m, NULL, 0);
        e = receive(&x);
        assert_int_equal(e->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE);
        assert_int_equal(e->state->cookie, 99);
        assert_int_equal(e->state->tokens, 0);
        generate_init(&g, 9, "x", 20, 3);
        submit(&x, &g.submit, NULL, 0);
        while (s.n < 3)
                (void)take(receive(&x), &s, 1, 9);
        send_frame(&x, &m, NULL, 0);
        e = receive(&x);
        assert_int_equal(e->state->paused, 1);
        assert_int_equal(e->state->n_paused_keys, 1);
        assert_int_equal(e->state->paused_keys[0], 9);
        assert_int_equal(e->state->tokens, 3);
        stop(&x, LINK_E_CLOSED);
}

/* Many at once, some cancelled, some given credit drop by drop: each ends exactly once, and no frame is out of place. */
#define STORM 200u

static void test_storm(void **state) {
        static struct stream s[STORM];
        struct fixture x = { .config = { .max_sequences = 16 } };
        size_t ends = 0, cancelled = 0;
        struct generate g;

        memset(s, 0, sizeof(s));
        start(&x);
        for (uint64_t k = 0; k < STORM; k++) {
                generate_init(&g, 1 + k, "storm", 20 + (uint32_t)k, k % 3 == 0 ? 7 : 1000);
                g.submit.client = k % 5;
                submit(&x, &g.submit, NULL, 0);
                if (k % 4 == 1)
                        send_cancel(&x, 1 + k / 2);
        }
        while (ends < STORM) {
                EngineFrame *m = receive_within(&x, 50);

                if (m) {
                        ends += take(m, s, STORM, 1);
                        continue;
                }
                for (uint64_t k = 0; k < STORM; k++)
                        if (!s[k].finished)
                                send_window(&x, 1 + k, 100);
        }
        for (unsigned k = 0; k < STORM; k++) {
                assert_true(s[k].finished);
                cancelled += s[k].code == SPARK__V1__ERROR_CODE__CANCELLED;
                assert_true(s[k].code || s[k].n == 20 + k);
        }
        assert_in_range(cancelled, 0, STORM / 4 + 1);
        stop(&x, LINK_E_CLOSED);
}

static void test_protocol_fault(void **state) {
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Init init = SPARK__ENGINE__V1__INIT__INIT;
        struct fixture x = { 0 };

        start(&x);
        init.version = 1;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_INIT; /* a second one */
        m.init = &init;
        send_frame(&x, &m, NULL, 0);
        assert_int_equal(pthread_join(x.thread, NULL), 0);
        assert_int_equal(x.result, LINK_E_PROTOCOL);
        channel_deinit(&x.control);
        channel_deinit(&x.engine_end);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_streams),      cmocka_unit_test(test_credit_and_cancel),
                cmocka_unit_test(test_refusals),     cmocka_unit_test(test_input_fd),
                cmocka_unit_test(test_tokenize),     cmocka_unit_test(test_ping),
                cmocka_unit_test(test_storm),        cmocka_unit_test(test_protocol_fault),
        };

        log_init("test-engine-link", LOG_LEVEL_WARNING, 0);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
