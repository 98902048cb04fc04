/* SPDX-License-Identifier: Apache-2.0 */

/* What the prep thread makes of a Submit, with a vocabulary of bytes: tokens, what stood before them, the answer that it
 * was accepted, and the sentences of what was not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/fake.h"
#include "daemon/engine/prep.h"
#include "message.h"

#define CONTEXT 64u
#define INVALID SPARK__V1__ERROR_CODE__INVALID_ARGUMENT
#define ID(c) ((c) - ' ') /* the printable characters come first */

static const int32_t abc[] = { FAKE_BOS, ID('a'), ID('b'), ID('c') };

struct lab {
        struct fake_vocab vocab;
        struct tokenizer *tokenizer;
        struct prep prep;
        struct job *job;
        Spark__Engine__V1__Submit submit;
        struct frame *answer;
        struct failure failure;
};

static int set_up(void **state) {
        struct lab *l = calloc(1, sizeof(*l));
        struct tokenizer_def def;
        struct text_error error;

        assert_non_null(l);
        fake_vocab_init(&l->vocab, &def);
        assert_int_equal(tokenizer_new(&l->tokenizer, &def, &error), 0);
        l->prep = (struct prep){
                .tokenizer = l->tokenizer, .chat_fault = "no template", .n_vocab = FAKE_VOCAB, .context = CONTEXT,
        };
        *state = l;
        return 0;
}

static int tear_down(void **state) {
        struct lab *l = *state;

        (void)tokenizer_free(l->tokenizer);
        free(l);
        return 0;
}

static void new_job(struct lab *l) {
        l->job = job_new();
        assert_non_null(l->job);
        l->job->request.key = 5;
}

static void begin(struct lab *l, Spark__Engine__V1__Submit__RequestCase which, void *message) {
        spark__engine__v1__submit__init(&l->submit);
        l->submit.key = 5;
        l->submit.request_case = which;
        l->submit.generate = message; /* of the union */
        new_job(l);
        l->job->submit = &l->submit;
}

static void begin_generate(struct lab *l, Spark__V1__Generate *g) {
        begin(l, SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE, g);
}

static void begin_prewarm(struct lab *l, Spark__V1__Prewarm *w) {
        begin(l, SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM, w);
}

static void end(struct lab *l) {
        free(l->answer);
        l->job = job_free(l->job);
}

static int prepare(struct lab *l) {
        l->answer = NULL;
        l->failure.text[0] = 0;
        return prep_job(&l->prep, l->job, &l->answer, &l->failure);
}

/* Prepared, and Accepted says the same tokens. */
static void expect_tokens(struct lab *l, const int32_t *tokens, size_t n) {
        const Spark__Engine__V1__Accepted *a;
        Spark__Engine__V1__EngineFrame *f;

        assert_int_equal(prepare(l), 0);
        assert_int_equal(l->job->request.n_tokens, n);
        assert_memory_equal(l->job->request.tokens, tokens, n * sizeof(*tokens));
        assert_non_null(l->job->accepted);
        assert_int_equal(message_unpack(&spark__engine__v1__engine_frame__descriptor, l->job->accepted->data,
                                        l->job->accepted->size, (ProtobufCMessage **)&f, NULL), 0);
        assert_int_equal(f->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED);
        a = f->accepted;
        assert_int_equal(a->key, 5);
        assert_int_equal(a->n_prompt_tokens, n);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(a->prompt_tokens[i], tokens[i]);
        (void)message_free(&f->base);
        end(l);
}

static void expect_refusal(struct lab *l, Spark__V1__ErrorCode code, const char *words) {
        assert_int_equal(prepare(l), PREP_E_FAILED);
        assert_int_equal(l->failure.code, code);
        assert_non_null(strstr(l->failure.text, words));
        assert_null(l->job->accepted);
        end(l);
}

static void expect_accepted(struct lab *l, bool accepted) {
        assert_int_equal(prepare(l), 0);
        assert_int_equal(l->job->accepted != NULL, accepted);
        end(l);
}

static void set_text(ProtobufCBinaryData *field, const char *text) {
        field->data = (uint8_t *)text;
        field->len = strlen(text);
}

/* Where a text begins it gets its BOS; behind another one none, whatever the message says. */
static void test_prefix(void **state) {
        const int32_t behind[] = { 7, 8, ID('a'), ID('b'), ID('c') };
        uint32_t prefix[] = { 7, 8 };
        struct lab *l = *state;
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        Spark__V1__Prewarm w = SPARK__V1__PREWARM__INIT;

        set_text(&g.prompt, "abc");
        set_text(&w.text, "abc");
        for (unsigned no_bos = 0; no_bos < 2; no_bos++)
                for (unsigned with = 0; with < 2; with++)
                        for (unsigned prewarm = 0; prewarm < 2; prewarm++) {
                                g.no_bos = w.no_bos = no_bos;
                                if (prewarm)
                                        begin_prewarm(l, &w);
                                else
                                        begin_generate(l, &g);
                                l->submit.prefix = prefix;
                                l->submit.n_prefix = with ? 2 : 0;
                                if (with)
                                        expect_tokens(l, behind, 5);
                                else
                                        expect_tokens(l, abc + no_bos, 4 - no_bos);
                        }
        set_text(&g.prompt, ""); /* goes on right where it stands */
        begin_generate(l, &g);
        l->submit.prefix = prefix;
        l->submit.n_prefix = 2;
        expect_tokens(l, behind, 2);
        prefix[1] = FAKE_VOCAB;
        begin_generate(l, &g);
        l->submit.prefix = prefix;
        l->submit.n_prefix = 2;
        expect_refusal(l, INVALID, "prefix[1]");
}

/* Accepted is packed for what may be taken. What is too long is for the engine to refuse; a text to score may be longer than
 * the context. */
static void test_accepted(void **state) {
        struct lab *l = *state;
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        Spark__V1__Prewarm w = SPARK__V1__PREWARM__INIT;
        Spark__V1__Score s = SPARK__V1__SCORE__INIT;
        Spark__V1__Forget forget = SPARK__V1__FORGET__INIT;
        uint32_t tokens[CONTEXT * 3] = { 0 };

        g.prompt_tokens = w.tokens = s.tokens = tokens;
        for (uint32_t more = 0; more < 2; more++) {
                g.n_prompt_tokens = CONTEXT - 1 + more; /* one has to fit in behind it */
                begin_generate(l, &g);
                expect_accepted(l, more == 0);
                w.n_tokens = CONTEXT + more;
                begin_prewarm(l, &w);
                expect_accepted(l, more == 0);
        }
        for (uint32_t n = 2; n <= ARRAY_SIZE(tokens); n += CONTEXT - 1) {
                s.n_tokens = n;
                begin(l, SPARK__ENGINE__V1__SUBMIT__REQUEST_SCORE, &s);
                expect_accepted(l, true);
        }
        forget.all_users = true;
        begin(l, SPARK__ENGINE__V1__SUBMIT__REQUEST_FORGET, &forget);
        assert_int_equal(prepare(l), 0);
        assert_int_equal(l->job->request.kind, REQUEST_FORGET);
        assert_true(l->job->request.share && !l->job->accepted);
        end(l);
}

static void test_who(void **state) {
        static const enum schedule_class classes[] = { SCHEDULE_NORMAL, SCHEDULE_BACKGROUND, SCHEDULE_NORMAL,
                                                       SCHEDULE_INTERACTIVE };
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        struct lab *l = *state;

        for (int priority = -1; priority < 5; priority++) {
                const struct request *r;

                begin_generate(l, &g);
                r = &l->job->request;
                l->submit.priority = (Spark__V1__Priority)priority;
                l->submit.uid = 17;
                l->submit.client = 99;
                l->submit.weight = 3;
                l->submit.running_limit = 4;
                l->submit.queued_limit = 5;
                l->submit.kv_limit = 1ull << 40;
                if (priority < 0 || priority > 3) {
                        expect_refusal(l, INVALID, "priority");
                        continue;
                }
                assert_int_equal(prepare(l), 0);
                assert_int_equal(r->class, classes[priority]);
                assert_int_equal(r->uid, 17);
                assert_int_equal(r->client, 99);
                assert_int_equal(r->weight, 3);
                assert_int_equal(r->running_limit, 4);
                assert_int_equal(r->queued_limit, 5);
                assert_true(r->kv_limit == 1ull << 40);
                end(l);
        }
}

static void test_prewarm_comes_in_one_way(void **state) {
        Spark__V1__ChatMessage message = SPARK__V1__CHAT_MESSAGE__INIT, *messages[] = { &message };
        Spark__V1__Prewarm w = SPARK__V1__PREWARM__INIT;
        uint32_t tokens[] = { 1, FAKE_VOCAB };
        struct lab *l = *state;

        w.tokens = tokens;
        w.n_tokens = 2;
        begin_prewarm(l, &w);
        expect_refusal(l, INVALID, "tokens[1]");
        w.n_tokens = 1;
        set_text(&w.text, "abc");
        begin_prewarm(l, &w);
        expect_refusal(l, INVALID, "text and tokens are both given");
        w.n_tokens = 0;
        w.messages = messages;
        w.n_messages = 1;
        begin_prewarm(l, &w);
        expect_refusal(l, INVALID, "messages and text are both given");
        w.text.len = 0;
        begin_prewarm(l, &w);
        l->submit.prefix = tokens;
        l->submit.n_prefix = 1;
        expect_refusal(l, INVALID, "behind a session's text");
        begin_prewarm(l, &w);
        expect_refusal(l, SPARK__V1__ERROR_CODE__MODEL_INVALID, "no template");
}

static void test_replay(void **state) {
        uint32_t prompt[] = { 1, 2 }, generated[] = { 3, FAKE_VOCAB };
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        struct lab *l = *state;

        g.prompt_tokens = prompt;
        g.n_prompt_tokens = 2;
        for (size_t n = 0; n < 3; n++) {
                begin_generate(l, &g);
                l->submit.replay = true;
                l->submit.generated = generated;
                l->submit.n_generated = n;
                if (n == 2) {
                        expect_refusal(l, INVALID, "generated[1]");
                        continue;
                }
                assert_int_equal(prepare(l), 0);
                assert_true(l->job->request.replay);
                assert_int_equal(l->job->request.n_generated, n);
                end(l);
        }
        begin_generate(l, &g);
        l->submit.generated = generated;
        l->submit.n_generated = 1;
        expect_refusal(l, INVALID, "generated goes with replay");
}

/* A Restore: whose it is and which tokens; faults name the field. */
static void test_errands(void **state) {
        Spark__Engine__V1__Restore restore = SPARK__ENGINE__V1__RESTORE__INIT;
        uint32_t tokens[] = { 1, 2, FAKE_VOCAB };
        struct lab *l = *state;

        restore.uid = 9;
        restore.tokens = tokens;
        restore.n_tokens = 2;
        new_job(l);
        l->job->restore = &restore;
        assert_int_equal(prepare(l), 0);
        assert_int_equal(l->job->request.uid, 9);
        assert_int_equal(l->job->request.n_tokens, 2);
        assert_null(l->job->accepted);
        end(l);
        restore.n_tokens = 3;
        new_job(l);
        l->job->restore = &restore;
        expect_refusal(l, INVALID, "tokens[2]");
        l->prep.vocabulary_only = true;
        new_job(l);
        l->job->restore = &restore;
        expect_refusal(l, SPARK__V1__ERROR_CODE__MODEL_INVALID, "without weights");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_prefix, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_accepted, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_who, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_prewarm_comes_in_one_way, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_replay, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_errands, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
