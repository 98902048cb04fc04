/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/model/weights.h"

static void test_names(void **state) {
        for (unsigned i = 0; i < LOADLINK_KINDS; i++)
                assert_int_equal(weights_kind_find(weights_kind_name(i)), i);
        assert_null(weights_kind_name(LOADLINK_KINDS));
        assert_int_equal(weights_kind_find("what"), LOADLINK_KINDS);
}

static void test_plan(void **state) {
        struct loadlink_record plan = { .coded = { 100, 139 }, .packed = 1 };
        struct weights_view view;
        struct weights w;

        plan.kinds[LOADLINK_KIND_ATTENTION] = (struct loadlink_share){ 100, 139 };
        plan.kinds[LOADLINK_KIND_OTHER] = (struct loadlink_share){ 1, 4 };
        w = weights_of_plan(&plan);
        assert_true(weights_bits(&w) > 11.32f && weights_bits(&w) < 11.33f);
        assert_ptr_equal(weights_show(&w, &view), &view.message);
        assert_int_equal(view.message.n_kinds, 2);
        assert_string_equal(view.message.kinds[0]->kind, "attention");
        assert_string_equal(view.message.kinds[1]->kind, "other");
        assert_true(view.message.kinds[1]->parameters == 1 && view.message.kinds[1]->bytes == 4);
        assert_true(view.message.parameters == 101 && view.message.bytes == 143);
        assert_true(view.message.coded_parameters == 100 && view.message.coded_bytes == 139);
        assert_true(view.message.packed && !view.message.estimated);
}

/* A loader has read a stranger's file: what makes no sense counts as not known. */
static void test_nonsense(void **state) {
        struct loadlink_record plans[4] = { { .packed = 1 } };
        struct weights_view view;

        plans[1].kinds[0] = plans[1].kinds[1] = (struct loadlink_share){ UINT64_MAX, 1 };
        plans[2].kinds[0] = plans[2].kinds[1] = (struct loadlink_share){ 1, UINT64_MAX };
        plans[3].kinds[0] = (struct loadlink_share){ 1, 1 };
        plans[3].coded = (struct loadlink_share){ 2, 1 };
        for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
                struct weights w = weights_of_plan(&plans[i]);

                assert_null(weights_show(&w, &view));
                assert_true(weights_bits(&w) == 0 && w.coded.params == 0);
                assert_int_equal(w.packed, i == 0);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_plan),
                cmocka_unit_test(test_nonsense),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
