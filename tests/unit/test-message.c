/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "message.h"
#include "spark.pb-c.h"

#define CLIENT (&spark__v1__client_frame__descriptor)

static int check(const void *data, size_t size, struct message_fault *fault) {
        ProtobufCMessage *m = NULL;
        int r = message_unpack(CLIENT, data, size, &m, fault);

        if (r)
                assert_null(m);
        (void)message_free(m);
        return r;
}

static Spark__V1__ClientFrame chat_frame(Spark__V1__Chat *chat, Spark__V1__ChatMessage **messages, size_t n) {
        Spark__V1__ClientFrame f = SPARK__V1__CLIENT_FRAME__INIT;

        spark__v1__chat__init(chat);
        chat->n_messages = n;
        chat->messages = messages;
        f.id = 77;
        f.body_case = SPARK__V1__CLIENT_FRAME__BODY_CHAT;
        f.chat = chat;
        return f;
}

static void test_roundtrip(void **state) {
        Spark__V1__ClientFrame f = SPARK__V1__CLIENT_FRAME__INIT, *back;
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        const struct channel_limits limits = { .frame_max = 4096, .out_frames = 10, .out_bytes = 8192, .in_fds = 1 };
        struct channel a, b;
        struct channel_frame frame;
        ProtobufCMessage *m = NULL;
        _cleanup_fd_ int memfd = fd_memfd_new("m", 1);
        uint8_t big[5000] = { 0 };
        int sv[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        assert_int_equal(channel_init(&a, sv[0], &limits), 0);
        assert_int_equal(channel_init(&b, sv[1], &limits), 0);
        f.id = 3;
        f.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        f.generate = &g;
        g.model = (char *)"mod\xc3\xa8le";
        g.prompt = (ProtobufCBinaryData){ .len = 3, .data = (uint8_t *)"\xff\0z" };
        assert_int_equal(message_queue(&a, &f.base), 0);
        assert_int_equal(message_queue_fds(&a, &f.base, &memfd, 1), 0);
        assert_int_equal(channel_flush(&a), 1);
        assert_int_equal(channel_read(&b), 1);
        for (int i = 0; i < 2; i++) {
                assert_int_equal(channel_next(&b, &frame), 1);
                assert_int_equal(message_unpack(CLIENT, frame.data, frame.size, &m, NULL), 0);
                back = (Spark__V1__ClientFrame *)m;
                assert_int_equal(back->id, 3);
                assert_string_equal(back->generate->model, g.model);
                assert_int_equal(back->generate->prompt.len, 3);
                m = message_free(m);
        }
        assert_int_equal(channel_pending_fds(&b), 1);

        g.prompt = (ProtobufCBinaryData){ .len = sizeof(big), .data = big };
        assert_int_equal(message_queue(&a, &f.base), CHANNEL_E_OVERSIZE);
        f = (Spark__V1__ClientFrame)SPARK__V1__CLIENT_FRAME__INIT;
        assert_int_equal(message_queue(&a, &f.base), -EINVAL);
        assert_false(channel_wants_write(&a));
        channel_deinit(&a);
        channel_deinit(&b);
}

static void test_text(void **state) {
        Spark__V1__ChatMessage good = SPARK__V1__CHAT_MESSAGE__INIT, bad = SPARK__V1__CHAT_MESSAGE__INIT;
        Spark__V1__ChatMessage *messages[] = { &good, &good, &bad };
        Spark__V1__Sampling sampling = SPARK__V1__SAMPLING__INIT;
        Spark__V1__Chat chat;
        Spark__V1__ClientFrame f = chat_frame(&chat, messages, 3);
        char *stops[] = { (char *)"a", (char *)"\xed\xa0\x80" };
        struct message_fault fault;
        uint8_t wire[1000];
        size_t n;

        good.role = (char *)"user";
        good.content = (char *)"gr\xc3\xbc\xc3\x9f" "e";
        bad.role = (char *)"user";
        bad.content = (char *)"abc\xff";
        n = protobuf_c_message_pack(&f.base, wire);
        assert_int_equal(check(wire, n, &fault), MESSAGE_E_UTF8);
        assert_string_equal(fault.field, "chat.messages[2].content");
        assert_int_equal(fault.offset, 3);
        assert_int_equal(fault.id, 77);
        assert_string_equal(fault.text, "chat.messages[2].content is not UTF-8 (at byte 3).");
        assert_int_equal(check(wire, n, NULL), MESSAGE_E_UTF8);

        chat.n_messages = 2;
        chat.sampling = &sampling;
        sampling.n_stop = 2;
        sampling.stop = stops;
        n = protobuf_c_message_pack(&f.base, wire);
        assert_int_equal(check(wire, n, &fault), MESSAGE_E_UTF8);
        assert_string_equal(fault.field, "chat.sampling.stop[1]");
        assert_int_equal(fault.offset, 0);

        sampling.n_stop = 1;
        n = protobuf_c_message_pack(&f.base, wire);
        assert_int_equal(check(wire, n, &fault), 0);
}

/* protobuf-c would cut the text at the NUL and nobody would know. */
static void test_nul(void **state) {
        static const uint8_t wire[] = { 0x08, 5, 0x4a, 5, 0x0a, 3, 'a', 0, 'b' }; /* id 5, load.model "a\0b" */
        struct message_fault fault;

        assert_int_equal(check(wire, sizeof(wire), &fault), MESSAGE_E_NUL);
        assert_string_equal(fault.field, "load.model");
        assert_int_equal(fault.offset, 1);
        assert_int_equal(fault.id, 5);
}

static void test_malformed(void **state) {
        static const struct {
                uint8_t data[24];
                size_t n;
                const char *field;
                uint64_t id;
        } bad[] = {
                { { 0x80 }, 1, "", 0 },                                /* tag cut off */
                { { 0x08 }, 1, "", 0 },                                /* value cut off */
                { { 0x00, 0x00 }, 2, "", 0 },                          /* field 0 */
                { { 0x0b }, 1, "", 0 },                                /* group */
                { { 0x0f, 0 }, 2, "", 0 },                             /* wire type 7 */
                { { 0x09, 1, 2, 3, 4, 5, 6, 7, 8 }, 9, "id", 0 },      /* id as fixed64 */
                { { 0x08, 4, 0x0a, 0 }, 4, "id", 4 },                  /* id as bytes */
                { { 0x08, 9, 0x1a, 2, 0x10, 0 }, 6, "generate", 9 },   /* prompt as varint, see below */
                { { 0x1a, 0x7f, 0 }, 3, "", 0 },                       /* longer than the frame */
                { { 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 }, 11, "", 0 },
                { { 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 }, 12, "", 0 },
                { { 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0 }, 8, "", 0 }, /* tag past 32 bits */
        };
        struct message_fault fault;

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                assert_int_equal(check(bad[i].data, bad[i].n, &fault), MESSAGE_E_INVALID);
                assert_int_equal(fault.id, bad[i].id);
                assert_int_equal(strncmp(fault.field, bad[i].field, strlen(bad[i].field)), 0);
                assert_true(fault.text[0] != 0);
        }
        assert_int_equal(check((uint8_t[]){ 0xa2, 0x7d, 2, 'h', 'i' }, 5, &fault), 0); /* an unknown field is fine */
        assert_int_equal(check("", 0, &fault), 0);
}

/* Forty bytes of bookkeeping per two bytes on the wire: refused, not allocated. */
static void test_budget(void **state) {
        const size_t n = 1u << 20;
        _cleanup_free_ uint8_t *wire = malloc(n + 8);
        struct message_fault fault;
        Spark__V1__ClientFrame f = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate g = SPARK__V1__GENERATE__INIT;
        _cleanup_free_ uint32_t *ids = calloc(n / 2, sizeof(uint32_t));
        _cleanup_free_ uint8_t *packed = NULL;
        size_t size;

        assert_non_null(wire);
        assert_non_null(ids);
        for (size_t i = 0; i < n; i += 2) {
                wire[i] = 0x08;
                wire[i + 1] = 1;
        }
        assert_int_equal(check(wire, n, &fault), MESSAGE_E_LIMIT);
        assert_true(strstr(fault.text, "memory") != NULL);

        /* a prompt of small token ids is what may take most */
        f.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        f.generate = &g;
        g.n_prompt_tokens = n / 2;
        g.prompt_tokens = ids;
        size = protobuf_c_message_get_packed_size(&f.base);
        packed = malloc(size);
        assert_non_null(packed);
        (void)protobuf_c_message_pack(&f.base, packed);
        assert_int_equal(check(packed, size, &fault), 0);
}

/* A chat of many short turns is legitimate. */
static void test_many_messages(void **state) {
        enum { N = 5000 };
        Spark__V1__ChatMessage one = SPARK__V1__CHAT_MESSAGE__INIT, *messages[N];
        Spark__V1__Chat chat;
        Spark__V1__ClientFrame f = chat_frame(&chat, messages, N);
        _cleanup_free_ uint8_t *wire = NULL;
        struct message_fault fault;
        size_t n;

        one.role = (char *)"user";
        one.content = (char *)"ok";
        for (size_t i = 0; i < N; i++)
                messages[i] = &one;
        n = protobuf_c_message_get_packed_size(&f.base);
        wire = malloc(n);
        assert_non_null(wire);
        (void)protobuf_c_message_pack(&f.base, wire);
        assert_int_equal(check(wire, n, &fault), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_roundtrip),  cmocka_unit_test(test_text),
                cmocka_unit_test(test_nul),        cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_budget),     cmocka_unit_test(test_many_messages),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
