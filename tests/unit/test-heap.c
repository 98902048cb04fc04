/* SPDX-License-Identifier: Apache-2.0 */

/* The heap: against a plain array that is searched, with ties, changes of keys, and removal from anywhere. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/heap.h"
#include "base/macro.h"

#define N 200u

struct thing {
        uint32_t number; /* so that the node is not at the beginning */
        struct heap_node node;
};

struct lab {
        struct heap heap;
        struct thing things[N];
        size_t n_in;
        uint64_t random;
};

static uint64_t draw(struct lab *l, uint64_t below) {
        l->random ^= l->random << 13;
        l->random ^= l->random >> 7;
        l->random ^= l->random << 17;
        return l->random % below;
}

static void lab_init(struct lab *l, uint64_t seed) {
        *l = (struct lab){ .random = seed * 0x9E3779B97F4A7C15u + 1 };
        for (uint32_t i = 0; i < N; i++) {
                l->things[i] = (struct thing){ .number = i, .node = HEAP_NODE_NULL };
                l->things[i].node.tie = i;
        }
        assert_int_equal(heap_reserve(&l->heap, N), 0);
}

/* Who must be on top, by looking at all. */
static const struct heap_node *least(const struct lab *l) {
        const struct heap_node *best = NULL;

        for (uint32_t i = 0; i < N; i++) {
                const struct heap_node *n = &l->things[i].node;

                if (heap_has(n) && (!best || n->key < best->key || (n->key == best->key && n->tie < best->tie)))
                        best = n;
        }
        return best;
}

static void check(const struct lab *l) {
        assert_int_equal(l->heap.n, l->n_in);
        assert_true(heap_check(&l->heap));
        assert_ptr_equal(heap_top(&l->heap), least(l));
}

/* Keys are few, so that many are equal, or lie at the ends of the range. */
static uint64_t draw_key(struct lab *l) {
        static const uint64_t ends[] = { 0, 1, UINT64_MAX, UINT64_MAX - 1, 1ull << 63, (1ull << 63) - 1 };

        return draw(l, 4) > 0 ? draw(l, 20) : ends[draw(l, ARRAY_SIZE(ends))];
}

static void insert(struct lab *l, struct thing *t, uint64_t key) {
        heap_insert(&l->heap, &t->node, key);
        l->n_in++;
        assert_true(heap_has(&t->node));
        assert_true(t->node.key == key);
}

static void take_out(struct lab *l, struct thing *t) {
        uint64_t key = t->node.key, tie = t->node.tie;

        l->n_in -= heap_has(&t->node);
        heap_remove(&l->heap, &t->node);
        assert_false(heap_has(&t->node));
        assert_true(t->node.key == key && t->node.tie == tie);
}

static void test_random(void **state) {
        static struct lab l;

        for (uint64_t seed = 1; seed <= 20; seed++) {
                lab_init(&l, seed);
                for (unsigned i = 0; i < 3000; i++) {
                        struct thing *t = &l.things[draw(&l, N)];

                        if (!heap_has(&t->node))
                                insert(&l, t, draw_key(&l));
                        else if (draw(&l, 3) > 0)
                                heap_update(&l.heap, &t->node, draw_key(&l));
                        else
                                take_out(&l, t);
                        check(&l);
                }
                heap_deinit(&l.heap);
        }
}

/* Comes out in order, equal keys by their ties, in whatever order they went in. */
static void test_order(void **state) {
        static struct lab l;

        for (uint64_t seed = 1; seed <= 20; seed++) {
                const struct heap_node *last = NULL;

                lab_init(&l, seed);
                for (uint32_t i = 0; i < N; i++)
                        insert(&l, &l.things[(i * 77 + seed) % N], draw_key(&l));
                while (l.n_in > 0) {
                        struct heap_node *top = heap_top(&l.heap);

                        if (last)
                                assert_true(last->key < top->key || (last->key == top->key && last->tie < top->tie));
                        last = top;
                        take_out(&l, CONTAINER_OF(top, struct thing, node));
                }
                assert_null(heap_top(&l.heap));
                heap_deinit(&l.heap);
        }
}

static void test_ties(void **state) {
        static struct lab l;

        lab_init(&l, 1);
        for (uint32_t i = N; i-- > 0;)
                insert(&l, &l.things[i], 7);
        for (uint32_t i = 0; i < N; i++) {
                assert_ptr_equal(heap_top(&l.heap), &l.things[i].node);
                heap_update(&l.heap, &l.things[i].node, 7); /* changes nothing */
                assert_ptr_equal(heap_top(&l.heap), &l.things[i].node);
                heap_update(&l.heap, &l.things[i].node, 8); /* behind all the others */
                check(&l);
        }
        assert_ptr_equal(heap_top(&l.heap), &l.things[0].node);
        heap_deinit(&l.heap);
}

/* From every place of heaps of every size: what moves up into the hole may have to rise as well as to sink. */
static void test_removal(void **state) {
        static struct lab l;
        unsigned n_rose = 0;

        for (uint32_t n = 1; n <= 40; n++)
                for (uint32_t place = 0; place < n; place++) {
                        struct heap_node *gone, *last;

                        lab_init(&l, (uint64_t)n * 100 + place);
                        for (uint32_t i = 0; i < n; i++)
                                insert(&l, &l.things[i], draw(&l, 1000));
                        gone = l.heap.nodes[place];
                        last = l.heap.nodes[n - 1];
                        take_out(&l, CONTAINER_OF(gone, struct thing, node));
                        n_rose += last != gone && last->place < place;
                        check(&l);
                        heap_remove(&l.heap, gone); /* in no heap: nothing happens */
                        check(&l);
                        heap_deinit(&l.heap);
                }
        assert_true(n_rose > 0);
}

static void test_reserve(void **state) {
        struct heap h = HEAP_NULL;
        struct heap_node **nodes;
        static struct thing t[100];

        assert_null(heap_top(&h));
        assert_int_equal(heap_reserve(&h, 0), 0);
        for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
                assert_int_equal(heap_reserve(&h, i + 1), 0); /* grows with what is in it staying in order */
                assert_true(h.cap > i);
                t[i].node = HEAP_NODE_NULL;
                heap_insert(&h, &t[i].node, ARRAY_SIZE(t) - i);
                assert_true(heap_check(&h));
                assert_ptr_equal(heap_top(&h), &t[i].node);
        }
        nodes = h.nodes;
        assert_int_equal(heap_reserve(&h, 50), 0); /* there is room already */
        assert_ptr_equal(h.nodes, nodes);
        assert_int_equal(heap_reserve(&h, SIZE_MAX), -ENOMEM); /* and the heap is as it was */
        assert_int_equal(heap_reserve(&h, SIZE_MAX / 2 + 2), -ENOMEM);
        assert_ptr_equal(h.nodes, nodes);
        assert_int_equal(h.n, ARRAY_SIZE(t));
        assert_true(heap_check(&h));
        heap_deinit(&h);
        assert_null(h.nodes);
        assert_int_equal(h.n + h.cap, 0);
}

/* The check itself must see what it is for. */
static void test_check(void **state) {
        static struct lab l;

        lab_init(&l, 3);
        for (uint32_t i = 0; i < 10; i++)
                insert(&l, &l.things[i], i);
        assert_true(heap_check(&l.heap));
        l.things[9].node.key = 0; /* below its parent, by the key ... */
        assert_false(heap_check(&l.heap));
        l.things[9].node.key = 4;
        assert_true(heap_check(&l.heap));
        l.things[9].node.tie = 3; /* ... and by the tie: its parent is number 4 */
        assert_int_equal((l.things[9].node.place - 1) / 2, l.things[4].node.place);
        assert_false(heap_check(&l.heap));
        l.things[9].node.tie = 9;
        l.things[9].node.place = 8;
        assert_false(heap_check(&l.heap));
        heap_deinit(&l.heap);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),  cmocka_unit_test(test_order),   cmocka_unit_test(test_ties),
                cmocka_unit_test(test_removal), cmocka_unit_test(test_reserve), cmocka_unit_test(test_check),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
