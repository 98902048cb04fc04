/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backends as their users see them: finding, opening, memory; the CPU backend's row operations in every kernel family;
 * and the null backend's promises.
 */

#include "kernels-fixture.h"

#include <math.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/kernels.h"
#include "kernels/half.h"

static double now(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct backend *open_null(unsigned step_us) {
        struct backend_config config = { .null_step_us = step_us };
        struct backend *be = NULL;

        assert_int_equal(backend_null.open(&config, &be), 0);
        return be;
}

static void test_find(void **unused) {
        assert_ptr_equal(backend_find("cpu"), &backend_cpu);
        assert_ptr_equal(backend_find("null"), &backend_null);
        assert_non_null(backend_find("auto"));
        assert_false(backend_find("auto")->fake);
        assert_null(backend_find("abacus"));
        assert_true(backend_null.fake);
}

static void test_open_cpu(void **unused) {
        struct backend_config config = { .threads = 3, .isa = "c" };
        struct backend *be = NULL;
        void *dev = NULL;
        char host[100] = "some bytes", back[100];

        assert_int_equal(backend_cpu.open(&config, &be), 0);
        assert_string_equal(backend_cpu.describe(be), "cpu (c, 3 threads)");
        assert_int_equal(backend_cpu.alloc(be, 100, &dev), 0);
        assert_int_equal((uintptr_t)dev % 64, 0);
        assert_int_equal(backend_cpu.upload(be, dev, host, sizeof(host)), 0);
        assert_int_equal(backend_cpu.download(be, back, dev, sizeof(back)), 0);
        assert_memory_equal(host, back, sizeof(host));
        backend_cpu.release(be, dev);
        assert_int_equal(backend_cpu.alloc(be, SIZE_MAX, &dev), BACKEND_E_NO_MEMORY);
        assert_null(backend_cpu.close(be));
        assert_null(backend_cpu.close(NULL));
        config.threads = 100000;
        assert_int_equal(backend_cpu.open(&config, &be), BACKEND_E_UNSUPPORTED);
        config = (struct backend_config){ .isa = NULL };
        assert_int_equal(backend_cpu.open(&config, &be), 0);
        backend_cpu.close(be);
}

/* Distance in representable floats. */
static uint32_t ulps(float a, float b) {
        int32_t x, y;

        memcpy(&x, &a, sizeof(x));
        memcpy(&y, &b, sizeof(y));
        return (uint32_t)abs(x - y);
}

/* A sweep through all binades: at most 1 ulp from the double's, the same in every family. */
static void test_exp(void **unused) {
        static float x[4099], first[4099], y[4099];
        uint32_t worst = 0;

        for (unsigned part = 0; part < 40; part++) {
                for (size_t i = 0; i < ARRAY_SIZE(x); i++) {
                        uint32_t bits = (part * 4099u + (uint32_t)i) * 13001u;

                        memcpy(&x[i], &bits, sizeof(bits));
                        if (part < 20 || !(fabsf(x[i]) < 90.0f))
                                x[i] = noise() * (part % 2 ? 88.3f : 1.0f);
                }
                for (size_t k = 0; k < cpu_kernels_n; k++) {
                        if (!cpu_kernels[k].usable())
                                continue;
                        cpu_kernels[k].rows->exp(x, ARRAY_SIZE(x), y);
                        if (!first[0])
                                memcpy(first, y, sizeof(y));
                        assert_memory_equal(first, y, sizeof(y));
                }
                for (size_t i = 0; i < ARRAY_SIZE(x); i++)
                        if (x[i] >= -87.33f && x[i] <= 88.37f)
                                worst = MAX(worst, ulps(y[i], (float)exp((double)x[i])));
                first[0] = 0.0f;
        }
        assert_true(worst <= 1);
}

static void test_exp_ends(void **unused) {
        float x[5] = { -INFINITY, -200.0f, 0.0f, 200.0f, NAN }, y[5];

        for (size_t k = 0; k < cpu_kernels_n; k++) {
                if (!cpu_kernels[k].usable())
                        continue;
                cpu_kernels[k].rows->exp(x, 5, y);
                assert_true(y[0] == 0.0f && y[1] == 0.0f && y[2] == 1.0f && y[3] > 1e38f && isnan(y[4]));
        }
}

static void test_rmsnorm(void **unused) {
        static const uint32_t dims[] = { 1, 5, 16, 17, 63, 64, 257 };
        float x[257], w[257], y[257] = { 0 }, first[257];

        for (size_t i = 0; i < ARRAY_SIZE(dims); i++) {
                double sum = 0.0;
                uint32_t n = dims[i];

                fill(x, n, 3.0f);
                fill(w, n, 2.0f);
                for (uint32_t d = 0; d < n; d++)
                        sum += (double)x[d] * (double)x[d];
                for (size_t k = cpu_kernels_n; k-- > 0;) {
                        if (!cpu_kernels[k].usable())
                                continue;
                        cpu_kernels[k].rows->rmsnorm(x, w, 1e-5f, n, y);
                        if (k == cpu_kernels_n - 1)
                                memcpy(first, y, sizeof(y));
                        assert_memory_equal(first, y, n * sizeof(*y));
                }
                for (uint32_t d = 0; d < n; d++) {
                        double exact = (double)x[d] / sqrt(sum / n + 1e-5) * (double)w[d];

                        assert_true(fabs(exact - (double)y[d]) <= fabs(exact) * 1e-6);
                }
        }
}

static double half(double x) {
        uint8_t h[2];

        store_f16(h, (float)x);
        return (double)load_f16(h);
}

/* Rounded to half precision before and after; where the exact value lies between two of them, either will do. */
static bool is_gelu(double x, double up, double y) {
        double h = half(x), exact = 0.5 * h * (1.0 + tanh(sqrt(2.0 / 3.14159265358979) * (h + 0.044715 * h * h * h)));

        if (x <= -10 || x >= 10)
                return fabs((x < 0 ? 0 : x * up) - y) <= fabs(y) * 1e-7;
        for (int step = -1; step <= 1; step++) {
                double want = half(exact * (1 + step * 2e-6) + step * 1e-7) * up;

                if (fabs(want - y) <= fabs(want) * 1e-7)
                        return true;
        }
        return false;
}

static void test_gate(void **unused) {
        float g[77], up[77], y[77] = { 0 }, first[77];

        for (enum activation act = ACT_SILU; act <= ACT_GELU_TANH; act++) {
                fill(g, 77, 12.0f);
                fill(up, 77, 2.0f);
                g[0] = 100.0f;
                g[1] = -100.0f;
                g[2] = 0.0f;
                for (size_t k = cpu_kernels_n; k-- > 0;) {
                        if (!cpu_kernels[k].usable())
                                continue;
                        cpu_kernels[k].rows->gate(act, g, up, 77, y);
                        if (k == cpu_kernels_n - 1)
                                memcpy(first, y, sizeof(y));
                        assert_memory_equal(first, y, sizeof(y));
                }
                for (unsigned i = 0; i < 77; i++) {
                        double x = (double)g[i], exact = x / (1.0 + exp(-x));

                        exact *= (double)up[i];
                        if (act == ACT_GELU_TANH)
                                assert_true(is_gelu(x, (double)up[i], (double)y[i]));
                        else
                                assert_true(fabs(exact - (double)y[i]) <= fabs(exact) * 4e-6 + 1e-7);
                }
        }
}

/* Whole operations with threads: rows find their places. */
static void test_row_operations(void **unused) {
        struct backend_config config = { .threads = 3 };
        struct backend *be = NULL;
        const uint32_t dim = 600, n = 300;
        float *x = malloc(n * dim * 4), *w = malloc(dim * 4), *y = malloc(n * dim * 4), *z = malloc(n * dim * 4);
        float *table = malloc(20 * dim * 4);
        uint32_t *rows = malloc(n * 4);
        int32_t *tokens = malloc(n * 4);
        struct weight e = { .info = fmt_info(FMT_F32), .n_out = 20, .n_in = dim, .data = table };
        struct batch batch = { .n_rows = n, .token = tokens };
        const struct row_kernels *k;

        assert_true(x && w && y && z && table && rows && tokens);
        assert_int_equal(backend_cpu.open(&config, &be), 0);
        k = cpu_kernels_find("auto")->rows;
        fill(table, 20 * dim, 1.0f);
        fill(w, dim, 1.0f);
        for (uint32_t r = 0; r < n; r++) {
                tokens[r] = (int32_t)(r * 7 % 20);
                rows[r] = n - 1 - r;
        }
        assert_int_equal(backend_cpu.embed(be, &e, &batch, 2.0f, x), 0);
        for (uint32_t r = 0; r < n; r++)
                for (uint32_t i = 0; i < dim; i++)
                        assert_true(x[r * dim + i] == table[(uint32_t)tokens[r] * dim + i] * 2.0f);
        assert_int_equal(backend_cpu.rmsnorm(be, x, w, 1e-6f, n, dim, y), 0);
        for (uint32_t r = 0; r < n; r++) {
                k->rmsnorm(x + r * dim, w, 1e-6f, dim, z);
                assert_memory_equal(z, y + r * dim, dim * 4);
        }
        assert_int_equal(backend_cpu.gate(be, ACT_SILU, x, y, n, dim, z), 0);
        k->gate(ACT_SILU, x, y, (size_t)n * dim, x);
        assert_memory_equal(x, z, n * dim * 4);
        assert_int_equal(backend_cpu.gate(be, (enum activation)9, x, y, n, dim, z), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_cpu.gather(be, x, rows, n, dim, z), 0);
        for (uint32_t r = 0; r < n; r++)
                assert_memory_equal(z + r * dim, x + (n - 1 - r) * dim, dim * 4);
        tokens[5] = 20;
        assert_int_equal(backend_cpu.embed(be, &e, &batch, 1.0f, x), BACKEND_E_UNSUPPORTED);
        tokens[5] = -1;
        assert_int_equal(backend_cpu.embed(be, &e, &batch, 1.0f, x), BACKEND_E_UNSUPPORTED);
        backend_cpu.close(be);
        free(x);
        free(w);
        free(y);
        free(z);
        free(table);
        free(rows);
        free(tokens);
}

/* The engine's step: begin, operations, gather, logits. */
static void null_step(struct backend *be, const struct batch *batch, struct kv_cache *kv, const uint32_t *rows,
                      uint32_t n, float *logits) {
        struct weight w = { .info = fmt_info(FMT_F32), .layout = WEIGHT_PANELS, .n_out = 512, .n_in = 64 };
        struct matmul head = { .w = &w, .out = logits, .out_stride = 512 };
        float x = 0.0f;

        assert_int_equal(backend_null.begin(be, batch, kv), 0);
        assert_int_equal(backend_null.embed(be, &w, batch, 1.0f, &x), 0);
        if (rows)
                assert_int_equal(backend_null.gather(be, &x, rows, n, 64, &x), 0);
        assert_int_equal(backend_null.matmul(be, &head, 1, &x, 64, n), 0);
        assert_int_equal(backend_null.end(be), 0);
}

static uint32_t peak(const float *logits) {
        uint32_t best = 0, others = 0;

        for (uint32_t i = 1; i < 512; i++)
                best = logits[i] > logits[best] ? i : best;
        for (uint32_t i = 0; i < 512; i++)
                others += i != best && logits[i] != 0.0f;
        assert_true(logits[best] > 0.0f);
        assert_int_equal(others, 0);
        return best;
}

static void test_null(void **unused) {
        struct backend *be = open_null(0);
        static const int32_t tokens[5] = { 7, 7, 9, 7, 300 };
        static const uint32_t pos[5] = { 0, 1, 0, 0, 4 }, rows[2] = { 4, 1 };
        struct batch batch = { .n_rows = 5, .token = tokens, .pos = pos };
        static float all[5 * 512], some[5 * 512];

        memset(all, 0xff, sizeof(all));
        null_step(be, &batch, NULL, NULL, 5, all);
        assert_int_equal(peak(all), peak(all + 3 * 512)); /* without a cache token and position alone count */
        assert_int_not_equal(peak(all), peak(all + 512));
        assert_int_not_equal(peak(all), peak(all + 2 * 512));
        null_step(be, &batch, NULL, rows, 2, some);
        assert_int_equal(peak(some), peak(all + 4 * 512));
        assert_int_equal(peak(some + 512), peak(all + 512));
        null_step(be, &batch, NULL, NULL, 5, some); /* an earlier step's gathering is forgotten */
        assert_memory_equal(some, all, sizeof(all));
        backend_null.close(be);
        assert_null(backend_null.close(NULL));
}

#define CHAIN 20u /* positions, of pages of 4 */

/* One sequence with the cache of the null backend. */
struct chain {
        struct backend *be;
        struct kv_cache *kv;
        uint32_t table[CHAIN / 4];
        int32_t tokens[CHAIN];
        uint32_t peaks[CHAIN];
};

static void chain_open(struct chain *c) {
        const struct kv_config config = { .n_pages = 100, .page_tokens = 4 };

        *c = (struct chain){ .be = open_null(0), .table = { 3, 0, 99, 7, 50 } };
        assert_int_equal(backend_null.kv_new(c->be, &config, &c->kv), 0);
        for (uint32_t i = 0; i < CHAIN; i++)
                c->tokens[i] = (int32_t)(i * i % 50);
}

static void chain_close(struct chain *c) {
        assert_null(backend_null.kv_free(c->be, c->kv));
        assert_null(backend_null.close(c->be));
}

/* Rows [from, to) in one step; what each one's peak is. */
static void chain_step(struct chain *c, uint32_t from, uint32_t to) {
        static float logits[CHAIN * 512];
        const uint32_t *tables[1] = { c->table };
        uint32_t pos[CHAIN], seq[CHAIN] = { 0 };
        struct batch batch = { .n_rows = to - from, .token = c->tokens + from, .pos = pos, .seq = seq, .n_seqs = 1,
                               .page_table = tables };

        for (uint32_t i = from; i < to; i++)
                pos[i - from] = i;
        null_step(c->be, &batch, c->kv, NULL, to - from, logits);
        for (uint32_t i = from; i < to; i++)
                c->peaks[i] = peak(logits + (size_t)(i - from) * 512);
}

/* However the rows come, each knows all tokens before it, and only through the pages of its table. */
static void test_null_history(void **unused) {
        uint32_t first[CHAIN], changed = 0;
        struct chain c;

        chain_open(&c);
        chain_step(&c, 0, CHAIN);
        memcpy(first, c.peaks, sizeof(first));
        for (uint32_t i = 0, n; i < CHAIN; i += n) {
                n = MIN(1 + i % 7, CHAIN - i);
                chain_step(&c, i, i + n);
        }
        assert_memory_equal(first, c.peaks, sizeof(first));
        c.tokens[2]++;
        chain_step(&c, 0, CHAIN);
        assert_memory_equal(first, c.peaks, 2 * sizeof(*first));
        for (uint32_t i = 2; i < CHAIN; i++)
                changed += first[i] != c.peaks[i];
        assert_int_equal(changed, CHAIN - 2);
        c.tokens[2]--;
        chain_step(&c, 0, 4); /* a page of the beginning changes under the rest: only its last position is looked at */
        chain_step(&c, 5, CHAIN);
        assert_int_not_equal(first[5], c.peaks[5]);
        chain_step(&c, 4, CHAIN);
        assert_memory_equal(first, c.peaks, sizeof(first));
        chain_close(&c);
}

static void test_null_wrong_page(void **unused) {
        const uint32_t *tables[1];
        uint32_t first[CHAIN], pos = 4, seq = 0;
        struct batch batch = { .n_rows = 1, .pos = &pos, .seq = &seq, .n_seqs = 1, .page_table = tables };
        struct chain c;

        chain_open(&c);
        chain_step(&c, 0, CHAIN);
        memcpy(first, c.peaks, sizeof(first));
        c.table[3] = 8; /* nobody wrote there */
        chain_step(&c, 16, CHAIN);
        assert_int_not_equal(first[16], c.peaks[16]);
        c.table[3] = 0; /* another one's */
        chain_step(&c, 16, CHAIN);
        assert_int_not_equal(first[16], c.peaks[16]);
        c.table[3] = 7;
        chain_step(&c, 16, CHAIN);
        assert_memory_equal(first, c.peaks, sizeof(first));
        c.table[0] = 100;
        batch.token = c.tokens;
        tables[0] = c.table;
        assert_int_equal(backend_null.begin(c.be, &batch, c.kv), BACKEND_E_UNSUPPORTED);
        c.table[0] = 3;
        c.table[1] = UINT32_MAX;
        assert_int_equal(backend_null.begin(c.be, &batch, c.kv), BACKEND_E_UNSUPPORTED);
        chain_close(&c);
}

/* A sequence goes on alike from a copied page and from one that was outside meanwhile. */
static void test_null_pages(void **unused) {
        uint32_t first[CHAIN];
        size_t bytes;
        struct chain c;
        uint8_t *host;

        chain_open(&c);
        bytes = backend_null.kv_page_bytes(c.be, c.kv);
        host = malloc(bytes);
        assert_non_null(host);
        chain_step(&c, 0, CHAIN);
        memcpy(first, c.peaks, sizeof(first));
        c.table[2] = 12;
        assert_int_equal(backend_null.kv_copy(c.be, c.kv, 99, 12), 0);
        assert_int_equal(backend_null.kv_copy(c.be, c.kv, 12, 12), 0);
        chain_step(&c, 11, CHAIN);
        assert_memory_equal(first, c.peaks, sizeof(first));
        c.tokens[10]++; /* the copy is one: what follows in it is not seen in the other page */
        chain_step(&c, 10, 12);
        c.table[2] = 99;
        c.tokens[10]--;
        chain_step(&c, 12, CHAIN);
        assert_memory_equal(first + 12, c.peaks + 12, (CHAIN - 12) * sizeof(*first));
        assert_int_equal(backend_null.kv_export(c.be, c.kv, 99, host), 0);
        c.table[2] = 61;
        assert_int_equal(backend_null.kv_import(c.be, c.kv, 61, host), 0);
        chain_step(&c, 11, CHAIN);
        assert_memory_equal(first + 11, c.peaks + 11, (CHAIN - 11) * sizeof(*first));
        assert_int_equal(backend_null.kv_copy(c.be, c.kv, 100, 0), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_null.kv_copy(c.be, c.kv, 0, 100), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_null.kv_export(c.be, c.kv, 100, host), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_null.kv_import(c.be, c.kv, UINT32_MAX, host), BACKEND_E_UNSUPPORTED);
        free(host);
        chain_close(&c);
}

/* A pool of 8 GiB costs what is used of it. */
static void test_null_large_pool(void **unused) {
        struct kv_config config = { .n_pages = 1u << 25, .page_tokens = 32 };
        struct backend *be = open_null(0);
        struct kv_cache *kv = NULL;
        struct rusage before, after;
        uint8_t host[32 * 8];

        assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
        assert_int_equal(backend_null.kv_new(be, &config, &kv), 0);
        assert_int_equal(backend_null.kv_page_bytes(be, kv), sizeof(host));
        assert_int_equal(backend_null.kv_copy(be, kv, 0, config.n_pages - 1), 0);
        assert_int_equal(backend_null.kv_export(be, kv, config.n_pages - 1, host), 0);
        assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
        assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
        assert_null(backend_null.kv_free(be, kv));
        assert_null(backend_null.kv_free(be, NULL));
        config = (struct kv_config){ .n_pages = UINT32_MAX, .page_tokens = UINT32_MAX };
        assert_int_equal(backend_null.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        config = (struct kv_config){ .n_pages = 1 };
        assert_int_equal(backend_null.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        backend_null.close(be);
}

static void test_null_time(void **unused) {
        static const int32_t token = 1;
        static const uint32_t pos = 0;
        struct batch batch = { .n_rows = 1, .token = &token, .pos = &pos };
        struct backend *be = open_null(20000);
        static float logits[512];
        double began = now(), cpu = cpu_seconds();

        for (unsigned i = 0; i < 5; i++)
                null_step(be, &batch, NULL, NULL, 1, logits);
        assert_true(now() - began >= 0.1);
        assert_true(cpu_seconds() - cpu < 0.05);
        backend_null.close(be);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_find),
                cmocka_unit_test(test_open_cpu),
                cmocka_unit_test(test_exp),
                cmocka_unit_test(test_exp_ends),
                cmocka_unit_test(test_rmsnorm),
                cmocka_unit_test(test_gate),
                cmocka_unit_test(test_row_operations),
                cmocka_unit_test(test_null),
                cmocka_unit_test(test_null_history),
                cmocka_unit_test(test_null_wrong_page),
                cmocka_unit_test(test_null_pages),
                cmocka_unit_test(test_null_large_pool),
                cmocka_unit_test(test_null_time),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
