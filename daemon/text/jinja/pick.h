/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* `attribute=` of filters: a path of names and numbers between dots, looked up as items. */

#include "render.h"

struct pick {
        const struct value *path; /* V_MISSING or none: the item itself */
        const struct value *missing; /* what stands for an undefined; may be NULL */
        bool fold;                /* strings in lower case, for comparing */
};

int pick_value(struct render *r, const struct pick *p, const struct value *item, struct value *ret);
/* All items picked, with a copy of the list of items in *ret_items where that is not NULL. */
int pick_list(struct render *r, const struct pick *p, const struct list *items, struct list **ret);
