#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program eats memory until 500 MB of the machine's are left, and what becomes free, too: the installed service gives its own back
in the documented order, nobody is ended, and everything comes back by itself. Where only little is missing no weights go. The machine is a control group with a limit that the
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
MARGIN = FLOOR // 8 # that is asked for with what is missing
LITTLE = 8 * MIB    # below the floor
LONG_TOKENS = 900   # of a prompt: two of them have nearly all of the pool
PACE_S = 0.5        # between tokens: two streams are there until it is over
ORDER = ["cache", "sessions", "kv", "weights"]
BYSTANDERS = ("dbus.service", "systemd-journald.service", "polkit.service")


class Memory(StreamSteps):
    STREAMS, TOKENS = 2, 64
    machine = None
    ledger = None   # as it was

    def pids(self):
        return [show("MainPID", unit) for unit in BYSTANDERS]

    def journal_steps(self):
        return [line.split("step '")[1].split("'")[0] for line in self.journal().splitlines() if "memory is given back: step" in line]

    def rounds_steps(self):
        """What the journal names in each round, in its order; a round ends when all is taken again. One without weights is none of the
        hog's: on a busy machine somebody may wait for memory at any time, which costs less."""
        rows = [[line.split("step '")[1].split("'")[0] for line in text.splitlines() if "memory is given back: step" in line]
                for text in self.journal().split("memory is taken again: step 'nothing'")[:-1]]
        return [steps for steps in rows if ORDER[-1] in steps]

    def held(self):
        """What must be as before when all is over."""
        memory = status().memory
        return (memory.images, memory.given, memory.step, *inside.descriptors())

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
        self.assertTrue(until(lambda: abs(status().memory.available - self.machine.available()) < 32 * MIB), (status(), self.machine.available()))
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

    def test_02b_pools(self):
        """Little is missing, and running streams have nearly all that is in memory beside the weights: the pool shrinks below what they
        use, one is parked and goes on later, and no weights go."""
        a_hundred = len(self.assertRuns(run("sparkctl", "tokenize", " word" * 100)).split())
        more = b" word" * (LONG_TOKENS * 100 // a_hundred)
        alone = self.streams(more=more)
        right = {stream.number: stream.ids for stream in alone if not stream.join()}
        self.assertTrue(until(lambda: status().memory.step == "nothing"))
        control, marks = main_pid(), len(self.journal_steps())
        engine = inside.children(control)["spark-engine"]
        streams = self.streams(PACE_S, more)
        self.assertTrue(until(lambda: status().memory.kv - status().memory.kv_used < MARGIN), status().memory)
        before = status().memory
        hog, began = self.machine.hog(FLOOR - LITTLE, once=True), time.monotonic()
        try:
            self.assertTrue(until(lambda: status().memory.step == "kv"), (self.journal_steps()[marks:], status().memory))
            self.assertTrue(until(lambda: self.machine.available() >= FLOOR), status().memory)
            given = time.monotonic() - began
            self.assertTrue(until(lambda: status().memory.kv_used < before.kv_used), status().memory)  # told once a second
            memory = status().memory
            self.assertLess(memory.kv, before.kv)
            self.assertIsNone(hog.poll(), "the hog was ended")
            for stream in streams:
                stream.pace = 0
            self.assertRight(streams, right)  # all of them, one after the other where there is no room for both
        finally:
            hog.kill()
            hog.wait()
            hog.stdout.close()
        self.assertTrue(until(lambda: status().memory.step == "nothing", timeout=40), status().memory)
        self.assertEqual(status().memory.kv, before.kv)
        steps = self.journal_steps()[marks:]
        self.assertIn("kv", steps)
        self.assertNotIn("weights", steps)
        self.assertEqual((main_pid(), inside.children(control)["spark-engine"]), (control, engine))
        self.assertEqual(self.machine.kills(), 0)
        self.note(f"KV pools as a step of their own: {', '.join(steps)}; of {before.kv >> 20} MiB, {before.kv_used >> 20} MiB in use, "
                  f"{memory.kv >> 20} MiB stayed, in {given:.2f} s with the hog's time; the streams were right")

    def test_03_nothing_is_left(self):
        self.assertRuns(systemctl("restart", SERVICE))
        self.assertTrue(until(lambda: ready("m")))
        self.assertTrue(until(lambda: self.held() == self.ledger), (self.held(), self.ledger))
        self.assertNotIn("leaves a charge", self.journal())
        self.assertEqual(self.machine.kills(), 0)


if __name__ == "__main__":
    inside.main()
