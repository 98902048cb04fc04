/* SPDX-License-Identifier: Apache-2.0 */

/* What the loader plans for an engine is what an engine takes: for every model there is, and for shapes. */

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/engine/forward.h"
#include "daemon/image/image.h"
#include "daemon/image/schema.h"
#include "daemon/image/scratch.h"
#include "daemon/image/shapes.h"
#include "daemon/loader/load.h"
#include "daemon/loader/record.h"
#include "daemon/loader/shape.h"
#include "kernels/backend.h"
#include "kernels/format.h"
#include "loader-fixture.h"

static const struct image_step steps[] = {
        { 0 }, { .rows = 1 }, { .rows = 7, .sequences = 3 }, { .rows = 65536, .sequences = 4096 },
};

/* ---- steps ---- */

static void test_step_defaults(void **state) {
        struct image_step s = { 0 };

        image_step_defaults(&s, 128256);
        assert_true(s.rows == 512 && s.sequences == 64);
        assert_int_equal(s.logits, 130); /* 64 MiB of logits */
        s = (struct image_step){ .rows = 33, .sequences = 99 };
        image_step_defaults(&s, 32000);
        assert_true(s.rows == 33 && s.sequences == 33 && s.logits == 33);
        s = (struct image_step){ .sequences = 3 };
        image_step_defaults(&s, IMAGE_VOCAB_MAX);
        assert_int_equal(s.logits, 4);
        s = (struct image_step){ 0 };
        image_step_defaults(&s, 0);
        assert_int_equal(s.logits, 512);
        assert_int_equal(image_step_logits_bytes(&s, 0), 0);
}

static void test_widths(void **state) {
        static const struct image_tensor fused = { .name = "blk.1.attn_qkv.weight" };
        struct image_hparams hp = { .arch = "phi3", .n_vocab = 11, .n_embd = 6, .n_ff = 5, .n_head = 4, .n_head_kv = 2,
                                    .head_dim = 3 };
        struct image_scratch_widths w;

        image_scratch_widths(&hp, NULL, 0, &w);
        assert_true(w.q == 12 && w.kv == 6 && w.ff == 5 && w.fused == 10 && !w.block);
        image_scratch_widths(&hp, &fused, 1, &w);
        assert_int_equal(w.fused, 24);
        /* x h 12, q a 24, k v 12, gate up 10, wide 24; last 6, logits 11 */
        assert_int_equal(image_scratch_bytes(&w, 3, 2), 4 * (3 * 82 + 2 * 17));
        hp.residual_scale = 0.5f;
        image_scratch_widths(&hp, &fused, 1, &w);
        assert_int_equal(image_scratch_bytes(&w, 3, 2), 4 * (3 * 88 + 2 * 17));
        hp.residual_scale = 1;
        image_scratch_widths(&hp, NULL, 0, &w);
        assert_false(w.block);
        (void)snprintf(hp.arch, sizeof(hp.arch), "gemma2");
        image_scratch_widths(&hp, NULL, 0, &w);
        assert_true(w.block && w.fused == 0);
}

/* The largest that the schema and the configuration allow. */
static void test_no_overflow(void **state) {
        struct image_hparams hp = {
                .arch = "gpt-oss", .n_vocab = IMAGE_VOCAB_MAX, .n_ctx = IMAGE_CONTEXT_MAX, .n_embd = IMAGE_WIDTH_MAX,
                .n_layer = IMAGE_LAYERS_MAX, .n_ff = IMAGE_WIDTH_MAX, .n_head = 1, .n_head_kv = 1, .head_dim = 65536,
                .n_rot = 2, .norm_eps = 1e-5f, .rope_base = 1, .n_expert = IMAGE_EXPERTS_MAX,
                .n_expert_used = IMAGE_EXPERTS_USED_MAX, .n_ff_expert = IMAGE_WIDTH_MAX,
        };
        struct image_scratch_widths w;
        double expect;

        assert_null(image_schema_check_hparams(&hp));
        image_scratch_widths(&hp, NULL, 0, &w);
        expect = 4.0 * 65536 * (3.0 * IMAGE_WIDTH_MAX + 4.0 * 65536 + 3.0 * 64 * IMAGE_WIDTH_MAX + 4096 + 128 + IMAGE_VOCAB_MAX);
        assert_true((double)image_scratch_bytes(&w, 65536, 65536) == expect);
}

/* ---- models ---- */

static void compare_model(const char *path, struct backend *be) {
        struct loader_error error = { .text = "" };
        int fds[IMAGE_SEGMENTS_MAX], input = open(path, O_RDONLY | O_CLOEXEC);
        struct model_error fault;
        struct image_error damage;
        struct image image;
        struct loader l;
        struct lm *m = NULL;
        size_t n = 0;

        assert_true(input >= 0);
        if (loader_load_path(path, fds, &n, &error) != 0)
                fail_msg("%s: %s", path, error.text);
        assert_int_equal(image_open(&image, fds, n, &damage), 0);
        assert_int_equal(model_new_image(&m, be, &image, &fault), 0);
        assert_int_equal(loader_init(&l, &input, 1, &error), 0);
        assert_int_equal(loader_plan(&l), 0);
        for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
                struct image_step step = steps[i];
                struct loadlink_record plan;
                uint64_t takes;

                record_plan(&l.plan, 0, &step, &plan);
                image_step_defaults(&step, m->shape.n_vocab);
                takes = forward_bytes(&m->shape, step.rows, step.logits) + image_step_logits_bytes(&step, m->shape.n_vocab);
                if (plan.engine_bytes < takes || plan.engine_bytes > takes + m->dev_bytes + (64u << 10))
                        fail_msg("%s, %u rows: planned %llu, takes %llu + %llu", path, step.rows,
                                 (unsigned long long)plan.engine_bytes, (unsigned long long)takes,
                                 (unsigned long long)m->dev_bytes);
                assert_true(plan.kv_bytes_per_token == model_kv_bytes(&m->shape, KV_F16));
                assert_true(plan.kv_bytes_per_token_q8_0 == model_kv_bytes(&m->shape, KV_Q8_0));
        }
        loader_deinit(&l);
        (void)fd_close(input);
        m = model_free(m);
        image_close(&image);
        while (n > 0)
                (void)fd_close(fds[--n]);
}

static void test_models(void **state) {
        const struct backend_config config = { .threads = 1 };
        char folder[512], path[1024];
        struct backend *be = NULL;
        unsigned compared = 0;
        struct dirent *e;
        DIR *d;

        (void)snprintf(folder, sizeof(folder), "%s/models", test_data());
        d = opendir(folder);
        if (!d) {
                print_message("no models at %s\n", folder);
                skip();
                return;
        }
        assert_int_equal(backend_find("cpu")->open(&config, &be), 0);
        while ((e = readdir(d))) {
                if (!strstr(e->d_name, ".gguf"))
                        continue;
                (void)snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
                compare_model(path, be);
                compared++;
        }
        (void)closedir(d);
        be->ops->close(be);
        assert_true(compared > 0);
}

/* ---- shapes ---- */

static void test_shapes(void **state) {
        static const struct {
                const char *name, *format;
                double params, gib; /* billions, as published; bytes of weights */
        } expect[] = {
                { "llama-1b", "bf16", 1.236, 2.30 },    { "llama-8b", "bf16", 8.030, 14.96 },
                { "llama-8b", "q8_0", 8.030, 7.95 },    { "llama-70b", "bf16", 70.554, 131.4 },
                { "llama-70b", "q4_k", 70.554, 37.0 },  { "qwen3-32b", "bf16", 32.762, 61.0 },
                { "gpt-oss-20b", "mxfp4", 20.91, 10.4 }, { "gpt-oss-120b", "mxfp4", 116.83, 57.8 },
                { "llama-70b", "bf16_ll", 70.554, 91.3 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(expect); i++) {
                struct image_plan plan = IMAGE_PLAN_NULL;
                struct loader_error error = { .text = "" };
                struct image_error fault;
                struct loadlink_record r;
                bool estimated = false;
                uint64_t sum = 0, kinds = 0;
                size_t at;

                if (shape_plan(&plan, expect[i].name, expect[i].format, LOADLINK_SEGMENT_BYTES, &estimated, &error) != 0)
                        fail_msg("%s: %s", expect[i].name, error.text);
                assert_null(image_schema_check_hparams(&plan.hparams));
                assert_int_equal(image_schema_check(&plan.hparams, plan.tensors, plan.n_tensors, &at, &fault), 0);
                record_plan(&plan, plan.data_size, &steps[0], &r);
                for (size_t k = 0; k < r.n_segments; k++)
                        sum += r.segment_bytes[k];
                for (size_t k = 0; k < LOADLINK_KINDS; k++)
                        kinds += r.kinds[k].bytes;
                assert_true(kinds == plan.data_size && estimated == (r.coded.bytes > 0));
                assert_true(!estimated || (r.coded.params > r.n_params / 1000 * 999 && strcmp(r.format, "BF16_LL") == 0));
                print_message("%s in %s: %.3f billion, %.2f GiB, engine %.2f GiB\n", expect[i].name, expect[i].format,
                              (double)r.n_params / 1e9, (double)sum / (1 << 30), (double)r.engine_bytes / (1 << 30));
                assert_float_equal((double)r.n_params / 1e9, expect[i].params, expect[i].params * 0.005);
                assert_float_equal((double)sum / (1 << 30), expect[i].gib, expect[i].gib * 0.02);
                assert_true(sum >= plan.data_size);
                image_plan_deinit(&plan);
        }
}

static void test_shape_faults(void **state) {
        static const char *const bad[][3] = {
                { "llama-9b", "q4_k", "llama-70b" },
                { "", "q4_k", "known are" },
                { "\x1b[2J", "q4_k", "\\x1B" },
                { "llama-8b", "q4", "no format 'q4'" },
                { "llama-8b", "", "no format" },
                { "gpt-oss-20b", "q4_k", "2880" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct image_plan plan = IMAGE_PLAN_NULL;
                struct loader_error error = { .text = "" };
                bool estimated = false;

                assert_int_equal(shape_plan(&plan, bad[i][0], bad[i][1], LOADLINK_SEGMENT_BYTES, &estimated, &error), LOADER_E_UNSUPPORTED);
                if (!strcasestr(error.text, bad[i][2]))
                        fail_msg("'%s': %s", bad[i][0], error.text);
                image_plan_deinit(&plan);
        }
}

static void test_shape_names(void **state) {
        struct image_hparams hp;
        char names[256], small[9];
        bool tied;
        size_t n = 0;

        (void)image_shape_names(names, sizeof(names));
        for (const char *name; (name = image_shape_name(n)); n++) {
                assert_non_null(strstr(names, name));
                assert_true(image_shape_find(name, &hp, &tied));
                assert_string_equal(hp.name, name);
        }
        assert_int_equal(n, 6);
        assert_string_equal(image_shape_names(small, sizeof(small)), "llama-1b");
        assert_false(image_shape_find("llama", &hp, &tied));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_step_defaults), cmocka_unit_test(test_widths), cmocka_unit_test(test_no_overflow),
                cmocka_unit_test(test_models),        cmocka_unit_test(test_shapes), cmocka_unit_test(test_shape_faults),
                cmocka_unit_test(test_shape_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
