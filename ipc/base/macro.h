/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Small macros that every room uses: cleanup attributes, array sizes, container_of. No state, no dependency.
 *
 * Cleanup: `_cleanup_(foo_freep) struct foo *x = NULL;` with DEFINE_CLEANUP(struct foo *, foo_free), and
 * `*ret = steal_ptr(&x)` to hand ownership on.
 */

#include <stddef.h>
#include <stdlib.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _const_ __attribute__((const))
#define _pure_ __attribute__((pure))
#define _unused_ __attribute__((unused))
#define _warn_unused_ __attribute__((warn_unused_result))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define MIN(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a < _b ? _a : _b; })
#define MAX(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a > _b ? _a : _b; })

/* Defines `static inline void fnp(type *p)`: calls fn on what p holds unless it is NULL. */
#define DEFINE_CLEANUP(type, fn)                   \
        static inline void fn##p(type *p) {        \
                if (*p)                            \
                        (void)fn(*p);              \
        }

#define steal_ptr(pp) ({ __auto_type _pp = (pp); __auto_type _v = *_pp; *_pp = NULL; _v; })

static inline void freep(void *p) {
        free(*(void **)p);
}
#define _cleanup_free_ _cleanup_(freep)
