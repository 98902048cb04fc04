#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The service is started again, told to or killed, while clients wait for their answers: they get them, whole and right, over the
connections that they have, and the model is not read again. Run by boot.sh as root of a container (run.py --script restart.py).

SPARK_TEST_LONG=1: 200 kills at random instead of a few."""

import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

import inside
from inside import SERVICE, main_pid, run, show, systemctl, until
from streams import CONFIG, PATIENCE_S, TOP, Machine, Stream, StreamSteps, meminfo, patience, pb, ready, status

MODEL = pathlib.Path("/var/lib/sparkd/models/big.gguf")
IDLE = 100
KILLS = 200 if os.environ.get("SPARK_TEST_LONG") else 12
BIG = ("--shape", "small", "--format", "f16", "--ff", "1024", "--experts", "256")
LAYER_BYTES, LAYERS = 808 << 20, 5  # 4 GB in all
GRANT_S = 2                         # a lease, promised where the machine has time
STAYS_S = 3                         # one that did nothing but come is kept when it stays for a second, which is looked at every second
LOST_BYTES = 8 << 20                # the log, which grows by half of that before it is written anew, and the journal
SPARE_BYTES = 6 << 30               # beside the image: a floor, engines, the test itself


def free_bytes():
    """What anybody could take; pages in the processors' lists are free, and are not counted as that (docs/memory.md)."""
    text = pathlib.Path("/proc/zoneinfo").read_text(encoding="ascii")
    return meminfo("MemAvailable") + 4096 * sum(map(int, re.findall(r"^\s+count:\s+(\d+)", text, re.M)))


def handed_over():
    """Names of what the store had for the process that runs."""
    words = pathlib.Path(f"/proc/{main_pid()}/environ").read_text(encoding="ascii").split("\0")
    return next((word for word in words if word.startswith("LISTEN_FDNAMES=")), "")


def configure(models, **limits):
    lines = "".join(f"{key} = {value}; " for key, value in limits.items())
    CONFIG.write_text(f'models = ( {models} );\nmemory = {{ floor = "512M"; }};\nlimits = {{ {lines} }};\n', encoding="ascii")


def most_bytes(path):
    """Most of a model's bytes: more than everything else that could be given back."""
    return path.stat().st_size * 3 // 4


class Restart(StreamSteps):
    machine = None
    base = None     # what is held while nobody asks

    def test_01_a_big_model(self):
        self.make_users()
        layers = max(1, min(LAYERS, (meminfo("MemAvailable") - SPARE_BYTES) // LAYER_BYTES))
        self.assertRuns(run("/usr/bin/python3", str(TOP / "reference/make-gguf.py"), *BIG, "--layers", str(layers), str(MODEL)))
        configure(f'{{ name = "big"; path = "{MODEL}"; default = true; context = 512; }}')
        self.assertRuns(systemctl("start", inside.SOCKET))
        type(self).machine = Machine.found()
        began = time.monotonic()
        self.start("big")
        self.note(f"{MODEL.stat().st_size / 1e9:.1f} GB loaded and ready in {time.monotonic() - began:.1f} s")
        if layers < LAYERS:
            print(f"skipped: 4 GB of model, as there is not enough memory for it: {layers} layers instead of {LAYERS}", flush=True)
        type(self).base = self.held()
        self.undisturbed()
        MODEL.rename(MODEL.with_suffix(".away"))  # whoever opens it again fails

    def over(self, again, what):
        """Streams and idle connections over something that ends control; nothing is lost, and nothing is there twice."""
        idle = [self.connect() for _ in range(IDLE)]
        for client in idle:
            client.ask(models=pb.Models())
        time.sleep(STAYS_S)
        streams = self.streams()
        pid = main_pid()
        again(pid)
        self.assertTrue(until(lambda: show("ActiveState") == "active" and main_pid() not in (0, pid), timeout=60))
        self.assertRight(streams)
        self.assertGoesOn(streams, what)
        for client in idle:
            models = client.ask(models=pb.Models()).done.models.models
            self.assertEqual([m.state for m in models], ["ready"])
            client.close()
        self.assertFalse(MODEL.exists())
        self.assertAsBefore(self.base, what)

    def held(self):
        """What must not grow: descriptors in the store and of control, memory that is shared."""
        return (int(show("NFileDescriptorStore")), len(os.listdir(f"/proc/{main_pid()}/fd")), self.shared())

    def used(self):
        """What others can't take, of the container or of the machine."""
        return self.machine.used() if self.machine else -free_bytes()

    def shared(self):
        """Of the container, or of the machine where the container has no figure of its own."""
        return self.machine.shared() if self.machine else meminfo("Shmem")

    def assertAsBefore(self, before, what):
        began = time.monotonic()
        self.assertTrue(until(lambda: self.held()[:2] == before[:2], timeout=20), (before, self.held(), handed_over()))
        after, took = self.held(), time.monotonic() - began
        self.note(f"{what}: descriptors in the store, of control, and shared memory: {before}, afterwards {after}, {took:.1f} s after "
                  "clients had gone")
        self.assertLess(after[2] - before[2], LOST_BYTES)

    def test_02_restart(self):
        self.over(lambda pid: self.assertRuns(systemctl("restart", SERVICE)), "systemctl restart")

    def test_03_killed(self):
        self.over(lambda pid: os.kill(pid, signal.SIGKILL), "SIGKILL of control")

    def test_04_the_unit_killed(self):
        """With its engine."""
        self.over(lambda pid: self.assertRuns(systemctl("kill", "--signal=KILL", SERVICE)), "SIGKILL of control and engine")

    def test_05_twice(self):
        """The second one while the first one's engine is not there yet."""
        def again(pid):
            os.kill(pid, signal.SIGKILL)
            self.assertTrue(until(lambda: main_pid() not in (0, pid)))
            os.kill(main_pid(), signal.SIGKILL)
            self.assertTrue(until(lambda: int(show("NRestarts")) >= 2))
        self.over(again, "SIGKILL twice")

    def test_05b_yield(self):
        """Somebody else gets memory that only the weights have, at once; afterwards everything is as before, by itself."""
        away = MODEL.with_suffix(".away")
        away.rename(MODEL)  # they are read again
        self.addCleanup(MODEL.rename, away)
        wanted, images, streams = most_bytes(MODEL), status().memory.images, self.streams()
        free, used, began = free_bytes(), self.used(), time.monotonic()
        holder = subprocess.Popen(["sparkctl", "yield", str(wanted), "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        self.assertTrue(until(lambda: used - self.used() > wanted * 19 // 20, timeout=20), (used - self.used(), wanted))
        took = time.monotonic() - began
        holder.stdin.write(b"there\n")
        holder.stdin.flush()
        self.assertEqual(holder.stdout.readline(), b"there\n")
        granted = time.monotonic() - began
        memory = status().memory
        self.note(f"yield of {wanted / 1e9:.1f} GB of {images / 1e9:.1f} GB: free {took:.2f} s after the call, granted after {granted:.2f} s; "
                  f"{(free_bytes() - free) / 1e9:.1f} GB more of the machine are free, {memory.given / 1e9:.1f} GB were given")
        self.assertGreaterEqual(memory.given, wanted)
        self.assertLess(took, patience(GRANT_S))
        holder.stdin.close()
        holder.wait(20)
        for pipe in holder.stdout, holder.stderr:
            pipe.close()
        began = time.monotonic()
        self.assertTrue(until(lambda: ready(self.model) and status().memory.images == images, timeout=PATIENCE_S))
        self.note(f"ready again {time.monotonic() - began:.1f} s after the lease")
        self.assertRight(streams)
        self.assertEqual((status().memory.given, len(status().leases)), (0, 0))

    def test_06_stopped(self):
        """Nothing is kept of a service that is stopped, and not even by the service manager."""
        image, before = MODEL.with_suffix(".away").stat().st_size, self.shared()
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertEqual(show("NFileDescriptorStore"), "0")
        self.assertTrue(until(lambda: before - self.shared() > image * 9 // 10), (image, before, self.shared()))

    def test_07_at_random(self):
        """No stream wrong, no descriptor and no memory lost."""
        configure('{ name = "spark-tiny"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; }', engine_losses=1000)
        self.start("spark-tiny")
        self.undisturbed()
        dice, stop, counts, wrong = random.Random(7), threading.Event(), [0] * self.STREAMS, []

        def ask(client, number):
            while not stop.is_set() and not wrong:
                stream = Stream(client, number, self.model, self.TOKENS)
                stream.run()
                if stream.wrong or stream.ids != self.right[self.model][number]:
                    wrong.append(stream.wrong or f"stream {number}: {stream.ids}, not {self.right[self.model][number]}; {stream.end}")
                counts[number] += 1

        os.kill(main_pid(), signal.SIGKILL)  # as it is behind a restart
        self.assertTrue(until(lambda: ready(self.model), timeout=60))
        before = self.held()
        clients = [self.connect() for _ in range(self.STREAMS)]
        self.assertTrue(until(lambda: int(show("NFileDescriptorStore")) >= before[0] + self.STREAMS))
        askers = [threading.Thread(target=ask, args=pair, daemon=True) for pair in zip(clients, range(self.STREAMS))]
        for asker in askers:
            asker.start()
        began = time.monotonic()
        for _ in range(KILLS):
            time.sleep(dice.uniform(0, 1))
            pid = main_pid()
            target = children(pid) if pid and dice.random() < 0.3 else pid
            if target:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
            self.assertTrue(until(lambda: show("ActiveState") in ("active", "activating"), timeout=30), show("Result"))
            if wrong:
                break
        took = time.monotonic() - began
        stop.set()
        for asker in askers:
            asker.join(PATIENCE_S)
        self.assertEqual(wrong, [], self.journal("-n", "60"))
        self.assertGreater(min(counts), 0)
        for client in clients:
            client.close()
        self.assertTrue(until(lambda: ready(self.model), timeout=60))
        self.note(f"{KILLS} kills in {took:.0f} s, {sum(counts)} streams, all right")
        self.assertAsBefore(before, f"{KILLS} kills")


def children(pid):
    """An engine, or control itself where it has none."""
    return inside.children(pid).get("spark-engine", pid)


if __name__ == "__main__":
    inside.main()
