/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The yardstick: cuBLASLt's bfloat16 products (sums in single precision) in the shapes and numbers of rows of spark-bench device,
 * as JSON. Weights [n_out][n_in], rows of x [n_in], as there. For each shape the first algorithm that the library's heuristic names;
 * a round goes through more matrices than the caches hold, the best of eight rounds counts.
 */

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUND_BYTES (256ull << 20)
#define ROUNDS 8
#define ROWS_MAX 2048u
#define WORKSPACE (32ull << 20)

static const struct matrix {
        const char *name;
        uint64_t n_out, n_in;
} matrices[] = {
        { "8b attn_q", 4096, 4096 },    { "8b ffn_up", 14336, 4096 },   { "8b ffn_down", 4096, 14336 },
        { "70b attn_q", 8192, 8192 },   { "70b ffn_up", 28672, 8192 },  { "70b ffn_down", 8192, 28672 },
};

static const uint64_t row_counts[] = { 1, 8, 64, ROWS_MAX };

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

struct subject {
        cublasLtHandle_t lt;
        cublasLtMatmulDesc_t product;
        cudaEvent_t began, done;
        uint8_t *w, *x, *out, *workspace;
};

static void check_cuda(cudaError_t error, const char *what) {
        if (error != cudaSuccess) {
                (void)fprintf(stderr, "cublas: %s: %s\n", what, cudaGetErrorString(error));
                exit(1);
        }
}

static void check(cublasStatus_t status, const char *what) {
        if (status != CUBLAS_STATUS_SUCCESS) {
                (void)fprintf(stderr, "cublas: %s: %s\n", what, cublasLtGetStatusString(status));
                exit(1);
        }
}

static void open_subject(struct subject *s) {
        const cublasOperation_t transposed = CUBLAS_OP_T;

        check_cuda(cudaMalloc((void **)&s->w, ROUND_BYTES + (512ull << 20)), "memory for weights");
        check_cuda(cudaMalloc((void **)&s->x, ROWS_MAX * 28672 * 2), "memory for rows");
        check_cuda(cudaMalloc((void **)&s->out, ROWS_MAX * 28672 * 4), "memory for results");
        check_cuda(cudaMalloc((void **)&s->workspace, WORKSPACE), "work space");
        /* Numbers that are neither zero nor large: 0x3c3c is about 0.0115. */
        check_cuda(cudaMemset(s->w, 0x3c, ROUND_BYTES + (512ull << 20)), "weights");
        check_cuda(cudaMemset(s->x, 0x3c, ROWS_MAX * 28672 * 2), "rows");
        check_cuda(cudaEventCreate(&s->began), "an event");
        check_cuda(cudaEventCreate(&s->done), "an event");
        check(cublasLtCreate(&s->lt), "opening");
        check(cublasLtMatmulDescCreate(&s->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
        check(cublasLtMatmulDescSetAttribute(s->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)), "a product");
}

static void find_algorithm(const struct subject *s, const cublasLtMatrixLayout_t of[3], cublasLtMatmulHeuristicResult_t *ret) {
        const size_t workspace = WORKSPACE;
        cublasLtMatmulPreference_t preference;
        int n = 0;

        check(cublasLtMatmulPreferenceCreate(&preference), "a preference");
        check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)),
              "a preference");
        check(cublasLtMatmulAlgoGetHeuristic(s->lt, s->product, of[0], of[1], of[2], of[2], preference, 1, ret, &n), "an algorithm");
        if (n == 0) {
                (void)fprintf(stderr, "cublas: no algorithm for a product\n");
                exit(1);
        }
        check(cublasLtMatmulPreferenceDestroy(preference), "a preference");
}

/* Seconds of one product. */
static double measure(const struct subject *s, const struct matrix *m, uint64_t rows) {
        uint64_t bytes = m->n_out * m->n_in * 2, copies = ROUND_BYTES / bytes + 1;
        const float one = 1, zero = 0;
        cublasLtMatmulHeuristicResult_t found;
        cublasLtMatrixLayout_t of[3];
        float best = 1e9f;

        check(cublasLtMatrixLayoutCreate(of, CUDA_R_16BF, m->n_in, m->n_out, (int64_t)m->n_in), "a layout");
        check(cublasLtMatrixLayoutCreate(of + 1, CUDA_R_16BF, m->n_in, rows, (int64_t)m->n_in), "a layout");
        check(cublasLtMatrixLayoutCreate(of + 2, CUDA_R_32F, m->n_out, rows, (int64_t)m->n_out), "a layout");
        find_algorithm(s, of, &found);
        for (int round = 0; round < ROUNDS; round++) {
                float ms;

                check_cuda(cudaEventRecord(s->began, 0), "an event");
                for (uint64_t i = 0; i < copies; i++)
                        check(cublasLtMatmul(s->lt, s->product, &one, s->w + i * bytes, of[0], s->x, of[1], &zero, s->out, of[2], s->out, of[2],
                                             &found.algo, s->workspace, WORKSPACE, 0),
                              "a product");
                check_cuda(cudaEventRecord(s->done, 0), "an event");
                check_cuda(cudaEventSynchronize(s->done), "products");
                check_cuda(cudaEventElapsedTime(&ms, s->began, s->done), "time");
                best = ms < best ? ms : best;
        }
        for (int i = 0; i < 3; i++)
                check(cublasLtMatrixLayoutDestroy(of[i]), "a layout");
        return best / 1e3 / (double)copies;
}

int main(void) {
        struct subject s = { 0 };
        struct cudaDeviceProp device;
        const char *separator = "";

        check_cuda(cudaGetDeviceProperties(&device, 0), "the device");
        open_subject(&s);
        (void)printf("{\"device\": \"%s\", \"cublaslt\": %zu, \"products\": [", device.name, cublasLtGetVersion());
        for (const struct matrix *m = matrices; m < matrices + COUNT(matrices); m++)
                for (size_t i = 0; i < COUNT(row_counts); i++) {
                        double seconds = measure(&s, m, row_counts[i]);
                        double weights = (double)m->n_out * (double)m->n_in;

                        (void)printf("%s\n  {\"matrix\": \"%s\", \"rows\": %llu, \"us\": %.3f, \"bytes_per_second\": %.0f, \"ops_per_second\": %.0f}",
                                     separator, m->name, (unsigned long long)row_counts[i], seconds * 1e6, weights * 2 / seconds,
                                     weights * 2 * (double)row_counts[i] / seconds);
                        separator = ",";
                }
        (void)printf("]}\n");
        (void)cublasLtMatmulDescDestroy(s.product);
        (void)cublasLtDestroy(s.lt);
        return 0;
}
