/* SPDX-License-Identifier: Apache-2.0 */

/* Which kernels there are, and which of them this machine can run. */

#include <string.h>

#include "base/macro.h"
#include "kernels.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

static bool always(void) {
        return true;
}

#if defined(__x86_64__)
/* By hand: not every compiler's __builtin_cpu_supports() knows its name. */
static bool have_f16c(void) {
        unsigned a, b, c, d;

        return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool have_avx512_vnni(void) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma") && have_f16c();
}

static bool have_avx2(void) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && have_f16c();
}
#elif defined(__aarch64__)
static bool have_neon_dotprod(void) {
        const unsigned long needs = HWCAP_ASIMDDP | HWCAP_ASIMDHP | HWCAP_FPHP;

        return (getauxval(AT_HWCAP) & needs) == needs;
}

static bool have_neon_i8mm(void) {
        return have_neon_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM);
}
#endif

#define KERNELS(isa, coded_isa) &matmul_kernels_##isa, coded_kernels_##coded_isa, &row_kernels_##isa, &attn_kernels_##isa, &peak_kernels_##isa

const struct cpu_kernels cpu_kernels[] = {
#if defined(__x86_64__)
        /* Coded panels: those of AVX2, which every such machine has. */
        { "avx512-vnni", have_avx512_vnni, 8, 8, KERNELS(avx512, avx2) },
        { "avx2", have_avx2, 8, 4, KERNELS(avx2, avx2) },
#elif defined(__aarch64__)
        /* All but products of integers is that of NEON; so is the peak, which is one of dot products. */
        { "neon-i8mm", have_neon_i8mm, 4, 4, &matmul_kernels_i8mm, coded_kernels_neon, &row_kernels_neon,
          &attn_kernels_neon, &peak_kernels_neon },
        { "neon-dotprod", have_neon_dotprod, 4, 4, KERNELS(neon, neon) },
#endif
        { "c", always, 1, 1, KERNELS(c, c) },
};
const size_t cpu_kernels_n = ARRAY_SIZE(cpu_kernels);

const struct cpu_kernels *cpu_kernels_find(const char *name) {
        bool any = !name || strcmp(name, "auto") == 0;

        for (size_t i = 0; i < cpu_kernels_n; i++)
                if ((any || strcmp(name, cpu_kernels[i].name) == 0) && cpu_kernels[i].usable())
                        return cpu_kernels + i;
        return NULL;
}

const panel_fn *cpu_kernels_matmul(const struct cpu_kernels *k, enum fmt fmt) {
        switch (fmt) {
        case FMT_F32: return k->matmul->f32;
        case FMT_F16: return k->matmul->f16;
        case FMT_BF16: return k->matmul->bf16;
        case FMT_Q8_0: return k->matmul->q8_0;
        case FMT_Q4_0: return k->matmul->q4_0;
        case FMT_Q4_1: return k->matmul->q4_1;
        case FMT_Q5_0: return k->matmul->q5_0;
        case FMT_Q5_1: return k->matmul->q5_1;
        case FMT_Q2_K: return k->matmul->q2_k;
        case FMT_Q3_K: return k->matmul->q3_k;
        case FMT_Q4_K: return k->matmul->q4_k;
        case FMT_Q5_K: return k->matmul->q5_k;
        case FMT_Q6_K: return k->matmul->q6_k;
        case FMT_IQ4_XS: return k->matmul->iq4_xs;
        case FMT_IQ4_NL: return k->matmul->iq4_nl;
        case FMT_MXFP4: return k->matmul->mxfp4;
        case FMT_NVFP4: return k->matmul->nvfp4;
        case FMT_F8_E4M3: return k->matmul->f8_e4m3;
        default: return NULL;
        }
}

enum act_form cpu_kernels_act(enum fmt fmt) {
        switch (fmt) {
        case FMT_F32:
        case FMT_F16:
        case FMT_F8_E4M3:
                return ACT_FLOATS;
        case FMT_BF16:
        case FMT_BF16_LL:
                return ACT_BF16S;
        case FMT_Q2_K:
        case FMT_Q3_K:
        case FMT_Q4_K:
        case FMT_Q5_K:
        case FMT_Q6_K:
        case FMT_IQ4_XS:
                return ACT_SUPERS;
        default:
                return ACT_BLOCKS;
        }
}

size_t cpu_act_bytes(enum act_form form, size_t n_in) {
        switch (form) {
        case ACT_FLOATS:
        case ACT_BF16S:
                return n_in * sizeof(float);
        case ACT_BLOCKS:
                return n_in / ACT_BLOCK * sizeof(struct act_block);
        default:
                return n_in / ACT_SUPER * sizeof(struct act_super);
        }
}
