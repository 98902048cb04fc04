/* SPDX-License-Identifier: Apache-2.0 */

/* What a user may have: the configuration's limits with the user's own over them, priorities, who may share; and that
 * users follow a new configuration. */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/users/user.h"

#define BACKGROUND SPARK__V1__PRIORITY__BACKGROUND
#define NORMAL SPARK__V1__PRIORITY__NORMAL
#define INTERACTIVE SPARK__V1__PRIORITY__INTERACTIVE

static struct config *parse(const char *text) {
        struct config_error error;
        struct config *c = NULL;

        if (config_parse(&c, text, "/", &error) != 0)
                fail_msg("%s", error.text);
        return c;
}

static void test_limits(void **state) {
        _cleanup_(config_freep) struct config *c =
                parse("limits = { connections_per_user = 10; requests_per_user = 20; bytes_per_user = \"1M\";"
                      "  running_per_user = 3; queued_per_user = 4; kv_per_user = 5; tokens_per_day = 6;"
                      "  max_priority = \"normal\"; };"
                      "users = ( { uid = 7; weight = 2; max_priority = \"interactive\"; connections = 11; requests = 21;"
                      "  bytes = \"2M\"; running = 0; queued = 0; kv = 0; tokens_per_day = 0; }, { uid = 8; queued = 9; } );");
        struct policy p;

        policy_resolve(&p, c, 1);
        assert_int_equal(p.weight, 1);
        assert_int_equal(p.max_priority, NORMAL);
        assert_int_equal(p.connections, 10);
        assert_int_equal(p.requests, 20);
        assert_int_equal(p.bytes, 1 << 20);
        assert_int_equal(p.running, 3);
        assert_int_equal(p.queued, 4);
        assert_int_equal(p.kv, 5);
        assert_int_equal(p.tokens_per_day, 6);
        policy_resolve(&p, c, 7);
        assert_int_equal(p.weight, 2);
        assert_int_equal(p.max_priority, INTERACTIVE);
        assert_int_equal(p.connections, 11);
        assert_int_equal(p.requests, 21);
        assert_int_equal(p.bytes, 2 << 20);
        assert_int_equal(p.running + p.queued + p.kv + p.tokens_per_day, 0); /* no limits, in spite of `limits` */
        policy_resolve(&p, c, 8);
        assert_int_equal(p.weight, 1);
        assert_int_equal(p.queued, 9);
        assert_int_equal(p.running, 3);
}

static void test_priorities(void **state) {
        static const struct {
                int max, asked, result, priority;
        } cases[] = {
                { INTERACTIVE, 0, 0, NORMAL },
                { NORMAL, 0, 0, NORMAL },
                { BACKGROUND, 0, 0, BACKGROUND },
                { INTERACTIVE, INTERACTIVE, 0, INTERACTIVE },
                { INTERACTIVE, BACKGROUND, 0, BACKGROUND },
                { NORMAL, NORMAL, 0, NORMAL },
                { NORMAL, INTERACTIVE, POLICY_E_DENIED, 0 },
                { BACKGROUND, NORMAL, POLICY_E_DENIED, 0 },
                { BACKGROUND, BACKGROUND, 0, BACKGROUND },
                { INTERACTIVE, 4, POLICY_E_UNKNOWN, 0 },
                { INTERACTIVE, -1, POLICY_E_UNKNOWN, 0 },
                { BACKGROUND, INT32_MAX, POLICY_E_UNKNOWN, 0 },
                { BACKGROUND, INT32_MIN, POLICY_E_UNKNOWN, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct policy p = POLICY_OPEN;
                Spark__V1__Priority got = SPARK__V1__PRIORITY__PRIORITY_UNSPECIFIED;

                p.max_priority = (Spark__V1__Priority)cases[i].max;
                assert_int_equal(policy_priority(&p, cases[i].asked, &got), cases[i].result);
                assert_int_equal(got, cases[i].priority); /* untouched on failure */
        }
        assert_string_equal(policy_priority_name(BACKGROUND), "background");
        assert_string_equal(policy_priority_name(NORMAL), "normal");
        assert_string_equal(policy_priority_name(INTERACTIVE), "interactive");
}

static void test_sharing(void **state) {
        static const struct {
                const char *text;
                bool privileged, others;
        } cases[] = {
                { "", true, false },
                { "limits = { share_prefixes = \"none\"; };", false, false },
                { "limits = { share_prefixes = \"privileged\"; };", true, false },
                { "limits = { share_prefixes = \"all\"; };", true, true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_(config_freep) struct config *c = parse(cases[i].text);

                assert_int_equal(policy_may_share(c, true), cases[i].privileged);
                assert_int_equal(policy_may_share(c, false), cases[i].others);
        }
}

static void test_importing(void **state) {
        static const struct {
                const char *text;
                bool privileged, others, fifth; /* uid 5 has an entry of its own */
        } cases[] = {
                { "", true, false, false },
                { "store = { import = \"none\"; };", false, false, false },
                { "store = { import = \"all\"; };", true, true, true },
                { "users = ( { uid = 5; import = \"yes\"; } );", true, false, true },
                { "store = { import = \"all\"; }; users = ( { uid = 5; import = \"no\"; } );", true, true, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_(config_freep) struct config *c = parse(cases[i].text);
                struct policy p;

                policy_resolve(&p, c, 6);
                assert_int_equal(policy_may_import(&p, true), cases[i].privileged);
                assert_int_equal(policy_may_import(&p, false), cases[i].others);
                policy_resolve(&p, c, 5);
                assert_int_equal(policy_may_import(&p, false), cases[i].fifth);
        }
}

static void test_stored_bytes(void **state) {
        _cleanup_(config_freep) struct config *c =
                parse("store = { bytes_per_user = 100; }; users = ( { uid = 5; store_bytes = 0; } );");
        struct user *a, *b;
        struct users users;

        users_init(&users);
        users_configure(&users, c);
        a = users_get(&users, 6);
        b = users_get(&users, 5);
        assert_int_equal(user_charge(a, USER_STORE, 101), USER_E_QUOTA);
        assert_int_equal(user_charge(a, USER_STORE, 100), 0);
        assert_int_equal(user_charge(b, USER_STORE, 1ull << 50), 0); /* 0: no limit */
        user_release(a, USER_STORE, 100);
        user_release(b, USER_STORE, 1ull << 50);
        (void)user_unref(a);
        (void)user_unref(b);
}

/* A lowered limit takes nothing away: it meets what comes next. */
static void test_users_follow_a_reload(void **state) {
        _cleanup_(config_freep) struct config *first = parse("limits = { requests_per_user = 3; };");
        _cleanup_(config_freep) struct config *second =
                parse("limits = { requests_per_user = 1; }; users = ( { uid = 5; requests = 4; weight = 6; } );");
        struct user *a, *b;
        struct users users;

        users_init(&users);
        users_configure(&users, first);
        a = users_get(&users, 5);
        b = users_get(&users, 6);
        for (int i = 0; i < 3; i++) {
                assert_int_equal(user_charge(a, USER_REQUESTS, 1), 0);
                assert_int_equal(user_charge(b, USER_REQUESTS, 1), 0);
        }
        assert_int_equal(user_charge(a, USER_REQUESTS, 1), USER_E_QUOTA);
        users_configure(&users, second);
        assert_int_equal(a->policy.weight, 6);
        assert_int_equal(b->policy.weight, 1);
        assert_int_equal(user_charge(a, USER_REQUESTS, 1), 0);
        assert_int_equal(user_charge(b, USER_REQUESTS, 1), USER_E_QUOTA);
        user_release(b, USER_REQUESTS, 2);
        assert_int_equal(user_charge(b, USER_REQUESTS, 1), USER_E_QUOTA);
        user_release(b, USER_REQUESTS, 1);
        assert_int_equal(user_charge(b, USER_REQUESTS, 1), 0);
        user_release(a, USER_REQUESTS, 4);
        user_release(b, USER_REQUESTS, 1);
        a = user_unref(a);
        b = user_unref(b);
}

static void test_rate(void **state) {
        struct rate r = { 0 };

        assert_true(rate_per_second(&r) == 0);
        for (int i = 0; i < 20; i++) {
                r.total += 10;
                rate_tick(&r);
        }
        assert_true(rate_per_second(&r) == 10);
        for (int i = 0; i < 4; i++)
                rate_tick(&r);
        assert_true(rate_per_second(&r) == 0);
        assert_int_equal(r.total, 200);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_priorities),
                cmocka_unit_test(test_sharing),
                cmocka_unit_test(test_importing),
                cmocka_unit_test(test_stored_bytes),
                cmocka_unit_test(test_users_follow_a_reload),
                cmocka_unit_test(test_rate),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
