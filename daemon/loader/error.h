/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Why a model file cannot be loaded: a code (positive return value) and a sentence for a person that names the field and
 * its offset in the file. */

#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"

/* The same numbers as enum loadlink_code. */
enum {
        LOADER_E_INVALID = 1,
        LOADER_E_UNSUPPORTED = 2,
        LOADER_E_IO = 3,
        LOADER_E_INTERNAL = 4, /* our own fault, and yet there is something to say */
};

struct loader_error {
        unsigned part; /* that sentences are about: 1 for the first of several files; 0 = the only one, or all */
        char text[512];
};

/* Fills in the sentence, which begins with the part, and returns code. */
int loader_fail(struct loader_error *error, int code, const char *fmt, ...) _printf_(3, 4);
/* Adds to the sentence, as far as there is room. */
void loader_add(struct loader_error *error, const char *fmt, ...) _printf_(2, 3);

#define LOADER_SHOW_MAX 80u
/* Makes bytes of a file printable: everything but plain ASCII becomes \xNN, long text is cut. Returns out. */
const char *loader_show(char out[LOADER_SHOW_MAX], const char *bytes, size_t n);
