/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-q.cuh"

MM_FORMAT(mm_q8_0, FMT_Q8_0)
