/* SPDX-License-Identifier: Apache-2.0 */

#include "mm-kernel.cuh"
#include "mm-lut.cuh"

MM_FORMAT(mm_mxfp4, FMT_MXFP4)
MM_FORMAT(mm_nvfp4, FMT_NVFP4)
