/* SPDX-License-Identifier: Apache-2.0 */

/* The lease table: what is asked for and refused, what holders hear, and that all is given back, in whatever order leases end.
 * Where memory comes from is made up here. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#include "base/log.h"
#include "daemon/control/memory/lease-keep.h"
#include "daemon/control/memory/lease.h"
#include "request-fixture.h"

#define GIB ((uint64_t)1 << 30)

/* A source that holds what it is told in a sum, and gives back when it is told to. */
struct shed {
        struct list link;
        struct shed_want want;
};

static struct list sheds;
static uint64_t away;
static size_t n_sheds;

static int fake_begin(struct shed **ret, struct manager *m, const struct shed_want *want) {
        struct shed *s = calloc(1, sizeof(*s));

        assert_non_null(s);
        assert_true(want->bytes > 0);
        assert_true(want->exact);
        assert_int_equal(want->limit, SHED_WEIGHTS);
        s->want = *want;
        list_append(&sheds, &s->link);
        away += want->bytes;
        n_sheds++;
        *ret = s;
        return 0;
}

static struct shed *fake_end(struct shed *s) {
        list_remove(&s->link);
        away -= s->want.bytes;
        n_sheds--;
        free(s);
        return NULL;
}

static const struct lease_source fake_source = { .begin = fake_begin, .end = fake_end };

/* The oldest that waits says how far it is. */
static void give(uint64_t freed, bool done) {
        struct shed *s = LIST_ENTRY(sheds.next, struct shed, link);

        assert_false(list_empty(&sheds));
        s->want.told(s->want.userdata, freed, SHED_KV, done);
}

static int set_up_leases(void **state) {
        struct fixture *f;

        list_init(&sheds);
        assert_int_equal(set_up(state), 0);
        f = *state;
        f->m->lease_keeper = lease_keeper_free(f->m->lease_keeper); /* watches the table that goes */
        f->m->leases = leases_free(f->m->leases);
        assert_int_equal(leases_new(&f->m->leases, f->m, &fake_source), 0);
        f->m->memory.total = 64 * GIB;
        return 0;
}

static int tear_down_leases(void **state) {
        struct fixture *f = *state;

        assert_true(list_empty(leases_list(f->m->leases)));
        assert_int_equal(leases_bytes(f->m->leases), 0);
        assert_int_equal(f->user->charged[USER_LEASES], 0);
        assert_int_equal(f->user->charged[USER_LEASED], 0);
        assert_int_equal(away, 0);
        assert_int_equal(n_sheds, 0);
        return tear_down(state);
}

struct told {
        char stages[256];
        uint64_t done, total;
        size_t ended;
        struct request_error error;
};

static void told_progress(void *userdata, struct lease *lease, const char *stage, uint64_t done, uint64_t total) {
        struct told *t = userdata;
        size_t n = strlen(t->stages);

        (void)snprintf(t->stages + n, sizeof(t->stages) - n, "%s ", stage);
        t->done = done;
        t->total = total;
}

static void told_ended(void *userdata, struct lease *lease, const struct request_error *error) {
        struct told *t = userdata;

        t->ended++;
        if (error)
                t->error = *error;
        if (lease->fd < 0)
                (void)lease_free(lease);
}

static const struct lease_holder holder = { .progress = told_progress, .ended = told_ended };

static struct lease_ask ask_memory(const struct fixture *f, uint64_t bytes) {
        return (struct lease_ask){ .kind = LEASE_MEMORY, .user = f->user, .pid = 7, .unit = "u.service", .who = "blender",
                                   .why = "a film", .bytes = bytes };
}

static void test_memory(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, 4 * GIB);
        struct told told = { 0 };
        struct request_error error;
        struct lease *lease = NULL;

        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told, &lease, &error), 0);
        assert_string_equal(told.stages, ""); /* never from within */
        assert_int_equal(away, 4 * GIB);
        leases_turn(f->m->leases);
        assert_string_equal(told.stages, "yield ");
        assert_string_equal(lease_state_name(lease), "yield");
        give(GIB, false);
        give(3 * GIB, false);
        leases_turn(f->m->leases); /* what came together is told together */
        assert_string_equal(told.stages, "yield yield ");
        assert_int_equal(told.done, 3 * GIB);
        assert_int_equal(told.total, 4 * GIB);
        give(4 * GIB, true);
        leases_turn(f->m->leases);
        leases_turn(f->m->leases);
        give(4 * GIB, true);
        leases_turn(f->m->leases);
        assert_string_equal(told.stages, "yield yield granted ");
        assert_int_equal(lease->given, 4 * GIB);
        assert_string_equal(lease_state_name(lease), "granted");
        assert_int_equal(leases_at_rest(f->m->leases), 1);
        assert_int_equal(told.ended, 0);
        lease = lease_free(lease);
}

static void test_missing_only(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, 1);
        struct told told = { 0 };
        struct request_error error;
        struct lease *lease = NULL;

        ask.missing_only = true;
        f->m->memory.floor = 0;
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told, &lease, &error), 0);
        assert_int_equal(n_sheds, 0); /* a byte there is */
        leases_turn(f->m->leases);
        assert_string_equal(told.stages, "granted ");
        lease = lease_free(lease);

        f->m->memory.floor = UINT64_MAX / 2; /* nothing is free above that */
        ask.bytes = 3 * GIB;
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told, &lease, &error), 0);
        assert_int_equal(lease->wanted, 3 * GIB);
        assert_int_equal(away, 3 * GIB);
        lease = lease_free(lease);
}

static void refused(struct fixture *f, const struct lease_ask *ask, Spark__V1__ErrorCode code, const char *text) {
        struct request_error error;
        struct lease *lease = NULL;

        assert_int_equal(lease_new(f->m->leases, ask, &holder, NULL, &lease, &error), REQUEST_E_REFUSED);
        assert_null(lease);
        assert_int_equal(error.code, code);
        if (!strstr(error.text, text))
                fail_msg("'%s' is not in '%s'", text, error.text);
}

static void test_refusals(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, 0);
        char many[LEASE_WHY_MAX + 2] = "";

        memset(many, 'x', LEASE_WHY_MAX + 1);
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes");
        ask.bytes = LEASE_BYTES_MAX + 1;
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes");
        ask.bytes = 65 * GIB;
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes: the machine has");
        ask.bytes = GIB;
        ask.why = many;
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "why has more than 256 bytes");
        ask.why = "a\033[2J";
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "why contains a control character");
        ask.why = NULL;
        ask.who = many;
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "who has more than 128 bytes");
        ask.who = NULL;
        ask.kind = LEASE_WARM;
        ask.model = "nobody";
        refused(f, &ask, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "nobody");
        f->m->config->residency.holds = CONFIG_WHO_NONE;
        refused(f, &ask, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "residency.holds");
        ask.kind = LEASE_MEMORY;
        f->m->config->leases.who = CONFIG_WHO_NONE;
        refused(f, &ask, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "memory.leases");
        ask.authorised = true; /* what is nobody's is not theirs */
        refused(f, &ask, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "memory.leases");
        f->m->config->leases.who = CONFIG_WHO_PRIVILEGED;
        ask.bytes = 0;
        refused(f, &ask, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "bytes");
}

static void test_quotas(void **state) {
        struct fixture *f = *state;
        struct user *user = users_get(&f->m->users, 12345);
        struct lease_ask ask = ask_memory(f, GIB);
        struct request_error error;
        struct lease *leases[3];

        f->m->config->leases.per_user = 3;
        f->m->config->leases.bytes_per_user = 4 * GIB;
        ask.user = user;
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(lease_new(f->m->leases, &ask, &holder, NULL, &leases[i], &error), 0);
        refused(f, &ask, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "3 leases");
        leases[1] = lease_free(leases[1]);
        ask.bytes = 2 * GIB + 1;
        refused(f, &ask, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "bytes");
        ask.bytes = 2 * GIB;
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, NULL, &leases[1], &error), 0);
        for (size_t i = 0; i < 3; i++)
                leases[i] = lease_free(leases[i]);
        assert_int_equal(user->charged[USER_LEASED], 0);
        user = user_unref(user);
}

static void run_for_a_moment(struct fixture *f) {
        for (int i = 0; i < 4; i++)
                assert_true(sd_event_run(f->m->event, 10000) >= 0);
}

static void test_descriptor(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, GIB);
        struct told told = { 0 };
        struct request_error error;
        int fd = -1, copy;

        assert_int_equal(lease_new_fd(f->m->leases, &ask, &holder, &told, &fd, NULL, &error), 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        assert_true(copy >= 0);
        (void)fd_close(fd);
        assert_int_equal(write(copy, "x", 1), 1); /* means nothing */
        run_for_a_moment(f);
        assert_int_equal(told.ended, 0);
        assert_int_equal(n_sheds, 1);
        (void)fd_close(copy);
        run_for_a_moment(f);
        assert_int_equal(told.ended, 1);
        assert_int_equal(told.error.code, 0);
        assert_int_equal(n_sheds, 0);
}

static void test_warm(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = { .kind = LEASE_WARM, .user = f->user, .model = "b" };
        struct request_error error = { .code = SPARK__V1__ERROR_CODE__MODEL_INVALID, .text = "Damaged." };
        struct told told = { 0 }, fd_told = { 0 };
        struct lease *lease = NULL;
        struct model *b;
        struct pollfd p = { .events = POLLOUT };

        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told, &lease, &error), 0);
        b = lease->model;
        assert_string_equal(b->name, "b");
        assert_int_equal(b->residency.holders, 1);
        assert_false(model_is_idle(b));
        assert_string_equal(residency_name(b), "held");
        leases_turn(f->m->leases);
        b->state = MODEL_READY;
        manager_model_changed(f->m, b, false);
        leases_turn(f->m->leases);
        manager_model_changed(f->m, b, false);
        leases_turn(f->m->leases);
        assert_string_equal(told.stages, "warm ");
        assert_int_equal(lease_new_fd(f->m->leases, &ask, &holder, &fd_told, &p.fd, NULL, &error), 0);
        assert_int_equal(b->residency.holders, 2);
        b->state = MODEL_FAILED;
        error = (struct request_error){ .code = SPARK__V1__ERROR_CODE__MODEL_INVALID, .text = "Damaged." };
        leases_model_failed(f->m->leases, b, &error);
        assert_int_equal(told.ended, 0);
        leases_turn(f->m->leases);
        assert_int_equal(told.ended, 1);
        assert_string_equal(told.error.text, "Damaged.");
        assert_int_equal(fd_told.ended, 1);
        assert_int_equal(poll(&p, 1, 0), 1);
        assert_true(p.revents & POLLERR); /* whoever holds it can see that it is for nothing */
        (void)fd_close(p.fd);
        assert_int_equal(b->residency.holders, 0);
        b->state = MODEL_AVAILABLE;
}

static void test_what_others_see(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, GIB);
        Spark__V1__LeaseInfo info;
        struct request_error error;
        struct lease *lease = NULL;

        assert_int_equal(lease_new(f->m->leases, &ask, &holder, NULL, &lease, &error), 0);
        lease_show(lease, f->user->uid, false, &info);
        assert_true(info.own);
        assert_string_equal(info.who, "blender");
        assert_string_equal(info.why, "a film");
        assert_int_equal(info.pid, 7);
        lease_show(lease, 0, true, &info);
        assert_string_equal(info.unit, "u.service");
        lease_show(lease, f->user->uid + 4711, false, &info);
        assert_false(info.own);
        assert_string_equal(info.kind, "memory");
        assert_int_equal(info.bytes, GIB);
        assert_int_equal(info.uid + info.pid, 0);
        assert_string_equal(info.who, "");
        assert_string_equal(info.why, "");
        assert_string_equal(info.unit, "");
        lease = lease_free(lease);
}

static void test_busy(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, GIB);
        struct request_error error;
        struct lease *wait = NULL, *busy = NULL;
        struct model *model = models_find(f->m, "a", &error);

        ask.policy = LEASE_WAIT;
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, NULL, &wait, &error), 0);
        assert_false(leases_refuse(f->m->leases, model, &error));
        ask.policy = LEASE_BUSY;
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, NULL, &busy, &error), 0);
        assert_true(leases_refuse(f->m->leases, model, &error));
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_int_equal(error.retry_after_ms, f->m->config->leases.retry_seconds * 1000);
        busy = lease_free(busy);
        assert_false(leases_refuse(f->m->leases, model, &error));
        wait = lease_free(wait);
}

static size_t changes, removals;

static void watch(void *userdata, struct lease *lease, bool removed) {
        changes++;
        removals += removed;
}

/* A hundred, of all kinds, that end in any order. */
static void test_any_order(void **state) {
        struct fixture *f = *state;
        struct lease_watcher watcher = { .changed = watch };
        struct lease *leases[100] = { 0 };
        struct request_error error;
        struct told told = { 0 };
        int fds[100];

        srand(5);
        models_find(f->m, "a", &error)->state = models_find(f->m, "b", &error)->state = MODEL_READY; /* nobody loads them here */
        list_init(&watcher.link);
        leases_watch(f->m->leases, &watcher);
        f->m->config->leases.per_user = 100;
        for (size_t i = 0; i < 100; i++) {
                struct lease_ask ask = ask_memory(f, (uint64_t)rand() % GIB + 1);

                ask.kind = i % 3 == 2 ? LEASE_WARM : LEASE_MEMORY;
                ask.model = i % 2 ? "a" : "b";
                fds[i] = -1;
                if (i % 2)
                        assert_int_equal(lease_new_fd(f->m->leases, &ask, &holder, &told, &fds[i], NULL, &error), 0);
                else
                        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told, &leases[i], &error), 0);
                if (rand() % 2 && !list_empty(&sheds))
                        give((uint64_t)rand() % GIB, rand() % 2);
                leases_turn(f->m->leases);
        }
        assert_int_equal(f->user->charged[USER_LEASES], 100);
        assert_int_equal(f->user->charged[USER_LEASED], leases_bytes(f->m->leases));
        assert_int_equal(away, leases_bytes(f->m->leases));
        for (size_t left = 100; left > 0;) {
                size_t i = (size_t)rand() % 100;

                if (!leases[i] && fds[i] < 0)
                        continue;
                leases[i] = lease_free(leases[i]);
                fds[i] = fd_close(fds[i]);
                if (left-- % 10 == 0)
                        assert_true(sd_event_run(f->m->event, 0) >= 0);
        }
        for (int i = 0; i < 200 && !list_empty(leases_list(f->m->leases)); i++)
                assert_true(sd_event_run(f->m->event, 10000) >= 0);
        assert_int_equal(removals, 100);
        assert_true(changes > removals);
        list_remove(&watcher.link);
}

/* A later process takes up what an earlier one wrote down. */
static void test_restored(void **state) {
        struct fixture *f = *state;
        struct lease_ask ask = ask_memory(f, 3 * GIB);
        struct lease_ask hold = { .kind = LEASE_WARM, .user = f->user, .model = "b", .who = "demo" };
        Spark__State__V1__Lease records[2];
        struct request_error error;
        struct lease *leases[2], *lease = NULL;
        struct told told[2] = { 0 };
        uint8_t packed[2][512];
        size_t sizes[2];
        int fds[2], kept[2];

        models_find(f->m, "b", &error)->state = MODEL_READY;
        ask.policy = LEASE_BUSY;
        assert_int_equal(lease_new_fd(f->m->leases, &ask, &holder, &told[0], &fds[0], &leases[0], &error), 0);
        assert_int_equal(lease_new_fd(f->m->leases, &hold, &holder, &told[1], &fds[1], &leases[1], &error), 0);
        for (size_t i = 0; i < 2; i++) {
                lease_record(leases[i], &records[i]);
                sizes[i] = spark__state__v1__lease__pack(&records[i], packed[i]);
                kept[i] = fcntl(leases[i]->fd, F_DUPFD_CLOEXEC, 3);
                assert_true(kept[i] >= 0);
        }
        f->m->leases = leases_free(f->m->leases);
        assert_int_equal(n_sheds, 0);
        assert_int_equal(leases_new(&f->m->leases, f->m, &fake_source), 0);
        for (size_t i = 0; i < 2; i++) {
                Spark__State__V1__Lease *record = spark__state__v1__lease__unpack(NULL, sizes[i], packed[i]);

                assert_non_null(record);
                record->since_us -= 5000000;
                assert_int_equal(lease_restore(f->m->leases, record, kept[i], &holder, &told[i], &leases[i], &error), 0);
                assert_int_equal(leases[i]->id, record->id);
                spark__state__v1__lease__free_unpacked(record, NULL);
        }
        assert_int_equal(away, 3 * GIB);
        assert_int_equal(leases[0]->policy, LEASE_BUSY);
        assert_string_equal(leases[0]->why, "a film");
        assert_string_equal(leases[1]->model->name, "b");
        assert_int_equal(leases[1]->model->residency.holders, 1);
        assert_true(manager_now_us() - leases[0]->since_us >= 5000000);
        assert_int_equal(f->user->charged[USER_LEASES], 2);
        assert_int_equal(lease_new(f->m->leases, &ask, &holder, &told[0], &lease, &error), 0);
        assert_true(lease->id > leases[1]->id); /* never used again */
        lease = lease_free(lease);
        (void)fd_close(fds[0]);
        (void)fd_close(fds[1]);
        run_for_a_moment(f);
        assert_int_equal(told[0].ended + told[1].ended, 2);
        records[1].model = (char *)"gone";
        records[1].unit = records[1].who = records[1].why = (char *)"";
        assert_int_equal(lease_restore(f->m->leases, &records[1], fd_memfd_new("x", 1), &holder, &told[1], &lease, &error),
                         REQUEST_E_REFUSED);
        assert_non_null(strstr(error.text, "gone"));
}

/* A turn in which the only lease gets all that it waits for, with a later process's record of it as it was before and is after;
 * true: that it was granted is in the journal. */
static bool turn_grants(struct fixture *f, struct lease *lease, bool before) {
        Spark__State__V1__Lease record;
        char line[512] = "";
        int pipes[2], standard = dup(STDERR_FILENO);
        ssize_t n;

        lease_record(lease, &record);
        assert_int_equal(record.granted, before);
        give(lease->wanted, true);
        assert_true(standard >= 0);
        assert_int_equal(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
        assert_true(dup2(pipes[1], STDERR_FILENO) >= 0);
        log_init("test", LOG_LEVEL_INFO, 0);
        leases_turn(f->m->leases);
        log_init("test", LOG_LEVEL_WARNING, 0);
        assert_true(dup2(standard, STDERR_FILENO) >= 0);
        n = read(pipes[0], line, sizeof(line) - 1);
        assert_true(n > 0 || errno == EAGAIN); /* nothing was said */
        for (size_t i = 0; i < 2; i++)
                (void)fd_close(pipes[i]);
        (void)fd_close(standard);
        lease_record(lease, &record);
        assert_true(record.granted);
        assert_string_equal(lease_state_name(lease), "granted");
        return strstr(line, "has asked for") != NULL;
}

/* The journal hears once that a lease was granted, from the process that granted it; its holder hears it of each. */
static void test_granted_once(void **state) {
        struct fixture *f = *state;
        Spark__State__V1__Lease record = SPARK__STATE__V1__LEASE__INIT;
        struct request_error error;
        struct lease *lease = NULL;

        record.kind = (char *)"memory";
        record.policy = record.unit = record.why = record.model = (char *)"";
        record.who = (char *)"blender";
        record.uid = f->user->uid;
        record.bytes = record.wanted = GIB;
        for (uint64_t id = 1; id <= 4; id++) {
                struct told told = { 0 };

                record.id = id;
                record.granted = id % 2 == 0;
                assert_int_equal(lease_restore(f->m->leases, &record, -1, &holder, &told, &lease, &error), 0);
                assert_int_equal(turn_grants(f, lease, record.granted), !record.granted);
                assert_string_equal(told.stages, "granted ");
                lease = lease_free(lease);
        }
}

/* As requests: by the socket's messages, until they are cancelled. */
static void test_requests(void **state) {
        struct fixture *f = *state;
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ReserveMemory reserve = SPARK__V1__RESERVE_MEMORY__INIT;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r = NULL;

        frame.id = 1;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY;
        frame.reserve_memory = &reserve;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_non_null(strstr(error.text, "bytes"));
        reserve.bytes = GIB;
        reserve.policy = (char *)"never";
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_non_null(strstr(error.text, "policy: there is no 'never'"));
        reserve.policy = (char *)"busy";
        assert_int_equal(submit(f, &frame, &heard, &r, &error), 0);
        assert_int_equal(r->lease->policy, LEASE_BUSY);
        give(GIB, true);
        leases_turn(f->m->leases);
        assert_int_equal(heard.progress, 1);
        assert_int_equal(f->user->running + f->user->queued, 0); /* it is no work */
        request_detach(r);
        assert_int_equal(n_sheds, 0);
        assert_int_equal(heard.done + heard.errors, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_leases, tear_down_leases)
                TEST(test_memory),     TEST(test_missing_only), TEST(test_refusals),          TEST(test_quotas),
                TEST(test_descriptor), TEST(test_warm),         TEST(test_what_others_see),   TEST(test_busy),
                TEST(test_any_order),  TEST(test_restored),     TEST(test_granted_once),      TEST(test_requests),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
