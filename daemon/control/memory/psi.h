/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Pressure stall information, as the kernel gives it in /proc/pressure/memory and in memory.pressure of a control group
 * (Documentation/accounting/psi.rst): pure functions over its text. */

#include <stdbool.h>
#include <stdint.h>

struct psi {
        float some10, full10;          /* per cent of the last 10 s in which somebody, or everybody, waited for memory */
        uint64_t some_us, full_us;     /* in all */
};

/* False where the text is none such; *ret stays as it is then. "full" may be missing (it counts as 0). */
bool psi_parse(const char *text, struct psi *ret);
/* Reads it from the beginning of an open file. False where it cannot be had. */
bool psi_read(int fd, struct psi *ret);
