/* SPDX-License-Identifier: Apache-2.0 */

/* The image's writer and reader, and the reader against images that were damaged on purpose. */

#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "daemon/image/layout.h"
#include "daemon/image/plan.h"
#include "daemon/image/schema.h"
#include "kernels/format.h"

static const char token_bytes[] = "<unk>ab\0c";
static const uint64_t token_offsets[] = { 0, 5, 6, 7, 9 };
static const float scores[] = { 0, -1, -2, -3 };
static const uint8_t types[] = { 2, 1, 1, 3 };
static const uint64_t merge_offsets[] = { 0, 3 };

static void add(struct image_plan *plan, const char *name, uint32_t fmt, uint64_t in, uint64_t out) {
        const uint64_t dims[2] = { in, out };

        assert_int_equal(image_plan_add_tensor(plan, name, out ? fmt : FMT_F32, out ? WEIGHT_PANELS : WEIGHT_ROWS, out ? 2 : 1,
                                               dims),
                         0);
}

static struct image_hparams small_hparams(void) {
        return (struct image_hparams){
                .arch = "llama", .name = "small", .n_vocab = 4, .n_ctx = 64, .n_embd = 32, .n_layer = 1, .n_ff = 64,
                .n_head = 4, .n_head_kv = 2, .head_dim = 8, .n_rot = 8, .norm_eps = 1e-5f, .rope_base = 1e4f,
        };
}

static void small_vocab(struct image_plan *plan) {
        plan->vocab = (struct image_vocab){
                .model = IMAGE_VOCAB_BPE, .pre = "gpt-2", .n_tokens = 4, .token_bytes = token_bytes,
                .token_offsets = token_offsets, .scores = scores, .types = types, .n_merges = 1, .merge_bytes = "a b",
                .merge_offsets = merge_offsets, .bos = 3, .eos = -1, .eot = -1, .eom = 2, .unk = 0, .sep = -1, .pad = -1,
                .opening = { 3, { 3, 1, 3 } }, .closing = { 8, { 2, 2, 2, 2, 2, 2, 2, 1 } },
                .add_bos = true, .has_add_bos = true, .ignore_merges = true,
        };
        plan->chat_template = "{{ x }} and more";
        plan->chat_template_size = 7;
}

static void small_plan(struct image_plan *plan) {
        *plan = IMAGE_PLAN_NULL;
        plan->hparams = small_hparams();
        small_vocab(plan);
        add(plan, "token_embd.weight", FMT_Q8_0, 32, 4);
        add(plan, "output_norm.weight", FMT_F32, 32, 0);
        add(plan, "blk.0.attn_norm.weight", FMT_F32, 32, 0);
        add(plan, "blk.0.attn_q.weight", FMT_F32, 32, 32);
        add(plan, "blk.0.attn_k.weight", FMT_F16, 32, 16);
        add(plan, "blk.0.attn_v.weight", FMT_Q4_0, 32, 16);
        add(plan, "blk.0.attn_output.weight", FMT_F32, 32, 32);
        add(plan, "blk.0.ffn_norm.weight", FMT_F32, 32, 0);
        add(plan, "blk.0.ffn_gate.weight", FMT_BF16, 32, 64);
        add(plan, "blk.0.ffn_up.weight", FMT_F32, 32, 64);
        add(plan, "blk.0.ffn_down.weight", FMT_F32, 64, 32);
}

struct made {
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct image_plan plan;
};

static void made_new(struct made *m, uint64_t segment_max) {
        void *map;

        *m = (struct made){ 0 };
        small_plan(&m->plan);
        assert_int_equal(image_plan_layout(&m->plan, segment_max), 0);
        for (; m->n_fds < m->plan.n_segments; m->n_fds++)
                m->fds[m->n_fds] = fd_memfd_new("segment", m->plan.segment_size[m->n_fds]);
        map = mmap(NULL, m->plan.segment_size[0], PROT_READ | PROT_WRITE, MAP_SHARED, m->fds[0], 0);
        assert_ptr_not_equal(map, MAP_FAILED);
        image_plan_write_tables(&m->plan, map);
        (void)munmap(map, m->plan.segment_size[0]);
}

static void made_free(struct made *m) {
        image_plan_deinit(&m->plan);
        for (size_t i = 0; i < m->n_fds; i++)
                m->fds[i] = fd_close(m->fds[i]);
}

static int reopen(const struct made *m, struct image_error *error) {
        struct image image = IMAGE_NULL;
        int r;

        error->text[0] = 0;
        r = image_open(&image, m->fds, m->n_fds, error);
        image_close(&image);
        return r;
}

static void test_write_and_read(void **state) {
        const struct image_tensor *t;
        struct image image = IMAGE_NULL;
        struct image_error error;
        struct made m;

        made_new(&m, 1 << 20);
        for (size_t i = 0; i < m.n_fds; i++)
                assert_int_equal(fd_memfd_seal(m.fds[i]), 0);
        assert_int_equal(image_open(&image, m.fds, m.n_fds, &error), 0);
        assert_memory_equal(image.hparams, &m.plan.hparams, sizeof(*image.hparams));
        assert_int_equal(image.n_tensors, 11);
        assert_int_equal(image.n_params, m.plan.n_params);
        assert_int_equal(image.vocab.n_tokens, 4);
        assert_memory_equal(image.vocab.token_bytes, token_bytes, 9);
        assert_memory_equal(image.vocab.token_offsets, token_offsets, sizeof(token_offsets));
        assert_memory_equal(image.vocab.scores, scores, sizeof(scores));
        assert_memory_equal(image.vocab.types, types, 4);
        assert_memory_equal(image.vocab.merge_bytes, "a b", 3);
        assert_string_equal(image.vocab.pre, "gpt-2");
        assert_true(image.vocab.bos == 3 && image.vocab.eos == -1 && image.vocab.eom == 2 && image.vocab.unk == 0);
        assert_memory_equal(&image.vocab.opening, &m.plan.vocab.opening, sizeof(image.vocab.opening));
        assert_memory_equal(&image.vocab.closing, &m.plan.vocab.closing, sizeof(image.vocab.closing));
        assert_true(image.vocab.add_bos && image.vocab.has_add_bos && image.vocab.ignore_merges);
        assert_false(image.vocab.add_eos || image.vocab.add_space_prefix || image.vocab.remove_extra_whitespaces);
        assert_string_equal(image.chat_template, "{{ x }}");
        assert_int_equal(image.chat_template_size, 7);
        for (size_t i = 0; i < image.n_tensors; i++) {
                t = image_find(&image, m.plan.tensors[i].name);
                assert_ptr_equal(t, &image.tensors[i]);
                assert_int_equal((uintptr_t)image_data(&image, t) % 64, 0);
        }
        assert_null(image_find(&image, "blk.0.attn_q.weigh"));
        assert_null(image_find(&image, ""));
        assert_null(image_find(&image, "zzz"));
        image_close(&image);
        image_close(&image); /* harmless */
        made_free(&m);
}

static void test_segments(void **state) {
        struct image_error error;
        struct made m;
        uint64_t total = 0;

        made_new(&m, 8192);
        assert_true(m.n_fds > 2);
        for (size_t i = 0; i < m.n_fds; i++) {
                assert_int_equal(m.plan.segment_size[i] % 4096, 0);
                total += m.plan.segment_size[i];
        }
        assert_true(total >= m.plan.data_size);
        assert_int_equal(reopen(&m, &error), 0);
        /* one too few, one too many, in another order, of another size */
        m.n_fds--;
        assert_int_equal(reopen(&m, &error), IMAGE_E_INVALID);
        m.n_fds++;
        assert_int_equal(ftruncate(m.fds[1], (off_t)m.plan.segment_size[1] + 4096), 0);
        assert_int_equal(reopen(&m, &error), IMAGE_E_INVALID);
        assert_non_null(strstr(error.text, "segment 1"));
        assert_int_equal(ftruncate(m.fds[1], 0), 0);
        assert_int_equal(reopen(&m, &error), IMAGE_E_INVALID);
        made_free(&m);
}

static void test_large_tensors(void **state) {
        struct image_plan plan = IMAGE_PLAN_NULL;

        add(&plan, "a", FMT_F32, 100, 0);
        add(&plan, "b", FMT_Q4_K, 4096, 14336);
        add(&plan, "c", FMT_F32, 100, 0);
        add(&plan, "d", FMT_F16, 8192, 100000);
        assert_int_equal(image_plan_layout(&plan, 1ull << 30), 0);
        assert_int_equal(plan.n_segments, 2); /* d is longer than a segment and has its own */
        assert_int_equal(plan.tensors[1].offset % 4096, 0);
        assert_int_equal(plan.tensors[2].offset % 64, 0);
        assert_int_equal(plan.tensors[3].segment, 1);
        assert_int_equal(plan.tensors[3].offset, 0);
        assert_true(plan.segment_size[1] >= plan.tensors[3].size);
        image_plan_deinit(&plan);
}

static void test_plan_limits(void **state) {
        struct image_plan plan = IMAGE_PLAN_NULL;
        const uint64_t odd[2] = { 33, 4 }, zero[2] = { 0, 4 }, huge[2] = { 1ull << 30, 1ull << 31 }, ok[2] = { 32, 4 };
        char name[IMAGE_NAME_MAX + 1];

        (void)memset(name, 'n', sizeof(name));
        name[IMAGE_NAME_MAX] = 0;
        assert_int_equal(image_plan_add_tensor(&plan, name, FMT_F32, WEIGHT_PANELS, 2, ok), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_Q8_0, WEIGHT_PANELS, 2, odd), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F32, WEIGHT_PANELS, 2, zero), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", 4, WEIGHT_PANELS, 2, ok), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F32, 2, 2, ok), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F32, WEIGHT_PANELS, 1, ok), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F32, WEIGHT_ROWS, 5, ok), IMAGE_PLAN_E_SHAPE);
        assert_int_equal(plan.n_tensors, 0);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F32, WEIGHT_PANELS, 2, ok), 0);
        assert_int_equal(image_plan_add_tensor(&plan, "x", FMT_F16, WEIGHT_PANELS, 2, ok), 0);
        assert_int_equal(image_plan_layout(&plan, 1 << 20), IMAGE_PLAN_E_DUPLICATE);
        image_plan_deinit(&plan);
        for (int c = 'a'; c <= 'e'; c++) {
                name[0] = (char)c;
                name[1] = 0;
                assert_int_equal(image_plan_add_tensor(&plan, name, FMT_F32, WEIGHT_PANELS, 2, huge), 0);
        }
        assert_int_equal(image_plan_layout(&plan, 1 << 20), IMAGE_PLAN_E_LIMIT); /* 5 x 2^63 bytes */
        image_plan_deinit(&plan);
}

/* Every byte of the tables, several values: never a crash, and a text with every refusal. */
static void test_every_byte(void **state) {
        static const unsigned char flips[] = { 0x01, 0x80, 0xff, 0x40 };
        struct image_error error;
        unsigned char *map;
        size_t refused = 0;
        struct made m;

        made_new(&m, 8192);
        map = mmap(NULL, m.plan.segment_size[0], PROT_READ | PROT_WRITE, MAP_SHARED, m.fds[0], 0);
        assert_ptr_not_equal(map, MAP_FAILED);
        for (size_t i = 0; i < m.plan.tables_size; i++)
                for (size_t f = 0; f < sizeof(flips); f++) {
                        int r;

                        map[i] ^= flips[f];
                        r = reopen(&m, &error);
                        map[i] ^= flips[f];
                        assert_true(r == 0 || r == IMAGE_E_INVALID);
                        if (r) {
                                refused++;
                                assert_non_null(strstr(error.text, "offset"));
                        }
                }
        assert_true(refused > m.plan.tables_size);
        assert_int_equal(reopen(&m, &error), 0);
        (void)munmap(map, m.plan.segment_size[0]);
        made_free(&m);
}

/* Single faults that must be found, by name. */
static void test_faults(void **state) {
        struct image_header *h;
        struct image_tensor *t;
        struct image_hparams *hp;
        struct image_vocab_record *v;
        uint32_t *index;
        uint64_t *offsets;
        struct image_error error;
        struct made m;
        char *map;

        made_new(&m, 1 << 20);
        map = mmap(NULL, m.plan.segment_size[0], PROT_READ | PROT_WRITE, MAP_SHARED, m.fds[0], 0);
        assert_ptr_not_equal(map, MAP_FAILED);
        h = (void *)map;
        hp = (void *)(map + h->sections[IMAGE_SECTION_HPARAMS].offset);
        t = (void *)(map + h->sections[IMAGE_SECTION_TENSORS].offset);
        v = (void *)(map + h->sections[IMAGE_SECTION_VOCAB].offset);
        index = (void *)(map + h->sections[IMAGE_SECTION_NAME_INDEX].offset);
        offsets = (void *)(map + h->sections[IMAGE_SECTION_TOKEN_OFFSETS].offset);
#define FAULT(field, value, says)                                          \
        do {                                                               \
                __typeof__(field) good = field;                            \
                field = (value);                                           \
                assert_int_equal(reopen(&m, &error), IMAGE_E_INVALID);     \
                if (!strstr(error.text, says))                             \
                        fail_msg("'%s' does not say '%s'", error.text, says); \
                field = good;                                              \
        } while (0)
        FAULT(h->version, 2, "version 2");
        FAULT(h->n_tensors, 10, "'tensors'");
        FAULT(h->n_tensors, UINT32_MAX, "too many");
        FAULT(h->sections[IMAGE_SECTION_SCORES].size, UINT64_MAX - 63, "past the end");
        FAULT(h->sections[IMAGE_SECTION_TYPES].offset, 0, "not where it belongs");
        FAULT(h->n_params, 1, "number of parameters");
        FAULT(t[1].offset, t[0].offset, "overlaps");
        FAULT(t[1].offset, t[1].offset + 8, "not aligned");
        FAULT(t[0].offset, 0, "overlaps");
        FAULT(t[10].offset, UINT64_MAX - 63, "passes the end");
        FAULT(t[3].size, t[3].size - 64, "bytes instead of");
        FAULT(t[3].dims[1], 1ull << 62, "do not go together");
        FAULT(t[3].dims[2], 2, "do not go together");
        FAULT(t[3].dims[0], 0, "do not go together");
        FAULT(t[3].fmt, 99, "do not go together");
        FAULT(t[3].layout, WEIGHT_ROWS, "layout");
        FAULT(t[3].segment, 1, "segment");
        FAULT(index[1], index[0], "name index");
        FAULT(index[0], 11, "name index");
        FAULT(offsets[0], 1, "'token offsets'");
        FAULT(offsets[2], 99, "'token offsets'");
        FAULT(offsets[4], 8, "'token offsets'");
        FAULT(v->n_tokens, 5, "'token offsets'");
        FAULT(v->n_tokens, 1ull << 62, "out of range");
        FAULT(v->n_merges, UINT64_MAX, "out of range");
        FAULT(v->bos, 4, "token id 4");
        FAULT(v->eom, -2, "token id -2");
        FAULT(v->opening.n, 9, "9 tokens around");
        FAULT(v->opening.ids[2], 4, "token id 4");
        FAULT(v->closing.ids[7], -1, "token id -1");
        FAULT(v->model, 3, "model 3");
        FAULT(v->flags, 1u << 31, "flags");
        FAULT(hp->n_head_kv, 3, "KV heads");
        FAULT(hp->n_head_kv, 0, "KV heads");
        FAULT(hp->n_rot, 7, "rotated");
        FAULT(hp->norm_eps, NAN, "finite");
        FAULT(hp->norm_eps, 0.0f, "epsilon");
        FAULT(hp->rope_base, -1.0f, "base");
        FAULT(hp->n_layer, 2, "'blk.1.attn_norm.weight' is missing");
        FAULT(hp->n_layer, UINT32_MAX, "layers");
        FAULT(hp->n_ff, 65, "shape");
        FAULT(hp->n_vocab, 5, "5 tokens");
        FAULT(hp->arch[0], 'x', "'xlama'");
        FAULT(map[h->sections[IMAGE_SECTION_PRE].offset + 5], 'x', "'pre-tokenizer'");
        FAULT(map[h->sections[IMAGE_SECTION_TEMPLATE].offset + 2], 0, "'chat template'");
        FAULT(map[h->sections[IMAGE_SECTION_TYPES].offset], 7, "type 7");
#undef FAULT
        assert_int_equal(reopen(&m, &error), 0);
        (void)memset(hp->name, 'x', sizeof(hp->name));
        assert_int_equal(reopen(&m, &error), IMAGE_E_INVALID);
        (void)munmap(map, m.plan.segment_size[0]);
        made_free(&m);
}

static void test_other_files(void **state) {
        struct image image = IMAGE_NULL;
        struct image_error error;
        int fd;

        assert_int_equal(image_open(&image, NULL, 0, &error), IMAGE_E_INVALID);
        fd = fd_memfd_new("empty", 0);
        assert_int_equal(image_open(&image, &fd, 1, &error), IMAGE_E_INVALID);
        assert_int_equal(ftruncate(fd, 100), 0);
        assert_int_equal(image_open(&image, &fd, 1, &error), IMAGE_E_INVALID);
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        assert_int_equal(image_open(&image, &fd, 1, &error), IMAGE_E_INVALID);
        assert_non_null(strstr(error.text, "no image"));
        assert_int_equal(image.n_segments, 0);
        fd = fd_close(fd);
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_int_equal(image_open(&image, &fd, 1, &error), IMAGE_E_INVALID);
        fd = fd_close(fd);
        assert_true(image_open(&image, &fd, 1, &error) < 0);
}

static void test_schema(void **state) {
        struct image_hparams hp = small_hparams();
        struct image_error error;
        struct image_plan plan;
        size_t at;

        small_plan(&plan);
        assert_int_equal(image_schema_check(&hp, plan.tensors, plan.n_tensors, &at, &error), 0);
        (void)strcpy(plan.tensors[3].name, "blk.00.attn_q.weight");
        assert_int_equal(image_schema_check(&hp, plan.tensors, plan.n_tensors, &at, &error), IMAGE_SCHEMA_E_UNSUPPORTED);
        assert_int_equal(at, 3);
        (void)strcpy(plan.tensors[3].name, "blk.99999999999999999999.attn_q.weight");
        assert_int_equal(image_schema_check(&hp, plan.tensors, plan.n_tensors, &at, &error), IMAGE_SCHEMA_E_UNSUPPORTED);
        assert_int_equal(image_schema_check(&hp, plan.tensors, 3, &at, &error), IMAGE_SCHEMA_E_FAULT);
        assert_int_equal(at, IMAGE_SCHEMA_NO_TENSOR);
        image_plan_deinit(&plan);
}

/* By bytes, not by number; formats that GGUF does not have count too, vectors do not. */
static void test_most_used_format(void **state) {
        struct image_plan plan = IMAGE_PLAN_NULL;

        (void)state;
        assert_string_equal(image_plan_format(&plan), "");
        add(&plan, "norm", FMT_F32, 1024, 0);
        assert_string_equal(image_plan_format(&plan), "");
        add(&plan, "a", FMT_F32, 64, 16);
        assert_string_equal(image_plan_format(&plan), "F32");
        add(&plan, "b", FMT_F8_E4M3, 256, 32);
        assert_string_equal(image_plan_format(&plan), "F8_E4M3");
        add(&plan, "c", FMT_Q4_0, 512, 64);
        assert_string_equal(image_plan_format(&plan), "Q4_0");
        image_plan_deinit(&plan);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_segments), cmocka_unit_test(test_large_tensors),
                cmocka_unit_test(test_plan_limits),    cmocka_unit_test(test_faults),   cmocka_unit_test(test_every_byte),
                cmocka_unit_test(test_other_files),    cmocka_unit_test(test_schema), cmocka_unit_test(test_most_used_format),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
