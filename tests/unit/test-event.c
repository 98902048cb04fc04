/* SPDX-License-Identifier: Apache-2.0 */

/* Log lines with ids: each id is explained in the catalog, once, with the fields that are sent; without the journal they are
 * lines like others. What the journal gets is seen by tests/system. */

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "daemon/control/event.h"

#define CATALOG "systemd/sparkd.catalog" /* tests run in the tree's root */

static char *read_catalog(void) {
        FILE *file = fopen(CATALOG, "re");
        char *text = calloc(1, 64 << 10);
        size_t n;

        assert_non_null(file);
        assert_non_null(text);
        n = fread(text, 1, (64 << 10) - 1, file);
        assert_in_range(n, 1, (64 << 10) - 2);
        assert_int_equal(fclose(file), 0);
        return text;
}

static unsigned count(const char *text, const char *what) {
        unsigned n = 0;

        for (const char *p = strstr(text, what); p; p = strstr(p + 1, what))
                n++;
        return n;
}

static void test_catalog_explains_each(void **state) {
        char *catalog = read_catalog();

        for (int i = 0; i < EVENT_N; i++) {
                const char *id = event_id((enum event)i);
                char head[64];

                assert_int_equal(strlen(id), 32);
                for (const char *p = id; *p; p++)
                        assert_true(isxdigit((unsigned char)*p) && !isupper((unsigned char)*p));
                (void)snprintf(head, sizeof(head), "\n-- %s\nSubject: ", id);
                assert_int_equal(count(catalog, head), 1);
        }
        assert_int_equal(count(catalog, "\n-- "), EVENT_N);
        assert_int_equal(count(catalog, "@"), 2 * count(catalog, "@SPARK_MODEL@"));
        free(catalog);
}

/* What event_log() writes to standard error. */
static void capture(enum log_level max, char *out, size_t size) {
        int pipes[2], before = dup(STDERR_FILENO);
        ssize_t n;

        assert_true(before >= 0);
        assert_int_equal(pipe(pipes), 0);
        assert_true(dup2(pipes[1], STDERR_FILENO) >= 0);
        log_init("test", max, 0);
        event_log(EVENT_MODEL_READY, "m", "model '%s' is ready", "m");
        assert_true(dup2(before, STDERR_FILENO) >= 0);
        (void)close(before);
        (void)close(pipes[1]);
        n = read(pipes[0], out, size - 1);
        assert_true(n >= 0);
        out[n] = 0;
        (void)close(pipes[0]);
}

static void test_a_line_without_the_journal(void **state) {
        char out[256];

        capture(LOG_LEVEL_INFO, out, sizeof(out));
        assert_string_equal(out, "test: model 'm' is ready\n");
        capture(LOG_LEVEL_NOTICE, out, sizeof(out));
        assert_string_equal(out, "");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_catalog_explains_each),
                cmocka_unit_test(test_a_line_without_the_journal),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
