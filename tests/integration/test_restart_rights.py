#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Questions to polkit, and what was granted, over restarts: what was being asked is asked again, what may be goes on."""

import os
import signal
import unittest

from bus_harness import *
from fdstore_harness import *
from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
BOTH = (signal.SIGKILL, signal.SIGTERM)


class Rights(MockedPolkit, KeptTestCase):
    def setUp(self):
        super().setUp()
        self.polkit()
        self.daemon_ = self.kept(bus="system", env=self.env, memory={"leases": "privileged"},
                                 residency={"holds": "privileged"})
        self.times = 1
        self.wait_on_bus()
        self.daemon_.wait_engine()
        self.daemon_.socket.chmod(0o666)
        self.client = self.daemon_.connect(uid=NOBODY)
        self.addCleanup(self.client.close)

    def wait_on_bus(self):
        until(lambda: self.daemon_.log().count("on the bus as") >= self.times, 10, "the name on the bus")

    def restart(self, how):
        self.daemon_.restart(how)
        self.times += 1
        self.wait_on_bus()

    def begin(self, **body):
        id = self.client.request(interactive_authorization=True, **body)
        until(lambda: self.mock_call("Waiting") >= 1, 10, "the question")
        until(lambda: [n for n in self.daemon_.store.names() if n.startswith("client.")], 10, "the client in the store")
        self.pass_turn(self.daemon_, uid=NOBODY)
        return id

    def test_what_was_being_asked_is_asked_again(self):
        for how in BOTH:
            self.answer(manage_models="hang")
            id = self.begin(load=pb.Load(model="null"))
            self.asked()
            self.restart(how)
            until(lambda: "manage-models" in self.asked(), 10, "the question anew")
            self.assertDone(self.client.answer(self.client.generate(n=2))[2])
            self.answer(manage_models="yes")
            self.assertDone(self.client.answer(id)[2])
            self.answer(manage_models="hang")
            id = self.begin(load=pb.Load(model="null"))
            self.restart(how)
            until(lambda: "manage-models" in self.asked(), 10, "the question anew")
            self.answer()
            self.assertError(self.client.answer(id)[2], "PERMISSION_DENIED")

    def test_with_a_file(self):
        """One that came along stays for the next process; a list of them is asked for again."""
        self.answer(manage_models="hang")
        fd = os.open(TINY, os.O_RDONLY)
        for how in BOTH:
            load = self.client.request((fd,), load=pb.Load(model="x", input_fd=True))
            stored = self.client.request((fd,), model_import=pb.ModelImport(name="y", files=[pb.ModelFile(name="y.gguf")],
                                                                            input_fd=True))
            until(lambda: self.mock_call("Waiting") >= 2, 10, "the questions")
            until(lambda: [n for n in self.daemon_.store.names() if n.startswith("input.")], 10, "the file in the store")
            self.pass_turn(self.daemon_, uid=NOBODY)
            self.restart(how)
            self.assertError(self.client.answer(stored)[2], "BUSY")
            self.answer(manage_models="yes")
            end = self.client.answer(load)[2]  # the null backend has no files: it was permitted, then refused
            self.assertEqual(end.WhichOneof("body"), "error")
            self.assertEqual(error_name(end.error), "INVALID_ARGUMENT", end)
            self.answer(manage_models="hang")
        os.close(fd)

    def test_what_was_granted_goes_on(self):
        """Leases that take a right are held by the next process without another question."""
        self.answer(manage_models="yes", observe_others="yes")
        memory = self.client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 20, who="blender", missing_only=True))
        warm = self.client.request(hold_warm=pb.HoldWarm(model="null"))
        while self.client.receive_of(memory).progress.stage != "granted":
            pass
        while self.client.receive_of(warm).progress.stage != "warm":
            pass
        self.assertDone(self.client.ask(jobs=pb.Jobs(all_users=True)))
        self.answer()
        for how in BOTH:
            self.asked()
            self.restart(how)
            leases = self.client.ask(status=pb.Status()).done.status.leases
            self.assertEqual(sorted((lease.kind, lease.own) for lease in leases), [("memory", True), ("warm", True)])
            self.assertDone(self.client.ask(jobs=pb.Jobs(all_users=True)))  # may look again
            self.assertEqual(self.asked(), [])
            self.assertError(self.client.ask(unload=pb.Unload(model="null")), "PERMISSION_DENIED")
        for id in memory, warm:
            self.client.cancel(id)
            self.assertError(self.client.answer(id)[2], "CANCELLED")

    def test_a_client_that_leaves_meanwhile(self):
        self.answer(manage_models="hang")
        self.client.close()  # who has been there for a second is kept
        client = self.daemon_.connect(uid=NOBODY)
        client.request(load=pb.Load(model="null"))
        until(lambda: self.mock_call("Waiting") >= 1, 10, "the question")
        until(lambda: [n for n in self.daemon_.store.names() if n.startswith("client.")], 10, "the client in the store")
        self.asked()
        self.daemon_.crash()
        client.close()
        self.daemon_.start()
        self.times += 1
        self.wait_on_bus()
        until(lambda: not [n for n in self.daemon_.store.names() if n.startswith("client.")], 10, "nobody in the store")
        self.assertEqual(self.asked(), [])


if __name__ == "__main__":
    unittest.main()
