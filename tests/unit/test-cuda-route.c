/* SPDX-License-Identifier: Apache-2.0 */

/* The choice of experts on the emulated device against the CPU's, and the order of slots against the rule. */

#include "cuda-rows-cpu.h"
#include "cuda-rows-fixture.h"

struct shape {
        uint32_t n_rows, n_experts, n_used, group_rows;
        enum gating gating;
        bool bias, normalize;
        float scale;
};

/* What comes out. */
struct result {
        uint32_t n_slots, n_groups;
        uint32_t *experts, *row, *slot;
        float *weights;
        struct cuda_group *groups;
};

static struct routing routing_of(const struct shape *s, const float *bias) {
        return (struct routing){ .n_experts = s->n_experts, .n_used = s->n_used, .gating = s->gating, .bias = bias,
                                 .normalize = s->normalize, .scale = s->scale };
}

/* With room for max_rows, of which s->n_rows are there. */
static struct result run(const struct shape *s, const float *logits, const float *bias, uint32_t max_rows) {
        uint32_t max_slots = max_rows * s->n_used, max_groups = cuda_groups_max(max_slots, s->n_experts, s->group_rows);
        struct result r = { .n_slots = s->n_rows * s->n_used };
        struct cuda_route a = { .routing = routing_of(s, NULL) };

        a.rows = device_rows(s->n_rows, 1, max_rows);
        a.logits = device_floats(logits, (size_t)s->n_rows * s->n_experts);
        a.routing.bias = bias ? device_floats(bias, s->n_experts) : NULL;
        a.experts = device_new(max_slots * sizeof(uint32_t));
        a.weights = device_new(max_slots * sizeof(float));
        a.slots = (struct cuda_slots){ .group_rows = s->group_rows, .max_groups = max_groups };
        a.slots.row = device_new(max_slots * sizeof(uint32_t));
        a.slots.slot = device_new(max_slots * sizeof(uint32_t));
        a.slots.groups = device_new(max_groups * sizeof(struct cuda_group));
        a.slots.n_groups = device_new(sizeof(uint32_t));
        must(cuda_route(&launch_dependent, &a));
        r.experts = room(max_slots * sizeof(uint32_t));
        r.weights = room(max_slots * sizeof(float));
        r.row = room(max_slots * sizeof(uint32_t));
        r.slot = room(max_slots * sizeof(uint32_t));
        r.groups = room(max_groups * sizeof(struct cuda_group));
        device_take(a.experts, r.experts, max_slots * sizeof(uint32_t));
        device_take(a.weights, r.weights, max_slots * sizeof(float));
        device_take(a.slots.row, r.row, max_slots * sizeof(uint32_t));
        device_take(a.slots.slot, r.slot, max_slots * sizeof(uint32_t));
        device_take(a.slots.groups, r.groups, max_groups * sizeof(struct cuda_group));
        device_take(a.slots.n_groups, &r.n_groups, sizeof(r.n_groups));
        for (uint32_t i = r.n_slots; i < max_slots; i++)
                assert_true(r.experts[i] == UINT32_MAX && r.row[i] == UINT32_MAX && r.slot[i] == UINT32_MAX);
        for (uint32_t i = r.n_groups; i < max_groups; i++)
                assert_true(r.groups[i].expert == UINT32_MAX);
        device_free(a.rows.count);
        device_free(a.logits);
        device_free(a.routing.bias);
        return r;
}

static void result_free(struct result *r) {
        free(r->experts);
        free(r->weights);
        free(r->row);
        free(r->slot);
        free(r->groups);
}

/* A softmax over all experts is added up in another order. */
static void check_choice(const struct shape *s, const float *logits, const float *bias, const struct result *r) {
        struct routing routing = routing_of(s, bias);
        uint32_t *experts = room(r->n_slots * sizeof(*experts));
        float *weights = room(r->n_slots * sizeof(*weights));

        assert_int_equal(cpu->ops->route(cpu, &routing, logits, s->n_rows, experts, weights), 0);
        for (uint32_t i = 0; i < r->n_slots; i++) {
                if (r->experts[i] != experts[i])
                        fail_msg("row %u of %u, gating %u: choice %u is expert %u instead of %u", i / s->n_used, s->n_rows,
                                 (unsigned)s->gating, i % s->n_used, r->experts[i], experts[i]);
                if (s->gating == GATING_SOFTMAX && fabsf(r->weights[i] - weights[i]) <= 4e-6f * weights[i])
                        continue;
                assert_same_floats("weight", &r->weights[i], &weights[i], 1);
        }
        free(experts);
        free(weights);
}

static void check_order(const struct shape *s, const struct result *r) {
        uint32_t place = 0, group = 0;

        for (uint32_t e = 0; e < s->n_experts; e++) {
                uint32_t first = place;

                for (uint32_t slot = 0; slot < r->n_slots; slot++)
                        if (r->experts[slot] == e) {
                                assert_int_equal(r->slot[place], slot);
                                assert_int_equal(r->row[place], slot / s->n_used);
                                place++;
                        }
                for (; first < place; first += s->group_rows) {
                        assert_true(group < r->n_groups);
                        assert_int_equal(r->groups[group].expert, e);
                        assert_int_equal(r->groups[group].first, first);
                        assert_int_equal(r->groups[group].n, MIN(place - first, s->group_rows));
                        group++;
                }
        }
        assert_int_equal(place, r->n_slots);
        assert_int_equal(group, r->n_groups);
}

static void check(const struct shape *s, const float *logits, const float *bias, uint32_t max_rows) {
        struct result r = run(s, logits, bias, max_rows);

        check_choice(s, logits, bias, &r);
        check_order(s, &r);
        result_free(&r);
}

static const struct shape shapes[] = {
        { 1, 4, 1, 8, GATING_SIGMOID, false, false, 1.0f },          { 3, 8, 2, 8, GATING_SOFTMAX, false, true, 1.0f },
        { 9, 60, 4, 8, GATING_SOFTMAX, false, false, 1.0f },         { 33, 128, 8, 16, GATING_SOFTMAX, false, true, 1.0f },
        { 8, 32, 4, 1, GATING_SOFTMAX_CHOSEN, true, false, 1.0f },   { 64, 256, 8, 8, GATING_SIGMOID, true, true, 2.5f },
        { 65, 128, 8, 16, GATING_SOFTMAX, false, true, 1.0f },       { 200, 33, 16, 64, GATING_SIGMOID, true, false, 1.0f },
        { 70, 512, 10, 16, GATING_SOFTMAX, true, true, 1.0f },       { 5, 512, 32, 8, GATING_SOFTMAX_CHOSEN, false, false, 0.5f },
        { 3, 32, 32, 8, GATING_SIGMOID, true, true, 1.0f },          { 300, 3, 1, 128, GATING_SIGMOID, false, false, 1.0f },
};

static void test_shapes(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                const struct shape *s = &shapes[i];
                float *logits = floats((size_t)s->n_rows * s->n_experts, 4.0f), *bias = floats(s->n_experts, 0.3f);

                emu_set_order(orders[i % ARRAY_SIZE(orders)], i);
                check(s, logits, s->bias ? bias : NULL, s->n_rows);
                free(logits);
                free(bias);
        }
}

/* Many are equal, also of those that are chosen by: the first is taken. */
static void test_ties(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                const struct shape *s = &shapes[i];
                float *logits = floats((size_t)s->n_rows * s->n_experts, 4.0f), *bias = floats(s->n_experts, 0.0f);

                for (size_t k = 0; k < (size_t)s->n_rows * s->n_experts; k++)
                        logits[k] = k / s->n_experts > 0 ? roundf(logits[k]) : k % 3 ? 0.0f : -0.0f;
                emu_set_order(orders[i % ARRAY_SIZE(orders)], i);
                check(s, logits, s->bias ? bias : NULL, s->n_rows + 1);
                free(logits);
                free(bias);
        }
}

/* Rows with what is not a number, in places where it is chosen first, later or never. */
static void test_not_a_number(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                const struct shape *s = &shapes[i];
                size_t n = s->n_experts;
                float *logits = floats(s->n_rows * n, 4.0f), *bias = floats(n, 0.3f);

                for (uint32_t r = 0; r < s->n_rows; r++) {
                        static const float odd[] = { NAN, INFINITY, -INFINITY };

                        if (r % 4 != 3)
                                logits[r * n + r * 5 % n] = odd[r % 3];
                        if (r % 8 == 1)
                                logits[r * n] = logits[r * n + 1] = NAN;
                        for (size_t e = 0; r % 8 == 5 && e < n; e++)
                                logits[r * n + e] = odd[r / 8 % 3];
                }
                check(s, logits, s->bias ? bias : NULL, s->n_rows);
                bias[n / 2] = NAN;
                check(s, logits, s->bias ? bias : NULL, s->n_rows + 3);
                free(logits);
                free(bias);
        }
}

static uint32_t below(uint32_t n) {
        return (uint32_t)((noise() + 1.0f) * 0.5f * (float)n) % n;
}

/* Whatever shape comes; with few different logits, so that many are equal. */
static void test_random(void **state) {
        for (unsigned i = 0; i < 150; i++) {
                struct shape s = { .n_rows = below(100), .n_experts = 1 + below(i % 3 ? 40 : 512), .group_rows = 1 + below(70) };
                float *logits, *bias;

                s.n_used = 1 + below(MIN(s.n_experts, CUDA_ROUTE_USED));
                s.gating = (enum gating)below(GATING_SOFTMAX_CHOSEN + 1);
                s.bias = below(2);
                s.normalize = below(2);
                s.scale = below(2) ? 1.0f : 1.5f;
                logits = floats((size_t)s.n_rows * s.n_experts, 3.0f);
                bias = floats(s.n_experts, 0.5f);
                for (size_t k = 0; i % 2 && k < (size_t)s.n_rows * s.n_experts; k++)
                        logits[k] = roundf(logits[k]);
                emu_set_order(orders[i % ARRAY_SIZE(orders)], i);
                check(&s, logits, s.bias ? bias : NULL, s.n_rows + 1 + below(3));
                free(logits);
                free(bias);
        }
}

/* The same bits in one block and in two kernels, alone and in company, in any order of threads. */
static void test_company(void **state) {
        struct shape s = { 20, 128, 8, 16, GATING_SOFTMAX, false, true, 1.0f }, one = s;
        float *logits = floats((size_t)s.n_rows * s.n_experts, 4.0f);
        struct result all = run(&s, logits, NULL, 64);

        one.n_rows = 1;
        for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
                struct result other;

                emu_set_order(orders[i], 7);
                other = run(&s, logits, NULL, 65);
                assert_memory_equal(other.experts, all.experts, all.n_slots * sizeof(uint32_t));
                assert_memory_equal(other.weights, all.weights, all.n_slots * sizeof(float));
                assert_memory_equal(other.slot, all.slot, all.n_slots * sizeof(uint32_t));
                assert_int_equal(other.n_groups, all.n_groups);
                result_free(&other);
        }
        for (uint32_t r = 0; r < s.n_rows; r++) {
                struct result alone = run(&one, logits + (size_t)r * s.n_experts, NULL, 1);

                assert_memory_equal(alone.experts, all.experts + (size_t)r * s.n_used, s.n_used * sizeof(uint32_t));
                assert_memory_equal(alone.weights, all.weights + (size_t)r * s.n_used, s.n_used * sizeof(float));
                result_free(&alone);
        }
        result_free(&all);
        free(logits);
}

/* All go to the same experts, in more slots than a warp has at once; and there may be no rows. */
static void test_extremes(void **state) {
        struct shape s = { 1000, 16, 4, 32, GATING_SIGMOID, false, true, 1.0f }, none = s;
        float *logits = floats((size_t)s.n_rows * s.n_experts, 0.0f);
        struct result r;

        for (uint32_t i = 0; i < s.n_rows * s.n_experts; i++)
                logits[i] = i % s.n_experts % 5 == 2 ? 1.0f : -1.0f;
        check(&s, logits, NULL, s.n_rows);
        none.n_rows = 0;
        for (uint32_t max = 4; max <= 128; max += 124) {
                r = run(&none, logits, NULL, max);
                assert_int_equal(r.n_groups, 0);
                result_free(&r);
        }
        free(logits);
}

static void test_refusals(void **state) {
        const struct cuda_route good = { .rows = { .max = 1 }, .routing = { .n_experts = 8, .n_used = 2 },
                                         .slots = { .group_rows = 8, .max_groups = 2 } };
        struct cuda_route a = good;

        a.routing.n_experts = CUDA_ROUTE_EXPERTS + 1;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a = good;
        a.routing.n_used = 9;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a.routing.n_used = 0;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a = good;
        a.routing.n_experts = 64;
        a.routing.n_used = CUDA_ROUTE_USED + 1;
        a.slots.max_groups = 64;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a = good;
        a.slots.max_groups = 1;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a = good;
        a.slots.group_rows = 0;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a = good;
        a.rows.max = CUDA_ROUTE_SLOTS;
        a.slots.max_groups = UINT32_MAX;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
        a.rows.max = CUDA_ROUTE_ROWS + 1;
        a.routing.n_used = 1;
        assert_int_equal(cuda_route(&launch_plain, &a), cudaErrorInvalidValue);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_shapes, setup),
                cmocka_unit_test_setup(test_ties, setup),
                cmocka_unit_test_setup(test_not_a_number, setup),
                cmocka_unit_test_setup(test_random, setup),
                cmocka_unit_test_setup(test_company, setup),
                cmocka_unit_test_setup(test_extremes, setup),
                cmocka_unit_test_setup(test_refusals, setup),
        };

        return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
