/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/macro.h"
#include "kernels/format.h"

#include "copy.h"

#define CHUNK_BYTES (1u << 20)  /* of a matrix, unless one panel is more */
#define POOL_BYTES (64u << 20)
#define SLOTS_MIN 3u

static uint64_t align_down(uint64_t v) {
        return v & ~(uint64_t)(SOURCE_ALIGN - 1);
}

static uint64_t align_up(uint64_t v) {
        return align_down(v + SOURCE_ALIGN - 1);
}

static uint64_t row_bytes(const struct copy_piece *p) {
        return p->size / p->n_rows;
}

/* Describes the chunk that starts at this row: whole panels (or units, of columns), and it ends with its matrix. */
static struct copy_chunk chunk_at(const struct copy *c, size_t piece, uint64_t row) {
        struct copy_chunk chunk = { .piece = piece, .row = row };
        const struct copy_piece *p;
        uint64_t bytes, rows, matrix, unit;

        if (piece >= c->n_pieces)
                return chunk;
        p = &c->pieces[piece];
        bytes = row_bytes(p);
        matrix = p->matrix_rows;
        unit = c->coder && p->gather ? LOSSLESS_UNIT : WEIGHT_PANEL;
        rows = CHUNK_BYTES / bytes / unit * unit;
        rows = MAX(rows, unit);
        rows = MIN(rows, matrix - row % matrix);
        chunk.n_rows = MIN(rows, p->first_row + p->n_rows - row);
        chunk.offset = p->offset + (row - p->first_row) * bytes;
        chunk.size = chunk.n_rows * bytes;
        return chunk;
}

static struct copy_chunk chunk_first(const struct copy *c, size_t piece) {
        return chunk_at(c, piece, piece < c->n_pieces ? c->pieces[piece].first_row : 0);
}

static struct copy_chunk chunk_after(const struct copy *c, const struct copy_chunk *chunk) {
        const struct copy_piece *p = &c->pieces[chunk->piece];

        if (chunk->row + chunk->n_rows < p->first_row + p->n_rows)
                return chunk_at(c, chunk->piece, chunk->row + chunk->n_rows);
        return chunk_first(c, chunk->piece + 1);
}

uint64_t copy_total(const struct copy_piece *pieces, size_t n_pieces) {
        uint64_t total = 0;

        for (size_t i = 0; i < n_pieces; i++)
                total += pieces[i].size; /* no overlaps: at most the files' sizes */
        return total;
}

/* Takes the memory that a chunk of a matrix goes to in one call: a page fault for every 4 KiB costs as much as packing.
 * Where the kernel cannot, it faults. */
static void populate(const struct copy *c, const struct image_tensor *t, uint64_t row, uint64_t n, char *dst) {
        uint64_t before = 0, bytes = 0, start;

        if (!weight_bytes(fmt_info(t->fmt), WEIGHT_PANELS, row, t->dims[0], &before) ||
            !weight_bytes(fmt_info(t->fmt), WEIGHT_PANELS, n, t->dims[0], &bytes))
                return;
        start = (uintptr_t)dst + before;
        ground_take(c->ground, t->segment, start - (uintptr_t)c->segments[t->segment], bytes);
        bytes += start - align_down(start);
        (void)madvise((char *)(uintptr_t)align_down(start), bytes, MADV_POPULATE_WRITE);
}

static void pack(const struct copy *c, const struct image_tensor *t, const struct copy_chunk *chunk, const char *src, char *dst) {
        uint64_t row = chunk->row % t->dims[1];

        dst += chunk->row / t->dims[1] * (t->size / t->dims[2]);
        populate(c, t, row, chunk->n_rows, dst);
        weight_pack(fmt_info(t->fmt), t->dims[1], t->dims[0], row, chunk->n_rows, src, dst);
}

/* What becomes a coded tensor, or is measured to be one. */
static enum coder_fault code(const struct copy *c, const struct copy_slot *slot, uint32_t tensor, const void *arg) {
        const struct copy_chunk *chunk = &slot->chunk;
        const struct copy_piece *piece = &c->pieces[chunk->piece];
        const struct image_tensor *t = &c->plan->tensors[tensor];
        const char *src = slot->buf + (chunk->offset - slot->start);
        char *data = c->segments ? (char *)c->segments[t->segment] + t->offset : NULL;
        uint64_t matrix = 0;

        if (piece->transform == COPY_PLACE)
                return coder_columns(c->coder, tensor, t, chunk->row / piece->matrix_rows, chunk->row % piece->matrix_rows,
                                     chunk->n_rows, piece->gather, arg, src, data);
        if (piece->transform == COPY_CONVERT) {
                piece->fn(arg, chunk->row - piece->first_row, chunk->n_rows, src, slot->rows);
                src = slot->rows;
        }
        if (data && weight_bytes(fmt_info(t->fmt), WEIGHT_PANELS, t->dims[1], t->dims[0], &matrix))
                populate(c, t, chunk->row % t->dims[1], chunk->n_rows, data + chunk->row / t->dims[1] * matrix);
        return coder_rows(c->coder, tensor, t, chunk->row, chunk->n_rows, src, data);
}

static void transform(const struct copy *c, const struct copy_slot *slot, uint32_t tensor, const void *arg) {
        const struct copy_chunk *chunk = &slot->chunk;
        const struct copy_piece *piece = &c->pieces[chunk->piece];
        const struct image_tensor *t = &c->plan->tensors[tensor];
        const char *src = slot->buf + (chunk->offset - slot->start);
        char *dst = (char *)c->segments[t->segment] + t->offset;
        uint64_t row = chunk->row - piece->first_row;

        switch (piece->transform) {
        case COPY_PACK:
                pack(c, t, chunk, src, dst);
                break;
        case COPY_DECODE:
                fmt_decode(fmt_info(piece->fmt), src, chunk->n_rows * t->dims[0],
                           (float *)(void *)dst + chunk->row * t->dims[0]);
                break;
        case COPY_CONVERT:
                piece->fn(arg, row, chunk->n_rows, src, slot->rows);
                pack(c, t, chunk, slot->rows, dst);
                break;
        case COPY_PLACE:
                piece->fn(arg, row, chunk->n_rows, src, dst);
                break;
        case COPY_SEGMENT:
                break; /* it is in place */
        }
}

/* A slot's rows for one of the tensors that they are for. */
static void transform_for(const struct copy *c, const struct copy_slot *slot, uint32_t tensor, const void *arg, struct copy_fault *f) {
        f->tensor = tensor;
        if (coder_has(c->coder, tensor))
                f->coder = code(c, slot, tensor, arg);
        else if (c->segments)
                transform(c, slot, tensor, arg);
        if (c->sums && f->coder == CODER_OK)
                f->sums = sums_add(c->sums, tensor, slot->chunk.n_rows);
}

static void transform_slot(const struct copy *c, const struct copy_slot *slot, struct copy_fault *f) {
        const struct copy_chunk *chunk = &slot->chunk;
        const struct copy_piece *piece = &c->pieces[chunk->piece];

        f->source = piece->source;
        if (piece->aside) {
                piece->fn(piece->arg, chunk->row - piece->first_row, chunk->n_rows, slot->buf + (chunk->offset - slot->start), NULL);
        } else if (piece->transform == COPY_SEGMENT) {
                f->sums = sums_add_bytes(c->sums, piece->tensor, chunk->row * SOURCE_ALIGN, chunk->size, &f->tensor);
        } else {
                transform_for(c, slot, piece->tensor, piece->arg, f);
                if (piece->has_twin && f->coder == CODER_OK && f->sums == SUMS_OK)
                        transform_for(c, slot, piece->twin, piece->twin_arg, f);
        }
}

int copy_expect(struct copy *c, const struct copy_piece *pieces, size_t n_pieces, size_t n_tensors) {
        uint64_t *left = calloc(n_tensors + 1, sizeof(*left));

        if (!left)
                return -ENOMEM;
        for (size_t i = 0; i < n_pieces; i++) {
                left[pieces[i].tensor] += pieces[i].size;
                if (pieces[i].has_twin)
                        left[pieces[i].twin] += pieces[i].size;
        }
        left[n_tensors] = 1; /* so that there is an end */
        free(c->left);
        c->left = left;
        c->arrived = 0;
        return 0;
}

size_t copy_arrived(struct copy *c) {
        size_t n;

        (void)pthread_mutex_lock(&c->lock);
        while (c->left && c->left[c->arrived] == 0)
                c->arrived++;
        n = c->arrived;
        (void)pthread_mutex_unlock(&c->lock);
        return n;
}

/* A chunk is in place. With the lock held. */
static void account(struct copy *c, const struct copy_chunk *chunk) {
        const struct copy_piece *piece = &c->pieces[chunk->piece];

        if (piece->aside)
                return;
        c->left[piece->tensor] -= chunk->size;
        if (piece->has_twin)
                c->left[piece->twin] -= chunk->size;
}

static bool is_fault(const struct copy_fault *f) {
        return f->coder != CODER_OK || f->sums != SUMS_OK;
}

/* Takes a ready slot, if any, and transforms it. Called and left with the lock held. */
static bool transform_one(struct copy *c) {
        struct copy_fault fault = { .coder = CODER_OK };
        unsigned slot;

        if (c->n_ready == 0)
                return false;
        slot = c->ready[--c->n_ready];
        c->n_packing++;
        (void)pthread_mutex_unlock(&c->lock);
        transform_slot(c, &c->slots[slot], &fault);
        (void)pthread_mutex_lock(&c->lock);
        if (is_fault(&fault) && !is_fault(&c->fault))
                c->fault = fault;
        c->n_packing--;
        c->done += c->slots[slot].chunk.size;
        if (c->left && !is_fault(&fault))
                account(c, &c->slots[slot].chunk);
        c->free[c->n_free++] = slot;
        (void)pthread_cond_signal(&c->idle);
        return true;
}

static void *helper_main(void *arg) {
        struct copy *c = arg;

        (void)pthread_mutex_lock(&c->lock);
        while (!c->stop)
                if (!transform_one(c))
                        (void)pthread_cond_wait(&c->work, &c->lock);
        (void)pthread_mutex_unlock(&c->lock);
        return NULL;
}

int copy_init(struct copy *c, struct source *sources, size_t n_sources) {
        int fds[SOURCES_MAX];
        cpu_set_t cpus;
        unsigned want = 1;

        *c = (struct copy){ .sources = sources, .n_sources = n_sources };
        if (pthread_mutex_init(&c->lock, NULL) != 0 || pthread_cond_init(&c->work, NULL) != 0 ||
            pthread_cond_init(&c->idle, NULL) != 0)
                return -ENOMEM;
        for (size_t i = 0; i < n_sources; i++)
                fds[i] = sources[i].fd;
        ring_init(&c->ring, fds, (unsigned)n_sources, COPY_SLOTS);
        if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
                want = MIN((unsigned)CPU_COUNT(&cpus) - 1, COPY_HELPERS_MAX);
        for (; c->n_helpers < want; c->n_helpers++)
                if (pthread_create(&c->helpers[c->n_helpers], NULL, helper_main, c) != 0)
                        break; /* slower, no worse */
        return 0;
}

static void pool_deinit(struct copy *c) {
        if (c->pool)
                (void)munmap(c->pool, c->pool_size);
        c->pool = NULL;
        c->pool_size = 0;
}

void copy_deinit(struct copy *c) {
        if (!c->sources)
                return;
        (void)pthread_mutex_lock(&c->lock);
        c->stop = true;
        (void)pthread_cond_broadcast(&c->work);
        (void)pthread_mutex_unlock(&c->lock);
        for (unsigned i = 0; i < c->n_helpers; i++)
                (void)pthread_join(c->helpers[i], NULL);
        ring_deinit(&c->ring);
        pool_deinit(c);
        free(c->left);
        (void)pthread_cond_destroy(&c->work);
        (void)pthread_cond_destroy(&c->idle);
        (void)pthread_mutex_destroy(&c->lock);
        *c = (struct copy){ 0 };
}

/* Memory for the slots: what was read, and rows that it was converted to. */
static int pool_init(struct copy *c) {
        uint64_t largest = CHUNK_BYTES, most_rows = 0, read_size, size, n;

        for (size_t i = 0; i < c->n_pieces; i++) {
                const struct copy_piece *p = &c->pieces[i];
                struct copy_chunk chunk = chunk_first(c, i);

                largest = MAX(largest, chunk.size);
                if (p->transform == COPY_CONVERT)
                        most_rows = MAX(most_rows, chunk.n_rows * fmt_row_bytes(fmt_info(p->fmt), c->plan->tensors[p->tensor].dims[0]));
        }
        read_size = align_up(largest) + 2 * SOURCE_ALIGN;
        size = read_size + align_up(most_rows);
        n = POOL_BYTES / size;
        n = MAX(n, (uint64_t)SLOTS_MIN);
        c->n_slots = (unsigned)MIN(n, (uint64_t)COPY_SLOTS);
        if (size * c->n_slots > c->pool_size) {
                void *pool = mmap(NULL, size * c->n_slots, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

                if (pool == MAP_FAILED)
                        return -errno;
                pool_deinit(c);
                c->pool = pool;
                c->pool_size = size * c->n_slots;
        }
        for (unsigned i = 0; i < c->n_slots; i++) {
                c->slots[i].own = c->pool + i * size;
                c->slots[i].rows = c->slots[i].own + read_size;
                c->free[i] = i;
        }
        c->n_free = c->n_slots;
        return 0;
}

static struct source *slot_source(const struct copy *c, const struct copy_slot *s) {
        return &c->sources[c->pieces[s->chunk.piece].source];
}

static void make_ready(struct copy *c, unsigned slot) {
        const struct copy_slot *s = &c->slots[slot];

        source_forget(slot_source(c, s), s->start, s->len);
        (void)pthread_mutex_lock(&c->lock);
        c->ready[c->n_ready++] = slot;
        (void)pthread_cond_signal(&c->work);
        (void)pthread_mutex_unlock(&c->lock);
}

static int read_slot(struct copy *c, unsigned slot, struct loader_error *error) {
        struct copy_slot *s = &c->slots[slot];
        int r = source_read(slot_source(c, s), s->start, s->buf, s->len, s->need, error);

        if (r > 0 && c->pieces[s->chunk.piece].transform != COPY_SEGMENT)
                loader_add(error, ", in what becomes '%s'", c->plan->tensors[c->pieces[s->chunk.piece].tensor].name);
        return r;
}

/* Where a chunk is read to: bytes of an image go straight to their place. */
static char *destination(const struct copy *c, const struct copy_chunk *chunk, char *own) {
        const struct copy_piece *p = &c->pieces[chunk->piece];

        return p->transform == COPY_SEGMENT ? (char *)c->segments[p->tensor] + chunk->row * SOURCE_ALIGN : own;
}

/* Starts reading the next chunk into a free slot; without a ring it is read at once. 1 = started, 0 = nothing to do. */
static int start_one(struct copy *c, struct loader_error *error) {
        struct copy_slot *s;
        int slot = -1, r;

        if (c->next.piece >= c->n_pieces)
                return 0;
        (void)pthread_mutex_lock(&c->lock);
        if (c->n_free > 0)
                slot = (int)c->free[--c->n_free];
        (void)pthread_mutex_unlock(&c->lock);
        if (slot < 0)
                return 0;
        s = &c->slots[slot];
        s->chunk = c->next;
        s->start = align_down(s->chunk.offset);
        s->need = s->chunk.offset + s->chunk.size - s->start;
        s->len = align_up(s->need);
        s->buf = destination(c, &s->chunk, s->own);
        if (s->buf != s->own)
                ground_take(c->ground, c->pieces[s->chunk.piece].tensor, s->chunk.row * SOURCE_ALIGN, s->len);
        c->next = chunk_after(c, &c->next);
        if (ring_read(&c->ring, c->pieces[s->chunk.piece].source, s->start, s->buf, (unsigned)s->len,
                      s->buf != s->own, (uint64_t)slot))
                return 1;
        r = read_slot(c, (unsigned)slot, error);
        if (r)
                return -r;
        make_ready(c, (unsigned)slot);
        return 1;
}

/* Takes one completed read. A refused or short one is done again synchronously, which also finds the words for an
 * error. 1 = took one, 0 = none, -LOADER_E_IO. */
static int reap_one(struct copy *c, bool wait, struct loader_error *error) {
        uint64_t tag = 0;
        int result = 0, r;

        r = ring_reap(&c->ring, wait, &tag, &result);
        if (r < 0)
                return -loader_fail(error, LOADER_E_IO, "waiting for reads failed: %s", strerror(-r));
        if (r == 0)
                return 0;
        if (result < 0 || (size_t)result < c->slots[tag].need) {
                r = read_slot(c, (unsigned)tag, error);
                if (r)
                        return -r;
        }
        make_ready(c, (unsigned)tag);
        return 1;
}

/* Transforms one slot here or waits for a helper that is busy with one. False when there is neither. */
static bool pack_or_wait(struct copy *c, bool may_wait) {
        bool busy;

        (void)pthread_mutex_lock(&c->lock);
        busy = transform_one(c);
        if (!busy && may_wait && c->n_packing > 0) {
                (void)pthread_cond_wait(&c->idle, &c->lock);
                busy = true;
        }
        (void)pthread_mutex_unlock(&c->lock);
        return busy;
}

static uint64_t bytes_done(struct copy *c) {
        uint64_t done;

        (void)pthread_mutex_lock(&c->lock);
        done = c->done;
        (void)pthread_mutex_unlock(&c->lock);
        return done;
}

/* Puts a thread's fault into words. 0, or -LOADER_E_*. */
static int tell_fault(struct copy *c, struct loader_error *error) {
        const struct source *source;
        const struct image_tensor *t;
        struct copy_fault f;
        uint64_t at;

        (void)pthread_mutex_lock(&c->lock);
        f = c->fault;
        (void)pthread_mutex_unlock(&c->lock);
        if (!is_fault(&f))
                return 0;
        t = &c->plan->tensors[f.tensor];
        source = &c->sources[f.source];
        if (f.coder == CODER_UNFAITHFUL)
                return -loader_fail(error, LOADER_E_INTERNAL, "tensor '%s' was coded and did not decode to what it was: this is a defect "
                                    "of this program", t->name);
        error->part = source->part;
        if (f.coder == CODER_CHANGED)
                return -loader_fail(error, LOADER_E_IO, "%s%sthe file has changed while it was read: what becomes '%s' is not what it was "
                                    "when it was looked through", source->name ? source->name : "", source->name ? ": " : "", t->name);
        at = t->offset;
        for (uint32_t i = 0; i < t->segment; i++)
                at += c->plan->segment_size[i];
        return -loader_fail(error, LOADER_E_INVALID, f.sums == SUMS_DAMAGED ?
                            "tensor '%s' at offset %llu is damaged: its checksum is another one" :
                            "tensor '%s' at offset %llu is not as it should be: its index leads out of it",
                            t->name, (unsigned long long)at);
}

/* One turn: keep the queue deep, take what has come, transform. 1 = go on, 0 = all done, negative LOADER_E_*. */
static int turn(struct copy *c, struct loader_error *error) {
        int r = tell_fault(c, error);

        if (r < 0)
                return r;
        do
                r = start_one(c, error);
        while (r > 0);
        if (r < 0)
                return r;
        do
                r = reap_one(c, false, error);
        while (r > 0);
        if (r < 0)
                return r;
        if (pack_or_wait(c, false))
                return 1;
        if (c->ring.n_in_flight > 0)
                return reap_one(c, true, error) < 0 ? -LOADER_E_IO : 1;
        if (pack_or_wait(c, true))
                return 1;
        return bytes_done(c) < copy_total(c->pieces, c->n_pieces); /* a helper may have given back the last free slot just now */
}

/* Nothing may touch buffers or segments any more, whatever happened. */
static void drain(struct copy *c) {
        uint64_t tag;
        int result;

        while (c->ring.n_in_flight > 0 && ring_reap(&c->ring, true, &tag, &result) == 1)
                ;
        (void)pthread_mutex_lock(&c->lock);
        c->n_ready = 0;
        while (c->n_packing > 0)
                (void)pthread_cond_wait(&c->idle, &c->lock);
        (void)pthread_mutex_unlock(&c->lock);
}

int copy_run(struct copy *c, const struct copy_piece *pieces, size_t n_pieces, const struct image_plan *plan,
             void *const *segments, const struct copy_progress *progress, struct loader_error *error) {
        uint64_t total = copy_total(pieces, n_pieces);
        int r;

        c->pieces = pieces;
        c->n_pieces = n_pieces;
        c->plan = plan;
        c->segments = segments;
        c->next = chunk_first(c, 0);
        c->done = 0;
        c->fault = (struct copy_fault){ .coder = CODER_OK };
        r = pool_init(c);
        if (r < 0)
                return r;
        do {
                r = turn(c, error);
                if (progress && progress->fn)
                        progress->fn(progress->arg, bytes_done(c), total);
        } while (r > 0);
        drain(c);
        if (r == 0)
                r = tell_fault(c, error);
        return -r;
}
