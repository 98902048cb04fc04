#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A hundred leases of memory come and go in random order, several at once, by sparkctl and over the bus, from users of whom some are
killed: what the installed service says of them is exact after each, and in the end all is as it was at the beginning, streams that ran
meanwhile among it. Run by boot.sh as root of a container (run.py --script leases.py)."""

import json
import os
import random
import signal
import subprocess
import time

import inside
from inside import SERVICE, main_pid, run, show, systemctl, until
from streams import CONFIG, StreamSteps, ready, status

LEASES = 100
AT_ONCE = 8
SIZES = (1, 4096, 1 << 20, (3 << 20) + 1, 8 << 20, 64 << 20, 1 << 30)
SEED = 13
# Holds what it is told to over the bus: a line "bytes" reserves, and is answered when the service has; the end of its input ends it.
HOLDER = """
import dbus, sys
bus, held = dbus.SystemBus(), []
for line in sys.stdin:
    held.append(bus.call_blocking("org.sparkd.Spark1", "/org/sparkd/Spark1", "org.sparkd.Spark1.Manager", "ReserveMemory", "tssa{sv}",
                                  (int(line), "holder", "test", dbus.Dictionary({}, signature="sv"))))
    print(len(held), flush=True)
"""


class Lease:
    """By a process of its own: its end is the lease's."""

    def __init__(self, size, by_bus):
        self.size, self.by_bus = size, by_bus
        command = ["/usr/bin/python3", "-c", HOLDER] if by_bus else ["sparkctl", "yield", str(size), "--", "cat"]
        self.process = subprocess.Popen(["setpriv", "--reuid=member", "--regid=member", "--init-groups", "--reset-env", "--", *command],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def granted(self):
        """Waits for it."""
        self.process.stdin.write(f"{self.size}\n")
        self.process.stdin.flush()
        return bool(self.process.stdout.readline())

    def end(self, kill):
        if kill:
            self.process.send_signal(signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


class Leases(StreamSteps):
    STREAMS, TOKENS = 4, 400
    before = None

    def test_01_starts(self):
        self.make_users()
        CONFIG.write_text('models = ( { name = "m"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; context = 512; } );\n'
                          'threads = 1;\nmemory = { floor = "64M"; leases_per_user = 100; };\n', encoding="ascii")
        for unit in "start:dbus.service", "start:polkit.service", "start:sparkd.socket":
            self.assertRuns(systemctl(*unit.split(":")))
        self.start("m")
        self.assertTrue(until(lambda: run("busctl", "status", inside.NAME).returncode == 0))
        self.undisturbed()
        type(self).before = self.ledger()

    def ledger(self):
        """What must be as it was."""
        s = status()
        m = s.memory
        return {"leases": len(s.leases), "leased": s.leased_bytes, "given": m.given, "step": m.step, "images": m.images, "kv": m.kv,
                "models": [(x.name, x.state) for x in s.models], **dict(zip(("store", "fds"), inside.descriptors()))}

    def assertExact(self, held):
        """Each lease and their sum; and the images are those of the models that are there."""
        sizes = sorted(lease.size for lease in held)

        def exact():
            s = status()
            return (sorted(lease.bytes for lease in s.leases) == sizes and all(lease.state == "granted" for lease in s.leases) and
                    s.leased_bytes == sum(sizes) and s.memory.images == sum(m.image_bytes for m in s.models))
        self.assertTrue(until(exact, timeout=10), (sizes, status()))

    def test_02_a_hundred(self):
        dice, held, killed, began = random.Random(SEED), [], 0, time.monotonic()
        streams = self.streams()
        made = grants = 0
        worst = 0.0
        while made < LEASES or held:
            # several at once come, or some go, in any order
            if made < LEASES and (not held or (len(held) < AT_ONCE and dice.random() < 0.55)):
                new = [Lease(dice.choice(SIZES) + dice.randrange(1 << 20), dice.random() < 0.4) for _ in range(min(dice.randrange(1, 4), LEASES - made))]
                for lease in new:
                    asked = time.monotonic()
                    self.assertTrue(lease.granted(), (lease.size, lease.by_bus, self.journal("-n", "20")))
                    worst = max(worst, time.monotonic() - asked)
                held += new
                made += len(new)
                grants += len(new)
            else:
                for _ in range(min(dice.randrange(1, 4), len(held))):
                    kill = dice.random() < 0.3
                    killed += kill
                    held.pop(dice.randrange(len(held))).end(kill)
            self.assertExact(held)
        took = time.monotonic() - began
        self.assertRight(streams)
        self.assertTrue(until(lambda: ready("m") and self.ledger() == self.before, timeout=30), (self.ledger(), self.before))
        self.note(f"{grants} leases in {took:.0f} s, up to {AT_ONCE + 2} at once, {killed} holders killed; the longest grant took "
                  f"{worst:.2f} s; the ledger was exact after each, and in the end as before: {json.dumps(self.before)}")

    def test_03_over_a_restart(self):
        """Leases that are descriptors outlive control, and end as any other."""
        held = [Lease(size, True) for size in SIZES[1:5]]
        for lease in held:
            self.assertTrue(lease.granted())
        self.assertRuns(systemctl("restart", SERVICE))
        self.assertExact(held)
        os.kill(main_pid(), signal.SIGKILL)
        self.assertTrue(until(lambda: run("sparkctl", "status").returncode == 0))
        self.assertExact(held)
        for lease in held:
            lease.end(True)
        self.assertTrue(until(lambda: ready("m") and not status().leases, timeout=30), status())
        keys = ("leases", "leased", "given", "step", "images", "kv", "store")

        def kept(ledger):
            return {key: ledger[key] for key in keys}
        self.assertTrue(until(lambda: kept(self.ledger()) == kept(self.before)), (self.ledger(), self.before))
        self.assertNotIn("leaves a charge", self.journal())


if __name__ == "__main__":
    inside.main()
