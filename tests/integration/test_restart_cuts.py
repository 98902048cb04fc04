#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a restart cuts off: descriptors that no record speaks of yet, a log that there is no room for, and work of loaders and of the
store."""

import os
import select
import signal
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
        """Clients of which some are in the store, and none in the log."""
        while True:
            with daemon.store.paused() as room:
                began = time.monotonic()
                clients = [daemon.connect() for _ in range(room + 3)]
                daemon.process.terminate()  # all are kept then, in one turn, and then that counts
                late = time.monotonic() - began > 0.7  # after a second they are kept anyhow
                select.select([daemon.store.sock], [], [], 10)
                time.sleep(0.05)
                self.assertIsNone(daemon.process.poll())
                daemon.crash()
            daemon.store.settle()
            if not late:
                return clients
            daemon.start()

    def test_clients_see_their_end(self):
        daemon = self.kept(store_max=2048)
        clients = self.cut(daemon)
        held = self.clients_held(daemon)
        self.assertTrue(0 < len(held) < len(clients), held)
        daemon.start()
        for client in clients:
            self.assertEqual(client.expect_closed(), [])
        until(lambda: not self.clients_held(daemon), 5, "a store that holds no client")
        self.assertIn(f"{len(held)} descriptors that an earlier process left are of no use", daemon.log())

        client = daemon.connect()  # under one of their numbers
        expected = client.answer(client.generate(n=60, seed=5, credit=100))[0]
        id = client.generate(n=60, seed=5, credit=10)
        ids = client.tokens(id, 10)
        daemon.restart(signal.SIGKILL)
        client.credit(id, 90)
        self.assertEqual(ids + client.answer(id, seen=10)[0], expected)
        client.close()
        until(lambda: not self.clients_held(daemon), 5, "a store that holds no client")


if __name__ == "__main__":
    unittest.main()
