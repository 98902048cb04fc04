/* SPDX-License-Identifier: Apache-2.0 */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/checked.h"
#include "ctl.h"
#include "load-plan.h"
#include "weights.h"

#define GIB (1024.0 * 1024 * 1024)

static void row(const char *what, double bytes) {
        (void)printf("  %-44s %10.3f GiB\n", what, bytes / GIB);
}

static double total_of(const struct spark_load_result *r) {
        return (double)r->image_bytes + (double)r->kv_bytes + (double)r->engine_bytes;
}

static void print_head(const struct spark_load_result *r) {
        char name[80], architecture[80], format[48];
        bool large = r->parameters >= 1000000000u;

        (void)printf("%s", format_safe(r->model, name, sizeof(name)));
        if (*r->architecture)
                (void)printf(": %s, %.1f %s parameters, %s", format_safe(r->architecture, architecture, sizeof(architecture)),
                             (double)r->parameters / (large ? 1e9 : 1e6), large ? "billion" : "million",
                             format_safe(r->format, format, sizeof(format)));
        if (r->weights && r->weights->parameters)
                (void)printf(", %s%.2f bits per weight", r->weights->estimated ? "about " : "", weights_bits(r->weights));
        (void)printf("\n");
}

void load_plan_print(const struct spark_load_result *r) {
        char format[32], text[96];

        print_head(r);
        row(r->weights && r->weights->estimated ? "weights (estimated)" : "weights", (double)r->image_bytes);
        (void)snprintf(text, sizeof(text), "KV cache for %" PRIu64 " tokens, %s", r->kv_tokens,
                       format_safe(r->kv_format, format, sizeof(format)));
        row(text, (double)r->kv_bytes);
        row("activations and logits", (double)r->engine_bytes);
        row("together", total_of(r));
        row(r->memory_bytes ? "of the machine that was asked about" : "available", (double)r->available_bytes);
        row("  kept free (the floor)", (double)r->floor_bytes);
        if (r->promised_bytes > 0)
                row("  promised to others", (double)r->promised_bytes);
        if (r->left_bytes < 0)
                row("missing", -(double)r->left_bytes);
        else
                row("left above the floor", (double)r->left_bytes);
        row("1,000 tokens of KV cache", (double)r->kv_bytes_per_1000_tokens);
        if (r->fits)
                (void)printf("It fits, with a context of %" PRIu32 " tokens; %" PRIu32 " would be the most.\n", r->context,
                             r->context_max);
        else if (r->context_max > 0)
                (void)printf("It does not fit. With a context of %" PRIu32 " tokens it would.\n", r->context_max);
        else
                (void)printf("It does not fit, with any context.\n");
}

void load_plan_json(struct json *j, const struct spark_load_result *r, bool dry_run) {
        uint64_t total;

        if (!checked_add(r->image_bytes, r->kv_bytes, &total) || !checked_add(total, r->engine_bytes, &total))
                total = UINT64_MAX;
        json_string(j, "model", r->model);
        json_bool(j, "dry_run", dry_run);
        json_u64(j, "image_bytes", r->image_bytes);
        json_u64(j, "kv_bytes", r->kv_bytes);
        json_u64(j, "available_bytes", r->available_bytes);
        json_u64(j, "floor_bytes", r->floor_bytes);
        json_number(j, "load_ms", (double)r->load_ms, 9);
        json_bool(j, "fits", r->fits != 0);
        json_string(j, "architecture", r->architecture);
        json_string(j, "format", r->format);
        json_u64(j, "parameters", r->parameters);
        json_u64(j, "engine_bytes", r->engine_bytes);
        json_u64(j, "total_bytes", total);
        json_string(j, "kv_format", r->kv_format);
        json_u64(j, "kv_bytes_per_1000_tokens", r->kv_bytes_per_1000_tokens);
        json_u64(j, "kv_tokens", r->kv_tokens);
        json_u64(j, "context", r->context);
        json_u64(j, "context_max", r->context_max);
        json_u64(j, "promised_bytes", r->promised_bytes);
        json_i64(j, "left_bytes", r->left_bytes);
        json_u64(j, "memory_bytes", r->memory_bytes);
        json_bool(j, "lossless", r->weights && r->weights->coded_parameters > 0);
        weights_json(j, r->weights);
}
