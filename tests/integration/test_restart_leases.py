#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Leases that a descriptor holds are held over restarts, and end with the descriptor, whenever that is."""

import mmap
import os
import signal
import unittest

from bus_harness import *
from bus_harness import dbus
from fdstore_harness import *
from harness import *
from harness import pb


class Leases(KeptTestCase, BusTestCase):
    def served(self):
        daemon = self.kept(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": self.bus.address},
                           models=[{"name": "null", "default": True}])
        self.wait_name(daemon)
        return daemon

    def wait_name(self, daemon):
        until(lambda: daemon.log().rfind("on the bus as") > daemon.log().rfind("listening at"), 10, "the name on the bus")

    @staticmethod
    def ours(fd):
        os.set_inheritable(fd, False)  # the next process of the service would hold its own lease
        return fd

    def reserve(self, size, who):
        return self.ours(self.call(self.connect(), "ReserveMemory", "tssa{sv}",
                                   (size, who, "a film", dbus.Dictionary({}, signature="sv"))).take())

    def hold(self):
        return self.ours(self.call(self.connect(), "HoldWarm", "sssa{sv}",
                                   ("null", "editor", "a person types", dbus.Dictionary({}, signature="sv"))).take())

    def leases(self, daemon):
        with daemon.connect() as client:
            return {lease.id: (lease.kind, lease.state, lease.who, lease.why, lease.bytes, lease.model, lease.policy, lease.pid)
                    for lease in client.ask(status=pb.Status()).done.status.leases}

    def over_restarts(self, fd, daemon, expected):
        before = self.leases(daemon)
        self.assertEqual([lease[:3] for lease in before.values()], [expected])
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            daemon.restart(number, wait=False)
            until(lambda: self.leases(daemon) == before, 10, "the same lease")
        self.assertNotIn("may be used again", daemon.log())  # it may not
        self.assertEqual(daemon.log().count("has asked for"), expected[0] == "memory")  # that was when it was granted, once
        self.wait_name(daemon)
        other = self.reserve(2 << 20, "another")
        self.assertGreater(max(self.leases(daemon)), max(before))  # no number is used twice
        os.close(other)
        until(lambda: len(self.leases(daemon)) == 1, 10, "the end of one")
        daemon.restart(signal.SIGKILL, wait=False)
        until(lambda: self.leases(daemon) == before, 10, "the first one")
        os.close(fd)
        until(lambda: not self.leases(daemon), 10, "the end of all")
        self.assertServes(daemon)
        daemon.store.settle()
        self.assertFalse([n for n in daemon.store.names() if n.startswith("lease.")])

    def test_memory_over_restarts(self):
        daemon = self.served()
        self.over_restarts(self.reserve(1 << 20, "blender"), daemon, ("memory", "granted", "blender"))

    def test_warm_over_restarts(self):
        daemon = self.served()
        self.over_restarts(self.hold(), daemon, ("warm", "warm", "editor"))

    def test_ends_while_nobody_runs(self):
        daemon = self.served()
        fd = self.reserve(1 << 20, "blender")
        self.assertEqual(len(self.leases(daemon)), 1)
        daemon.crash()
        os.close(fd)
        until(lambda: not [n for n in daemon.store.names() if n.startswith("lease.")], 10, "a hang-up")
        daemon.start()
        self.assertEqual(self.leases(daemon), {})

    def test_stop_ends_them(self):
        daemon = self.served()
        fd = self.reserve(1 << 20, "blender")
        daemon.signal(signal.SIGINT)
        daemon.process.wait(20 * SLOW)
        daemon.start()
        self.assertEqual(self.leases(daemon), {})
        os.close(fd)


class Requests(KeptTestCase):
    """Leases that are requests of a connection come back with it."""

    def leases(self, client):
        return {lease.who: lease for lease in client.ask(status=pb.Status()).done.status.leases}

    def test_requests(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                daemon = self.kept(models=[{"name": "a", "default": True}, {"name": "b", "resident": "demand"}],
                                   residency={"min_seconds": 0})
                client = daemon.connect()
                self.addCleanup(client.close)
                memory = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 20, who="blender", why="a film", policy="busy"))
                while client.receive_of(memory).progress.stage != "granted":
                    pass
                warm = client.request(hold_warm=pb.HoldWarm(model="b", who="demo"))
                until(lambda: len(self.leases(client)) == 2, 10, "both")
                daemon.restart(number)
                found = until(lambda: self.leases(client), 10, "leases")
                self.assertEqual(set(found), {"blender", "demo"})
                self.assertEqual((found["blender"].bytes, found["blender"].why, found["blender"].policy, found["blender"].pid),
                                 (1 << 20, "a film", "busy", os.getpid()))
                self.assertEqual(found["demo"].model, "b")
                self.assertNotIn("may be used again", daemon.log())  # it may not
                self.assertEqual(daemon.log().count("has asked for"), 1)  # that was when it was granted
                for id in (memory, warm):
                    client.cancel(id)
                    self.assertError(client.answer(id)[2], "CANCELLED")
                self.assertFalse(self.leases(client))
                self.assertServes(daemon)

    def granted(self, client, id):
        """What was to be given back for it."""
        while True:
            progress = client.receive_of(id).progress
            if progress.stage == "granted":
                return progress.total

    def test_only_what_was_missing(self):
        """As much stays given back as was missing when it was asked for, whatever is free by now: its holder may use it already."""
        daemon = self.kept(models=[{"name": "a", "default": True}])
        client = daemon.connect()
        self.addCleanup(client.close)
        machine = client.ask(status=pb.Status()).done.status.memory_total
        id = client.request(reserve_memory=pb.ReserveMemory(bytes=machine, missing_only=True, who="blender"))
        wanted = self.granted(client, id)
        self.assertLess(0, wanted)
        self.assertLess(wanted, machine)
        before = self.leases(client)["blender"]
        used = mmap.mmap(-1, 64 << 20)
        for at in range(0, len(used), 4096):
            used[at] = 1
        for number in (signal.SIGTERM, signal.SIGKILL):
            daemon.restart(number)
            self.assertEqual(self.granted(client, id), wanted)
            after = self.leases(client)["blender"]
            self.assertEqual((after.id, after.bytes), (before.id, before.bytes))
            self.assertGreater(after.age_s, before.age_s)
        used.close()

    def test_without_asking_again(self):
        """Who has a lease keeps it, also where the configuration would grant none by now."""
        daemon = self.kept(models=[{"name": "a", "default": True}])
        client = daemon.connect()
        self.addCleanup(client.close)
        memory = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 20, who="blender"))
        self.granted(client, memory)
        daemon.crash()
        daemon.configure(models=[{"name": "a", "default": True}], memory={"leases": "none"})
        daemon.start()
        self.assertEqual(set(self.leases(client)), {"blender"})
        self.assertError(client.ask(reserve_memory=pb.ReserveMemory(bytes=1)), "PERMISSION_DENIED")
        client.cancel(memory)
        self.assertError(client.answer(memory)[2], "CANCELLED")
        self.assertFalse(self.leases(client))
        daemon.restart(signal.SIGKILL)
        self.assertFalse(self.leases(client))


class Weights(KeptTestCase):
    """A model that gave its memory back as a whole stays away in later processes, for as long as somebody has it."""

    MODELS = [{"name": "m", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}]

    def model(self, client):
        model, = client.ask(models=pb.Models()).done.models.models
        return model

    def configure(self, daemon, floor, **memory):
        daemon.configure(models=self.MODELS, backend="cpu", memory={"floor": str(floor), **memory})

    def test_comes_back_when_it_may(self):
        daemon = self.kept(models=self.MODELS, backend="cpu", memory={"floor": "64M", "pressure": "no"})
        client = daemon.connect()
        self.addCleanup(client.close)
        right = client.answer(client.generate(n=8, prompt=b"Once", model="m"))[0]
        lease = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 30, who="blender"))
        while client.receive_of(lease).progress.stage != "granted":
            pass
        before = client.ask(status=pb.Status()).done.status
        self.assertEqual(before.memory.images, 0)
        waits = client.generate(n=8, prompt=b"Once", model="m")
        loads = daemon.log().count("'m': loading")
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            daemon.crash(number)
            self.configure(daemon, before.memory.available, pressure="no")  # whoever asked for the memory has it now: nothing would fit
            daemon.start()
            after = client.ask(status=pb.Status()).done.status
            self.assertEqual((after.memory.step, after.memory.given), (before.memory.step, before.memory.given))
            self.assertEqual([l.given_bytes for l in after.leases], [l.given_bytes for l in before.leases])
            self.assertEqual(self.model(client).state, "available")
        self.assertEqual(daemon.log().count("'m': loading"), loads)
        self.configure(daemon, 64 << 20, pressure="no")
        daemon.signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in daemon.log(), 10, "the reload")
        client.cancel(lease)
        ids, _, end = client.answer(waits)
        self.assertDone(end)
        self.assertEqual(ids, right)
        self.assertEqual(self.model(client).state, "ready")
        daemon.restart(signal.SIGKILL)
        self.assertEqual(daemon.log().count("'m': loading"), loads + 1)  # and is adopted as ever
        self.assertServes(daemon)

    def test_under_pressure(self):
        """The same where nobody holds a lease, and the machine is short of memory: streams wait in each later process, and go on."""
        daemon = self.kept(models=self.MODELS, backend="cpu", memory={"floor": "64M", "restore_seconds": 1})
        client = daemon.connect()
        self.addCleanup(client.close)
        right = client.answer(client.generate(b"Once", n=40, model="m", credit=100))[0]
        begun = client.generate(b"Once", n=40, model="m", credit=5)
        first = client.tokens(begun, 5)
        self.configure(daemon, 1000 << 30, restore_seconds=1)
        daemon.signal(signal.SIGHUP)
        until(lambda: client.ask(status=pb.Status()).done.status.memory.step == "weights", 10, "the weights' end")
        waits = client.generate(b"Once", n=40, model="m", credit=100)
        for number in (signal.SIGKILL, signal.SIGTERM):
            daemon.restart(number)
            model = self.model(client)
            self.assertEqual((model.state, model.held), ("available", "memory"))
        self.configure(daemon, 64 << 20, restore_seconds=1)
        daemon.signal(signal.SIGHUP)
        client.credit(begun, 100)
        for id, seen in (begun, first), (waits, []):
            ids, _, end = client.answer(id, seen=len(seen))
            self.assertDone(end)
            self.assertEqual(seen + ids, right)

    def test_unloaded_meanwhile(self):
        """It does not come back, and no later process loads it."""
        daemon = self.kept(models=[dict(self.MODELS[0], resident="demand")], backend="cpu", memory={"floor": "64M", "pressure": "no"})
        client = daemon.connect()
        self.addCleanup(client.close)
        client.answer(client.generate(n=2, prompt=b"Once", model="m"))
        lease = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 30, who="blender"))
        while client.receive_of(lease).progress.stage != "granted":
            pass
        client.ask(unload=pb.Unload(model="m"))
        loads = daemon.log().count("'m': loading")
        daemon.restart(signal.SIGKILL)
        client.cancel(lease)
        self.assertError(client.answer(lease)[2], "CANCELLED")
        daemon.restart(signal.SIGKILL)
        self.assertEqual(daemon.log().count("'m': loading"), loads)
        self.assertEqual(self.model(client).state, "available")


if __name__ == "__main__":
    unittest.main()
