/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/huge.h"
#include "base/macro.h"
#include "daemon/image/checksum.h"
#include "kernels/format.h"
#include "loadlink.h"
#include "modeldir.h"

#include "load.h"
#include "segments.h"
#include "split.h"

_Static_assert(MODELDIR_TEXT_MAX == sizeof(((struct loader_error *)NULL)->text), "a sentence must fit");
_Static_assert(LOADLINK_SEGMENTS_MAX == IMAGE_SEGMENTS_MAX, "a plan must fit a record");

int loader_init(struct loader *l, const int *fds, size_t n_fds, struct loader_error *error) {
        int r;

        *l = (struct loader){ .error = error };
        error->part = 0;
        if (n_fds < 1 || n_fds > SOURCES_MAX)
                return -EINVAL;
        for (; l->n_sources < n_fds; l->n_sources++) {
                error->part = n_fds > 1 ? (unsigned)l->n_sources + 1 : 0;
                r = source_init(&l->sources[l->n_sources], fds[l->n_sources], error);
                if (r)
                        return r;
                l->sources[l->n_sources].part = error->part;
        }
        error->part = 0;
        return copy_init(&l->copy, l->sources, l->n_sources);
}

int loader_init_directory(struct loader *l, const char *const *names, const int *fds, size_t n, struct loader_error *error) {
        int r;

        *l = (struct loader){ .error = error };
        error->part = 0;
        l->hf = calloc(1, sizeof(*l->hf));
        r = l->hf ? hf_init(l->hf, names, fds, n, error) : -ENOMEM;
        return r ? r : copy_init(&l->copy, l->hf->sources, l->hf->n_files);
}

void loader_deinit(struct loader *l) {
        copy_deinit(&l->copy); /* before what it reads */
        if (l->hf)
                hf_deinit(l->hf);
        free(l->hf);
        if (l->packed)
                packed_deinit(l->packed);
        free(l->packed);
        coder_deinit(&l->coder);
        image_plan_deinit(&l->plan);
        model_deinit(&l->model);
        free(l->pieces);
        for (size_t i = 0; i < l->n_sources; i++) {
                gguf_deinit(&l->parts[i]);
                source_deinit(&l->sources[i]);
        }
}

/* A GGUF file's tensors are the image's, one for one. */
static int make_pieces(struct loader *l) {
        const struct gguf *g = &l->parts[0];

        l->pieces = calloc(g->n_tensors + 1, sizeof(*l->pieces));
        if (!l->pieces)
                return -ENOMEM;
        for (size_t i = 0; i < g->n_tensors; i++) {
                const struct gguf_tensor *t = &g->tensors[i];

                l->pieces[l->n_pieces++] = (struct copy_piece){
                        .source = t->source,
                        .tensor = (uint32_t)i,
                        .fmt = t->fmt,
                        .transform = l->plan.tensors[i].layout == WEIGHT_PANELS ? COPY_PACK : COPY_DECODE,
                        .offset = t->offset,
                        .size = t->size,
                        .n_rows = t->dims[1] * t->dims[2] * t->dims[3],
                        .matrix_rows = l->plan.tensors[i].dims[1],
                };
        }
        return 0;
}

/* What is in BF16 and could get smaller is to be measured. */
static int add_coded(struct loader *l, const struct copy_piece *p, uint32_t tensor, bool *ret_any) {
        if (!coder_can(&l->plan.tensors[tensor]) || (p->transform == COPY_PLACE && !p->gather))
                return 0;
        *ret_any = true;
        return coder_add(&l->coder, &l->plan, tensor, p->transform == COPY_PLACE);
}

static uint64_t segment_bytes(const struct loader *l) {
        return l->options.segment_bytes ? l->options.segment_bytes : LOADLINK_SEGMENT_BYTES;
}

/* Looks through the weights that could be coded, for what they take, and plans again. */
static int survey(struct loader *l) {
        const struct copy_piece *all = l->hf ? l->hf->pieces : l->pieces;
        size_t n_all = l->hf ? l->hf->n_pieces : l->n_pieces, n = 0;
        _cleanup_free_ struct copy_piece *some = calloc(n_all + 1, sizeof(*some));
        int r = some ? coder_init(&l->coder, &l->plan) : -ENOMEM;

        for (size_t i = 0; i < n_all && r == 0; i++) {
                bool any = false;

                r = add_coded(l, &all[i], all[i].tensor, &any);
                if (!r && all[i].has_twin)
                        r = add_coded(l, &all[i], all[i].twin, &any);
                if (any)
                        some[n++] = all[i];
        }
        if (r || n == 0)
                return r;
        l->copy.coder = &l->coder;
        if (l->hf)
                r = hf_measure(l->hf, &l->copy, &l->plan, some, n, l->options.survey);
        else
                r = copy_run(&l->copy, some, n, &l->plan, NULL, l->options.survey, l->error);
        if (r)
                return r;
        coder_decide(&l->coder, &l->plan);
        r = image_plan_layout(&l->plan, segment_bytes(l));
        return r > 0 ? loader_fail(l->error, LOADER_E_INVALID, "the model is too large for an image") : r;
}

static int plan_gguf(struct loader *l) {
        int r = split_read_metadata(l->parts, l->sources, l->n_sources, l->error);

        if (!r)
                r = model_plan(&l->model, &l->parts[0], &l->plan, segment_bytes(l));
        l->error->part = r > 0 ? l->error->part : 0;
        return r ? r : make_pieces(l);
}

/* It is as it is: what is asked of it beyond that needs the file that it was made of. */
static int plan_packed(struct loader *l) {
        bool coded = false, could = false;
        int r;

        l->packed = calloc(1, sizeof(*l->packed));
        r = l->packed ? packed_plan(l->packed, &l->sources[0], &l->plan, l->error) : -ENOMEM;
        for (size_t i = 0; i < l->plan.n_tensors && r == 0; i++) {
                coded |= l->plan.tensors[i].fmt == FMT_BF16_LL;
                could |= coder_can(&l->plan.tensors[i]);
        }
        if (r == 0 && (l->options.pack || (l->options.lossless && could && !coded)))
                return loader_fail(l->error, LOADER_E_UNSUPPORTED, "the model is packed already; pack it from its source");
        return r;
}

/* What is not to be written is left out of what is to be done. */
static int choose_segments(struct loader *l) {
        if (l->options.segments == 0)
                l->options.segments = UINT64_MAX;
        if (segments_size(&l->plan, l->options.segments) == 0)
                return loader_fail(l->error, LOADER_E_INVALID, "the model has only %zu segments: it is another one now",
                                   l->plan.n_segments);
        if (l->hf)
                hf_choose(l->hf, &l->plan, l->options.segments);
        else if (!l->packed)
                l->n_pieces = segments_choose(l->pieces, l->n_pieces, &l->plan, l->options.segments);
        return 0;
}

int loader_plan(struct loader *l) {
        bool packed = false;
        int r = 0;

        if (l->hf) {
                r = hf_plan(l->hf, &l->model, &l->plan, segment_bytes(l));
        } else {
                if (l->n_sources == 1)
                        r = packed_probe(&l->sources[0], &packed, l->error);
                if (!r)
                        r = packed ? plan_packed(l) : plan_gguf(l);
        }
        if (!r && !packed && l->options.lossless)
                r = survey(l);
        return r ? r : choose_segments(l);
}

uint64_t loader_total(const struct loader *l) {
        return l->packed ? segments_size(&l->plan, l->options.segments)
               : l->hf   ? l->hf->total
                         : copy_total(l->pieces, l->n_pieces);
}

static void unmap(const struct loader *l, void **maps) {
        for (size_t i = 0; i < l->plan.n_segments; i++)
                if (maps[i])
                        (void)munmap(maps[i], (size_t)l->plan.segment_size[i]);
}

static int map(const struct loader *l, const int *fds, size_t n_fds, void **maps) {
        struct stat st;
        size_t n = 0; /* descriptors that found their segment */

        for (size_t i = 0; i < l->plan.n_segments; i++) {
                void *p;

                if (!segments_has(l->options.segments, i))
                        continue;
                if (n == n_fds)
                        return -EINVAL;
                if (fstat(fds[n], &st) < 0)
                        return -errno;
                if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != l->plan.segment_size[i])
                        return -EINVAL;
                p = huge_map(fds[n++], (size_t)st.st_size, PROT_READ | PROT_WRITE);
                if (p == MAP_FAILED)
                        return -errno;
                maps[i] = p;
                (void)madvise(p, (size_t)st.st_size, MADV_HUGEPAGE); /* where memfds may have them: else ground_take() sees to it */
        }
        return n == n_fds ? 0 : -EINVAL;
}

static int write_tensors(struct loader *l, void *const *maps, const struct copy_progress *progress) {
        if (l->packed)
                return packed_write(l->packed, &l->copy, &l->plan, maps, progress, l->error);
        if (l->hf)
                return hf_write(l->hf, &l->copy, &l->plan, maps, progress);
        return copy_run(&l->copy, l->pieces, l->n_pieces, &l->plan, maps, progress, l->error);
}

static int write_file(struct loader *l, int fd, const struct copy_progress *progress) {
        const struct copy_piece *pieces = l->hf ? l->hf->pieces : l->pieces;
        size_t n = l->hf ? l->hf->n_pieces : l->n_pieces;
        struct sums sums = SUMS_NULL;
        struct pack pack;
        int r = pack_init(&pack, &l->plan, fd, l->error);

        if (!r)
                r = sums_init(&sums, &l->plan, pack.maps, false);
        if (!r) {
                sums.whole = pack_tensor;
                sums.arg = &pack;
                for (size_t i = 0; i < n; i++) {
                        sums_expect(&sums, pieces[i].tensor, pieces[i].n_rows);
                        if (pieces[i].has_twin)
                                sums_expect(&sums, pieces[i].twin, pieces[i].n_rows);
                }
                l->copy.sums = &sums;
                r = write_tensors(l, pack.maps, progress);
                l->copy.sums = NULL;
        }
        if (!r) {
                sums_finish(&sums);
                r = pack_finish(&pack);
        }
        sums_deinit(&sums);
        pack_deinit(&pack);
        return r;
}

int loader_write(struct loader *l, const int *fds, size_t n_fds, const struct copy_progress *progress) {
        void *maps[IMAGE_SEGMENTS_MAX] = { 0 };
        struct ground ground = GROUND_NULL;
        int r;

        if (l->options.pack)
                return n_fds == 1 ? write_file(l, fds[0], progress) : -EINVAL;
        r = map(l, fds, n_fds, maps);
        if (!r)
                r = ground_init(&ground, maps, l->plan.segment_size, l->plan.n_segments);
        l->copy.ground = &ground;
        if (!r && !l->packed) {
                if (maps[0])
                        image_plan_write_tables(&l->plan, maps[0]);
                r = copy_expect(&l->copy, l->hf ? l->hf->pieces : l->pieces, l->hf ? l->hf->n_pieces : l->n_pieces,
                                l->plan.n_tensors);
        }
        if (!r)
                r = write_tensors(l, maps, progress);
        l->copy.ground = NULL;
        ground_deinit(&ground);
        unmap(l, maps);
        return r;
}

int loader_checksum(const struct loader *l, uint64_t *ret) {
        _cleanup_free_ void *tables = NULL;

        if (l->packed) {
                *ret = image_checksum_tables(l->packed->tables, (size_t)l->plan.tables_size);
                return 0;
        }
        tables = calloc(1, (size_t)l->plan.tables_size);
        if (!tables)
                return -ENOMEM;
        image_plan_write_tables(&l->plan, tables);
        *ret = image_checksum_tables(tables, (size_t)l->plan.tables_size);
        return 0;
}

size_t loader_arrived(struct loader *l) {
        return copy_arrived(&l->copy);
}
