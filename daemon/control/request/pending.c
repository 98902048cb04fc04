/* SPDX-License-Identifier: Apache-2.0 */

#include "pending.h"

void pending_init(struct pending *p) {
        const struct buf empty = BUF_NULL(PENDING_BYTES_MAX);

        *p = (struct pending){ .ids = empty, .text = empty, .logprobs = empty, .top_ids = empty, .top_logprobs = empty };
}

void pending_deinit(struct pending *p) {
        pending_clear(p);
}

void pending_clear(struct pending *p) {
        buf_deinit(&p->ids);
        buf_deinit(&p->text);
        buf_deinit(&p->logprobs);
        buf_deinit(&p->top_ids);
        buf_deinit(&p->top_logprobs);
        p->index = p->top_n = 0;
}

static bool same_shape(const struct pending *p, const Spark__V1__Token *t) {
        return p->top_n == t->top_n && (p->logprobs.len > 0) == (t->n_logprobs > 0) &&
               p->index + p->ids.len / sizeof(uint32_t) == t->index;
}

int pending_add(struct pending *p, const Spark__V1__Token *t) {
        int r;

        if (!pending_is_empty(p) && !same_shape(p, t))
                return PENDING_E_DIFFERS;
        /* room first, so that nothing is added by halves */
        r = buf_reserve(&p->ids, t->n_ids * sizeof(uint32_t));
        if (!r)
                r = buf_reserve(&p->text, t->text.len);
        if (!r)
                r = buf_reserve(&p->logprobs, t->n_logprobs * sizeof(float));
        if (!r)
                r = buf_reserve(&p->top_ids, t->n_top_ids * sizeof(uint32_t));
        if (!r)
                r = buf_reserve(&p->top_logprobs, t->n_top_logprobs * sizeof(float));
        if (r)
                return r < 0 ? r : PENDING_E_LIMIT;
        if (pending_is_empty(p)) {
                p->index = t->index;
                p->top_n = t->top_n;
        }
        (void)buf_append(&p->ids, t->ids, t->n_ids * sizeof(uint32_t));
        (void)buf_append(&p->text, t->text.data, t->text.len);
        (void)buf_append(&p->logprobs, t->logprobs, t->n_logprobs * sizeof(float));
        (void)buf_append(&p->top_ids, t->top_ids, t->n_top_ids * sizeof(uint32_t));
        (void)buf_append(&p->top_logprobs, t->top_logprobs, t->n_top_logprobs * sizeof(float));
        return 0;
}

void pending_fill(const struct pending *p, Spark__V1__Token *ret) {
        *ret = (Spark__V1__Token)SPARK__V1__TOKEN__INIT;
        ret->n_ids = p->ids.len / sizeof(uint32_t);
        ret->ids = (uint32_t *)(void *)p->ids.data;
        ret->text.len = p->text.len;
        ret->text.data = (uint8_t *)p->text.data;
        ret->index = p->index;
        ret->n_logprobs = p->logprobs.len / sizeof(float);
        ret->logprobs = (float *)(void *)p->logprobs.data;
        ret->top_n = p->top_n;
        ret->n_top_ids = p->top_ids.len / sizeof(uint32_t);
        ret->top_ids = (uint32_t *)(void *)p->top_ids.data;
        ret->n_top_logprobs = p->top_logprobs.len / sizeof(float);
        ret->top_logprobs = (float *)(void *)p->top_logprobs.data;
}
