/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store on disk, whatever ends a change half-way. Every write, sync, rename and unlink of a change fails in turn, alone
 * or with all that come after it (which is how a process that was killed looks from the disk); then the store is opened
 * again, and what names mean must be whole, and nothing left that belongs to nobody.
 *
 * Calls are counted by the linker's --wrap.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/control/store/store-file.h"
#include "store-fixture.h"

/* ---- faults ---- */

static struct {
        unsigned count;   /* calls so far */
        unsigned fail_at; /* 0 = none */
        bool for_good;    /* and all after it */
        bool hit;
        char order[4096]; /* what was synced and renamed */
        const struct store_dirs *dirs;
} faults;

static bool is_due(void) {
        faults.count++;
        if (!faults.fail_at || (faults.count != faults.fail_at && !(faults.for_good && faults.count > faults.fail_at)))
                return false;
        faults.hit = true;
        errno = EIO;
        return true;
}

static const char *folder_name(int fd) {
        const struct store_dirs *d = faults.dirs;

        return !d ? "" : fd == d->blobs ? "blobs" : fd == d->models ? "models" : fd == d->names ? "names" : "file";
}

static void note(const char *what, int fd) {
        size_t n = strlen(faults.order);

        (void)snprintf(faults.order + n, sizeof(faults.order) - n, "%s %s; ", what, folder_name(fd));
}

ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);

ssize_t __wrap_write(int fd, const void *data, size_t size) {
        return faults.dirs && is_due() ? -1 : __real_write(fd, data, size);
}

int __wrap_fsync(int fd) {
        if (faults.dirs && is_due())
                return -1;
        note("sync", fd);
        return __real_fsync(fd);
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to) {
        if (faults.dirs && is_due())
                return -1;
        note("rename", to_dir);
        return __real_renameat(from_dir, from, to_dir, to);
}

int __wrap_unlinkat(int dir, const char *name, int flags) {
        if (faults.dirs && is_due())
                return -1;
        if (__real_unlinkat(dir, name, flags) < 0)
                return -1;
        note("unlink", dir);
        return 0;
}

/* ---- a store ---- */

struct fixture {
        char folder[64];
        struct store_dirs dirs;
        struct store_manifest a, b; /* b has two files, the first of which is a's */
};

static void arm(struct fixture *f, unsigned at, bool for_good) {
        memset(&faults, 0, sizeof(faults));
        faults.fail_at = at;
        faults.for_good = for_good;
        faults.dirs = &f->dirs;
}

static bool disarm(void) {
        faults.dirs = NULL;
        return faults.hit;
}

static void put_incoming(const struct fixture *f, const char *name) {
        int fd = store_incoming_create(&f->dirs, name);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, "data", 4), 4);
        (void)close(fd);
}

static int add(const struct fixture *f, const struct store_manifest *m, const char *name, const char *fresh) {
        const struct store_name n = make_name(name, m);
        char incoming[4][24] = { "" };
        const struct store_addition a = { .manifest = m, .incoming = incoming, .name = &n };

        for (size_t i = 0; fresh[i]; i++) /* '+': it is among the incoming */
                if (fresh[i] == '+')
                        (void)snprintf(incoming[i], sizeof(incoming[i]), "%zu", i);
        return store_file_add(&f->dirs, &a);
}

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        log_init("test", LOG_LEVEL_ERROR, 0);
        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/test-store-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        assert_int_equal(store_dirs_open(&f->dirs, f->folder), 0);
        f->a = make_manifest('a', 1);
        f->b = make_manifest('a', 2);
        put_incoming(f, "0");
        assert_int_equal(add(f, &f->a, "a", "+"), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;
        char command[128];

        faults.dirs = NULL;
        store_dirs_close(&f->dirs);
        (void)snprintf(command, sizeof(command), "rm -rf %s", f->folder);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a name that mkdtemp() made */
        store_manifest_deinit(&f->a);
        store_manifest_deinit(&f->b);
        free(f);
        return 0;
}

static size_t count_files(int dir) {
        int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fdopendir(fd);
        size_t n = 0;

        assert_non_null(d);
        for (const struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.' || strcmp(e->d_name, ".new") == 0;
        (void)closedir(d);
        return n;
}

static const char *meaning(const struct store_found *s, const char *name) {
        for (size_t i = 0; i < s->n_names; i++)
                if (strcmp(s->names[i].name, name) == 0)
                        return s->names[i].id;
        return "";
}

/* Opens it again: every name means a model that is whole, and nothing else is there. */
static void reopen(struct fixture *f, struct store_found *ret) {
        size_t blobs = 0;

        store_dirs_close(&f->dirs);
        assert_int_equal(store_dirs_open(&f->dirs, f->folder), 0);
        assert_int_equal(store_file_scan(&f->dirs, ret), 0);
        for (size_t i = 0; i < ret->n_models; i++) {
                assert_false(ret->damaged[i]);
                for (size_t k = 0; k < ret->models[i].n_files; k++)
                        assert_int_equal(faccessat(f->dirs.blobs, ret->models[i].files[k].digest, R_OK, 0), 0);
                blobs = MAX(blobs, ret->models[i].n_files); /* b's files are a's and one more */
        }
        assert_int_equal(count_files(f->dirs.blobs), blobs);
        assert_int_equal(count_files(f->dirs.models), ret->n_models);
        assert_int_equal(count_files(f->dirs.names), ret->n_names);
        assert_int_equal(count_files(f->dirs.incoming), 0);
}

/* ---- each change, with each fault ---- */

static int change_add(struct fixture *f) {
        return add(f, &f->b, "b", "-+");
}

static int change_replace(struct fixture *f) {
        return add(f, &f->b, "a", "-+");
}

static int change_alias(struct fixture *f) {
        const struct store_name n = make_name("b", &f->a);
        const struct store_addition a = { .name = &n };

        return store_file_add(&f->dirs, &a);
}

static int change_pin(struct fixture *f) {
        struct store_manifest m = f->a;

        m.pinned = true;
        m.pinned_by = 5;
        return store_file_update(&f->dirs, &m);
}

static int change_remove(struct fixture *f) {
        char names[1][CONFIG_MODEL_NAME_MAX + 1] = { "a" }, blobs[1][STORE_DIGEST_TEXT + 1];
        const struct store_removal r = { .names = names, .n_names = 1, .id = f->a.id, .blobs = blobs, .n_blobs = 1 };
        struct store_removed removed;

        memcpy(blobs[0], f->a.id, sizeof(blobs[0]));
        return store_file_remove(&f->dirs, &r, &removed);
}

/* Runs the change with every fault; `check` gets what the change said and what was found then. The last round has none. */
static void each_fault(void **state, int (*change)(struct fixture *f),
                       void (*check)(const struct fixture *f, int r, const struct store_found *s)) {
        unsigned rounds[2] = { 0, 0 };

        for (int for_good = 0; for_good < 2; for_good++)
                for (unsigned at = 1;; at++) {
                        struct store_found found;
                        struct fixture *f;
                        bool hit;
                        int r;

                        assert_int_equal(set_up(state), 0);
                        f = *state;
                        put_incoming(f, "1");
                        arm(f, at, for_good);
                        r = change(f);
                        hit = disarm();
                        if (r == 0 && hit) /* only tidying up may fail and be nobody's business */
                                assert_true(at > 1);
                        reopen(f, &found);
                        check(f, r, &found);
                        store_found_deinit(&found);
                        reopen(f, &found); /* the scan itself has left it well */
                        check(f, r, &found);
                        store_found_deinit(&found);
                        (void)tear_down(state);
                        rounds[for_good]++;
                        if (!hit) {
                                assert_int_equal(r, 0);
                                break;
                        }
                }
        assert_true(rounds[0] > 3 && rounds[1] > 3);
        *state = NULL;
}

static void check_add(const struct fixture *f, int r, const struct store_found *s) {
        assert_string_equal(meaning(s, "a"), f->a.id);
        if (r == 0)
                assert_string_equal(meaning(s, "b"), f->b.id);
        assert_int_equal(s->n_models, s->n_names);
}

static void check_replace(const struct fixture *f, int r, const struct store_found *s) {
        const char *a = meaning(s, "a");

        assert_true(strcmp(a, f->a.id) == 0 || strcmp(a, f->b.id) == 0);
        if (r == 0)
                assert_string_equal(a, f->b.id);
        assert_int_equal(s->n_models, 1);
}

static void check_alias(const struct fixture *f, int r, const struct store_found *s) {
        assert_string_equal(meaning(s, "a"), f->a.id);
        if (r == 0)
                assert_string_equal(meaning(s, "b"), f->a.id);
        assert_int_equal(s->n_models, 1);
}

static void check_pin(const struct fixture *f, int r, const struct store_found *s) {
        assert_string_equal(meaning(s, "a"), f->a.id);
        if (r == 0)
                assert_true(s->models[0].pinned && s->models[0].pinned_by == 5);
}

static void check_remove(const struct fixture *f, int r, const struct store_found *s) {
        assert_int_equal(s->n_models, s->n_names);
        if (r == 0)
                assert_int_equal(s->n_models, 0);
}

static void test_add(void **state) {
        each_fault(state, change_add, check_add);
}

static void test_replace(void **state) {
        each_fault(state, change_replace, check_replace);
}

static void test_alias(void **state) {
        each_fault(state, change_alias, check_alias);
}

static void test_pin(void **state) {
        each_fault(state, change_pin, check_pin);
}

static void test_remove(void **state) {
        each_fault(state, change_remove, check_remove);
}

/* A model that did not come to be leaves no blob behind for as long as the daemon runs: its files are incoming ones, as before. */
static void test_add_takes_back(void **state) {
        unsigned taken_back = 0;

        for (unsigned at = 1;; at++) {
                struct fixture *f;
                bool hit, named;
                int r;

                assert_int_equal(set_up(state), 0);
                f = *state;
                put_incoming(f, "1");
                arm(f, at, false);
                r = change_add(f);
                hit = disarm();
                named = faccessat(f->dirs.names, "b", F_OK, 0) == 0;
                if (r < 0 && !named) {
                        assert_int_equal(count_files(f->dirs.blobs), 1); /* a's */
                        assert_int_equal(count_files(f->dirs.models), 1);
                        assert_int_equal(faccessat(f->dirs.incoming, "1", F_OK, 0), 0);
                        taken_back++;
                } else { /* what has a name has its files, whatever became of the last sync */
                        assert_int_equal(count_files(f->dirs.blobs), 2);
                        assert_int_equal(count_files(f->dirs.models), 2);
                }
                (void)tear_down(state);
                if (!hit)
                        break;
        }
        assert_true(taken_back > 6);
        *state = NULL;
}

/* A removal of several names that is cut short says which of them are gone. */
static void test_remove_tells(void **state) {
        const char *const names[] = { "a", "b", "c" };
        unsigned cut_short = 0;

        for (unsigned at = 1;; at++) {
                char list[3][CONFIG_MODEL_NAME_MAX + 1] = { "a", "b", "c" };
                struct store_removed removed = { .n_names = 9 };
                struct store_removal r = { .names = list, .n_names = 3 };
                struct fixture *f;
                int e;

                assert_int_equal(set_up(state), 0);
                f = *state;
                r.id = f->a.id;
                for (size_t i = 1; i < 3; i++) {
                        const struct store_name n = make_name(names[i], &f->a);
                        const struct store_addition a = { .name = &n };

                        assert_int_equal(store_file_add(&f->dirs, &a), 0);
                }
                arm(f, at, false);
                e = store_file_remove(&f->dirs, &r, &removed);
                for (size_t i = 0; i < 3; i++) {
                        bool there = faccessat(f->dirs.names, names[i], F_OK, 0) == 0;

                        assert_int_equal(there, i >= removed.n_names);
                }
                assert_true(!removed.gone || removed.n_names == 3);
                assert_true(removed.gone || e == -EIO);
                cut_short += removed.n_names > 0 && removed.n_names < 3;
                if (!disarm()) {
                        assert_int_equal(e, 0);
                        assert_true(removed.gone);
                        (void)tear_down(state);
                        break;
                }
                (void)tear_down(state);
        }
        assert_int_equal(cut_short, 2);
        *state = NULL;
}

/* What a power cut may do is decided by what was synced before what. */
static void test_order(void **state) {
        struct fixture *f = *state;

        put_incoming(f, "1");
        arm(f, 0, false);
        assert_int_equal(change_add(f), 0);
        assert_string_equal(faults.order, "rename blobs; sync blobs; sync file; rename models; sync models; "
                                          "sync file; rename names; sync names; ");
        arm(f, 0, false);
        assert_int_equal(change_remove(f), 0);
        assert_string_equal(faults.order, "unlink names; sync names; unlink models; sync models; unlink blobs; sync blobs; ");
        (void)disarm();
}

/* ---- what a scan finds ---- */

static void put(int dir, const char *name, const char *text) {
        int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        (void)close(fd);
}

/* Where something can't be read, nothing that it might have been is removed. */
static void test_unreadable(void **state) {
        static const char other[] = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
        struct fixture *f = *state;
        struct store_found s;

        put(f->dirs.models, other, "sparkd-model 2\nof a later version\n");
        put(f->dirs.models, "rubbish", "x");
        put(f->dirs.blobs, other, "data");
        put(f->dirs.names, "later", "sparkd-name 2\n");
        assert_int_equal(mkdirat(f->dirs.names, "folder", 0700), 0);
        assert_int_equal(symlinkat("/etc/passwd", f->dirs.names, "link"), 0);
        assert_int_equal(mkfifoat(f->dirs.models, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", 0600), 0);
        assert_int_equal(store_file_scan(&f->dirs, &s), 0);
        assert_int_equal(s.n_models, 1);
        assert_int_equal(s.n_names, 1);
        assert_int_equal(faccessat(f->dirs.blobs, other, F_OK, 0), 0);
        assert_int_equal(faccessat(f->dirs.models, other, F_OK, 0), 0);
        store_found_deinit(&s);
}

static void test_missing_and_short(void **state) {
        struct fixture *f = *state;
        struct store_found s;

        assert_int_equal(store_file_quarantine(&f->dirs, f->a.id), 0);
        assert_int_equal(store_file_scan(&f->dirs, &s), 0);
        assert_true(s.n_models == 1 && s.damaged[0]);
        store_found_deinit(&s);
        put(f->dirs.blobs, f->a.id, "dat");
        assert_int_equal(store_file_scan(&f->dirs, &s), 0);
        assert_true(s.n_models == 1 && s.damaged[0]);
        store_found_deinit(&s);
        put(f->dirs.blobs, f->a.id, "data");
        assert_int_equal(store_file_scan(&f->dirs, &s), 0);
        assert_true(s.n_models == 1 && !s.damaged[0]);
        store_found_deinit(&s);
}

static void test_pinned_without_name(void **state) {
        struct fixture *f = *state;
        struct store_found s;

        assert_int_equal(change_pin(f), 0);
        assert_int_equal(unlinkat(f->dirs.names, "a", 0), 0);
        assert_int_equal(store_file_scan(&f->dirs, &s), 0);
        assert_true(s.n_models == 1 && s.n_names == 0);
        store_found_deinit(&s);
}

static void test_no_folder(void **state) {
        struct store_dirs d;

        assert_int_equal(store_dirs_open(&d, "/nonesuch"), -ENOENT);
        assert_true(d.blobs < 0 && d.names < 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_add), cmocka_unit_test(test_add_takes_back), cmocka_unit_test(test_replace),
                cmocka_unit_test(test_alias), cmocka_unit_test(test_pin), cmocka_unit_test(test_remove),
                cmocka_unit_test(test_remove_tells),
                cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_unreadable, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_missing_and_short, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_pinned_without_name, set_up, tear_down),
                cmocka_unit_test(test_no_folder),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
