/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The CUDA backend as a whole on the emulated device: models against the CPU backend, with operations joined and as they come; the
 * same bits in steps of any size, by graphs and without.
 */

#include "cuda-backend-fixture.h"

static const struct traits models[] = {
        { .name = "plain", .fmt = FMT_Q8_0, .kv = KV_F16 },
        { .name = "f32", .fmt = FMT_F32, .kv = KV_F32 },
        { .name = "bf16, all in one", .fmt = FMT_BF16, .kv = KV_F32, .fused = true, .head_norms = true },
        { .name = "norms behind", .fmt = FMT_Q8_0, .kv = KV_F32, .post_norms = true, .width_norms = true, .softcap = true },
        { .name = "norms only behind", .fmt = FMT_F32, .kv = KV_F32, .post_norms = true, .no_input_norm = true },
        { .name = "experts", .fmt = FMT_Q8_0, .kv = KV_Q8_0, .experts = true, .window = true },
        { .name = "experts, shared", .fmt = FMT_F32, .kv = KV_F32, .experts = true, .shared = true, .post_norms = true },
        { .name = "minima", .fmt = FMT_Q4_1, .kv = KV_F16, .fused = true, .head_norms = true, .post_norms = true },
};

static float logits[4][SUBJECT_TOKENS * SUBJECT_VOCAB];

static struct cuda_backend *cuda(const char *placement) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda(placement, &error);

        if (!be)
                print_error("%s\n", error.text);
        assert_non_null(be);
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

static void run_model(const struct traits *t, struct backend *be, const uint32_t *sizes, size_t n, float *out) {
        struct subject s;

        subject_make(&s, t, be, SUBJECT_TOKENS);
        run_cut(&s, sizes, n, out);
        subject_free(&s);
}

/* Activations are rounded to 8 bits by one backend and to 8 significant bits by the other. */
static void test_models(void **unused) {
        size_t n = ARRAY_SIZE(logits[0]);

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                const struct traits *t = models + i;
                double limit = t->fmt == FMT_F32 && t->kv == KV_F32 ? 1e-9 : 2e-3, joined, plain;
                struct cuda_backend *be;

                run_model(t, open_cpu(), NULL, 0, logits[0]);
                run_model(t, &cuda("auto")->base, NULL, 0, logits[1]);
                be = cuda("device");
                be->no_fusion = true;
                run_model(t, &be->base, NULL, 0, logits[2]);
                joined = distance(logits[1], logits[0], n);
                plain = distance(logits[2], logits[0], n);
                if (joined > limit || plain > limit)
                        print_error("%s: error %g joined, %g plain\n", t->name, joined, plain);
                assert_true(joined <= limit && plain <= limit);
        }
}

static void test_bits(void **unused) {
        static const uint32_t sizes[] = { 1, 2, 3, 8, 9, 1, 64 };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct cuda_backend *be = cuda("auto");
                struct emu_counts counts;

                run_model(models + i, &be->base, NULL, 0, logits[0]);
                run_model(models + i, &cuda("auto")->base, sizes, ARRAY_SIZE(sizes), logits[1]);
                be = cuda("auto");
                be->no_graphs = true;
                run_model(models + i, &be->base, sizes, ARRAY_SIZE(sizes), logits[2]);
                if (memcmp(logits[0], logits[1], sizeof(logits[0])) != 0 || memcmp(logits[0], logits[2], sizeof(logits[0])) != 0)
                        print_error("%s: other bits\n", models[i].name);
                assert_memory_equal(logits[0], logits[1], sizeof(logits[0]));
                assert_memory_equal(logits[0], logits[2], sizeof(logits[0]));
                emu_get_counts(&counts);
                assert_int_equal(counts.allocations + counts.pinned, 0);
                assert_int_equal(counts.streams + counts.events + counts.graphs + counts.execs, 0);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_models),
                cmocka_unit_test(test_bits),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
