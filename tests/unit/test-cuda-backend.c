/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The CUDA backend as a whole on the emulated device: models against the CPU backend, with operations joined and as they come; the
 * same bits in steps of any size, by graphs and without.
 */

#include "cuda-backend-fixture.h"

/* Quantized: activations have 8 bits with one backend and 8 significant ones with the other; of experts another one may be chosen
 * then. Floats: sums in another order. */
static const struct traits models[] = {
        { .name = "plain", .fmt = FMT_Q8_0, .kv = KV_F16, .limit = 2e-3 },
        { .name = "f32", .fmt = FMT_F32, .kv = KV_F32, .limit = 1e-9 },
        { .name = "bf16, all in one", .fmt = FMT_BF16, .kv = KV_F32, .fused = true, .head_norms = true, .limit = 2e-3 },
        { .name = "norms behind", .fmt = FMT_Q8_0, .kv = KV_F32, .post_norms = true, .width_norms = true, .softcap = true,
          .limit = 2e-3 },
        { .name = "norms only behind", .fmt = FMT_F32, .kv = KV_F32, .post_norms = true, .no_input_norm = true, .limit = 1e-9 },
        { .name = "experts", .fmt = FMT_Q8_0, .kv = KV_Q8_0, .experts = true, .window = true, .limit = 5e-2 },
        { .name = "experts, shared", .fmt = FMT_F32, .kv = KV_F32, .experts = true, .shared = true, .post_norms = true,
          .limit = 1e-9 },
        { .name = "minima", .fmt = FMT_Q4_1, .kv = KV_F16, .fused = true, .head_norms = true, .post_norms = true, .limit = 5e-3 },
        { .name = "super blocks", .fmt = FMT_Q4_K, .kv = KV_F16, .limit = 5e-3 },
        { .name = "fp8", .fmt = FMT_MXFP4, .kv = KV_F16, .fp8 = true, .limit = 2e-2 },
        { .name = "fp8, experts", .fmt = FMT_MXFP4, .kv = KV_F16, .fp8 = true, .experts = true, .shared = true, .limit = 5e-2 },
};

static float logits[4][SUBJECT_TOKENS * SUBJECT_VOCAB];

static struct cuda_backend *cuda(const struct traits *t, const char *placement) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda(placement, 0, &error);

        if (!be)
                print_error("%s\n", error.text);
        assert_non_null(be);
        cuda_of(be)->fp8 = t->fp8;
        return cuda_of(be);
}

/* All of SUBJECT_TOKENS in steps of these sizes, the last one for the rest. */
static void run_cut(struct subject *s, const uint32_t *sizes, size_t n, float *out) {
        uint32_t at = 0;

        for (size_t i = 0; at < SUBJECT_TOKENS; i++) {
                uint32_t step = MIN(i < n ? sizes[i] : SUBJECT_TOKENS, SUBJECT_TOKENS - at);

                assert_int_equal(subject_step(s, at, step, 3, out + at * SUBJECT_VOCAB), 0);
                at += step;
        }
}

/* What is launched of a kind. */
static unsigned count_ops(const struct cuda_backend *be, enum cuda_op_kind kind) {
        const struct cuda_ops *list = &be->runner.plans->list;
        unsigned n = 0;

        for (size_t i = 0; i < list->n; i++)
                n += list->ops[i].kind == kind;
        return n;
}

/* Two layers and the logits: what can be joined is, and whoever writes rows that products read packs them. */
static void test_joined(void **unused) {
        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                const struct traits *t = models + i;
                /* Joined on tensor cores only, and where no rows in 8 bits are wanted of them. */
                unsigned gates = t->fmt == FMT_F32 || t->fp8 ? 2 + 2 * t->shared : 0;
                /* Norms and attention do not write these: queries and so on, attention's output, gates and experts; logits. */
                unsigned packs = t->fp8 ? 2 * 3 + 1 : 0;
                unsigned norms = t->post_norms && !t->no_input_norm ? 6 : 5, products = t->experts ? t->shared ? 15 : 11 : 9;
                struct cuda_backend *be = cuda(t, "auto");
                struct subject s;

                subject_make(&s, t, &be->base, 16);
                assert_int_equal(subject_step(&s, 0, 4, 0, logits[0]), 0);
                assert_int_equal(count_ops(be, CUDA_OP_GATE), gates);
                assert_int_equal(count_ops(be, CUDA_OP_NORM), norms);
                assert_int_equal(count_ops(be, CUDA_OP_MM), products);
                assert_int_equal(count_ops(be, CUDA_OP_ADD) + count_ops(be, CUDA_OP_SLICE), 0);
                assert_int_equal(count_ops(be, CUDA_OP_PACK), packs);
                subject_free(&s);
        }
}

static void run_model(const struct traits *t, struct backend *be, const uint32_t *sizes, size_t n, float *out) {
        struct subject s;

        subject_make(&s, t, be, SUBJECT_TOKENS);
        run_cut(&s, sizes, n, out);
        subject_free(&s);
}

static void test_models(void **unused) {
        size_t n = ARRAY_SIZE(logits[0]);

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                const struct traits *t = models + i;
                struct cuda_backend *be;
                double joined, plain;

                run_model(t, open_cpu(), NULL, 0, logits[0]);
                run_model(t, &cuda(t, "auto")->base, NULL, 0, logits[1]);
                be = cuda(t, "device");
                be->no_fusion = true;
                run_model(t, &be->base, NULL, 0, logits[2]);
                joined = distance(logits[1], logits[0], n);
                plain = distance(logits[2], logits[0], n);
                if (joined > t->limit || plain > t->limit)
                        print_error("%s: error %g joined, %g plain\n", t->name, joined, plain);
                assert_true(joined <= t->limit && plain <= t->limit);
        }
}

static bool same_bits(const void *a, const void *b, size_t bytes) {
        return memcmp(a, b, bytes) == 0;
}

static void test_bits(void **unused) {
        static const uint32_t sizes[] = { 1, 2, 3, 8, 9, 1, 64 };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct cuda_backend *be = cuda(models + i, "auto");
                struct emu_counts counts;

                run_model(models + i, &be->base, NULL, 0, logits[0]);
                run_model(models + i, &cuda(models + i, "auto")->base, sizes, ARRAY_SIZE(sizes), logits[1]);
                be = cuda(models + i, "auto");
                be->no_graphs = true;
                run_model(models + i, &be->base, sizes, ARRAY_SIZE(sizes), logits[2]);
                if (!same_bits(logits[0], logits[1], sizeof(logits[0])) || !same_bits(logits[0], logits[2], sizeof(logits[0])))
                        fail_msg("%s: other bits", models[i].name);
                emu_get_counts(&counts);
                assert_int_equal(counts.allocations + counts.pinned, 0);
                assert_int_equal(counts.streams + counts.events + counts.graphs + counts.execs, 0);
        }
}

/* Several sequences at once, and each by itself. */
static void test_company(void **unused) {
        static const struct part before[] = { { 0, 40, 0 }, { 0, 7, 8 }, { 0, 1, 16 } };
        static const struct part together[] = { { 40, 1, 0 }, { 7, 5, 8 }, { 1, 20, 16 } };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct subject s;
                float *at = logits[1];

                subject_make(&s, models + i, &cuda(models + i, "auto")->base, SUBJECT_TOKENS);
                assert_int_equal(subject_parts(&s, before, 3, NULL, logits[2]), 0);
                assert_int_equal(subject_parts(&s, together, 3, NULL, logits[0]), 0);
                for (size_t p = 0; p < 3; p++, at += together[p - 1].n * SUBJECT_VOCAB)
                        assert_int_equal(subject_parts(&s, together + p, 1, NULL, at), 0);
                assert_memory_equal(logits[0], logits[1], 26 * SUBJECT_VOCAB * sizeof(float));
                subject_free(&s);
        }
}

/* In a steady state a step is one graph, whatever its positions, pages and tokens are. */
static void test_graphs(void **unused) {
        struct emu_counts before, after;
        struct cuda_backend *be = cuda(models, "auto");
        struct backend_facts facts;
        struct subject s;

        subject_make(&s, models, &be->base, SUBJECT_TOKENS);
        for (uint32_t page = 0; page < 24; page += 8)
                assert_int_equal(subject_step(&s, 0, 9, page, logits[0]), 0);
        for (uint32_t step = 0; step < 12; step++) {
                uint32_t n = 5 + step % 3; /* of one bucket */
                const struct part parts[] = { { 9 + step, 1, step % 3 * 8 }, { 0, n - 1, 24 } };

                emu_get_counts(&before);
                assert_int_equal(subject_parts(&s, parts, 2, NULL, logits[0]), 0);
                emu_get_counts(&after);
                if (step > 1) /* after one launched directly and the one that is captured */
                        assert_int_equal(after.launches, before.launches);
                assert_int_equal(after.graph_launches, before.graph_launches + (step > 0));
        }
        be->base.ops->facts(&be->base, &facts);
        assert_int_equal(facts.steps, 3 + 12);
        assert_true(facts.graph_steps >= 11 && facts.graph_steps < facts.steps);
        assert_true(facts.graph_nodes > 10);
        subject_free(&s);
}

/* Weights that the backend makes of nothing: of some use, and the same for the same seed. */
static void test_fill(void **unused) {
        static const enum fmt fmts[] = { FMT_F32, FMT_BF16, FMT_Q8_0, FMT_Q4_1 };

        for (size_t i = 0; i < ARRAY_SIZE(fmts); i++) {
                const struct traits t = { .fmt = fmts[i], .kv = KV_F16 };
                struct backend_error error = { .text = "" };

                for (int again = 0; again < 2; again++) {
                        struct backend *be = open_cuda("auto", 0, &error);
                        const char *why = NULL;
                        struct subject s;

                        assert_non_null(be);
                        be->ops = spark_backend_cuda(BACKEND_ABI, &why);
                        assert_non_null(be->ops->fill);
                        subject_make(&s, &t, be, 16);
                        assert_int_equal(subject_step(&s, 0, 16, 0, logits[again]), 0);
                        subject_free(&s);
                }
                assert_memory_equal(logits[0], logits[1], 16 * SUBJECT_VOCAB * sizeof(float));
                for (uint32_t k = 0; k < 16 * SUBJECT_VOCAB; k++)
                        assert_true(logits[0][k] > -1e3f && logits[0][k] < 1e3f);
                assert_true(distance(logits[0], logits[0] + SUBJECT_VOCAB, SUBJECT_VOCAB) > 1e-3);
        }
}

/* Whether a comes before b. */
static bool comes_before(const float *l, int32_t a, int32_t b) {
        return a < b ? l[a] >= l[b] : l[a] > l[b];
}

static void test_top(void **unused) {
        struct backend_top rows[3];
        float values[3 * 5];
        int32_t ids[3 * 5];
        const struct forward_top top = { .rows = rows, .values = values, .ids = ids, .k = 5 };
        const struct part part = { 0, 3, 0 };
        struct subject s;

        subject_make(&s, models, &cuda(models, "auto")->base, SUBJECT_TOKENS);
        for (int again = 0; again < 2; again++) {
                assert_int_equal(subject_parts(&s, &part, 1, &top, logits[0]), 0);
                for (uint32_t r = 0; r < 3; r++) {
                        const float *l = logits[0] + r * SUBJECT_VOCAB;

                        for (uint32_t k = 0; k < 5; k++) {
                                uint32_t higher = 0;

                                for (int32_t i = 0; i < (int32_t)SUBJECT_VOCAB; i++)
                                        higher += comes_before(l, i, ids[r * 5 + k]);
                                assert_int_equal(higher, k);
                                assert_true(l[ids[r * 5 + k]] == values[r * 5 + k]);
                        }
                        assert_true(rows[r].largest == values[r * 5] && rows[r].sum >= 1 && !rows[r].bad);
                }
        }
        subject_free(&s);
}

/* Rows in 8 bits are there for who asks, where the device has them; what is not known or not there is refused. */
static void test_activations(void **unused) {
        static const struct {
                const char *activations;
                unsigned sm;
                const char *refusal; /* NULL: opens */
                bool fp8;
        } cases[] = {
                { NULL, 121, NULL, false },
                { "", 121, NULL, false },
                { "bf16", 90, NULL, false },
                { "fp8", 121, NULL, true },
                { "fp8", 120, NULL, true },
                { "fp8", 90, "multiplies none", false },
                { "int8", 121, "bf16 or fp8", false },
        };
        const char *why = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct backend_error error = { .text = "" };
                const struct backend_config config = { .activations = cases[i].activations, .error = &error };
                struct emu_device_config device;
                struct backend *be = NULL;
                int r;

                emu_get_device(&device);
                device.sm = cases[i].sm;
                emu_set_device(&device);
                r = spark_backend_cuda(BACKEND_ABI, &why)->open(&config, &be);
                assert_int_equal(r, cases[i].refusal ? BACKEND_E_UNSUPPORTED : 0);
                if (cases[i].refusal) {
                        assert_non_null(strstr(error.text, cases[i].refusal));
                } else {
                        assert_true(cuda_of(be)->fp8 == cases[i].fp8);
                        assert_true((strstr(be->ops->describe(be), "fp8") != NULL) == cases[i].fp8);
                        be->ops->close(be);
                }
                emu_reset();
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_models),
                cmocka_unit_test(test_joined),
                cmocka_unit_test(test_bits),
                cmocka_unit_test(test_company),
                cmocka_unit_test(test_graphs),
                cmocka_unit_test(test_fill),
                cmocka_unit_test(test_top),
                cmocka_unit_test(test_activations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
