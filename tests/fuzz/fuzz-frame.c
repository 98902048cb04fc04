/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Frames as they come over a socket: deframer, check and unpacking of both directions of the public protocol. The first
 * byte says in pieces of which size the rest arrives.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "message.h"
#include "spark.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void unpack_both(const struct channel_frame *frame) {
        const ProtobufCMessageDescriptor *descriptors[] = { &spark__v1__client_frame__descriptor,
                                                            &spark__v1__server_frame__descriptor };
        struct message_fault fault;

        for (size_t i = 0; i < ARRAY_SIZE(descriptors); i++) {
                ProtobufCMessage *m = NULL, *again = NULL;
                _cleanup_free_ uint8_t *packed = NULL;
                size_t n;

                if (message_unpack(descriptors[i], frame->data, frame->size, &m, &fault) != 0)
                        continue;
                /* what was understood can be said again */
                n = protobuf_c_message_get_packed_size(m);
                packed = malloc(n ? n : 1);
                if (packed && protobuf_c_message_pack(m, packed) != n)
                        abort();
                if (packed && n <= frame->size && message_unpack(descriptors[i], packed, n, &again, &fault) != 0)
                        abort();
                (void)message_free(again);
                (void)message_free(m);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const struct channel_limits limits = { .frame_max = 65536, .out_frames = 1, .out_bytes = 1024, .in_fds = 1 };
        struct channel c;
        struct channel_frame frame;
        size_t piece, done = 1;
        int sv[2], r = 0;

        if (size < 1 || size > 65536)
                return 0;
        piece = (size_t)data[0] * data[0] + 1;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
                return 0;
        if (channel_init(&c, sv[0], &limits) < 0)
                return 0;
        while (done < size && r == 0) {
                ssize_t n = send(sv[1], data + done, MIN(piece, size - done), MSG_NOSIGNAL);

                if (n <= 0)
                        break;
                done += (size_t)n;
                r = channel_read(&c) == 1 ? 0 : -1;
                while (r == 0 && (r = channel_next(&c, &frame)) == 1) {
                        unpack_both(&frame);
                        r = 0;
                        if (!channel_partial_frame(&c))
                                break;
                }
        }
        (void)fd_close(sv[1]);
        while (channel_read(&c) == 1)
                ;
        (void)channel_next(&c, &frame);
        channel_deinit(&c);
        return 0;
}
