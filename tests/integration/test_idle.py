#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A resident daemon that nobody asks anything hardly wakes the processor: control and engine together, all threads, at most once
a second, with a model in memory that has been used and that somebody holds, and with clients that are connected and say nothing.
Voluntary context switches are what is counted: each is a thread that had woken and sleeps again; one that was put aside for
others was not asleep. A thread that waits for a lock of the kernel's, since others keep the machine busy, counts as well; so the
quietest of some intervals is what is judged: what wakes by itself does so in each of them."""

import collections
import os
import time
import unittest

from harness import ROOT, SLOW
from power_harness import *
from test_cuda import CudaCase

SETTLE_S, MEASURE_S, INTERVALS = 14, 15, 3
MOST_PER_SECOND = 1.0
SILENT = 50


class Idle(CudaCase, PowerTestCase):
    def setUp(self):
        pass  # most of this needs neither device nor data

    def measure(self, pids):
        """Wakeups a second, and by whom."""
        before = switches(pids)
        time.sleep(MEASURE_S)
        by = collections.Counter()
        for (pid, task, name), n in switches(pids).items():
            by["sparkd" if pid == pids[0] else f"engine's {name}"] += n - before.get((pid, task, name), 0)
        return sum(by.values()) / MEASURE_S, {who: n / MEASURE_S for who, n in by.items() if n}

    def assertQuiet(self, daemon):
        daemon.wait_engine()
        with daemon.connect() as client:
            self.assertDone(client.ask(generate=pb.Generate(prompt=b"Once", sampling=pb.Sampling(max_tokens=8))))
            others = [daemon.connect() for _ in range(SILENT)]
            held = others[0].request(hold_warm=pb.HoldWarm())  # which is a request that runs all the time
            while others[0].receive_of(held).progress.stage != "warm":
                pass
            pids = [daemon.pid, *daemon.children()]
            self.assertEqual(len(pids), 2)
            time.sleep(SETTLE_S)
            found = []
            while len(found) < INTERVALS and not (found and found[-1][0] <= MOST_PER_SECOND):
                found.append(self.measure(pids))
            rate, by = min(found, key=lambda f: f[0])
            print(f"wakeups a second: {rate:.2f} (", ", ".join(f"{who} {n:.2f}" for who, n in by.items()), ")", sep="", end=" ",
                  flush=True)
            for other in others:
                other.close()
            busy = os.getloadavg()[0]
            if rate > MOST_PER_SECOND and busy > os.cpu_count():
                self.skipTest(f"the machine is busy (load {busy:.0f}): {rate:.2f} a second, locks of the kernel's among them")
            self.assertLessEqual(rate, MOST_PER_SECOND)
            self.assertGreater(by.get("sparkd", 0), 0.2)  # it is counted at all: control's tick
            began = time.monotonic()
            self.assertDone(client.ask(generate=pb.Generate(prompt=b"Once", sampling=pb.Sampling(max_tokens=8))))
            self.assertLess(time.monotonic() - began, 5 * SLOW)  # and is there at once

    @unittest.skipIf(SLOW > 1, "a sanitizer's threads wake, too")
    def test_private(self):
        """A model on the CPU, no bus, and nothing of the kernel's to look at."""
        model = {"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}
        self.assertQuiet(self.daemon(backend="cpu", models=[model], power={"sysfs": "/nonexistent"}))

    @unittest.skipIf(SLOW > 1, "a sanitizer's threads wake, too")
    def test_on_the_bus(self):
        """With logind and UPower, on battery, and the kernel's files for the rest."""
        PowerTestCase.setUp(self)
        files = self.sys()
        files.put("thermal/thermal_zone0/temp", 40000)
        self.logind()
        self.upower(OnBattery=True)
        daemon = self.serve(power={"sysfs": files.path})
        self.wait_power(daemon, inhibitor="held", source="upower", in_force="batch")
        self.assertQuiet(daemon)

    @unittest.skipIf(SLOW > 1, "a sanitizer's threads wake, too")
    def test_device(self):
        """Where the device is looked after, too."""
        CudaCase.setUp(self)
        self.assertQuiet(self.cuda(power={"sysfs": "/nonexistent"}))


if __name__ == "__main__":
    unittest.main()
