/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products: which kernel, and how many blocks. The kernel is mm-core.cuh; formats are in mm-*.cu.
 *
 * What was considered (times are not measured):
 *
 * - Products of one row by plain multiply-adds, as most engines do, and tensor cores for many. Two kernels have two orders of
 *   sums, so that a row's bits would depend on its company. The tensor cores' tiles are all but empty with one row, but that
 *   costs nothing: a panel's step of 32 in Q4_0 is 288 bytes, 120 clocks of a GB10 SM's share of memory and 20 of an H100's, in
 *   which its four schedulers issue 80 instructions; decoding, multiplying and fetching take about 60.
 * - Weights as the B operand, in the order of the file. As A operand 16 outputs are one panel, whose interleaving gives a lane
 *   two rows with one load, and rows of x are 8 columns: less is wasted with few.
 * - Decoding to shared memory and ldmatrix, as for dense formats: twice the traffic there. Fragments are decoded in registers,
 *   by each warp for the rows that it has; with two warps side by side (128 rows) that is done twice.
 * - wgmma (H100 only) and tcgen05 (not on GB10): other orders of sums on other machines, and no fragments in registers.
 * - Split K by atomics: no order. Slices with a ticket are as parallel.
 * - Larger blocks for few rows. With 64 outputs a matrix of 4,096 has 256 blocks in 4 slices, one of 8,192 with as long a K in 2, and
 *   one of 12,288 has 192 without: two or more on each SM, so that one computes while the other's data is on its way. Each block
 *   reads x, 512 bytes beside 1,152 of Q4_0 for a step of up to 8 rows, from the second-level cache: 64 with one row.
 * - Totals of slices in registers for more than 32 rows too: they need 32 or 64 of them, and the kernels spilled. These add
 *   slices up in out, once in 1,024 elements of K or more. Gated products, which have no out, are computed in tiles of 32 rows
 *   instead where K is in slices and blocks are not split: each panel is then read, and decoded, two or four times.
 * - Other places for a panel's units of 4 bytes. The four of a step are 64 bytes apart, so that a load of 8 bytes for each lane
 *   takes four turns at shared memory where two would do; of the 20 clocks above these are 2.
 * - Weights past the second-level cache (evict first), which has to keep no more than x for a product.
 * - A commit for each stage of weights that is fetched before x: copies come in order, so that x's would wait for all of them anyway.
 */

#include "launch.cuh"
#include "mm-core.cuh"
#include "mm-table.h"

#define MM_SLICES_MAX 4u
#define MM_SLICE_MIN 1024u     /* elements of K; shorter ones do not fill the pipeline */
#define MM_SLICE_BLOCKS 256u   /* blocks of 64 outputs that all GPUs are busy with */
#define MM_SLICE_OUTPUTS 8192u /* from here on there are enough of them, */
#define MM_SLICE_LONG 8192u    /* but where K is as long as this, one for each SM or two take too long */
#define MM_FEW_ROWS 64u
#define MM_TOTALS_ROWS 32u /* of the largest variant that has registers for totals (struct mm_variant) */

static const struct mm_format_entry *const mm_formats[] = {
        &mm_f16, &mm_bf16, &mm_bf16_ll, &mm_f8_e4m3, &mm_q8_0, &mm_q4_0, &mm_q4_1, &mm_q5_0, &mm_q5_1,
        &mm_q2_k, &mm_q3_k, &mm_q4_k, &mm_q5_k, &mm_q6_k, &mm_iq4_nl, &mm_iq4_xs, &mm_mxfp4, &mm_nvfp4,
};

#define MM_FORMATS (sizeof(mm_formats) / sizeof(mm_formats[0]))

static const struct mm_format_entry *mm_format_find(enum fmt fmt) {
        for (size_t i = 0; i < MM_FORMATS; i++)
                if (mm_formats[i]->fmt == fmt)
                        return mm_formats[i];
        return NULL;
}

/* Of a GPU that has no kernels of this file (ptx.cuh) the runtime says so, as it does of one that is too old. */
bool cuda_mm_has_fp8(enum fmt fmt) {
        struct cudaFuncAttributes attributes;
        int device, major;

        if (fmt != FMT_MXFP4 || cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess || major != 12)
                return false;
        if (cudaFuncGetAttributes(&attributes, (const void *)mm_mxfp4_fp8.variant[0].kernel) == cudaSuccess)
                return true;
        (void)cudaGetLastError();
        return false;
}

static const struct mm_format_entry *mm_entry_find(const struct cuda_mm *m) {
        if (m->activations == CUDA_ACTIVATIONS_FP8)
                return m->fmt == FMT_MXFP4 ? &mm_mxfp4_fp8 : NULL;
        return mm_format_find(m->fmt);
}

uint32_t cuda_mm_slices(enum fmt fmt, uint32_t n_out, uint32_t n_in) {
        uint32_t n = 1, blocks = (n_out + 63) / 64;

        if (fmt == FMT_F32)
                return mm_f32_slices(n_in);
        if (n_out >= MM_SLICE_OUTPUTS && n_in < MM_SLICE_LONG)
                return 1;
        while (n < MM_SLICES_MAX && blocks * n < MM_SLICE_BLOCKS && n_in / (2 * n) >= MM_SLICE_MIN)
                n *= 2;
        return n;
}

bool cuda_mm_has(enum fmt fmt) {
        return fmt == FMT_F32 || mm_format_find(fmt);
}

bool cuda_mm_wants_sums(enum fmt fmt) {
        const struct mm_format_entry *entry = mm_format_find(fmt);

        return entry && entry->wants_sums;
}

bool cuda_mm_wants_f32(enum fmt fmt) {
        return fmt == FMT_F32;
}

bool cuda_mm_can_gate(enum fmt fmt, uint32_t n_out, uint32_t n_in) {
        (void)n_out;
        (void)n_in;
        return mm_format_find(fmt) != NULL;
}

/* Twice what an expert has on average, so that most experts' weights are read once. */
uint32_t cuda_mm_group_rows(uint32_t max_slots, uint32_t n_experts) {
        uint32_t rows = CUDA_TILE_ROWS;

        while (rows < CUDA_MM_GROUP_ROWS && (uint64_t)rows * n_experts < 2 * (uint64_t)max_slots)
                rows *= 2;
        return rows;
}

struct mm_plan {
        const struct mm_variant *variant;
        struct mm_args args;
        dim3 grid;
};

/* The smallest variant that has all rows of a block, or the largest. */
static const struct mm_variant *mm_variant_for(const struct mm_format_entry *entry, uint32_t rows) {
        uint32_t i = 0;

        while (i + 1 < MM_VARIANTS && entry->variant[i].rows < rows)
                i++;
        return &entry->variant[i];
}

/* Slices are blocks where there would be too few of these otherwise, and tickets for all. */
static bool mm_should_split(const struct mm_plan *plan) {
        uint64_t blocks = (uint64_t)plan->grid.x * plan->grid.y, busy = plan->args.mm.n_sms;

        if (plan->variant->rows <= MM_FEW_ROWS)
                busy *= 8;
        return plan->args.max_slices > 1 && blocks < busy && blocks <= CUDA_MM_TICKETS;
}

static void mm_plan_blocks(struct mm_plan *plan, uint32_t rows) {
        const struct mm_variant *v = plan->variant;
        struct mm_args *a = &plan->args;
        uint32_t tile = v->panels / (a->mm.is_gated ? 2 : 1), tiles = (rows + v->rows - 1) / v->rows;

        for (uint32_t i = 0; i < a->mm.n_products; i++)
                a->first_tile[i + 1] = a->first_tile[i] + (a->n_panels[i] + tile - 1) / tile;
        a->group_tiles = tiles;
        plan->grid.x = a->mm.slots.groups ? a->mm.slots.max_groups * tiles : tiles;
        plan->grid.y = a->first_tile[a->mm.is_gated ? 1 : a->mm.n_products];
        a->split = mm_should_split(plan);
        plan->grid.z = a->split ? a->max_slices : 1;
}

static bool mm_plan_make(const struct cuda_mm *m, struct mm_plan *plan) {
        const struct mm_format_entry *entry = mm_entry_find(m);
        uint32_t rows = m->slots.groups ? m->slots.group_rows : m->rows.max;
        struct mm_args *a = &plan->args;

        if (!entry)
                return false;
        a->mm = *m;
        a->x = m->activations == CUDA_ACTIVATIONS_FP8 ? (const void *)m->x.x8 : (const void *)m->x.x;
        a->k32 = (m->n_in + 31) / 32;
        for (uint32_t i = 0; i < m->n_products; i++) {
                a->n_panels[i] = (m->product[i].n_out + WEIGHT_PANEL - 1) / WEIGHT_PANEL;
                a->slices[i] = cuda_mm_slices(m->fmt, m->product[i].n_out, m->n_in);
                a->max_slices = a->slices[i] > a->max_slices ? a->slices[i] : a->max_slices;
        }
        plan->variant = mm_variant_for(entry, rows);
        mm_plan_blocks(plan, rows);
        if (m->is_gated && a->max_slices > 1 && !a->split && !plan->variant->totals) {
                plan->variant = mm_variant_for(entry, MM_TOTALS_ROWS);
                mm_plan_blocks(plan, rows);
        }
        return true;
}

size_t cuda_mm_scratch_bytes(const struct cuda_mm *m) {
        struct mm_plan plan = {};

        if (!mm_plan_make(m, &plan) || !plan.args.split)
                return 0;
        return (size_t)plan.grid.x * plan.grid.y * plan.grid.z * plan.variant->threads * plan.variant->sums * sizeof(float);
}

cudaError_t cuda_mm(const struct cuda_launch *l, const struct cuda_mm *m) {
        struct mm_plan plan = {};

        if (m->fmt == FMT_F32)
                return mm_f32_launch(l, m);
        if (!mm_plan_make(m, &plan))
                return cudaErrorInvalidValue;
        if (plan.grid.x == 0 || plan.grid.y == 0)
                return cudaSuccess;
        return launch(plan.variant->kernel, plan.grid, dim3(plan.variant->threads), plan.variant->shared_bytes, l->stream,
                      l->dependent, plan.args);
}

/* Copies go past the first-level cache: shared memory gets all of an SM's. */
static cudaError_t mm_variant_prepare(const struct mm_variant *v) {
        cudaError_t error = cudaFuncSetAttribute((const void *)v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 (int)v->shared_bytes);

        if (error != cudaSuccess)
                return error;
        return cudaFuncSetAttribute((const void *)v->kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
}

static cudaError_t mm_prepare(const struct mm_format_entry *entry) {
        for (uint32_t v = 0; v < MM_VARIANTS; v++) {
                cudaError_t error = mm_variant_prepare(&entry->variant[v]);

                if (error != cudaSuccess)
                        return error;
        }
        return cudaSuccess;
}

/* Kernels between products prefer what these have, too: an SM divides its memory anew only when no block is on it, so that a product
 * could not begin there before another kernel has ended. */
cudaError_t cuda_mm_prepare(void) {
        cudaError_t error = cudaDeviceSetCacheConfig(cudaFuncCachePreferShared);

        for (size_t i = 0; error == cudaSuccess && i < MM_FORMATS; i++)
                error = mm_prepare(mm_formats[i]);
        if (error == cudaSuccess && cuda_mm_has_fp8(FMT_MXFP4))
                error = mm_prepare(&mm_mxfp4_fp8);
        return error;
}
