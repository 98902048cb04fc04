/* SPDX-License-Identifier: Apache-2.0 */

/* Variables. Scopes nest as the source does: loops, macros and with-blocks open one, `if` does not. */

#include <string.h>

#include "render.h"

int scope_push(struct render *r, struct scope *parent, struct scope **ret) {
        struct scope *s;
        int k = render_alloc(r, 1, sizeof(*s), &s);

        if (k)
                return k;
        s->parent = parent;
        *ret = s;
        return 0;
}

int scope_set(struct render *r, struct scope *s, uint32_t name, const struct value *v) {
        struct binding *b;
        uint32_t cap;
        int k;

        for (uint32_t i = 0; i < s->n; i++)
                if (s->bindings[i].name == name) {
                        s->bindings[i].value = *v;
                        return render_step(r, i / 8);
                }
        if (s->n == s->cap) {
                cap = s->cap ? s->cap * 2 : 8;
                k = render_alloc(r, cap, sizeof(*b), &b);
                if (k)
                        return k;
                if (s->n)
                        memcpy(b, s->bindings, s->n * sizeof(*b));
                s->bindings = b;
                s->cap = cap;
        }
        s->bindings[s->n++] = (struct binding){ .name = name, .value = *v };
        return render_step(r, s->n / 8);
}

void scope_get(struct render *r, uint32_t name, struct value *ret) {
        for (const struct scope *s = r->scope; s; s = s->parent) {
                uint64_t cost = s->n / 8;

                r->steps -= MIN(r->steps, cost);
                for (uint32_t i = 0; i < s->n; i++)
                        if (s->bindings[i].name == name) {
                                *ret = s->bindings[i].value;
                                return;
                        }
        }
        *ret = r->globals[name];
}

void scope_capture(struct scope *s) {
        for (; s && !s->captured; s = s->parent)
                s->captured = true;
}
