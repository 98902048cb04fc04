/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_STORE_H)
#define SPARK_STORE_H

/*
 * The model store. Part of spark.h.
 *
 * The service keeps files by their SHA-256, under names. Wherever a model is named, a stored one may be named by any of
 * its names or as "sha256:" and the first digits (at least 4) of its digest. Each of these ends with spark_done.stored.
 */

struct spark_stored_file {
        const char *role;           /* "model", "part" */
        const char *name;           /* as it was imported */
        const char *sha256;         /* 64 hexadecimal digits */
        uint64_t bytes;
};

/* A model of the store. */
struct spark_stored {
        const char *digest;         /* "" after the model was removed; then nothing but freed_bytes is set */
        const char *const *names;   /* [n_names], the oldest first */
        size_t n_names;
        const struct spark_stored_file *const *files; /* [n_files] */
        size_t n_files;
        uint64_t bytes;             /* of all files */
        uint64_t imported;          /* seconds since 1970 */
        uint32_t uid;               /* who imported it first */
        int pinned;
        int damaged;
        const char *state;          /* as spark_model.state */
        const char *architecture;
        const char *format;         /* of most weights; "" = not known */
        uint64_t parameters;
        uint32_t context;           /* tokens */
        uint32_t vocabulary;        /* tokens */
        int has_chat_template;
        uint64_t image_bytes;       /* that it takes when it is loaded, */
        uint64_t kv_bytes;          /* and a KV cache for one whole context */
        uint64_t available_bytes;   /* of the machine, now */
        uint64_t floor_bytes;       /* kept free */
        uint64_t freed_bytes;       /* removing: of the disk */
        const char *method;         /* importing: "reflink", "copy", "known" (the store had it), packing: "pack", else "" */
        const struct spark_weights *weights; /* NULL where that is not known */
};

/* Takes files into the store: one, the parts of a split model, or those of a directory in Hugging Face's layout, whose
 * names are then the ones that are read there (config.json, ...), without folders. Descriptors are borrowed, of regular
 * files open for reading; the service reads what they show, whether it could open the files itself or not. What is no
 * model that can be loaded is refused (SPARK_MODEL_INVALID). Events: progress ("import", bytes), done. */
struct spark_import_request {
        size_t size;
        const char *name;          /* 1 to 64 of letters, digits and "._:-"; not beginning with "." or "sha256:" */
        const int *fds;            /* [n_files], 1 to 64 */
        const char *const *files;  /* [n_files] what the files are called */
        size_t n_files;
        int replace;               /* the name may mean another model now; one without a name left goes */
        int pin;
};
#define SPARK_IMPORT_INIT { sizeof(struct spark_import_request), NULL, NULL, NULL, 0, 0, 0 }
int spark_model_import(struct spark *s, const struct spark_import_request *request, spark_event_fn fn, void *userdata,
                       uint64_t *ret_id);
/* Packs a model: the image that a load would keep in memory becomes a file of the store, and a model of its own, which loads
 * as fast as it can be read. Either of a model that the service knows, or of files as spark_model_import() takes them. Events:
 * progress ("survey" with lossless, "pack", "hash"; bytes), done. */
struct spark_pack_request {
        size_t size;
        const char *name;          /* that the packed model shall have, as spark_import_request.name */
        const char *model;         /* what is packed; NULL: the files */
        const int *fds;            /* [n_files] as in spark_import_request; so the next two */
        const char *const *files;
        size_t n_files;
        int lossless;              /* as spark_load_request.lossless */
        int replace;
        int pin;
};
#define SPARK_PACK_INIT { sizeof(struct spark_pack_request), NULL, NULL, NULL, NULL, 0, 0, 0, 0 }
int spark_model_pack(struct spark *s, const struct spark_pack_request *request, spark_event_fn fn, void *userdata,
                     uint64_t *ret_id);
int spark_model_show(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* Hashes what is stored; SPARK_MODEL_INVALID where it is damaged. Events: progress ("verify", bytes), done. */
int spark_model_verify(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* A name: removes it, and with the last name the model. A digest: the model with all its names. */
int spark_model_remove(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* A pinned model is not removed, nor its last name. */
int spark_model_pin(struct spark *s, const char *model, int pinned, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* Another name for a stored model; replace: which may mean another one now. */
int spark_model_alias(struct spark *s, const char *model, const char *alias, int replace, spark_event_fn fn,
                      void *userdata, uint64_t *ret_id);

#endif
