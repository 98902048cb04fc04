/* SPDX-License-Identifier: Apache-2.0 */

/* Typed access to metadata. Writers differ in the width of their integers, so any that holds the value will do. */

#include <math.h>
#include <string.h>

#include "gguf.h"

static const char *const type_names[GGUF_TYPE_N] = {
        [GGUF_UINT8] = "uint8",   [GGUF_INT8] = "int8",       [GGUF_UINT16] = "uint16", [GGUF_INT16] = "int16",
        [GGUF_UINT32] = "uint32", [GGUF_INT32] = "int32",     [GGUF_FLOAT32] = "float32", [GGUF_BOOL] = "bool",
        [GGUF_STRING] = "string", [GGUF_ARRAY] = "array",     [GGUF_UINT64] = "uint64", [GGUF_INT64] = "int64",
        [GGUF_FLOAT64] = "float64",
};

static int wrong_type(struct gguf *g, const char *key, const struct gguf_kv *kv, const char *wanted) {
        (void)loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu is of type %s%s%s instead of %s", key,
                          (unsigned long long)kv->offset, type_names[kv->type], kv->type == GGUF_ARRAY ? " of " : "",
                          kv->type == GGUF_ARRAY ? type_names[kv->elem] : "", wanted);
        return GGUF_E_FAULT;
}

/* False when it is no integer. Negative values set *ret_negative. */
static bool load_integer(const struct gguf *g, const struct gguf_kv *kv, uint64_t *ret, bool *ret_negative) {
        const char *p = g->data + kv->value;
        uint64_t v = 0;
        int64_t s = 0;
        int8_t s8;
        int16_t s16;
        int32_t s32;

        switch (kv->type) {
        case GGUF_UINT8:
                (void)memcpy(&v, p, 1);
                break;
        case GGUF_UINT16:
                (void)memcpy(&v, p, 2);
                break;
        case GGUF_UINT32:
                (void)memcpy(&v, p, 4);
                break;
        case GGUF_UINT64:
                (void)memcpy(&v, p, 8);
                break;
        case GGUF_INT8:
                (void)memcpy(&s8, p, 1);
                s = s8;
                break;
        case GGUF_INT16:
                (void)memcpy(&s16, p, 2);
                s = s16;
                break;
        case GGUF_INT32:
                (void)memcpy(&s32, p, 4);
                s = s32;
                break;
        case GGUF_INT64:
                (void)memcpy(&s, p, 8);
                break;
        default:
                return false;
        }
        *ret = s ? (uint64_t)s : v;
        *ret_negative = s < 0;
        return true;
}

int gguf_get_uint(struct gguf *g, const char *key, uint64_t min, uint64_t max, uint64_t *ret) {
        const struct gguf_kv *kv = gguf_find(g, key);
        bool negative = false;
        uint64_t v = 0;

        if (!kv)
                return GGUF_ABSENT;
        if (!load_integer(g, kv, &v, &negative))
                return wrong_type(g, key, kv, "an integer");
        if (negative || v < min || v > max) {
                (void)loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu is %s%llu; %llu to %llu is possible", key,
                                  (unsigned long long)kv->value, negative ? "-" : "",
                                  (unsigned long long)(negative ? 0 - v : v), (unsigned long long)min,
                                  (unsigned long long)max);
                return GGUF_E_FAULT;
        }
        *ret = v;
        return GGUF_FOUND;
}

int gguf_get_float(struct gguf *g, const char *key, float *ret) {
        const struct gguf_kv *kv = gguf_find(g, key);
        double d = 0;
        float f = 0;

        if (!kv)
                return GGUF_ABSENT;
        if (kv->type == GGUF_FLOAT32) {
                (void)memcpy(&f, g->data + kv->value, sizeof(f));
        } else if (kv->type == GGUF_FLOAT64) {
                (void)memcpy(&d, g->data + kv->value, sizeof(d));
                f = fabs(d) <= 3e38 ? (float)d : NAN;
        } else {
                return wrong_type(g, key, kv, "float32");
        }
        if (!isfinite(f)) {
                (void)loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu is no finite number", key,
                                  (unsigned long long)kv->value);
                return GGUF_E_FAULT;
        }
        *ret = f;
        return GGUF_FOUND;
}

int gguf_get_bool(struct gguf *g, const char *key, bool *ret) {
        const struct gguf_kv *kv = gguf_find(g, key);

        if (!kv)
                return GGUF_ABSENT;
        if (kv->type != GGUF_BOOL)
                return wrong_type(g, key, kv, "bool");
        *ret = g->data[kv->value] != 0;
        return GGUF_FOUND;
}

int gguf_get_string(struct gguf *g, const char *key, const char **ret, size_t *ret_n) {
        const struct gguf_kv *kv = gguf_find(g, key);

        if (!kv)
                return GGUF_ABSENT;
        if (kv->type != GGUF_STRING)
                return wrong_type(g, key, kv, "string");
        if (memchr(g->data + kv->value, 0, kv->n)) {
                (void)loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu has a NUL byte in it", key,
                                  (unsigned long long)kv->value);
                return GGUF_E_FAULT;
        }
        *ret = g->data + kv->value;
        *ret_n = kv->n;
        return GGUF_FOUND;
}

int gguf_get_array(struct gguf *g, const char *key, enum gguf_type elem, const struct gguf_kv **ret) {
        const struct gguf_kv *kv = gguf_find(g, key);

        if (!kv)
                return GGUF_ABSENT;
        if (kv->type != GGUF_ARRAY || kv->elem != elem)
                return wrong_type(g, key, kv, elem == GGUF_STRING ? "array of string" : "the array that it should be");
        *ret = kv;
        return GGUF_FOUND;
}
