/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: whole results, loads, and what is too large for a frame. */

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
        struct client_seen seen = { 0 };
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
        assert_int_equal(spark_score(s, &sc, client_see, &seen, &id), 0);
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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_results),
                cmocka_unit_test(test_loads),
                cmocka_unit_test(test_large_input),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
