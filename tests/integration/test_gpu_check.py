#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gpu-check.py itself, on the emulated device: its parts run, and it sees what is wrong."""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
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


class Parts(unittest.TestCase):
    """The script's frame, with parts of its own."""

    def setUp(self):
        spec = importlib.util.spec_from_file_location("gpu_check", CHECK)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="gpu-check-")))
        self.check = self.module.Check(argparse.Namespace(build=BUILD, emulated=True, minutes=1, output=folder))
        self.addCleanup(shutil.rmtree, self.check.folder)
        self.check.part_device = lambda: "a device"
        for name in self.module.PARTS:
            setattr(self.check, f"part_{name}", getattr(self.check, f"part_{name}") if name == "device" else lambda: "fine")

    def report(self):
        return json.loads((self.check.output / "gpu-check.json").read_text(encoding="utf-8"))["parts"]

    def test_one_failure_leaves_the_others(self):
        def broken():
            return {}["nothing"]
        self.check.part_kernels = broken
        self.assertEqual(self.check.run(None), 1)
        self.assertEqual(self.report()["kernels"]["text"], "KeyError('nothing')")
        self.assertEqual([r["status"] for r in self.report().values()].count("passed"), len(self.module.PARTS) - 1)

    def test_time_is_limited(self):
        self.module.PARTS["kernels"] = 0.6
        self.module.GRACE_SECONDS = 0
        self.check.part_kernels = lambda: time.sleep(60)
        self.assertEqual(self.check.run(["kernels"]), 1)
        self.assertIn("no end after", self.report()["kernels"]["text"])

    def test_benchmarks_keep_their_share(self):
        self.check.deadline = time.monotonic() + 0.3 * 600
        self.assertEqual((self.check.run_part("models"), self.check.results["models"]["text"]), ("skipped", "no time"))
        self.assertEqual(self.check.run_part("benchmarks"), "passed")

    def test_programs_that_fail(self):
        folder = self.check.folder
        self.check.build = folder
        (folder / "gpu").mkdir()
        for name, text in (("test-cuda-a", "echo oops; exit 3"), ("test-cuda-b", "exit 0"), ("test-cuda-c", "sleep 60 & sleep 60")):
            (folder / "gpu" / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            (folder / "gpu" / name).chmod(0o755)
        self.check.emulated = False
        self.check.results["kernels"] = {}
        self.check.until = time.monotonic() + 3
        with self.assertRaises(self.module.Fail):
            self.module.Check.part_kernels(self.check)
        details = self.check.results["kernels"]["details"]
        self.assertEqual([d["status"] for d in details.values()], ["failed", "passed", "failed"])
        self.assertIn("exit status 3: oops", details["test-cuda-a"]["said"])
        self.assertIn("no end", details["test-cuda-c"]["said"])


class Table(unittest.TestCase):
    def test_lines(self):
        results = {"engine": [{"shape": "llama-8b", "format": "q4_k", "batch": 1, "decode_tokens_per_second": 10, "copy_share": 0.5,
                               "bandwidth_share": 0.4, "prefill_tokens_per_second": 1000, "prefill_share": 0.25, "decode_steps": 63,
                               "decode_graph_steps": 62, "graph_nodes": 200},
                              {"shape": "llama-70b", "format": "bf16", "batch": 8, "skipped": "no | memory"}],
                   "products": {"q4_k": {"products": [{"model": "8b", "matrix": "ffn_up", "rows": 1, "us": 5, "bytes_per_second": 1e9,
                                                       "of_read": 0.9, "ops_per_second": 1e12, "of_ops": 0}]}},
                   "cublas": {"products": [{"model": "8b", "matrix": "ffn_up", "rows": 1, "us": 30, "bytes_per_second": 1e9,
                                            "ops_per_second": 1e12}]},
                   "torch": {"products": [{"model": "8b", "matrix": "ffn_up", "rows": 1, "us": 20, "bytes_per_second": 1e9,
                                           "ops_per_second": 1e12}]}}
        lines = gpu_bench.table(results)
        self.assertIn("| llama-8b | q4_k | 1 | 10.0 | 50.0 % | 40.0 % | 1000 | 25.0 % | 62 of 63, 200 nodes |", lines)
        self.assertIn("| llama-70b | bf16 | 8 | skipped: no / memory | | | | | |", lines)
        self.assertIn("| q4_k | 8b ffn_up | 1 | 5.0 | 1 | 90.0 % | 1.00 | - | 20.0 | 4.00 |", lines)
        self.assertIn("| 8b ffn_up | 1 | 20.0 | 1 | 1.00 |", lines)
        self.assertIn("| 8b ffn_up | 1 | 30.0 | 1 | 1.00 |", lines)
        results["torch"] = results["cublas"] = {"skipped": "none"}
        lines = gpu_bench.table(results)
        self.assertIn("| q4_k | 8b ffn_up | 1 | 5.0 | 1 | 90.0 % | 1.00 | - | - | - |", lines)
        self.assertEqual(lines[-1], "skipped: none")
        self.assertEqual(gpu_bench.table({}), [])

    def test_yardstick(self):
        build = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="gpu-check-")))
        check = argparse.Namespace(build=build, deadline=time.monotonic() + 60)
        self.assertIn("not built", gpu_bench.yardstick(check)["skipped"])
        (build / "gpu").mkdir()
        program = build / "gpu" / "cublas"
        for text, key, value in (("echo no device >&2; exit 1", "skipped", "no device"), ("echo nonsense", "skipped", None),
                                 ("""echo '{"products": [{"matrix": "8b ffn_up", "us": 2}]}'""", "products",
                                  [{"model": "8b", "matrix": "ffn_up", "us": 2}])):
            program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            program.chmod(0o755)
            got = gpu_bench.yardstick(check)[key]
            if value is not None:
                self.assertEqual(got, value)

    def test_details(self):
        lines = gpu_bench.details({"models": {"details": {"a": {"nmse": 1.25e-6}, "b": {"failed": "x | y\nz"}}}, "device": {}})
        self.assertIn("| a | nmse 1.25e-06 |", lines)
        self.assertIn("| b | failed x / y z |", lines)


if __name__ == "__main__":
    unittest.main()
