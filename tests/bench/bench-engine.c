/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench engine: prefill and decode speed of the engine itself, in this process: no IPC, no detours. What decoding
 * reads from memory is set against what a plain multi-threaded read loop reaches in the same run, because that is what
 * limits it.
 *
 * On a device each figure has a run before it that does not count: it takes kernels to the device, memory to its size and steps to
 * graphs. Then prefill is the median of some runs, decoding the median of a run's steps. Tried for decoding: the whole run's time,
 * which counts a graph for each room that contexts grow into, however few steps there are between them.
 */

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/log.h"
#include "bench.h"
#include "daemon/engine/host.h"
#include "daemon/image/shapes.h"
#include "daemon/loader/load.h"
#include "measure.h"

#define BATCH_MAX 256u
#define TOKENS_MAX (1u << 20)
#define PREFILL_ROUNDS 3u
#define GIB (1024.0 * 1024 * 1024)

static const char *const kv_formats[] = { [KV_F16] = "f16", [KV_F32] = "f32", [KV_Q8_0] = "q8_0" };

struct options {
        const char *model, *backend, *library, *placement, *shape, *format;
        enum kv_format kv;
        unsigned prompt, tokens, batch, rows, threads; /* rows: of a step; 0 = as an engine has it */
        int json;
        int lossless;
};

/* What is measured, whichever way it came to be. */
struct subject {
        struct host host;  /* -m */
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct backend *backend; /* --shape, in this order */
        struct tokenizer *tokenizer;
        char *token_bytes;
        uint64_t *token_offsets;
        uint8_t *token_types;
        struct lm *model;
        struct engine *engine;
};

struct figures {
        double prefill, decode;   /* tokens/s */
        double bytes_per_token;   /* read while decoding */
        double ops_per_token;     /* of prefill: a multiply-add is two */
        double bandwidth;         /* bytes/s of the read loop */
        double copy, ops;         /* of a device: bytes/s copied, operations/s of matrix products; 0 = not measured */
        double decode_all;        /* tokens/s of the whole run */
        double step_us;           /* of decoding: median */
        uint64_t steps, graph_steps, graph_nodes; /* of decoding, where the backend says */
};

static int say(const char *what, const char *text, int status) {
        (void)fprintf(stderr, "spark-bench: %s: %s\n", what, text);
        return status;
}

/* --- models without a file --------------------------------------------------------------------------------------- */

/* A vocabulary of that size: bytes, then made-up words. */
static int make_tokenizer(struct subject *s, uint32_t n) {
        static const uint64_t no_merges[1];
        struct fake_vocab bytes;
        struct tokenizer_def def;
        struct text_error error;
        size_t pos;

        fake_vocab_init(&bytes, &def);
        s->token_bytes = malloc(def.token_offsets[256] + 12ull * n);
        s->token_offsets = calloc((size_t)n + 1, sizeof(*s->token_offsets));
        s->token_types = malloc(n);
        if (!s->token_bytes || !s->token_offsets || !s->token_types)
                return -ENOMEM;
        pos = def.token_offsets[256];
        memcpy(s->token_bytes, def.token_bytes, pos);
        memcpy(s->token_offsets, def.token_offsets, 257 * sizeof(*def.token_offsets));
        memset(s->token_types, 1, n);
        for (uint32_t i = 256; i < n; i++) {
                pos += (size_t)sprintf(s->token_bytes + pos, "w%u", i);
                s->token_offsets[i + 1] = pos;
        }
        def.n_tokens = n;
        def.token_bytes = s->token_bytes;
        def.token_offsets = s->token_offsets;
        def.types = s->token_types;
        def.merge_offsets = no_merges;
        def.bos = def.eos = -1;
        def.add_bos = false;
        return tokenizer_new(&s->tokenizer, &def, &error);
}

static void ignore_request(void *userdata, struct request *r) {
}

static void ignore_token(void *userdata, struct request *r, const struct output_chunk *chunk) {
}

static void ignore_finished(void *userdata, struct request *r, const struct engine_done *done) {
        r->key = 0; /* reached its end */
}

static void report_failed(void *userdata, struct request *r, const struct failure *f) {
        (void)say("request", f->text, 1);
}

static void ignore_progress(void *userdata, struct request *r, uint64_t done, uint64_t total) {
}

static const struct engine_events events = {
        .accepted = ignore_request, .token = ignore_token, .progress = ignore_progress, .finished = ignore_finished,
        .failed = report_failed,
};

static void get_facts(const struct backend *be, struct backend_facts *ret) {
        *ret = (struct backend_facts){ .placement = "host" };
        if (be->ops->facts)
                be->ops->facts(be, ret);
}

/* Memory of its own, which says itself when it is full. */
static bool is_elsewhere(const struct backend *be) {
        struct backend_facts facts;

        get_facts(be, &facts);
        return strcmp(facts.placement, "device") == 0;
}

static int open_synthetic(struct subject *s, const struct options *o, const struct backend_config *be,
                          const struct engine_config *engine) {
        const struct fmt_info *info = fmt_info_by_name(o->format);
        struct backend_error backend_error;
        uint64_t need, kv, have = host_default_kv_bytes() * 4;
        struct model_error error = { .text = "" };
        struct failure f = { .text = "" };
        struct image_hparams hparams;
        struct model_shape shape;
        char names[256];
        bool tied;
        int r;

        if (!image_shape_find(o->shape, &hparams, &tied)) {
                (void)fprintf(stderr, "spark-bench: %s: shapes are %s\n", o->shape, image_shape_names(names, sizeof(names)));
                return 64;
        }
        if (!info)
                return say(o->format, "no such format", 64);
        if (model_read_shape(&shape, &hparams, &error) != 0)
                return say(o->shape, error.text, 1);
        r = backend_open(o->backend, be, &s->backend, &backend_error);
        if (backend_error.text[0])
                (void)say(o->backend, backend_error.text, 1);
        if (r != 0)
                return r == BACKEND_E_MISSING ? 64 : 1;
        if (s->backend->ops->fake)
                return say(o->backend, "does not compute", 64);
        kv = model_kv_bytes(&shape, engine->kv_format) * (engine->context + ENGINE_PAGE_TOKENS) * o->batch;
        need = model_synthetic_bytes(&shape, info) + kv + (1ull << 30);
        if (need > have && !is_elsewhere(s->backend)) {
                (void)fprintf(stderr, "spark-bench: %s in %s takes %.1f GiB (%.1f weights, %.1f KV cache, 1 for the rest), "
                              "%.1f GiB are available\n", o->shape, info->name, (double)need / GIB,
                              (double)model_synthetic_bytes(&shape, info) / GIB, (double)kv / GIB,
                              (double)have / GIB);
                return 1;
        }
        r = make_tokenizer(s, shape.n_vocab);
        r = r ? r : model_new_synthetic(&s->model, s->backend, &shape, info, 1, &error);
        if (r != 0)
                return say(o->shape, error.text, 1);
        r = engine_new(&s->engine, s->model, s->tokenizer, engine, &events, NULL, &f);
        return r != 0 ? say(o->shape, r > 0 ? f.text : strerror(-r), 1) : 0;
}

static int open_file(struct subject *s, const struct options *o, const struct backend_config *be,
                     const struct engine_config *engine) {
        const struct host_config config = { .backend = o->backend, .be = *be, .engine = *engine };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        int r;

        r = loader_load_path_as(o->model, o->lossless, s->fds, &s->n_fds, &error);
        if (r != 0)
                return say(o->model, r < 0 ? strerror(-r) : error.text, 65);
        r = host_open(&s->host, &config, s->fds, s->n_fds, &events, NULL, &f);
        if (r != 0)
                return say(o->model, r < 0 ? strerror(-r) : f.text, r < 0 ? 1 : 65);
        if (!s->host.engine)
                return say(o->model, "a vocabulary without weights", 65);
        return 0;
}

static void subject_close(struct subject *s) {
        s->engine = engine_free(s->engine);
        s->model = model_free(s->model);
        s->tokenizer = tokenizer_free(s->tokenizer);
        if (s->backend)
                s->backend = s->backend->ops->close(s->backend);
        free(s->token_bytes);
        free(s->token_offsets);
        free(s->token_types);
        host_close(&s->host);
        for (size_t i = 0; i < s->n_fds; i++)
                (void)fd_close(s->fds[i]);
}

/* --- measuring --------------------------------------------------------------------------------------------------- */

/* Steps until there is nothing to do any more, each with its time. 0 or negative. */
static int run_steps(struct engine *e, struct samples *steps_us) {
        int r;

        do {
                double began = measure_now_us();

                r = engine_step(e); /* 0 once there is nothing to do */
                if (r > 0 && steps_us && samples_add(steps_us, measure_now_us() - began) < 0)
                        return -ENOMEM;
        } while (r > 0);
        return r;
}

/* Seconds that a batch of requests takes, none of which finds in the prefix cache what an earlier one computed; negative where
 * it fails. steps_us: where each step's time goes, or NULL. */
static double run_batch(struct engine *e, uint32_t n_vocab, unsigned batch, unsigned prompt, unsigned tokens,
                        struct samples *steps_us) {
        struct request *r = calloc(batch, sizeof(*r));
        double began, seconds;
        struct failure f;
        int c = r ? 0 : -ENOMEM;

        engine_forget_all(e);
        began = measure_now_us();
        for (unsigned i = 0; c == 0 && i < batch; i++) {
                c = request_set_sampling(&r[i], NULL, n_vocab, i, &f);
                r[i].tokens = calloc(prompt, sizeof(int32_t));
                if (c != 0 || !r[i].tokens) {
                        c = -ENOMEM;
                        break;
                }
                for (unsigned k = 0; k < prompt; k++)
                        r[i].tokens[k] = (int32_t)((k * 7919u + i * 104729u + 11) % n_vocab);
                r[i].key = i + 1;
                r[i].weight = 1;
                r[i].n_tokens = prompt;
                r[i].max_tokens = tokens;
                r[i].ignore_eos = true;
                r[i].sampling.temperature = 0;
                atomic_store(&r[i].granted, UINT32_MAX);
                c = engine_submit(e, &r[i]);
        }
        c = c ? c : run_steps(e, steps_us);
        seconds = (measure_now_us() - began) / 1e6;
        for (unsigned i = 0; r && i < batch; i++) {
                if (r[i].key != 0)
                        seconds = -1;
                request_deinit(&r[i]);
        }
        free(r);
        return c < 0 ? -1 : seconds;
}

/* Operations that a row takes in matrix products, but for the last one, which only one row of a prompt goes through. */
static double ops_of_row(const struct model_shape *s) {
        double q = (double)s->n_head * s->head_dim, kv = (double)s->n_head_kv * s->head_dim, embd = s->n_embd;
        double ff = s->n_expert > 0 ? (double)s->n_expert_used * s->n_ff_expert : s->n_ff, macs = 2 * embd * (q + kv);

        return 2 * s->n_layer * (macs + 3 * embd * ff + embd * s->n_expert);
}

static void measure_limits(struct backend *be, unsigned threads, struct figures *f) {
        if (!be->ops->limits)
                f->bandwidth = measure_bandwidth(threads);
        else if (be->ops->limits(be, &f->bandwidth, &f->copy, &f->ops) != 0)
                f->bandwidth = f->copy = f->ops = 0;
}

static int measure_prefill(struct engine *e, const struct lm *m, const struct options *o, struct figures *f) {
        unsigned rounds = m->backend->ops->device ? PREFILL_ROUNDS : 1;
        struct samples all = { 0 };
        double seconds = 0;

        if (m->backend->ops->device)
                seconds = run_batch(e, m->shape.n_vocab, o->batch, o->prompt, 1, NULL);
        for (unsigned i = 0; seconds >= 0 && i < rounds; i++) {
                seconds = run_batch(e, m->shape.n_vocab, o->batch, o->prompt, 1, NULL);
                if (seconds >= 0 && samples_add(&all, seconds) < 0)
                        seconds = -1;
        }
        f->prefill = (double)o->batch * o->prompt / samples_quantile(&all, 0.5);
        samples_deinit(&all);
        return seconds < 0 ? -EIO : 0;
}

static int measure_decode(struct engine *e, const struct lm *m, const struct options *o, struct figures *f) {
        struct backend_facts before, after;
        struct samples steps_us = { 0 };
        double seconds = 0;

        if (m->backend->ops->device)
                seconds = run_batch(e, m->shape.n_vocab, o->batch, 1, o->tokens, NULL);
        if (seconds < 0)
                return -EIO;
        get_facts(m->backend, &before);
        seconds = run_batch(e, m->shape.n_vocab, o->batch, 1, o->tokens, &steps_us);
        get_facts(m->backend, &after);
        f->decode = f->decode_all = (double)o->batch * o->tokens / seconds;
        f->step_us = samples_quantile(&steps_us, 0.5);
        samples_deinit(&steps_us);
        if (m->backend->ops->device && f->step_us > 0)
                f->decode = o->batch / f->step_us * 1e6;
        f->steps = after.steps - before.steps;
        f->graph_steps = after.graph_steps - before.graph_steps;
        f->graph_nodes = after.graph_nodes;
        return seconds < 0 ? -EIO : 0;
}

static int measure(struct engine *e, const struct lm *m, const struct options *o, struct figures *f) {
        int r;

        if (run_batch(e, m->shape.n_vocab, 1, MIN(o->prompt, 32u), 2, NULL) < 0) /* touches everything once */
                return -EIO;
        r = measure_prefill(e, m, o, f);
        r = r ? r : measure_decode(e, m, o, f);
        if (r != 0)
                return r;
        f->ops_per_token = ops_of_row(&m->shape);
        f->bytes_per_token = (double)m->weight_bytes / o->batch +
                             (double)model_kv_bytes(&m->shape, o->kv) * o->tokens / 2;
        return 0;
}

static void print(const struct options *o, const struct lm *m, const char *backend, unsigned threads,
                  const struct figures *f) {
        double share = f->bandwidth > 0 ? f->decode * f->bytes_per_token / f->bandwidth : 0;
        double matrix = f->ops > 0 ? f->prefill * f->ops_per_token / f->ops : 0;

        if (o->json) {
                (void)printf("{\"model\":\"%s\",\"format\":\"%s\",\"kv_format\":\"%s\",\"parameters\":%llu,"
                             "\"backend\":\"%s\",\"threads\":%u,\"batch\":%u,\"prompt\":%u,\"tokens\":%u,"
                             "\"prefill_tokens_per_second\":%.2f,\"decode_tokens_per_second\":%.2f,"
                             "\"bytes_per_token\":%.0f,\"read_bandwidth\":%.0f,\"bandwidth_share\":%.4f,"
                             "\"copy_bandwidth\":%.0f,\"copy_share\":%.4f,\"matrix_ops\":%.4g,\"prefill_share\":%.4f,"
                             "\"decode_run_tokens_per_second\":%.2f,\"decode_step_us\":%.1f,\"decode_steps\":%llu,"
                             "\"decode_graph_steps\":%llu,\"graph_nodes\":%llu}\n",
                             o->model ? o->model : o->shape, m->format, kv_formats[o->kv],
                             (unsigned long long)m->n_params, backend, threads, o->batch, o->prompt, o->tokens,
                             f->prefill, f->decode, f->bytes_per_token, f->bandwidth, share, f->copy,
                             f->copy > 0 ? f->decode * f->bytes_per_token / f->copy : 0, f->ops, matrix, f->decode_all, f->step_us,
                             (unsigned long long)f->steps, (unsigned long long)f->graph_steps, (unsigned long long)f->graph_nodes);
                return;
        }
        (void)printf("%s, %s, %.2f billion parameters, KV %s, %s\n", o->model ? o->model : o->shape, m->format,
                     (double)m->n_params / 1e9, kv_formats[o->kv], backend);
        (void)printf("  prefill  %10.2f tokens/s   (%u x %u)\n", f->prefill, o->batch, o->prompt);
        (void)printf("  decode   %10.2f tokens/s   (%u x %u)\n", f->decode, o->batch, o->tokens);
        if (f->steps > 0)
                (void)printf("  steps    %10.1f us: %llu of %llu were one graph of %llu nodes; the whole run %.2f tokens/s\n", f->step_us,
                             (unsigned long long)f->graph_steps, (unsigned long long)f->steps, (unsigned long long)f->graph_nodes,
                             f->decode_all);
        if (f->ops > 0)
                (void)printf("  reads    %10.2f MiB per token: %.1f %% of the %.1f GB/s that the device reads, %.1f %% of the\n"
                             "           %.1f GB/s that it copies; prefill takes %.1f %% of its %.1f TFLOP/s\n",
                             f->bytes_per_token / 1024 / 1024, share * 100, f->bandwidth / 1e9,
                             f->copy > 0 ? f->decode * f->bytes_per_token / f->copy * 100 : 0, f->copy / 1e9, matrix * 100,
                             f->ops / 1e12);
        else
                (void)printf("  reads    %10.2f MiB per token: %.1f %% of the %.1f GB/s that %u threads read here\n",
                             f->bytes_per_token / 1024 / 1024, share * 100, f->bandwidth / 1e9, threads);
}

static int run(const struct options *o) {
        const struct backend_config be = { .threads = o->threads, .isa = "auto", .library = o->library,
                                           .placement = o->placement, .hang_ms = BENCH_HANG_MS, .log_name = "spark-bench",
                                           .log_level = LOG_LEVEL_WARNING };
        struct engine_config engine = { .max_sequences = o->batch, .max_rows = o->rows, .kv_format = o->kv };
        struct figures f = { 0 };
        struct subject s = { .host = HOST_NULL };
        cpu_set_t cpus;
        unsigned threads = o->threads;
        int r;

        if (threads == 0)
                threads = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
        engine.context = (uint32_t)MAX(o->prompt, o->tokens) + 64;
        r = o->shape ? open_synthetic(&s, o, &be, &engine) : open_file(&s, o, &be, &engine);
        if (r == 0) {
                const struct lm *m = o->shape ? s.model : s.host.model;
                struct backend *backend = o->shape ? s.backend : s.host.backend;

                if (measure(o->shape ? s.engine : s.host.engine, m, o, &f) < 0) {
                        r = say("engine", "a request did not come to its end (is -p or -n larger than the context?)", 1);
                } else {
                        measure_limits(backend, threads, &f);
                        print(o, m, backend->ops->describe(backend), threads, &f);
                }
        }
        subject_close(&s);
        return r;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench engine -m FILE|--shape SHAPE [--format F] [-p PROMPT] [-n TOKENS] [-b BATCH]\n"
                         "                          [-t THREADS] [-r ROWS] [--kv KV] [--backend B] [--library FILE]\n"
                         "                          [--placement P] [--lossless] [--json]\n\n"
                         "  -m FILE       a model; or\n"
                         "  --shape S     random weights: llama-1b, llama-8b, llama-70b, qwen3-32b, gpt-oss-20b, gpt-oss-120b\n"
                         "  --format F    of random weights: q4_0 (default), q8_0, f16, q4_k ...\n"
                         "  -p N          prompt tokens (512)\n"
                         "  -n N          generated tokens (128)\n"
                         "  -b N          sequences at once (1)\n"
                         "  -t N          threads (one per core)\n"
                         "  -r N          rows of a step (512)\n"
                         "  --backend B   auto (default), cpu, cuda\n"
                         "  --library F   the CUDA backend's shared object\n"
                         "  --placement P where weights are: auto, unified, device\n"
                         "  --kv KV       the KV cache's format: f16 (default), f32, q8_0\n"
                         "  --lossless    code a model's weights in BF16\n");
        return status;
}

static bool parse_count(const char *text, unsigned max, unsigned *ret) {
        char *end;
        unsigned long v = strtoul(text, &end, 10);

        if (*end || end == text || v < 1 || v > max)
                return false;
        *ret = (unsigned)v;
        return true;
}

static bool parse_kv(const char *text, enum kv_format *ret) {
        for (size_t i = 0; i < ARRAY_SIZE(kv_formats); i++)
                if (strcmp(text, kv_formats[i]) == 0) {
                        *ret = (enum kv_format)i;
                        return true;
                }
        return false;
}

int bench_engine_main(int argc, char **argv) {
        static const struct option long_options[] = {
                { "shape", required_argument, NULL, 'S' }, { "format", required_argument, NULL, 'F' },
                { "library", required_argument, NULL, 'L' }, { "placement", required_argument, NULL, 'P' },
                { "backend", required_argument, NULL, 'B' }, { "json", no_argument, NULL, 'j' },
                { "kv", required_argument, NULL, 'K' },       { "help", no_argument, NULL, 'h' },
                { "lossless", no_argument, NULL, 'l' },       { 0 },
        };
        struct options o = { .backend = "auto", .format = "q4_0", .prompt = 512, .tokens = 128, .batch = 1 };
        bool ok = true;
        int c;

        while (ok && (c = getopt_long(argc, argv, "m:p:n:b:r:t:h", long_options, NULL)) >= 0) {
                switch (c) {
                case 'm':
                        o.model = optarg;
                        break;
                case 'S':
                        o.shape = optarg;
                        break;
                case 'F':
                        o.format = optarg;
                        break;
                case 'B':
                        o.backend = optarg;
                        break;
                case 'L':
                        o.library = optarg;
                        break;
                case 'P':
                        o.placement = optarg;
                        break;
                case 'r':
                        ok = parse_count(optarg, 65536, &o.rows);
                        break;
                case 'K':
                        ok = parse_kv(optarg, &o.kv);
                        break;
                case 'p':
                        ok = parse_count(optarg, TOKENS_MAX, &o.prompt);
                        break;
                case 'n':
                        ok = parse_count(optarg, TOKENS_MAX, &o.tokens);
                        break;
                case 'b':
                        ok = parse_count(optarg, BATCH_MAX, &o.batch);
                        break;
                case 't':
                        ok = parse_count(optarg, 1024, &o.threads);
                        break;
                case 'j':
                        o.json = 1;
                        break;
                case 'l':
                        o.lossless = 1;
                        break;
                case 'h':
                        return usage(stdout, 0);
                default:
                        ok = false;
                        break;
                }
        }
        if (!ok || !o.model == !o.shape || (o.shape && o.lossless) || optind != argc)
                return usage(stderr, 64);
        return run(&o);
}
