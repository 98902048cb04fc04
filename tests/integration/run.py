#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the integration tests against a build folder:

    tests/integration/run.py [BUILD] [-j N] [SUBSTRING...]

Every test_*.py runs in a process of its own; all of it in private folders, so that runs don't meet. Substrings choose
test files by name. The last line is "N passed, N failed, N skipped".
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
FILE_TIMEOUT_S = 600
# These wait for most of a long time: beside the others, so many at once, those that take longest first. Of the others those that are long
# begin first.
WAITING = ("test_power.py", "test_restart_clients.py", "test_memory.py", "test_sleep.py", "test_idle.py", "test_residency.py", "test_jobs.py",
           "test_bus_fuzz.py")
WAITERS = 3


def run_file(path, env):
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, str(path), "-v"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, timeout=FILE_TIMEOUT_S, env=env, errors="replace", cwd=HERE)
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        status, output = None, output.decode(errors="replace") if isinstance(output, bytes) else output
    return status, output, time.monotonic() - began


def count(status, output):
    """(passed, failed, skipped) from unittest's summary; a file that did not get so far has failed."""
    ran = re.search(r"^Ran (\d+) tests? in", output, re.M)
    if not ran:
        return 0, 1, 0
    numbers = {name: int(n) for name, n in re.findall(r"(failures|errors|skipped)=(\d+)", output.splitlines()[-1])}
    bad = numbers.get("failures", 0) + numbers.get("errors", 0)
    skipped = numbers.get("skipped", 0)
    if status != 0 and bad == 0:
        bad = 1
    return max(int(ran[1]) - bad - skipped, 0), bad, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default=str(HERE.parent.parent / "build"))
    parser.add_argument("-j", "--jobs", type=int, default=3, help="at once, beside those that only wait")
    parser.add_argument("only", nargs="*")
    options = parser.parse_args()

    build = pathlib.Path(options.build).resolve()
    env = {**os.environ, "SPARK_BUILD": str(build), "PYTHONDONTWRITEBYTECODE": "1"}
    files = [p for p in HERE.glob("test_*.py") if not options.only or any(s in p.name for s in options.only)]
    waiting = sorted((path for path in files if path.name in WAITING), key=lambda path: WAITING.index(path.name))
    computing = sorted((path for path in files if path.name not in WAITING), key=lambda path: -path.stat().st_size)
    totals, took = [0, 0, 0], {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool, concurrent.futures.ThreadPoolExecutor(WAITERS) as waiters:
        running = {pool.submit(run_file, path, env): path for path in computing}
        running.update({waiters.submit(run_file, path, env): path for path in waiting})
        for job in concurrent.futures.as_completed(running):
            status, output, seconds = job.result()
            counts, took[running[job].name] = count(status, output), seconds
            totals = [a + b for a, b in zip(totals, counts)]
            print(f"{'FAIL' if counts[1] else 'ok':4} {running[job].name}: {counts[0]} passed, {counts[1]} failed, "
                  f"{counts[2]} skipped, {seconds:.1f} s", flush=True)
            if counts[1]:
                print(output, flush=True)
            else:
                for reason in sorted(set(re.findall(r"skipped ['\"](.*)['\"]$", output, re.M))):
                    print(f"     skipped: {reason}")
    longest = sorted(took, key=took.get, reverse=True)[:8]
    print("measured: " + ", ".join(f"{name} {took[name]:.0f} s" for name in longest) + f"; {len(took)} files {sum(took.values()):.0f} s")
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
