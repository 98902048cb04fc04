#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gpu-check.py itself, on the emulated device: its parts run, and it sees what is wrong."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from harness import BUILD, ROOT, SLOW

LIBRARY = BUILD / "lib" / "libspark-cuda-emu.so"
CHECK = ROOT / "tests" / "gpu" / "gpu-check.py"
sys.path.insert(0, str(ROOT / "tests" / "gpu"))
import gpu_bench  # noqa: E402


@unittest.skipUnless(LIBRARY.exists(), f"no {LIBRARY}")
class GpuCheck(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="gpu-check-")))

    def check(self, *arguments, env=None):
        done = subprocess.run([sys.executable, str(CHECK), "--build", str(BUILD), "--emulated", "--output", str(self.folder), *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600 * SLOW, check=False,
                              env={**os.environ, **(env or {})})
        report = self.folder / "gpu-check.json"
        return done, json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}

    def test_passes(self):
        done, report = self.check("--only", "company", "--only", "loss", "--only", "benchmarks")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual({k: v["status"] for k, v in report["parts"].items()},
                         {"device": "passed", "company": "passed", "loss": "passed", "benchmarks": "skipped"})
        self.assertIn("sm_121", report["device"])
        self.assertIn("| company | passed |", (self.folder / "gpu-check.md").read_text(encoding="utf-8"))

    def test_models(self):
        done, report = self.check("--only", "models")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(report["parts"]["models"]["details"])

    def test_no_device(self):
        done, report = self.check(env={"SPARK_CUDA_EMU": "count=0"})
        self.assertEqual(done.returncode, 77, done.stdout)
        self.assertEqual(list(report["parts"]), ["device"])
        self.assertIn("no NVIDIA GPU", report["parts"]["device"]["text"])

    def test_a_device_that_fails(self):
        done, report = self.check("--only", "models", env={"SPARK_CUDA_EMU": "fail=kernel:2"})
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(report["parts"]["device"]["status"], "failed")


class Table(unittest.TestCase):
    def test_lines(self):
        results = {"engine": [{"shape": "llama-8b", "format": "q4_k", "batch": 1, "decode_tokens_per_second": 10, "copy_share": 0.5,
                               "bandwidth_share": 0.4, "prefill_tokens_per_second": 1000, "prefill_share": 0.25},
                              {"shape": "llama-70b", "format": "bf16", "batch": 8, "skipped": "no | memory"}],
                   "products": {"q4_k": {"products": [{"model": "8b", "matrix": "ffn_up", "rows": 1, "us": 5, "bytes_per_second": 1e9,
                                                       "of_read": 0.9, "ops_per_second": 1e12, "of_ops": 0}]}},
                   "torch": {"skipped": "none"}}
        lines = gpu_bench.table(results)
        self.assertIn("| llama-8b | q4_k | 1 | 10.0 | 50.0 % | 40.0 % | 1000 | 25.0 % |", lines)
        self.assertIn("| llama-70b | bf16 | 8 | skipped: no / memory | | | | |", lines)
        self.assertIn("| q4_k | 8b ffn_up | 1 | 5.0 | 1 | 90.0 % | 1.00 | - |", lines)
        self.assertEqual(lines[-1], "skipped: none")
        self.assertEqual(gpu_bench.table({}), [])


if __name__ == "__main__":
    unittest.main()
