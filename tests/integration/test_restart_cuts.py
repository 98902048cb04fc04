#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a restart cuts off: descriptors that no record speaks of yet, a log that there is no room for, and work of loaders and of the
store."""

import resource
import signal
import struct
import time
import unittest

from fdstore_harness import *
from harness import *
from harness import pb


class Uncommitted(KeptTestCase):
    """A descriptor is in the store before the record that speaks of it counts. Here the service ends in between: the service manager
    takes nothing any more, so that it stands still in the middle of pushing."""

    def clients_held(self, daemon):
        return [n for n in daemon.store.names() if n.startswith("client.")]

    def cut(self, daemon):
        """Clients of which some are in the store, and none in the log. All come at once, while the service stands still."""
        for _ in range(20):
            with daemon.store.paused() as room:
                daemon.listener.listen(room + 3)
                daemon.signal(signal.SIGSTOP)
                clients = [daemon.connect(hello=False) for _ in range(room + 3)]
                for client in clients:
                    client.send(pb.ClientFrame(hello=pb.Hello(protocol_version=1, software="test")))
                began = time.monotonic()
                daemon.signal(signal.SIGCONT)
                clients[-1].receive()
                daemon.process.terminate()  # all are kept then, in one turn, and then that counts
                late = time.monotonic() - began > 0.7  # after a second they are kept anyhow
                daemon.store.wait_full()
                self.assertIsNone(daemon.process.poll())
                daemon.crash()
            daemon.store.settle()
            if not late:
                return clients
            daemon.start()
        raise AssertionError("the service is too slow")

    def test_clients_see_their_end(self):
        daemon = self.kept(store_max=2048)
        clients = self.cut(daemon)
        held = self.clients_held(daemon)
        self.assertTrue(0 < len(held) < len(clients), held)
        daemon.start()
        for client in clients:
            self.assertLessEqual({frame.WhichOneof("body") for frame in client.expect_closed()}, {"hello"})
        until(lambda: not self.clients_held(daemon), 5, "a store that holds no client")
        self.assertIn(f"{len(held)} descriptors that an earlier process left: of no use, closed", daemon.log())

        client = daemon.connect()  # under one of their numbers
        expected = client.answer(client.generate(n=60, seed=5, credit=100))[0]
        id = client.generate(n=60, seed=5, credit=10)
        ids = client.tokens(id, 10)
        daemon.restart(signal.SIGKILL)
        client.credit(id, 90)
        self.assertEqual(ids + client.answer(id, seen=10)[0], expected)
        client.close()
        until(lambda: not self.clients_held(daemon), 5, "a store that holds no client")


class FullLog(KeptTestCase):
    """What there is to say finds no room. The limit is one of the process's on the size of files, which a memfd is."""

    LIMIT = 1 << 20

    def setUp(self):
        self.served = self.kept(log_level="info", limits={"stop_seconds": 1})
        resource.prlimit(self.served.pid, resource.RLIMIT_FSIZE, (self.LIMIT, resource.RLIM_INFINITY))

    def stream(self):
        """One that stands still behind a part of its answer."""
        client = self.served.connect()
        id = client.generate(n=60, seed=5, credit=10)
        return client, id, client.tokens(id, 10)

    def fill(self):
        """A client of which a long request has come by half. Gives it, and the rest."""
        client = self.served.connect()
        self.assertDone(client.answer(client.generate(n=1))[2])  # from here on it is kept
        data = pb.ClientFrame(id=9, generate=pb.Generate(prompt=b"word " * 600000)).SerializeToString()
        data = struct.pack("<I", len(data)) + data
        client.send_raw(data[:2 << 20])
        until(lambda: "nothing is kept over a restart any more: File too large" in self.served.log(), 10, "a full log")
        return client, data[2 << 20:]

    def held(self):
        self.served.store.settle()
        return self.served.store.names()

    def finish(self, stream):
        client, id, ids = stream
        client.credit(id, 90)
        more, _, end = client.answer(id, seen=len(ids))
        self.assertDone(end)
        return ids + more

    def test_goes_on_and_recovers(self):
        expected = self.finish(self.stream())
        old = [self.stream() for _ in range(3)]
        hog, rest = self.fill()
        until(lambda: not self.held(), 5, "an empty store")
        new = [self.stream() for _ in range(2)]
        self.assertEqual(self.finish(old[0]), expected)
        self.assertEqual(self.finish(new[0]), expected)
        until(lambda: not self.held(), 5, "an empty store")  # now and then it is tried again

        hog.send_raw(rest)
        self.assertError(hog.receive_of(9), "CONTEXT_OVERFLOW")
        until(lambda: "is kept over a restart again" in self.served.log(), 10, "room in the log")
        self.served.restart(signal.SIGKILL)
        self.assertIn("took over what an earlier process left", self.served.log())
        for stream in old[1:] + new[1:]:
            self.assertEqual(self.finish(stream), expected)
        self.assertDone(hog.ask(models=pb.Models()))
        for client in [hog] + [stream[0] for stream in old + new]:
            client.close()
        until(lambda: not [n for n in self.held() if n.startswith("client.")], 5, "a store that holds no client")

    def test_killed_meanwhile(self):
        stream, (hog, _) = self.stream(), self.fill()
        self.served.restart(signal.SIGKILL)
        self.assertNotIn("took over", self.served.log())
        self.assertEqual(hog.expect_closed(), [])
        self.assertEqual(stream[0].expect_closed(), [])
        stream = self.stream()
        self.served.restart(signal.SIGKILL)
        self.finish(stream)

    def test_ended_meanwhile(self):
        """A restart that would keep nothing is a stop, and tells everybody."""
        stream, (hog, _) = self.stream(), self.fill()
        status = self.served.restart()
        self.assertEqual(status, 0)
        self.assertError(stream[0].expect_closed()[-1], "STOPPING")
        hog.close()
        self.assertServes(self.served)


if __name__ == "__main__":
    unittest.main()
