#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program eats memory until 500 MB of the machine's are left, and what becomes free, too: the installed service gives its own back
in the documented order, nobody is ended, and everything comes back by itself. The machine is a control group with a limit that the
whole container lives in, so that none other is in danger. Run by boot.sh as root of a container (run.py --script memory.py); 50
rounds."""

import os
import pathlib
import time

import inside
from inside import SERVICE, main_pid, run, show, systemctl, until
from streams import CONFIG, TOP, Machine, StreamSteps, ready, status

MIB = 1 << 20
MODEL = pathlib.Path("/var/lib/sparkd/models/m.gguf")
SHAPE = ("--shape", "tiny", "--embd", "256", "--ff", "512", "--layers", "8", "--heads", "32", "--heads-kv", "32", "--head-dim", "128",
         "--vocab", "32000", "--untied", "--ctx", "2048", "--format", "f16")  # few weights to compute with, much KV
LIMIT, FLOOR = 1536 * MIB, 512 * MIB
LEFT = 500 * 1000 * 1000
ROUNDS = int(os.environ.get("SPARK_MEMORY_ROUNDS") or 50)
FULL_ROUNDS = 1     # in which there is a cache and a session, and the hog comes slowly, so that one step follows the other
SLOW_RATE = 100 * MIB
REST_S = 2.5
ORDER = ["cache", "sessions", "kv", "weights"]
BYSTANDERS = ("dbus.service", "systemd-journald.service", "polkit.service")


class Memory(StreamSteps):
    STREAMS, TOKENS = 2, 64
    machine = None
    ledger = None   # as it was

    def pids(self):
        return [show("MainPID", unit) for unit in BYSTANDERS]

    def rounds_steps(self):
        """What the journal names in each round, in its order; a round ends when all is taken again."""
        return [[line.split("step '")[1].split("'")[0] for line in text.splitlines() if "memory is given back: step" in line]
                for text in self.journal().split("memory is taken again: step 'nothing'")[:-1]]

    def held(self):
        """What must be as before when all is over."""
        memory = status().memory
        return (memory.images, memory.given, memory.step, int(show("NFileDescriptorStore")), len(os.listdir(f"/proc/{main_pid()}/fd")))

    def test_01_starts(self):
        self.make_users()
        self.assertRuns(run("/usr/bin/python3", str(TOP / "reference/make-gguf.py"), *SHAPE, str(MODEL)))
        CONFIG.write_text(f'models = ( {{ name = "m"; path = "{MODEL}"; default = true; }} );\nmemory = {{ floor = "{FLOOR >> 20}M"; '
                          'kv = "256M"; restore_seconds = 1; };\n', encoding="ascii")
        type(self).machine = Machine.found()
        if not self.machine:
            self.skipTest("no limit of a control group can be had in the container")
        self.machine.limit(LIMIT)
        self.assertRuns(systemctl("start", "polkit.service"))
        self.assertRuns(systemctl("start", inside.SOCKET))
        self.start("m")
        memory = status().memory
        self.assertEqual((memory.limit, memory.floor, memory.step, memory.missing), (LIMIT, FLOOR, "nothing", 0))
        self.assertLess(abs(memory.available - self.machine.available()), 32 * MIB)
        self.undisturbed()
        self.assertRuns(systemctl("restart", SERVICE))
        self.assertTrue(until(lambda: ready("m")))
        type(self).ledger = self.held()
        self.note(f"a machine of {LIMIT >> 20} MiB, {memory.available >> 20} MiB available, a floor of {FLOOR >> 20} MiB, an image of "
                  f"{memory.images >> 20} MiB")

    def fill(self):
        """Enough for the first steps, each by itself: a cache, and a session that has rested long enough."""
        self.assertRuns(run("sparkctl", "generate", "--raw", "-n", "2", "word " * 240))
        self.assertRuns(run("sparkctl", "generate", "--raw", "--session", self.session, "-n", "2", "session " * 150))
        time.sleep(REST_S)

    def round(self, full):
        control = main_pid()
        if full:
            self.fill()
        streams = self.streams()
        engine = inside.children(control)["spark-engine"]
        hog = self.machine.hog(LEFT, rate=SLOW_RATE if full else 0)
        try:
            self.assertTrue(until(lambda: self.machine.available() < FLOOR), "the hog does not come below the floor")
            began = time.monotonic()
            self.assertTrue(until(lambda: inside.children(control).get("spark-engine") != engine), self.journal("-n", "40"))
            given = time.monotonic() - began
            self.assertTrue(until(lambda: status().memory.images == 0))
            self.assertIsNone(hog.poll(), "the hog was ended")
        finally:
            hog.kill()
            hog.wait()
            hog.stdout.close()
        began = time.monotonic()
        self.assertTrue(until(lambda: ready("m"), timeout=40), self.journal("-n", "40"))
        back = time.monotonic() - began
        self.assertRight(streams)
        self.assertTrue(until(lambda: status().memory.step == "nothing"))
        self.assertEqual(self.machine.kills(), 0)
        self.assertEqual(main_pid(), control)
        self.assertEqual(status().models[0].engine_restarts, 0)
        return given, back

    def test_02_hog(self):
        made = self.assertRuns(run("sparkctl", "session", "create", "--name", "ours"))
        self.session = made.split()[0]
        bystanders, began = self.pids(), time.monotonic()
        rounds = [self.round(number < FULL_ROUNDS) for number in range(ROUNDS)]
        took = time.monotonic() - began
        self.assertEqual(self.pids(), bystanders)
        rounds_steps = self.rounds_steps()
        self.assertEqual(len(rounds_steps), ROUNDS)
        for number, steps in enumerate(rounds_steps):
            self.assertEqual(steps, sorted(steps, key=ORDER.index))
            self.assertEqual(steps[-1], ORDER[-1])
            if number < FULL_ROUNDS:
                self.assertEqual(steps[:2], ORDER[:2])
                self.note("given back, the hog slow: " + ", ".join(steps))
        given, back = zip(*rounds[FULL_ROUNDS:])
        self.note(f"{ROUNDS} times 500 MB left, in {took:.0f} s: all given back {sum(given) / len(given):.2f} s after the floor (worst "
                  f"{max(given):.2f} s), ready again {sum(back) / len(back):.2f} s after the hog's end (worst {max(back):.2f} s)")

    def test_03_nothing_is_left(self):
        self.assertRuns(systemctl("restart", SERVICE))
        self.assertTrue(until(lambda: ready("m")))
        self.assertTrue(until(lambda: self.held() == self.ledger), (self.held(), self.ledger))
        self.assertNotIn("leaves a charge", self.journal())
        self.assertEqual(self.machine.kills(), 0)


if __name__ == "__main__":
    inside.main()
