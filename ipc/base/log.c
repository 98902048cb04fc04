/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "log.h"

/* The one mutable global of the house: written by log_init() before any thread starts, read ever after; but for the
 * level, which may change at any time. */
static struct {
        const char *name;
        atomic_int max_level;
        int for_journal;
} sink = { "sparkd", LOG_LEVEL_INFO, 0 };

void log_init(const char *name, enum log_level max_level, int for_journal) {
        sink.name = name;
        sink.for_journal = for_journal;
        log_set_level(max_level);
}

void log_set_level(enum log_level max_level) {
        atomic_store_explicit(&sink.max_level, (int)max_level, memory_order_relaxed);
}

bool log_is_on(enum log_level level) {
        return (int)level <= atomic_load_explicit(&sink.max_level, memory_order_relaxed);
}

bool log_is_for_journal(void) {
        return sink.for_journal != 0;
}

void log_write(enum log_level level, const char *fmt, ...) {
        char line[2048];
        va_list ap;
        int n, m;

        if (!log_is_on(level))
                return;
        n = sink.for_journal ? snprintf(line, sizeof(line), "<%d>", (int)level)
                             : snprintf(line, sizeof(line), "%s: ", sink.name);
        va_start(ap, fmt);
        m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
        va_end(ap);
        if (m < 0)
                return;
        n += m;
        if ((size_t)n > sizeof(line) - 2)
                n = sizeof(line) - 2;
        line[n++] = '\n';
        /* one write, so that lines of several threads don't mix; nobody to tell when it fails */
        if (write(STDERR_FILENO, line, (size_t)n) < 0)
                return;
}
