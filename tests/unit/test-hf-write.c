/* SPDX-License-Identifier: Apache-2.0 */

/* Directories with every kind of weights, made here: each element of the image is what the file's bytes stand for. */

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macro.h"
#include "hf-fixture.h"
#include "coded-fixture.h"
#include "loader-fixture.h"

#define VOCAB 429
#define TENSORS_MAX 64u
#define FILE_MAX ((size_t)16 << 20)

struct tensor {
        char name[96];
        const char *type;
        uint64_t dims[4];
        uint32_t n_dims;
        size_t offset, size; /* of the data */
};

struct files {
        char config[1024];
        struct tensor tensors[TENSORS_MAX];
        size_t n;
        uint8_t *data;
        size_t n_data;
        uint32_t state; /* of the random numbers */
};

static uint32_t next(struct files *f) {
        f->state = f->state * 1664525u + 1013904223u;
        return f->state >> 8;
}

static void fill(struct files *f, const struct tensor *t, uint8_t *p) {
        bool scale = strstr(t->name, "scale") != NULL;

        for (size_t i = 0; i < t->size; i++)
                p[i] = (uint8_t)next(f);
        for (size_t i = 0; strcmp(t->type, "F8_E4M3") == 0 && i < t->size; i++)
                p[i] = scale ? (uint8_t)(0x28 + p[i] % 0x20) : (p[i] & 0x7f) == 0x7f ? 0x33 : p[i]; /* positive; no NaN */
        for (size_t i = 0; strstr(t->name, "_scales") && i < t->size; i++)
                p[i] = (uint8_t)(120 + p[i] % 8);
        for (size_t i = 0; strcmp(t->type, "BF16") == 0 && i < t->size; i += 2)
                p[i + 1] = (uint8_t)(0x3e + (scale ? 0 : p[i + 1] & 0x80u) + (p[i + 1] & 1u)); /* not far from 1 */
        for (size_t i = 0; strcmp(t->type, "F32") == 0 && i < t->size; i += 4) {
                float v = (float)(next(f) % 1000 + 1) / 512.0f;

                (void)memcpy(p + i, &v, 4);
        }
}

/* A tensor of random data; dimensions end with 0. */
static void put(struct files *f, const char *name, const char *type, const uint64_t dims[4]) {
        struct tensor *t = &f->tensors[f->n++];

        assert_true(f->n < TENSORS_MAX);
        *t = (struct tensor){ .type = type, .offset = f->n_data, .size = strcmp(type, "F32") == 0 ? 4 : strcmp(type, "BF16") == 0 ? 2 : 1 };
        (void)snprintf(t->name, sizeof(t->name), "%s", name);
        for (; t->n_dims < 4 && dims[t->n_dims]; t->n_dims++) {
                t->dims[t->n_dims] = dims[t->n_dims];
                t->size *= dims[t->n_dims];
        }
        f->n_data += t->size;
        assert_true(f->n_data < FILE_MAX);
        fill(f, t, f->data + t->offset);
}

#define PUT(f, name, type, ...) put(f, name, type, (const uint64_t[4]){ __VA_ARGS__ })
#define LAYER "model.layers.0."

static void files_init(struct files *f) {
        *f = (struct files){ .state = 7, .data = calloc(1, FILE_MAX) };
        assert_non_null(f->data);
}

/* model.safetensors: header and data. */
static int files_fd(const struct files *f) {
        size_t n = 1, cap = 256 * (f->n + 1);
        _cleanup_free_ char *header = malloc(cap);
        uint64_t size;
        int fd;

        assert_non_null(header);
        header[0] = '{';
        for (size_t i = 0; i < f->n; i++) {
                const struct tensor *t = &f->tensors[i];

                n += (size_t)snprintf(header + n, cap - n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->type);
                for (uint32_t d = 0; d < t->n_dims; d++)
                        n += (size_t)snprintf(header + n, cap - n, "%s%llu", d ? "," : "", (unsigned long long)t->dims[d]);
                n += (size_t)snprintf(header + n, cap - n, "],\"data_offsets\":[%zu,%zu]}", t->offset, t->offset + t->size);
        }
        n += (size_t)snprintf(header + n, cap - n, "}");
        size = n;
        fd = memfd_of(&size, sizeof(size));
        assert_int_equal(write(fd, header, n), n);
        assert_int_equal(write(fd, f->data, f->n_data), f->n_data);
        return fd;
}

static const struct tensor *find(const struct files *f, const char *name) {
        for (size_t i = 0; i < f->n; i++)
                if (strcmp(f->tensors[i].name, name) == 0)
                        return &f->tensors[i];
        return NULL;
}

static const struct tensor *find_end(const struct files *f, const char *name, const char *end) {
        char other[128];

        (void)snprintf(other, sizeof(other), "%s%s", name, end);
        return find(f, other);
}

/* ---- what bytes stand for ---- */

static double e4m3(uint8_t v) {
        int exponent = v >> 3 & 15, mantissa = v & 7;
        double x = exponent ? ldexp(1.0 + mantissa / 8.0, exponent - 7) : ldexp(mantissa / 8.0, -6);

        return v & 0x80 ? -x : x;
}

static double e2m1(unsigned code) {
        static const double values[8] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };

        return code & 8u ? -values[code & 7u] : values[code & 7u];
}

/* The i'th element of a tensor of plain numbers. */
static double plain(const struct files *f, const struct tensor *t, uint64_t i) {
        const uint8_t *p = f->data + t->offset;
        uint32_t bits = 0;
        float v;

        assert_non_null(t);
        if (strcmp(t->type, "F8_E4M3") == 0)
                return e4m3(p[i]);
        if (strcmp(t->type, "BF16") == 0)
                bits = (uint32_t)p[2 * i] << 16 | (uint32_t)p[2 * i + 1] << 24;
        else
                (void)memcpy(&bits, p + 4 * i, 4);
        (void)memcpy(&v, &bits, 4);
        return (double)v;
}

/* Element of a matrix [rows][columns], with the scales of F8 or NULL. */
static double value(const struct files *f, const struct tensor *t, const struct tensor *s, uint64_t row, uint64_t k) {
        uint64_t columns = t->dims[1], blocks = (columns + 127) / 128;

        if (!s)
                return plain(f, t, row * columns + k);
        if (s->n_dims == 0 || s->dims[0] == 1)
                return plain(f, t, row * columns + k) * plain(f, s, s->n_dims > 1 ? k / 128 : 0);
        if (s->dims[0] == t->dims[0])
                return plain(f, t, row * columns + k) * plain(f, s, row);
        return plain(f, t, row * columns + k) * plain(f, s, row / 128 * blocks + k / 128);
}

/* Two codes in a byte, the even one lower; a scale for 16. The scale of all is another tensor of the image. */
static double nvfp4(const struct files *f, const struct tensor *t, const struct tensor *scales, uint64_t row, uint64_t k) {
        uint64_t at = row * t->dims[1] * 2 + k;
        unsigned byte = f->data[t->offset + at / 2];

        return e2m1(at % 2 ? byte >> 4 : byte & 15u) * plain(f, scales, at / 16);
}

static double mxfp4(const struct files *f, const struct tensor *t, const struct tensor *scales, uint64_t row, uint64_t k) {
        uint64_t block = row * t->dims[2] + k / 32;
        unsigned byte = f->data[t->offset + block * 16 + k % 32 / 2];

        return e2m1(k % 2 ? byte >> 4 : byte & 15u) * ldexp(1, f->data[scales->offset + block] - 127);
}

/* ---- comparing ---- */

/* How the matrices of an image's tensor lie in the file's. */
struct origin {
        const char *tensor, *source;
        char kind; /* 'p'lain or F8, 'n' NVFP4, 'm' MXFP4, 't'ransposed, 'v'ector */
        unsigned first, step;
};

/* What lies beside a matrix, or NULL. */
static const struct tensor *scales_of(const struct files *f, const struct origin *o) {
        size_t cut = strstr(o->source, "_packed") || o->kind == 'm' ? 7 : 0; /* "_blocks" is as long */
        const struct tensor *s;
        char name[96];

        (void)snprintf(name, sizeof(name), "%.*s", (int)(strlen(o->source) - cut), o->source);
        s = find_end(f, name, o->kind == 'm' ? "_scales" : "_scale");
        return s ? s : find_end(f, name, "_scale_inv");
}

static double expected(const struct files *f, const struct origin *o, const struct tensor *s, const struct tensor *scales,
                       const struct image_tensor *t, uint64_t matrix, uint64_t row, uint64_t k) {
        uint64_t at = (matrix * t->dims[1] + row) * o->step + o->first;

        switch (o->kind) {
        case 'n': return nvfp4(f, s, scales, at, k);
        case 'm': return mxfp4(f, s, scales, at, k);
        case 't': return plain(f, s, (matrix * t->dims[0] + k) * t->dims[1] * o->step + row * o->step + o->first);
        case 'v': return plain(f, s, (row * t->dims[0] + k) * o->step + o->first);
        default: return value(f, s, scales, at, k);
        }
}

static void compare(const struct files *f, const struct image *image, const struct origin *o) {
        const struct image_tensor *t = image_find(image, o->tensor);
        const struct tensor *s = find(f, o->source), *scales = scales_of(f, o);
        _cleanup_free_ float *have = NULL;
        double tolerance;

        if (!t || !s) {
                fail_msg("no %s or no %s", o->tensor, o->source);
                return;
        }
        have = calloc(t->dims[0], sizeof(*have));
        assert_non_null(have);
        /* BF16 where rows are no whole blocks of F8 */
        tolerance = t->fmt == FMT_BF16 && strcmp(s->type, "BF16") != 0 ? 1.0 / 256 : 1e-7;
        for (uint64_t m = 0; m < t->dims[2]; m++) {
                struct weight w = { .info = fmt_info(t->fmt), .layout = (enum weight_layout)t->layout, .n_out = (uint32_t)t->dims[1],
                                    .n_in = (uint32_t)t->dims[0], .data = (const char *)image_data(image, t) + t->size / t->dims[2] * m };

                for (uint64_t row = 0; row < t->dims[1]; row++) {
                        weight_decode_row(&w, (uint32_t)row, have);
                        for (uint64_t k = 0; k < t->dims[0]; k++) {
                                double want = expected(f, o, s, scales, t, m, row, k);

                                if (!(fabs((double)have[k] - want) <= tolerance * fabs(want)))
                                        fail_msg("%s %llu/%llu/%llu: %g instead of %g", o->tensor, (unsigned long long)m,
                                                 (unsigned long long)row, (unsigned long long)k, (double)have[k], want);
                        }
                }
        }
}

struct seen {
        uint64_t last, total;
        unsigned calls;
};

static void see(void *arg, uint64_t done, uint64_t total) {
        struct seen *s = arg;

        assert_true(done >= s->last && done <= total && (s->calls == 0 || total == s->total));
        *s = (struct seen){ done, total, s->calls + 1 };
}

/* Returns config.json's descriptor, which the caller closes after the loader. */
static int start(struct loader *l, const struct files *f, const struct hf_dir *x, int weights, struct loader_error *error) {
        const char *names[3] = { "config.json", "tokenizer.json", "model.safetensors" };
        int fds[3] = { memfd_of(f->config, strlen(f->config)), -1, weights };

        for (size_t i = 0; i < x->n; i++)
                if (strcmp(x->names[i], names[1]) == 0)
                        fds[1] = x->fds[i];
        assert_int_equal(loader_init_directory(l, names, fds, 3, error), 0);
        return fds[0];
}

struct way {
        bool ring;
        uint64_t scales_max; /* 0: as it is */
        bool lossless;
};

/* Loads the model; what is coded is compared with `plain`, and their number returned. */
static size_t load(const struct files *f, const struct way *way, const struct image *plain, struct loaded *image) {
        struct loader_error error = { .text = "" };
        struct seen seen = { 0 };
        const struct copy_progress progress = { see, &seen };
        struct hf_dir x;
        struct loader l;
        int weights = files_fd(f), config;

        hf_dir_open(&x, MODELS "llama", NULL, NULL, 0);
        config = start(&l, f, &x, weights, &error);
        if (!way->ring)
                ring_deinit(&l.copy.ring);
        if (way->scales_max)
                l.hf->scales_max = way->scales_max;
        l.options.lossless = way->lossless;
        if (loader_plan(&l) != 0)
                fail_msg("%s", error.text);
        *image = (struct loaded){ .n_fds = l.plan.n_segments };
        for (size_t i = 0; i < image->n_fds; i++)
                image->fds[i] = fd_memfd_new("image", l.plan.segment_size[i]);
        if (loader_write(&l, image->fds, image->n_fds, &progress) != 0)
                fail_msg("%s", error.text);
        assert_int_equal(seen.last, loader_total(&l));
        assert_int_equal(seen.total, loader_total(&l));
        for (size_t i = 0; i < image->n_fds; i++)
                assert_int_equal(fd_memfd_seal(image->fds[i]), 0);
        loader_deinit(&l);
        (void)fd_close(config);
        hf_dir_close(&x);
        (void)fd_close(weights);
        open_loaded(image);
        return plain ? coded_compare(plain, &image->image) : 0;
}

static void run(const struct files *f, const struct way *way, const struct origin *origins, size_t n) {
        struct loaded image;

        (void)load(f, way, NULL, &image);
        for (size_t i = 0; i < n; i++)
                compare(f, &image.image, &origins[i]);
        loaded_close(&image);
}

/* One is enough where each takes seconds. */
static size_t few(size_t n) {
        return getenv("SPARK_TEST_EMULATED") ? 1 : n;
}

/* Plain and coded, the same bits; so many tensors get smaller. */
static void run_coded(const struct files *f, size_t expect) {
        static const struct way plain_way = { .ring = true };
        static const struct way ways[] = { { true, 0, true }, { false, 0, true }, { true, 1, true } };
        struct loaded plain, coded;

        (void)load(f, &plain_way, NULL, &plain);
        for (size_t i = 0; i < few(ARRAY_SIZE(ways)); i++) {
                assert_int_equal(load(f, &ways[i], &plain.image, &coded), expect);
                loaded_close(&coded);
        }
        loaded_close(&plain);
}

static void run_all_ways(const struct files *f, const struct origin *origins, size_t n) {
        static const struct way ways[] = { { true, 0, false }, { false, 0, false }, { true, 1, false }, { true, 4000, false } };

        for (size_t i = 0; i < few(ARRAY_SIZE(ways)); i++)
                run(f, &ways[i], origins, n);
}

#define COMMON(hidden, inter) "\"vocab_size\":429,\"max_position_embeddings\":128,\"hidden_size\":" hidden ",\"num_hidden_layers\":1," \
                              "\"intermediate_size\":" inter ",\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":64," \
                              "\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true"

static void put_plain(struct files *f, uint64_t hidden) {
        PUT(f, "model.embed_tokens.weight", "BF16", VOCAB, hidden);
        PUT(f, "model.norm.weight", "F32", hidden);
        PUT(f, LAYER "input_layernorm.weight", "BF16", hidden);
        PUT(f, LAYER "post_attention_layernorm.weight", "F32", hidden);
}

/* Scales of each kind; rows that are no whole panels and no whole blocks; more than a chunk holds. */
static void make_f8(struct files *f, uint64_t inter) {
        files_init(f);
        (void)snprintf(f->config, sizeof(f->config), "{\"model_type\":\"llama\"," COMMON("128", "%u")
                       ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", (unsigned)inter);
        put_plain(f, 128);
        PUT(f, LAYER "self_attn.q_proj.weight", "F8_E4M3", 128, 128);
        PUT(f, LAYER "self_attn.q_proj.weight_scale", "F32", 128, 1);
        PUT(f, LAYER "self_attn.k_proj.weight", "F8_E4M3", 64, 128);
        PUT(f, LAYER "self_attn.k_proj.weight_scale", "BF16", 64);
        PUT(f, LAYER "self_attn.v_proj.weight", "F8_E4M3", 64, 128);
        PUT(f, LAYER "self_attn.v_proj.weight_scale", "F32", 0);
        PUT(f, LAYER "self_attn.o_proj.weight", "F8_E4M3", 128, 128);
        PUT(f, LAYER "self_attn.o_proj.weight_scale_inv", "F32", 1, 1);
        PUT(f, LAYER "mlp.gate_proj.weight", "F8_E4M3", inter, 128);
        PUT(f, LAYER "mlp.gate_proj.weight_scale_inv", "F32", (inter + 127) / 128, 1);
        PUT(f, LAYER "mlp.up_proj.weight", "F8_E4M3", inter, 128);
        PUT(f, LAYER "mlp.up_proj.weight_scale_inv", "BF16", (inter + 127) / 128, 1);
        PUT(f, LAYER "mlp.down_proj.weight", "F8_E4M3", 128, inter);
        PUT(f, LAYER "mlp.down_proj.weight_scale_inv", "F32", 1, (inter + 127) / 128);
}

static void test_f8(void **state) {
        static const struct origin origins[] = {
                { "token_embd.weight", "model.embed_tokens.weight", 'p', 0, 1 },
                { "output_norm.weight", "model.norm.weight", 'v', 0, 1 },
                { "blk.0.attn_norm.weight", LAYER "input_layernorm.weight", 'v', 0, 1 },
                { "blk.0.attn_q.weight", LAYER "self_attn.q_proj.weight", 'p', 0, 1 },
                { "blk.0.attn_k.weight", LAYER "self_attn.k_proj.weight", 'p', 0, 1 },
                { "blk.0.attn_v.weight", LAYER "self_attn.v_proj.weight", 'p', 0, 1 },
                { "blk.0.attn_output.weight", LAYER "self_attn.o_proj.weight", 'p', 0, 1 },
                { "blk.0.ffn_gate.weight", LAYER "mlp.gate_proj.weight", 'p', 0, 1 },
                { "blk.0.ffn_up.weight", LAYER "mlp.up_proj.weight", 'p', 0, 1 },
                { "blk.0.ffn_down.weight", LAYER "mlp.down_proj.weight", 'p', 0, 1 },
        };
        static const uint64_t inters[] = { 200, 256, 9001, 4160 };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(inters); i++) {
                struct files f;

                make_f8(&f, inters[i]);
                run_all_ways(&f, origins, ARRAY_SIZE(origins));
                /* the embedding; and where rows are no whole blocks of F8, but can be coded, what becomes BF16 */
                if (inters[i] == 200 || inters[i] == 4160)
                        run_coded(&f, inters[i] == 4160 ? 2 : 1);
                free(f.data);
        }
}

static void put_nvfp4(struct files *f, const char *name, bool packed, uint64_t rows, uint64_t columns) {
        char full[96];

        (void)snprintf(full, sizeof(full), LAYER "%s.weight%s", name, packed ? "_packed" : "");
        PUT(f, full, "U8", rows, columns / 2);
        (void)snprintf(full, sizeof(full), LAYER "%s.weight_scale", name);
        PUT(f, full, "F8_E4M3", rows, columns / 16);
        (void)snprintf(full, sizeof(full), LAYER "%s.weight_%s", name, packed ? "global_scale" : "scale_2");
        PUT(f, full, "F32", 1);
}

static void test_nvfp4(void **state) {
        static const struct origin origins[] = {
                { "blk.0.attn_q.weight", LAYER "self_attn.q_proj.weight", 'n', 0, 1 },
                { "blk.0.attn_q.scale", LAYER "self_attn.q_proj.weight_scale_2", 'v', 0, 1 },
                { "blk.0.attn_k.weight", LAYER "self_attn.k_proj.weight_packed", 'n', 0, 1 },
                { "blk.0.attn_v.weight", LAYER "self_attn.v_proj.weight", 'n', 0, 1 },
                { "blk.0.ffn_gate.weight", LAYER "mlp.gate_proj.weight", 'n', 0, 1 },
                { "blk.0.ffn_up.weight", LAYER "mlp.up_proj.weight_packed", 'n', 0, 1 },
                { "blk.0.ffn_down.weight", LAYER "mlp.down_proj.weight", 'n', 0, 1 },
                { "blk.0.attn_output.weight", LAYER "self_attn.o_proj.weight", 'p', 0, 1 },
        };
        struct files f;

        (void)state;
        files_init(&f);
        (void)snprintf(f.config, sizeof(f.config), "{\"model_type\":\"llama\"," COMMON("128", "320")
                       ",\"quantization_config\":{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"}}");
        put_plain(&f, 128);
        put_nvfp4(&f, "self_attn.q_proj", false, 128, 128);
        put_nvfp4(&f, "self_attn.k_proj", true, 64, 128);
        put_nvfp4(&f, "self_attn.v_proj", false, 64, 128);
        PUT(&f, LAYER "self_attn.o_proj.weight", "BF16", 128, 128);
        put_nvfp4(&f, "mlp.gate_proj", false, 320, 128);
        put_nvfp4(&f, "mlp.up_proj", true, 320, 128);
        put_nvfp4(&f, "mlp.down_proj", false, 128, 320);
        run_all_ways(&f, origins, ARRAY_SIZE(origins));
        free(f.data);
}

/* Experts of gpt-oss: gate and up alternate, in MXFP4 by rows, in BF16 by columns. */
static void make_gpt_oss(struct files *f, bool quantized, uint64_t hidden, uint64_t inter) {
        files_init(f);
        (void)snprintf(f->config, sizeof(f->config), "{\"model_type\":\"gpt_oss\"," COMMON("%u", "%u")
                       ",\"num_local_experts\":3,\"num_experts_per_tok\":2,\"sliding_window\":8,\"layer_types\":[\"full_attention\"]%s}",
                       (unsigned)hidden, (unsigned)inter, quantized ? ",\"quantization_config\":{\"quant_method\":\"mxfp4\"}" : "");
        put_plain(f, hidden);
        for (const char *const *p = (const char *const[]){ "q", "k", "v", NULL }; *p; p++) {
                char name[96];

                (void)snprintf(name, sizeof(name), LAYER "self_attn.%s_proj.weight", *p);
                PUT(f, name, "BF16", **p == 'q' ? 128 : 64, hidden);
                (void)snprintf(name, sizeof(name), LAYER "self_attn.%s_proj.bias", *p);
                PUT(f, name, "BF16", **p == 'q' ? 128 : 64);
        }
        PUT(f, LAYER "self_attn.o_proj.weight", "BF16", hidden, 128);
        PUT(f, LAYER "self_attn.o_proj.bias", "BF16", hidden);
        PUT(f, LAYER "self_attn.sinks", "BF16", 2);
        PUT(f, LAYER "mlp.router.weight", "BF16", 3, hidden);
        PUT(f, LAYER "mlp.router.bias", "BF16", 3);
        PUT(f, LAYER "mlp.experts.gate_up_proj_bias", "BF16", 3, 2 * inter);
        PUT(f, LAYER "mlp.experts.down_proj_bias", "BF16", 3, hidden);
        if (!quantized) {
                PUT(f, LAYER "mlp.experts.gate_up_proj", "BF16", 3, hidden, 2 * inter);
                PUT(f, LAYER "mlp.experts.down_proj", "BF16", 3, inter, hidden);
                return;
        }
        PUT(f, LAYER "mlp.experts.gate_up_proj_blocks", "U8", 3, 2 * inter, hidden / 32, 16);
        PUT(f, LAYER "mlp.experts.gate_up_proj_scales", "U8", 3, 2 * inter, hidden / 32);
        PUT(f, LAYER "mlp.experts.down_proj_blocks", "U8", 3, hidden, inter / 32, 16);
        PUT(f, LAYER "mlp.experts.down_proj_scales", "U8", 3, hidden, inter / 32);
}

static void test_mxfp4(void **state) {
        static const struct origin origins[] = {
                { "blk.0.ffn_gate_exps.weight", LAYER "mlp.experts.gate_up_proj_blocks", 'm', 0, 2 },
                { "blk.0.ffn_up_exps.weight", LAYER "mlp.experts.gate_up_proj_blocks", 'm', 1, 2 },
                { "blk.0.ffn_down_exps.weight", LAYER "mlp.experts.down_proj_blocks", 'm', 0, 1 },
                { "blk.0.ffn_gate_exps.bias", LAYER "mlp.experts.gate_up_proj_bias", 'v', 0, 2 },
                { "blk.0.ffn_up_exps.bias", LAYER "mlp.experts.gate_up_proj_bias", 'v', 1, 2 },
                { "blk.0.ffn_down_exps.bias", LAYER "mlp.experts.down_proj_bias", 'v', 0, 1 },
                { "blk.0.attn_sinks.weight", LAYER "self_attn.sinks", 'v', 0, 1 },
        };
        struct files f;

        (void)state;
        make_gpt_oss(&f, true, 96, 64);
        run_all_ways(&f, origins, ARRAY_SIZE(origins));
        free(f.data);
}

static void test_transposed(void **state) {
        static const struct origin origins[] = {
                { "blk.0.ffn_gate_exps.weight", LAYER "mlp.experts.gate_up_proj", 't', 0, 2 },
                { "blk.0.ffn_up_exps.weight", LAYER "mlp.experts.gate_up_proj", 't', 1, 2 },
                { "blk.0.ffn_down_exps.weight", LAYER "mlp.experts.down_proj", 't', 0, 1 },
        };
        static const uint64_t inters[] = { 41, 5001 };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(inters); i++) {
                struct files f;

                make_gpt_oss(&f, false, 96, inters[i]);
                run_all_ways(&f, origins, ARRAY_SIZE(origins));
                free(f.data);
        }
        /* Rows of 320 are a unit and a part of one. Experts with rows of 41 stay plain, and the router is too small. */
        for (size_t i = 0; i < 2; i++) {
                struct files f;

                make_gpt_oss(&f, false, 320, i ? 41 : 704);
                run_coded(&f, i ? 7 : 8);
                free(f.data);
        }
}

/* A file that is cut after it was planned: which one, where, and for what. */
static void test_shrinking(void **state) {
        (void)state;
        for (unsigned i = 0; i < 4; i++) {
                struct loader_error error = { .text = "" };
                struct hf_dir x;
                struct files f;
                struct loader l;
                int weights, config, image;
                off_t end;

                make_f8(&f, 256);
                weights = files_fd(&f);
                hf_dir_open(&x, MODELS "llama", NULL, NULL, 0);
                config = start(&l, &f, &x, weights, &error);
                if (i % 2)
                        ring_deinit(&l.copy.ring);
                assert_int_equal(loader_plan(&l), 0);
                end = lseek(weights, 0, SEEK_END);
                assert_int_equal(ftruncate(weights, i < 2 ? end / 2 : end - 1), 0);
                image = fd_memfd_new("image", l.plan.segment_size[0]);
                assert_int_equal(loader_write(&l, &image, 1, NULL), LOADER_E_IO);
                assert_non_null(strstr(error.text, "model.safetensors: the file ended at offset "));
                assert_non_null(strstr(error.text, "in what becomes '"));
                if (i >= 2)
                        assert_non_null(strstr(error.text, "blk.0.ffn_down.weight"));
                loader_deinit(&l);
                (void)fd_close(config);
                hf_dir_close(&x);
                (void)fd_close(image);
                (void)fd_close(weights);
                free(f.data);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_f8),         cmocka_unit_test(test_nvfp4),     cmocka_unit_test(test_mxfp4),
                cmocka_unit_test(test_transposed), cmocka_unit_test(test_shrinking),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
