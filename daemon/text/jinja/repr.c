/* SPDX-License-Identifier: Apache-2.0 */

/* Values as Python prints them: str() and repr(). */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "render.h"
#include "text.h"

static int emit_escape(struct render *r, uint32_t c) {
        char text[16];

        (void)snprintf(text, sizeof(text), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        return render_emit_str(r, text);
}

/* One character inside quotes; NULL text where it stands for itself. */
static int repr_char(struct render *r, const char *p, size_t len, uint32_t c, char quote) {
        if (c == (unsigned char)quote || c == '\\') {
                int k = render_emit(r, "\\", 1);

                return k ? k : render_emit(r, p, len);
        }
        if (c == '\n')
                return render_emit_str(r, "\\n");
        if (c == '\r')
                return render_emit_str(r, "\\r");
        if (c == '\t')
                return render_emit_str(r, "\\t");
        return emit_escape(r, c);
}

static int repr_text(struct render *r, const char *s, size_t n) {
        char quote = memchr(s, '\'', n) && !memchr(s, '"', n) ? '"' : '\'';
        size_t from = 0, i = 0, len;
        uint32_t c;
        int k = render_step(r, n * 2);

        if (!k)
                k = render_emit(r, &quote, 1);
        for (; !k && i < n; i += len) {
                len = text_decode(s + i, n - i, &c);
                if (char_is_printable(c) && c != (unsigned char)quote && c != '\\')
                        continue;
                k = render_emit(r, s + from, i - from);
                if (!k)
                        k = repr_char(r, s + i, len, c, quote);
                from = i + len;
        }
        if (!k)
                k = render_emit(r, s + from, n - from);
        return k ? k : render_emit(r, &quote, 1);
}

static int repr_items(struct render *r, const struct value *v, const char *open, const char *close) {
        struct list items;
        int k = value_iterate(r, v, &items);

        if (!k)
                k = render_emit_str(r, open);
        for (size_t i = 0; !k && i < items.n; i++) {
                if (i)
                        k = render_emit(r, ", ", 2);
                if (!k)
                        k = emit_repr(r, &items.items[i]);
        }
        if (!k && v->kind == V_TUPLE && items.n == 1)
                k = render_emit(r, ",", 1);
        return k ? k : render_emit_str(r, close);
}

static int repr_entries(struct render *r, const struct dict_entry *e, size_t n) {
        int k = render_emit(r, "{", 1);

        for (size_t i = 0; !k && i < n; i++) {
                if (i)
                        k = render_emit(r, ", ", 2);
                if (!k)
                        k = emit_repr(r, &e[i].key);
                if (!k)
                        k = render_emit(r, ": ", 2);
                if (!k)
                        k = emit_repr(r, &e[i].value);
        }
        return k ? k : render_emit(r, "}", 1);
}

static int repr_range(struct render *r, const struct range *g) {
        char text[96];

        if (g->step == 1)
                (void)snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ")", g->start, g->stop);
        else
                (void)snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", g->start, g->stop, g->step);
        return render_emit_str(r, text);
}

static int repr_markup(struct render *r, const struct value *v) {
        int k = render_emit_str(r, "Markup(");

        if (!k)
                k = repr_text(r, v->text, v->n);
        return k ? k : render_emit(r, ")", 1);
}

static int repr_namespace(struct render *r, const struct namespace *n) {
        int k = render_emit_str(r, "<Namespace ");

        if (!k)
                k = repr_entries(r, n->entries, n->n);
        return k ? k : render_emit(r, ">", 1);
}

/* Things that Python prints with their address: the kind is as much as anybody can rely on. */
static int repr_object(struct render *r, const struct value *v) {
        int k = render_emit(r, "<", 1);

        if (!k)
                k = render_emit_str(r, v->kind == V_ITER ? v->iter->name : value_type_name(v));
        if (!k && v->kind == V_MACRO && v->macro->node->kind == N_MACRO) {
                const struct name *name = &r->t->names[v->macro->node->name];

                k = render_emit(r, " ", 1);
                if (!k)
                        k = repr_text(r, name->text, name->n);
        }
        return k ? k : render_emit(r, ">", 1);
}

static int repr_number(struct render *r, const struct value *v) {
        char text[FLOAT_REPR_MAX];

        if (v->kind == V_BIG)
                return render_emit(r, v->text, v->n);
        if (v->kind == V_BOOL)
                return render_emit_str(r, v->boolean ? "True" : "False");
        if (v->kind == V_FLOAT) {
                int k = render_step(r, STEP_NUMBER);

                return k ? k : render_emit(r, text, json_format_double(v->number, text));
        }
        return render_emit(r, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, v->integer));
}

static int repr_deep(struct render *r, const struct value *v) {
        switch (v->kind) {
        case V_UNDEFINED:
                return render_emit_str(r, "Undefined");
        case V_NONE:
                return render_emit_str(r, "None");
        case V_BOOL:
        case V_INT:
        case V_BIG:
        case V_FLOAT:
                return repr_number(r, v);
        case V_STRING:
                return v->flags & VALUE_MARKUP ? repr_markup(r, v) : repr_text(r, v->text, v->n);
        case V_LIST:
                return repr_items(r, v, "[", "]");
        case V_TUPLE:
                return repr_items(r, v, "(", ")");
        case V_DICT:
                return repr_entries(r, v->dict->entries, v->dict->n);
        case V_KEYS:
                return repr_items(r, v, "dict_keys([", "])");
        case V_VALUES:
                return repr_items(r, v, "dict_values([", "])");
        case V_ITEMS:
                return repr_items(r, v, "dict_items([", "])");
        case V_RANGE:
                return repr_range(r, v->range);
        case V_NAMESPACE:
                return repr_namespace(r, v->namespace);
        default:
                return repr_object(r, v);
        }
}

int emit_repr(struct render *r, const struct value *v) {
        int k = render_enter(r);

        if (!k)
                k = repr_deep(r, v);
        render_leave(r);
        return k;
}

int emit_str(struct render *r, const struct value *v) {
        if (v->kind == V_STRING)
                return render_emit(r, v->text, v->n);
        if (v->kind == V_UNDEFINED)
                return 0;
        return emit_repr(r, v);
}

int value_str(struct render *r, const struct value *v, struct value *ret) {
        size_t mark = render_mark(r);

        if (v->kind == V_STRING) {
                *ret = *v;
                return 0;
        }
        return render_take(r, mark, emit_str(r, v), ret);
}
