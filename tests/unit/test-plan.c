/* SPDX-License-Identifier: Apache-2.0 */

/* The sums of a load, and how fast one gets on. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/model/plan.h"
#include "daemon/control/speed.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

/* 128 KiB per token, as an 8B model has it. */
static const struct plan_question usual = {
        .image = 4 * GIB, .engine = GIB / 4, .kv_per_token = 128 << 10, .trained = 131072, .available = 22 * GIB,
        .floor = 6 * GIB, .promised = GIB,
};

static void test_sums(void **state) {
        struct plan_question q = usual;
        struct plan p;

        plan_reckon(&q, &p);
        assert_true(p.fits);
        assert_true(p.room == 15 * GIB && p.image == 4 * GIB && p.engine == GIB / 4);
        /* half of the 10.75 GiB that weights and engine leave */
        assert_true(p.kv == 43 * GIB / 8 && p.need == p.image + p.engine + p.kv);
        assert_true(p.left == (int64_t)(43 * GIB / 8));
        assert_true(p.kv_tokens == 44032 && p.context == 44032 && p.context_max == 88064);
        assert_int_equal(p.kv_per_1000, 131072000);
        assert_true(p.available == q.available && p.floor == q.floor && p.promised == q.promised);
        assert_true(p.parameters == 0 && !*p.architecture && !*p.format);

        q.context = 8192; /* configured: less than the model has */
        plan_reckon(&q, &p);
        assert_true(p.fits && p.kv_tokens == 32768 && p.context == 8192 && p.context_max == 88064);
        q.context = 1u << 30;
        plan_reckon(&q, &p);
        assert_true(p.context == 44032);
        q.kv_configured = GIB;
        plan_reckon(&q, &p);
        assert_true(p.fits && p.kv == GIB && p.context == 8192 && p.context_max == 88064);
}

static void test_asked_context(void **state) {
        struct plan_question q = usual;
        struct plan p;

        q.asked = 10001;
        q.kv_configured = GIB; /* does not count then */
        plan_reckon(&q, &p);
        assert_true(p.fits && p.kv == 10001 * q.kv_per_token && p.kv_tokens == 10001 && p.context == 10001);
        q.asked = 88064;
        plan_reckon(&q, &p);
        assert_true(p.fits && p.left == 0);
        q.asked++;
        plan_reckon(&q, &p);
        assert_true(!p.fits && p.left == -(128 << 10) && p.context_max == 88064);
        q.available = 1000 * GIB;
        q.asked = 500000; /* for several sequences */
        plan_reckon(&q, &p);
        assert_true(p.fits && p.kv_tokens == 500000 && p.context == 131072 && p.context_max == 131072);
}

static void test_too_large(void **state) {
        struct plan_question q = usual;
        struct plan p;

        q.image = 15 * GIB;
        plan_reckon(&q, &p);
        assert_false(p.fits);
        assert_true(p.kv == 2048 * q.kv_per_token && p.context_max == 0);
        assert_true(p.left == -(int64_t)(GIB / 4 + 2048 * q.kv_per_token));
        assert_true(p.need - p.room == (uint64_t)-p.left);

        q.image = 15 * GIB - GIB / 4 - 2048 * q.kv_per_token; /* to the byte */
        plan_reckon(&q, &p);
        assert_true(p.fits && p.left == 0 && p.kv_tokens == 2048 && p.context_max == 2048);
        q.engine++;
        plan_reckon(&q, &p);
        assert_true(!p.fits && p.left == -1 && p.context_max == 2016);

        q = usual;
        q.kv_configured = 11 * GIB;
        plan_reckon(&q, &p);
        assert_true(!p.fits && p.kv == 11 * GIB && p.left == -(int64_t)(GIB / 4) && p.context_max == 88064);

        q.floor = 23 * GIB;
        plan_reckon(&q, &p);
        assert_true(!p.fits && p.room == 0 && p.left == -(int64_t)p.need);
}

/* What holds for all figures. */
static void reckon_odd(uint64_t a, uint64_t b, uint64_t c) {
        const uint64_t some = 22 * GIB;
        const struct plan_question odds[] = {
                { .image = a, .engine = b, .kv_per_token = c, .trained = 4096, .available = some },
                { .image = GIB, .kv_per_token = a, .trained = b, .asked = c, .available = some },
                { .image = 1, .kv_per_token = 1, .trained = 1, .available = a, .floor = b, .promised = c },
                { .image = 1, .kv_per_token = a, .kv_configured = b, .trained = c, .available = UINT64_MAX },
        };
        struct plan p;

        for (size_t n = 0; n < ARRAY_SIZE(odds); n++) {
                plan_reckon(&odds[n], &p);
                assert_true(p.fits ? p.need <= p.room : true);
                if (odds[n].trained <= UINT32_MAX && odds[n].kv_per_token <= UINT32_MAX && p.need < UINT64_MAX)
                        assert_int_equal(p.fits, p.left >= 0);
                assert_true(p.context <= odds[n].trained && p.context_max <= odds[n].trained);
                assert_true(p.room <= p.available);
        }
}

/* A vocabulary alone, and figures of a hostile file or a strange machine. */
static void test_odd_values(void **state) {
        static const uint64_t odd[] = { 0, 1, 31, 32, 4096, 1ull << 32, INT64_MAX, UINT64_MAX - 1, UINT64_MAX };
        struct plan_question q = usual;
        struct plan p;

        q.kv_per_token = q.trained = q.engine = 0;
        plan_reckon(&q, &p);
        assert_true(p.fits && p.kv == 0 && p.kv_tokens == 0 && p.context == 0 && p.context_max == 0 && p.kv_per_1000 == 0);
        q.image = 16 * GIB;
        plan_reckon(&q, &p);
        assert_true(!p.fits && p.left == -(int64_t)GIB);

        for (size_t i = 0; i < ARRAY_SIZE(odd); i++)
                for (size_t k = 0; k < ARRAY_SIZE(odd); k++)
                        for (size_t l = 0; l < ARRAY_SIZE(odd); l++)
                                reckon_odd(odd[i], odd[k], odd[l]);
}

static void test_shown(void **state) {
        Spark__V1__LoadResult r = SPARK__V1__LOAD_RESULT__INIT;
        struct plan_question q = usual;
        struct weights_view weights;
        struct plan p;

        q.trained = q.asked = UINT64_MAX;
        plan_reckon(&q, &p);
        memcpy(p.format, "Q4_K", 5);
        p.parameters = 7;
        p.machine = 9;
        plan_show(&p, &weights, &r);
        assert_true(r.memory_bytes == 9 && !r.weights);
        p.weights.kinds[LOADLINK_KIND_OTHER] = (struct loadlink_share){ 4, 8 };
        plan_show(&p, &weights, &r);
        assert_true(r.weights == &weights.message && r.weights->n_kinds == 1 && r.weights->bytes == 8);
        assert_true(r.image_bytes == q.image && r.kv_bytes == UINT64_MAX && r.engine_bytes == q.engine && !r.fits);
        assert_true(r.context == UINT32_MAX && r.context_max == 88064 && r.left_bytes == INT64_MIN);
        assert_true(r.kv_bytes_per_1000_tokens == p.kv_per_1000 && r.kv_tokens == p.kv_tokens);
        assert_true(r.available_bytes == q.available && r.floor_bytes == q.floor && r.promised_bytes == q.promised);
        assert_true(r.parameters == 7 && strcmp(r.format, "Q4_K") == 0 && strcmp(r.architecture, "") == 0);
}

/* ---- speed ---- */

static void test_speed(void **state) {
        struct speed s = { 0 };

        assert_int_equal(speed_per_second(&s), 0);
        assert_int_equal(speed_left_ms(&s, 100), 0);
        speed_add(&s, 1000000, 0);
        assert_int_equal(speed_per_second(&s), 0);
        speed_add(&s, 1100000, 50 * MIB);
        assert_int_equal(speed_per_second(&s), 0); /* too early to say */
        speed_add(&s, 1200000, 100 * MIB);
        assert_int_equal(speed_per_second(&s), 500 * MIB);
        assert_int_equal(speed_left_ms(&s, 600 * MIB), 1000);
        assert_int_equal(speed_left_ms(&s, 100 * MIB), 0);
        assert_int_equal(speed_left_ms(&s, 100 * MIB + 1), 1);
        assert_int_equal(speed_left_ms(&s, 50 * MIB), 0);
        speed_add(&s, 1700000, 10); /* anew */
        assert_int_equal(speed_per_second(&s), 0);
        speed_add(&s, 2700000, 11);
        assert_int_equal(speed_per_second(&s), 1);
        assert_true(speed_left_ms(&s, UINT64_MAX) == 1000000000000000u);
}

/* Only the last seconds count, however often it is told. */
static void test_speed_window(void **state) {
        static const uint64_t intervals_us[] = { 1, 20000, 100000, 333333, 1000000, 2900000 };

        for (size_t i = 0; i < ARRAY_SIZE(intervals_us); i++) {
                struct speed s = { 0 };
                uint64_t us = 5, done = 0;

                for (unsigned k = 0; k < 5000; k++) {
                        us += intervals_us[i];
                        done += intervals_us[i] * (us < 5000 * intervals_us[i] / 2 ? 9 : 3);
                        speed_add(&s, us, done);
                }
                if (intervals_us[i] * (SPEED_REPORTS - 1) < SPEED_LEAST_US)
                        assert_int_equal(speed_per_second(&s), 0);
                else
                        assert_int_equal(speed_per_second(&s), 3000000);
        }
        /* nothing for longer than the window: no speed that is not true any more */
        struct speed s = { 0 };

        speed_add(&s, 1, 0);
        speed_add(&s, 1 + SPEED_WINDOW_US + 1, 1 << 30);
        assert_int_equal(speed_per_second(&s), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sums),       cmocka_unit_test(test_asked_context), cmocka_unit_test(test_too_large),
                cmocka_unit_test(test_odd_values), cmocka_unit_test(test_shown),         cmocka_unit_test(test_speed),
                cmocka_unit_test(test_speed_window),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
