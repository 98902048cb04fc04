/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2: two panels at a time. On one core of a Zen 3 server, one row, weights that are in a cache (`spark-bench kernels`; cycles for a
 * line of two panels, 128 numbers): 45. 16 of the 110 vector operations of a line are multiply-adds and as many make floats
 * of halves, which plain BF16 takes as well; none is one too many for its port, and it takes all of them about 0.41 cycles each.
 *
 * Tried, in cycles for a line: low and high bytes of exponents looked up apart, and both merged with a sign, 49; a line's sums not
 * made ahead of time, but with it, 49; all lines of a column counted first and then multiplied, 47, and what is looked up goes
 * through memory; the table of a line made one line ahead, 46; sums in an array, which the compiler keeps in memory, 52;
 * vectors of two of the counts, which it makes unless told not to (tools/rules.mk), 48 to 81, as the stack happens to lie.
 * Escapes deposited by pdep: no faster, and slow on older processors. Places of escapes from the top down, so that bytes are
 * reversed by a scalar: 48. Asking for what comes 1, 2, 3, 4 columns later, one row from memory, GMAC/s: 8.0, 7.9, 7.5, 7.2; not
 * asking: 5.2.
 *
 * This is used with AVX-512, too: lanes of 512 bits have not been written, for want of a machine to run them.
 */

#include "vec-avx2.h"

#include "lane-avx2.h"

#include "matmul-lossless-template.h"
