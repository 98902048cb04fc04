/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Fences, atomics, and loads and stores with hints for caches. */

/* Blocks and threads run one at a time: whatever was written can be seen, and nothing comes between. */
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}

#define EMU_ATOMIC(name, expression)                                                                                           \
        template <typename T> static inline T name(T *p, T value) {                                                            \
                T before = *(volatile T *)p;                                                                                   \
                *(volatile T *)p = (expression);                                                                               \
                return before;                                                                                                 \
        }
EMU_ATOMIC(atomicAdd, before + value)
EMU_ATOMIC(atomicSub, before - value)
EMU_ATOMIC(atomicMin, value < before ? value : before)
EMU_ATOMIC(atomicMax, before < value ? value : before)
EMU_ATOMIC(atomicAnd, before & value)
EMU_ATOMIC(atomicOr, before | value)
EMU_ATOMIC(atomicXor, before ^ value)
EMU_ATOMIC(atomicExch, value)
EMU_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
#undef EMU_ATOMIC

template <typename T> static inline T atomicCAS(T *p, T compare, T value) {
        T before = *(volatile T *)p;

        if (before == compare)
                *(volatile T *)p = value;
        return before;
}

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldca(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldlu(const T *p) { return *p; }
template <typename T> static inline T __ldcv(const T *p) { return *p; }
template <typename T> static inline void __stcg(T *p, T value) { *p = value; }
template <typename T> static inline void __stwb(T *p, T value) { *p = value; }
template <typename T> static inline void __stcs(T *p, T value) { *p = value; }
template <typename T> static inline void __stwt(T *p, T value) { *p = value; }
