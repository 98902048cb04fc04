/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>

#include "ctl.h"
#include "weights.h"

static double bits(uint64_t parameters, uint64_t bytes) {
        return parameters ? (double)bytes * 8 / (double)parameters : 0;
}

double weights_bits(const struct spark_weights *w) {
        return w ? bits(w->parameters, w->bytes) : 0;
}

void weights_print(const struct spark_weights *w) {
        char text[32], kind[24];

        if (!w || w->parameters == 0)
                return;
        (void)printf("bits          %.2f per weight%s", weights_bits(w), w->estimated ? " (estimated)" : "");
        if (w->coded_parameters > 0)
                (void)printf("; %.1f %% of them losslessly coded, in %.2f",
                             100.0 * (double)w->coded_parameters / (double)w->parameters,
                             bits(w->coded_parameters, w->coded_bytes));
        (void)printf("%s\n", w->packed ? "; packed" : "");
        for (size_t i = 0; i < w->n_kinds; i++) {
                const struct spark_tensor_share *k = w->kinds[i];

                (void)printf("  %-12s %5.1f %% of the bytes  %10s  %14llu parameters  %6.2f bits each\n",
                             format_safe(k->kind, kind, sizeof(kind)), w->bytes ? 100.0 * (double)k->bytes / (double)w->bytes : 0,
                             words_bytes(k->bytes, text), (unsigned long long)k->parameters, bits(k->parameters, k->bytes));
        }
}

void weights_json(struct json *j, const struct spark_weights *w) {
        if (w && w->parameters > 0)
                json_number(j, "bits_per_weight", weights_bits(w), 9);
        else
                json_null(j, "bits_per_weight");
        json_u64(j, "coded_parameters", w ? w->coded_parameters : 0);
        json_u64(j, "coded_bytes", w ? w->coded_bytes : 0);
        json_bool(j, "packed", w && w->packed);
        json_bool(j, "estimated", w && w->estimated);
        json_open(j, "kinds", '[');
        for (size_t i = 0; w && i < w->n_kinds; i++) {
                const struct spark_tensor_share *k = w->kinds[i];

                json_open(j, NULL, '{');
                json_string(j, "kind", k->kind);
                json_u64(j, "parameters", k->parameters);
                json_u64(j, "bytes", k->bytes);
                json_number(j, "bits_per_weight", bits(k->parameters, k->bytes), 9);
                json_number(j, "share", w->bytes ? (double)k->bytes / (double)w->bytes : 0, 9);
                json_close(j, '}');
        }
        json_close(j, ']');
}
