/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pre-tokenizers are sequences of steps. Each step that we know has a word for it ("split:llama3", "digit"), the words of
 * all steps make a phrase, and the phrase names one of our pre-tokenizers. Expressions are compared as text: there is
 * nothing here that understands them.
 */

#include <stdio.h>
#include <string.h>

#include "base/macro.h"

#include "hf-scheme.h"

#define METASPACE "\xe2\x96\x81"

#define FOLD "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define FOLD_2 "'(?i:[sdmt]|ll|ve|re)"
#define FOLD_3 "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define WORD "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define WORD_2 "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+"
#define MARKS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define MARKS_2 "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TAIL_2 "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define PREFIX "[^\\r\\n\\p{L}\\p{N}]?"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(also) PREFIX UPPER "*" LOWER "+" also "|" PREFIX UPPER "+" LOWER "*" also
#define MARKS_SLASH "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define DEEPSEEK_LETTERS \
        "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-" \
        "ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-" \
        "ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭ" \
        "Ꚁ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"

/* `whole`: every text falls into matches, so that what is between them may as well be removed. */
static const struct {
        const char *expression;
        const char *word;
        bool whole;
} expressions[] = {
        { GPT2, "gpt2", false },
        { GPT2 "|\\s+", "gpt2", true },
        { FOLD WORD "|\\p{N}{1,3}" MARKS TAIL, "llama3", true },
        { FOLD_2 WORD_2 "|\\p{N}{1,3}" MARKS_2 TAIL_2, "llama3", true },
        { FOLD_3 WORD "|\\p{N}{1,3}" MARKS TAIL, "llama3", true },
        { FOLD WORD "|\\p{N}" MARKS TAIL, "qwen2", true },
        { FOLD_2 WORD_2 "|\\p{N}" MARKS_2 TAIL_2, "qwen2", true },
        { FOLD_3 WORD "|\\p{N}" MARKS TAIL, "qwen2", true },
        { FOLD WORD "|\\p{N}+" MARKS TAIL, "llama3-numbers", true },
        { FOLD "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL, "qwen35", true },
        { FOLD WORD "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" TAIL, "seed-coder", true },
        { CASED(FOLD "?") "|\\p{N}{1,3}" MARKS_SLASH TAIL, "o200k", true },
        { CASED("") "|\\p{N}" MARKS_SLASH TAIL, "tekken", true },
        { FOLD "|" PREFIX "(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?" TAIL_2, "exaone-moe", true },
        { "\\p{N}{1,3}", "numbers3", false },
        { "\\p{N}+", "numbers", false },
        { "\\p{N}", "digit", false },
        { "[0-9][0-9][0-9]", "digits3", false },
        { "[一-龥\u3040-ゟ゠-ヿ]+", "kana-han", false },
        { "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
          "| ?[\\p{P}\\p{S}]+[\\r\\n]*" TAIL, "deepseek3", true },
        { "[\\r\\n]", "break", false },
        { "\\s?\\p{L}+", "letters", false },
        { "\\s?\\p{P}+", "punctuation", false },
        { DEEPSEEK_LETTERS, "deepseek-letters", false },
        { "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", "deepseek-marks", false },
        { "\\s+$", "trailing", false },
        { "[一-龥ࠀ-一가-\ud7ff]+", "cjk", false },
        { "[^\\n]+|[\\n]+", "lines", true },
};

static const struct {
        const char *phrase;
        const char *pre;
} phrases[] = {
        { "gpt2", "gpt-2" },
        { "digit gpt2", "starcoder" },
        { "marks gpt2 numbers digits3", "falcon-numbers" },
        { "llama3", "dbrx" },
        { "qwen2", "qwen2" },
        { "qwen35", "qwen35" },
        { "seed-coder", "seed-coder" },
        { "o200k", "gpt-4o" },
        { "tekken", "tekken" },
        { "exaone-moe", "exaone-moe" },
        { "lines qwen2", "laguna" },
        { "numbers3 llama3-numbers", "minicpm5" },
        { "numbers3 kana-han deepseek3", "deepseek-v3" },
        { "break letters punctuation cjk digit", "deepseek-coder" },
        { "break deepseek-letters deepseek-marks trailing cjk digit", "deepseek-llm-digit" },
        { "break deepseek-letters deepseek-marks trailing cjk numbers", "deepseek-llm" },
};

struct reader {
        struct hf_scheme *scheme;
        struct loader_error *error;
        char phrase[256];
        bool escapes; /* spaces become U+2581 */
};

static const char *get_text(struct json_object *o, const char *key) {
        struct json_object *value;

        if (!json_object_object_get_ex(o, key, &value) || !json_object_is_type(value, json_type_string))
                return "";
        return json_object_get_string(value);
}

static bool get_flag(struct json_object *o, const char *key, bool otherwise) {
        struct json_object *value;

        if (!json_object_object_get_ex(o, key, &value) || !json_object_is_type(value, json_type_boolean))
                return otherwise;
        return json_object_get_boolean(value);
}

static int refuse(struct reader *r, const char *key, struct json_object *o) {
        return loader_fail(r->error, LOADER_E_UNSUPPORTED, "tokenizer.json: '%s' is not supported: %.300s", key,
                           json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int add_word(struct reader *r, const char *word, struct json_object *o) {
        size_t at = strlen(r->phrase);

        if (at + strlen(word) + 2 > sizeof(r->phrase))
                return refuse(r, "pre_tokenizer", o);
        (void)snprintf(r->phrase + at, sizeof(r->phrase) - at, "%s%s", at ? " " : "", word);
        return 0;
}

/* As text, but that a line break may stand for itself. */
static bool same_expression(const char *known, const char *s) {
        for (; *known && *s; known++, s++) {
                if (known[0] == '\\' && ((known[1] == 'n' && *s == '\n') || (known[1] == 'r' && *s == '\r')))
                        known++;
                else if (*known != *s)
                        return false;
        }
        return !*known && !*s;
}

static int read_split(struct reader *r, struct json_object *o) {
        const char *behavior = get_text(o, "behavior"), *expression;
        bool isolated = strcmp(behavior, "Isolated") == 0, invert = get_flag(o, "invert", false);
        struct json_object *pattern;

        if (!json_object_object_get_ex(o, "pattern", &pattern))
                return refuse(r, "pre_tokenizer", o);
        /* Gemma's: there are no spaces any more where it comes */
        if (r->escapes && strcmp(get_text(pattern, "String"), " ") == 0 && strcmp(behavior, "MergedWithPrevious") == 0)
                return 0;
        expression = get_text(pattern, "Regex");
        for (size_t i = 0; i < ARRAY_SIZE(expressions); i++)
                if (same_expression(expressions[i].expression, expression) &&
                    ((isolated && !invert) ||
                     (expressions[i].whole && invert && strcmp(behavior, "Removed") == 0)))
                        return add_word(r, expressions[i].word, o);
        return refuse(r, "pre_tokenizer", o);
}

static int read_metaspace(struct reader *r, struct json_object *o) {
        const char *scheme = get_text(o, "prepend_scheme");
        bool old = get_flag(o, "add_prefix_space", true); /* files from before there was prepend_scheme */

        if (strcmp(get_text(o, "replacement"), METASPACE) != 0)
                return refuse(r, "pre_tokenizer", o);
        r->escapes = true;
        r->scheme->prefix = scheme[0] ? strcmp(scheme, "never") != 0 : old;
        r->scheme->prefix_first = strcmp(scheme, "first") == 0;
        r->scheme->prefix_missing = true;
        return get_flag(o, "split", true) ? add_word(r, "spaces", o) : 0;
}

static int read_step(struct reader *r, struct json_object *o) {
        const char *type = get_text(o, "type");

        if (strcmp(type, "Split") == 0)
                return read_split(r, o);
        if (strcmp(type, "Digits") == 0)
                return add_word(r, get_flag(o, "individual_digits", false) ? "digit" : "numbers", o);
        if (strcmp(type, "Punctuation") == 0 && strcmp(get_text(o, "behavior"), "Contiguous") == 0)
                return add_word(r, "marks", o);
        if (strcmp(type, "Metaspace") == 0)
                return read_metaspace(r, o);
        if (strcmp(type, "ByteLevel") != 0 || get_flag(o, "add_prefix_space", true))
                return refuse(r, "pre_tokenizer", o);
        r->scheme->byte_level = true;
        return get_flag(o, "use_regex", true) ? add_word(r, "gpt2", o) : 0;
}

/* Calls read for o, or for each of its members in turn where it is a Sequence. */
static int read_sequence(struct reader *r, struct json_object *o, const char *key, const char *list,
                         int (*read)(struct reader *r, struct json_object *o)) {
        struct json_object *steps;
        int e = 0;

        if (json_object_is_type(o, json_type_null))
                return 0;
        if (!json_object_is_type(o, json_type_object))
                return refuse(r, key, o);
        if (strcmp(get_text(o, "type"), "Sequence") != 0)
                return read(r, o);
        if (!json_object_object_get_ex(o, list, &steps) || !json_object_is_type(steps, json_type_array))
                return refuse(r, key, o);
        for (size_t i = 0; !e && i < json_object_array_length(steps); i++)
                e = read(r, json_object_array_get_idx(steps, i));
        return e;
}

static int read_normalizer(struct reader *r, struct json_object *o) {
        const char *type = get_text(o, "type");
        struct json_object *pattern = NULL;

        if (strcmp(type, "NFC") == 0 && !r->escapes) {
                r->scheme->nfc = true;
                return 0;
        }
        if (strcmp(type, "Prepend") == 0 && strcmp(get_text(o, "prepend"), METASPACE) == 0) {
                r->scheme->prefix = true;
                return 0;
        }
        if (strcmp(type, "Replace") == 0 && strcmp(get_text(o, "content"), METASPACE) == 0 &&
            json_object_object_get_ex(o, "pattern", &pattern) && strcmp(get_text(pattern, "String"), " ") == 0) {
                r->escapes = true;
                return 0;
        }
        return refuse(r, "normalizer", o);
}

static int name_scheme(struct reader *r, struct json_object *o) {
        if (r->escapes && !r->scheme->byte_level) {
                r->scheme->pre = r->phrase[0] ? NULL : "metaspace";
                if (strcmp(r->phrase, "spaces") == 0)
                        r->scheme->pre = "metaspace-words";
                return r->scheme->pre ? 0 : refuse(r, "pre_tokenizer", o);
        }
        if (r->escapes || !r->scheme->byte_level || r->scheme->prefix)
                return refuse(r, "pre_tokenizer", o);
        for (size_t i = 0; i < ARRAY_SIZE(phrases); i++)
                if (strcmp(phrases[i].phrase, r->phrase) == 0) {
                        r->scheme->pre = phrases[i].pre;
                        return 0;
                }
        return refuse(r, "pre_tokenizer", o);
}

int hf_scheme_read(struct hf_scheme *ret, struct json_object *root, struct loader_error *error) {
        struct hf_scheme scheme = { 0 };
        struct reader r = { .scheme = &scheme, .error = error };
        struct json_object *o = NULL;
        int e;

        (void)json_object_object_get_ex(root, "normalizer", &o);
        e = read_sequence(&r, o, "normalizer", "normalizers", read_normalizer);
        if (e)
                return e;
        o = NULL;
        (void)json_object_object_get_ex(root, "pre_tokenizer", &o);
        e = read_sequence(&r, o, "pre_tokenizer", "pretokenizers", read_step);
        if (!e)
                e = name_scheme(&r, o);
        if (!e)
                *ret = scheme;
        return e;
}
