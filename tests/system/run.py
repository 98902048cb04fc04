#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Boots a real systemd with the installed service in it and runs tests there, each script in a container of its own:

    tests/system/run.py [--script FILE]... [--packages] [BUILD]

Without --script all of LINES run, a line beside the other.
With --packages nothing is installed beforehand: Debian packages are built, checked by lintian, and package.py has them, and
the same ones with a higher version.

The root of this machine, under an overlay that is thrown away, becomes a container without network; what `make install`
makes goes on top. Needs root, systemd-nspawn and a writable cgroup tree, and skips where they are missing. The last
line is "N passed, N failed, N skipped".

In the environment: SPARK_TEST_BASE=FOLDER, another system's root instead, as a newer release's, that has what the tests and the build
need; SPARK_TEST_BROKER=1, dbus-broker, which has to be installed, is the bus; HESITATE, docs/testing.md.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TESTDATA = pathlib.Path(os.environ.get("SPARK_TESTDATA", ROOT / "../shared/testdata")).resolve()
CGROUPS = pathlib.Path("/sys/fs/cgroup")
PACKAGES = "opt/sparkd-test/tests/system"  # where package.py finds them
PACKAGE_SCRIPT = "package.py"
# Lines beside each other, each in its order, and of about the same length. The last two hardly compute, they wait.
LINES = (("restart.py", "fuzz.py", "power.py"), ("kills.py", "leases.py", "inside.py"), ("memory.py",), ("sleep.py", "battery.py", "polkit.py"))
INSTALLING = threading.Lock()
CGROUPS_S = 5
TIMEOUT_S = 900 + int(os.environ.get("SPARK_TEST_KILLS") or 0)


def bundled_model():
    """The model that the package brings; while a tree is without, any small one that answers."""
    paths = [ROOT / "share/models/spark-tiny.gguf", TESTDATA / "models/stories260K-F32.gguf",
             TESTDATA / "models/stories260K-f32.gguf"]
    return next((path for path in paths if path.exists()), None)


def why_not():
    """A reason not to run, or None."""
    if os.getuid() != 0:
        return "needs root"
    for program in ("systemd-nspawn", "dbus-daemon", "unshare"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if not pathlib.Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    if not os.access(cgroup_trees()[0], os.W_OK):
        return "the cgroup tree is not writable"
    if subprocess.run(["unshare", "--mount", "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        return "no new mount namespace here"
    if not bundled_model():
        return "there is no model to install"
    return None


def cgroup_trees():
    """The trees that systemd keeps units in: one, or two where controllers are still on version 1; and the one with memory's limits."""
    several = [CGROUPS / name for name in ("unified", "systemd", "memory") if (CGROUPS / name / "cgroup.procs").exists()]
    return several or [CGROUPS]


def remove_cgroups(folders):
    """When the last process has gone, which the one that was waited for need not be."""
    end = time.monotonic() + CGROUPS_S
    for folder in folders:
        while folder.exists() and time.monotonic() < end:
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            time.sleep(0.01)


def install(build, target):
    # relative to the tree, as `make install` is run by people
    # a container has no GPU
    command = ["make", "-s", "install", f"BUILD={build}", f"DESTDIR={target}", "PREFIX=/usr", "CUDA=0",
               f"BUNDLED_MODEL={bundled_model()}"]
    with INSTALLING:  # what is out of date would be built by several at once
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def why_no_packages():
    for program in ("dpkg-buildpackage", "dh", "lintian"):
        if not shutil.which(program):
            return f"{program} is not installed (tools/deps.sh deb)"
    return None


def build_packages(build, target):
    """Into the container's root; what is wrong with them, or "". A second full build would show no more than new numbers."""
    subprocess.run([ROOT / "tools/deb.sh", build], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    made = (ROOT / build / "deb").resolve()
    for folder in "first", "second":
        (target / PACKAGES / folder).mkdir(parents=True)
    for deb in made.glob("*.deb"):
        if "-dbgsym_" in deb.name:
            continue
        shutil.copy(deb, target / PACKAGES / "first")
        with tempfile.TemporaryDirectory() as name:
            subprocess.run(["dpkg-deb", "-R", deb, name], check=True)
            control = pathlib.Path(name) / "DEBIAN/control"
            text = re.sub(r"^Version: (.*)", r"Version: \1+1", control.read_text(encoding="utf-8"), flags=re.M)
            text = re.sub(r"\(= ([^)]*)\)", r"(= \1+1)", text)
            control.write_text(text, encoding="utf-8")
            subprocess.run(["dpkg-deb", "-Znone", "-b", name, target / PACKAGES / "second"], check=True,
                           stdout=subprocess.DEVNULL)
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", *made.glob("*.changes")], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout if done.returncode else ""


def boot(work, out, script):
    folders = [tree / f"sparkd-system-test.{os.getpid()}.{script}" for tree in cgroup_trees()]
    for folder in folders:
        folder.mkdir()
    env = {**os.environ, "CGROUPS": " ".join(map(str, folders)), "WORK": str(work), "OUT": str(out),
           "HERE": str(HERE), "SCRIPT": script}
    env.pop("DBUS_SESSION_BUS_ADDRESS", None)
    try:
        return subprocess.run(["timeout", "-k", "10", str(TIMEOUT_S), "unshare", "--mount", "--propagation", "private",
                               "--fork", "--", "sh", str(HERE / "boot.sh")], check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, errors="replace")
    finally:
        remove_cgroups(folders)


def run_script(build, script):
    """One container; (what it said, (passed, failed, skipped))."""
    with tempfile.TemporaryDirectory(prefix="sparkd-system-") as name:
        work, out = pathlib.Path(name), pathlib.Path(name) / "out"
        out.mkdir()
        (work / "installed").mkdir()
        prepare = build_packages if script == PACKAGE_SCRIPT else install
        wrong = prepare(build, work / "installed")
        done = boot(work, out, script)
        said = (out / "output").read_text(errors="replace") if (out / "output").exists() else ""
        ran = re.search(r"^Ran (\d+) tests? in (.*)", said, re.M)
        counts = {key: int(value) for key, value in re.findall(r"(failures|errors|skipped)=(\d+)", said)}
        failed = counts.get("failures", 0) + counts.get("errors", 0)
        skipped = counts.get("skipped", 0)
        if wrong:
            said += wrong
            failed += 1
        if not ran or (done.returncode and not failed):
            failed += 1
        if failed:
            journal = out / "journal"
            text = (said or done.stdout) + "\n" + (journal.read_text(errors="replace") if journal.exists() else "")
        else:
            text = "\n".join([f"{script}: {ran[2]}"] + re.findall(r"(?:^|\.\.\. )((?:skipped|measured).*)", said, re.M))
        return text, (max(int(ran[1]) - failed - skipped, 0) if ran else 0, failed, skipped)


def run_line(build, scripts):
    """One after the other; the sum."""
    totals = (0, 0, 0)
    for script in scripts:
        text, counts = run_script(build, script)
        print(text, flush=True)
        totals = tuple(map(sum, zip(totals, counts)))
    return totals


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--packages", action="store_true")
    parser.add_argument("--script", action="append")
    options = parser.parse_args()
    lines = [[PACKAGE_SCRIPT]] if options.packages else [options.script] if options.script else LINES
    reason = why_not() or (why_no_packages() if options.packages else None)
    if reason:
        print(f"skipped: {reason}\n0 passed, 0 failed, 1 skipped")
        return 0
    with concurrent.futures.ThreadPoolExecutor(len(lines)) as pool:
        totals = [sum(counts) for counts in zip(*pool.map(lambda line: run_line(options.build, line), lines))]
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
