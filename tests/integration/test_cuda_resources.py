#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tools/check-cuda-resources.py: what it takes from ptxas's words, and that it fails where it must."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NORM = "_Z11norm_kernelILj2ELb0EEv9cuda_norm"  # norm_kernel<2u, false>(cuda_norm)
MANY = "_Z16attn_many_kernelILi128ELb0EEv9cuda_attn"  # attn_many_kernel<128, false>(cuda_attn)


def said(kernel, gpu, registers=40, stack=0, stores=0, loads=0, shared=0):
    """As ptxas says it."""
    return (f"ptxas info    : Compiling entry function '{kernel}' for '{gpu}'\n"
            f"ptxas info    : Function properties for {kernel}\n"
            f"    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
            f"ptxas info    : Used {registers} registers, used 1 barriers{f', {shared} bytes smem' if shared else ''}\n"
            "ptxas info    : Compile time = 8.308 ms\n")


class CudaResources(unittest.TestCase):
    def check(self, *logs, status=0):
        """(what it printed, the table, the record)"""
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder, f"{i}.log") for i in range(len(logs))]
            for path, log in zip(paths, logs):
                path.write_text("ptxas info    : 0 bytes gmem\n" + log)
            record, table = pathlib.Path(folder, "record"), pathlib.Path(folder, "table")
            done = subprocess.run([sys.executable, ROOT / "tools/check-cuda-resources.py", "--record", record, "--table", table,
                                   *paths], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(done.returncode, status, done.stdout)
            return done.stdout, table.exists() and table.read_text(), record.exists() and record.read_text()

    def test_all_is_well(self):
        printed, table, record = self.check(said(NORM, "sm_90") + said(NORM, "sm_121", 44), said(MANY, "sm_121") + said(MANY, "sm_90"))
        self.assertEqual(record, "2 0 0\n")
        self.assertEqual(printed.splitlines()[-1], "2 passed, 0 failed, 0 skipped")
        self.assertRegex(table, r"norm_kernel<2u, false> +40 +44\n")

    def test_spills(self):
        for use in ({"stack": 16}, {"stores": 4}, {"loads": 4}):
            printed, _, record = self.check(said(NORM, "sm_90") + said(NORM, "sm_121", **use), status=1)
            self.assertEqual(record, "0 1 0\n")
            self.assertRegex(printed, r"FAIL norm_kernel<2u, false>: .* on sm_121, with 40 registers\n")

    def test_large_tiles_may_spill_a_little(self):
        self.check(said(MANY, "sm_121", 255, 24, 36, 24))
        self.check(said(MANY, "sm_121", 255, 64, 64, 68), status=1)
        self.check(said(MANY, "sm_121", 255, 400), status=1)  # that is no spill but an array

    def test_static_shared_memory(self):
        printed, _, _ = self.check(said(NORM, "sm_90", shared=1024), status=1)
        self.assertIn("1024 bytes of static shared memory on sm_90", printed)

    def test_missing(self):
        printed, _, _ = self.check(said(NORM, "sm_90") + said(NORM, "sm_121"), said(MANY, "sm_90"), status=1)
        self.assertIn("attn_many_kernel<128, false>: not compiled for sm_121", printed)
        self.check("", status=1)


if __name__ == "__main__":
    unittest.main()
