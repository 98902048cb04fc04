/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The check walks the wire format along the descriptor, each byte once. Only what protobuf-c would also read is looked
 * at; where both would disagree (a field whose wire type is not its own), the message is refused.
 *
 * The budget: a legitimate message takes at most about sixteen bytes of memory per byte on the wire (a packed token id
 * of one byte takes four, a turn of a chat that says "ok" two hundred for its fourteen), a hostile one forty and more.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "message.h"

#define BUDGET_FACTOR 16u
#define BUDGET_BASE ((size_t)64 << 10)

struct walk {
        struct message_fault *fault;
        const uint8_t *start;
        const ProtobufCFieldDescriptor *path[MESSAGE_DEPTH_MAX];
        size_t index[MESSAGE_DEPTH_MAX]; /* of a repeated field's element */
        unsigned depth;                  /* of path */
        uint64_t id;
};

struct cursor {
        const uint8_t *p, *end;
};

/* Writes "chat.messages[2].content". */
static void walk_write_path(const struct walk *w, char *out, size_t size) {
        size_t n = 0;

        out[0] = 0;
        for (unsigned i = 0; i < w->depth && n < size; i++) {
                const char *dot = i ? "." : "";
                int k;

                if (w->path[i]->label == PROTOBUF_C_LABEL_REPEATED)
                        k = snprintf(out + n, size - n, "%s%s[%zu]", dot, w->path[i]->name, w->index[i]);
                else
                        k = snprintf(out + n, size - n, "%s%s", dot, w->path[i]->name);
                n += (size_t)MAX(k, 0);
        }
}

static int walk_fail(const struct walk *w, int code, size_t offset) {
        struct message_fault *f = w->fault;
        const char *what = "is not a field of such a message";

        if (!f)
                return code;
        *f = (struct message_fault){ .id = w->id, .offset = offset };
        walk_write_path(w, f->field, sizeof(f->field));
        switch (code) {
        case MESSAGE_E_UTF8:
                what = "is not UTF-8";
                break;
        case MESSAGE_E_NUL:
                what = "holds a NUL character";
                break;
        case MESSAGE_E_LIMIT:
                what = "is nested too deep";
                break;
        default:
                break;
        }
        if (code == MESSAGE_E_INVALID)
                (void)snprintf(f->text, sizeof(f->text), "The message is malformed at byte %zu%s%s%s.", offset,
                               f->field[0] ? " (field " : "", f->field, f->field[0] ? ")" : "");
        else
                (void)snprintf(f->text, sizeof(f->text), "%s %s (at byte %zu).", f->field, what, offset);
        return code;
}

static bool read_varint(struct cursor *c, uint64_t *ret) {
        uint64_t v = 0;

        for (unsigned shift = 0; shift < 70 && c->p < c->end; shift += 7) {
                uint8_t b = *c->p++;

                if (shift < 64)
                        v |= (uint64_t)(b & 0x7f) << shift;
                if (!(b & 0x80)) {
                        *ret = v;
                        return true;
                }
        }
        return false;
}

static bool read_bytes(struct cursor *c, struct cursor *ret) {
        uint64_t n;

        if (!read_varint(c, &n) || n > (uint64_t)(c->end - c->p))
                return false;
        *ret = (struct cursor){ .p = c->p, .end = c->p + n };
        c->p += n;
        return true;
}

static int check_text(const struct walk *w, const struct cursor *text) {
        const char *s = (const char *)text->p;
        size_t n = (size_t)(text->end - text->p), bad;
        const char *nul;

        if (!utf8_valid(s, n, &bad))
                return walk_fail(w, MESSAGE_E_UTF8, bad);
        nul = memchr(s, 0, n);
        if (nul)
                return walk_fail(w, MESSAGE_E_NUL, (size_t)(nul - s));
        return 0;
}

static bool is_varint_type(ProtobufCType type) {
        switch (type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_BOOL:
        case PROTOBUF_C_TYPE_ENUM:
                return true;
        default:
                return false;
        }
}

static unsigned wire_type_of(ProtobufCType type) {
        switch (type) {
        case PROTOBUF_C_TYPE_STRING:
        case PROTOBUF_C_TYPE_BYTES:
        case PROTOBUF_C_TYPE_MESSAGE:
                return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
        case PROTOBUF_C_TYPE_FIXED32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_FLOAT:
                return PROTOBUF_C_WIRE_TYPE_32BIT;
        case PROTOBUF_C_TYPE_FIXED64:
        case PROTOBUF_C_TYPE_SFIXED64:
        case PROTOBUF_C_TYPE_DOUBLE:
                return PROTOBUF_C_WIRE_TYPE_64BIT;
        default:
                return PROTOBUF_C_WIRE_TYPE_VARINT;
        }
}

static bool wire_type_fits(const ProtobufCFieldDescriptor *field, unsigned wire) {
        if (wire == wire_type_of(field->type))
                return true;
        /* packed */
        return wire == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED && field->label == PROTOBUF_C_LABEL_REPEATED;
}

static int check_message(struct walk *w, const ProtobufCMessageDescriptor *d, struct cursor c);

static int check_field(struct walk *w, const ProtobufCFieldDescriptor *field, const struct cursor *value) {
        if (field->type == PROTOBUF_C_TYPE_STRING)
                return check_text(w, value);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
                if (w->depth >= MESSAGE_DEPTH_MAX)
                        return walk_fail(w, MESSAGE_E_LIMIT, (size_t)(value->p - w->start));
                return check_message(w, field->descriptor, *value);
        }
        return 0;
}

/* Reads a field's value past its tag. `value` is set for length-prefixed ones, `number` for varints. */
static bool read_value(struct cursor *c, unsigned wire, struct cursor *value, uint64_t *number) {
        size_t left = (size_t)(c->end - c->p);

        switch (wire) {
        case PROTOBUF_C_WIRE_TYPE_VARINT:
                return read_varint(c, number);
        case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
                return read_bytes(c, value);
        case PROTOBUF_C_WIRE_TYPE_64BIT:
        case PROTOBUF_C_WIRE_TYPE_32BIT:
                if (left < (wire == PROTOBUF_C_WIRE_TYPE_64BIT ? 8u : 4u))
                        return false;
                c->p += wire == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4;
                return true;
        default: /* groups and what nobody has defined */
                return false;
        }
}

static int check_message(struct walk *w, const ProtobufCMessageDescriptor *d, struct cursor c) {
        const ProtobufCFieldDescriptor *last = NULL;
        unsigned depth = w->depth;
        size_t index = 0;

        while (c.p < c.end) {
                const ProtobufCFieldDescriptor *field;
                struct cursor value = { NULL, NULL };
                size_t offset = (size_t)(c.p - w->start);
                uint64_t tag, number = 0;
                int r;

                if (!read_varint(&c, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
                        return walk_fail(w, MESSAGE_E_INVALID, offset);
                field = protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
                if (!read_value(&c, tag & 7, &value, &number))
                        return walk_fail(w, MESSAGE_E_INVALID, offset);
                if (!field)
                        continue;
                index = field == last ? index + 1 : 0;
                last = field;
                w->path[depth] = field;
                w->index[depth] = index;
                w->depth = depth + 1;
                if (!wire_type_fits(field, tag & 7))
                        return walk_fail(w, MESSAGE_E_INVALID, offset);
                if (depth == 0 && field->id == 1 && is_varint_type(field->type))
                        w->id = number;
                r = value.p ? check_field(w, field, &value) : 0;
                if (r)
                        return r;
                w->depth = depth;
        }
        return 0;
}

static int message_check(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size,
                         struct message_fault *fault) {
        struct walk w = { .fault = fault, .start = data };

        return check_message(&w, descriptor, (struct cursor){ .p = data, .end = (const uint8_t *)data + size });
}

struct budget {
        size_t left;
        bool exceeded;
        bool no_memory;
};

static void *budget_alloc(void *userdata, size_t size) {
        struct budget *b = userdata;
        void *p;

        if (size > b->left) {
                b->exceeded = true;
                return NULL;
        }
        p = malloc(size ? size : 1);
        if (!p) {
                b->no_memory = true;
                return NULL;
        }
        b->left -= size;
        return p;
}

static void budget_free(void *userdata, void *p) {
        free(p);
}

static int fault_whole(struct message_fault *fault, int code, const char *text) {
        if (fault) {
                *fault = (struct message_fault){ 0 };
                (void)snprintf(fault->text, sizeof(fault->text), "%s", text);
        }
        return code;
}

int message_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size, ProtobufCMessage **ret,
                   struct message_fault *fault) {
        struct budget budget = { .left = BUDGET_BASE };
        ProtobufCAllocator allocator = { .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget };
        ProtobufCMessage *m;
        int r;

        if (size > (SIZE_MAX - BUDGET_BASE) / BUDGET_FACTOR)
                return fault_whole(fault, MESSAGE_E_LIMIT, "The message is too large.");
        budget.left += BUDGET_FACTOR * size;
        r = message_check(descriptor, data, size, fault);
        if (r)
                return r;
        m = protobuf_c_message_unpack(descriptor, &allocator, size, data);
        if (!m && budget.no_memory)
                return -ENOMEM;
        if (!m && budget.exceeded)
                return fault_whole(fault, MESSAGE_E_LIMIT, "The message takes too much memory for its size.");
        if (!m)
                return fault_whole(fault, MESSAGE_E_INVALID, "The message is malformed.");
        *ret = m;
        return 0;
}

ProtobufCMessage *message_free(ProtobufCMessage *m) {
        /* budget_alloc() is malloc() with a count, so the default allocator frees it */
        if (m)
                protobuf_c_message_free_unpacked(m, NULL);
        return NULL;
}

int message_queue_fds(struct channel *c, const ProtobufCMessage *m, const int *fds, size_t n_fds) {
        size_t size = protobuf_c_message_get_packed_size(m);
        uint8_t *p;
        int r;

        r = channel_queue_reserve_fds(c, size, fds, n_fds, &p);
        if (r)
                return r;
        (void)protobuf_c_message_pack(m, p);
        return 0;
}

int message_queue(struct channel *c, const ProtobufCMessage *m) {
        return message_queue_fds(c, m, NULL, 0);
}
