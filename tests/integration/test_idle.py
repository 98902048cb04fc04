#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A resident daemon with nothing to do: how often its processes wake, with a model in memory that has been used, and with
clients that are connected and say nothing."""

import pathlib
import time
import unittest

from harness import *
from test_cuda import CudaCase

SETTLE = 3
SECONDS = 5
INTERVALS = 5  # on a busy machine threads also sleep where the kernel makes them wait for each other: the quietest one counts
MOST = 1.2  # a second, of a whole process: a tick, and now and then something else


def wakes(pid):
    """How often the threads of a process slept and woke; a thread that was put aside for others was not asleep."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


@unittest.skipIf(SLOW > 1, "a sanitizer's threads wake, too")
class Idle(CudaCase):
    def setUp(self):
        pass  # most of this needs neither device nor data

    def assertQuiet(self, daemon):
        daemon.wait_engine()
        with daemon.connect() as client:
            self.assertDone(client.ask(generate=pb.Generate(prompt=b"Once", sampling=pb.Sampling(max_tokens=8))))
            others = [daemon.connect() for _ in range(50)]
            time.sleep(SETTLE)
            pids = [daemon.pid, *daemon.children()]
            self.assertEqual(len(pids), 2)
            rates = [float("inf")] * len(pids)
            for _ in range(INTERVALS):
                before = [wakes(pid) for pid in pids]
                time.sleep(SECONDS)
                rates = [min(rate, (wakes(pid) - count) / SECONDS) for rate, pid, count in zip(rates, pids, before)]
                if max(rates) <= MOST:
                    break
            for other in others:
                other.close()
        print(f"wakes a second: sparkd {rates[0]:.2f}, spark-engine {rates[1]:.2f}")
        self.assertGreater(rates[0], 0.3)  # it is counted at all: control's tick
        for rate in rates:
            self.assertLessEqual(rate, MOST)

    def test_null(self):
        self.assertQuiet(self.daemon())

    def test_cpu(self):
        model = {"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}
        self.assertQuiet(self.daemon(backend="cpu", models=[model]))

    def test_device(self):
        CudaCase.setUp(self)
        self.assertQuiet(self.cuda())


if __name__ == "__main__":
    unittest.main()
