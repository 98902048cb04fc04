/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Steps of random operations on a few buffers: whatever the CUDA backend joins or leaves out, what no operation has read since it
 * was written is as if each had been done by itself, and as on the CPU. And what is refused.
 */

#include "cuda-backend-fixture.h"

#define ROWS 11u
#define WIDTH 96u
#define SLOTS 2u /* experts of a row */
#define EXPERTS 5u
#define BUFFERS 6u
#define FLOATS (ROWS * SLOTS * WIDTH)
#define SCRIPT 24u

/* One call of an operation, or several that stand together in models. */
enum verb { NORM, HEADS, MATMUL, GATE, ADD, SLICE, SOFTCAP, GATHER, GATED, BLOCK, SPLIT, MIXTURE, VERBS };

struct line {
        enum verb verb;
        unsigned a, b, c; /* buffers */
        uint32_t dim, n_in, n_out;
        bool flag, strided;
        enum fmt fmt, fmt2;
};

struct machine {
        struct backend *be;
        float *buffer[BUFFERS];
        uint32_t *experts;
        float *weights, *norm;
        struct subject s; /* owns matrices */
        struct weight matrix[2][3][3]; /* F32 and the other format, n_out and n_in of 32, 64, 96 */
        struct weight mixture[3];      /* gate, up, down */
};

static float host[3][BUFFERS][FLOATS];

static uint32_t draw(uint64_t *random, uint32_t n) {
        return (uint32_t)((next_random(random) * 0.5f + 0.5f) * 0.99999f * (float)n);
}

static struct weight mixture_matrix(struct machine *m, uint32_t n_out, uint32_t n_in) {
        struct weight w = make_matrix(&m->s, fmt_info(FMT_F32), n_out * EXPERTS, n_in); /* whole panels each */

        w.n_out = n_out;
        w.n_experts = EXPERTS;
        return w;
}

static void machine_open(struct machine *m, struct backend *be, enum fmt fmt) {
        assert_non_null(be);
        *m = (struct machine){ .be = be, .s = { .be = be, .random = 3 } };
        for (unsigned i = 0; i < BUFFERS; i++)
                m->buffer[i] = make_vector(&m->s, FLOATS, 0, 1);
        m->norm = make_vector(&m->s, WIDTH, 1, 0.3f);
        m->experts = (uint32_t *)(void *)make_vector(&m->s, ROWS * SLOTS, 0, 1);
        m->weights = make_vector(&m->s, ROWS * SLOTS, 0, 1);
        for (unsigned o = 0; o < 3; o++)
                for (unsigned i = 0; i < 3; i++) {
                        m->matrix[0][o][i] = make_matrix(&m->s, fmt_info(FMT_F32), 32 + 32 * o, 32 + 32 * i);
                        m->matrix[1][o][i] = make_matrix(&m->s, fmt_info(fmt), 32 + 32 * o, 32 + 32 * i);
                }
        m->mixture[0] = mixture_matrix(m, 32, 64);
        m->mixture[1] = mixture_matrix(m, 32, 64);
        m->mixture[2] = mixture_matrix(m, 64, 32);
}

static void machine_close(struct machine *m) {
        for (unsigned i = 0; i < BUFFERS; i++)
                m->be->ops->release(m->be, m->buffer[i]);
        m->be->ops->release(m->be, m->norm);
        m->be->ops->release(m->be, m->experts);
        m->be->ops->release(m->be, m->weights);
        for (unsigned i = 0; i < m->s.n_matrices; i++)
                free(m->s.matrices[i]);
        m->be->ops->close(m->be);
}

static const struct weight *matrix(const struct machine *m, enum fmt fmt, uint32_t n_out, uint32_t n_in) {
        return &m->matrix[fmt != FMT_F32][n_out / 32 - 1][n_in / 32 - 1];
}

static int do_mixture(struct machine *m, const struct line *l, uint32_t rows) {
        const struct backend_ops *o = m->be->ops;
        const struct routing routing = { .n_experts = EXPERTS, .n_used = SLOTS, .gating = GATING_SOFTMAX, .normalize = true,
                                         .scale = 1 };
        const struct chosen chosen = { .experts = m->experts, .weights = m->weights, .n_rows = rows, .n_used = SLOTS };
        const struct matmul wide[] = { { .w = m->mixture, .out = m->buffer[l->b] },
                                       { .w = m->mixture + 1, .out = m->buffer[l->c] } };
        const struct matmul down = { .w = m->mixture + 2, .out = m->buffer[l->c] };
        int r = o->route(m->be, &routing, m->buffer[l->a], rows, m->experts, m->weights);

        r = r ? r : o->experts(m->be, wide, 2, &chosen, m->buffer[l->a], true);
        r = r ? r : o->gate(m->be, ACT_SILU, m->buffer[l->b], m->buffer[l->c], rows * SLOTS, 32, m->buffer[l->b]);
        r = r ? r : o->experts(m->be, &down, 1, &chosen, m->buffer[l->b], false);
        return r ? r : o->combine(m->be, &chosen, m->buffer[l->c], 64, l->flag, m->buffer[l->a]);
}

static int do_line(struct machine *m, const struct line *l, uint32_t rows, const uint32_t *gathered, uint32_t n_gathered) {
        const struct backend_ops *o = m->be->ops;
        float *a = m->buffer[l->a], *b = m->buffer[l->b], *c = m->buffer[l->c];
        struct matmul p[] = { { .w = matrix(m, l->fmt, l->n_out, l->n_in), .out = b, .accumulate = l->flag, .bias = m->norm,
                                .out_stride = l->strided ? WIDTH : l->n_out },
                              { .w = matrix(m, l->fmt2, l->n_out, l->n_in), .out = c, .out_stride = l->n_out } };
        int r = 0;

        switch (l->verb) {
        case NORM:
                return o->rmsnorm(m->be, a, m->norm, 1e-5f, rows, l->dim, l->flag ? a : b);
        case HEADS:
                return o->rmsnorm(m->be, a, m->norm, 1e-5f, rows * 2, 32, a);
        case MATMUL:
                return o->matmul(m->be, p, 2, a, l->strided ? WIDTH : l->n_in, rows);
        case GATE:
                return o->gate(m->be, ACT_SILU, a, b, rows, l->dim, l->flag ? a : c);
        case ADD:
                return o->add(m->be, a, 0.5f, rows, l->dim, b);
        case SLICE:
                return o->slice(m->be, a, WIDTH, l->flag ? 16 : 24, rows, l->dim / 2, b);
        case SOFTCAP:
                return o->softcap(m->be, 0.7f, l->flag ? 3.0f : 0.0f, rows, l->dim, a);
        case GATHER:
                return o->gather(m->be, a, gathered, n_gathered, l->dim, b);
        case GATED:
                p[0].accumulate = false;
                p[0].out_stride = l->n_out;
                r = o->matmul(m->be, p, 2, a, l->n_in, rows);
                return r ? r : o->gate(m->be, ACT_GELU_TANH, b, c, rows, l->n_out, l->strided ? c : b);
        case BLOCK:
                r = o->rmsnorm(m->be, a, m->norm, 1e-5f, rows, l->dim, a);
                r = r ? r : o->add(m->be, a, 0.5f, rows, l->dim, b);
                return r ? r : o->rmsnorm(m->be, b, m->norm, l->strided ? 1e-5f : 1e-3f, rows, l->dim, l->flag ? c : b);
        case SPLIT:
                p[0].w = matrix(m, l->fmt, WIDTH, l->n_in);
                p[0].accumulate = false;
                p[0].out_stride = WIDTH;
                r = o->matmul(m->be, p, 1, a, l->n_in, rows);
                r = r ? r : o->slice(m->be, b, WIDTH, 64, rows, 32, c);
                return r ? r : o->slice(m->be, b, WIDTH, 0, rows, l->flag ? 64 : 32, a);
        case MIXTURE:
                return do_mixture(m, l, rows);
        case VERBS:
                break;
        }
        return -1;
}

/* What lines read and write last, buffer by buffer: floats of each row that must be right at the end. */
static void note_line(const struct line *l, uint32_t live[BUFFERS]) {
        const uint32_t n_out = l->strided ? 0 : l->n_out; /* with gaps: not looked at */

        switch (l->verb) {
        case NORM:
                live[l->a] = 0;
                live[l->flag ? l->a : l->b] = l->dim;
                break;
        case HEADS:
                live[l->a] = 64;
                break;
        case MATMUL:
                live[l->a] = 0;
                live[l->b] = n_out;
                live[l->c] = l->n_out;
                break;
        case GATE:
                live[l->a] = live[l->b] = 0;
                live[l->flag ? l->a : l->c] = l->dim;
                break;
        case ADD:
        case GATHER:
                live[l->a] = 0;
                live[l->b] = l->dim;
                break;
        case SLICE:
                live[l->a] = 0;
                live[l->b] = l->dim / 2;
                break;
        case SOFTCAP:
                live[l->a] = l->dim;
                break;
        case GATED:
                live[l->a] = live[l->b] = live[l->c] = 0;
                live[l->strided ? l->c : l->b] = l->n_out;
                break;
        case BLOCK:
                live[l->a] = live[l->b] = 0;
                live[l->flag ? l->c : l->b] = l->dim;
                break;
        case SPLIT:
                live[l->b] = 0;
                live[l->c] = 32;
                live[l->a] = l->flag ? 64 : 32;
                break;
        case MIXTURE:
                live[l->b] = live[l->c] = 0;
                live[l->a] = 64;
                break;
        case VERBS:
                break;
        }
}

/* Three buffers that differ; a gather at most once. */
static struct line make_line(uint64_t *random, enum fmt fmt, bool *gathered) {
        struct line l = { .verb = draw(random, VERBS), .a = draw(random, BUFFERS), .flag = draw(random, 2),
                          .strided = draw(random, 3) == 0 };

        if (l.verb == GATHER && *gathered)
                l.verb = NORM;
        *gathered |= l.verb == GATHER;
        l.b = (l.a + 1 + draw(random, BUFFERS - 1)) % BUFFERS;
        do
                l.c = draw(random, BUFFERS);
        while (l.c == l.a || l.c == l.b);
        l.dim = 32 + 32 * draw(random, 3);
        l.n_in = 32 + 32 * draw(random, 3);
        l.n_out = 32 + 32 * draw(random, 3);
        l.fmt = draw(random, 2) ? fmt : FMT_F32;
        l.fmt2 = draw(random, 2) ? l.fmt : FMT_F32;
        return l;
}

struct script {
        struct line lines[SCRIPT];
        uint32_t n, n_rows, n_gathered;
};

static void run_script(struct machine *m, const struct script *s, float (*out)[FLOATS]) {
        static const uint32_t rows_of[ROWS] = { 3, 0, 2, 2, 1, 0, 3, 1, 0, 2, 1 };
        const int32_t token[ROWS] = { 0 };
        const uint32_t pos[ROWS] = { 0 }, seq[ROWS] = { 0 };
        const struct batch b = { .n_rows = s->n_rows, .token = token, .pos = pos, .seq = seq, .n_seqs = 1 };
        uint32_t rows = s->n_rows, gather[ROWS];
        uint64_t random = s->n;

        for (uint32_t i = 0; i < ROWS; i++)
                gather[i] = rows_of[i] % s->n_rows;
        for (unsigned i = 0; i < BUFFERS; i++) {
                for (unsigned k = 0; k < FLOATS; k++)
                        out[i][k] = next_random(&random);
                assert_int_equal(m->be->ops->upload(m->be, m->buffer[i], out[i], sizeof(out[i])), 0);
        }
        assert_int_equal(m->be->ops->begin(m->be, &b, NULL), 0);
        for (uint32_t i = 0; i < s->n; i++) {
                assert_int_equal(do_line(m, s->lines + i, rows, gather, s->n_gathered), 0);
                if (s->lines[i].verb == GATHER)
                        rows = s->n_gathered;
        }
        assert_int_equal(m->be->ops->end(m->be), 0);
        for (unsigned i = 0; i < BUFFERS; i++)
                assert_int_equal(m->be->ops->download(m->be, out[i], m->buffer[i], sizeof(out[i])), 0);
}

static void check_script(const struct script *s, unsigned number, bool exact) {
        uint32_t live[BUFFERS] = { 0 }, rows = s->n_rows;

        for (uint32_t i = 0; i < s->n; i++) {
                if (s->lines[i].verb == GATHER) { /* what was there before has other rows */
                        memset(live, 0, sizeof(live));
                        rows = s->n_gathered;
                }
                note_line(s->lines + i, live);
        }
        for (unsigned i = 0; i < BUFFERS; i++) {
                size_t n = (size_t)rows * live[i];
                double joined = distance(host[1][i], host[0][i], n), cpu = exact ? distance(host[0][i], host[2][i], n) : 0;

                if (joined < 1e-7 && cpu < 1e-7)
                        continue;
                for (uint32_t k = 0; k < s->n; k++)
                        print_error("verb %d: %u %u %u dim %u in %u out %u flag %d strided %d\n", (int)s->lines[k].verb,
                                    s->lines[k].a, s->lines[k].b, s->lines[k].c, s->lines[k].dim, s->lines[k].n_in,
                                    s->lines[k].n_out, s->lines[k].flag, s->lines[k].strided);
                fail_msg("step %u, buffer %u of %u rows: %g from steps that are not joined, %g from the CPU", number, i, rows,
                         joined, cpu);
        }
}

static void check_steps(enum fmt fmt, uint64_t random, unsigned n) {
        struct backend_error error = { .text = "" };
        struct machine plain, joined, cpu;

        machine_open(&plain, open_cuda("device", 0, &error), fmt);
        cuda_of(plain.be)->no_fusion = true;
        machine_open(&joined, open_cuda("device", 0, &error), fmt);
        machine_open(&cpu, open_cpu(), fmt);
        for (unsigned i = 0; i < n; i++) {
                struct script s = { .n = 1 + draw(&random, SCRIPT), .n_rows = 1 + draw(&random, ROWS) };
                bool gathered = false;

                s.n_gathered = 1 + draw(&random, s.n_rows);
                for (uint32_t k = 0; k < s.n; k++)
                        s.lines[k] = make_line(&random, fmt, &gathered);
                run_script(&plain, &s, host[0]);
                run_script(&joined, &s, host[1]);
                if (fmt == FMT_F32)
                        run_script(&cpu, &s, host[2]);
                check_script(&s, i, fmt == FMT_F32);
        }
        machine_close(&plain);
        machine_close(&joined);
        machine_close(&cpu);
}

static void test_steps(void **unused) {
        check_steps(FMT_F32, 1, 150);
        check_steps(FMT_BF16, 2, 100);
        check_steps(FMT_Q4_1, 3, 100);
}

static void test_refused(void **unused) {
        struct backend_error error = { .text = "" };
        struct machine m;
        const struct backend_ops *o;
        const int32_t token[2] = { 0, 40 };
        const uint32_t pos[2] = { 0, 1 }, seq[2] = { 0, 0 }, rows[2] = { 0, 2 };
        const struct batch b = { .n_rows = 2, .token = token, .pos = pos, .seq = seq, .n_seqs = 1 };
        const struct kv_config odd = { .n_layers = 1, .n_kv_heads = 1, .head_dim = 12, .n_pages = 1, .page_tokens = 16 };
        struct chosen chosen = { .n_rows = 2, .n_used = SLOTS };
        struct kv_cache *kv = NULL;
        struct matmul p;

        machine_open(&m, open_cuda("auto", 0, &error), FMT_BF16);
        o = m.be->ops;
        p = (struct matmul){ .w = matrix(&m, FMT_F32, 32, 32), .out = m.buffer[1], .out_stride = 32 };
        /* between steps */
        assert_int_equal(o->rmsnorm(m.be, m.buffer[0], m.norm, 1e-5f, 1, 32, m.buffer[0]), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->matmul(m.be, &p, 1, m.buffer[0], 32, 2), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->end(m.be), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->kv_new(m.be, &odd, &kv), BACKEND_E_UNSUPPORTED);
        /* in one */
        assert_int_equal(o->begin(m.be, &b, NULL), 0);
        assert_int_equal(o->upload(m.be, m.buffer[0], host[0], 16), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->download(m.be, host[0], m.buffer[0], 16), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->embed(m.be, matrix(&m, FMT_F32, 32, 32), &b, 1, m.buffer[0]), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->matmul(m.be, &p, 1, m.buffer[0], 31, 2), BACKEND_E_UNSUPPORTED);
        p.out_stride = 31;
        assert_int_equal(o->matmul(m.be, &p, 1, m.buffer[0], 32, 2), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->slice(m.be, m.buffer[0], 64, 40, 2, 32, m.buffer[1]), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->gate(m.be, ACTIVATIONS, m.buffer[0], m.buffer[1], 2, 32, m.buffer[1]), BACKEND_E_UNSUPPORTED);
        chosen.experts = m.experts; /* that no route() of this step has written */
        chosen.weights = m.weights;
        p = (struct matmul){ .w = m.mixture, .out = m.buffer[1] };
        assert_int_equal(o->experts(m.be, &p, 1, &chosen, m.buffer[0], true), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->gather(m.be, m.buffer[0], rows, 2, 32, m.buffer[1]), BACKEND_E_UNSUPPORTED);
        assert_int_equal(o->gather(m.be, m.buffer[0], seq, 2, 32, m.buffer[1]), 0);
        assert_int_equal(o->gather(m.be, m.buffer[0], seq, 2, 32, m.buffer[1]), BACKEND_E_UNSUPPORTED);
        assert_int_equal(cuda_of(m.be)->recorder.list.n, 1);
        assert_int_equal(o->end(m.be), 0);
        machine_close(&m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_steps),
                cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
