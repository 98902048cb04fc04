/* SPDX-License-Identifier: Apache-2.0 */

/* sparkctl load, unload and jobs. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "sparkctl-fixture.h"

/* ---- the service ---- */

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

static bool answer_one(struct fake *f, const Spark__V1__ClientFrame *m) {
        switch (m->body_case) {
        case BODY(LOAD):
                if (strcmp(m->load->model, "m.gguf") == 0)
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "There is none.", 0, 0, 0);
                else
                        answer_load(f, m);
                return true;
        case BODY(MODEL_PACK):
                fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "There is none.", 0, 0, 0);
                return true;
        case BODY(MODEL_VERIFY):
                fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "The store has no model 'm'.", 0, 0, 0);
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

/* ---- the verbs ---- */

static void test_load(void **state) {
        struct ctl *x = *state;
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

/* Who forgets the slash is told, and who looks for a model in the store how it gets there. */
static void test_not_found(void **state) {
        const struct ctl *x = *state;
        char path[160], *before = getcwd(NULL, 0);
        int fd;

        assert_non_null(before);
        assert_int_equal(chdir(x->dir), 0);
        {
                _cleanup_output_ struct output o = RUN("load", "m.gguf");
                expect(&o, 1, "");
                assert_non_null(strstr(o.err.data, "`sparkctl models` lists"));
        }
        fd = open("m.gguf", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        (void)close(fd);
        {
                _cleanup_output_ struct output load = RUN("load", "m.gguf"), pack = RUN("pack", "--name", "p", "m.gguf");
                assert_non_null(strstr(load.err.data, "A file is named with a '/': ./m.gguf\n"));
                assert_non_null(strstr(pack.err.data, "A file is named with a '/': ./m.gguf\n"));
        }
        {
                _cleanup_output_ struct output o = RUN("models", "verify", "m");
                assert_non_null(strstr(o.err.data, "`sparkctl models import FILE`"));
        }
        {
                _cleanup_output_ struct output load = RUN("load", "./nothing"), import = RUN("models", "import", "nothing");
                assert_non_null(strstr(load.err.data, "a name without '/' means a model that the service knows"));
                assert_non_null(strstr(import.err.data, "Check the path.\n"));
        }
        assert_int_equal(chdir(before), 0);
        free(before);
        (void)snprintf(path, sizeof(path), "%.63s/m.gguf", x->dir);
        (void)unlink(path);
}

static void test_jobs(void **state) {
        {
                _cleanup_output_ struct output o = RUN("jobs");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "     7  load     my?[2J model "));
                assert_non_null(strstr(o.out.data, "load 75 % "));
                assert_non_null(strstr(o.out.data, "1.00 GiB/s        1.0 s  root"));
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

int main(void) {
        const struct CMUnitTest tests[] = {
                CTL_TEST(test_load),
                CTL_TEST(test_not_found),
                CTL_TEST(test_jobs),
        };

        ctl.answer = answer_one;
        return cmocka_run_group_tests(tests, ctl_group_setup, ctl_group_teardown);
}
