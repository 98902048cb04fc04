/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-k.cuh"

MM_FORMAT(mm_q5_k, FMT_Q5_K)
