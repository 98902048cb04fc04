/* SPDX-License-Identifier: Apache-2.0 */

/* What comes in: a model's weights. An answer has any number of them; those of one are kept in a list. */

#include <errno.h>
#include <stdlib.h>

#include "internal.h"

struct shown_weights {
        struct shown_weights *next;
        struct spark_weights weights;
        struct spark_tensor_share *shares;
        const struct spark_tensor_share **list;
};

void shown_weights_free(struct shown_weights *all) {
        while (all) {
                struct shown_weights *next = all->next;

                free(all->shares);
                free(all->list);
                free(all);
                all = next;
        }
}

int weights_show(struct shown_weights **all, const Spark__V1__Weights *p, const struct spark_weights **ret) {
        struct shown_weights *w;

        if (!p) {
                *ret = NULL;
                return 0;
        }
        w = calloc(1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        w->next = *all;
        *all = w;
        w->shares = calloc(p->n_kinds + 1, sizeof(*w->shares));
        w->list = calloc(p->n_kinds + 1, sizeof(struct spark_tensor_share *));
        if (!w->shares || !w->list)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_kinds; i++) {
                const Spark__V1__TensorShare *k = p->kinds[i];

                w->shares[i] = (struct spark_tensor_share){ .kind = k->kind, .parameters = k->parameters, .bytes = k->bytes };
                w->list[i] = &w->shares[i];
        }
        w->weights = (struct spark_weights){
                .kinds = w->list,
                .n_kinds = p->n_kinds,
                .parameters = p->parameters,
                .bytes = p->bytes,
                .coded_parameters = p->coded_parameters,
                .coded_bytes = p->coded_bytes,
                .packed = p->packed,
                .estimated = p->estimated,
        };
        *ret = &w->weights;
        return 0;
}
