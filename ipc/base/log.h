/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Logging to standard error, one line a call, with the kernel's "<N>" level prefix where the journal reads it
 * (JOURNAL_STREAM set) and the program's name where a person does. Never logs prompts or generated text: callers must
 * not pass them. The name is set once in main() and only read afterwards; the level may change while threads log.
 */

#include <stdbool.h>

#include "macro.h"

enum log_level {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_NOTICE = 5,
        LOG_LEVEL_INFO = 6,
        LOG_LEVEL_DEBUG = 7,
};

/* name must outlive the process's logging. for_journal: prefix lines with "<N>". */
void log_init(const char *name, enum log_level max_level, int for_journal);
void log_set_level(enum log_level max_level);
/* Is what has this level written, and does the journal read it? For those who reach the journal in a way of their own. */
bool log_is_on(enum log_level level);
bool log_is_for_journal(void);
void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
