/* SPDX-License-Identifier: Apache-2.0 */

/* What control charges and promises: users, the machine's memory, how much KV cache a model is given. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/splitname.h"
#include "daemon/control/memory/memory.h"
#include "daemon/control/model/plan.h"
#include "daemon/control/users/user.h"

#define GIB (1ull << 30)

static void test_users(void **state) {
        struct users users;
        struct user *a, *b, *again;

        users_init(&users);
        users.limits[USER_REQUESTS] = 2;
        users.limits[USER_BYTES] = 100;
        a = users_get(&users, 1);
        b = users_get(&users, 2);
        again = users_get(&users, 1);
        assert_ptr_equal(a, again);
        assert_ptr_not_equal(a, b);
        assert_int_equal(user_charge(a, USER_REQUESTS, 1), 0);
        assert_int_equal(user_charge(a, USER_REQUESTS, 1), 0);
        assert_int_equal(user_charge(a, USER_REQUESTS, 1), USER_E_QUOTA);
        assert_int_equal(user_charge(b, USER_REQUESTS, 1), 0);
        assert_int_equal(user_charge(a, USER_CONNECTIONS, 1), USER_E_QUOTA);
        assert_int_equal(user_charge(a, USER_BYTES, 101), USER_E_QUOTA);
        assert_int_equal(user_charge(a, USER_BYTES, UINT64_MAX), USER_E_QUOTA);
        assert_int_equal(user_charge(a, USER_BYTES, 60), 0);
        assert_int_equal(user_charge(a, USER_BYTES, UINT64_MAX - 30), USER_E_QUOTA);
        assert_int_equal(user_charge(b, USER_BYTES, 100), 0);
        assert_int_equal(users.bytes, 160);
        user_release(a, USER_BYTES, 60);
        user_release(b, USER_BYTES, 100);
        assert_int_equal(users.bytes, 0);
        user_release(a, USER_REQUESTS, 2);
        user_release(b, USER_REQUESTS, 1);
        assert_null(user_unref(again));
        assert_false(list_empty(&users.list));
        assert_null(user_unref(a));
        assert_null(user_unref(b));
        assert_null(user_unref(NULL));
        assert_true(list_empty(&users.list));
}

static void test_floor(void **state) {
        assert_true(memory_default_floor(128 * GIB) == 128 * GIB / 20);
        assert_true(memory_default_floor(100 * GIB) == 6 * GIB);
        assert_true(memory_default_floor(24 * GIB) == 6 * GIB);
        assert_true(memory_default_floor(16 * GIB) == 4 * GIB);
        assert_true(memory_default_floor(2 * GIB) == GIB / 2);
        assert_int_equal(memory_default_floor(0), 0);
}

static void test_parse_field(void **state) {
        static const char text[] = "MemTotal:       24105000 kB\nMemFree:  1 kB\nMemAvailable:   23105064 kB\nOdd: 5\n"
                                   "None:\nHuge: 99999999999999999999 kB\nName:\tx\nRssAnon:\t     768 kB\n";
        uint64_t v = 7;

        assert_true(memory_parse_field(text, "MemTotal", &v));
        assert_true(v == 24105000ull * 1024);
        assert_true(memory_parse_field(text, "MemAvailable", &v));
        assert_true(v == 23105064ull * 1024);
        assert_true(memory_parse_field(text, "RssAnon", &v));
        assert_int_equal(v, 768 * 1024);
        v = 7;
        assert_false(memory_parse_field(text, "Mem", &v));
        assert_false(memory_parse_field(text, "Available", &v));
        assert_false(memory_parse_field(text, "Odd", &v));
        assert_false(memory_parse_field(text, "None", &v));
        assert_false(memory_parse_field(text, "Huge", &v));
        assert_false(memory_parse_field("", "MemTotal", &v));
        assert_int_equal(v, 7);
}

static void test_machine(void **state) {
        struct memory m;
        uint64_t left;

        assert_int_equal(memory_init(&m, 0), 0);
        assert_true(m.total > 0);
        assert_true(memory_available(&m) > 0 && memory_available(&m) <= m.total);
        assert_int_equal(memory_check(&m, 1), 0);
        assert_int_equal(memory_check(&m, m.total + 1), MEMORY_E_FLOOR);
        m.untouched = m.total;
        assert_int_equal(memory_check(&m, 1), MEMORY_E_FLOOR);
        m.untouched = 0;
        memory_set_floor(&m, m.total);
        assert_int_equal(memory_check(&m, 1), MEMORY_E_FLOOR);
        assert_int_equal(memory_free_for_us(&m), 0);
        m.untouched = UINT64_MAX;
        assert_int_equal(memory_free_for_us(&m), 0);
        m.untouched = 0;
        memory_set_floor(&m, UINT64_MAX);
        assert_true(m.floor == memory_default_floor(m.total));
        left = memory_free_for_us(&m);
        assert_true(left < m.total);
        memory_deinit(&m);
        assert_true(memory_of_process(getpid()) > 0);
        assert_int_equal(memory_of_process(0), 0);
}

static void test_choose_kv(void **state) {
        const uint64_t per_token = 128 << 10;

        /* what is configured, or nothing */
        assert_true(plan_choose_kv(GIB, per_token, 8192, 2 * GIB) == GIB);
        assert_int_equal(plan_choose_kv(GIB, per_token, 8192, GIB - 1), 0);
        /* four contexts, but at least 32768 tokens where sequences can use them */
        assert_true(plan_choose_kv(0, per_token, 16384, 1000 * GIB) == 4 * 16384 * per_token);
        assert_true(plan_choose_kv(0, per_token, 4096, 1000 * GIB) == 32768 * per_token);
        assert_true(plan_choose_kv(0, per_token, 256, 1000 * GIB) == 64 * 256 * per_token);
        /* never more than half of what is left, unless not even a small one would fit */
        assert_true(plan_choose_kv(0, per_token, 131072, 8 * GIB) == 4 * GIB);
        assert_true(plan_choose_kv(0, per_token, 131072, 300 << 20) == 2048 * per_token);
        assert_int_equal(plan_choose_kv(0, per_token, 131072, 200 << 20), 0);
        assert_true(plan_choose_kv(0, 1024, 128, 128 << 10) == 128 << 10);
        /* nothing to choose, and figures of a hostile file */
        assert_int_equal(plan_choose_kv(0, 0, 4096, GIB), 0);
        assert_int_equal(plan_choose_kv(0, per_token, 0, GIB), 0);
        assert_int_equal(plan_choose_kv(0, UINT64_MAX, 4096, GIB), 0);
        assert_int_equal(plan_choose_kv(0, per_token, UINT64_MAX, GIB), 0);
        assert_int_equal(plan_choose_kv(0, UINT64_MAX, UINT64_MAX, UINT64_MAX), 0);
}

static void test_split_names(void **state) {
        char name[64];

        assert_int_equal(splitname_part("/m/x-00001-of-00003.gguf", 3, name, sizeof(name)), 3);
        assert_string_equal(name, "/m/x-00003-of-00003.gguf");
        assert_int_equal(splitname_part("-00001-of-99999.gguf", 2, name, sizeof(name)), 99999);
        assert_int_equal(splitname_part("/m/x.gguf", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("/m/x-00002-of-00003.gguf", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("/m/x-00001-of-00001.gguf", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("/m/x-0a001-of-00003.gguf", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("/m/x-00001-of-00003.ggufx", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("", 1, name, sizeof(name)), 0);
        assert_int_equal(splitname_part("/m/x-00001-of-00003.gguf", 1, name, 10), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_users),   cmocka_unit_test(test_floor),     cmocka_unit_test(test_parse_field),
                cmocka_unit_test(test_machine), cmocka_unit_test(test_choose_kv), cmocka_unit_test(test_split_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
