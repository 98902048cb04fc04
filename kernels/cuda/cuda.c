/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The CUDA backend as a whole: which devices it takes, opening and closing, what it says of itself, and the table of its operations.
 *
 * It takes the first device that the runtime has (CUDA_VISIBLE_DEVICES chooses). Whether there is one is found out without making
 * a context on it, so that asking costs a program that computes elsewhere neither time nor memory.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"
#include "nvml.h"

#define ARCH_MIN 80u
#define HANG_MS 10000u

static const struct backend_ops backend_cuda;

static void _printf_(2, 3) say(struct backend_error *error, const char *fmt, ...) {
        va_list ap;

        if (!error)
                return;
        va_start(ap, fmt);
        (void)vsnprintf(error->text, sizeof(error->text), fmt, ap);
        va_end(ap);
}

/* 12080 is 12.8 */
static void explain_driver(struct backend_error *error) {
        struct cuda_nvml *nvml = cuda_nvml_new(NULL);
        int has = 0, needs = 0;
        char driver[80];

        (void)cudaDriverGetVersion(&has);
        (void)cudaRuntimeGetVersion(&needs);
        if (!cuda_nvml_driver(nvml, driver, sizeof(driver)))
                (void)snprintf(driver, sizeof(driver), "that is installed");
        cuda_nvml_free(nvml);
        if (has == 0)
                say(error, "there is no NVIDIA driver on this machine");
        else
                say(error, "the NVIDIA driver %s serves CUDA %d.%d, CUDA %d.%d is needed: install a newer driver", driver,
                    has / 1000, has % 1000 / 10, needs / 1000, needs % 1000 / 10);
}

static int attribute(enum cudaDeviceAttr which) {
        int value = 0;

        return cudaDeviceGetAttribute(&value, which, 0) == cudaSuccess ? value : 0;
}

static uint32_t arch_of(void) {
        return (uint32_t)attribute(cudaDevAttrComputeCapabilityMajor) * 10 +
               (uint32_t)attribute(cudaDevAttrComputeCapabilityMinor);
}

/* Whether there is a device; false: *error says why not. */
static bool find_device(struct backend_error *error) {
        int n = 0;
        cudaError_t found = cudaGetDeviceCount(&n);

        if (found == cudaErrorInsufficientDriver)
                explain_driver(error);
        else if (found == cudaErrorNoDevice || (found == cudaSuccess && n == 0))
                say(error, "this machine has no NVIDIA GPU, or this process may not use it (/dev/nvidia*)");
        else if (found != cudaSuccess)
                say(error, "the CUDA driver does not start: %s (%s)", cudaGetErrorString(found), cudaGetErrorName(found));
        else if (arch_of() < ARCH_MIN)
                say(error, "the GPU has compute capability %u.%u, %u.%u is needed at least (Ampere)", arch_of() / 10,
                    arch_of() % 10, ARCH_MIN / 10, ARCH_MIN % 10);
        else
                return true;
        (void)cudaGetLastError();
        return false;
}

static struct backend *cuda_close(struct backend *base) {
        struct cuda_backend *be = base ? cuda_of(base) : NULL;

        if (!be)
                return NULL;
        if (be->stream && be->done && atomic_load(&be->lost) == 0)
                (void)cuda_wait_all(be, "waiting for the last step");
        cuda_uploader_close(be);
        cuda_run_close(be);
        cuda_record_close(be);
        cuda_copy_close(be);
        cuda_weights_close(be);
        cuda_memory_close(be);
        if (be->done)
                (void)cudaEventDestroy(be->done);
        if (be->stream && cuda_answers(be))
                (void)cudaStreamDestroy(be->stream);
        cuda_nvml_free(be->nvml);
        free(be);
        return NULL;
}

static const char *placement_name(const struct cuda_backend *be) {
        return be->placement == CUDA_DEVICE ? "device" : "unified";
}

/* What stands between the device and the first step. */
static cudaError_t open_device(struct cuda_backend *be) {
        struct cudaDeviceProp p;
        cudaError_t error = cudaSetDevice(be->device);

        error = error ? error : cudaGetDeviceProperties(&p, be->device);
        error = error ? error : cudaStreamCreateWithFlags(&be->stream, cudaStreamNonBlocking);
        error = error ? error : cudaEventCreateWithFlags(&be->done, cudaEventDisableTiming);
        error = error ? error : cuda_mm_prepare();
        error = error ? error : cuda_attn_prepare();
        if (error != cudaSuccess)
                return error;
        (void)snprintf(be->name, sizeof(be->name), "%.*s", (int)sizeof(be->name) - 1, p.name);
        be->arch = (uint32_t)p.major * 10 + (uint32_t)p.minor;
        be->n_sms = (uint32_t)p.multiProcessorCount;
        return cudaSuccess;
}

static int explain_open(const struct cuda_backend *be, cudaError_t error, struct backend_error *ret) {
        (void)cudaGetLastError();
        if (error == cudaErrorMemoryAllocation) {
                say(ret, "the device has no memory left");
                return BACKEND_E_NO_MEMORY;
        }
        if (error == cudaErrorNoKernelImageForDevice)
                say(ret, "this build has no kernels for compute capability %u.%u (make CUDA_ARCHS=%u)", arch_of() / 10,
                    arch_of() % 10, arch_of());
        else
                say(ret, "the device does not start: %s (%s)", cudaGetErrorString(error), cudaGetErrorName(error));
        return error == cudaErrorNoKernelImageForDevice ? BACKEND_E_UNSUPPORTED : -EIO;
}

/* NULL, or why not. */
static const char *choose_activations(struct cuda_backend *be, const char *activations) {
        if (!activations || !activations[0] || strcmp(activations, "bf16") == 0)
                return NULL;
        if (strcmp(activations, "fp8") != 0)
                return "activations are bf16 or fp8";
        be->fp8 = cuda_mm_has_fp8(FMT_MXFP4);
        return be->fp8 ? NULL : "activations are fp8, but this device multiplies none with MXFP4 (compute capability 12.x does); use bf16";
}

static int cuda_open(const struct backend_config *config, struct backend **ret) {
        struct cuda_backend *be;
        char bus_id[32];
        const char *why;
        cudaError_t error;

        if (config->log_name)
                log_init(config->log_name, (enum log_level)config->log_level, config->log_for_journal);
        if (!find_device(config->error))
                return BACKEND_E_UNSUPPORTED;
        be = calloc(1, sizeof(*be));
        if (!be)
                return BACKEND_E_NO_MEMORY;
        be->base.ops = &backend_cuda;
        be->hang_ms = config->hang_ms ? config->hang_ms : HANG_MS;
        error = open_device(be);
        if (error != cudaSuccess) {
                int r = explain_open(be, error, config->error);

                cuda_close(&be->base);
                return r;
        }
        if (cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), be->device) == cudaSuccess)
                be->nvml = cuda_nvml_new(bus_id);
        why = cuda_weights_place(be, config->placement);
        why = why ? why : choose_activations(be, config->activations);
        if (why || atomic_load(&be->lost) != 0) {
                say(config->error, "%s", why ? why : "the device does not answer");
                cuda_close(&be->base);
                return BACKEND_E_UNSUPPORTED;
        }
        (void)snprintf(be->description, sizeof(be->description), "cuda (%s, sm_%u, %s memory%s)", be->name, be->arch,
                       placement_name(be), be->fp8 ? ", fp8 activations" : "");
        *ret = &be->base;
        return 0;
}

static const char *cuda_describe(const struct backend *base) {
        return ((const struct cuda_backend *)base)->description;
}

static void cuda_facts(const struct backend *base, struct backend_facts *ret) {
        const struct cuda_backend *be = (const struct cuda_backend *)base;
        uint64_t host, device;

        cuda_reserved(be, &host, &device);
        *ret = (struct backend_facts){ .device_bytes = be->device_bytes,
                                       .host_bytes = be->placement == CUDA_DEVICE ? host : host + device,
                                       .steps = be->runner.steps,
                                       .graph_steps = be->runner.graph_steps,
                                       .graph_nodes = be->runner.graph_nodes };
        (void)snprintf(ret->device, sizeof(ret->device), "%.48s (sm_%u)", be->name, be->arch);
        (void)snprintf(ret->placement, sizeof(ret->placement), "%s", placement_name(be));
        (void)snprintf(ret->kv_memory, sizeof(ret->kv_memory), "%s", be->kv_on_host ? "host" : "device");
}

static int cuda_health(struct backend *base) {
        struct cuda_backend *be = cuda_of(base);
        char sentence[64];
        uint64_t xid;
        int r = atomic_load(&be->lost);

        if (r != 0)
                return r;
        cuda_nvml_sample(be->nvml); /* whoever asks how we are has time to wait for it; a step has none */
        xid = cuda_nvml_poll(be->nvml);
        if (xid == 0)
                return 0;
        (void)snprintf(sentence, sizeof(sentence), "the driver reports Xid %llu", (unsigned long long)xid);
        return cuda_lose(be, -ENODEV, sentence); /* what it runs now may never end */
}

static void cuda_cap(struct backend *base, const struct backend_caps *caps, struct backend_capped *ret) {
        *ret = (struct backend_capped){ .clocks = cuda_nvml_cap_clocks(cuda_of(base)->nvml, caps->clocks, caps->undo) };
}

static void cuda_power(struct backend *base, struct backend_power *ret) {
        cuda_nvml_power(cuda_of(base)->nvml, ret);
}

static int cuda_limits(struct backend *base, double *ret_read_bytes_s, double *ret_copy_bytes_s, double *ret_ops_s) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_memory from = {}, to = {};
        size_t bytes = cuda_measure_bytes();
        double read = 0, copy = 0, ops = 0;
        int r = atomic_load(&be->lost);

        r = r ? r : cuda_memory_take(be, bytes, false, &from);
        r = r ? r : cuda_memory_take(be, bytes, false, &to);
        r = r ? r : cuda_memory_clear(be, &from);
        r = r ? r : cuda_check(be, cuda_measure_read(be->stream, from.data, from.bytes, &read), "measuring reads");
        r = r ? r : cuda_check(be, cuda_measure_copy(be->stream, to.data, from.data, from.bytes, &copy), "measuring copies");
        r = r ? r : cuda_check(be, cuda_measure_mma(be->stream, &ops), "measuring products");
        cuda_memory_give(be, &from);
        cuda_memory_give(be, &to);
        if (r != 0)
                return r;
        *ret_read_bytes_s = read;
        *ret_copy_bytes_s = copy;
        *ret_ops_s = ops;
        return 0;
}

static const struct backend_ops backend_cuda = {
        .name = "cuda",
        .device = true,
        .open = cuda_open,
        .close = cuda_close,
        .describe = cuda_describe,
        .alloc = cuda_alloc,
        .release = cuda_release,
        .upload = cuda_upload,
        .download = cuda_download,
        .bind = cuda_bind,
        .settle = cuda_settle,
        .fill = cuda_fill_weight,
        .facts = cuda_facts,
        .health = cuda_health,
        .power = cuda_power,
        .cap = cuda_cap,
        .limits = cuda_limits,
        .kv_new = cuda_kv_new,
        .kv_free = cuda_kv_free,
        .kv_copy = cuda_kv_copy,
        .kv_page_bytes = cuda_kv_page_size,
        .kv_export = cuda_kv_export,
        .kv_import = cuda_kv_import,
        .begin = cuda_record_begin,
        .end = cuda_run_end,
        .reserve = cuda_reserve,
        .embed = cuda_record_embed,
        .rmsnorm = cuda_record_rmsnorm,
        .matmul = cuda_record_matmul,
        .rope_kv = cuda_record_rope_kv,
        .attention = cuda_record_attention,
        .gate = cuda_record_gate,
        .softcap = cuda_record_softcap,
        .add = cuda_record_add,
        .slice = cuda_record_slice,
        .route = cuda_record_route,
        .experts = cuda_record_experts,
        .combine = cuda_record_combine,
        .gather = cuda_record_gather,
        .top = cuda_record_top,
};

__attribute__((visibility("default"))) const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error) {
        static struct backend_error error; /* the answer outlives the call; asked for by one thread */

        if (abi != BACKEND_ABI) {
                *ret_error = "it was built for another version of this program: install both from one build";
                return NULL;
        }
        if (!find_device(&error)) {
                *ret_error = error.text;
                return NULL;
        }
        return &backend_cuda;
}
