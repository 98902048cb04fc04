/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What steps take of memory on the emulated device: all of it before the first one, none afterwards, however large a step and how
 * far its sequences are; and the bits do not tell.
 */

#include "cuda-backend-fixture.h"
#include "daemon/image/scratch.h"
#include "daemon/image/shapes.h"

#define ROWS 24u
#define SEQUENCES 5u
#define CONTEXT 1500u
#define TOP 8u

static const struct traits models[] = {
        { .name = "plain", .fmt = FMT_Q8_0, .kv = KV_F16 },
        { .name = "f32", .fmt = FMT_F32, .kv = KV_F32 },
        { .name = "experts", .fmt = FMT_Q8_0, .kv = KV_Q8_0, .experts = true, .shared = true, .window = true },
        { .name = "minima", .fmt = FMT_Q4_1, .kv = KV_F16, .fused = true, .head_norms = true, .post_norms = true },
};

static float logits[2][ROWS * SUBJECT_VOCAB];

static struct cuda_runner *runner_of(const struct subject *s) {
        return &cuda_of(s->be)->runner;
}

static void make(struct subject *s, const struct traits *t, const char *placement) {
        struct backend_error error = { .text = "" };

        subject_make(s, t, open_cuda(placement, 0, &error), ROWS);
}

static struct forward_reserve limits(void) {
        return (struct forward_reserve){ .sequences = SEQUENCES, .context = CONTEXT, .top = TOP };
}

/* A step of sequences that end where `end` says, of so many rows each. Their pages are not theirs alone: it's about memory. */
static int step(struct subject *s, const uint32_t *end, const uint32_t *n, uint32_t n_seqs, uint32_t n_logits, uint32_t top_k,
                float *out) {
        int32_t token[ROWS], ids[ROWS * TOP];
        uint32_t pos[ROWS], seq[ROWS], rows[ROWS], table[SEQUENCES][(CONTEXT + SUBJECT_PAGE - 1) / SUBJECT_PAGE];
        const uint32_t *tables[SEQUENCES];
        struct backend_top tops[ROWS];
        float values[ROWS * TOP];
        const struct forward_top top = { .rows = tops, .values = values, .ids = ids, .k = top_k };
        struct batch b = { .token = token, .pos = pos, .seq = seq, .n_seqs = n_seqs, .page_table = tables };
        int r;

        for (uint32_t q = 0; q < n_seqs; q++) {
                for (uint32_t i = 0; i < ARRAY_SIZE(table[q]); i++)
                        table[q][i] = (q * 6 + i % 6) % SUBJECT_PAGES;
                tables[q] = table[q];
                for (uint32_t i = 0; i < n[q]; i++, b.n_rows++) {
                        token[b.n_rows] = (int32_t)(b.n_rows % SUBJECT_VOCAB);
                        pos[b.n_rows] = end[q] - n[q] + i;
                        seq[b.n_rows] = q;
                        rows[b.n_rows] = b.n_rows;
                }
        }
        r = forward_run(s->f, &b, rows, MIN(n_logits, b.n_rows), top_k ? &top : NULL);
        return r || !out ? r : forward_logits(s->f, 0, b.n_rows, out);
}

static uint32_t below(uint64_t *state, uint32_t n) {
        return (uint32_t)((next_random(state) + 1) / 2 * (float)n) % n;
}

static int random_step(struct subject *s, uint64_t *random) {
        uint32_t n_seqs = 1 + below(random, SEQUENCES), left = ROWS - n_seqs, end[SEQUENCES], n[SEQUENCES];

        for (uint32_t q = 0; q < n_seqs; q++) {
                n[q] = 1 + below(random, MIN(left, 20u) + 1);
                left -= n[q] - 1;
                end[q] = n[q] + below(random, CONTEXT - n[q] + 1);
        }
        return step(s, end, n, n_seqs, below(random, ROWS + 1), below(random, TOP + 1), NULL);
}

/* The largest that there are, in each of their ways: of single rows, of short runs, of one long one. */
static void run_largest(struct subject *s) {
        static const uint32_t ends[] = { CONTEXT, CONTEXT, CONTEXT, CONTEXT, CONTEXT };
        static const uint32_t singles[] = { 1, 1, 1, 1, 1 }, shorts[] = { 4, 5, 5, 5, 5 }, one[] = { ROWS }, some[] = { 15, 9 };

        assert_int_equal(step(s, ends, singles, SEQUENCES, ROWS, TOP, NULL), 0);
        assert_int_equal(step(s, ends, shorts, SEQUENCES, ROWS, TOP, NULL), 0);
        assert_int_equal(step(s, ends, one, 1, ROWS, TOP, NULL), 0);
        assert_int_equal(step(s, ends, some, 2, 0, 0, NULL), 0);
}

static void test_steady(void **unused) {
        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct forward_reserve reserve = limits();
                struct emu_counts before, after;
                uint64_t generation, random = 7 + i;
                size_t attn_host;
                struct subject s;

                make(&s, models + i, "auto");
                assert_int_equal(forward_reserve(s.f, &reserve), 0);
                generation = runner_of(&s)->generation;
                attn_host = runner_of(&s)->attn_host_bytes;
                emu_get_counts(&before);
                emu_fail("cudaMalloc", 1, cudaErrorMemoryAllocation, false);
                run_largest(&s);
                for (int n = 0; n < 12; n++)
                        assert_int_equal(random_step(&s, &random), 0);
                emu_reset();
                emu_fail("cudaHostAlloc", 1, cudaErrorMemoryAllocation, false);
                run_largest(&s);
                emu_reset();
                emu_get_counts(&after);
                assert_int_equal(after.allocations, before.allocations);
                assert_int_equal(after.allocated, before.allocated);
                assert_int_equal(after.pinned, before.pinned);
                assert_int_equal(runner_of(&s)->generation, generation);
                assert_int_equal(runner_of(&s)->attn_host_bytes, attn_host);
                subject_free(&s);
        }
}

/* Short runs that would need too many partial results are served otherwise, with the same bits. */
static void test_bits(void **unused) {
        static const uint32_t ends[] = { 600, CONTEXT, 300, 90, 7 }, n[] = { 9, 1, 7, 5, 2 };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct forward_reserve reserve = limits();
                struct subject s;

                reserve.sequences = 1;
                for (size_t bounded = 0; bounded < 2; bounded++) {
                        size_t partials;

                        make(&s, models + i, "auto");
                        if (bounded)
                                assert_int_equal(forward_reserve(s.f, &reserve), 0);
                        partials = runner_of(&s)->scratch[CUDA_SCRATCH_PARTIALS].bytes;
                        assert_int_equal(step(&s, ends, n, SEQUENCES, ROWS, 0, logits[bounded]), 0);
                        if (bounded) /* the rows of one sequence are enough */
                                assert_int_equal(runner_of(&s)->scratch[CUDA_SCRATCH_PARTIALS].bytes, partials);
                        subject_free(&s);
                }
                assert_memory_equal(logits[0], logits[1], sizeof(logits[0]));
        }
}

/* What is said is what is taken; of the host's memory where that is all there is, else only what is pinned. */
static void test_sums(void **unused) {
        static const char *const placements[] = { "unified", "device" };

        for (size_t i = 0; i < ARRAY_SIZE(placements); i++) {
                struct forward_reserve reserve = limits();
                struct backend_facts before, after;
                struct emu_counts had, has;
                uint64_t device;
                struct subject s;

                make(&s, models, placements[i]);
                assert_int_equal(cuda_uploader_finish(cuda_of(s.be)), 0);
                s.be->ops->facts(s.be, &before);
                emu_get_counts(&had);
                assert_int_equal(forward_reserve(s.f, &reserve), 0);
                s.be->ops->facts(s.be, &after);
                emu_get_counts(&has);
                device = has.allocated - had.allocated;
                assert_int_equal(after.device_bytes - before.device_bytes, device);
                assert_int_equal(after.host_bytes - before.host_bytes, (i == 0 ? device : 0) + has.pinned_bytes - had.pinned_bytes +
                                                                       runner_of(&s)->attn_host_bytes);
                assert_in_range(reserve.bytes, device / 2, device + has.pinned_bytes + runner_of(&s)->attn_host_bytes);
                subject_free(&s);
        }
}

/* Wherever there is none, that is said with what it would take, and the next try may succeed. */
static void test_no_memory(void **unused) {
        static const char *const functions[] = { "cudaMalloc", "cudaHostAlloc" };

        for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
                int r = BACKEND_E_NO_MEMORY;
                unsigned n = 0;

                while (r != 0) {
                        struct forward_reserve reserve = limits();
                        struct subject s;

                        assert_true(n < 100);
                        make(&s, models + 2, "auto");
                        emu_fail(functions[i], ++n, cudaErrorMemoryAllocation, false);
                        r = forward_reserve(s.f, &reserve);
                        assert_true(r == 0 || r == BACKEND_E_NO_MEMORY);
                        emu_reset();
                        if (r != 0)
                                assert_int_equal(forward_reserve(s.f, &reserve), 0);
                        assert_true(reserve.bytes > 0);
                        run_largest(&s);
                        subject_free(&s);
                }
                assert_true(n > (i == 0 ? 6 : 2));
        }
}

/* Weights that nobody reads. */
static int fill_nothing(struct backend *be, struct weight *w, float deviation, uint64_t seed) {
        static uintptr_t next = 1u << 30;

        w->data = (void *)next;
        next += 1u << 30;
        return 0;
}

/* Of steps by default, in MiB. */
static uint64_t shape_takes(const char *name, enum fmt fmt, uint32_t context) {
        struct image_step steps = { .rows = 0 };
        struct kv_config kv = { .n_pages = 1, .page_tokens = 32, .format = KV_F16 };
        struct backend_error why = { .text = "" };
        struct subject s = { .be = open_cuda("auto", 0, &why) };
        struct model_error error = { .text = "" };
        struct forward_reserve reserve = { .context = context, .top = 256 };
        struct backend_ops ops;
        struct image_hparams hp;
        struct model_shape shape;
        bool tied;

        assert_non_null(s.be);
        assert_true(image_shape_find(name, &hp, &tied));
        assert_int_equal(model_read_shape(&shape, &hp, &error), 0);
        ops = *s.be->ops; /* NOLINT(clang-analyzer-core.NullDereference): the assertion above */
        ops.fill = fill_nothing;
        s.be->ops = &ops;
        assert_int_equal(model_new_synthetic(&s.m, s.be, &shape, fmt_info(fmt), 1, &error), 0);
        kv.n_layers = shape.n_layer;
        kv.n_kv_heads = shape.n_head_kv;
        kv.head_dim = shape.head_dim;
        assert_int_equal(ops.kv_new(s.be, &kv, &s.kv), 0);
        image_step_defaults(&steps, shape.n_vocab);
        reserve.sequences = steps.sequences;
        assert_int_equal(forward_new(&s.f, s.m, s.kv, steps.rows, steps.logits), 0);
        assert_int_equal(forward_reserve(s.f, &reserve), 0);
        subject_free(&s);
        return reserve.bytes >> 20;
}

/* What docs/cuda.md says of it. */
static void test_shapes(void **unused) {
        static const struct {
                const char *name;
                enum fmt fmt;
                uint32_t context;
                uint64_t most;
        } shapes[] = {
                { "llama-1b", FMT_Q4_K, 131072, 120 }, { "llama-8b", FMT_Q4_K, 8192, 70 },
                { "llama-8b", FMT_Q4_K, 131072, 220 }, { "llama-70b", FMT_Q4_K, 8192, 125 },
                { "llama-70b", FMT_Q4_K, 131072, 420 }, { "qwen3-32b", FMT_Q4_K, 40960, 235 },
                { "gpt-oss-20b", FMT_MXFP4, 131072, 220 }, { "gpt-oss-120b", FMT_MXFP4, 131072, 220 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                uint64_t takes = shape_takes(shapes[i].name, shapes[i].fmt, shapes[i].context);

                if (takes > shapes[i].most || takes < shapes[i].most * 9 / 10)
                        fail_msg("%s, context %u: %llu MiB", shapes[i].name, shapes[i].context, (unsigned long long)takes);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_steady),
                cmocka_unit_test(test_bits),
                cmocka_unit_test(test_sums),
                cmocka_unit_test(test_no_memory),
                cmocka_unit_test(test_shapes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
