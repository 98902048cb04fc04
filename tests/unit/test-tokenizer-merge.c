/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/text/merge.h"
#include "daemon/text/special.h"
#include "daemon/text/token-map.h"

/* Random merges of a few symbols: (left, right) -> (rank, id), many of equal rank. */
#define IDS 24u

struct table {
        uint32_t rank[IDS][IDS];
        uint32_t id[IDS][IDS];
        size_t n_finds;
};

static uint32_t next_random(uint32_t *seed) {
        *seed = *seed * 1664525 + 1013904223;
        return *seed >> 16;
}

static bool find(const struct merge_row *row, uint32_t left, uint32_t right, uint32_t *ret_rank, uint32_t *ret_id) {
        struct table *t = (struct table *)row->userdata;
        uint32_t a = row->symbols[left].id, b = row->symbols[right].id;

        t->n_finds++;
        if (t->rank[a][b] == MERGE_END)
                return false;
        *ret_rank = t->rank[a][b];
        *ret_id = t->id[a][b];
        return true;
}

/* The definition: again and again join the best pair, the leftmost of the best. */
static size_t merge_slowly(const struct table *t, uint32_t *ids, size_t n) {
        for (;;) {
                size_t best = SIZE_MAX;

                for (size_t i = 0; i + 1 < n; i++)
                        if (t->rank[ids[i]][ids[i + 1]] != MERGE_END &&
                            (best == SIZE_MAX ||
                             t->rank[ids[i]][ids[i + 1]] < t->rank[ids[best]][ids[best + 1]]))
                                best = i;
                if (best == SIZE_MAX)
                        return n;
                ids[best] = t->id[ids[best]][ids[best + 1]];
                memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(*ids));
                n--;
        }
}

static void random_table(struct table *t, uint32_t *seed, uint32_t ranks) {
        for (uint32_t a = 0; a < IDS; a++)
                for (uint32_t b = 0; b < IDS; b++) {
                        t->rank[a][b] = next_random(seed) % 3 ? next_random(seed) % ranks : MERGE_END;
                        t->id[a][b] = next_random(seed) % IDS;
                }
}

static void test_against_definition(void **state) {
        struct merge_row row;
        struct table t = { 0 };
        uint32_t seed = 3;

        merge_row_init(&row);
        row.userdata = &t;
        for (int round = 0; round < 3000; round++) {
                static uint32_t ids[6000];
                size_t n = next_random(&seed) % (round % 500 == 7 ? 6000 : round % 50 ? 20 : 300), left;
                uint32_t at = 0;

                random_table(&t, &seed, 1u << next_random(&seed) % 9);
                if (round >= 1500) /* forgets what the table before this one gave */
                        assert_int_equal(merge_row_remember(&row), 0);
                assert_int_equal(merge_row_reset(&row, n), 0);
                for (size_t i = 0; i < n; i++) {
                        ids[i] = next_random(&seed) % (1 + next_random(&seed) % IDS);
                        merge_row_push(&row, ids[i], (uint32_t)i);
                }
                row.text_end = (uint32_t)n;
                assert_int_equal(merge_row_run(&row, find), 0);
                left = merge_slowly(&t, ids, n);
                for (size_t i = 0; i < left; i++) {
                        assert_int_equal(row.symbols[at].id, ids[i]);
                        at = row.symbols[at].next;
                }
                assert_int_equal(at, left ? MERGE_END : 0);
        }
        merge_row_deinit(&row);
}

/* Work is counted, not timed: look-ups and the queue's length for n symbols that all merge. */
static void test_linear(void **state) {
        struct merge_row row;
        struct table t;

        memset(&t, 0xff, sizeof(t));
        for (uint32_t i = 0; i + 1 < IDS; i++) { /* pairs of equals merge to the next */
                t.rank[i][i] = i;
                t.id[i][i] = i + 1;
                t.rank[i + 1][i] = 1000; /* and what is left over hangs on behind */
                t.id[i + 1][i] = i + 1;
        }
        merge_row_init(&row);
        row.userdata = &t;
        for (size_t n = 1000; n <= 256000; n *= 16) {
                t.n_finds = 0;
                assert_int_equal(merge_row_reset(&row, n), 0);
                for (size_t i = 0; i < n; i++)
                        merge_row_push(&row, 0, (uint32_t)i);
                assert_int_equal(merge_row_run(&row, find), 0);
                assert_true(t.n_finds <= 5 * n);
                assert_true(row.cap_heap <= n);
        }
        merge_row_deinit(&row);
}

static void test_token_map(void **state) {
        static const char bytes[] = "aabacabaa";
        static const uint64_t offsets[] = { 0, 1, 3, 3, 6, 7, 9 }; /* a ab "" aca b aa */
        struct token_map m;
        uint32_t id;
        size_t n;

        assert_int_equal(token_map_init(&m, bytes, offsets, 6, 42), 0);
        assert_int_equal(token_map_find(&m, "a", 1), 0);
        assert_int_equal(token_map_find(&m, "ab", 2), 1);
        assert_int_equal(token_map_find(&m, "aca", 3), 3);
        assert_int_equal(token_map_find(&m, "", 0), TOKEN_NONE);
        assert_int_equal(token_map_find(&m, "x", 1), TOKEN_NONE);
        assert_int_equal(token_map_find(&m, "acax", 4), TOKEN_NONE);
        assert_int_equal(token_map_intern(&m, "aa", 2, &id), 0);
        assert_int_equal(id, 5);
        for (uint32_t i = 0; i < 5000; i++) {
                char text[16];
                int len = snprintf(text, sizeof(text), "more %u", i);

                assert_int_equal(token_map_intern(&m, text, (size_t)len, &id), 0);
                assert_int_equal(id, 6 + i);
        }
        assert_int_equal(token_map_find(&m, "more 4321", 9), 6 + 4321);
        assert_memory_equal(token_map_text(&m, 6 + 4321, &n), "more 4321", 9);
        assert_int_equal(n, 9);
        assert_int_equal(token_map_find(&m, "aca", 3), 3);
        token_map_deinit(&m);
}

static void test_same_text_twice(void **state) {
        static const uint64_t offsets[] = { 0, 1, 2, 3 };
        struct token_map m;

        assert_int_equal(token_map_init(&m, "aba", offsets, 3, 0), 0);
        assert_int_equal(token_map_find(&m, "a", 1), 2);
        token_map_deinit(&m);
}

static void test_merge_map(void **state) {
        struct merge_map m;

        assert_int_equal(merge_map_init(&m, 2000, 9), 0);
        assert_null(merge_map_find(&m, 1, 2));
        for (uint32_t i = 0; i < 1000; i++) {
                merge_map_add(&m, &(struct merge_entry){ i, i * 7, i, i + 1 });
                merge_map_add(&m, &(struct merge_entry){ i, i * 7, i + 5, 0 });
        }
        for (uint32_t i = 0; i < 1000; i++) {
                const struct merge_entry *e = merge_map_find(&m, i, i * 7);

                assert_non_null(e);
                assert_int_equal(e->rank, i);
                assert_int_equal(e->merged, i + 1);
                assert_null(merge_map_find(&m, i * 7 + 1, i));
        }
        merge_map_deinit(&m);
}

/* Special tokens as the definition has them: longest first, then by id, each from left to right where there is room. */
static size_t find_slowly(const struct special_token *tokens, size_t n_tokens, const char *text, size_t n,
                          char *taken) {
        size_t found = 0;

        memset(taken, 0, n + 1);
        for (size_t len = n; len > 0; len--)
                for (size_t k = 0; k < n_tokens; k++)
                        for (size_t at = 0; tokens[k].n == len && at + len <= n; at++) {
                                if (memchr(taken + at, 1, len) || memcmp(text + at, tokens[k].text, len) != 0)
                                        continue;
                                memset(taken + at, 1, len);
                                found++;
                                for (size_t i = at + len; tokens[k].strip && i < n && text[i] == ' ' && !taken[i]; i++)
                                        taken[i] = 1;
                        }
        return found;
}

static void test_special(void **state) {
        uint32_t seed = 11;

        for (int round = 0; round < 2000; round++) {
                char texts[8][8], text[64], taken[65];
                struct special_token tokens[8];
                struct special_match *matches = NULL;
                struct special *s = NULL;
                size_t n_tokens = next_random(&seed) % 8, n = next_random(&seed) % sizeof(text), n_matches = 0, end = 0;

                for (size_t k = 0; k < n_tokens; k++) {
                        tokens[k] = (struct special_token){ .id = (int32_t)k, .strip = next_random(&seed) % 4 == 0,
                                                            .text = texts[k], .n = next_random(&seed) % 6 };
                        for (size_t i = 0; i < tokens[k].n; i++)
                                texts[k][i] = "ab "[next_random(&seed) % 3];
                }
                for (size_t i = 0; i < n; i++)
                        text[i] = "aab "[next_random(&seed) % 4];
                assert_int_equal(special_new(&s, tokens, n_tokens, false), 0);
                assert_int_equal(special_find(s, text, (uint32_t)n, &matches, &n_matches), 0);
                assert_int_equal(n_matches, find_slowly(tokens, n_tokens, text, n, taken));
                for (size_t i = 0; i < n_matches; i++) {
                        const struct special_token *t = &tokens[matches[i].id];

                        assert_true(matches[i].start >= end && matches[i].end >= matches[i].start + t->n);
                        assert_memory_equal(text + matches[i].start, t->text, t->n);
                        while (end < matches[i].start)
                                assert_int_equal(taken[end++], 0);
                        while (end < matches[i].end)
                                assert_int_equal(taken[end++], 1);
                }
                while (end < n)
                        assert_int_equal(taken[end++], 0);
                free(matches);
                (void)special_free(s);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_against_definition),
                cmocka_unit_test(test_linear),
                cmocka_unit_test(test_token_map),
                cmocka_unit_test(test_same_text_twice),
                cmocka_unit_test(test_merge_map),
                cmocka_unit_test(test_special),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
