/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Heads' norms, rotation and the KV cache of the CUDA backend against the CPU backend's, and attention behind them: the same
 * inputs through both.
 */

#include "cuda-attn-test.h"

enum norms {
        NORM_NONE,
        NORM_HEADS,
        NORM_WIDTH,
};

struct rope_case {
        uint32_t n_heads, n_kv_heads, head_dim, page_tokens, n_rot;
        enum rope_kind kind;
        float magnitude, temp_scale;
        enum norms norms;
        bool attend;
};

#define ROWS 5u
#define MORE 3u /* rows that a launch covers but that are not there */
#define EPS 1e-5f
#define LAYER 1u

/* Two sequences: one from its start, one far from it. */
static const uint32_t positions[ROWS + MORE] = { 0, 1, 2, 131071, 1048575 };
static const uint32_t sequences[ROWS + MORE] = { 0, 0, 0, 1, 1 };

/* Inputs, as columns of one product: q, k and v of each row and some more. */
struct rope_data {
        const struct rope_case *c;
        struct kv_config kv;
        uint32_t nq, nk, stride, table_start[2], *table, n_table;
        float *x, *inv_freq, *q_norm, *k_norm;
};

static void data_make(struct rope_data *d, const struct rope_case *c) {
        uint32_t length = (positions[ROWS - 1] / c->page_tokens + 2) * 2;

        *d = (struct rope_data){ .c = c, .nq = c->n_heads * c->head_dim, .nk = c->n_kv_heads * c->head_dim, .n_table = length };
        d->kv = (struct kv_config){ .n_layers = 2, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .n_pages = 5,
                                    .page_tokens = c->page_tokens };
        d->stride = d->nq + 2 * d->nk + 4;
        d->table_start[1] = length / 2;
        d->table = malloc(length * sizeof(*d->table));
        assert_non_null(d->table);
        memset(d->table, 0xff, length * sizeof(*d->table));
        d->table[0] = 3;
        d->table[length / 2 + positions[3] / c->page_tokens] = 1;
        d->table[length / 2 + positions[4] / c->page_tokens] = 4;
        d->x = floats((size_t)(ROWS + MORE) * d->stride, 1.5f);
        d->inv_freq = floats(c->head_dim, 0.0f);
        for (uint32_t i = 0; i < c->n_rot / 2; i++)
                d->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)c->n_rot);
        d->q_norm = floats(d->nq, 2.0f);
        d->k_norm = floats(d->nk, 2.0f);
}

static void data_free(struct rope_data *d) {
        free(d->table);
        free(d->x);
        free(d->inv_freq);
        free(d->q_norm);
        free(d->k_norm);
}

static struct rope rope_of(const struct rope_case *c, const float *inv_freq) {
        return (struct rope){ .kind = c->kind, .n_rot = c->n_rot, .inv_freq = inv_freq, .magnitude = c->magnitude,
                              .temp_scale = c->temp_scale, .temp_length = 1000 };
}

static struct attention attention_of(const struct rope_case *c) {
        return (struct attention){ .n_heads = c->n_heads, .layer = LAYER, .scale = 1.0f / sqrtf((float)c->head_dim) };
}

/* What comes out: rotated queries, K, and what attention gives. To be freed. */
struct rope_out {
        float *q, *k, *out;
};

static void out_free(struct rope_out *o) {
        free(o->q);
        free(o->k);
        free(o->out);
}

/* --- the CPU backend ------------------------------------------------------------------------------------------------ */

static void cpu_norm(struct backend *be, const struct rope_case *c, uint32_t heads, const float *norm, float *x) {
        if (c->norms == NORM_HEADS)
                assert_int_equal(backend_cpu.rmsnorm(be, x, norm, EPS, ROWS * heads, c->head_dim, x), 0);
        else if (c->norms == NORM_WIDTH)
                assert_int_equal(backend_cpu.rmsnorm(be, x, norm, EPS, ROWS, heads * c->head_dim, x), 0);
}

static struct rope_out cpu_run(const struct rope_data *d) {
        struct backend *be = open_family("c", 1);
        const uint32_t *tables[2] = { d->table, d->table + d->table_start[1] };
        struct batch batch = { .n_rows = d->c->attend ? 3 : ROWS, .pos = positions, .seq = sequences, .n_seqs = 2,
                               .page_table = tables };
        struct rope rope = rope_of(d->c, d->inv_freq);
        struct attention a = attention_of(d->c);
        struct rope_out ret = { .q = floats((size_t)ROWS * d->nq, 0.0f), .k = floats((size_t)ROWS * d->nk, 0.0f),
                                .out = floats((size_t)ROWS * d->nq, 0.0f) };
        float *v = floats((size_t)ROWS * d->nk, 0.0f);
        struct kv_config config = d->kv;
        struct kv_cache *kv = NULL;

        config.format = KV_F32;
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), 0);
        for (uint32_t r = 0; r < ROWS; r++) {
                const float *x = d->x + (size_t)r * d->stride;

                memcpy(ret.q + (size_t)r * d->nq, x, d->nq * sizeof(*x));
                memcpy(ret.k + (size_t)r * d->nk, x + d->nq, d->nk * sizeof(*x));
                memcpy(v + (size_t)r * d->nk, x + d->nq + d->nk, d->nk * sizeof(*x));
        }
        assert_int_equal(backend_cpu.begin(be, &batch, kv), 0);
        cpu_norm(be, d->c, d->c->n_heads, d->q_norm, ret.q);
        cpu_norm(be, d->c, d->c->n_kv_heads, d->k_norm, ret.k);
        assert_int_equal(backend_cpu.rope_kv(be, &rope, kv, LAYER, &batch, d->c->n_heads, ret.q, ret.k, v), 0);
        if (d->c->attend)
                assert_int_equal(backend_cpu.attention(be, &a, kv, &batch, ret.q, ret.out), 0);
        assert_int_equal(backend_cpu.end(be), 0);
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        free(v);
        return ret;
}

/* --- the device ----------------------------------------------------------------------------------------------------- */

struct rope_device {
        void *x, *inv_freq, *q_norm, *k_norm, *pos, *seq, *table_start, *table, *count, *cache, *out;
};

static void device_make(const struct rope_data *d, const struct kv_config *kv, struct rope_device *ret) {
        uint32_t rows = d->c->attend ? 3 : ROWS;

        *ret = (struct rope_device){ .x = device_copy(d->x, (size_t)(ROWS + MORE) * d->stride * 4),
                                     .inv_freq = device_copy(d->inv_freq, d->c->head_dim * 4),
                                     .q_norm = device_copy(d->q_norm, d->nq * 4), .k_norm = device_copy(d->k_norm, d->nk * 4),
                                     .pos = device_copy(positions, sizeof(positions)),
                                     .seq = device_copy(sequences, sizeof(sequences)),
                                     .table_start = device_copy(d->table_start, sizeof(d->table_start)),
                                     .table = device_copy(d->table, d->n_table * 4), .count = device_copy(&rows, 4),
                                     .cache = device_copy(NULL, kv->n_pages * cuda_kv_page_bytes(kv)),
                                     .out = device_copy(NULL, (size_t)ROWS * d->nq * 4) };
}

/* Rotates and stores; q, and with it all of x, and the cache are the caller's to free. */
static uint8_t *device_run(const struct rope_data *d, const struct kv_config *kv, float **ret_x, float **ret_out) {
        const struct rope_case *c = d->c;
        struct cuda_launch launch = { .stream = NULL };
        struct rope_device dev;
        struct cuda_rope_kv a;
        uint8_t *cache;

        device_make(d, kv, &dev);
        a = (struct cuda_rope_kv){ .rows = { dev.count, 1, ROWS + MORE }, .layer = LAYER, .n_heads = c->n_heads, .q = dev.x,
                                   .batch = { .pos = dev.pos, .seq = dev.seq, .table_start = dev.table_start, .table = dev.table },
                                   .kv = { kv->format, kv->n_layers, kv->n_kv_heads, kv->head_dim, kv->page_tokens, kv->n_pages,
                                           cuda_kv_page_bytes(kv), dev.cache },
                                   .k = (float *)dev.x + d->nq, .v = (float *)dev.x + d->nq + d->nk, .q_stride = d->stride,
                                   .k_stride = d->stride, .v_stride = d->stride, .norm_width = c->norms == NORM_WIDTH,
                                   .norm_eps = EPS, .rope = rope_of(c, dev.inv_freq) };
        if (c->norms != NORM_NONE) {
                a.q_norm = dev.q_norm;
                a.k_norm = dev.k_norm;
        }
        cuda_ok(cuda_rope_kv(&launch, &a));
        if (c->attend) {
                struct cuda_attn attn = { .rows = { dev.count, 1, ROWS }, .batch = a.batch, .kv = a.kv, .q = dev.x,
                                          .attention = attention_of(c), .q_stride = d->stride,
                                          .out = { .f32 = dev.out, .n_in = d->nq } };

                cuda_ok(cuda_attn(&launch, &attn));
        }
        cuda_ok(cudaDeviceSynchronize());
        *ret_x = host_copy(dev.x, (size_t)(ROWS + MORE) * d->stride * 4);
        *ret_out = host_copy(dev.out, (size_t)ROWS * d->nq * 4);
        cache = host_copy(dev.cache, kv->n_pages * cuda_kv_page_bytes(kv));
        for (size_t i = 0; i < sizeof(dev) / sizeof(void *); i++)
                cuda_ok(cudaFree(((void **)&dev)[i]));
        return cache;
}

/* --- both ----------------------------------------------------------------------------------------------------------- */

static void check_near(const struct rope_case *c, const char *what, const float *got, const float *wanted, size_t n, float limit) {
        for (size_t i = 0; i < n; i++)
                if (!(fabsf(got[i] - wanted[i]) <= limit))
                        fail_msg("%u heads of %u: %s[%zu] is %g, not %g", c->n_heads, c->head_dim, what, i, (double)got[i],
                                 (double)wanted[i]);
}

static struct cuda_kv_place place_of(const struct rope_data *d, const struct kv_config *kv, uint8_t *cache, uint32_t row,
                                     uint32_t head, uint32_t part) {
        uint32_t page = d->table[d->table_start[sequences[row]] + positions[row] / kv->page_tokens];

        return kv_place(kv, cache, page, LAYER, head, part, positions[row] % kv->page_tokens);
}

/* The cache of floats: K as the CPU has it, V as it came. Keeps the former's bits in `k`. */
static void check_floats(const struct rope_data *d, const struct kv_config *kv, uint8_t *cache, uint32_t rows, const float *wanted,
                         float *k) {
        uint32_t dim = kv->head_dim;
        float v[256];

        for (uint32_t r = 0; r < rows; r++)
                for (uint32_t h = 0; h < kv->n_kv_heads; h++) {
                        size_t at = (size_t)r * d->nk + (size_t)h * dim;

                        kv_get(kv, place_of(d, kv, cache, r, h, 0), k + at);
                        check_near(d->c, "k", k + at, wanted + at, dim, 4e-6f * d->c->magnitude);
                        kv_get(kv, place_of(d, kv, cache, r, h, 1), v);
                        assert_memory_equal(v, d->x + (size_t)r * d->stride + d->nq + d->nk + (size_t)h * dim, dim * 4);
                }
}

/* A cache of another format: bytes as the CPU backend rounds the same K and V, and nothing else written. */
static void check_rounded(const struct rope_data *d, enum kv_format format, uint32_t rows, const float *k) {
        struct kv_config kv = d->kv;
        uint8_t *cache, *wanted;
        float *x, *out;

        kv.format = format;
        cache = device_run(d, &kv, &x, &out);
        wanted = malloc(kv.n_pages * cuda_kv_page_bytes(&kv));
        assert_non_null(wanted);
        memset(wanted, 0xff, kv.n_pages * cuda_kv_page_bytes(&kv));
        for (uint32_t r = 0; r < rows; r++)
                for (uint32_t h = 0; h < kv.n_kv_heads; h++) {
                        const float *v = d->x + (size_t)r * d->stride + d->nq + d->nk;

                        kv_put(&kv, place_of(d, &kv, wanted, r, h, 0), k + (size_t)r * d->nk + (size_t)h * kv.head_dim);
                        kv_put(&kv, place_of(d, &kv, wanted, r, h, 1), v + (size_t)h * kv.head_dim);
                }
        assert_memory_equal(cache, wanted, kv.n_pages * cuda_kv_page_bytes(&kv));
        free(cache);
        free(wanted);
        free(x);
        free(out);
}

static void check_case(const struct rope_case *c) {
        uint32_t rows = c->attend ? 3 : ROWS;
        struct rope_out wanted;
        struct rope_data d;
        struct kv_config kv;
        float *x, *out, *k;
        uint8_t *cache;

        data_make(&d, c);
        kv = d.kv;
        kv.format = KV_F32;
        wanted = cpu_run(&d);
        cache = device_run(&d, &kv, &x, &out);
        k = floats((size_t)rows * d.nk, 0.0f);
        check_floats(&d, &kv, cache, rows, wanted.k, k);
        for (uint32_t r = 0; r < ROWS + MORE; r++) {
                const float *got = x + (size_t)r * d.stride, *was = d.x + (size_t)r * d.stride;

                if (r < rows)
                        check_near(c, "q", got, wanted.q + (size_t)r * d.nq, d.nq, 1e-5f * c->magnitude);
                else
                        assert_memory_equal(got, was, d.nq * 4);
                assert_memory_equal(got + d.nq, was + d.nq, (d.stride - d.nq) * 4);
        }
        if (c->attend)
                check_near(c, "attention", out, wanted.out, (size_t)rows * d.nq, 1e-5f);
        if (!c->attend) {
                check_rounded(&d, KV_F16, rows, k);
                check_rounded(&d, KV_Q8_0, rows, k);
        }
        out_free(&wanted);
        data_free(&d);
        free(cache);
        free(x);
        free(out);
        free(k);
}

static void test_cases(void **unused) {
        static const struct rope_case cases[] = {
                { 4, 2, 64, 16, 64, ROPE_NORM, 1.0f, 0.0f, NORM_NONE, false },
                { 8, 1, 128, 32, 128, ROPE_NEOX, 1.0f, 0.0f, NORM_HEADS, false },
                { 3, 3, 80, 64, 32, ROPE_NEOX, 1.3f, 0.0f, NORM_NONE, false },
                { 10, 5, 16, 16, 8, ROPE_NORM, 1.0f, 0.1f, NORM_WIDTH, false },
                { 5, 1, 256, 16, 256, ROPE_NEOX, 1.0f, 0.0f, NORM_WIDTH, false },
                { 2, 1, 48, 16, 0, ROPE_NONE, 1.0f, 0.1f, NORM_HEADS, false },
                { 2, 2, 112, 16, 0, ROPE_NONE, 1.0f, 0.0f, NORM_NONE, false },
                { 8, 4, 8, 16, 8, ROPE_NORM, 1.0f, 0.0f, NORM_NONE, false },
                { 6, 2, 96, 16, 96, ROPE_NEOX, 1.0f, 0.0f, NORM_HEADS, true },
                { 4, 4, 32, 32, 16, ROPE_NORM, 1.0f, 0.1f, NORM_NONE, true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                check_case(cases + i);
}

/* What halves and blocks of 8 bits can't express: zeros, next to nothing, too much, and what is no number. */
static void test_ends(void **unused) {
        static const struct rope_case c = { 1, 1, 80, 16, 0, ROPE_NONE, 1.0f, 0.0f, NORM_NONE, false };
        static const float ends[] = { 0.0f, 1e-45f, 1e-30f, 3.7e-6f, 1.1e-5f, 65519.0f, 65520.0f, 8.3e6f, 8.4e6f, 3e38f, INFINITY };
        struct rope_data d;
        float *k;

        data_make(&d, &c);
        k = floats((size_t)ROWS * d.nk, 0.0f);
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
                for (uint32_t r = 0; r < ROWS; r++)
                        for (uint32_t e = 0; e < d.nk; e++) {
                                float *x = d.x + (size_t)r * d.stride + d.nq + e;

                                x[0] = e % 7 == r ? -ends[i] : 0.3f * ends[(i + r) % 4];
                                x[d.nk] = e % 40 == 39 ? ends[i] : x[0];
                                k[(size_t)r * d.nk + e] = x[0];
                        }
                check_rounded(&d, KV_F16, ROWS, k);
                check_rounded(&d, KV_Q8_0, ROWS, k);
        }
        free(k);
        data_free(&d);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_cases), cmocka_unit_test(test_ends) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
