/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pre-tokenizers that models name. Each is a transcription of the regular expressions published with the models
 * that use it; the expression stands above the rules. Sets named LETTER and so on are Unicode's general categories.
 */

#include <string.h>

#include "base/macro.h"
#include "pretokenize.h"
#include "unicode.h"

#define LETTER UNICODE_LETTER
#define NUMBER UNICODE_NUMBER
#define PUNCTUATION UNICODE_PUNCTUATION
#define SYMBOL UNICODE_SYMBOL
#define MARK UNICODE_MARK
#define SPACE UNICODE_SPACE
#define UPPER UNICODE_UPPER
#define LOWER UNICODE_LOWER

static const struct char_range r_blank[] = { { ' ', ' ' } };
static const struct char_range r_break[] = { { '\n', '\n' }, { '\r', '\r' } };
static const struct char_range r_break_slash[] = { { '\n', '\n' }, { '\r', '\r' }, { '/', '/' } };
static const struct char_range r_digit[] = { { '0', '9' } };
static const struct char_range r_ascii_letter[] = { { 'A', 'Z' }, { 'a', 'z' } };
static const struct char_range r_ascii_mark[] = { { '!', '/' }, { ':', '@' }, { '[', '`' }, { '{', '~' } };
/* $ + < = > ^ | ~ and, for Falcon, ` */
static const struct char_range r_operator[] = {
        { '$', '$' }, { '+', '+' }, { '<', '>' }, { '^', '^' }, { '|', '|' }, { '~', '~' },
};
static const struct char_range r_operator_tick[] = {
        { '$', '$' }, { '+', '+' }, { '<', '>' }, { '^', '^' }, { '`', '`' }, { '|', '|' }, { '~', '~' },
};
/* Chinese characters, Hiragana and Katakana: DeepSeek-V3 */
static const struct char_range r_kana_han[] = { { 0x3040, 0x309f }, { 0x30a0, 0x30ff }, { 0x4e00, 0x9fa5 } };
/* DeepSeek LLM and Coder: its class runs from U+0800 to U+4E00 and takes Hangul too. White space within these ranges is
 * not meant: llama.cpp, which is what we compare with, leaves it out. */
static const struct char_range r_deepseek_cjk[] = { { 0x0800, 0x9fa5 }, { 0xac00, 0xd7ff } };
/* !-/ :-~ and their fullwidth forms, ‘-‟ and U+3000-。 without its first, which counts as white space there */
static const struct char_range r_deepseek_mark[] = {
        { '!', '/' }, { ':', '~' }, { 0x2018, 0x201f }, { 0x3001, 0x3002 }, { 0xff01, 0xff0f }, { 0xff1a, 0xff5e },
};
/* Letters of scripts with case, as DeepSeek LLM lists them */
static const struct char_range r_deepseek_letter[] = {
        { 0x41, 0x5a }, { 0x61, 0x7a }, { 0xb5, 0xb5 }, { 0xc0, 0xd6 }, { 0xd8, 0xf6 }, { 0xf8, 0x1ba },
        { 0x1bc, 0x1bf }, { 0x1c4, 0x293 }, { 0x295, 0x2af }, { 0x370, 0x373 }, { 0x376, 0x377 }, { 0x37b, 0x37d },
        { 0x37f, 0x37f }, { 0x386, 0x386 }, { 0x388, 0x38a }, { 0x38c, 0x38c }, { 0x38e, 0x3a1 }, { 0x3a3, 0x3f5 },
        { 0x3f7, 0x481 }, { 0x48a, 0x52f }, { 0x531, 0x556 }, { 0x10a0, 0x10c5 }, { 0x13a0, 0x13f5 },
        { 0x13f8, 0x13fd }, { 0x1c90, 0x1cba }, { 0x1cbd, 0x1cbf }, { 0x1d00, 0x1d2b }, { 0x1d6b, 0x1d77 },
        { 0x1d79, 0x1d9a }, { 0x1e00, 0x1f15 }, { 0x1f18, 0x1f1d }, { 0x1f20, 0x1f45 }, { 0x1f48, 0x1f4d },
        { 0x1f50, 0x1f57 }, { 0x1f59, 0x1f59 }, { 0x1f5b, 0x1f5b }, { 0x1f5d, 0x1f5d }, { 0x1f5f, 0x1f7d },
        { 0x1f80, 0x1fb4 }, { 0x1fb6, 0x1fbc }, { 0x1fbe, 0x1fbe }, { 0x1fc2, 0x1fc4 }, { 0x1fc6, 0x1fcc },
        { 0x1fd0, 0x1fd3 }, { 0x1fd6, 0x1fdb }, { 0x1fe0, 0x1fec }, { 0x1ff2, 0x1ff4 }, { 0x1ff6, 0x1ffc },
        { 0x2102, 0x2102 }, { 0x2107, 0x2107 }, { 0x210a, 0x2113 }, { 0x2115, 0x2115 }, { 0x2119, 0x211d },
        { 0x2124, 0x2124 }, { 0x2126, 0x2126 }, { 0x2128, 0x2128 }, { 0x212a, 0x212d }, { 0x212f, 0x2134 },
        { 0x2139, 0x2139 }, { 0x213c, 0x213f }, { 0x2145, 0x2149 }, { 0x214e, 0x214e }, { 0x2183, 0x2184 },
        { 0x2c00, 0x2c7b }, { 0x2c7e, 0x2ce4 }, { 0x2ceb, 0x2cee }, { 0x2cf2, 0x2cf3 }, { 0xa640, 0xa66d },
        { 0xa680, 0xa69b }, { 0xa722, 0xa76f }, { 0xa771, 0xa787 }, { 0xa78b, 0xa78e }, { 0xab70, 0xabbf },
        { 0xfb00, 0xfb06 }, { 0xfb13, 0xfb17 }, { 0xff21, 0xff3a }, { 0xff41, 0xff5a }, { 0x10400, 0x1044f },
        { 0x104b0, 0x104d3 }, { 0x104d8, 0x104fb }, { 0x10c80, 0x10cb2 }, { 0x10cc0, 0x10cf2 },
        { 0x118a0, 0x118df }, { 0x1e900, 0x1e943 },
};
/* ( | . , ! ? … 。 ， 、 । ۔ ، ): the class that BLOOM's expression excludes, parentheses and bar included */
static const struct char_range r_bloom_mark[] = {
        { '!', '!' }, { '(', ')' }, { ',', ',' }, { '.', '.' }, { '?', '?' }, { '|', '|' }, { 0x60c, 0x60c },
        { 0x6d4, 0x6d4 }, { 0x964, 0x964 }, { 0x2026, 0x2026 }, { 0x3001, 0x3002 }, { 0xff0c, 0xff0c },
};
/* Unicode's script Han */
static const struct char_range r_han[] = {
        { 0x2e80, 0x2e99 }, { 0x2e9b, 0x2ef3 }, { 0x2f00, 0x2fd5 }, { 0x3005, 0x3005 }, { 0x3007, 0x3007 },
        { 0x3021, 0x3029 }, { 0x3038, 0x303b }, { 0x3400, 0x4dbf }, { 0x4e00, 0x9fff }, { 0xf900, 0xfa6d },
        { 0xfa70, 0xfad9 }, { 0x16fe2, 0x16fe3 }, { 0x16ff0, 0x16ff6 }, { 0x20000, 0x2a6df }, { 0x2a700, 0x2b81e },
        { 0x2b820, 0x2cead }, { 0x2ceb0, 0x2ebe0 }, { 0x2ebf0, 0x2ee5d }, { 0x2f800, 0x2fa1d }, { 0x30000, 0x3134a },
        { 0x31350, 0x33479 },
};
/* Youtu: Hangul with its compatibility letters; marks of Chinese text; Bopomofo */
static const struct char_range r_youtu_hangul[] = { { 0x3131, 0x318e }, { 0xac00, 0xd7a3 } };
static const struct char_range r_youtu_mark[] = {
        { 0x2014, 0x2014 }, { 0x2018, 0x2019 }, { 0x201c, 0x201d }, { 0x2026, 0x2026 }, { 0x3001, 0x303f },
        { 0xfe30, 0xfe4f }, { 0xff01, 0xff01 }, { 0xff0c, 0xff0c }, { 0xff1a, 0xff1b },
};
static const struct char_range r_bopomofo[] = { { 0x3105, 0x312f } };
/* Scripts that AFMoE keeps apart: Myanmar, Hangul, Thai's vowels, Lao, Khmer, Chinese characters, kana */
static const struct char_range r_afmoe_script[] = {
        { 0x0e40, 0x0eff }, { 0x1000, 0x109f }, { 0x1100, 0x11ff }, { 0x1780, 0x17ff }, { 0x2f00, 0x2fdf },
        { 0x3040, 0x30ff }, { 0x3400, 0x4dbf }, { 0x4e00, 0x9fff }, { 0xa9e0, 0xa9ff }, { 0xaa60, 0xaa7f },
        { 0xac00, 0xd7af }, { 0xf900, 0xfaff }, { 0xff65, 0xff9f },
};
static const struct char_range r_metaspace[] = { { 0x2581, 0x2581 } };
static const struct char_range r_newline[] = { { '\n', '\n' } };

#define IN(r) .in = (r), .n_in = ARRAY_SIZE(r)
#define OUT(r) .out = (r), .n_out = ARRAY_SIZE(r)

static const struct char_set s_blank = { IN(r_blank) };
static const struct char_set s_break = { IN(r_break) };
static const struct char_set s_break_slash = { IN(r_break_slash) };
static const struct char_set s_space = { .any = SPACE };
static const struct char_set s_letter = { .any = LETTER };
static const struct char_set s_letter_mark = { .any = LETTER | MARK };
static const struct char_set s_number = { .any = NUMBER };
static const struct char_set s_digit = { IN(r_digit) };
static const struct char_set s_ascii_letter = { IN(r_ascii_letter) };
static const struct char_set s_ascii_mark = { IN(r_ascii_mark) };
static const struct char_set s_punctuation = { .any = PUNCTUATION };
static const struct char_set s_punctuation_symbol = { .any = PUNCTUATION | SYMBOL };
static const struct char_set s_other = { .none = SPACE | LETTER | NUMBER };
static const struct char_set s_other_no_mark = { .none = SPACE | LETTER | NUMBER | MARK };
static const struct char_set s_other_no_break = { .none = SPACE | LETTER | NUMBER, OUT(r_break) };
static const struct char_set s_prefix = { .none = LETTER | NUMBER, OUT(r_break) };
static const struct char_set s_prefix_v3 = { .none = LETTER | PUNCTUATION | SYMBOL, OUT(r_break) };
static const struct char_set s_not_lower = { .any = LETTER | MARK, .none = LOWER };
static const struct char_set s_not_upper = { .any = LETTER | MARK, .none = UPPER };
static const struct char_set s_default_mark = { .any = PUNCTUATION, IN(r_operator) };
static const struct char_set s_falcon_mark = { .any = PUNCTUATION, IN(r_operator_tick) };
static const struct char_set s_kana_han = { IN(r_kana_han) };
static const struct char_set s_deepseek_cjk = { .none = SPACE, IN(r_deepseek_cjk) };
static const struct char_set s_deepseek_mark = { IN(r_deepseek_mark) };
static const struct char_set s_deepseek_letter = { IN(r_deepseek_letter) };
static const struct char_set s_han = { IN(r_han) };
static const struct char_set s_not_lower_han = { .any = LETTER | MARK, .none = LOWER, OUT(r_han) };
static const struct char_set s_not_upper_han = { .any = LETTER | MARK, .none = UPPER, OUT(r_han) };
static const struct char_set s_mark = { .any = MARK };
static const struct char_set s_youtu_hangul = { IN(r_youtu_hangul) };
static const struct char_set s_youtu_mark = { IN(r_youtu_mark) };
static const struct char_set s_bopomofo = { IN(r_bopomofo) };
static const struct char_set s_afmoe_script = { IN(r_afmoe_script) };
static const struct char_set s_newline = { IN(r_newline) };
static const struct char_set s_metaspace = { IN(r_metaspace) };
static const struct char_set s_no_metaspace = { OUT(r_metaspace) };
static const struct char_set s_any = { 0 };
static const struct char_set s_no_newline = { OUT(r_newline) };
static const struct char_set s_bloom_word = { .none = SPACE, OUT(r_bloom_mark) };

#define N(set, least, most) { PRETOKEN_SET, (least), (most), &(set), NULL }
#define ONE(set) N(set, 1, 1)
#define MAYBE(set) N(set, 0, 1)
#define SOME(set) N(set, 1, SIZE_MAX)
#define ANY(set) N(set, 0, SIZE_MAX)
#define CASED(set, also) { PRETOKEN_CASED, 1, 0, &(set), &(also) }
#define PART(kind, least) { PRETOKEN_##kind, (least), 0, NULL, NULL }
#define RULE(...) { { __VA_ARGS__ } }
/* not compiled with more rules than an index has bits for */
#define STAGE(rules) { (rules), ARRAY_SIZE(rules) + 0 * sizeof(char[ARRAY_SIZE(rules) <= PRETOKEN_RULES_MAX ? 1 : -1]) }
#define STAGE_TRAILING_SPACE { NULL, 0 }

#define DEFINE(name, ...)                                                        \
        static const struct pretoken_stage name##_stages[] = { __VA_ARGS__ };    \
        static const struct pretokenizer name = { name##_stages, ARRAY_SIZE(name##_stages) }

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S) */
static const struct pretoken_rule gpt2_rules[] = {
        RULE(PART(CONTRACTION, 1)),
        RULE(MAYBE(s_blank), SOME(s_letter)),
        RULE(MAYBE(s_blank), SOME(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other)),
        RULE(PART(SPACES_BUT_LAST, 1)),
};
DEFINE(pre_gpt2, STAGE(gpt2_rules));

static const struct pretoken_rule number_rules[] = { RULE(SOME(s_number)) };
static const struct pretoken_rule one_number_rules[] = { RULE(ONE(s_number)) };
static const struct pretoken_rule three_digits_rules[] = { RULE(N(s_digit, 3, 3)) };
static const struct pretoken_rule default_mark_rules[] = { RULE(SOME(s_default_mark)) };
static const struct pretoken_rule falcon_mark_rules[] = { RULE(SOME(s_falcon_mark)) };

/* [\p{P}\$\+<=>\^~\|]+ , GPT-2's, \p{N}+ , [0-9][0-9][0-9] */
DEFINE(pre_default, STAGE(default_mark_rules), STAGE(gpt2_rules), STAGE(number_rules), STAGE(three_digits_rules));
/* [\p{P}\$\+<=>\^~\|`]+ , GPT-2's, [0-9][0-9][0-9] */
DEFINE(pre_falcon, STAGE(falcon_mark_rules), STAGE(gpt2_rules), STAGE(three_digits_rules));
/* \p{N} , GPT-2's */
DEFINE(pre_starcoder, STAGE(one_number_rules), STAGE(gpt2_rules));

/* What most have since cl100k_base: a prefix that sticks to letters, and line breaks that end white space. */
#define RULES_WORD RULE(MAYBE(s_prefix), SOME(s_letter))
#define RULES_SPACES RULE(PART(SPACES_TO_BREAK, 1)), RULE(PART(SPACES_BUT_LAST, 1)), RULE(SOME(s_space))

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const struct pretoken_rule llama3_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULES_WORD,
        RULE(N(s_number, 1, 3)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_llama3, STAGE(llama3_rules));

/* The same with \p{N} */
static const struct pretoken_rule qwen2_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULES_WORD,
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_qwen2, STAGE(qwen2_rules));

/* The same again, marks being part of words: [^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+ and  ?[^\s\p{L}\p{M}\p{N}]+[\r\n]* */
static const struct pretoken_rule qwen35_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULE(MAYBE(s_prefix), SOME(s_letter_mark)),
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other_no_mark), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_qwen35, STAGE(qwen35_rules));

/* As Qwen 2's, but no line breaks after marks */
static const struct pretoken_rule seed_coder_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULES_WORD,
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other_no_break)),
        RULES_SPACES,
};
DEFINE(pre_seed_coder, STAGE(seed_coder_rules));

/*
 * [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 * |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 * |\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static const struct pretoken_rule o200k_rules[] = {
        RULE(MAYBE(s_prefix), CASED(s_not_lower, s_not_upper), PART(CONTRACTION_WIDE, 0)),
        RULE(MAYBE(s_prefix), SOME(s_not_lower), ANY(s_not_upper), PART(CONTRACTION_WIDE, 0)),
        RULE(N(s_number, 1, 3)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break_slash)),
        RULES_SPACES,
};
DEFINE(pre_o200k, STAGE(o200k_rules));

/* The same without contractions and with \p{N} */
static const struct pretoken_rule tekken_rules[] = {
        RULE(MAYBE(s_prefix), CASED(s_not_lower, s_not_upper)),
        RULE(MAYBE(s_prefix), SOME(s_not_lower), ANY(s_not_upper)),
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break_slash)),
        RULES_SPACES,
};
DEFINE(pre_tekken, STAGE(tekken_rules));

/* [\r\n] , \s?[letters with case]+ , \s?[marks]+ , \s+$ , [一-龥ࠀ-一가-퟿]+ , \p{N}+ */
static const struct pretoken_rule one_break_rules[] = { RULE(ONE(s_break)) };
static const struct pretoken_rule deepseek_letter_rules[] = { RULE(MAYBE(s_space), SOME(s_deepseek_letter)) };
static const struct pretoken_rule deepseek_mark_rules[] = { RULE(MAYBE(s_space), SOME(s_deepseek_mark)) };
static const struct pretoken_rule deepseek_cjk_rules[] = { RULE(SOME(s_deepseek_cjk)) };
DEFINE(pre_deepseek_llm, STAGE(one_break_rules), STAGE(deepseek_letter_rules), STAGE(deepseek_mark_rules),
       STAGE_TRAILING_SPACE, STAGE(deepseek_cjk_rules), STAGE(number_rules));

/* [\r\n] , \s?\p{L}+ , \s?\p{P}+ , [一-龥ࠀ-一가-퟿]+ , \p{N} */
static const struct pretoken_rule coder_letter_rules[] = { RULE(MAYBE(s_space), SOME(s_letter)) };
static const struct pretoken_rule coder_mark_rules[] = { RULE(MAYBE(s_space), SOME(s_punctuation)) };
DEFINE(pre_deepseek_coder, STAGE(one_break_rules), STAGE(coder_letter_rules), STAGE(coder_mark_rules),
       STAGE(deepseek_cjk_rules), STAGE(one_number_rules));

/* \p{N}{1,3} , [一-龥぀-ゟ゠-ヿ]+ ,
 * [!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const struct pretoken_rule three_numbers_rules[] = { RULE(N(s_number, 1, 3)) };
static const struct pretoken_rule kana_han_rules[] = { RULE(SOME(s_kana_han)) };
static const struct pretoken_rule deepseek_v3_rules[] = {
        RULE(ONE(s_ascii_mark), SOME(s_ascii_letter)),
        RULE(MAYBE(s_prefix_v3), SOME(s_letter_mark)),
        RULE(MAYBE(s_blank), SOME(s_punctuation_symbol), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_deepseek_v3, STAGE(three_numbers_rules), STAGE(kana_han_rules), STAGE(deepseek_v3_rules));

/*  ?[^(\s|.,!?…。，、।۔،)]+ ; Viking then \p{N} */
static const struct pretoken_rule bloom_rules[] = { RULE(MAYBE(s_blank), SOME(s_bloom_word)) };
DEFINE(pre_bloom, STAGE(bloom_rules));
DEFINE(pre_viking, STAGE(bloom_rules), STAGE(one_number_rules));

/* Qwen 2's without contractions */
static const struct pretoken_rule ufakzeka_rules[] = {
        RULES_WORD,
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_ufakzeka, STAGE(ufakzeka_rules));

/* [^\n]+|[\n]+ ; alone, and before Qwen 2's */
static const struct pretoken_rule line_rules[] = { RULE(SOME(s_no_newline)), RULE(SOME(s_newline)) };
DEFINE(pre_line, STAGE(line_rules));
DEFINE(pre_laguna, STAGE(line_rules), STAGE(qwen2_rules));

/* \p{N}{1,3} , Llama 3's with \p{N}+ */
static const struct pretoken_rule minicpm5_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULES_WORD,
        RULE(SOME(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_minicpm5, STAGE(three_numbers_rules), STAGE(minicpm5_rules));

/* [\p{Han}]+ | o200k's, its letters without Han, line breaks but no slashes after marks */
static const struct pretoken_rule kimi_rules[] = {
        RULE(SOME(s_han)),
        RULE(MAYBE(s_prefix), CASED(s_not_lower_han, s_not_upper_han), PART(CONTRACTION_WIDE, 0)),
        RULE(MAYBE(s_prefix), SOME(s_not_lower_han), ANY(s_not_upper_han), PART(CONTRACTION_WIDE, 0)),
        RULE(N(s_number, 1, 3)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break)),
        RULES_SPACES,
};
DEFINE(pre_kimi, STAGE(kimi_rules));

/* [가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+ , o200k's with \p{N} */
static const struct pretoken_rule youtu_script_rules[] = {
        RULE(SOME(s_youtu_hangul)), RULE(SOME(s_youtu_mark)), RULE(SOME(s_bopomofo)), RULE(SOME(s_kana_han)),
};
static const struct pretoken_rule youtu_rules[] = {
        RULE(MAYBE(s_prefix), CASED(s_not_lower, s_not_upper), PART(CONTRACTION_WIDE, 0)),
        RULE(MAYBE(s_prefix), SOME(s_not_lower), ANY(s_not_upper), PART(CONTRACTION_WIDE, 0)),
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), ANY(s_break_slash)),
        RULES_SPACES,
};
DEFINE(pre_youtu, STAGE(youtu_script_rules), STAGE(youtu_rules));

/* DeepSeek-V3's, each line break for itself, then \p{N} */
static const struct pretoken_rule spark_rules[] = {
        RULE(ONE(s_ascii_mark), SOME(s_ascii_letter)),
        RULE(MAYBE(s_prefix_v3), SOME(s_letter_mark)),
        RULE(MAYBE(s_blank), SOME(s_punctuation_symbol)),
        RULE(ONE(s_break)),
        RULE(PART(SPACES_BUT_LAST, 1)),
        RULE(SOME(s_space)),
};
DEFINE(pre_spark, STAGE(three_numbers_rules), STAGE(kana_han_rules), STAGE(spark_rules), STAGE(one_number_rules));

/* Numbers in threes from the right; before o200k's, or before scripts and DeepSeek-V3's */
static const struct pretoken_rule thousands_rules[] = { RULE(PART(THOUSANDS, 1)) };
static const struct pretoken_rule afmoe_script_rules[] = { RULE(SOME(s_afmoe_script)) };
DEFINE(pre_tiny_aya, STAGE(thousands_rules), STAGE(o200k_rules));
DEFINE(pre_afmoe, STAGE(thousands_rules), STAGE(afmoe_script_rules), STAGE(deepseek_v3_rules));

/* Qwen 2's, words being phrases: [^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+ , and at most one line break or
 * slash after marks */
static const struct pretoken_rule exaone_moe_rules[] = {
        RULE(PART(CONTRACTION_FOLD, 1)),
        RULE(MAYBE(s_prefix), { PRETOKEN_PHRASE, 1, 0, &s_letter, &s_mark }),
        RULE(ONE(s_number)),
        RULE(MAYBE(s_blank), SOME(s_other), MAYBE(s_break_slash)),
        RULES_SPACES,
};
DEFINE(pre_exaone_moe, STAGE(exaone_moe_rules));

/* The whole text is one word. */
static const struct pretoken_rule whole_rules[] = { RULE(SOME(s_any)) };
DEFINE(pre_whole, STAGE(whole_rules));

/* Words begin with a space, written as U+2581: only the last of several. */
static const struct pretoken_rule spaced_rules[] = { RULE(MAYBE(s_metaspace), ANY(s_no_metaspace)) };
DEFINE(pre_spaced, STAGE(spaced_rules));

/* Falcon's with numbers for themselves, DeepSeek LLM's with digits: as their tokenizer.json has them */
DEFINE(pre_falcon_numbers, STAGE(falcon_mark_rules), STAGE(gpt2_rules), STAGE(number_rules), STAGE(three_digits_rules));
DEFINE(pre_deepseek_digit, STAGE(one_break_rules), STAGE(deepseek_letter_rules), STAGE(deepseek_mark_rules),
       STAGE_TRAILING_SPACE, STAGE(deepseek_cjk_rules), STAGE(one_number_rules));

#define WHOLE PRETOKENIZER_WHOLE_WORDS
#define BOS PRETOKENIZER_BOS
#define CLEANS PRETOKENIZER_CLEANS
#define RAW PRETOKENIZER_RAW
#define LINES PRETOKENIZER_LINES

static const struct pretokenizer_entry entries[] = {
        { "default", &pre_default, CLEANS },
        { "llama3", &pre_llama3, WHOLE | BOS | CLEANS },
        { "llama-v3", &pre_llama3, WHOLE | BOS | CLEANS },
        { "llama-bpe", &pre_llama3, WHOLE | BOS | CLEANS },
        { "falcon3", &pre_llama3, WHOLE | BOS | CLEANS },
        { "falcon-h1", &pre_llama3, WHOLE | BOS | CLEANS },
        { "pixtral", &pre_llama3, WHOLE | BOS | CLEANS },
        { "midm-2.0", &pre_llama3, WHOLE | BOS | CLEANS },
        { "lfm2", &pre_llama3, WHOLE | BOS | CLEANS },
        { "dbrx", &pre_llama3, CLEANS },
        { "smaug-bpe", &pre_llama3, CLEANS },
        { "glm4", &pre_llama3, WHOLE | CLEANS },
        { "glm5", &pre_llama3, WHOLE | CLEANS },
        { "chatglm-bpe", &pre_llama3, CLEANS },
        { "gpt-2", &pre_gpt2, CLEANS },
        { "phi-2", &pre_gpt2, CLEANS },
        { "gigachat", &pre_gpt2, CLEANS },
        { "a.x-4.0", &pre_gpt2, CLEANS },
        { "mellum", &pre_gpt2, CLEANS },
        { "exaone4", &pre_gpt2, CLEANS },
        { "mpt", &pre_gpt2, CLEANS },
        { "olmo", &pre_gpt2, CLEANS },
        { "jais", &pre_gpt2, CLEANS },
        { "trillion", &pre_gpt2, 0 },
        { "granite-docling", &pre_gpt2, 0 },
        { "qwen2", &pre_qwen2, 0 },
        { "deepseek-r1-qwen", &pre_qwen2, 0 },
        { "megrez", &pre_qwen2, CLEANS },
        { "stablelm2", &pre_qwen2, CLEANS },
        { "hunyuan", &pre_qwen2, 0 },
        { "kormo", &pre_qwen2, 0 },
        { "f2llmv2", &pre_qwen2, 0 },
        { "solar-open", &pre_qwen2, 0 },
        { "grok-2", &pre_qwen2, 0 },
        { "bailingmoe", &pre_qwen2, 0 },
        { "bailingmoe2", &pre_qwen2, 0 },
        { "llada-moe", &pre_qwen2, 0 },
        { "qwen35", &pre_qwen35, 0 },
        { "seed-coder", &pre_seed_coder, 0 },
        { "starcoder", &pre_starcoder, CLEANS },
        { "refact", &pre_starcoder, CLEANS },
        { "command-r", &pre_starcoder, 0 },
        { "smollm", &pre_starcoder, 0 },
        { "codeshell", &pre_starcoder, CLEANS },
        { "exaone", &pre_starcoder, CLEANS },
        { "minerva-7b", &pre_starcoder, CLEANS },
        { "mellum2", &pre_starcoder, CLEANS },
        { "falcon", &pre_falcon, CLEANS },
        { "gpt-4o", &pre_o200k, 0 },
        { "llama4", &pre_o200k, 0 },
        { "kanana2", &pre_o200k, 0 },
        { "talkie", &pre_o200k, 0 },
        { "minimax-m2", &pre_o200k, 0 },
        { "granite-embed-multi-97m", &pre_o200k, WHOLE },
        { "tekken", &pre_tekken, WHOLE | BOS },
        { "deepseek-llm", &pre_deepseek_llm, 0 },
        { "deepseek-coder", &pre_deepseek_coder, 0 },
        { "deepseek-v3", &pre_deepseek_v3, 0 },
        { "hunyuan-dense", &pre_deepseek_v3, 0 },
        { "joyai-llm", &pre_deepseek_v3, 0 },
        { "hy_v4", &pre_deepseek_v3, 0 },
        { "bloom", &pre_bloom, CLEANS },
        { "gpt3-finnish", &pre_bloom, CLEANS },
        { "poro-chat", &pre_bloom, 0 },
        { "viking", &pre_viking, 0 },
        { "ufakzeka", &pre_ufakzeka, 0 },
        { "laguna", &pre_laguna, 0 },
        { "minicpm5", &pre_minicpm5, WHOLE | CLEANS },
        { "kimi-k2", &pre_kimi, 0 },
        { "youtu", &pre_youtu, WHOLE },
        { "spark2_5", &pre_spark, 0 },
        { "tiny_aya", &pre_tiny_aya, 0 },
        { "cohere2moe", &pre_tiny_aya, 0 },
        { "afmoe", &pre_afmoe, 0 },
        { "exaone-moe", &pre_exaone_moe, CLEANS },
        { "gemma4", &pre_line, RAW | LINES | BOS | CLEANS },
        { "granite-embed-multi-311m", &pre_line, RAW | LINES | BOS | CLEANS },
        { "sarvam-moe", &pre_line, RAW },
        /* names that no GGUF has: hf-scheme.c */
        { "metaspace", &pre_whole, RAW },
        { "metaspace-words", &pre_spaced, RAW },
        { "falcon-numbers", &pre_falcon_numbers, 0 },
        { "deepseek-llm-digit", &pre_deepseek_digit, 0 },
};

const struct pretokenizer_entry *pretokenizer_find(const char *name) {
        if (!name[0])
                name = "default";
        for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
                if (strcmp(entries[i].name, name) == 0)
                        return &entries[i];
        return NULL;
}
