/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the model store writes down: a manifest for each model (its files by digest, and what is known of it), and a small
 * file for each name. Versioned text, one "key value" a line, closed by a checksum of all before it:
 *
 *     sparkd-model 1                               sparkd-name 1
 *     uid 1000                                     model 93b2...
 *     imported 1767225600                          uid 1000
 *     pinned no            (or "by 1000")          created 1767225600
 *     architecture llama                           end 89abcdef
 *     ...
 *     weights attention 123 246      (kind, parameters, bytes; since version 2, as what follows)
 *     coded 123 172                  (parameters, bytes)
 *     packed yes
 *     file model 668788096 93b2... llama.gguf
 *     end 01234567
 *
 * Reading checks everything and believes nothing: the files are ours, but a disk may have been anywhere. Pure functions
 * over bytes; plain structs, owned by the caller.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "config/config.h"
#include "model/weights.h"

#define STORE_DIGEST_TEXT 64u /* hexadecimal digits of a SHA-256 */
#define STORE_DIGEST_PREFIX "sha256:"
#define STORE_DIGEST_SHORTEST 4u /* digits by which a model may be named */
#define STORE_FILES_MAX 64u
#define STORE_FILE_NAME_MAX 255u
#define STORE_ROLE_MAX 15u
#define STORE_MANIFEST_MAX ((size_t)64 << 10) /* bytes of a file that is looked at */
#define STORE_MANIFEST_VERSION 2u /* of a manifest that says something of the weights, else 1 */
#define STORE_NAME_VERSION 1u

enum {
        STORE_MANIFEST_E_INVALID = 1, /* damaged; see struct store_fault */
        STORE_MANIFEST_E_VERSION = 2, /* of a version that is not ours to judge */
};

struct store_fault {
        char text[128];
};

struct store_file {
        char role[STORE_ROLE_MAX + 1]; /* "model" (the first, or only one), "part", "file" (of a directory), ... */
        char name[STORE_FILE_NAME_MAX + 1]; /* as it came; for people, and for what goes by names in a folder */
        uint64_t size;
        char digest[STORE_DIGEST_TEXT + 1];
};

/* What the loader's plan said when the model came. */
struct store_facts {
        char architecture[64], format[32]; /* "" = not known */
        uint64_t parameters, image_bytes, kv_bytes_per_token;
        uint32_t context, vocabulary;
        bool has_chat_template;
        struct weights weights;
};

struct store_manifest {
        char id[STORE_DIGEST_TEXT + 1]; /* not in the file: it is the file's name */
        uid_t uid;          /* who imported it first */
        uint64_t imported_s; /* since 1970 */
        bool pinned;
        uid_t pinned_by;
        struct store_facts facts;
        struct store_file *files; /* [n_files], at least one */
        size_t n_files;
};

struct store_name {
        char name[CONFIG_MODEL_NAME_MAX + 1];
        char id[STORE_DIGEST_TEXT + 1];
        uid_t uid;
        uint64_t created_s;
};

/* A model's name that is no digest: config_model_name_valid(), and not beginning with "sha256:". */
bool store_name_valid(const char *name);
bool store_digest_valid(const char *digest);
void store_digest_format(const uint8_t digest[STORE_DIGEST_TEXT / 2], char out[STORE_DIGEST_TEXT + 1]);
/* 1 to STORE_ROLE_MAX of a-z, 0-9 and '-'. */
bool store_role_valid(const char *role);
/* 1 to STORE_FILE_NAME_MAX bytes of UTF-8 without control characters; relative, with no part "." or "..". */
bool store_file_name_valid(const char *name);

/* What a model goes by: its file's digest where it is one file, else the SHA-256 of its files' lines in the manifest. */
void store_manifest_id(const struct store_file *files, size_t n, char out[STORE_DIGEST_TEXT + 1]);
/* True where the files are those of a directory, which mean something by their names (ipc/modeldir.h). */
bool store_manifest_is_directory(const struct store_manifest *m);
uint64_t store_manifest_bytes(const struct store_manifest *m);
/* 0 or -errno. */
int store_manifest_format(const struct store_manifest *m, struct buf *out);
/* 0, STORE_MANIFEST_E_* with *fault filled, or -ENOMEM. id is what the file is named; deinit *ret. */
int store_manifest_parse(const char *id, const char *data, size_t size, struct store_manifest *ret,
                         struct store_fault *fault);
void store_manifest_deinit(struct store_manifest *m);

int store_name_format(const struct store_name *n, struct buf *out);
int store_name_parse(const char *name, const char *data, size_t size, struct store_name *ret, struct store_fault *fault);
