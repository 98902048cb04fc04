/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-lut.cuh"

MM_FORMAT(mm_iq4_nl, FMT_IQ4_NL)
MM_FORMAT(mm_iq4_xs, FMT_IQ4_XS)
