# SPDX-License-Identifier: Apache-2.0
"""Calls every method of every object on the bus as a user without rights, with arguments right, wrong and absurd, from
connections that come and go. Nothing may break, nothing that is forbidden may be done, and nothing may be left afterwards.

SPARK_BUS_FUZZ_SECONDS (6) says for how long, SPARK_BUS_FUZZ_SEED with which draw."""

import collections
import os
import time
import unittest
import xml.etree.ElementTree as ElementTree

from bus_draw import *
from bus_harness import *
from harness import *

SECONDS = float(os.environ.get("SPARK_BUS_FUZZ_SECONDS", "6"))
SEED = int(os.environ.get("SPARK_BUS_FUZZ_SEED", str(time.time_ns() & 0xffffffff)))
ROUNDS = 6


@unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
class Fuzz(MockedPolkit):
    def methods(self):
        """{interface: {method: signature}}, as introspection has them."""
        found = dict(STANDARD)
        root = ElementTree.parse(ROOT / "systemd/org.sparkd.Spark1.xml").getroot()
        for interface in root.iter("interface"):
            found[interface.get("name")] = {
                method.get("name"): "".join(a.get("type") for a in method.findall("arg") if a.get("direction") == "in")
                for method in interface.findall("method")}
        return found

    def known_paths(self):
        return [PATH, MODEL_PATH] + [str(path) for path in self.call(
            self.admin, "GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")]

    def fuzz(self, seconds):
        from dbus.mainloop.glib import DBusGMainLoop
        loop = DBusGMainLoop()
        verdicts = collections.Counter()
        draw = self.draw
        methods = self.methods()

        def connect():
            os.seteuid(NOBODY)
            try:
                return Caller(dbus.bus.BusConnection(self.bus.address, mainloop=loop), verdicts)
            finally:
                os.seteuid(0)

        callers = [connect() for _ in range(4)]
        paths, end, calls = self.known_paths(), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            i = draw.random.randrange(len(callers))
            for _ in range(draw.random.choice((1, 1, 5, 40))):
                call_at_random(draw, callers[i], methods, paths)
                calls += 1
            if draw.random.random() < 0.05:  # leaves with what it has asked for
                callers[i].connection.flush()
                callers[i].close()
                callers[i] = connect()
            self.assertTrue(pump(callers, 60), "answers do not come")
            if calls % 50 == 0:
                paths = self.known_paths()
        self.assertTrue(pump(callers, 0), "answers do not come")
        leave(callers)
        return calls, verdicts

    def check(self, socket_mode, forbidden):
        try:
            import gi  # noqa: F401  (dbus-python's main loop needs it)
        except ImportError:
            self.skipTest("python3-gi is not installed")
        self.draw = Draw(SEED)
        # the allocator gives back what it can, so that what is left is what is held
        self.env |= {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "4096", "MALLOC_TOP_PAD_": "0"}
        daemon = self.serve_system(socket_mode=socket_mode, models=[{"name": "null", "default": True, "context": 256}])
        models = [tuple(m) for m in self.call(self.admin, "ListModels")]
        self.fuzz(min(1.0, SECONDS))  # whatever is made once is there now
        self.settle(daemon)
        fds, memory, calls, verdicts = daemon.fd_count(), [], 0, collections.Counter()
        for _ in range(ROUNDS):
            made, said = self.fuzz(SECONDS / ROUNDS)
            calls += made
            verdicts += said
            self.settle(daemon)
            self.wait_fds(daemon, fds)
            memory.append(daemon.memory())
        # what the allocator keeps goes up and down; a leak only goes up
        grown = min(memory[ROUNDS // 2:]) - min(memory[:ROUNDS // 2])
        done = {(interface, member) for interface, member, error in verdicts if error is None}
        print(f"seed {SEED}, mode {socket_mode}: {calls} calls in {SECONDS:.0f} s, {sum(verdicts.values())} answers, "
              f"{len({v[2] for v in verdicts})} kinds of errors, {grown >> 10} KiB more memory", flush=True)
        self.assertFalse(done & forbidden)
        if SLOW == 1:  # sanitizers keep what was freed
            self.assertLess(grown, 4 << 20)
        self.assertEqual([tuple(m) for m in self.call(self.admin, "ListModels")], models)
        self.assertTrue({error for _, _, error in verdicts} & {"org.sparkd.Spark1.Error.PermissionDenied"})
        self.assertServes(daemon)
        return done

    def settle(self, daemon):
        """Nothing of it is left."""
        until(lambda: not self.requests(daemon), 20, "the last request's end")
        until(lambda: not self.call(self.admin, "ListJobs"), 20, "the last job's end")
        until(lambda: not self.call(self.admin, "ListLeases"), 20, "the last lease's end")
        until(lambda: set(self.known_paths()) == {PATH, MODEL_PATH, *FIXED}, 20, "the last session's end")
        until(lambda: self.get(self.admin, "Connections") == 0, 20, "the last connection's end")

    def test_who_may_use_it(self):
        self.assertTrue(USE & self.check("0666", FORBIDDEN))

    def test_who_may_not(self):
        self.check("0600", FORBIDDEN | USE)


if __name__ == "__main__":
    unittest.main()
