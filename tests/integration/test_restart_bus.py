#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the bus handed out, over restarts: pipes of Generate go on, byte for byte, and so do the sockets of OpenSession."""

import os
import signal
import socket
import time
import unittest

from bus_harness import *
from fdstore_harness import *
from harness import *
from harness import pb


class Pipes(BusTestCase, KeptTestCase):
    def kept_on_bus(self, **settings):
        daemon = self.kept(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": self.bus.address}, **settings)
        self.wait_on_bus(daemon)
        daemon.wait_engine()
        return daemon

    def wait_on_bus(self, daemon):
        """The process that runs has the name; one before it may have ended without."""
        until(lambda: daemon.log().rfind("on the bus as") > daemon.log().rfind("listening at"), 10, "the name on the bus")

    def ask(self, n, seed):
        return self.generate(self.connect(), "Once", max_tokens=u32(n), seed=u64(seed))

    def read_all(self, fd, data=b""):
        while piece := os.read(fd, 1 << 16):
            data += piece
        return data

    def test_goes_on(self):
        daemon = self.kept_on_bus(null={"step_us": 2000})
        expected = self.read_all(self.ask(900, 1))
        for how in (signal.SIGKILL, signal.SIGTERM):
            fd = self.ask(900, 1)
            data = os.read(fd, 100)  # not all, however late that is
            for _ in range(3):
                self.assertLess(len(data), len(expected))
                daemon.restart(how)
                data += os.read(fd, 100)
            self.wait_on_bus(daemon)
            self.assertEqual(self.read_all(fd, data), expected)
        until(lambda: not [n for n in daemon.store.names() if n.startswith("pipe.")], 10, "no pipe in the store")

    def test_slow_reader(self):
        """A full pipe, text that waits behind it, a request that ended meanwhile."""
        daemon = self.kept_on_bus()
        expected = self.read_all(self.ask(30000, 1))
        fd = self.ask(30000, 1)
        data = self.shrink(fd)
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            time.sleep(0.2 * SLOW)
            data += os.read(fd, 3000)
            daemon.restart(how)
        self.assertEqual(self.read_all(fd, data), expected)

    def test_reader_that_left(self):
        daemon = self.kept_on_bus(null={"step_us": 2000})
        fd = self.ask(100000, 1)
        os.read(fd, 100)
        daemon.crash()
        os.close(fd)
        daemon.start()
        until(lambda: not self.requests(daemon), 10, "no request")
        until(lambda: not [n for n in daemon.store.names() if n.startswith("pipe.")], 10, "no pipe in the store")

    def test_sockets_of_sessions(self):
        daemon = self.kept_on_bus(null={"step_us": 2000})
        bus = self.connect()
        _, handed = self.call(bus, "OpenSession", "a{sv}", ({},))
        client = Client(daemon.socket, hello=False)
        client.sock.close()
        client.sock = socket.socket(fileno=handed.take())
        client.sock.settimeout(20 * SLOW)
        client.send(pb.ClientFrame(hello=pb.Hello(protocol_version=1, software="test")))
        client.receive()
        expected = client.answer(client.generate(n=100, seed=4, credit=200))[:2]
        for how in (signal.SIGKILL, signal.SIGTERM):
            id = client.generate(n=100, seed=4, credit=200)
            first = client.receive_of(id).token
            daemon.restart(how)
            ids, text, end = client.answer(id, seen=len(first.ids))
            self.assertDone(end)
            self.assertEqual((list(first.ids) + ids, first.text + text), expected)
        client.close()


if __name__ == "__main__":
    unittest.main()
