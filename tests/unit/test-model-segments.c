/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A real manager with the real loader and engine, whose model gives parts of its image back and loads them again. The
 * programs stand beside the program that starts them, so the test runs as a copy of itself in a folder of its own; there
 * the loader makes small segments, so that a small model has many. Also what else takes the real programs: an engine that ends.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/control/manager.h"
#include "daemon/control/memory/shed.h"
#include "daemon/control/model/engine.h"
#include "daemon/control/model/load.h"
#include "daemon/control/spawn.h"

#define FOLDER "SPARK_TEST_FOLDER"
#define MODEL "share/models/spark-tiny.gguf"
#define SEGMENT_BYTES 300000
#define PATIENCE_US (60u * 1000000u)

struct world {
        struct manager *m;
        struct model *model;
        char path[PATH_MAX]; /* of the model: a copy */
};

/* So many bytes at least, as whoever wants memory asks for them. Returns what that is reckoned to give. */
static uint64_t give_part(struct model *model, enum model_hold why, uint64_t bytes) {
        uint64_t segments = shed_plan_choose(model->segment_bytes, model->n_segments, model->missing, bytes);
        uint64_t before = model_missing_bytes(model);

        assert_true(segments != SHED_WHOLE);
        assert_true(model_give_back_part(model, why, segments));
        return model_missing_bytes(model) - before;
}

/* What is in memory of an image: a segment's memfd and a sum of its bytes. */
struct segment {
        ino_t inode;
        uint64_t bytes, sum;
};

static void copy_file(const char *from, const char *to, unsigned mode) {
        FILE *in = fopen(from, "re"), *out = fopen(to, "we");
        char part[65536];
        size_t n;

        assert_true(in && out);
        while ((n = fread(part, 1, sizeof(part), in)) > 0)
                assert_int_equal(fwrite(part, 1, n, out), n);
        (void)fclose(in);
        assert_int_equal(fclose(out), 0);
        assert_int_equal(chmod(to, mode), 0);
}

static void *open_world(void) {
        struct world *w = calloc(1, sizeof(*w));
        const char *folder = getenv(FOLDER);
        struct config_error error = { "" };
        struct config *config = NULL;
        char text[2 * PATH_MAX];

        (void)snprintf(w->path, sizeof(w->path), "%s/model.gguf", folder);
        copy_file(MODEL, w->path, 0600);
        (void)snprintf(text, sizeof(text),
                       "socket = \"%s/s\"; state_dir = \"%s\"; bus = \"none\"; backend = \"cpu\"; threads = 1;\n"
                       "memory = { floor = \"1M\"; kv = \"8M\"; };\n"
                       "models = ({ name = \"m\"; path = \"%s\"; default = true; });\n",
                       folder, folder, w->path);
        if (config_parse(&config, text, "/", &error) != 0)
                fail_msg("%s", error.text);
        assert_int_equal(manager_new(&w->m, config, NULL), 0);
        manager_kick(w->m);
        w->model = LIST_ENTRY(w->m->models.list.next, struct model, link);
        return w;
}

static void run_until(struct world *w, enum model_state state) {
        uint64_t end = manager_now_us() + PATIENCE_US;

        while (w->model->state != state) {
                if (manager_now_us() > end || (w->model->state == MODEL_FAILED && state != MODEL_FAILED))
                        fail_msg("the model is %s: %s", model_state_name(w->model), w->model->error.text);
                assert_true(sd_event_run(w->m->event, 100000) >= 0);
        }
}

/* What is due now is done. */
static void settle(struct world *w) {
        manager_kick(w->m);
        while (sd_event_run(w->m->event, 0) > 0)
                ;
}

static void close_world(struct world *w) {
        uint64_t end = manager_now_us() + PATIENCE_US;

        manager_stop(w->m);
        while (sd_event_get_state(w->m->event) != SD_EVENT_FINISHED && manager_now_us() < end)
                assert_true(sd_event_run(w->m->event, 100000) >= 0);
        w->m = manager_free(w->m);
        free(w);
}

static struct segment look(int fd) {
        struct segment s = { .sum = 1469598103934665603u };
        struct stat st;
        const uint8_t *p;

        assert_int_equal(fstat(fd, &st), 0);
        s.inode = st.st_ino;
        s.bytes = (uint64_t)st.st_size;
        p = mmap(NULL, s.bytes, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(p != MAP_FAILED);
        for (uint64_t i = 0; i < s.bytes; i++)
                s.sum = (s.sum ^ p[i]) * 1099511628211u;
        (void)munmap((void *)p, s.bytes);
        return s;
}

static void look_at_all(const struct model *model, struct segment *ret) {
        for (size_t i = 0; i < model->n_segments; i++)
                ret[i] = look(model->segments[i]);
}

/* The same bytes; the same memory, too, where nothing was given back. */
static void compare(const struct model *model, const struct segment *before, uint64_t given) {
        for (size_t i = 0; i < model->n_segments; i++) {
                struct segment now = look(model->segments[i]);

                assert_int_equal(now.bytes, before[i].bytes);
                assert_true(now.sum == before[i].sum);
                assert_int_equal(now.inode != before[i].inode, given >> i & 1);
        }
}

static void test_part(void **state) {
        static struct segment before[LOADLINK_SEGMENTS_MAX];
        struct world *w = open_world();
        struct model *model = w->model;
        uint64_t image, read, bytes, given;
        unsigned n;

        run_until(w, MODEL_READY);
        image = model->image_bytes;
        read = model->read_bytes;
        n = (unsigned)model->n_segments;
        assert_in_range(n, 4, LOADLINK_SEGMENTS_MAX);
        look_at_all(model, before);
        for (unsigned part = 1; part <= 3; part++) {
                bytes = give_part(model, MODEL_HOLD_LEASE, image * part / 4);
                assert_true(bytes >= image * part / 4 && bytes < image);
                run_until(w, MODEL_AVAILABLE);
                given = model->missing;
                assert_true(given != 0 && !(given & 1));
                assert_int_equal(model->image_bytes, image - bytes);
                assert_null(model->engine);
                for (unsigned i = 0; i < n; i++)
                        assert_int_equal(model->segments[i] < 0, given >> i & 1);
                for (unsigned i = 0; i < 20; i++) { /* held: nothing happens */
                        assert_true(sd_event_run(w->m->event, 10000) >= 0);
                        assert_int_equal(model->state, MODEL_AVAILABLE);
                }
                model_release(model, MODEL_HOLD_LEASE);
                run_until(w, MODEL_READY);
                assert_int_equal(model->image_bytes, image);
                assert_int_equal(model->missing, 0);
                assert_true(model->read_bytes > 0 && model->read_bytes < read); /* and no more than that was read */
                compare(model, before, given);
                look_at_all(model, before);
        }
        close_world(w);
}

/* More while it is held, then all of it. */
static void test_more_and_all(void **state) {
        static struct segment before[LOADLINK_SEGMENTS_MAX];
        struct world *w = open_world();
        struct model *model = w->model;
        uint64_t image, first, second;

        run_until(w, MODEL_READY);
        image = model->image_bytes;
        look_at_all(model, before);
        first = give_part(model, MODEL_HOLD_LEASE, 1);
        second = give_part(model, MODEL_HOLD_PRESSURE, 1); /* its engine has not ended yet */
        assert_true(first > 0 && second > 0);
        run_until(w, MODEL_AVAILABLE);
        assert_int_equal(model->image_bytes, image - first - second);
        first += give_part(model, MODEL_HOLD_LEASE, 1);
        assert_int_equal(model->image_bytes, image - first - second);
        model_release(model, MODEL_HOLD_LEASE);
        settle(w);
        assert_int_equal(model->state, MODEL_AVAILABLE); /* one holds it still */
        model_release(model, MODEL_HOLD_PRESSURE);
        run_until(w, MODEL_READY);
        look_at_all(model, before);
        (void)give_part(model, MODEL_HOLD_LEASE, image / 2);
        run_until(w, MODEL_AVAILABLE);
        assert_false(model_give_back_part(model, MODEL_HOLD_LEASE, SHED_WHOLE));
        assert_int_equal(model->image_bytes, 0);
        assert_int_equal(model->n_segments, 0);
        assert_int_equal(model->missing, 0);
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_READY);
        compare(model, before, UINT64_MAX);
        close_world(w);
}

/* Given back while it is being loaded again: what was there stays there, but for what is wanted. */
static void test_while_loading(void **state) {
        static struct segment before[LOADLINK_SEGMENTS_MAX];
        struct world *w = open_world();
        struct model *model = w->model;
        uint64_t missing, more, image;

        run_until(w, MODEL_READY);
        look_at_all(model, before);
        image = model->image_bytes;
        (void)give_part(model, MODEL_HOLD_LEASE, model->image_bytes / 2);
        run_until(w, MODEL_AVAILABLE);
        missing = model->missing;
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_LOADING);
        more = give_part(model, MODEL_HOLD_LEASE, 1);
        assert_true(more > 0);
        assert_int_equal(model->state, MODEL_AVAILABLE);
        assert_null(model->load);
        assert_int_equal(model->missing & missing, missing);
        assert_true(model->missing != missing);
        assert_int_equal(model->image_bytes + model_missing_bytes(model), image);
        missing = model->missing;
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_LOADING);
        assert_true(model_give_back_part(model, MODEL_HOLD_LEASE, 0)); /* nothing more: only the load ends */
        assert_int_equal(model->missing, missing);
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_READY);
        assert_int_equal(model->missing, 0);
        compare(model, before, missing);
        close_world(w);
}

/* Only its engine: nothing is read to have it back. */
static void test_engine_alone(void **state) {
        static struct segment before[LOADLINK_SEGMENTS_MAX];
        struct world *w = open_world();
        struct model *model = w->model;
        uint64_t image;

        run_until(w, MODEL_READY);
        look_at_all(model, before);
        image = model->image_bytes;
        assert_true(model_give_back_part(model, MODEL_HOLD_LEASE, 0));
        run_until(w, MODEL_AVAILABLE);
        assert_int_equal(model->image_bytes, image);
        assert_int_equal(unlink(w->path), 0); /* it is not needed */
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_READY);
        compare(model, before, 0);
        assert_int_equal(model->read_bytes > 0, 1);
        close_world(w);
}

/* Nobody wants it any more: what was left of it goes, too. */
static void test_not_wanted(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;

        for (unsigned how = 0; how < 2; how++) {
                run_until(w, MODEL_READY);
                (void)give_part(model, MODEL_HOLD_LEASE, model->image_bytes / 2);
                run_until(w, MODEL_AVAILABLE);
                assert_true(model_is_part(model));
                if (how == 0) {
                        model_unload_idle(model);
                } else {
                        model->load_wanted = false; /* as after an Unload */
                        model_kick(model);
                }
                settle(w);
                assert_int_equal(model->state, MODEL_AVAILABLE);
                assert_int_equal(model->image_bytes, 0);
                assert_int_equal(model->n_segments, 0);
                assert_int_equal(model->missing, 0);
                model_release(model, MODEL_HOLD_LEASE);
                settle(w);
                assert_int_equal(model->state, MODEL_AVAILABLE);
                model->load_wanted = true;
                model_kick(model);
                settle(w);
        }
        run_until(w, MODEL_READY);
        close_world(w);
}

/* Its file is gone when a part is to be given: what could not be read again is not torn apart. */
static void test_file_gone(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;

        run_until(w, MODEL_READY);
        assert_int_equal(unlink(w->path), 0);
        assert_false(model_give_back_part(model, MODEL_HOLD_LEASE, 2));
        run_until(w, MODEL_AVAILABLE);
        assert_int_equal(model->n_segments, 0);
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_FAILED);
        assert_int_equal(model->error.code, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        copy_file(MODEL, w->path, 0600);
        model->load_wanted = true;
        model_kick(model);
        settle(w);
        run_until(w, MODEL_READY);
        /* and when a part is to be read again */
        (void)give_part(model, MODEL_HOLD_LEASE, 1);
        run_until(w, MODEL_AVAILABLE);
        assert_int_equal(unlink(w->path), 0);
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_FAILED);
        assert_int_equal(model->error.code, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        assert_int_equal(model->image_bytes + model->n_segments + model->missing, 0);
        copy_file(MODEL, w->path, 0600);
        model->load_wanted = true;
        model_kick(model);
        settle(w);
        run_until(w, MODEL_READY);
        close_world(w);
}

static uint64_t taken_by_model(struct world *w) {
        models_count_memory(w->m);
        return w->m->memory.images;
}

/* As the product does it: who wants memory, a second one, and both let go. */
static void test_shed(void **state) {
        static struct segment before[LOADLINK_SEGMENTS_MAX];
        const struct shed_want want = { .limit = SHED_WEIGHTS, .exact = true };
        struct world *w = open_world();
        struct model *model = w->model;
        uint64_t image, missing, other;
        struct shed *a, *b;

        run_until(w, MODEL_READY);
        look_at_all(model, before);
        image = model->image_bytes;
        other = model->facts.other_bytes; /* nobody has filled the pool */
        assert_int_equal(shed_new(&a, w->m, &want), 0);
        shed_change(a, other + image / 4);
        run_until(w, MODEL_UNLOADING);
        run_until(w, MODEL_AVAILABLE);
        missing = model_missing_bytes(model);
        assert_true(missing >= image / 4 && missing < image / 2);
        assert_int_equal(taken_by_model(w), image - missing);
        assert_true(shed_bytes(w->m) == other + image / 4);
        assert_int_equal(shed_new(&b, w->m, &want), 0);
        shed_change(b, image / 4);
        settle(w);
        assert_int_equal(model->state, MODEL_AVAILABLE);
        assert_true(model_missing_bytes(model) >= image / 2 && model_missing_bytes(model) < image);
        assert_int_equal(taken_by_model(w), image - model_missing_bytes(model));
        missing = model->missing;
        a = shed_free(a); /* the other one still needs a part of it */
        for (unsigned i = 0; i < 10; i++)
                assert_true(sd_event_run(w->m->event, 10000) >= 0);
        assert_int_equal(model->state, MODEL_AVAILABLE);
        assert_int_equal(model->missing, missing);
        b = shed_free(b);
        run_until(w, MODEL_READY);
        compare(model, before, missing);
        assert_int_equal(taken_by_model(w), image);
        assert_int_equal(shed_bytes(w->m) + shed_given(w->m) + shed_pending(w->m), 0);
        close_world(w);
}

/* A byte of its file is another one by now, or its time is: what is there does not fit, and is not computed with. */
static void test_changed_file(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;
        FILE *f;

        run_until(w, MODEL_READY);
        (void)give_part(model, MODEL_HOLD_LEASE, model->image_bytes / 2);
        run_until(w, MODEL_AVAILABLE);
        (void)usleep(20000);
        f = fopen(w->path, "r+e");
        assert_non_null(f);
        assert_int_equal(fseek(f, -1000, SEEK_END), 0);
        assert_int_equal(fputc('x', f), 'x');
        assert_int_equal(fclose(f), 0);
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_FAILED);
        assert_non_null(strstr(model->error.text, "have changed"));
        assert_int_equal(model->error.code, SPARK__V1__ERROR_CODE__MODEL_INVALID);
        assert_int_equal(model->image_bytes, 0);
        assert_int_equal(model->n_segments, 0);
        model->load_wanted = true; /* somebody loads it: anew, whole */
        model_kick(model);
        settle(w);
        run_until(w, MODEL_READY);
        close_world(w);
}

/* The loader's plan is another one, although the files seem to be the same. */
static void test_another_plan(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;

        run_until(w, MODEL_READY);
        (void)give_part(model, MODEL_HOLD_LEASE, model->image_bytes / 2);
        run_until(w, MODEL_AVAILABLE);
        model->image_checksum ^= 1;
        model_release(model, MODEL_HOLD_LEASE);
        run_until(w, MODEL_FAILED);
        assert_non_null(strstr(model->error.text, "have changed"));
        close_world(w);
}

/* With the last descriptor of an image its memory is freed: that is the engine's end, not the loop, which serves others meanwhile. */
static void test_unload(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;

        run_until(w, MODEL_READY);
        model->load_wanted = false;
        model_unload_idle(model);
        assert_int_equal(model->state, MODEL_UNLOADING);
        assert_int_equal(model->n_segments, 0);
        assert_int_equal(model->segments[0], -1);
        assert_true(model->image_bytes > 0); /* not before it is gone */
        run_until(w, MODEL_AVAILABLE);
        assert_int_equal(model->image_bytes, 0);
        close_world(w);
}

/* A process that is just being started has a copy of the descriptor that tells of an engine's end, so closing ours does not take it
 * out of the loop: its source has to be gone by then, or the loop is told of one that was freed. */
static void test_copy_of_pidfd(void **state) {
        struct world *w = open_world();
        struct model *model = w->model;
        int copy;

        run_until(w, MODEL_READY);
        copy = fcntl(model->engine->pidfd, F_DUPFD_CLOEXEC, 0);
        assert_true(copy >= 0);
        spawn_kill(copy, SIGKILL);
        run_until(w, MODEL_STARTING);
        assert_int_equal(model->restarts, 1);
        run_until(w, MODEL_READY); /* with the copy there, many turns of the loop */
        assert_int_equal(fd_close(copy), -1);
        assert_int_equal(model->restarts, 1);
        close_world(w);
}

static void write_script(const char *path, const char *bin) {
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_true(fprintf(f, "#!/bin/sh\nexec %s/spark-loader --segment-bytes %d \"$@\"\n", bin, SEGMENT_BYTES) > 0);
        assert_int_equal(fclose(f), 0);
        assert_int_equal(chmod(path, 0700), 0);
}

/* Once more, as a copy in a folder with the programs; comes back where they are not there. */
static void run_in_folder(char **argv) {
        char self[PATH_MAX], bin[PATH_MAX + 16], engine[PATH_MAX + 64], path[PATH_MAX + 64];
        char folder[] = "/tmp/spark-segments-XXXXXX";
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

        assert_true(n > 0);
        self[n] = 0;
        *strrchr(self, '/') = 0;
        (void)snprintf(bin, sizeof(bin), "%s/../bin", self);
        (void)snprintf(engine, sizeof(engine), "%s/spark-engine", bin);
        if (access(engine, X_OK) < 0 || access(MODEL, R_OK) < 0)
                return;
        assert_non_null(mkdtemp(folder));
        (void)snprintf(path, sizeof(path), "%s/spark-loader", folder);
        write_script(path, bin);
        (void)snprintf(path, sizeof(path), "%s/spark-engine", folder);
        assert_int_equal(symlink(engine, path), 0);
        (void)snprintf(path, sizeof(path), "%s/test", folder);
        copy_file("/proc/self/exe", path, 0700);
        (void)setenv(FOLDER, folder, 1);
        (void)execv(path, argv);
        print_error("%s: %s\n", path, strerror(errno));
}

static int remove_folder(void **state) {
        char command[256];

        (void)snprintf(command, sizeof(command), "rm -rf %.200s", getenv(FOLDER));
        return system(command);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_part),         cmocka_unit_test(test_more_and_all), cmocka_unit_test(test_while_loading),
                cmocka_unit_test(test_engine_alone), cmocka_unit_test(test_not_wanted),   cmocka_unit_test(test_file_gone),
                cmocka_unit_test(test_shed),
                cmocka_unit_test(test_changed_file), cmocka_unit_test(test_another_plan),
                cmocka_unit_test(test_unload),       cmocka_unit_test(test_copy_of_pidfd),
        };

        log_init("test-model-segments", LOG_LEVEL_WARNING, 0);
        if (getenv("SPARK_TEST_EMULATED")) {
                print_message("skipped: an emulated program does not start others\n");
                return 0;
        }
        if (!getenv(FOLDER))
                run_in_folder(argv);
        if (!getenv(FOLDER)) {
                print_message("skipped: no programs beside the tests, or no model\n");
                return 0;
        }
        return cmocka_run_group_tests(tests, NULL, remove_folder);
}
