/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-q.cuh"

MM_FORMAT(mm_q5_0, FMT_Q5_0)
MM_FORMAT(mm_q5_1, FMT_Q5_1)
