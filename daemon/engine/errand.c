/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errand.h"

#define PIECE_BYTES (4u << 20) /* about a millisecond of copying between two steps */

static bool is_spill(const struct errand *r) {
        return r->job->request.kind == REQUEST_SPILL;
}

/* So many of these pages that the file stays below its limit. */
static uint64_t pages_that_fit(const struct kvfile_kind *kind, uint64_t pages, uint64_t max_bytes) {
        uint64_t offset = kvfile_pages_offset(kind, (uint32_t)pages);

        if (max_bytes == 0)
                return pages;
        return max_bytes > offset ? MIN(pages, (max_bytes - offset) / (kind->page_bytes + 8)) : 0;
}

int errand_new(struct errand **ret, struct job *job, const struct kvfile_kind *kind) {
        uint64_t pages = MIN(job->request.n_tokens / kind->page_tokens, (uint64_t)KVFILE_PAGES_MAX);
        uint64_t cap = MAX(PIECE_BYTES / MAX(kind->page_bytes, (uint64_t)1), (uint64_t)1);
        struct errand *r;

        r = malloc(sizeof(*r) + cap * kind->page_bytes);
        if (!r)
                return -ENOMEM;
        *r = (struct errand){ .job = job, .kind = kind, .cap = (uint32_t)cap };
        r->n_pages = (uint32_t)pages_that_fit(kind, pages, job->file_max);
        r->pages_offset = kvfile_pages_offset(kind, r->n_pages);
        *ret = r;
        return 0;
}

struct errand *errand_free(struct errand *r) {
        free(r);
        return NULL;
}

static bool has_failed(const struct errand *r) {
        return r->error < 0 || r->fault.text[0];
}

/* That is the errand's end, not the engine's. */
static int no_memory(struct errand *r, int error) {
        if (error != -ENOMEM)
                return error;
        r->error = error;
        return 0;
}

/* --- spill ------------------------------------------------------------------------------------------------------- */

static int step_spill(struct errand *r, struct engine *e) {
        const struct request *q = &r->job->request;
        int n;

        if (r->last) { /* the file is whole */
                r->finished = true;
                return 0;
        }
        n = engine_export_pages(e, q->uid, q->tokens, (size_t)r->n_pages * r->kind->page_tokens, r->done, r->cap,
                                r->piece);
        if (n < 0)
                return no_memory(r, n);
        r->n_piece = (uint32_t)n;
        r->last = r->n_piece == 0 || r->done + r->n_piece == r->n_pages;
        return 0;
}

static void file_spill(struct errand *r) {
        int fd = r->job->file_fd;

        r->error = kvfile_write_pages(fd, r->kind, r->pages_offset, r->done, r->n_piece, r->piece);
        if (r->error < 0)
                return;
        r->done += r->n_piece;
        r->n_piece = 0;
        if (r->last && r->done > 0)
                r->error = kvfile_write_header(fd, r->kind, r->pages_offset, r->done, r->job->request.tokens);
}

/* --- restore ----------------------------------------------------------------------------------------------------- */

static int step_restore(struct errand *r, struct engine *e) {
        const struct request *q = &r->job->request;
        uint32_t have = engine_cached_pages(e, q->uid, q->tokens, q->n_tokens);
        int n = 0;

        if (r->n_piece > 0) {
                n = engine_import_pages(e, q->uid, q->tokens, r->done, r->n_piece, r->piece);
                if (n < 0)
                        return no_memory(r, n);
                r->last = r->last || (uint32_t)n < r->n_piece;
                r->done += (uint32_t)n;
                r->n_piece = 0;
        } else if (!r->opened || r->done == 0) {
                r->done = have; /* these need no reading */
        }
        r->finished = r->last || (r->opened && r->done >= r->n_pages);
        return 0;
}

static void file_restore(struct errand *r) {
        const struct request *q = &r->job->request;
        int fd = r->job->file_fd, c = 0;
        uint32_t n;

        if (!r->opened) {
                c = kvfile_read_header(fd, r->kind, q->tokens, q->n_tokens, &r->pages_offset, &r->n_pages, &r->fault);
                r->opened = c == 0;
        }
        if (c == 0 && r->done < r->n_pages) {
                n = MIN(r->cap, r->n_pages - r->done);
                c = kvfile_read_pages(fd, r->kind, r->pages_offset, r->done, n, r->piece, &r->fault);
                r->n_piece = c == 0 ? n : 0;
        }
        r->error = c < 0 ? c : 0;
}

/* --- both -------------------------------------------------------------------------------------------------------- */

bool errand_step(struct errand *r, struct engine *e, int *ret_lost) {
        *ret_lost = 0;
        if (atomic_load_explicit(&r->job->request.cancelled, memory_order_relaxed))
                r->error = -ECANCELED;
        if (!has_failed(r))
                *ret_lost = is_spill(r) ? step_spill(r, e) : step_restore(r, e);
        r->finished = r->finished || has_failed(r) || *ret_lost < 0;
        return !r->finished;
}

void errand_file(struct errand *r) {
        if (is_spill(r))
                file_spill(r);
        else
                file_restore(r);
}

struct frame *errand_answer(const struct errand *r) {
        bool failed = has_failed(r);
        uint64_t bytes = r->done > 0 ? r->pages_offset + r->done * (r->kind->page_bytes + 8) : 0;
        const char *error = r->fault.text[0] ? r->fault.text : r->error < 0 ? strerror(-r->error) : "";

        /* What a failed restore has read so far is sound and stays; of a failed spill there is no file. */
        if (failed && is_spill(r))
                return frame_new_errand(&r->job->request, 0, 0, error);
        return frame_new_errand(&r->job->request, r->done * r->kind->page_tokens, bytes, error);
}
