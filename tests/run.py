#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the unit tests, the fuzz corpora, the integration and the system tests of one build and adds up what they say.

    tests/run.py --build build [--label TEXT] [--emulator QEMU] [--only SUBSTRING]... [--hesitate PROGRAMS]
                 unit|fuzz|integration|system|package ...
    tests/run.py --totals FILE         the sum of several runs that were given --record FILE

The closing line is "N passed, N failed, N skipped"; the exit status is 1 if anything failed or nothing ran.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNIT_TIMEOUT_S = 300
INTEGRATION_TIMEOUT_S = 1500
SYSTEM_TIMEOUT_S = 1800


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def line(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def run(command, timeout, env):
    """Runs to the end or the time limit; returns (status, output), status None where it ran out of time."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, env=env,
                              stdin=subprocess.DEVNULL, errors="replace", cwd=ROOT)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return None, output.decode(errors="replace") if isinstance(output, bytes) else output


def report(name, status, output, counts, seconds):
    passed, failed, skipped = counts
    if status != 0 and failed == 0:
        failed = 1
    verdict = "FAIL" if failed else "ok"
    print(f"  {verdict:4} {name} ({passed} passed" + (f", {skipped} skipped" if skipped else "") +
          (f", {failed} FAILED" if failed else "") + f", {seconds:.1f} s)", flush=True)
    if failed:
        reason = "ran out of time" if status is None else f"exit status {status}"
        print(f"--- {name}: {reason}\n{output}\n---", flush=True)
    else:
        for text in sorted(set(re.findall(r"^(?:skipped?|measured): .*", output, re.M | re.I))):
            print(f"       {text}")
    return passed, failed, skipped


# Tests that take minutes where the emulated device is itself emulated, and two that take a minute or two to play what the schedulers' and
# the engine's other tests show as well.
TOO_SLOW_EMULATED = {"test-simulate", "test-resize-models"} | {
    "test-cuda-" + name for name in ("attn", "backend", "faults", "lossless", "mm", "mm-gated", "mm-k", "mm-lossless", "reference",
                                     "route", "scratch", "steps", "top", "upload")}


def run_binary(options, path, env):
    if options.emulator and path.name in TOO_SLOW_EMULATED:
        return path.name, 0, "skipped: takes minutes on an emulated processor", (0, 0, 1), 0.0
    began = time.monotonic()
    status, output = run(options.emulator + [str(path)], UNIT_TIMEOUT_S, env)
    # the summary names failures and skips again, so names are counted once
    counts = tuple(len(set(re.findall(pattern, output, re.M))) for pattern in
                   (r"^\[       OK \] (\S+)$", r"^\[  FAILED  \] (\S+)$", r"^\[  SKIPPED \] (\S+)$"))
    return path.name, status, output, counts, time.monotonic() - began


def run_unit(options, totals, env):
    if options.emulator:
        env = {**env, "SPARK_TEST_EMULATED": "1"}  # some things are the kernel's and not the emulator's to show
    binaries = sorted(path for path in (ROOT / options.build / "tests").glob("test-*")
                      if os.access(path, os.X_OK) and path.is_file() and not path.suffix)
    binaries = [path for path in binaries if not options.only or any(part in path.name for part in options.only)]
    # No test depends on how fast it is; many use one processor, and some wait.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() + 1) as pool:
        for result in pool.map(lambda path: run_binary(options, path, env), binaries):
            totals.add(*report(*result))


def run_fuzz(options, totals, env):
    for path in sorted((ROOT / options.build / "fuzz").glob("fuzz-*")):
        corpus = ROOT / "tests/fuzz/corpus" / path.name[len("fuzz-"):]
        if not os.access(path, os.X_OK) or path.suffix or not corpus.is_dir():
            continue
        began = time.monotonic()
        status, output = run([str(path), str(corpus)], UNIT_TIMEOUT_S, env)
        totals.add(*report(path.name, status, output, (int(status == 0), 0, 0), time.monotonic() - began))


def run_script(name, command, timeout, totals, env):
    began = time.monotonic()
    status, output = run(command, timeout, env)
    found = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", output, re.M)
    counts = tuple(int(number or 0) for number in found[-1]) if found else (0, 1, 0)
    totals.add(*report(name, status, output, counts, time.monotonic() - began))


def run_integration(options, totals, env):
    command = [sys.executable, str(ROOT / "tests/integration/run.py"), str(ROOT / options.build)]
    run_script("integration", command + options.only, INTEGRATION_TIMEOUT_S, totals, env)


def run_system(options, totals, env):
    run_script("system", [sys.executable, str(ROOT / "tests/system/run.py"), options.build], SYSTEM_TIMEOUT_S, totals,
               env)


def run_package(options, totals, env):
    run_script("package", [sys.executable, str(ROOT / "tests/system/run.py"), "--packages", options.build], SYSTEM_TIMEOUT_S,
               totals, env)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--label", default="")
    parser.add_argument("--emulator", default="", type=str)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--hesitate", metavar="PROGRAMS",
                        help="names with commas between: these sleep now and then before they send, receive or wait (docs/testing.md)")
    parser.add_argument("--record", help="append the counts to this file")
    parser.add_argument("--totals", help="print the sum of a file that --record wrote")
    parser.add_argument("stage", nargs="*", choices=["unit", "fuzz", "integration", "system", "package", []])
    options = parser.parse_args()
    options.emulator = options.emulator.split()

    totals = Totals()
    if options.totals:
        for line in pathlib.Path(options.totals).read_text().splitlines():
            totals.add(*map(int, line.split()))
    else:
        env = dict(os.environ)
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:allocator_may_return_null=1")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        env.setdefault("TSAN_OPTIONS", "halt_on_error=0:second_deadlock_stack=1")
        if options.hesitate:
            env.update(LD_PRELOAD=str((ROOT / options.build / "tests/hesitate.so").resolve(strict=True)), HESITATE_PROGRAMS=options.hesitate)
        stages = {"unit": run_unit, "fuzz": run_fuzz, "integration": run_integration, "system": run_system,
                  "package": run_package}
        for stage in options.stage:
            print(f"{options.label or options.build}: {stage}", flush=True)
            stages[stage](options, totals, env)
        if options.record:
            with open(options.record, "a", encoding="ascii") as file:
                file.write(f"{totals.passed} {totals.failed} {totals.skipped}\n")
    print(totals.line(), flush=True)
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(main())
