/* SPDX-License-Identifier: Apache-2.0 */

/* What the coder finds by itself: values that are not those that were measured, and code that does not decode to them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coded-fixture.h"
#include "daemon/loader/coder.h"

#define ROWS WEIGHT_PANEL
#define COLUMNS 1024u

/* A tensor of one panel, measured. */
struct panel {
        struct image_tensor tensor;
        struct coder coder;
        uint16_t values[ROWS * COLUMNS];
        char *data; /* has room for the values, and for what becomes of them */
        size_t size;
};

static int setup(void **state) {
        struct panel *p = calloc(1, sizeof(*p));
        struct image_plan plan = { .n_tensors = 1 };
        uint32_t random = 3;

        assert_non_null(p);
        p->tensor = (struct image_tensor){ .fmt = FMT_BF16, .layout = WEIGHT_PANELS, .dims = { COLUMNS, ROWS, 1 },
                                           .size = sizeof(p->values) };
        plan.tensors = &p->tensor;
        for (size_t i = 0; i < ROWS * COLUMNS; i++)
                p->values[i] = coded_value(&random);
        assert_true(coder_can(&p->tensor));
        assert_int_equal(coder_init(&p->coder, &plan), 0);
        assert_int_equal(coder_add(&p->coder, &plan, 0, false), 0);
        assert_int_equal(coder_rows(&p->coder, 0, &p->tensor, 0, ROWS, (const char *)p->values, NULL), CODER_OK);
        p->size = 2 * sizeof(p->values) + p->coder.tensors[0].parts.escapes + p->coder.tensors[0].at[1];
        p->data = calloc(1, p->size);
        assert_non_null(p->data);
        *state = p;
        return 0;
}

static int teardown(void **state) {
        struct panel *p = *state;

        coder_deinit(&p->coder);
        free(p->data);
        free(p);
        return 0;
}

static enum coder_fault code(struct panel *p, const void *values) {
        return coder_rows(&p->coder, 0, &p->tensor, 0, ROWS, values, p->data);
}

static void test_good(void **state) {
        struct panel *p = *state;

        assert_int_equal(code(p, p->values), CODER_OK);
}

/* One that needs an escape where there was none. */
static void test_changed(void **state) {
        struct panel *p = *state;

        p->values[1000] = 0x7f00;
        assert_int_equal(code(p, p->values), CODER_CHANGED);
        assert_true(p->data[0] == 0 && memcmp(p->data, p->data + 1, p->size - 1) == 0); /* nothing was written */
}

/* The code overwrites what it is made of, so that what it is compared with is something else. */
static void test_unfaithful(void **state) {
        struct panel *p = *state;

        (void)memcpy(p->data, p->values, sizeof(p->values));
        assert_int_equal(code(p, p->data), CODER_UNFAITHFUL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_good, setup, teardown),
                cmocka_unit_test_setup_teardown(test_changed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unfaithful, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
