/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/request/pending.h"

static Spark__V1__Token token(uint32_t index, uint32_t *id, const char *text) {
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;

        t.index = index;
        t.ids = id;
        t.n_ids = 1;
        t.text.data = (uint8_t *)text;
        t.text.len = strlen(text);
        return t;
}

static void test_join(void **state) {
        uint32_t ids[] = { 10, 11, 12 };
        Spark__V1__Token a = token(5, &ids[0], "Hé"), b = token(6, &ids[1], ""), c = token(7, &ids[2], "llo"), out;
        struct pending p;

        pending_init(&p);
        assert_true(pending_is_empty(&p));
        assert_int_equal(pending_add(&p, &a), 0);
        assert_int_equal(pending_add(&p, &b), 0);
        assert_int_equal(pending_add(&p, &c), 0);
        assert_false(pending_is_empty(&p));
        pending_fill(&p, &out);
        assert_int_equal(out.index, 5);
        assert_int_equal(out.n_ids, 3);
        assert_memory_equal(out.ids, ids, sizeof(ids));
        assert_int_equal(out.text.len, 6);
        assert_memory_equal(out.text.data, "Héllo", 6);
        assert_int_equal(out.n_logprobs, 0);
        pending_clear(&p);
        assert_true(pending_is_empty(&p));
        assert_int_equal(pending_add(&p, &a), 0);
        pending_deinit(&p);
}

static void test_logprobs(void **state) {
        uint32_t ids[] = { 1, 2 }, top[] = { 3, 4 };
        float lp[] = { -0.5f, -1.5f }, top_lp[] = { -2.0f, -3.0f };
        Spark__V1__Token a = token(0, &ids[0], "a"), b = token(1, &ids[1], "b"), out;
        struct pending p;

        a.n_logprobs = b.n_logprobs = 1;
        a.logprobs = &lp[0];
        b.logprobs = &lp[1];
        a.top_n = b.top_n = a.n_top_ids = b.n_top_ids = a.n_top_logprobs = b.n_top_logprobs = 1;
        a.top_ids = &top[0];
        b.top_ids = &top[1];
        a.top_logprobs = &top_lp[0];
        b.top_logprobs = &top_lp[1];
        pending_init(&p);
        assert_int_equal(pending_add(&p, &a), 0);
        assert_int_equal(pending_add(&p, &b), 0);
        pending_fill(&p, &out);
        assert_int_equal(out.top_n, 1);
        assert_int_equal(out.n_top_ids, 2);
        assert_memory_equal(out.logprobs, lp, sizeof(lp));
        assert_memory_equal(out.top_ids, top, sizeof(top));
        assert_memory_equal(out.top_logprobs, top_lp, sizeof(top_lp));
        pending_deinit(&p);
}

static void test_other_shapes(void **state) {
        uint32_t ids[] = { 1, 2 };
        float lp = -1;
        Spark__V1__Token a = token(0, &ids[0], "a"), gap = token(2, &ids[1], "b"), with = token(1, &ids[1], "b"),
                         top = token(1, &ids[1], "b"), out;
        struct pending p;

        with.n_logprobs = 1;
        with.logprobs = &lp;
        top.top_n = 3;
        pending_init(&p);
        assert_int_equal(pending_add(&p, &a), 0);
        assert_int_equal(pending_add(&p, &gap), PENDING_E_DIFFERS);
        assert_int_equal(pending_add(&p, &with), PENDING_E_DIFFERS);
        assert_int_equal(pending_add(&p, &top), PENDING_E_DIFFERS);
        pending_fill(&p, &out);
        assert_int_equal(out.n_ids, 1);
        pending_deinit(&p);
}

static void test_limit(void **state) {
        char *big = calloc(1, PENDING_BYTES_MAX);
        uint32_t id = 1;
        Spark__V1__Token a = token(0, &id, "x"), b = token(1, &id, ""), out;
        struct pending p;

        assert_non_null(big);
        b.text.data = (uint8_t *)big;
        b.text.len = PENDING_BYTES_MAX;
        pending_init(&p);
        assert_int_equal(pending_add(&p, &a), 0);
        assert_int_equal(pending_add(&p, &b), PENDING_E_LIMIT);
        pending_fill(&p, &out); /* not by halves */
        assert_int_equal(out.n_ids, 1);
        assert_int_equal(out.text.len, 1);
        pending_deinit(&p);
        free(big);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_join),
                cmocka_unit_test(test_logprobs),
                cmocka_unit_test(test_other_shapes),
                cmocka_unit_test(test_limit),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
