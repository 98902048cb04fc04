/* SPDX-License-Identifier: Apache-2.0 */

/* The effective configuration, in the syntax of the file: what --check prints, which reads back as the same. */

#include <limits.h>
#include <string.h>

#include "config-private.h"

static void config_print_string(FILE *out, const char *s) {
        (void)fputc('"', out);
        for (; *s; s++) {
                if (*s == '"' || *s == '\\')
                        (void)fputc('\\', out);
                (void)fputc(*s, out);
        }
        (void)fputc('"', out);
}

void config_print_value(const void *base, const struct key *k, FILE *out) {
        const void *source = (const char *)base + k->offset;
        uint64_t v;

        if (k->type == KEY_STRING || k->type == KEY_PATH || k->type == KEY_ENUM) {
                config_print_string(out, *(char *const *)source);
                return;
        }
        v = *(const uint64_t *)source;
        if (k->type == KEY_INDEX) {
                const char *word = k->words;

                for (uint64_t i = k->min; i < v; i++)
                        word = strchr(word, ' ') + 1;
                (void)fprintf(out, "\"%.*s\"", (int)strcspn(word, " "), word);
        } else if (k->type == KEY_MODE) {
                (void)fprintf(out, "\"%04llo\"", (unsigned long long)v);
        } else {
                (void)fprintf(out, "%llu%s", (unsigned long long)v, v > INT_MAX ? "L" : "");
        }
}

static void print_key(const struct config *c, const struct key *k, FILE *out) {
        const char *indent = k->group ? "  " : "";

        if (k->type == KEY_SIZE && *(const uint64_t *)(const void *)((const char *)c + k->offset) == CONFIG_FLOOR_AUTO) {
                (void)fprintf(out, "%s# %s: chosen from the machine's memory\n", indent, k->name);
                return;
        }
        if (k->type == KEY_PATH && !**(char *const *)(const void *)((const char *)c + k->offset)) {
                (void)fprintf(out, "%s# %s: where it is installed\n", indent, k->name);
                return;
        }
        (void)fprintf(out, "%s%s = ", indent, k->name);
        config_print_value(c, k, out);
        (void)fputs(";\n", out);
}

static void print_models(const struct config *c, FILE *out) {
        (void)fputs("models = (", out);
        for (size_t i = 0; i < c->n_models; i++) {
                const struct config_model *m = &c->models[i];

                (void)fputs(i ? ",\n  { name = " : "\n  { name = ", out);
                config_print_string(out, m->name);
                if (*m->path) {
                        (void)fputs("; path = ", out);
                        config_print_string(out, m->path);
                }
                (void)fprintf(out, "; default = %s; context = %llu; lossless = %s;", m->is_default ? "true" : "false",
                              (unsigned long long)m->context, m->lossless ? "true" : "false");
                config_print_model_residency(m, out);
                (void)fputs(" }", out);
        }
        (void)fputs("\n);\n", out);
}

void config_print(const struct config *c, FILE *out) {
        const struct key *before = NULL, *k, *next;

        for (size_t i = 0; (k = config_key(i)); i++, before = k) {
                next = config_key(i + 1);
                if (k->group && (!before || !before->group || strcmp(before->group, k->group) != 0))
                        (void)fprintf(out, "%s = {\n", k->group);
                print_key(c, k, out);
                if (k->group && (!next || !next->group || strcmp(next->group, k->group) != 0))
                        (void)fputs("};\n", out);
        }
        config_print_users(c, out);
        print_models(c, out);
}
