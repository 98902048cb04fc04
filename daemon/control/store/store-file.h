/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The model store on disk, below state_dir/store; folders 0700, files readable by the daemon's user alone:
 *
 *     blobs/DIGEST         a model's file, named by its SHA-256; never written again once it has this name
 *     models/ID            manifest of a model (store-manifest.h)
 *     names/NAME           what a name means
 *     incoming/NUMBER      a file that is being imported; nobody's when a daemon starts
 *     quarantine/DIGEST    a blob whose contents were found not to be what its name says
 *
 * The order of every change makes that, wherever it is cut off, what can be found from a name is whole: a blob is on
 * disk before the manifest that lists it, a manifest before the name that means it; and the other way round when things
 * go. What is left in between belongs to nobody and is removed by the next scan.
 *
 * Everything here may block: for the disk's thread, and for tests. One change at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store-manifest.h"

#define STORE_MODELS_MAX 4096u
#define STORE_NAMES_MAX 16384u

struct store_dirs {
        int blobs, models, names, incoming, quarantine;
};

#define STORE_DIRS_NULL ((struct store_dirs){ -1, -1, -1, -1, -1 })

/* Opens the folders, made where they are missing. 0 or -errno. */
int store_dirs_open(struct store_dirs *d, const char *state_dir);
void store_dirs_close(struct store_dirs *d);

/* A new file in incoming/, open for reading and writing; mode 0400, so that nobody opens it for writing again. */
int store_incoming_create(const struct store_dirs *d, const char *name);
int store_incoming_remove(const struct store_dirs *d, const char *name);
/* Bytes that the file system still gives us. 0 or -errno. */
int store_free_bytes(const struct store_dirs *d, uint64_t *ret);

/* What an import adds: blobs[i] is the name in incoming/ of the i-th file of the manifest, "" where the store has it. */
struct store_addition {
        const struct store_manifest *manifest; /* NULL = the model is there */
        char (*incoming)[24];                  /* [manifest->n_files] */
        const struct store_name *name;         /* NULL = none */
};
/* All of it or, seen from names, nothing: what became blobs is in incoming/ again then, or, where the disk does not even do that, or
 * the model was known (one that was damaged), left for a scan. 0 or -errno. */
int store_file_add(const struct store_dirs *d, const struct store_addition *a);
/* Puts a manifest in the place of the one there is. 0 or -errno. */
int store_file_update(const struct store_dirs *d, const struct store_manifest *m);

/* What goes: names first, then the manifest, then blobs that no other manifest lists. */
struct store_removal {
        char (*names)[CONFIG_MODEL_NAME_MAX + 1]; /* [n_names] */
        size_t n_names;
        const char *id;                           /* "" = the model stays */
        char (*blobs)[STORE_DIGEST_TEXT + 1];     /* [n_blobs] */
        size_t n_blobs;
};
/* How far a removal got. */
struct store_removed {
        size_t n_names; /* the first ones, which mean nothing any more */
        bool gone;      /* all of them, for good, though something behind them may be left */
};
/* 0 or -errno; *ret is filled in any case. */
int store_file_remove(const struct store_dirs *d, const struct store_removal *r, struct store_removed *ret);
/* Moves a blob out of the way of whoever would load it. 0 or -errno. */
int store_file_quarantine(const struct store_dirs *d, const char *digest);

/* ---- all of it ---- */

struct store_found {
        struct store_manifest *models;
        bool *damaged; /* [n_models]: a blob is missing or has another size */
        size_t n_models;
        struct store_name *names;
        size_t n_names;
};

/* Reads it all. Files that are damaged or that nobody knows are left out, with a word in the log. Where everything could
 * be read, what belongs to nobody is removed: incoming files, names without a model, models without a name that nobody
 * pinned, blobs without a manifest. 0 or -errno. */
int store_file_scan(const struct store_dirs *d, struct store_found *ret);
void store_found_deinit(struct store_found *f);
