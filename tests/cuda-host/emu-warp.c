/* SPDX-License-Identifier: Apache-2.0 */

/* A warp's functions: the last lane computes for all. */

#include <string.h>

#include "emu-private.h"

#define FOR_LANES(lane, mask)                                                                                                  \
        for (uint32_t rest_##lane = (mask), lane; rest_##lane && (lane = (uint32_t)__builtin_ctz(rest_##lane), true);          \
             rest_##lane &= rest_##lane - 1)

static void meet_nothing(void *const *mine, uint32_t mask) {
        (void)mine;
        (void)mask;
}

/* Reading a lane outside of the mask is undefined: here it ends the process. */
static uint64_t shuffle_read(void *const *mine, uint32_t mask, uint32_t from) {
        if (!(mask >> from & 1u))
                emu_die("a shuffle reads lane %u, which is not in its mask %08x", from, mask);
        return ((const struct emu_shuffle *)mine[from])->value;
}

static uint32_t shuffle_width(const struct emu_shuffle *s) {
        if (s->width == 0 || s->width > EMU_WARP || (s->width & (s->width - 1)))
                emu_die("a shuffle's width is %u", s->width);
        return s->width;
}

static void shuffle(void *const *mine, uint32_t mask) {
        FOR_LANES(lane, mask) {
                struct emu_shuffle *s = mine[lane];
                uint32_t width = shuffle_width(s);

                s->result = shuffle_read(mine, mask, (lane & ~(width - 1)) | (s->other & (width - 1)));
        }
}

/* Into a later part of the warp nothing is read, into an earlier one it is. */
static void shuffle_xor(void *const *mine, uint32_t mask) {
        FOR_LANES(lane, mask) {
                struct emu_shuffle *s = mine[lane];
                uint32_t last = lane | (shuffle_width(s) - 1), from = lane ^ (s->other & (EMU_WARP - 1));

                s->result = from > last ? s->value : shuffle_read(mine, mask, from);
        }
}

static void shuffle_up(void *const *mine, uint32_t mask) {
        FOR_LANES(lane, mask) {
                struct emu_shuffle *s = mine[lane];
                uint32_t within = lane & (shuffle_width(s) - 1);

                s->result = s->other > within ? s->value : shuffle_read(mine, mask, lane - s->other);
        }
}

static void shuffle_down(void *const *mine, uint32_t mask) {
        FOR_LANES(lane, mask) {
                struct emu_shuffle *s = mine[lane];
                uint32_t left = shuffle_width(s) - 1 - (lane & (s->width - 1));

                s->result = s->other > left ? s->value : shuffle_read(mine, mask, lane + s->other);
        }
}

static void ballot(void *const *mine, uint32_t mask) {
        uint32_t result = 0;

        FOR_LANES(lane, mask)
                result |= (((const struct emu_vote *)mine[lane])->value ? 1u : 0u) << lane;
        FOR_LANES(lane, mask)
                ((struct emu_vote *)mine[lane])->result = result;
}

static void match(void *const *mine, uint32_t mask) {
        FOR_LANES(lane, mask) {
                struct emu_shuffle *s = mine[lane];

                s->result = 0;
                FOR_LANES(other, mask)
                        if (((const struct emu_shuffle *)mine[other])->value == s->value)
                                s->result |= UINT64_C(1) << other;
        }
}

static void reduce_done(void *const *mine, uint32_t mask, uint32_t result) {
        FOR_LANES(lane, mask)
                ((struct emu_vote *)mine[lane])->result = result;
}

static void reduce_add(void *const *mine, uint32_t mask) {
        uint32_t result = 0;

        FOR_LANES(lane, mask)
                result += ((const struct emu_vote *)mine[lane])->value;
        reduce_done(mine, mask, result);
}

static void reduce_min(void *const *mine, uint32_t mask) {
        uint32_t result = UINT32_MAX;

        FOR_LANES(lane, mask)
                if (((const struct emu_vote *)mine[lane])->value < result)
                        result = ((const struct emu_vote *)mine[lane])->value;
        reduce_done(mine, mask, result);
}

static void reduce_max(void *const *mine, uint32_t mask) {
        uint32_t result = 0;

        FOR_LANES(lane, mask)
                if (((const struct emu_vote *)mine[lane])->value > result)
                        result = ((const struct emu_vote *)mine[lane])->value;
        reduce_done(mine, mask, result);
}

static void ldmatrix(void *const *mine, uint16_t matrix[4][8][8]) {
        for (uint32_t lane = 0; lane < EMU_WARP; lane++) {
                const uint8_t *row = ((const struct emu_ldmatrix *)mine[lane])->row;

                if ((uintptr_t)row % 16)
                        emu_die("ldmatrix: lane %u: %p is not a multiple of 16", lane, (const void *)row);
                if (row < emu_block.shared || row + 16 > emu_block.shared + emu_block.shared_bytes)
                        emu_die("ldmatrix: lane %u: %p is not in shared memory", lane, (const void *)row);
                memcpy(matrix[lane / 8][lane % 8], row, 16);
        }
}

static void ldmatrix_x4(void *const *mine, uint32_t mask) {
        uint16_t m[4][8][8];

        (void)mask;
        ldmatrix(mine, m);
        for (uint32_t lane = 0; lane < EMU_WARP; lane++)
                for (uint32_t j = 0; j < 4; j++)
                        ((struct emu_ldmatrix *)mine[lane])->r[j] =
                                (uint32_t)m[j][lane / 4][lane % 4 * 2 + 1] << 16 | m[j][lane / 4][lane % 4 * 2];
}

static void ldmatrix_x4_trans(void *const *mine, uint32_t mask) {
        uint16_t m[4][8][8];

        (void)mask;
        ldmatrix(mine, m);
        for (uint32_t lane = 0; lane < EMU_WARP; lane++)
                for (uint32_t j = 0; j < 4; j++)
                        ((struct emu_ldmatrix *)mine[lane])->r[j] =
                                (uint32_t)m[j][lane % 4 * 2 + 1][lane / 4] << 16 | m[j][lane % 4 * 2][lane / 4];
}

const struct emu_meeting emu_meet_warp = {"__syncwarp", meet_nothing};
const struct emu_meeting emu_meet_shfl = {"__shfl_sync", shuffle};
const struct emu_meeting emu_meet_shfl_xor = {"__shfl_xor_sync", shuffle_xor};
const struct emu_meeting emu_meet_shfl_up = {"__shfl_up_sync", shuffle_up};
const struct emu_meeting emu_meet_shfl_down = {"__shfl_down_sync", shuffle_down};
const struct emu_meeting emu_meet_ballot = {"a vote", ballot};
const struct emu_meeting emu_meet_match = {"__match_any_sync", match};
const struct emu_meeting emu_meet_reduce_add = {"__reduce_add_sync", reduce_add};
const struct emu_meeting emu_meet_reduce_min = {"__reduce_min_sync", reduce_min};
const struct emu_meeting emu_meet_reduce_max = {"__reduce_max_sync", reduce_max};
const struct emu_meeting emu_meet_ldmatrix_x4 = {"ldmatrix", ldmatrix_x4};
const struct emu_meeting emu_meet_ldmatrix_x4_trans = {"ldmatrix.trans", ldmatrix_x4_trans};
