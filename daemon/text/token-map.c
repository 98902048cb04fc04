/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "token-map.h"

/* 64 x 64 -> 128 bits, halves folded: one multiplication mixes all bits of its inputs. */
static inline uint64_t mix(uint64_t a, uint64_t b) {
        __uint128_t p = (__uint128_t)a * b;

        return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint32_t hash_text(uint64_t seed, const char *text, size_t n) {
        uint64_t h = seed ^ (n * 0x9e3779b97f4a7c15ull), word;

        for (; n > 8; n -= 8, text += 8) {
                memcpy(&word, text, 8);
                h = mix(h ^ word, 0xd6e8feb86659fd93ull);
        }
        word = 0;
        memcpy(&word, text, n);
        h = mix(h ^ word, 0xa0761d6478bd642full ^ seed);
        return (uint32_t)(h ^ h >> 32);
}

static size_t table_size(size_t n) {
        size_t size = 16;

        while (size < n + n / 2)
                size *= 2;
        return size;
}

const char *token_map_text(const struct token_map *m, uint32_t id, size_t *ret_n) {
        if (id < m->n_tokens) {
                *ret_n = (size_t)(m->offsets[id + 1] - m->offsets[id]);
                return m->bytes + m->offsets[id];
        }
        id -= m->n_tokens;
        *ret_n = (size_t)(m->more_offsets[id + 1] - m->more_offsets[id]);
        return m->more_bytes.data + m->more_offsets[id];
}

/* The slot that holds this text, or the free one where it belongs. */
static struct token_map_slot *find_slot(const struct token_map *m, const char *text, size_t n, uint32_t hash) {
        for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
                struct token_map_slot *slot = &m->slots[i];
                const char *other;
                size_t other_n;

                if (slot->id == TOKEN_NONE)
                        return slot;
                if (slot->hash != hash)
                        continue;
                other = token_map_text(m, slot->id, &other_n);
                if (other_n == n && memcmp(other, text, n) == 0)
                        return slot;
        }
}

static int resize(struct token_map *m, size_t size) {
        struct token_map_slot *old = m->slots, *slots;
        size_t n_old = old ? m->mask + 1 : 0;

        slots = malloc(size * sizeof(*slots));
        if (!slots)
                return -ENOMEM;
        memset(slots, 0xff, size * sizeof(*slots));
        m->slots = slots;
        m->mask = size - 1;
        for (size_t i = 0; i < n_old; i++) {
                size_t to = old[i].hash & m->mask;

                if (old[i].id == TOKEN_NONE)
                        continue;
                while (slots[to].id != TOKEN_NONE)
                        to = (to + 1) & m->mask;
                slots[to] = old[i];
        }
        free(old);
        return 0;
}

int token_map_init(struct token_map *m, const char *bytes, const uint64_t *offsets, uint32_t n_tokens, uint64_t seed) {
        int r;

        *m = (struct token_map){
                .bytes = bytes,
                .offsets = offsets,
                .n_tokens = n_tokens,
                .more_bytes = BUF_NULL(UINT32_MAX),
                .seed = seed,
        };
        r = resize(m, table_size(n_tokens));
        if (r < 0)
                return r;
        for (uint32_t id = 0; id < n_tokens; id++) {
                struct token_map_slot *slot;
                const char *text;
                uint32_t hash;
                size_t n;

                text = token_map_text(m, id, &n);
                if (n == 0)
                        continue;
                if (n > m->longest)
                        m->longest = n;
                hash = hash_text(seed, text, n);
                slot = find_slot(m, text, n, hash);
                m->n_used += slot->id == TOKEN_NONE;
                *slot = (struct token_map_slot){ hash, id };
        }
        return 0;
}

void token_map_deinit(struct token_map *m) {
        free(m->slots);
        free(m->more_offsets);
        buf_deinit(&m->more_bytes);
        *m = (struct token_map){ 0 };
}

uint32_t token_map_find(const struct token_map *m, const char *text, size_t n) {
        if (n == 0 || n > m->longest)
                return TOKEN_NONE;
        return find_slot(m, text, n, hash_text(m->seed, text, n))->id;
}

static int add_text(struct token_map *m, const char *text, size_t n) {
        int r;

        if (m->n_more + 1 >= m->cap_more) {
                uint32_t cap = m->cap_more ? m->cap_more * 2 : 16;
                uint64_t *p = realloc(m->more_offsets, cap * sizeof(*p));

                if (!p)
                        return -ENOMEM;
                p[0] = 0;
                m->more_offsets = p;
                m->cap_more = cap;
        }
        r = buf_append(&m->more_bytes, text, n);
        if (r)
                return -ENOMEM;
        m->more_offsets[++m->n_more] = m->more_bytes.len;
        return 0;
}

uint32_t token_map_hash(const struct token_map *m, const char *text, size_t n) {
        uint32_t hash = hash_text(m->seed, text, n);

        __builtin_prefetch(&m->slots[hash & m->mask]);
        return hash;
}

int token_map_intern(struct token_map *m, const char *text, size_t n, uint32_t *ret_id) {
        return token_map_intern_hashed(m, text, n, hash_text(m->seed, text, n), ret_id);
}

int token_map_intern_hashed(struct token_map *m, const char *text, size_t n, uint32_t hash, uint32_t *ret_id) {
        struct token_map_slot *slot = find_slot(m, text, n, hash);
        int r;

        if (slot->id != TOKEN_NONE) {
                *ret_id = slot->id;
                return 0;
        }
        if (m->n_used + m->n_used / 2 >= m->mask) {
                r = resize(m, (m->mask + 1) * 2);
                if (r < 0)
                        return r;
                slot = find_slot(m, text, n, hash);
        }
        r = add_text(m, text, n);
        if (r < 0)
                return r;
        *slot = (struct token_map_slot){ hash, m->n_tokens + m->n_more - 1 };
        *ret_id = slot->id;
        m->n_used++;
        if (n > m->longest)
                m->longest = n;
        return 0;
}

int merge_map_init(struct merge_map *m, size_t n, uint64_t seed) {
        size_t size = table_size(n);

        *m = (struct merge_map){ .mask = size - 1, .seed = seed };
        m->entries = malloc(size * sizeof(*m->entries));
        if (!m->entries)
                return -ENOMEM;
        memset(m->entries, 0xff, size * sizeof(*m->entries));
        return 0;
}

void merge_map_deinit(struct merge_map *m) {
        free(m->entries);
        *m = (struct merge_map){ 0 };
}

static struct merge_entry *find_entry(const struct merge_map *m, uint32_t left, uint32_t right) {
        uint64_t hash = mix(((uint64_t)left << 32 | right) ^ m->seed, 0x9e3779b97f4a7c15ull);

        for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
                struct merge_entry *e = &m->entries[i];

                if (e->left == TOKEN_NONE || (e->left == left && e->right == right))
                        return e;
        }
}

void merge_map_add(struct merge_map *m, const struct merge_entry *entry) {
        struct merge_entry *e = find_entry(m, entry->left, entry->right);

        if (e->left == TOKEN_NONE)
                *e = *entry;
}

const struct merge_entry *merge_map_find(const struct merge_map *m, uint32_t left, uint32_t right) {
        const struct merge_entry *e = find_entry(m, left, right);

        return e->left == TOKEN_NONE ? NULL : e;
}
