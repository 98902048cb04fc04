/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-q.cuh"

MM_FORMAT(mm_q4_0, FMT_Q4_0)
MM_FORMAT(mm_q4_1, FMT_Q4_1)
