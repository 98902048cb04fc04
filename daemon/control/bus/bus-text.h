/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text on its way to the bus: bounded, its memory charged to the user who asked for it, and, where it becomes a D-Bus
 * string, free of what such a string cannot hold. Embedded.
 */

#include <stdint.h>

#include "base/buf.h"
#include "users/user.h"

enum {
        BUS_TEXT_E_LIMIT = 1, /* would grow past the limit; nothing of it was taken */
        BUS_TEXT_E_QUOTA = 2, /* more than the user may have */
};

struct bus_text {
        struct buf buf;
        struct user *user; /* borrowed */
        uint64_t charged;
};

void bus_text_init(struct bus_text *t, struct user *user, size_t limit);
void bus_text_deinit(struct bus_text *t);
/* 0, BUS_TEXT_E_*, or -ENOMEM. */
int bus_text_append(struct bus_text *t, const void *data, size_t n);
/* As bus_text_append(), but NUL bytes and what is no UTF-8 become U+FFFD. */
int bus_text_append_string(struct bus_text *t, const void *data, size_t n);
/* Removes the first n bytes; an empty text gives its memory back. */
void bus_text_consume(struct bus_text *t, size_t n);
/* A copy in which NUL-free UTF-8 is sure, for sentences that quote files or were cut. NULL without memory. */
char *bus_text_clean(const char *s);
