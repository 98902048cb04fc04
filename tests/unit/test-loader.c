/* SPDX-License-Identifier: Apache-2.0 */

/* Loading as a whole: what comes out decodes to what went in, by every way of reading; and what a model must have. */

#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "daemon/loader/load.h"
#include "kernels/format.h"

#include "gguf-maker.h"
#include "loader-fixture.h"

/* Every row of every tensor, straight from the file against out of the image. */
static void compare_with_file(int fd, const struct image *image) {
        struct loader_error error = { 0 };
        struct source source = SOURCE_NULL;
        struct gguf g = GGUF_NULL;

        assert_int_equal(source_init(&source, fd, &error), 0);
        assert_int_equal(gguf_read_metadata(&g, &source, &error), 0);
        assert_int_equal(gguf_read_tensors(&g), 0);
        source_stop_direct(&source);
        assert_int_equal(g.n_tensors, image->n_tensors);
        for (size_t i = 0; i < g.n_tensors; i++)
                compare_tensor(fd, &g.tensors[i], image);
        gguf_deinit(&g);
        source_deinit(&source);
}

static void round_trip(const char *path) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct loader_error error = { 0 };
        struct loaded l = { 0 };

        assert_true(fd >= 0);
        if (loader_load(fd, l.fds, &l.n_fds, &error) != 0)
                fail_msg("%s: %s", path, error.text);
        assert_false(fcntl(fd, F_GETFL) & O_DIRECT); /* as we found it */
        open_loaded(&l);
        compare_with_file(fd, &l.image);
        loaded_close(&l);
}

static void test_round_trip(void **state) {
        static const char *const prefixes[] = { "stories260K-", "mini-llama", "rand-llama" };
        char path[4096];
        struct dirent *e;
        unsigned n = 0;
        DIR *dir;

        (void)snprintf(path, sizeof(path), "%s/models", test_data());
        dir = opendir(path);
        assert_non_null(dir);
        while ((e = readdir(dir))) {
                static const char *const formats_to_come[] = { "iq4", "q2_k", "q3_k" };
                bool take = false;

                for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
                        take |= strncmp(e->d_name, prefixes[i], strlen(prefixes[i])) == 0;
                for (size_t i = 0; i < ARRAY_SIZE(formats_to_come); i++)
                        take &= !strstr(e->d_name, formats_to_come[i]);
                if (!take)
                        continue;
                (void)snprintf(path, sizeof(path), "%s/models/%s", test_data(), e->d_name);
                round_trip(path);
                n++;
        }
        (void)closedir(dir);
        assert_true(n >= 10);
}

static void test_hparams(void **state) {
        struct loader_error error = { 0 };
        struct loaded l = { 0 };
        const struct image_hparams *hp;
        struct maker m;
        int fd;

        maker_model(&m, &(struct maker_model){ .layers = 2 });
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_load(fd, l.fds, &l.n_fds, &error), 0);
        open_loaded(&l);
        hp = l.image.hparams;
        assert_string_equal(hp->arch, "llama");
        assert_string_equal(hp->name, "made by a test");
        assert_int_equal(hp->n_vocab, 9);
        assert_int_equal(hp->n_ctx, 128);
        assert_int_equal(hp->n_embd, 32);
        assert_int_equal(hp->n_layer, 2);
        assert_int_equal(hp->n_ff, 48);
        assert_int_equal(hp->n_head, 4);
        assert_int_equal(hp->n_head_kv, 2);
        assert_int_equal(hp->head_dim, 8);
        assert_int_equal(hp->n_rot, 8);
        assert_true(hp->norm_eps == 1e-5f && hp->rope_base == 10000.0f);
        assert_string_equal(l.image.chat_template, "{{ messages }}");
        assert_int_equal(l.image.vocab.model, IMAGE_VOCAB_SPM);
        assert_int_equal(l.image.vocab.token_offsets[9] - l.image.vocab.token_offsets[0], 5 + 3 + 4 + 1 + 1 + 2 + 1 + 3 + 1);
        assert_memory_equal(l.image.vocab.token_bytes + l.image.vocab.token_offsets[7], "abc", 3);
        assert_int_equal(l.image.vocab.types[0], 2);
        assert_int_equal(l.image.vocab.eos, 2);
        assert_int_equal(l.image.vocab.eot, -1);
        assert_true(l.image.vocab.add_bos && l.image.vocab.has_add_bos && !l.image.vocab.has_add_space_prefix);
        assert_string_equal(l.image.vocab.pre, "");
        loaded_close(&l);
        fd = fd_close(fd);
        maker_deinit(&m);
}

/* Chunks smaller and larger than a panel, an odd number of rows, on a disk (O_DIRECT) and in memory, with and without
 * a ring. */
static void run_copy(int fd, bool use_ring) {
        struct loader_error error = { 0 };
        struct loaded l = { 0 };
        struct loader loader;

        assert_int_equal(loader_init(&loader, &fd, 1, &error), 0);
        if (!use_ring)
                ring_deinit(&loader.copy.ring);
        assert_int_equal(loader_plan(&loader), 0);
        l.n_fds = loader.plan.n_segments;
        for (size_t i = 0; i < l.n_fds; i++)
                l.fds[i] = fd_memfd_new("image", loader.plan.segment_size[i]);
        assert_int_equal(loader_write(&loader, l.fds, l.n_fds, NULL), 0);
        assert_int_equal(loader.copy.done, loader_total(&loader));
        loader_deinit(&loader);
        for (size_t i = 0; i < l.n_fds; i++)
                assert_int_equal(fd_memfd_seal(l.fds[i]), 0);
        open_loaded(&l);
        compare_with_file(fd, &l.image);
        loaded_close(&l);
}

static void test_ways_of_reading(void **state) {
        char path[] = "./test-loader-XXXXXX";
        struct maker m;
        int disk, memory;

        maker_model(&m, &(struct maker_model){ .ff = 20011 });
        memory = maker_memfd(m.data, m.n);
        disk = mkostemp(path, O_CLOEXEC);
        assert_true(disk >= 0);
        (void)unlink(path);
        assert_int_equal(write(disk, m.data, m.n), m.n);
        run_copy(disk, true);
        run_copy(disk, false);
        run_copy(memory, true);
        run_copy(memory, false);
        disk = fd_close(disk);
        memory = fd_close(memory);
        maker_deinit(&m);
}

static void test_shrinking_file(void **state) {
        for (unsigned ring = 0; ring < 2; ring++) {
                struct loader_error error = { 0 };
                struct loader loader;
                struct maker m;
                int fd, segment;

                maker_model(&m, &(struct maker_model){ .ff = 20011 });
                fd = maker_memfd(m.data, m.n);
                assert_int_equal(loader_init(&loader, &fd, 1, &error), 0);
                if (!ring)
                        ring_deinit(&loader.copy.ring);
                assert_int_equal(loader_plan(&loader), 0);
                assert_int_equal(ftruncate(fd, (off_t)(m.n / 2)), 0);
                segment = fd_memfd_new("image", loader.plan.segment_size[0]);
                assert_int_equal(loader_write(&loader, &segment, 1, NULL), LOADER_E_IO);
                assert_non_null(strstr(error.text, "ended at offset"));
                loader_deinit(&loader);
                fd = fd_close(fd);
                segment = fd_close(segment);
                maker_deinit(&m);
        }
}

static void test_wrong_inputs(void **state) {
        int fds[IMAGE_SEGMENTS_MAX], p[2];
        struct loader_error error = { 0 };
        size_t n = 0;
        int fd;

        assert_int_equal(pipe(p), 0);
        assert_int_equal(loader_load(p[0], fds, &n, &error), LOADER_E_IO);
        assert_non_null(strstr(error.text, "regular file"));
        (void)fd_close(p[0]);
        (void)fd_close(p[1]);
        assert_int_equal(loader_load_path("/does/not/exist", fds, &n, &error), LOADER_E_IO);
        assert_non_null(strstr(error.text, "/does/not/exist"));
        assert_int_equal(loader_load_path("/", fds, &n, &error), LOADER_E_IO);
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        assert_int_equal(loader_load(fd, fds, &n, &error), LOADER_E_IO);
        fd = fd_close(fd);
        assert_int_equal(loader_load(-1, fds, &n, &error), -EBADF);
        fd = maker_memfd("", 0);
        assert_int_equal(loader_load(fd, fds, &n, &error), LOADER_E_INVALID);
        fd = fd_close(fd);
        assert_int_equal(n, 0);
}

static void test_wrong_segments(void **state) {
        struct loader_error error = { 0 };
        struct loader loader;
        struct maker m;
        int fd, segment;

        maker_model(&m, &(struct maker_model){ 0 });
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_init(&loader, &fd, 1, &error), 0);
        assert_int_equal(loader_plan(&loader), 0);
        segment = fd_memfd_new("image", loader.plan.segment_size[0] - 1);
        assert_int_equal(loader_write(&loader, &segment, 1, NULL), -EINVAL);
        assert_int_equal(loader_write(&loader, &segment, 0, NULL), -EINVAL);
        loader_deinit(&loader);
        fd = fd_close(fd);
        segment = fd_close(segment);
        maker_deinit(&m);
}

static void expect(const struct maker_model *o, void (*more)(struct maker *m), int code, const char *says) {
        int fds[IMAGE_SEGMENTS_MAX], fd, r;
        struct loader_error error = { 0 };
        struct maker m;
        size_t n = 0;

        maker_begin(&m);
        maker_hparams(&m, o);
        if (!o->no_vocab)
                maker_vocab(&m, o);
        if (more)
                more(&m);
        if (!o->no_tensors)
                maker_tensors(&m, o);
        maker_end(&m);
        fd = maker_memfd(m.data, m.n);
        r = loader_load(fd, fds, &n, &error);
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
        if (r != code || !strstr(error.text, says))
                fail_msg("got %d '%s', expected %d '%s'", r, error.text, code, says);
        fd = fd_close(fd);
        maker_deinit(&m);
}

static void more_experts(struct maker *m) {
        maker_kv_u32(m, "llama.expert_count", 8);
}

static void more_vocab_size(struct maker *m) {
        maker_kv_u32(m, "llama.vocab_size", 10);
}

static void more_key_length(struct maker *m) {
        maker_kv_u32(m, "llama.attention.key_length", 16);
}

static void more_value_length(struct maker *m) {
        maker_kv_u32(m, "llama.attention.value_length", 16);
}

static void more_longrope(struct maker *m) {
        maker_kv_str(m, "llama.rope.scaling.type", "longrope", 8);
}

static void more_mrope(struct maker *m) {
        maker_kv_str(m, "llama.rope.scaling.type", "mrope", 5);
}

static void more_softcap(struct maker *m) {
        maker_kv_f32(m, "llama.attn_logit_softcapping", 50.0f);
}

static void more_groups(struct maker *m) {
        maker_kv_u32(m, "llama.expert_group_count", 2);
}

static void more_expert_scale(struct maker *m) {
        maker_kv_f32(m, "llama.expert_weights_scale", 2.5f);
}

static void more_expert_scale_of_one(struct maker *m) {
        maker_kv_f32(m, "llama.expert_weights_scale", 1.0f);
}

static void more_linear(struct maker *m) {
        maker_kv_str(m, "llama.rope.scaling.type", "linear", 6);
}

static void more_factor(struct maker *m) {
        more_linear(m);
        maker_kv_f32(m, "llama.rope.scaling.factor", 4.0f);
}

static void more_nan(struct maker *m) {
        maker_kv_f32(m, "llama.rope.scaling.factor", NAN);
}

static void more_eot(struct maker *m) {
        maker_kv_u32(m, "tokenizer.ggml.eot_token_id", 9);
}

static void more_pad(struct maker *m) {
        maker_kv_u32(m, "tokenizer.ggml.padding_token_id", 4096);
}

static void more_bad_merge(struct maker *m) {
        maker_kv_array(m, "tokenizer.ggml.merges", 8, 1);
        maker_bytes(m, "nospace", 7, NULL);
}

static void more_bias(struct maker *m) {
        maker_f32(m, "blk.0.attn_q.bias", 32, 0);
        maker_f32(m, "rope_freqs.weight", 4, 0);
        maker_f32(m, "output.weight", 32, 9);
}

static void more_bias_shape(struct maker *m) {
        maker_f32(m, "blk.0.attn_k.bias", 32, 0);
}

static void test_model_rules(void **state) {
        const struct maker_model plain = { 0 }, bpe = { .bpe = true };

        expect(&plain, NULL, 0, "");
        expect(&plain, more_bias, 0, "");
        expect(&plain, more_factor, 0, "");
        expect(&plain, more_pad, 0, "");
        expect(&plain, more_bias_shape, LOADER_E_INVALID, "'blk.0.attn_k.bias' has the shape");
        expect(&plain, more_experts, LOADER_E_INVALID, "number of experts");
        expect(&plain, more_softcap, LOADER_E_UNSUPPORTED, "llama.attn_logit_softcapping");
        expect(&plain, more_groups, LOADER_E_UNSUPPORTED, "llama.expert_group_count");
        expect(&plain, more_expert_scale, LOADER_E_UNSUPPORTED, "llama.expert_weights_scale");
        expect(&plain, more_expert_scale_of_one, 0, "");
        expect(&plain, more_vocab_size, LOADER_E_INVALID, "llama.vocab_size");
        expect(&plain, more_key_length, LOADER_E_UNSUPPORTED, "value_length");
        expect(&plain, more_value_length, LOADER_E_UNSUPPORTED, "value_length");
        expect(&plain, more_longrope, 0, "");
        expect(&plain, more_mrope, LOADER_E_UNSUPPORTED, "mrope");
        expect(&plain, more_linear, LOADER_E_INVALID, "scaling factor");
        expect(&plain, more_nan, LOADER_E_INVALID, "rope.scaling.factor");
        expect(&plain, more_eot, LOADER_E_INVALID, "eot_token_id");
        expect(&plain, more_bad_merge, LOADER_E_INVALID, "nospace");
        expect(&bpe, NULL, 0, "");
        expect(&(struct maker_model){ .arch = "falcon" }, NULL, LOADER_E_UNSUPPORTED, "'general.architecture' is 'falcon'");
        expect(&(struct maker_model){ .arch = "falcon", .no_tensors = true }, NULL, 0, "");
        expect(&(struct maker_model){ .no_vocab = true }, NULL, LOADER_E_INVALID, "no vocabulary");
        expect(&(struct maker_model){ .no_tokens = true }, NULL, LOADER_E_INVALID, "no vocabulary");
        expect(&(struct maker_model){ .no_vocab = true, .no_tensors = true }, NULL, LOADER_E_INVALID, "no vocabulary");
}

static void test_missing_tensors(void **state) {
        static const char *const names[] = {
                "token_embd.weight",       "output_norm.weight",        "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
                "blk.0.attn_k.weight",     "blk.1.attn_v.weight",       "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
                "blk.1.ffn_gate.weight",   "blk.0.ffn_up.weight",       "blk.1.ffn_down.weight",
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                char says[128];

                (void)snprintf(says, sizeof(says), "'%s' is missing", names[i]);
                expect(&(struct maker_model){ .layers = 2, .drop = names[i] }, NULL, LOADER_E_INVALID, says);
        }
}

static void test_required_keys(void **state) {
        static const char *const keys[] = {
                "general.architecture",          "llama.context_length",       "llama.embedding_length", "llama.block_count",
                "llama.feed_forward_length",     "llama.attention.head_count", "tokenizer.ggml.model",   "tokenizer.ggml.tokens",
                "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.scores",
        };

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                int fds[IMAGE_SEGMENTS_MAX], fd;
                struct loader_error error = { 0 };
                struct maker m;
                size_t n = 0;
                unsigned char *at;

                maker_model(&m, &(struct maker_model){ 0 });
                at = memmem(m.data, m.n, keys[i], strlen(keys[i]));
                assert_non_null(at);
                at[0] = 'x'; /* as if it were not there */
                fd = maker_memfd(m.data, m.n);
                assert_int_equal(loader_load(fd, fds, &n, &error), LOADER_E_INVALID);
                if (!strstr(error.text, keys[i]))
                        fail_msg("'%s' does not name %s", error.text, keys[i]);
                fd = fd_close(fd);
                maker_deinit(&m);
        }
}

static void test_vocabularies(void **state) {
        static const struct {
                const char *name;
                enum image_vocab_model model;
                size_t n_tokens, n_merges;
                int32_t bos;
        } files[] = {
                { "llama-spm", IMAGE_VOCAB_SPM, 32000, 0, 1 },
                { "phi-3", IMAGE_VOCAB_SPM, 32064, 0, 1 },
                { "gpt-2", IMAGE_VOCAB_BPE, 50257, 50000, 50256 },
                { "llama-bpe", IMAGE_VOCAB_BPE, 128256, 280147, 128000 },
                { "gemma-4", IMAGE_VOCAB_BPE, 262144, 514906, 2 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                struct loader_error error = { 0 };
                struct loaded l = { 0 };
                char path[4096];
                int r;

                (void)snprintf(path, sizeof(path), "%s/vocab/%s.gguf", test_data(), files[i].name);
                r = loader_load_path(path, l.fds, &l.n_fds, &error);
                assert_int_equal(r, 0);
                open_loaded(&l);
                assert_int_equal(l.image.n_tensors, 0);
                assert_int_equal(l.image.vocab.model, files[i].model);
                assert_int_equal(l.image.vocab.n_tokens, files[i].n_tokens);
                assert_int_equal(l.image.vocab.n_merges, files[i].n_merges);
                assert_int_equal(l.image.vocab.bos, files[i].bos);
                loaded_close(&l);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hparams),         cmocka_unit_test(test_ways_of_reading),
                cmocka_unit_test(test_shrinking_file),  cmocka_unit_test(test_wrong_inputs),
                cmocka_unit_test(test_wrong_segments),  cmocka_unit_test(test_model_rules),
                cmocka_unit_test(test_missing_tensors), cmocka_unit_test(test_required_keys),
                cmocka_unit_test(test_vocabularies),    cmocka_unit_test(test_round_trip),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
