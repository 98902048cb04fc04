/* SPDX-License-Identifier: Apache-2.0 */

#include <stddef.h>

#include "base/macro.h"
#include "client/spark.h"
#include "load-stats.h"

static const int codes[LOAD_ERRORS] = {
        0, SPARK_INVALID_ARGUMENT, SPARK_INVALID_UTF8, SPARK_CONTEXT_OVERFLOW, SPARK_MODEL_NOT_FOUND,
        SPARK_MODEL_INVALID, SPARK_BUSY, SPARK_QUOTA_EXCEEDED, SPARK_PERMISSION_DENIED, SPARK_NO_MEMORY,
        SPARK_CANCELLED, SPARK_SLOW_READER, SPARK_DEFERRED_ON_BATTERY, SPARK_ENGINE_LOST, SPARK_STOPPING,
        SPARK_UNIMPLEMENTED, SPARK_INTERNAL, SPARK_DISCONNECTED, SPARK_PROTOCOL,
};

static const size_t sample_fields[] = {
        offsetof(struct load_stats, connect), offsetof(struct load_stats, ttft),   offsetof(struct load_stats, gap),
        offsetof(struct load_stats, queue),   offsetof(struct load_stats, cancel), offsetof(struct load_stats, total),
};

static struct samples *field(struct load_stats *s, size_t i) {
        return (struct samples *)((char *)s + sample_fields[i]);
}

static const struct samples *const_field(const struct load_stats *s, size_t i) {
        return (const struct samples *)((const char *)s + sample_fields[i]);
}

size_t load_error_place(int code) {
        for (size_t i = 1; i < LOAD_ERRORS; i++)
                if (codes[i] == code)
                        return i;
        return 0;
}

const char *load_error_name(size_t place) {
        return spark_code_name(place < LOAD_ERRORS ? codes[place] : 0);
}

void load_stats_deinit(struct load_stats *s) {
        for (size_t i = 0; i < ARRAY_SIZE(sample_fields); i++)
                samples_deinit(field(s, i));
}

void load_stats_reset(struct load_stats *s) {
        struct samples connect = s->connect;

        s->connect = (struct samples){ 0 };
        load_stats_deinit(s);
        *s = (struct load_stats){ .connect = connect };
}

int load_stats_add(struct load_stats *s, const struct load_stats *more) {
        int r = 0;

        s->requests += more->requests;
        s->failed += more->failed;
        s->cancelled += more->cancelled;
        s->cut += more->cut;
        s->tokens += more->tokens;
        s->prompt_tokens += more->prompt_tokens;
        s->cached_tokens += more->cached_tokens;
        s->asked += more->asked;
        for (size_t i = 0; i < LOAD_ERRORS; i++)
                s->errors[i] += more->errors[i];
        for (size_t i = 0; i < ARRAY_SIZE(sample_fields) && r == 0; i++)
                r = samples_add_all(field(s, i), const_field(more, i));
        return r;
}

void load_stats_count_error(struct load_stats *s, int code) {
        s->failed++;
        s->errors[load_error_place(code)]++;
}

/* FNV-1a over the prompt and the length. */
void load_stats_count_asked(struct load_stats *s, const char *prompt, size_t prompt_size, uint32_t tokens) {
        uint64_t h = 0xcbf29ce484222325u;

        for (size_t i = 0; i < prompt_size; i++)
                h = (h ^ (unsigned char)prompt[i]) * 0x100000001b3u;
        s->asked += (h ^ tokens) * 0x100000001b3u;
}

uint64_t load_stats_served(const struct load_stats *s) {
        return s->tokens + (s->prompt_tokens > s->cached_tokens ? s->prompt_tokens - s->cached_tokens : 0);
}

double load_jain(const double *x, size_t n) {
        double sum = 0, squares = 0;

        for (size_t i = 0; i < n; i++) {
                sum += x[i];
                squares += x[i] * x[i];
        }
        return squares > 0 ? sum * sum / (squares * (double)n) : 0;
}
