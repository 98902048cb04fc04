/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tokenizes records and prints what came out, one JSON line a record, for comparison with llama.cpp's tokenizer. Where
 * that one has ways of its own we follow them here and nowhere else: bytes that are no UTF-8 (TOKENIZE_LENIENT), and
 * the tidying of spaces that its whole-text detokenizer does for some models.
 */

#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/macro.h"
#include "bench.h"
#include "daemon/engine/vocab.h"
#include "daemon/image/image.h"
#include "daemon/loader/load.h"
#include "daemon/text/tokenizer.h"

#define TEXT_LIMIT (1u << 30)

struct subject {
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct image image;
        struct tokenizer *tokenizer;
};

static void subject_close(struct subject *m) {
        m->tokenizer = tokenizer_free(m->tokenizer);
        image_close(&m->image);
        for (size_t i = 0; i < m->n_fds; i++)
                m->fds[i] = fd_close(m->fds[i]);
}

/* Returns an exit status, after saying what is wrong. */
static int fail(const char *path, const char *text) {
        (void)fprintf(stderr, "spark-bench: %s: %s\n", path, text);
        return 65;
}

static int subject_open(struct subject *m, const char *path) {
        struct loader_error loader_error = { 0 };
        struct image_error image_error = { 0 };
        struct text_error text_error = { 0 };
        struct tokenizer_def def;
        int r;

        r = loader_load_path(path, m->fds, &m->n_fds, &loader_error);
        if (r)
                return fail(path, r < 0 ? strerror(-r) : loader_error.text);
        r = image_open(&m->image, m->fds, m->n_fds, &image_error);
        if (r)
                return fail(path, r < 0 ? strerror(-r) : image_error.text);
        if (vocab_to_tokenizer_def(&m->image, &def))
                return fail(path, "there is no vocabulary in it");
        r = tokenizer_new(&m->tokenizer, &def, &text_error);
        if (r)
                return fail(path, r < 0 ? strerror(-r) : text_error.text);
        return 0;
}

static bool begins(const struct buf *b, size_t at, const char *s) {
        size_t n = strlen(s);

        return b->len - at >= n && memcmp(b->data + at, s, n) == 0;
}

static bool begins_any(const struct buf *b, size_t at, const char *const *texts, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (begins(b, at, texts[i]))
                        return true;
        return false;
}

/* Takes away the first character, a space, of each of these texts. */
static void drop_spaces(struct buf *b, const char *const *texts, size_t n) {
        size_t len = 0;

        for (size_t i = 0; i < b->len; i++)
                if (!begins_any(b, i, texts, n))
                        b->data[len++] = b->data[i];
        b->len = len;
}

/* " ' " becomes "'". */
static void close_apostrophes(struct buf *b) {
        size_t len = 0;

        for (size_t i = 0; i < b->len; i++) {
                if (begins(b, i, " ' ")) {
                        b->data[len++] = '\'';
                        i += 2;
                } else
                        b->data[len++] = b->data[i];
        }
        b->len = len;
}

static void clean_spaces(struct buf *b) {
        static const char *const marks[] = { " ?", " !", " .", " ," };
        static const char *const contractions[] = { " 's", " 'm", " 're", " 've" };

        drop_spaces(b, marks, ARRAY_SIZE(marks));
        close_apostrophes(b);
        drop_spaces(b, contractions, ARRAY_SIZE(contractions));
}

static void print_ids(const char *key, const struct token_array *ids, int r) {
        (void)printf(",\"%s\":", key);
        if (r) {
                (void)printf("null");
                return;
        }
        (void)putchar('[');
        for (size_t i = 0; i < ids->n; i++)
                (void)printf("%s%d", i ? "," : "", ids->ids[i]);
        (void)putchar(']');
}

static void print_text(const char *key, const struct tokenizer *t, const struct token_array *ids, bool special, int r) {
        struct buf text = BUF_NULL(TEXT_LIMIT);

        if (r == 0)
                r = tokenizer_decode(t, ids->ids, ids->n, special, &text);
        (void)printf(",\"%s\":", key);
        if (r)
                (void)printf("null");
        else {
                if (tokenizer_cleans_spaces(t))
                        clean_spaces(&text);
                (void)putchar('"');
                for (size_t i = 0; i < text.len; i++)
                        (void)printf("%02x", (unsigned char)text.data[i]);
                (void)putchar('"');
        }
        buf_deinit(&text);
}

static void print_record(const struct tokenizer *t, size_t i, const char *text, size_t n) {
        struct token_array plain = { 0 }, full = { 0 };
        int r_plain, r_full;

        r_plain = tokenizer_encode(t, text, n, TOKENIZE_LENIENT, &plain);
        r_full = tokenizer_encode(t, text, n, TOKENIZE_LENIENT | TOKENIZE_SPECIAL | TOKENIZE_BOS_EOS, &full);
        (void)printf("{\"i\":%zu", i);
        print_ids("plain", &plain, r_plain);
        print_ids("full", &full, r_full);
        print_text("detok", t, &plain, false, r_plain);
        print_text("detok_special", t, &full, true, r_full);
        (void)printf("}\n");
        token_array_deinit(&plain);
        token_array_deinit(&full);
}

/* Reads one record: u32 little-endian length, then that many bytes. 1, 0 at the end of the file, or -errno. */
static int read_record(FILE *f, uint64_t left, struct buf *record) {
        uint32_t length;
        size_t n;

        n = fread(&length, 1, sizeof(length), f);
        if (n == 0 && feof(f))
                return 0;
        if (n != sizeof(length))
                return ferror(f) ? -EIO : -EBADMSG;
        length = le32toh(length);
        buf_clear(record);
        if (length > left || buf_reserve(record, length))
                return -EBADMSG;
        if (length && fread(record->data, 1, length, f) != length)
                return ferror(f) ? -EIO : -EBADMSG;
        record->len = length;
        return 1;
}

/* The fastest of a few runs. */
static void time_record(const struct tokenizer *t, size_t i, const char *text, size_t n) {
        struct token_array ids = { 0 };
        double best = 0;
        int r = 0;

        for (int run = 0; r == 0 && run < 3; run++) {
                struct timespec from, to;
                double ms;

                ids.n = 0;
                (void)clock_gettime(CLOCK_MONOTONIC, &from);
                r = tokenizer_encode(t, text, n, TOKENIZE_SPECIAL, &ids);
                (void)clock_gettime(CLOCK_MONOTONIC, &to);
                ms = (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
                best = run == 0 || ms < best ? ms : best;
        }
        (void)printf("{\"i\":%zu,\"bytes\":%zu,\"tokens\":%zu,\"ms\":%.2f}\n", i, n, ids.n, best);
        token_array_deinit(&ids);
}

static int run_records(const struct tokenizer *t, const char *path, bool timed) {
        struct buf record = BUF_NULL(TEXT_LIMIT);
        struct stat st;
        size_t i = 0;
        FILE *f;
        int r;

        f = fopen(path, "re");
        if (!f || fstat(fileno(f), &st) < 0) {
                r = fail(path, strerror(errno));
                if (f)
                        (void)fclose(f);
                return r;
        }
        while ((r = read_record(f, (uint64_t)st.st_size, &record)) > 0)
                (timed ? time_record : print_record)(t, i++, record.data ? record.data : "", record.len);
        (void)fclose(f);
        buf_deinit(&record);
        if (r == -EBADMSG)
                return fail(path, "a record is cut short");
        if (r < 0)
                return fail(path, strerror(-r));
        return fflush(stdout) == 0 ? 0 : 1;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench tokenize [-t] -m FILE RECORDS\n\n"
                         "FILE is a GGUF model (a vocabulary is enough); RECORDS holds texts, each a 32-bit\n"
                         "little-endian length and so many bytes. Prints one JSON object a line: i; plain: ids of\n"
                         "the text alone; full: ids with BOS/EOS and special tokens; detok, detok_special: their\n"
                         "text, in hexadecimal. With -t it prints how long each took instead: bytes, tokens, ms.\n");
        return status;
}

int bench_tokenize_main(int argc, char **argv) {
        static const struct option options[] = {
                { "model", required_argument, NULL, 'm' },
                { "time", no_argument, NULL, 't' },
                { "help", no_argument, NULL, 'h' },
                { 0 },
        };
        struct subject subject = { 0 };
        const char *path = NULL;
        bool timed = false;
        int c, r;

        while ((c = getopt_long(argc, argv, "m:th", options, NULL)) >= 0) {
                if (c == 'h')
                        return usage(stdout, 0);
                if (c == 't')
                        timed = true;
                else if (c == 'm')
                        path = optarg;
                else
                        return usage(stderr, 64);
        }
        if (!path || optind + 1 != argc)
                return usage(stderr, 64);
        r = subject_open(&subject, path);
        if (r == 0)
                r = run_records(subject.tokenizer, argv[optind], timed);
        subject_close(&subject);
        return r;
}
