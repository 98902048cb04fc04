/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nettle/sha2.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/utf8.h"
#include "modeldir.h"
#include "store-manifest.h"

#define END_LINE 13u /* "end 01234567\n" */

static _printf_(2, 3) int damaged(struct store_fault *f, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
        va_end(ap);
        return STORE_MANIFEST_E_INVALID;
}

/* ---- words ---- */

bool store_name_valid(const char *name) {
        return config_model_name_valid(name) &&
               strncmp(name, STORE_DIGEST_PREFIX, strlen(STORE_DIGEST_PREFIX)) != 0;
}

bool store_digest_valid(const char *digest) {
        return strlen(digest) == STORE_DIGEST_TEXT && strspn(digest, "0123456789abcdef") == STORE_DIGEST_TEXT;
}

void store_digest_format(const uint8_t digest[STORE_DIGEST_TEXT / 2], char out[STORE_DIGEST_TEXT + 1]) {
        for (size_t i = 0; i < STORE_DIGEST_TEXT / 2; i++)
                (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

bool store_role_valid(const char *role) {
        size_t n = strlen(role);

        return n > 0 && n <= STORE_ROLE_MAX && strspn(role, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static bool part_is_dots(const char *part, size_t n) {
        return n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.');
}

bool store_file_name_valid(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > STORE_FILE_NAME_MAX || !utf8_valid(name, n, NULL))
                return false;
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
                        return false;
        for (const char *p = name;; p++) {
                size_t part = strcspn(p, "/");

                if (part_is_dots(p, part))
                        return false;
                p += part;
                if (!*p)
                        return true;
        }
}

/* ---- what it goes by ---- */

static int file_line(const struct store_file *f, char *out, size_t size) {
        return snprintf(out, size, "file %s %" PRIu64 " %s %s\n", f->role, f->size, f->digest, f->name);
}

void store_manifest_id(const struct store_file *files, size_t n, char out[STORE_DIGEST_TEXT + 1]) {
        uint8_t digest[SHA256_DIGEST_SIZE];
        struct sha256_ctx ctx;

        if (n == 1) {
                (void)snprintf(out, STORE_DIGEST_TEXT + 1, "%s", files[0].digest);
                return;
        }
        sha256_init(&ctx);
        for (size_t i = 0; i < n; i++) {
                char line[sizeof(struct store_file) + 64];
                int len = file_line(&files[i], line, sizeof(line));

                sha256_update(&ctx, (size_t)len, (const uint8_t *)line);
        }
        sha256_digest(&ctx, sizeof(digest), digest);
        store_digest_format(digest, out);
}

bool store_manifest_is_directory(const struct store_manifest *m) {
        return modeldir_knows(m->files[0].name);
}

uint64_t store_manifest_bytes(const struct store_manifest *m) {
        uint64_t sum = 0;

        for (size_t i = 0; i < m->n_files; i++)
                if (!checked_add(sum, m->files[i].size, &sum))
                        return UINT64_MAX;
        return sum;
}

/* ---- writing ---- */

static int close_text(struct buf *out, int r) {
        return r ? r : buf_printf(out, "end %08x\n", crc32c(0, (const uint8_t *)out->data, out->len));
}

static int out_of_memory(int r) {
        return r ? -ENOMEM : 0;
}

static bool has_weights(const struct weights *w) {
        struct loadlink_share sum;

        return w->packed || !weights_sum(w, &sum) || sum.params > 0;
}

static int format_weights(const struct weights *w, struct buf *out) {
        int r = 0;

        for (unsigned i = 0; i < LOADLINK_KINDS && !r; i++)
                if (w->kinds[i].params > 0 || w->kinds[i].bytes > 0)
                        r = buf_printf(out, "weights %s %" PRIu64 " %" PRIu64 "\n", weights_kind_name(i), w->kinds[i].params,
                                       w->kinds[i].bytes);
        if (!r && w->coded.params > 0)
                r = buf_printf(out, "coded %" PRIu64 " %" PRIu64 "\n", w->coded.params, w->coded.bytes);
        if (!r && w->packed)
                r = buf_append_str(out, "packed yes\n");
        return r;
}

int store_manifest_format(const struct store_manifest *m, struct buf *out) {
        const struct store_facts *f = &m->facts;
        int r;

        r = buf_printf(out, "sparkd-model %u\nuid %u\nimported %" PRIu64 "\n",
                       has_weights(&f->weights) ? STORE_MANIFEST_VERSION : 1u, (unsigned)m->uid, m->imported_s);
        if (!r && m->pinned)
                r = buf_printf(out, "pinned by %u\n", (unsigned)m->pinned_by);
        else if (!r)
                r = buf_append_str(out, "pinned no\n");
        if (!r && *f->architecture)
                r = buf_printf(out, "architecture %s\n", f->architecture);
        if (!r && *f->format)
                r = buf_printf(out, "format %s\n", f->format);
        if (!r)
                r = buf_printf(out, "parameters %" PRIu64 "\nimage %" PRIu64 "\nkv %" PRIu64 "\ncontext %u\nvocabulary %u\n"
                               "template %s\n", f->parameters, f->image_bytes, f->kv_bytes_per_token, f->context,
                               f->vocabulary, f->has_chat_template ? "yes" : "no");
        if (!r)
                r = format_weights(&f->weights, out);
        for (size_t i = 0; i < m->n_files && !r; i++) {
                char line[sizeof(struct store_file) + 64];

                (void)file_line(&m->files[i], line, sizeof(line));
                r = buf_append_str(out, line);
        }
        return out_of_memory(close_text(out, r));
}

int store_name_format(const struct store_name *n, struct buf *out) {
        int r = buf_printf(out, "sparkd-name %u\nmodel %s\nuid %u\ncreated %" PRIu64 "\n", STORE_NAME_VERSION, n->id,
                           (unsigned)n->uid, n->created_s);

        return out_of_memory(close_text(out, r));
}

/* ---- reading ---- */

/* The lines of a text whose checksum is right, one after another: key and value are NUL-terminated in `line`. */
struct lines {
        const char *at, *end;
        char line[STORE_FILE_NAME_MAX + STORE_DIGEST_TEXT + 64];
        const char *value;
        struct store_fault *fault;
};

/* 0, or the fault. */
static int lines_begin(struct lines *l, const char *magic, unsigned newest, const char *data, size_t size,
                       struct store_fault *fault) {
        size_t n = strlen(magic);
        char end[END_LINE + 1];
        const char *p = data + n;
        unsigned version = 0;

        *l = (struct lines){ .fault = fault };
        if (size <= n || memcmp(data, magic, n) != 0)
                return damaged(fault, "it does not begin with '%s'", magic);
        for (; p < data + size && *p >= '0' && *p <= '9' && version < 100000; p++)
                version = version * 10 + (unsigned)(*p - '0');
        if (p == data + n || p == data + size || *p != '\n')
                return damaged(fault, "there is no version");
        if (version == 0 || version > newest) {
                (void)damaged(fault, "version is %u, not %u", version, newest);
                return STORE_MANIFEST_E_VERSION;
        }
        l->at = p + 1;
        if ((size_t)(data + size - l->at) < END_LINE)
                return damaged(fault, "it is cut off");
        l->end = data + size - END_LINE;
        (void)snprintf(end, sizeof(end), "end %08x\n", crc32c(0, (const uint8_t *)data, (size_t)(l->end - data)));
        if (memcmp(l->end, end, END_LINE) != 0)
                return damaged(fault, "checksum is wrong");
        return 0;
}

/* 1 = there is a line, 0 = that was all, or -1: fault. */
static int lines_next(struct lines *l) {
        const char *stop;
        size_t n;
        char *space;

        if (l->at == l->end)
                return 0;
        stop = memchr(l->at, '\n', (size_t)(l->end - l->at));
        n = stop ? (size_t)(stop - l->at) : 0;
        if (n == 0 || n >= sizeof(l->line) || memchr(l->at, 0, n)) {
                (void)damaged(l->fault, "a line is empty, too long, or not ended");
                return -1;
        }
        memcpy(l->line, l->at, n);
        l->line[n] = 0;
        l->at = stop + 1;
        space = strchr(l->line, ' ');
        if (!space) {
                (void)damaged(l->fault, "a line has no value");
                return -1;
        }
        *space = 0;
        l->value = space + 1;
        return 1;
}

static bool read_number(const char *text, uint64_t max, uint64_t *ret) {
        uint64_t v = 0;

        if (!*text || (text[0] == '0' && text[1]))
                return false;
        for (; *text; text++)
                if (*text < '0' || *text > '9' || !checked_mul_add(v, 10, (uint64_t)(*text - '0'), &v))
                        return false;
        *ret = v;
        return v <= max;
}

static bool read_u32(const char *text, uint32_t max, uint32_t *ret) {
        uint64_t v;

        if (!read_number(text, max, &v))
                return false;
        *ret = (uint32_t)v;
        return true;
}

/* A word that people are shown. */
static bool read_word(const char *text, char *out, size_t size) {
        size_t n = strlen(text);

        for (size_t i = 0; i < n; i++)
                if (text[i] <= 0x20 || text[i] >= 0x7f)
                        return false;
        return n > 0 && (size_t)snprintf(out, size, "%s", text) < size;
}

static bool read_yes(const char *text, bool *ret) {
        *ret = strcmp(text, "yes") == 0;
        return *ret || strcmp(text, "no") == 0;
}

static bool read_pin(const char *text, struct store_manifest *m) {
        uint32_t uid;

        m->pinned = strncmp(text, "by ", 3) == 0;
        if (!m->pinned)
                return strcmp(text, "no") == 0;
        if (!read_u32(text + 3, UINT32_MAX - 1, &uid))
                return false;
        m->pinned_by = uid;
        return true;
}

/* The next word of *text, up to a space, moved behind. */
static bool take_word(char **text, const char **ret) {
        char *space = strchr(*text, ' ');

        if (!space)
                return false;
        *space = 0;
        *ret = *text;
        *text = space + 1;
        return true;
}

static bool read_file(const char *value, struct store_manifest *m) {
        char copy[sizeof(((struct lines *)NULL)->line)], *rest = copy;
        struct store_file *f = &m->files[m->n_files];
        const char *role, *size, *digest;

        (void)snprintf(copy, sizeof(copy), "%s", value);
        if (m->n_files == STORE_FILES_MAX || !take_word(&rest, &role) || !take_word(&rest, &size) ||
            !take_word(&rest, &digest))
                return false;
        if (!store_role_valid(role) || !store_digest_valid(digest) || !store_file_name_valid(rest) ||
            !read_number(size, INT64_MAX, &f->size) || f->size == 0)
                return false;
        (void)snprintf(f->role, sizeof(f->role), "%s", role);
        (void)snprintf(f->digest, sizeof(f->digest), "%s", digest);
        (void)snprintf(f->name, sizeof(f->name), "%s", rest);
        m->n_files++;
        return true;
}

/* "123 246" */
static bool read_share(const char *text, struct loadlink_share *ret) {
        char copy[64], *rest = copy;
        const char *params;

        return snprintf(copy, sizeof(copy), "%s", text) < (int)sizeof(copy) && take_word(&rest, &params) &&
               read_number(params, UINT64_MAX, &ret->params) && read_number(rest, UINT64_MAX, &ret->bytes);
}

/* "attention 123 246" */
static bool read_weights(const char *text, struct weights *w) {
        const char *space = strchr(text, ' ');
        char kind[16];
        unsigned i;

        if (!space || snprintf(kind, sizeof(kind), "%.*s", (int)(space - text), text) >= (int)sizeof(kind))
                return false;
        i = weights_kind_find(kind);
        return i < LOADLINK_KINDS && read_share(space + 1, &w->kinds[i]);
}

static bool read_fact(const char *key, const char *value, struct store_facts *f) {
        if (strcmp(key, "architecture") == 0)
                return read_word(value, f->architecture, sizeof(f->architecture));
        if (strcmp(key, "format") == 0)
                return read_word(value, f->format, sizeof(f->format));
        if (strcmp(key, "parameters") == 0)
                return read_number(value, UINT64_MAX, &f->parameters);
        if (strcmp(key, "image") == 0)
                return read_number(value, UINT64_MAX, &f->image_bytes);
        if (strcmp(key, "kv") == 0)
                return read_number(value, UINT64_MAX, &f->kv_bytes_per_token);
        if (strcmp(key, "context") == 0)
                return read_u32(value, UINT32_MAX, &f->context);
        if (strcmp(key, "vocabulary") == 0)
                return read_u32(value, UINT32_MAX, &f->vocabulary);
        if (strcmp(key, "weights") == 0)
                return read_weights(value, &f->weights);
        if (strcmp(key, "coded") == 0)
                return read_share(value, &f->weights.coded);
        if (strcmp(key, "packed") == 0)
                return read_yes(value, &f->weights.packed);
        return strcmp(key, "template") == 0 && read_yes(value, &f->has_chat_template);
}

static bool read_line(const struct lines *l, struct store_manifest *m, bool *had_uid) {
        if (strcmp(l->line, "file") == 0)
                return read_file(l->value, m);
        if (strcmp(l->line, "uid") == 0)
                return *had_uid = read_u32(l->value, UINT32_MAX - 1, &m->uid);
        if (strcmp(l->line, "imported") == 0)
                return read_number(l->value, INT64_MAX, &m->imported_s);
        if (strcmp(l->line, "pinned") == 0)
                return read_pin(l->value, m);
        return read_fact(l->line, l->value, &m->facts);
}

static int manifest_read(struct lines *l, struct store_manifest *m) {
        struct loadlink_share sum;
        char id[STORE_DIGEST_TEXT + 1];
        bool had_uid = false;
        int r;

        while ((r = lines_next(l)) == 1)
                if (!read_line(l, m, &had_uid))
                        return damaged(l->fault, "'%.32s' makes no sense", l->line);
        if (r < 0)
                return STORE_MANIFEST_E_INVALID;
        if (m->n_files == 0 || !had_uid)
                return damaged(l->fault, "'%s' is missing", had_uid ? "file" : "uid");
        if (!weights_sum(&m->facts.weights, &sum))
                return damaged(l->fault, "'weights' makes no sense");
        store_manifest_id(m->files, m->n_files, id);
        if (strcmp(id, m->id) != 0 || store_manifest_bytes(m) == UINT64_MAX)
                return damaged(l->fault, "it is not the manifest of this model");
        return 0;
}

int store_manifest_parse(const char *id, const char *data, size_t size, struct store_manifest *ret,
                         struct store_fault *fault) {
        struct store_manifest m = { .n_files = 0 };
        struct lines lines;
        int r = lines_begin(&lines, "sparkd-model ", STORE_MANIFEST_VERSION, data, size, fault);

        if (r)
                return r;
        (void)snprintf(m.id, sizeof(m.id), "%s", id);
        m.files = calloc(STORE_FILES_MAX + 1, sizeof(*m.files));
        if (!m.files)
                return -ENOMEM;
        r = manifest_read(&lines, &m);
        if (r) {
                store_manifest_deinit(&m);
                return r;
        }
        *ret = m;
        return 0;
}

void store_manifest_deinit(struct store_manifest *m) {
        free(m->files);
        m->files = NULL;
        m->n_files = 0;
}

int store_name_parse(const char *name, const char *data, size_t size, struct store_name *ret, struct store_fault *fault) {
        struct store_name n = { .uid = (uid_t)-1 };
        struct lines l;
        int r = lines_begin(&l, "sparkd-name ", STORE_NAME_VERSION, data, size, fault);

        if (r)
                return r;
        while ((r = lines_next(&l)) == 1) {
                bool ok = false;

                if (strcmp(l.line, "model") == 0)
                        ok = store_digest_valid(l.value) && snprintf(n.id, sizeof(n.id), "%s", l.value) > 0;
                else if (strcmp(l.line, "uid") == 0)
                        ok = read_u32(l.value, UINT32_MAX - 1, &n.uid);
                else if (strcmp(l.line, "created") == 0)
                        ok = read_number(l.value, INT64_MAX, &n.created_s);
                if (!ok)
                        return damaged(fault, "'%.32s' makes no sense", l.line);
        }
        if (r < 0)
                return STORE_MANIFEST_E_INVALID;
        if (!*n.id || n.uid == (uid_t)-1)
                return damaged(fault, "'%s' is missing", *n.id ? "uid" : "model");
        (void)snprintf(n.name, sizeof(n.name), "%s", name);
        *ret = n;
        return 0;
}
