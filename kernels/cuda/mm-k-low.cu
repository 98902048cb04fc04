/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-k.cuh"

MM_FORMAT(mm_q2_k, FMT_Q2_K)
MM_FORMAT(mm_q3_k, FMT_Q3_K)
