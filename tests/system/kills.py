#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Control or its engine is killed 200 times in a row, at random, while streams run: none of them is wrong, and no descriptor and no
memory is lost. Run by boot.sh as root of a container (run.py --script kills.py).

SPARK_TEST_KILLS=N: so many, by other dice each time."""

import os
import pathlib
import random
import signal
import threading
import time

import inside
from inside import SERVICE, main_pid, run, show, systemctl, until
from streams import PATIENCE_S, HeldSteps, Stream, configure, ready

WANTED = os.environ.get("SPARK_TEST_KILLS")
KILLS = int(WANTED or 200)
SEED = time.time_ns() if WANTED else 7
ENGINES = 0.3       # of the kills; the others are control's
STARTING = 0.4      # of the kills don't wait for a token to come since the last one, but for a process
WITHIN_S = 0.2      # after either
HURRY_S = 20        # for a token, on a machine that has other things to do
UNIT = pathlib.Path(f"/run/systemd/system/{SERVICE}.d/kills.conf")


class Asker(threading.Thread):
    """Asks for one stream after the other over one connection, and compares each with what it is undisturbed."""

    def __init__(self, client, number, model, tokens, right):
        super().__init__(daemon=True)
        self.client, self.number, self.model, self.tokens, self.right = client, number, model, tokens, right
        self.count, self.wrong, self.stop = 0, None, False
        self.stream = None

    def run(self):
        while not self.stop and not self.wrong:
            self.stream = Stream(self.client, self.number, self.model, self.tokens)
            self.stream.run()
            if self.stream.wrong or self.stream.ids != self.right:
                self.wrong = self.stream.wrong or f"stream {self.number}: {self.stream.ids}, not {self.right}; {self.stream.end}"
            self.count += 1

    def heard_since(self, when):
        came = self.stream.came if self.stream else ()
        return bool(came) and came[-1][0] > when


class Kills(HeldSteps):
    last = None     # who was killed

    def test_01_starts(self):
        self.make_users()
        # its limit to what is slowed and ended is no concern of this test, which may come near it
        UNIT.parent.mkdir(parents=True)
        UNIT.write_text("[Unit]\nStartLimitIntervalSec=0\n", encoding="ascii")
        self.assertRuns(systemctl("daemon-reload"))
        configure('{ name = "spark-tiny"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; }', engine_losses=KILLS + 1)
        self.assertRuns(systemctl("start", inside.SOCKET))
        self.find_machine()
        self.start("spark-tiny")
        self.undisturbed()

    def kill(self, dice):
        """What was killed; None where there was nothing but what was killed before and has not been buried yet."""
        pid = main_pid()
        target = inside.children(pid).get("spark-engine", pid) if pid and dice.random() < ENGINES else pid
        if target in (0, self.last):
            return None
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            return None
        self.last = target
        return "control" if target == pid else "engine"

    def test_02_at_random(self):
        dice = random.Random(SEED)
        os.kill(main_pid(), signal.SIGKILL)  # as it is behind a restart
        self.assertTrue(until(lambda: ready(self.model), timeout=60))
        before = self.held()
        askers = [Asker(self.connect(), number, self.model, self.TOKENS, self.right[self.model][number]) for number in range(self.STREAMS)]
        self.assertTrue(until(lambda: int(show("NFileDescriptorStore")) >= before[0] + self.STREAMS))
        for asker in askers:
            asker.start()
        killed, early, began, last = {"control": 0, "engine": 0}, 0, time.monotonic(), time.monotonic()
        while sum(killed.values()) < KILLS and not any(asker.wrong for asker in askers):
            if dice.random() < STARTING:
                until(lambda: main_pid() not in (0, self.last))
            else:
                until(lambda: any(asker.heard_since(last) for asker in askers), timeout=HURRY_S)
            time.sleep(dice.uniform(0, WITHIN_S))
            what, heard = self.kill(dice), any(asker.heard_since(last) for asker in askers)
            if what:
                killed[what] += 1
                early += not heard
                last = time.monotonic()
            self.assertTrue(until(lambda: show("ActiveState") in ("active", "activating"), timeout=30), show("Result"))
        took = time.monotonic() - began
        for asker in askers:
            asker.stop = True
        for asker in askers:
            asker.join(PATIENCE_S)
            self.assertFalse(asker.is_alive(), f"stream {asker.number} hangs")
        self.assertEqual([asker.wrong for asker in askers if asker.wrong], [], (SEED, self.journal("-n", "60")))
        self.assertGreater(min(asker.count for asker in askers), 0)
        for asker in askers:
            asker.client.close()
        self.assertTrue(until(lambda: ready(self.model), timeout=60))
        self.note(f"{killed['control']} kills of control and {killed['engine']} of its engine in {took:.0f} s, {early} of them before a token "
                  f"had come, {sum(asker.count for asker in askers)} streams, all right")
        self.assertAsBefore(before, f"{KILLS} kills")


if __name__ == "__main__":
    inside.main()
