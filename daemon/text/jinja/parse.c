/* SPDX-License-Identifier: Apache-2.0 */

/* Statements, and what statements and expressions share. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "function.h"
#include "parse.h"

#define STATEMENT_DEPTH_MAX 100u

void parse_say(struct parser *p, uint32_t line, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(p->error->text, sizeof(p->error->text), fmt, ap);
        va_end(ap);
        p->error->line = line;
}

static int add_name(struct parser *p, const char *text, size_t n) {
        struct template *t = p->t;
        struct name *names;

        if (t->n_names == AST_NAMES_MAX) {
                parse_say(p, parse_current(p)->line, "too many names");
                return TEMPLATE_E_LIMIT;
        }
        if (t->n_names == t->cap_names) {
                t->cap_names = t->cap_names ? t->cap_names * 2 : 64;
                names = arena_calloc(&t->arena, t->cap_names, sizeof(*names));
                if (!names)
                        return parse_fail_memory(p, &t->arena);
                if (t->n_names)
                        memcpy(names, t->names, t->n_names * sizeof(*names));
                t->names = names;
        }
        t->names[t->n_names++] = (struct name){ .text = text, .n = n, .dict_method = function_is_dict_method(text, n) };
        return 0;
}

/* The number of a name: found by its FNV-1a hash in a table that is never more than half full. */
int parse_name_id(struct parser *p, const char *text, size_t n, uint32_t *ret) {
        const struct name *name;
        uint32_t slot = 2166136261u;
        int r;

        for (size_t i = 0; i < n; i++)
                slot = (slot ^ (unsigned char)text[i]) * 16777619u;
        for (slot ^= slot >> 16;; slot++) {
                slot %= ARRAY_SIZE(p->name_slots);
                if (!p->name_slots[slot])
                        break;
                name = &p->t->names[p->name_slots[slot] - 1];
                if (name->n == n && memcmp(name->text, text, n) == 0) {
                        *ret = p->name_slots[slot] - 1u;
                        return 0;
                }
        }
        r = add_name(p, text, n);
        if (r)
                return r;
        p->name_slots[slot] = (uint16_t)p->t->n_names;
        *ret = p->t->n_names - 1;
        return 0;
}

int parse_node(struct parser *p, enum node_kind kind, struct node **ret) {
        struct node *n = arena_calloc(&p->t->arena, 1, sizeof(*n));

        if (!n)
                return parse_fail_memory(p, &p->t->arena);
        n->kind = (uint8_t)kind;
        n->height = 1;
        n->line = parse_current(p)->line;
        *ret = n;
        return 0;
}

int parse_raise(struct parser *p, struct node *parent, const struct node *child) {
        if (child->height >= AST_HEIGHT_MAX) {
                parse_say(p, child->line, "nested too deeply");
                return TEMPLATE_E_LIMIT;
        }
        if (parent && parent->height <= child->height)
                parent->height = (uint16_t)(child->height + 1);
        return 0;
}

int parse_append(struct parser *p, struct node *parent, struct nodes *list, struct node *item) {
        struct node **items;

        if (list->n == list->cap) {
                list->cap = list->cap ? list->cap * 2 : 4;
                items = arena_calloc(&p->t->arena, list->cap, sizeof(*items));
                if (!items)
                        return parse_fail_memory(p, &p->t->arena);
                if (list->n)
                        memcpy(items, list->items, list->n * sizeof(*items));
                list->items = items;
        }
        list->items[list->n++] = item;
        return parse_raise(p, parent, item);
}

bool parse_skip(struct parser *p, enum token_kind kind) {
        if (parse_current(p)->kind != kind)
                return false;
        p->pos++;
        return true;
}

int parse_expect(struct parser *p, enum token_kind kind, const char *what) {
        if (parse_skip(p, kind))
                return 0;
        return parse_fail(p, parse_current(p)->line, "expected %s", what);
}

bool parse_is_name(const struct parser *p, const char *word) {
        const struct token *t = parse_current(p);

        return t->kind == T_NAME && t->n == strlen(word) && memcmp(t->text, word, t->n) == 0;
}

bool parse_skip_name(struct parser *p, const char *word) {
        if (!parse_is_name(p, word))
                return false;
        p->pos++;
        return true;
}

/* The body of a tag: expects the end of the tag, reads up to one of `ends`, and leaves that as the current token. */
static int tag_body(struct parser *p, struct node *owner, struct nodes *list, const char *const *ends) {
        int r;

        (void)parse_skip(p, T_COLON);
        r = parse_expect(p, T_BLOCK_END, "the end of the tag");
        return r ? r : parse_body(p, owner, list, ends);
}

/* The same, and steps over the one end. */
static int tag_whole_body(struct parser *p, struct node *owner, struct nodes *list, const char *end) {
        const char *const ends[] = { end, NULL };
        int r = tag_body(p, owner, list, ends);

        p->pos += !r;
        return r;
}

/* The same in a frame of its own, where an unknown filter is an error at once even inside of an if. */
static int tag_frame_body(struct parser *p, struct node *owner, struct nodes *list, const char *end) {
        bool soft = p->soft;
        int r;

        p->soft = false;
        r = tag_whole_body(p, owner, list, end);
        p->soft = soft;
        return r;
}

static int check_target(struct parser *p, const struct node *n) {
        if (n->kind == N_NAME || n->kind == N_NSREF)
                return 0;
        if (n->kind != N_TUPLE)
                return parse_fail(p, n->line, "can't assign to this");
        for (uint32_t i = 0; i < n->list.n; i++) {
                int r = check_target(p, n->list.items[i]);

                if (r)
                        return r;
        }
        return 0;
}

static int parse_assign_target(struct parser *p, unsigned flags, struct node *owner, struct node **ret) {
        int r = parse_tuple(p, TUPLE_SIMPLE | flags, ret);

        if (!r)
                r = check_target(p, *ret);
        return r ? r : parse_raise(p, owner, *ret);
}

static int parse_for(struct parser *p, struct node *n) {
        static const char *const ends[] = { "endfor", "else", NULL };
        bool soft = p->soft;
        int r;

        n->kind = N_FOR;
        r = parse_assign_target(p, TUPLE_END_IN, n, &n->a);
        if (!r && n->a->kind == N_NAME && n->a->name == p->t->loop)
                return parse_fail(p, n->line, "can't assign to the special loop variable");
        if (!r && !parse_skip_name(p, "in"))
                return parse_fail(p, n->line, "expected 'in'");
        if (!r)
                r = parse_tuple(p, TUPLE_NO_COND | TUPLE_END_RECURSIVE, &n->b);
        if (!r)
                r = parse_raise(p, n, n->b);
        if (!r && parse_skip_name(p, "if")) {
                r = parse_expression(p, true, &n->c);
                if (!r)
                        r = parse_raise(p, n, n->c);
        }
        if (r)
                return r;
        if (parse_skip_name(p, "recursive"))
                n->flags |= FOR_RECURSIVE;
        p->soft = false;
        p->loops++;
        r = tag_body(p, n, &n->body, ends);
        p->loops--;
        if (!r && parse_skip_name(p, "else"))
                r = tag_whole_body(p, n, &n->orelse, "endfor");
        else
                p->pos += !r;
        p->soft = soft;
        return r;
}

static int parse_if(struct parser *p, struct node *n) {
        static const char *const ends[] = { "elif", "else", "endif", NULL };
        struct node *branch;
        bool soft = p->soft;
        int r;

        n->kind = N_IF;
        do {
                p->soft = soft;
                r = parse_node(p, N_BRANCH, &branch);
                if (!r)
                        r = parse_tuple(p, TUPLE_NO_COND, &branch->a);
                if (!r)
                        r = parse_raise(p, branch, branch->a);
                p->soft = true;
                if (!r)
                        r = tag_body(p, branch, &branch->body, ends);
                if (!r)
                        r = parse_append(p, n, &n->list, branch);
        } while (!r && parse_skip_name(p, "elif"));
        if (!r && parse_skip_name(p, "else"))
                r = tag_whole_body(p, n, &n->body, "endif");
        else
                p->pos += !r;
        p->soft = soft;
        return r;
}

static int parse_set(struct parser *p, struct node *n) {
        int r = parse_assign_target(p, TUPLE_NAMESPACE, n, &n->a);

        if (r)
                return r;
        if (parse_skip(p, T_ASSIGN)) {
                n->kind = N_SET;
                r = parse_tuple(p, 0, &n->b);
                return r ? r : parse_raise(p, n, n->b);
        }
        n->kind = N_SETBLOCK;
        r = parse_filter_chain(p, NULL, false, &n->b);
        if (!r && n->b)
                r = parse_raise(p, n, n->b);
        return r ? r : tag_frame_body(p, n, &n->body, "endset");
}

static int parse_signature(struct parser *p, struct node *owner) {
        const struct token *t;
        struct node *param;
        bool defaults = false;
        int r = parse_expect(p, T_LPAREN, "'('");

        while (!r && parse_current(p)->kind != T_RPAREN) {
                if (owner->list.n)
                        r = parse_expect(p, T_COMMA, "','");
                t = parse_current(p);
                if (!r)
                        r = parse_node(p, N_PARAM, &param);
                if (!r)
                        r = parse_expect(p, T_NAME, "a parameter");
                if (!r)
                        r = parse_name_id(p, t->text, t->n, &param->name);
                if (r)
                        break;
                if (parse_skip(p, T_ASSIGN)) {
                        defaults = true;
                        r = parse_expression(p, true, &param->a);
                        if (!r)
                                r = parse_raise(p, param, param->a);
                } else if (defaults) {
                        return parse_fail(p, t->line, "non-default parameter follows default parameter");
                }
                if (!r)
                        r = parse_append(p, owner, &owner->list, param);
        }
        return r ? r : parse_expect(p, T_RPAREN, "')'");
}

/* The body of a macro or a call block: no loop of outside reaches in. */
static int parse_macro_body(struct parser *p, struct node *n, const char *end) {
        uint8_t *outer = p->macro_flags;
        unsigned loops = p->loops;
        bool soft = p->soft;
        int r;

        p->macro_flags = &n->flags;
        p->loops = 0;
        p->soft = false;
        r = tag_whole_body(p, n, &n->body, end);
        p->macro_flags = outer;
        p->loops = loops;
        p->soft = soft;
        if (outer)
                *outer |= n->flags;
        return r;
}

static int parse_macro(struct parser *p, struct node *n) {
        const struct token *t = parse_current(p);
        int r;

        n->kind = N_MACRO;
        r = parse_expect(p, T_NAME, "the macro's name");
        if (!r)
                r = parse_name_id(p, t->text, t->n, &n->name);
        if (!r)
                r = parse_signature(p, n);
        return r ? r : parse_macro_body(p, n, "endmacro");
}

static int parse_call_block(struct parser *p, struct node *n) {
        int r = 0;

        n->kind = N_CALLBLOCK;
        if (parse_current(p)->kind == T_LPAREN)
                r = parse_signature(p, n);
        if (!r)
                r = parse_expression(p, true, &n->a);
        if (!r && n->a->kind != N_CALL)
                return parse_fail(p, n->line, "expected a call");
        if (!r)
                r = parse_raise(p, n, n->a);
        return r ? r : parse_macro_body(p, n, "endcall");
}

static int parse_filter_block(struct parser *p, struct node *n) {
        int r;

        n->kind = N_FILTERBLOCK;
        r = parse_filter_chain(p, NULL, true, &n->b);
        if (!r)
                r = parse_raise(p, n, n->b);
        return r ? r : tag_frame_body(p, n, &n->body, "endfilter");
}

static int parse_with(struct parser *p, struct node *n) {
        struct node *target, *value;
        int r = 0;

        n->kind = N_WITH;
        while (!r && parse_current(p)->kind != T_BLOCK_END) {
                if (n->list.n)
                        r = parse_expect(p, T_COMMA, "','");
                if (!r)
                        r = parse_target(p, 0, &target);
                if (!r)
                        r = check_target(p, target);
                if (!r)
                        r = parse_expect(p, T_ASSIGN, "'='");
                if (!r)
                        r = parse_expression(p, true, &value);
                if (!r)
                        r = parse_append(p, n, &n->list, target);
                if (!r)
                        r = parse_append(p, n, &n->list, value);
        }
        return r ? r : tag_frame_body(p, n, &n->body, "endwith");
}

static int parse_block(struct parser *p, struct node *n) {
        int r;

        n->kind = N_SCOPE;
        r = parse_expect(p, T_NAME, "the block's name");
        (void)parse_skip_name(p, "scoped");
        (void)parse_skip_name(p, "required");
        if (!r)
                r = tag_whole_body(p, n, &n->body, "endblock");
        if (!r)
                (void)parse_skip(p, T_NAME);
        return r;
}

static int parse_generation(struct parser *p, struct node *n) {
        n->kind = N_GENERATION;
        return tag_whole_body(p, n, &n->body, "endgeneration");
}

static int parse_print(struct parser *p, struct node *n) {
        int r = parse_tuple(p, 0, &n->a);

        n->kind = N_PRINT;
        return r ? r : parse_raise(p, n, n->a);
}

static int parse_break(struct parser *p, struct node *n) {
        n->kind = N_BREAK;
        return p->loops ? 0 : parse_fail(p, n->line, "break outside of a loop");
}

static int parse_continue(struct parser *p, struct node *n) {
        n->kind = N_CONTINUE;
        return p->loops ? 0 : parse_fail(p, n->line, "continue outside of a loop");
}

/* Statements that load further templates: there are none, so they fail when they are reached. */
static int parse_unsupported(struct parser *p, struct node *n) {
        n->kind = N_UNSUPPORTED;
        while (parse_current(p)->kind != T_BLOCK_END && parse_current(p)->kind != T_END)
                p->pos++;
        return 0;
}

static int parse_autoescape(struct parser *p, struct node *n) {
        return parse_fail(p, n->line, "autoescape is not supported");
}

static int parse_statement(struct parser *p, struct node **ret) {
        static const struct {
                const char *word;
                int (*parse)(struct parser *p, struct node *n);
        } statements[] = {
                { "if", parse_if },           { "set", parse_set },
                { "for", parse_for },         { "macro", parse_macro },
                { "call", parse_call_block }, { "filter", parse_filter_block },
                { "with", parse_with },       { "block", parse_block },
                { "print", parse_print },     { "generation", parse_generation },
                { "break", parse_break },     { "continue", parse_continue },
                { "include", parse_unsupported }, { "import", parse_unsupported },
                { "from", parse_unsupported },    { "extends", parse_unsupported },
                { "autoescape", parse_autoescape },
        };
        const struct token *t = parse_current(p);
        int r;

        if (t->kind != T_NAME)
                return parse_fail(p, t->line, "expected a statement");
        r = parse_node(p, N_UNSUPPORTED, ret);
        if (r)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(statements); i++) {
                if (!parse_is_name(p, statements[i].word))
                        continue;
                r = parse_name_id(p, t->text, t->n, &(*ret)->name);
                p->pos++;
                if (!r)
                        r = statements[i].parse(p, *ret);
                return r ? r : parse_expect(p, T_BLOCK_END, "the end of the tag");
        }
        return parse_fail(p, t->line, "unknown tag '%.*s'", (int)MIN(t->n, 60u), t->text);
}

static int parse_output(struct parser *p, struct node **ret) {
        int r;

        r = parse_node(p, N_PRINT, ret);
        if (!r)
                r = parse_tuple(p, 0, &(*ret)->a);
        if (!r)
                r = parse_raise(p, *ret, (*ret)->a);
        return r ? r : parse_expect(p, T_VARIABLE_END, "the end of the expression");
}

static bool at_end(const struct parser *p, const char *const *ends) {
        for (; ends && *ends; ends++)
                if (parse_is_name(p, *ends))
                        return true;
        return false;
}

static int parse_text(struct parser *p, struct node **ret) {
        const struct token *t = parse_current(p);
        int r = parse_node(p, N_TEXT, ret);

        if (!r)
                (*ret)->value = VALUE_TEXT(t->text, t->n);
        p->pos++;
        return r;
}

int parse_body(struct parser *p, struct node *owner, struct nodes *list, const char *const *ends) {
        struct node *n = NULL;
        int r = 0;

        if (++p->depth > STATEMENT_DEPTH_MAX) {
                parse_say(p, parse_current(p)->line, "nested too deeply");
                return TEMPLATE_E_LIMIT;
        }
        while (!r) {
                const struct token *t = parse_current(p);

                if (t->kind == T_END) {
                        r = ends ? parse_fail(p, t->line, "'%s' is missing", ends[0]) : 0;
                        break;
                }
                p->pos += t->kind == T_BLOCK_BEGIN || t->kind == T_VARIABLE_BEGIN;
                if (t->kind == T_BLOCK_BEGIN && at_end(p, ends))
                        break;
                r = t->kind == T_DATA ? parse_text(p, &n)
                    : t->kind == T_VARIABLE_BEGIN ? parse_output(p, &n)
                                                  : parse_statement(p, &n);
                if (!r)
                        r = parse_append(p, owner, list, n);
        }
        p->depth--;
        return r;
}

static int parse_source(struct parser *p, const char *source, size_t size) {
        struct template *t = p->t;
        int r;

        r = lexer_run(p, source, size);
        if (!r)
                r = parse_name_id(p, "loop", 4, &t->loop);
        if (!r)
                r = parse_name_id(p, "caller", 6, &t->caller);
        if (!r)
                r = parse_name_id(p, "varargs", 7, &t->varargs);
        if (!r)
                r = parse_name_id(p, "kwargs", 6, &t->kwargs);
        return r ? r : parse_body(p, NULL, &t->body, NULL);
}

int template_parse(struct template **ret, const char *source, size_t size, struct template_error *error) {
        struct parser p = { .error = error };
        struct template *t;
        int r;

        *error = (struct template_error){ 0 };
        if (size > AST_SOURCE_MAX) {
                parse_say(&p, 0, "template is larger than %u bytes", AST_SOURCE_MAX);
                return TEMPLATE_E_LIMIT;
        }
        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        t->arena = ARENA_NULL(AST_MEMORY_MAX);
        p.t = t;
        r = parse_source(&p, source, size);
        if (r) {
                (void)template_free(t);
                return r;
        }
        *ret = t;
        return 0;
}

struct template *template_free(struct template *t) {
        if (t) {
                arena_deinit(&t->arena);
                free(t);
        }
        return NULL;
}
