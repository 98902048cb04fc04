/* SPDX-License-Identifier: Apache-2.0 */

/* Which models make room: the table of cases, against a search through all sets of models where there are many. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/config/config.h"
#include "daemon/control/model/residency-choose.h"

#define N_MAX 8u

#define GONE { RESIDENCY_GONE, 50, 1, false }
#define MODEL(standing, bytes, used) { RESIDENCY_##standing, bytes, used, false }

static const struct choice {
        const char *what;
        struct residency_view views[4];
        struct residency_lack lack;
        enum residency_verdict verdict;
        const char *evicted; /* "x" for each that goes */
} choices[] = {
        { "nothing is missing", { MODEL(IDLE, 10, 1) }, { 0, 0 }, RESIDENCY_ROOM, "    " },
        { "nobody is there", { GONE, GONE, GONE, GONE }, { 1, 0 }, RESIDENCY_NEVER, "    " },
        { "those that stay do not count", { MODEL(STAYS, 90, 1), MODEL(IDLE, 10, 2) }, { 11, 0 }, RESIDENCY_NEVER, "    " },
        { "the oldest goes", { MODEL(IDLE, 10, 9), MODEL(IDLE, 10, 3), MODEL(IDLE, 10, 5) }, { 10, 0 }, RESIDENCY_SOON, " x  " },
        { "the two oldest", { MODEL(IDLE, 10, 9), MODEL(IDLE, 10, 3), MODEL(IDLE, 10, 5) }, { 11, 0 }, RESIDENCY_SOON, " xx " },
        { "a small one is not unloaded for nothing", { MODEL(IDLE, 2, 1), MODEL(IDLE, 20, 2), MODEL(IDLE, 20, 3) }, { 15, 0 },
          RESIDENCY_SOON, " x  " },
        { "one that is used is waited for", { MODEL(LATER, 10, 1), MODEL(IDLE, 5, 2) }, { 10, 0 }, RESIDENCY_WAIT, "    " },
        { "and not waited for where an idle one does", { MODEL(LATER, 10, 1), MODEL(IDLE, 10, 2) }, { 10, 0 }, RESIDENCY_SOON,
          " x  " },
        { "what goes already counts", { MODEL(GOING, 10, 1), MODEL(IDLE, 10, 2) }, { 10, 0 }, RESIDENCY_SOON, "    " },
        { "as far as it goes", { MODEL(GOING, 10, 1), MODEL(IDLE, 10, 2) }, { 12, 0 }, RESIDENCY_SOON, " x  " },
        { "a number of models", { MODEL(IDLE, 0, 4), MODEL(IDLE, 0, 1), MODEL(IDLE, 0, 2) }, { 0, 2 }, RESIDENCY_SOON, " xx " },
        { "both", { MODEL(IDLE, 1, 4), MODEL(IDLE, 9, 1), MODEL(IDLE, 1, 2) }, { 3, 2 }, RESIDENCY_SOON, " xx " },
        { "sums that overflow", { MODEL(IDLE, UINT64_MAX, 1), MODEL(IDLE, UINT64_MAX, 2) }, { UINT64_MAX, 0 }, RESIDENCY_SOON,
          "x   " },
        { "of the same age, any", { MODEL(IDLE, 4, 1), MODEL(IDLE, 4, 1) }, { 8, 0 }, RESIDENCY_SOON, "xx  " },
};

static void test_table(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
                struct residency_view views[4];

                memcpy(views, choices[i].views, sizeof(views));
                if (residency_choose(views, 4, &choices[i].lack) != choices[i].verdict)
                        fail_msg("%s: another verdict", choices[i].what);
                for (size_t k = 0; k < 4; k++)
                        if (views[k].evict != (choices[i].evicted[k] == 'x'))
                                fail_msg("%s: model %zu", choices[i].what, k);
        }
}

static struct residency_lack sum_of(const struct residency_view *v, size_t n, unsigned set) {
        struct residency_lack sum = { 0 };

        for (size_t i = 0; i < n; i++)
                if (set >> i & 1) {
                        sum.bytes += v[i].bytes;
                        sum.models++;
                }
        return sum;
}

static bool enough(struct residency_lack have, struct residency_lack lack) {
        return have.bytes >= lack.bytes && have.models >= lack.models;
}

static unsigned all_of(const struct residency_view *v, size_t n, enum residency_standing standing) {
        unsigned set = 0;

        for (size_t i = 0; i < n; i++)
                set |= (unsigned)(v[i].standing == standing) << i;
        return set;
}

static unsigned evicted_of(const struct residency_view *v, size_t n) {
        unsigned set = 0;

        for (size_t i = 0; i < n; i++)
                set |= (unsigned)v[i].evict << i;
        return set;
}

/* What must hold whatever the figures are. */
static void check(const struct residency_view *v, size_t n, struct residency_lack lack, enum residency_verdict verdict) {
        unsigned idle = all_of(v, n, RESIDENCY_IDLE), later = all_of(v, n, RESIDENCY_LATER);
        unsigned going = all_of(v, n, RESIDENCY_GOING);
        unsigned evicted = evicted_of(v, n);

        assert_int_equal(evicted & ~idle, 0);
        if (lack.bytes == 0 && lack.models == 0)
                assert_int_equal(verdict, RESIDENCY_ROOM);
        else if (enough(sum_of(v, n, idle | going), lack))
                assert_int_equal(verdict, RESIDENCY_SOON);
        else
                assert_int_equal(verdict, enough(sum_of(v, n, idle | going | later), lack) ? RESIDENCY_WAIT : RESIDENCY_NEVER);
        if (verdict != RESIDENCY_SOON) {
                assert_int_equal(evicted, 0);
                return;
        }
        assert_true(enough(sum_of(v, n, evicted | going), lack));
        for (size_t i = 0; i < n; i++) /* none in vain */
                if (evicted >> i & 1)
                        assert_false(enough(sum_of(v, n, (evicted & ~(1u << i)) | going), lack));
}

static void test_random(void **state) {
        srand(1);
        for (unsigned round = 0; round < 20000; round++) {
                struct residency_view v[N_MAX];
                size_t n = (size_t)rand() % (N_MAX + 1);
                struct residency_lack lack = { .bytes = (uint64_t)rand() % 60, .models = (size_t)rand() % 4 };

                for (size_t i = 0; i < n; i++)
                        v[i] = (struct residency_view){ .standing = (enum residency_standing)(rand() % 5),
                                                        .bytes = (uint64_t)rand() % 20,
                                                        .used_us = (uint64_t)rand() % 1000, .evict = rand() % 2 };
                check(v, n, lack, residency_choose(v, n, &lack));
        }
}

static void test_configuration(void **state) {
        _cleanup_(config_freep) struct config *c = NULL;
        struct config_error error;

        assert_int_equal(config_parse(&c,
                                      "backend = \"null\"; residency = { idle_seconds = 5; max_models = 3; max_bytes = \"7G\";"
                                      " min_seconds = 1; wait_seconds = 2; holds = \"privileged\"; };"
                                      "memory = { leases = \"none\"; leases_per_user = 2; lease_bytes_per_user = \"1G\";"
                                      " lease_policy = \"busy\"; lease_retry_seconds = 9; };"
                                      "models = ( { name = \"a\"; default = true; resident = \"demand\"; idle_seconds = 0; },"
                                      " { name = \"b\"; resident = \"always\"; }, { name = \"c\"; } );", "/", &error), 0);
        assert_int_equal(c->residency.idle_seconds, 5);
        assert_int_equal(c->residency.max_models, 3);
        assert_int_equal(c->residency.max_bytes, 7ull << 30);
        assert_int_equal(c->residency.min_seconds, 1);
        assert_int_equal(c->residency.wait_seconds, 2);
        assert_int_equal(c->residency.holds, CONFIG_WHO_PRIVILEGED);
        assert_int_equal(c->leases.who, CONFIG_WHO_NONE);
        assert_int_equal(c->leases.per_user, 2);
        assert_int_equal(c->leases.bytes_per_user, 1ull << 30);
        assert_int_equal(c->leases.policy, CONFIG_LEASE_BUSY);
        assert_int_equal(c->leases.retry_seconds, 9);
        assert_int_equal(c->models[0].resident, CONFIG_RESIDENT_DEMAND);
        assert_int_equal(c->models[0].idle_seconds, 0);
        assert_int_equal(c->models[1].resident, CONFIG_RESIDENT_ALWAYS);
        assert_true(c->models[1].idle_seconds == CONFIG_UNSET);
        assert_int_equal(c->models[2].resident, CONFIG_RESIDENT_AUTO);
}

static void test_mistakes(void **state) {
        static const struct {
                const char *text, *expected;
        } mistakes[] = {
                { "residency = { idle = 5; };", "unknown key 'idle' in 'residency'" },
                { "residency = { holds = \"some\"; };", "'holds' is \"some\", allowed are: none privileged all" },
                { "residency = { max_bytes = \"7X\"; };", "'max_bytes' must be a size" },
                { "memory = { leases_per_user = 0; };", "'leases_per_user' is 0, allowed are 1 to" },
                { "memory = { lease_policy = \"die\"; };", "'lease_policy' is \"die\"" },
                { "models = ( { name = \"a\"; resident = \"never\"; } );",
                  "'resident' is \"never\", allowed are: auto always demand" },
                { "models = ( { name = \"a\"; idle_seconds = -1; } );", "'idle_seconds' must not be negative" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
                struct config_error error;
                struct config *c = NULL;

                assert_int_equal(config_parse(&c, mistakes[i].text, "/", &error), CONFIG_E_INVALID);
                if (!strstr(error.text, mistakes[i].expected))
                        fail_msg("'%s' is not in '%s'", mistakes[i].expected, error.text);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_configuration),
                cmocka_unit_test(test_mistakes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
