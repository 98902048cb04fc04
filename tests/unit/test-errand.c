/* SPDX-License-Identifier: Apache-2.0 */

/* Spills and restores between engines: what comes back is found by the next request, bit for bit, and only by its user. */

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/engine/errand.h"
#include "engine-fixture.h"

#define PROMPT 200u
#define OUTPUT 30u

static struct kvfile_kind kind_of(const struct lab *l) {
        return (struct kvfile_kind){
                .backend = "test", .page_tokens = ENGINE_PAGE_TOKENS, .page_bytes = engine_page_bytes(l->engine),
        };
}

/* Runs an errand as the two threads do. Returns what its answer says. */
static uint32_t run_limited(struct lab *l, const struct kvfile_kind *kind, enum request_kind what, uint32_t uid,
                            const struct request *text, int fd, uint64_t max_bytes, char error[160]) {
        struct job *job = job_new();
        struct errand *errand = NULL;
        uint32_t tokens;
        int lost;

        assert_non_null(job);
        job->request.kind = what;
        job->request.uid = uid;
        job->request.n_tokens = text->n_tokens;
        job->request.tokens = calloc(text->n_tokens, sizeof(int32_t));
        assert_non_null(job->request.tokens);
        memcpy(job->request.tokens, text->tokens, text->n_tokens * sizeof(int32_t));
        job->file_fd = dup(fd);
        job->file_max = max_bytes;
        assert_int_equal(errand_new(&errand, job, kind), 0);
        while (errand_step(errand, l->engine, &lost))
                errand_file(errand);
        assert_int_equal(lost, 0);
        tokens = errand->done * kind->page_tokens;
        (void)snprintf(error, 160, "%s", errand->fault.text);
        free(errand_answer(errand));
        (void)errand_free(errand);
        (void)job_free(job);
        return tokens;
}

static uint32_t run(struct lab *l, const struct kvfile_kind *kind, enum request_kind what, uint32_t uid,
                    const struct request *text, int fd, char error[160]) {
        return run_limited(l, kind, what, uid, text, fd, 0, error);
}

static void ask(struct lab *l, struct result *x, uint32_t uid) {
        result_init(x, 1, PROMPT, OUTPUT, 3);
        x->request.uid = uid;
        assert_int_equal(engine_submit(l->engine, &x->request), 0);
        lab_run(l);
        assert_true(x->finished);
}

static void spill_and_restore(const char *backend) {
        const struct engine_config config = { .max_rows = 64 };
        static struct result first, again, other;
        struct kvfile_kind kind;
        struct lab l;
        char error[160];
        int fd = memfd_create("kv", MFD_CLOEXEC);

        assert_true(fd >= 0);
        lab_open(&l, backend, &config);
        kind = kind_of(&l);
        ask(&l, &first, 7);
        assert_int_equal(first.done.cached_tokens, 0);
        assert_int_equal(run(&l, &kind, REQUEST_SPILL, 8, &first.request, fd, error), 0); /* another user has none of it */
        assert_int_equal(run(&l, &kind, REQUEST_SPILL, 7, &first.request, fd, error), PROMPT / 32 * 32);
        lab_close(&l);

        lab_open(&l, backend, &config);
        assert_int_equal(run(&l, &kind, REQUEST_RESTORE, 7, &first.request, fd, error), PROMPT / 32 * 32);
        assert_string_equal(error, "");
        ask(&l, &other, 8);
        assert_int_equal(other.done.cached_tokens, 0);
        ask(&l, &again, 7);
        assert_int_equal(again.done.cached_tokens, PROMPT / 32 * 32);
        assert_same_output(&first, &again);
        assert_same_output(&first, &other);
        assert_int_equal(run(&l, &kind, REQUEST_RESTORE, 7, &first.request, fd, error), PROMPT / 32 * 32); /* is there */
        lab_close(&l);
        result_deinit(&first);
        result_deinit(&again);
        result_deinit(&other);
        (void)fd_close(fd);
}

static void test_cpu(void **state) {
        spill_and_restore("cpu");
}

static void test_null(void **state) {
        spill_and_restore("null");
}

/* A file that does not fit costs nothing but time; a damaged page ends it there. */
static void test_unfit_files(void **state) {
        const struct engine_config config = { .max_rows = 64 };
        static struct result first, again;
        struct kvfile_kind kind, other;
        struct lab l;
        char error[160];
        uint8_t byte = 0;
        int fd = memfd_create("kv", MFD_CLOEXEC);

        lab_open(&l, "null", &config);
        kind = other = kind_of(&l);
        other.fingerprint[0] = 1;
        ask(&l, &first, 7);
        assert_int_equal(run(&l, &kind, REQUEST_SPILL, 7, &first.request, fd, error), PROMPT / 32 * 32);
        lab_close(&l);
        lab_open(&l, "null", &config);
        assert_int_equal(run(&l, &other, REQUEST_RESTORE, 7, &first.request, fd, error), 0);
        assert_non_null(strstr(error, "another model"));
        assert_int_equal(pwrite(fd, &byte, 1, 0), 1);
        assert_int_equal(run(&l, &kind, REQUEST_RESTORE, 7, &first.request, fd, error), 0);
        assert_non_null(strstr(error, "magic"));
        ask(&l, &again, 7);
        assert_same_output(&first, &again);
        lab_close(&l);
        result_deinit(&first);
        result_deinit(&again);
        (void)fd_close(fd);
}

/* A restore takes no page from anybody's running request, and as many as there are. */
static void test_full_pool(void **state) {
        struct engine_config config = { .max_rows = 64, .max_sequences = 2 };
        static struct result first, busy;
        struct kvfile_kind kind;
        struct engine_stats stats;
        struct lab l;
        char error[160];
        int fd = memfd_create("kv", MFD_CLOEXEC);

        lab_open(&l, "cpu", &config);
        kind = kind_of(&l);
        ask(&l, &first, 7);
        assert_int_equal(run(&l, &kind, REQUEST_SPILL, 7, &first.request, fd, error), PROMPT / 32 * 32);
        lab_close(&l);
        config.kv_bytes = 10 * kind.page_bytes;
        lab_open(&l, "cpu", &config);
        result_init(&busy, 9, 200, 100, 1);
        busy.request.uid = 9;
        assert_int_equal(engine_submit(l.engine, &busy.request), 0);
        for (int i = 0; i < 10; i++)
                assert_int_equal(engine_step(l.engine), 1);
        engine_get_stats(l.engine, &stats);
        assert_true(stats.kv_used_bytes >= 7 * kind.page_bytes);
        assert_in_range(run(&l, &kind, REQUEST_RESTORE, 7, &first.request, fd, error), 32, 3 * 32);
        lab_run(&l);
        assert_true(busy.finished);
        lab_close(&l);
        result_deinit(&first);
        result_deinit(&busy);
        (void)fd_close(fd);
}

/* A disk that is full, or a descriptor that cannot be written, ends the spill with a reason. */
static void test_spill_fails(void **state) {
        const struct engine_config config = { 0 };
        static struct result first;
        struct kvfile_kind kind;
        struct lab l;
        char error[160];
        int fd = memfd_create("kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        lab_open(&l, "null", &config);
        kind = kind_of(&l);
        ask(&l, &first, 7);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW), 0);
        (void)run(&l, &kind, REQUEST_SPILL, 7, &first.request, fd, error);
        assert_int_equal(lseek(fd, 0, SEEK_END), 0);
        lab_close(&l);
        result_deinit(&first);
        (void)fd_close(fd);
}

/* The beginning of the text, as far as the file may be long; of nothing at all there is no file. */
static void test_limited_file(void **state) {
        const struct engine_config config = { .max_rows = 64 };
        static struct result first;
        struct kvfile_kind kind;
        uint64_t full;
        struct lab l;
        char error[160];

        lab_open(&l, "null", &config);
        kind = kind_of(&l);
        ask(&l, &first, 7);
        full = kvfile_pages_offset(&kind, PROMPT / 32) + PROMPT / 32 * (kind.page_bytes + 8);
        for (uint64_t less = 0; less <= full; less += MAX(full / 40, (uint64_t)1)) {
                int fd = memfd_create("kv", MFD_CLOEXEC);
                uint64_t max = full - less;
                uint32_t tokens;

                tokens = run_limited(&l, &kind, REQUEST_SPILL, 7, &first.request, fd, MAX(max, (uint64_t)1), error);

                assert_true((uint64_t)lseek(fd, 0, SEEK_END) <= max);
                assert_string_equal(error, "");
                if (less == 0)
                        assert_int_equal(tokens, PROMPT / 32 * 32);
                (void)fd_close(fd);
        }
        lab_close(&l);
        result_deinit(&first);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cpu),         cmocka_unit_test(test_null),        cmocka_unit_test(test_unfit_files),
                cmocka_unit_test(test_full_pool),   cmocka_unit_test(test_spill_fails),
                cmocka_unit_test(test_limited_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
