/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Losslessly coded BF16: whatever the bits are, they come back; coding takes what measuring said, and writes nothing else; what
 * an index may hold.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/loader/gguf.h"
#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/lossless-kernels.h"
#include "kernels/lossless.h"
#include "loader-fixture.h"

#define GUARD 0xa5

static uint64_t state = 7;

static uint64_t random_bits(void) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state * 0x2545f4914f6cdd1dull;
}

static double uniform(void) {
        return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(void) {
        return sqrt(-2.0 * log(uniform())) * cos(2.0 * M_PI * uniform());
}

/* A matrix as coded tensors lie in images, and its parts. */
struct coded {
        struct lossless_parts parts;
        uint8_t *data;
        uint64_t escapes; /* bytes */
};

static size_t panel_bytes(uint64_t n_in) {
        return n_in / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
}

/* What the escapes of a unit take at least, tried out as lossless.h defines them. */
static uint64_t least_bytes(const uint16_t *src, size_t stride, unsigned n_rows, unsigned n) {
        uint64_t count[256] = { 0 }, least = UINT64_MAX;

        for (unsigned row = 0; row < n_rows; row++)
                for (unsigned k = 0; k < n; k++)
                        count[src[row * stride + k] >> 7 & 0xff]++;
        for (unsigned base = 0; base <= LOSSLESS_BASE_MAX; base++) {
                uint64_t escapes = 0, far = 0;
                bool reached[256] = { false };

                for (unsigned i = 0; i < 16; i++)
                        reached[lossless_escape(base, i)] = true;
                for (unsigned e = 0; e < 256; e++)
                        if (e < base || e >= base + LOSSLESS_ESCAPE) {
                                escapes += count[e];
                                far += reached[e] ? 0 : count[e];
                        }
                least = MIN(least, far ? escapes : (escapes + 1) / 2);
        }
        return least;
}

/* Codes a matrix panel by panel, and looks at everything on the way. */
static struct coded code(const uint16_t *src, size_t stride, uint64_t n_out, uint64_t n_in) {
        struct coded c = { 0 };
        uint64_t room = 0;

        assert_true(lossless_layout(1, n_out, n_in, &c.parts));
        for (uint64_t row = 0; row < n_out; row += WEIGHT_PANEL)
                room += lossless_measure(src + row * stride, 2 * stride, (unsigned)MIN(n_out - row, WEIGHT_PANEL), n_in);
        c.data = malloc(c.parts.least + room);
        assert_non_null(c.data);
        memset(c.data, GUARD, c.parts.least + room);
        for (uint64_t row = 0, panel = 0; row < n_out; row += WEIGHT_PANEL, panel++) {
                unsigned n_rows = (unsigned)MIN(n_out - row, WEIGHT_PANEL);
                uint8_t *columns = c.data + panel * panel_bytes(n_in), *index = c.data + c.parts.index + panel * c.parts.units * 8;
                uint64_t measured = lossless_measure(src + row * stride, 2 * stride, n_rows, n_in), least = 0;

                for (unsigned k = 0; k < n_in; k += LOSSLESS_UNIT)
                        least += least_bytes(src + row * stride + k, stride, n_rows, (unsigned)MIN(n_in - k, LOSSLESS_UNIT));
                assert_int_equal(measured, least);
                assert_int_equal(lossless_encode(src + row * stride, 2 * stride, n_rows, n_in, c.escapes, columns, index,
                                                 c.data + c.parts.escapes),
                                 measured);
                c.escapes += measured;
                assert_true(lossless_verify(columns, index, c.data + c.parts.escapes, src + row * stride, 2 * stride, n_rows, n_in));
        }
        for (uint64_t i = c.escapes; i < room + LOSSLESS_SLACK; i++)
                assert_int_equal(c.data[c.parts.escapes + i], GUARD);
        assert_true(lossless_index_valid(c.data + c.parts.index, c.parts.n_entries, room + LOSSLESS_SLACK));
        return c;
}

/* There and back. Returns bits per number. */
static double round_trip(const uint16_t *src, size_t stride, uint64_t n_out, uint64_t n_in) {
        struct coded c = code(src, stride, n_out, n_in);
        uint16_t *back = malloc(n_out * n_in * sizeof(*back)), *one = malloc(n_in * sizeof(*one));
        double bits = (double)(c.parts.least - LOSSLESS_SLACK + c.escapes) * 8.0 / (double)(n_out * n_in);

        assert_true(back && one);
        for (uint64_t row = 0; row < n_out; row++) {
                const uint8_t *columns = c.data + row / WEIGHT_PANEL * panel_bytes(n_in);
                const uint8_t *index = c.data + c.parts.index + row / WEIGHT_PANEL * c.parts.units * 8;

                if (row % WEIGHT_PANEL == 0)
                        lossless_decode(columns, index, c.data + c.parts.escapes, (unsigned)MIN(n_out - row, WEIGHT_PANEL), n_in,
                                        back + row * n_in, 2 * n_in);
                lossless_decode_row(columns, index, c.data + c.parts.escapes, row % WEIGHT_PANEL, n_in, one);
                assert_memory_equal(back + row * n_in, src + row * stride, 2 * n_in);
                assert_memory_equal(one, src + row * stride, 2 * n_in);
        }
        free(one);
        free(back);
        free(c.data);
        return bits;
}

static uint16_t *numbers_new(size_t n) {
        uint16_t *w = calloc(n, sizeof(*w));

        assert_non_null(w);
        return w;
}

static void test_all_patterns(void **unused) {
        uint16_t *all = numbers_new(65536);

        for (unsigned i = 0; i < 65536; i++)
                all[i] = (uint16_t)i;
        (void)round_trip(all, 4096, 16, 4096);
        for (unsigned i = 0; i < 65536; i++) /* every exponent in every unit */
                all[i * 40503u % 65536] = (uint16_t)i;
        (void)round_trip(all, 4096, 16, 4096);
        free(all);
}

/* Weights of trained models are about as wide as Gaussian ones of 0.005 to 0.1. */
static void test_gaussian(void **unused) {
        static const double sigmas[] = { 1e-30, 0.005, 0.0125, 0.02, 0.03, 0.045, 0.1, 1.0, 1e30 };
        const size_t n_out = 128, n_in = 2048;
        uint16_t *w = numbers_new(n_out * n_in);

        for (size_t s = 0; s < ARRAY_SIZE(sigmas); s++) {
                for (size_t i = 0; i < n_out * n_in; i++)
                        w[i] = bf16_from_float((float)(sigmas[s] * gaussian()));
                assert_true(round_trip(w, n_in, n_out, n_in) < 11.4);
        }
        free(w);
}

/* What a number is made of, by kind of matrix. */
static uint16_t number(unsigned kind, size_t i) {
        uint16_t trained = bf16_from_float((float)(0.02 * gaussian())), any = (uint16_t)random_bits();

        switch (kind) {
        case 0: return any;                                        /* uniform bits */
        case 1: return 0x3f80;                                     /* constant */
        case 2: return 0;                                          /* zeros */
        case 3: return 0x8000;                                     /* zeros below zero */
        case 4: return random_bits() % 2 ? trained : 0;            /* sparse */
        case 5: return random_bits() % 10 ? 0 : trained;           /* sparser */
        case 6: return (uint16_t)(any | 0x7f80);                   /* infinities and not-a-numbers */
        case 7: return any & 0x807f;                               /* subnormal */
        case 8: return i % 4096 == 77 ? (uint16_t)0x7f00 : trained; /* outliers */
        case 9: return i % 2 ? any | 0x7f80 : any & 0x807f;        /* exponents 0 and 255 in turns */
        case 10: return (any & 0x807f) | (uint16_t)((i % 2 ? 0 : 240) << 7);
        case 11: return (any & 0x807f) | (uint16_t)(random_bits() % 22 << 7);         /* escapes that wrap below 0 */
        case 12: return (any & 0x807f) | (uint16_t)((248 + random_bits() % 8) << 7);  /* the largest base */
        case 13: return (any & 0x807f) | (uint16_t)((96 + random_bits() % 22) << 7);  /* all that four bits reach */
        default: return (any & 0x807f) | (uint16_t)((96 + random_bits() % 23) << 7);  /* and one more */
        }
}

static void test_kinds(void **unused) {
        const size_t n_out = 32, n_in = 1024;
        uint16_t *w = numbers_new(n_out * n_in);

        for (unsigned kind = 0; kind < 15; kind++) {
                for (size_t i = 0; i < n_out * n_in; i++)
                        w[i] = number(kind, i);
                (void)round_trip(w, n_in, n_out, n_in);
        }
        free(w);
}

/* Escapes where they are hardest to count: in one row alone, in one element of K alone, and wherever one is possible. The exponents
 * that are not escaped are few, but enough of one exponent to be the codes'. */
static void test_crowded_escapes(void **unused) {
        const size_t n_in = 256;
        uint16_t *w = numbers_new(16 * n_in);

        for (unsigned lane = 0; lane < 16; lane++) {
                for (size_t i = 0; i < 16 * n_in; i++)
                        w[i] = (uint16_t)((i / n_in == lane ? 1 + random_bits() % 250 : 100) << 7 | (random_bits() & 0x807f));
                (void)round_trip(w, n_in, 16, n_in);
                for (size_t i = 0; i < 16 * n_in; i++)
                        w[i] = (uint16_t)((i % 16 == lane ? 1 + random_bits() % 250 : 100) << 7 | (random_bits() & 0x807f));
                (void)round_trip(w, n_in, 16, n_in);
        }
        free(w);
}

/* All 4096 elements of a unit as escapes: nobody codes so, but it may be decoded. */
static void test_nothing_but_escapes(void **unused) {
        uint8_t columns[4 * LOSSLESS_COLUMN_BYTES], index[8], escapes[LOSSLESS_SLACK];
        uint16_t back[16][LOSSLESS_UNIT];

        for (unsigned wide = 0; wide < 2; wide++) {
                memset(columns, 0xff, sizeof(columns));
                store_u64(index, (wide ? LOSSLESS_WIDE : 0) | 100ull << LOSSLESS_BASE_SHIFT);
                for (size_t i = 0; i < sizeof(escapes); i++)
                        escapes[i] = (uint8_t)random_bits();
                assert_true(lossless_index_valid(index, 1, sizeof(escapes)));
                lossless_decode(columns, index, escapes, 16, LOSSLESS_UNIT, back, sizeof(back[0]));
                for (unsigned i = 0; i < 4096; i++) {
                        unsigned narrow = lossless_escape(100, escapes[i / 2] >> 4 * (i % 2) & 15u);

                        assert_int_equal(back[i / 4 % 16][i / 64 * 4 + i % 4], 0x807f | (wide ? escapes[i] : narrow) << 7);
                }
        }
}

static void test_odd_sizes(void **unused) {
        static const uint64_t rows[] = { 1, 2, 15, 16, 17, 33 };
        const size_t stride = 832 + 7;
        uint16_t *w = numbers_new(33 * stride);

        for (size_t i = 0; i < 33 * stride; i++)
                w[i] = number(8, i);
        for (uint64_t n_in = LOSSLESS_COLUMN; n_in <= 832; n_in += LOSSLESS_COLUMN)
                for (size_t r = 0; r < ARRAY_SIZE(rows); r++)
                        (void)round_trip(w, stride, rows[r], n_in);
        free(w);
}

/* Rows that are not there have code 0 and sign byte 0. */
static void test_padding(void **unused) {
        const size_t n_in = 320;
        uint16_t *w = numbers_new(3 * n_in);
        struct coded c;

        for (size_t i = 0; i < 3 * n_in; i++)
                w[i] = number(0, i);
        c = code(w, n_in, 3, n_in);
        for (size_t column = 0; column < n_in / LOSSLESS_COLUMN; column++)
                for (size_t i = 0; i < LOSSLESS_COLUMN_BYTES; i++)
                        if (i % WEIGHT_PANEL >= 3)
                                assert_int_equal(c.data[column * LOSSLESS_COLUMN_BYTES + i], 0);
        free(c.data);
        free(w);
}

static void test_damage_is_seen(void **unused) {
        const size_t n_in = 512;
        uint16_t *w = numbers_new(16 * n_in);
        struct coded c;

        for (size_t i = 0; i < 16 * n_in; i++)
                w[i] = number(14, i);
        c = code(w, n_in, 16, n_in);
        for (unsigned i = 0; i < 3000; i++) {
                uint64_t at = random_bits() % (panel_bytes(n_in) + c.escapes);
                uint8_t *byte = c.data + (at < panel_bytes(n_in) ? at : at - panel_bytes(n_in) + c.parts.escapes), was = *byte;

                *byte ^= (uint8_t)(1u << random_bits() % 8);
                assert_false(lossless_verify(c.data, c.data + c.parts.index, c.data + c.parts.escapes, w, 2 * n_in, 16, n_in));
                *byte = was;
        }
        free(c.data);
        free(w);
}

/* Every family gives the bytes of plain C, from sound columns and from any. */
static void test_kernels_agree(void **unused) {
        const struct lossless_kernels *plain = lossless_kernels[lossless_kernels_n - 1];
        static uint8_t found[2][LOSSLESS_UNIT_MAX + LOSSLESS_AHEAD], columns[2][LOSSLESS_COLUMN_BYTES], escapes[LOSSLESS_SLACK];
        static uint16_t w[16 * 256], back[2][16 * LOSSLESS_COLUMN], one[LOSSLESS_COLUMN];
        uint16_t count[2][LOSSLESS_EXPONENTS];

        for (unsigned round = 0; round < 300; round++) {
                const struct lossless_kernels *k = lossless_kernels[round % lossless_kernels_n];
                unsigned n = 64 + (unsigned)random_bits() % 4 * 64, n_rows = 1 + (unsigned)random_bits() % 16, row = round % 16;
                struct lossless_unit unit[2] = { { .escapes = escapes, .wide = round & 1 } };
                size_t n_found;

                if (!k->usable())
                        continue;
                for (size_t i = 0; i < ARRAY_SIZE(w); i++)
                        w[i] = number(round % 15, i);
                plain->count((uint8_t *)w, 512, n_rows, n, count[0]);
                k->count((uint8_t *)w, 512, n_rows, n, count[1]);
                assert_memory_equal(count[0], count[1], sizeof(count[0]));
                n_found = (size_t)(plain->encode((uint8_t *)w, 512, 115, columns[0], found[0]) - found[0]);
                assert_int_equal(k->encode((uint8_t *)w, 512, 115, columns[1], found[1]) - found[1], n_found);
                assert_memory_equal(columns[0], columns[1], sizeof(columns[0]));
                assert_memory_equal(found[0], found[1], n_found);
                for (size_t i = 0; i < sizeof(escapes); i++)
                        escapes[i] = (uint8_t)random_bits();
                for (size_t i = 0; round % 3 == 0 && i < sizeof(columns[0]); i++)
                        columns[0][i] = (uint8_t)random_bits();
                for (size_t i = 0; i < ARRAY_SIZE(unit->narrow); i++)
                        unit->narrow[i] = (uint8_t)random_bits();
                unit[0].base = (uint8_t)(random_bits() % (LOSSLESS_BASE_MAX + 1));
                unit[0].next = (uint32_t)random_bits() % 3000;
                unit[1] = unit[0];
                plain->decode(columns[0], &unit[0], back[0]);
                k->decode(columns[0], &unit[1], back[1]);
                assert_int_equal(unit[0].next, unit[1].next);
                assert_memory_equal(back[0], back[1], sizeof(back[0]));
                unit[1].next = round % 100; /* and from there, one row alone */
                unit[0].next = round % 100;
                plain->decode(columns[0], &unit[0], back[0]);
                k->decode_row(columns[0], &unit[1], row, one);
                assert_int_equal(unit[0].next, unit[1].next);
                assert_memory_equal(back[0] + (size_t)row * LOSSLESS_COLUMN, one, sizeof(one));
        }
}

static void test_index(void **unused) {
        const uint64_t bytes = 10000, good = 5840 | 248ull << LOSSLESS_BASE_SHIFT | LOSSLESS_WIDE;
        uint64_t index[3] = { good, 0, good };

        assert_true(lossless_index_valid(index, 3, bytes));
        assert_true(lossless_index_valid(index, 0, 0));
        assert_true(lossless_index_valid(index + 1, 1, LOSSLESS_SLACK));
        assert_false(lossless_index_valid(index + 1, 1, LOSSLESS_SLACK - 1));
        assert_false(lossless_index_valid(index, 3, bytes - 1));
        index[2] = good + 1;
        assert_false(lossless_index_valid(index, 3, bytes));
        index[2] = LOSSLESS_OFFSET_MASK;
        assert_false(lossless_index_valid(index, 3, bytes));
        index[2] = good + (1ull << LOSSLESS_BASE_SHIFT);
        assert_false(lossless_index_valid(index, 3, bytes));
        assert_true(lossless_index_valid(index, 2, bytes));
        for (unsigned bit = 49; bit < 64; bit++) {
                index[2] = good | 1ull << bit;
                assert_false(lossless_index_valid(index, 3, bytes));
        }
}

static void test_layout(void **unused) {
        struct lossless_parts p;

        assert_true(lossless_layout(2, 17, 320, &p));
        assert_int_equal(p.panels, 2);
        assert_int_equal(p.units, 2);
        assert_int_equal(p.n_entries, 8);
        assert_int_equal(p.index, 2 * 2 * 5 * LOSSLESS_COLUMN_BYTES);
        assert_int_equal(p.escapes, p.index + 64);
        assert_int_equal(p.least, p.escapes + LOSSLESS_SLACK);
        assert_false(lossless_layout(0, 16, 64, &p));
        assert_false(lossless_layout(1, 0, 64, &p));
        assert_false(lossless_layout(1, 16, 0, &p));
        assert_false(lossless_layout(1, 16, 96, &p));
        assert_false(lossless_layout(1, UINT64_MAX, 64, &p));
        assert_false(lossless_layout(UINT64_MAX / 4, 16, 64, &p));
        assert_false(lossless_layout(1, 16, UINT64_MAX - 63, &p));
        assert_false(lossless_layout(1ull << 32, 1ull << 30, 64, &p));
}

/* Formats of images alone have no file order. */
static void test_format(void **unused) {
        const struct fmt_info *info = fmt_info(FMT_BF16_LL);
        uint8_t src[88] = { 0 };
        float values[LOSSLESS_COLUMN] = { 7 };

        assert_non_null(info);
        assert_true(fmt_is_coded(info));
        assert_false(fmt_decode(info, src, LOSSLESS_COLUMN, values));
        assert_false(fmt_encode(info, values, LOSSLESS_COLUMN, src));
        assert_true(values[0] == 7);
}

/* --- tensors of models ------------------------------------------------------------------------------------------- */

/* Returns how many of the file's tensors were coded. */
static unsigned code_model(const char *path, struct gguf_tensor *ret_widest, double *ret_bits) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct source source = SOURCE_NULL;
        struct loader_error error = { 0 };
        struct gguf g = GGUF_NULL;
        unsigned n = 0;

        assert_true(fd >= 0);
        assert_int_equal(source_init(&source, fd, &error), 0);
        assert_int_equal(gguf_read_metadata(&g, &source, &error), 0);
        assert_int_equal(gguf_read_tensors(&g), 0);
        source_deinit(&source); /* which has read past the page cache, in whole pages */
        for (size_t i = 0; i < g.n_tensors; i++) {
                const struct gguf_tensor *t = &g.tensors[i];
                _cleanup_free_ uint16_t *w = NULL;
                double bits;

                if (t->fmt != FMT_BF16 || t->dims[0] % LOSSLESS_COLUMN != 0)
                        continue;
                w = numbers_new(t->size / 2);
                read_all(fd, t->offset, w, t->size);
                bits = round_trip(w, t->dims[0], t->size / 2 / t->dims[0], t->dims[0]);
                if (n++ == 0 || t->size > ret_widest->size) {
                        *ret_widest = *t;
                        *ret_bits = bits;
                }
        }
        gguf_deinit(&g);
        return n;
}

static void test_models(void **unused) {
        _cleanup_free_ char *folder = NULL;
        struct dirent **entries;
        unsigned n = 0;
        int n_entries;

        assert_true(asprintf(&folder, "%s/models", test_data()) > 0);
        n_entries = scandir(folder, &entries, NULL, alphasort);
        assert_true(n_entries > 0);
        for (int i = 0; i < n_entries; i++) {
                const char *dot = strrchr(entries[i]->d_name, '.');
                _cleanup_free_ char *path = NULL;

                if (dot && strcmp(dot, ".gguf") == 0) {
                        struct gguf_tensor widest;
                        double bits;

                        assert_true(asprintf(&path, "%s/%s", folder, entries[i]->d_name) > 0);
                        if (code_model(path, &widest, &bits) > 0) {
                                print_message("%s: %s takes %.3f bits per weight\n", entries[i]->d_name, widest.name, bits);
                                n++;
                        }
                }
                free(entries[i]);
        }
        free(entries);
        if (n == 0) {
                print_message("no model in BF16 in %s\n", folder);
                skip();
        }
}

/* What plans reckon with. */
static void test_gaussian_bits(void **unused) {
        const unsigned steps = 16, n_in = 16384;
        uint16_t *w = numbers_new((size_t)WEIGHT_PANEL * n_in);
        double bits = 0;

        for (unsigned s = 0; s < steps; s++) {
                double sigma = exp2(-6.0 + (s + 0.5) / steps);

                for (size_t i = 0; i < WEIGHT_PANEL * n_in; i++)
                        w[i] = bf16_from_float((float)(sigma * gaussian()));
                bits += 8.0 * (double)lossless_measure(w, 2 * n_in, WEIGHT_PANEL, n_in);
        }
        bits /= (double)steps * WEIGHT_PANEL * n_in / 0x1p20;
        assert_true(fabs(bits - LOSSLESS_GAUSSIAN_BITS) < 0.01 * LOSSLESS_GAUSSIAN_BITS);
        free(w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_patterns),
                cmocka_unit_test(test_kinds),
                cmocka_unit_test(test_crowded_escapes),
                cmocka_unit_test(test_nothing_but_escapes),
                cmocka_unit_test(test_odd_sizes),
                cmocka_unit_test(test_padding),
                cmocka_unit_test(test_damage_is_seen),
                cmocka_unit_test(test_kernels_agree),
                cmocka_unit_test(test_index),
                cmocka_unit_test(test_layout),
                cmocka_unit_test(test_format),
                cmocka_unit_test(test_models),
                cmocka_unit_test(test_gaussian),
                cmocka_unit_test(test_gaussian_bits),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
