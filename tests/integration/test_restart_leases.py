#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Leases over restarts: whoever has asked for memory, or holds a model, has it afterwards as well, however the service ended."""

import os
import signal
import unittest

from fdstore_harness import *
from harness import *
from harness import pb


class Leases(KeptTestCase):
    def begin(self):
        daemon = self.kept(models=[{"name": "a", "default": True}, {"name": "b", "resident": "demand"}], residency={"min_seconds": 0})
        client = daemon.connect()
        self.addCleanup(client.close)
        return daemon, client

    def leases(self, client):
        return {lease.who: lease for lease in client.ask(status=pb.Status()).done.status.leases}

    def wait_for(self, client, id, stage):
        while client.receive_of(id).progress.stage != stage:
            pass

    def test_requests(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                daemon, client = self.begin()
                memory = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 20, who="blender", why="a film", policy="busy"))
                self.wait_for(client, memory, "granted")
                warm = client.request(hold_warm=pb.HoldWarm(model="b", who="demo"))
                daemon.restart(number)
                found = until(lambda: self.leases(client), 10, "leases")
                self.assertEqual(set(found), {"blender", "demo"})
                self.assertEqual((found["blender"].bytes, found["blender"].why, found["blender"].policy, found["blender"].pid),
                                 (1 << 20, "a film", "busy", os.getpid()))
                self.assertEqual(found["demo"].model, "b")
                for id in (memory, warm):
                    client.cancel(id)
                    self.assertError(client.answer(id)[2], "CANCELLED")
                self.assertFalse(self.leases(client))
                self.assertServes(daemon)
                client.close()
                until(lambda: not [n for n in daemon.store.names() if n.startswith("lease.")], 10, "an empty store")


if __name__ == "__main__":
    unittest.main()
