/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "weights.h"

static const char *const kind_names[LOADLINK_KINDS] = {
        [LOADLINK_KIND_EMBEDDING] = "embedding", [LOADLINK_KIND_ATTENTION] = "attention",
        [LOADLINK_KIND_FEED_FORWARD] = "feed_forward", [LOADLINK_KIND_EXPERTS] = "experts",
        [LOADLINK_KIND_OUTPUT] = "output", [LOADLINK_KIND_OTHER] = "other",
};

const char *weights_kind_name(unsigned kind) {
        return kind < LOADLINK_KINDS ? kind_names[kind] : NULL;
}

unsigned weights_kind_find(const char *name) {
        unsigned kind = 0;

        while (kind < LOADLINK_KINDS && strcmp(kind_names[kind], name) != 0)
                kind++;
        return kind;
}

bool weights_sum(const struct weights *w, struct loadlink_share *ret) {
        struct loadlink_share sum = { 0 };

        for (size_t i = 0; i < LOADLINK_KINDS; i++)
                if (!checked_add(sum.params, w->kinds[i].params, &sum.params) ||
                    !checked_add(sum.bytes, w->kinds[i].bytes, &sum.bytes))
                        return false;
        if (w->coded.params > sum.params || w->coded.bytes > sum.bytes)
                return false;
        *ret = sum;
        return true;
}

struct weights weights_of_plan(const struct loadlink_record *plan) {
        struct weights w = { .coded = plan->coded, .packed = plan->packed != 0, .estimated = plan->estimated != 0 };
        struct loadlink_share sum;

        (void)memcpy(w.kinds, plan->kinds, sizeof(w.kinds));
        return weights_sum(&w, &sum) ? w : (struct weights){ .packed = w.packed, .estimated = w.estimated };
}

float weights_bits(const struct weights *w) {
        struct loadlink_share sum;

        if (!weights_sum(w, &sum) || sum.params == 0)
                return 0;
        return (float)((double)sum.bytes * 8 / (double)sum.params);
}

Spark__V1__Weights *weights_show(const struct weights *w, struct weights_view *v) {
        struct loadlink_share sum;

        v->message = (Spark__V1__Weights)SPARK__V1__WEIGHTS__INIT;
        if (!weights_sum(w, &sum) || sum.params == 0)
                return NULL;
        v->message.kinds = v->list;
        for (unsigned i = 0; i < LOADLINK_KINDS; i++) {
                Spark__V1__TensorShare *share = &v->shares[v->message.n_kinds];

                if (w->kinds[i].params == 0 && w->kinds[i].bytes == 0)
                        continue;
                *share = (Spark__V1__TensorShare)SPARK__V1__TENSOR_SHARE__INIT;
                share->kind = (char *)kind_names[i];
                share->parameters = w->kinds[i].params;
                share->bytes = w->kinds[i].bytes;
                v->list[v->message.n_kinds++] = share;
        }
        v->message.parameters = sum.params;
        v->message.bytes = sum.bytes;
        v->message.coded_parameters = w->coded.params;
        v->message.coded_bytes = w->coded.bytes;
        v->message.packed = w->packed;
        v->message.estimated = w->estimated;
        return &v->message;
}
