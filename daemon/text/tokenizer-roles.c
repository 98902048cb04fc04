/* SPDX-License-Identifier: Apache-2.0 */

/* What tokens are beyond their type. Files leave out a good part of it, so that it must be told from the names. */

#include <ctype.h>
#include <string.h>

#include "base/macro.h"
#include "tokenizer-internal.h"

enum role {
        ROLE_CONTROL = 1, /* is a control token, whatever the file's type for it */
        ROLE_ENDS,        /* the same, and ends a generation */
};

static const struct {
        const char *name;
        enum role role;
} roles[] = {
        { "<|eot_id|>", ROLE_ENDS },
        { "<|im_end|>", ROLE_ENDS },
        { "<|end|>", ROLE_ENDS },
        { "<|return|>", ROLE_ENDS },
        { "<|call|>", ROLE_ENDS },
        { "<|flush|>", ROLE_ENDS },
        { "<|calls|>", ROLE_ENDS },
        { "<end_of_turn>", ROLE_ENDS },
        { "<|endoftext|>", ROLE_ENDS },
        { "</s>", ROLE_ENDS },
        { "<|eom_id|>", ROLE_ENDS },
        { "<EOT>", ROLE_ENDS },
        { "_<EOT>", ROLE_ENDS },
        { "[EOT]", ROLE_ENDS },
        { "[EOS]", ROLE_ENDS },
        { "<|end_of_text|>", ROLE_ENDS },
        { "<end_of_utterance>", ROLE_ENDS },
        { "<eos>", ROLE_ENDS },
        { "<turn|>", ROLE_ENDS },
        { "<|tool_response>", ROLE_ENDS },
        { "[e~[", ROLE_ENDS },
        { "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", ROLE_ENDS },
        /* fill in the middle: padding, repository and file separators end a generation, the others don't */
        { "<|fim_pad|>", ROLE_ENDS },
        { "<fim-pad>", ROLE_ENDS },
        { "<fim_pad>", ROLE_ENDS },
        { "<PAD>", ROLE_ENDS },
        { "[PAD]", ROLE_ENDS },
        { "<|fim_repo|>", ROLE_ENDS },
        { "<|repo_name|>", ROLE_ENDS },
        { "<fim-repo>", ROLE_ENDS },
        { "<REPO>", ROLE_ENDS },
        { "<reponame>", ROLE_ENDS },
        { "<|file_sep|>", ROLE_ENDS },
        { "<|fim_prefix|>", ROLE_CONTROL },
        { "<fim-prefix>", ROLE_CONTROL },
        { "<fim_prefix>", ROLE_CONTROL },
        { "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>", ROLE_CONTROL },
        { "<PRE>", ROLE_CONTROL },
        { "\xe2\x96\x81<PRE>", ROLE_CONTROL },
        { "<|code_prefix|>", ROLE_CONTROL },
        { "<|prefix|>", ROLE_CONTROL },
        { "<|fim_suffix|>", ROLE_CONTROL },
        { "<fim-suffix>", ROLE_CONTROL },
        { "<fim_suffix>", ROLE_CONTROL },
        { "<\xef\xbd\x9c" "fim\xe2\x96\x81hole\xef\xbd\x9c>", ROLE_CONTROL },
        { "<SUF>", ROLE_CONTROL },
        { "\xe2\x96\x81<SUF>", ROLE_CONTROL },
        { "<|code_suffix|>", ROLE_CONTROL },
        { "<|suffix|>", ROLE_CONTROL },
        { "<|fim_middle|>", ROLE_CONTROL },
        { "<fim-middle>", ROLE_CONTROL },
        { "<fim_middle>", ROLE_CONTROL },
        { "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>", ROLE_CONTROL },
        { "<MID>", ROLE_CONTROL },
        { "\xe2\x96\x81<MID>", ROLE_CONTROL },
        { "<|code_middle|>", ROLE_CONTROL },
        { "<|middle|>", ROLE_CONTROL },
};

static uint8_t flags_of_type(unsigned type) {
        switch (type) {
        case TOKEN_TYPE_NORMAL:
                return TOKEN_NORMAL;
        case TOKEN_TYPE_UNKNOWN:
                return TOKEN_UNKNOWN;
        case TOKEN_TYPE_CONTROL:
                return TOKEN_CONTROL;
        case TOKEN_TYPE_USER_DEFINED:
                return TOKEN_USER_DEFINED;
        case TOKEN_TYPE_BYTE:
                return TOKEN_BYTE;
        default:
                return 0;
        }
}

static uint32_t find_name(const struct tokenizer *t, const char *name) {
        return token_map_find(&t->map, name, strlen(name));
}

/* Harmony (gpt-oss) closes a message with <|end|> and goes on: it ends nothing where <|return|> and <|call|> do. */
static void unmark_harmony_end(struct tokenizer *t) {
        uint32_t end = find_name(t, "<|end|>"), call = find_name(t, "<|call|>");

        if (call == TOKEN_NONE)
                call = find_name(t, "<|calls|>");
        if (end == TOKEN_NONE || call == TOKEN_NONE)
                return;
        if (find_name(t, "<|return|>") != TOKEN_NONE || find_name(t, "<|flush|>") != TOKEN_NONE)
                t->flags[end] &= (uint8_t)~TOKEN_ENDS;
}

/* Gemma 4 has </s> as a piece of text. */
static void unmark_gemma_tag(struct tokenizer *t) {
        uint32_t tag = find_name(t, "</s>");

        if (tag != TOKEN_NONE && !t->def.exact && find_name(t, "<|tool_response>") != TOKEN_NONE)
                t->flags[tag] = TOKEN_NORMAL;
}

static int32_t valid_id(const struct tokenizer *t, int32_t id, int32_t otherwise) {
        if (id >= 0 && (uint32_t)id < t->n_tokens)
                return id;
        return otherwise >= 0 && (uint32_t)otherwise < t->n_tokens ? otherwise : -1;
}

static void assign_role(struct tokenizer *t, uint32_t id, enum role role) {
        uint8_t flags = TOKEN_CONTROL;

        if (t->def.exact) {
                flags = t->flags[id];
                if (!(flags & (TOKEN_CONTROL | TOKEN_USER_DEFINED))) /* a piece of text that looks like it */
                        return;
        }
        t->flags[id] = flags | (role == ROLE_ENDS ? TOKEN_ENDS : 0);
}

void tokenizer_assign_roles(struct tokenizer *t) {
        const struct tokenizer_def *def = &t->def;
        bool spm = t->model == TOKENIZER_SPM;
        int32_t ends[3];

        for (uint32_t id = 0; id < t->n_tokens; id++)
                t->flags[id] = def->types ? flags_of_type(def->types[id] & TOKEN_TYPE_MASK) : TOKEN_NORMAL;
        for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
                uint32_t id = find_name(t, roles[i].name);

                if (id != TOKEN_NONE)
                        assign_role(t, id, roles[i].role);
        }
        unmark_harmony_end(t);
        unmark_gemma_tag(t);
        t->bos = valid_id(t, def->bos, spm ? 1 : -1);
        t->eos = valid_id(t, def->eos, spm ? 2 : -1);
        t->unk = valid_id(t, def->unk, spm ? 0 : -1);
        t->add_eos = def->add_eos;
        ends[0] = t->eos;
        ends[1] = valid_id(t, def->eot, -1);
        ends[2] = valid_id(t, def->eom, -1);
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                if (ends[i] >= 0)
                        t->flags[ends[i]] |= TOKEN_ENDS;
}
