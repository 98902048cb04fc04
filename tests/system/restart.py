#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The service is started again, told to or killed, while clients wait for their answers: they get them, whole and right, over the
connections that they have, and the model is not read again. Run by boot.sh as root of a container (run.py --script restart.py)."""

import os
import pathlib
import signal
import subprocess
import time

import inside
from inside import SERVICE, main_pid, run, show, systemctl, until
from streams import PATIENCE_S, TOP, HeldSteps, configure, free_bytes, meminfo, patience, pb, ready, status

MODEL = pathlib.Path("/var/lib/sparkd/models/big.gguf")
IDLE = 100
BIG = ("--shape", "small", "--format", "f16", "--ff", "1024", "--experts", "256")
LAYER_BYTES, LAYERS = 808 << 20, 5  # 4 GB in all
GRANT_S = 2                         # a lease, promised where the machine has time
SPARE_BYTES = 6 << 30               # beside the image: a floor, engines, the test itself


def most_bytes(path):
    """Most of a model's bytes: more than everything else that could be given back."""
    return path.stat().st_size * 3 // 4


class Restart(HeldSteps):
    base = None     # what is held while nobody asks

    def test_01_a_big_model(self):
        self.make_users()
        layers = max(1, min(LAYERS, (meminfo("MemAvailable") - SPARE_BYTES) // LAYER_BYTES))
        self.assertRuns(run("/usr/bin/python3", str(TOP / "reference/make-gguf.py"), *BIG, "--layers", str(layers), str(MODEL)))
        configure(f'{{ name = "big"; path = "{MODEL}"; default = true; context = 512; }}')
        self.assertRuns(systemctl("start", inside.SOCKET))
        self.find_machine()
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
        # who did nothing but come is kept when that was a while ago
        self.assertTrue(until(lambda: int(show("NFileDescriptorStore")) >= self.base[0] + IDLE), show("NFileDescriptorStore"))
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
        self.assertTrue(until(lambda: (status().memory.given, len(status().leases)) == (0, 0)), status())

    def test_06_stopped(self):
        """Nothing is kept of a service that is stopped, and not even by the service manager."""
        image, before = MODEL.with_suffix(".away").stat().st_size, self.shared()
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertEqual(show("NFileDescriptorStore"), "0")
        self.assertTrue(until(lambda: before - self.shared() > image * 9 // 10), (image, before, self.shared()))


if __name__ == "__main__":
    inside.main()
