#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The installed service under a real systemd, as an administrator and two users meet it. Run by boot.sh as root of a
container; the tests are steps that follow each other in the order of their names."""

import contextlib
import grp
import json
import os
import pathlib
import pwd
import re
import signal
import stat
import subprocess
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SERVICE, SOCKET = "sparkd.service", "sparkd.socket"
NAME, PATH, MANAGER = "org.sparkd.Spark1", "/org/sparkd/Spark1", "org.sparkd.Spark1.Manager"
MARK = "Xylophonkatze"  # of prompts: must not be found anywhere
WATCHDOG_S = 5          # it is fed four times as often; a busy machine may be late by that much
USERS = 'u member - "Member"\nm member spark\nu stranger - "Stranger"\n'


def run(*command, user=None, timeout=60):
    if user:
        command = ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups", "--reset-env", "--", *command)
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", timeout=timeout, check=False)


def systemctl(*arguments):
    return run("systemctl", *arguments)


def show(name, unit=SERVICE):
    return systemctl("show", "--value", f"--property={name}", unit).stdout.strip()


def main_pid():
    return int(show("MainPID"))


def generate(user="member"):
    return run("sparkctl", "generate", "-n", "8", f"{MARK} tell", user=user)


def call(method, *arguments, user=None):
    return run("busctl", "--json=short", "call", NAME, PATH, MANAGER, method, *arguments, user=user)


def until(condition, timeout=20):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def settled(measure, rest=1.0, timeout=20):
    """What it gives when it has given that for so long: whoever has just gone is not counted any more then, and who comes by itself is."""
    last, since = measure(), time.monotonic()
    end = since + timeout
    while time.monotonic() < min(since + rest, end):
        time.sleep(0.1)
        now = measure()
        if now != last:
            last, since = now, time.monotonic()
    return last


def descriptors():
    """How many there are in the store, and how many control has."""
    return settled(lambda: (int(show("NFileDescriptorStore")), len(os.listdir(f"/proc/{main_pid()}/fd"))))


def children(pid):
    """{name: pid}"""
    found = {}
    for task in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text()
            if int(fields[fields.rindex(")") + 2:].split()[1]) == pid:
                found[fields[fields.index("(") + 1:fields.rindex(")")]] = int(task.name)
    return found


def status_of(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


class Steps(unittest.TestCase):
    """Tests that follow each other in the order of their names."""

    def assertRuns(self, done):
        self.assertEqual(done.returncode, 0, (done.args, done.stdout, done.stderr))
        return done.stdout

    def assertServes(self):
        self.assertTrue(self.assertRuns(generate()).strip())

    def make_users(self, users=USERS):
        """These, and the service's own with their folders."""
        folder = pathlib.Path("/etc/sysusers.d")
        folder.mkdir(exist_ok=True)
        (folder / "zz-test.conf").write_text(users, encoding="ascii")
        self.assertRuns(run("systemd-sysusers"))
        self.assertRuns(run("systemd-tmpfiles", "--create", "sparkd.conf"))
        self.assertRuns(systemctl("daemon-reload"))

    @staticmethod
    def note(text):
        """A figure: run.py shows it."""
        print(f"measured: {text}", flush=True)

    @staticmethod
    def journal(*arguments):
        run("journalctl", "--sync")
        return run("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE, *arguments).stdout


class Service(Steps):
    def start(self):
        systemctl("reset-failed", SERVICE)
        self.assertRuns(systemctl("start", SERVICE))

    def test_01_users_and_folders(self):
        self.make_users()
        user = pwd.getpwnam("sparkd")
        self.assertIn("nologin", user.pw_shell)
        self.assertIn("member", grp.getgrnam("spark").gr_mem)
        models = pathlib.Path("/var/lib/sparkd/models")
        self.assertEqual(models.stat().st_uid, user.pw_uid)

    def test_02_socket(self):
        self.assertRuns(systemctl("start", SOCKET))
        found = os.stat("/run/sparkd/sparkd.sock")
        self.assertEqual((found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)),
                         (0, grp.getgrnam("spark").gr_gid, 0o660))
        self.assertEqual(show("ActiveState"), "inactive")

    def test_03_service_becomes_ready(self):
        self.start()
        self.assertEqual((show("ActiveState"), show("SubState")), ("active", "running"))
        self.assertEqual(show("NotifyAccess"), "main")
        self.assertTrue(until(lambda: "ready" in show("StatusText")), show("StatusText"))  # said right behind READY
        self.assertEqual(show("NRestarts"), "0")

    def test_04_a_member_may_use_it(self):
        self.assertServes()
        models = json.loads(self.assertRuns(run("sparkctl", "--json", "models", user="member")))
        self.assertIn("spark-tiny", json.dumps(models))

    def test_05_a_stranger_may_not(self):
        done = generate(user="stranger")
        self.assertEqual(done.returncode, 77, (done.stdout, done.stderr))
        self.assertTrue(done.stderr.strip())
        self.assertNotIn("Traceback", done.stderr)

    def test_06_only_root_loads(self):
        self.assertEqual(run("sparkctl", "unload", "spark-tiny", user="member").returncode, 77)
        self.assertRuns(run("sparkctl", "unload", "spark-tiny"))
        self.assertRuns(run("sparkctl", "load", "spark-tiny"))

    def test_07_bus(self):
        self.assertTrue(until(lambda: run("busctl", "status", NAME).returncode == 0))
        answer = json.loads(self.assertRuns(call("Complete", "sa{sv}", f"{MARK} sings", "1", "max_tokens", "u", "8",
                                                 user="member")))
        self.assertEqual(answer["data"][1]["completion_tokens"]["data"], 8)
        self.assertIn("Only root", call("Unload", "s", "spark-tiny", user="member").stderr)
        self.assertIn("Access denied", call("Complete", "sa{sv}", "x", "0", user="stranger").stderr)
        self.assertRuns(call("Unload", "s", "spark-tiny"))
        self.assertRuns(call("Load", "sa{sv}", "spark-tiny", "0"))
        state = run("busctl", "get-property", NAME, PATH, MANAGER, "State", user="stranger")
        self.assertIn("ready", self.assertRuns(state))
        page = pathlib.Path("/usr/share/man/man5/org.sparkd.Spark1.5").read_text(encoding="ascii")
        example = re.search(r"^\.SH EXAMPLES\n\.EX\n(busctl .*?)\ngdbus", page, re.M | re.S)[1].replace("\\e\n", "\\\n")
        self.assertIn('"finish_reason" s', self.assertRuns(run("sh", "-c", example, user="member")))

    def test_08_sandbox(self):
        pid = main_pid()
        engine = children(pid)["spark-engine"]
        uid = str(pwd.getpwnam("sparkd").pw_uid)
        for process in pid, engine:
            status = status_of(process)
            self.assertEqual(set(status["Uid"].split()), {uid})
            self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
            for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
                self.assertEqual(int(status[name], 16), 0, name)
            self.assertNotEqual(os.readlink(f"/proc/{process}/ns/net"), os.readlink("/proc/self/ns/net"))
            devices = pathlib.Path(f"/proc/{process}/net/dev").read_text().splitlines()[2:]
            self.assertEqual([line.split(":")[0].strip() for line in devices], ["lo"])
        inside = ("nsenter", "-t", str(pid), "-m", "--")
        for path in ("/usr/x", "/etc/x", "/opt/x", "/var/x"):
            self.assertIn("Read-only", run(*inside, "touch", path).stderr, path)
        self.assertRuns(run(*inside, "touch", "/var/lib/sparkd/x"))
        self.assertFalse(run(*inside, "ls", "/home").stdout)
        self.assertEqual(run(*inside, "ls", "/tmp").stdout, "")
        # core dumps would hold prompts
        self.assertNotIn("no Landlock", self.journal())
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        self.assertRegex(limits, r"Max core file size +0 +0")

    def test_08b_what_the_unit_forbids_is_tried(self):
        """By another program in the service's place."""
        out = pathlib.Path("/run/sparkd-probe.json")
        unit = pathlib.Path(show("FragmentPath")).read_text(encoding="utf-8")
        keys = {"Type": "oneshot", "ExecStart": f"/usr/bin/python3 -B {HERE}/probe.py", "Restart": "no",
                "StandardOutput": f"truncate:{out}"}
        unit = re.sub(r"^(Type|Exec\w+|Restart|BusName|Requires|WatchdogSec|FileDescriptorStoreMax)=.*\n", "", unit, flags=re.M)
        unit = unit.replace("[Service]\n", "[Service]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()))
        pathlib.Path("/run/systemd/system/sparkd-probe.service").write_text(unit, encoding="utf-8")
        self.assertRuns(systemctl("daemon-reload"))
        self.assertRuns(systemctl("start", "sparkd-probe.service"))
        said = json.loads(out.read_text(encoding="ascii"))
        refusals = {"EPERM", "EACCES", "EROFS", "EAFNOSUPPORT"}
        self.assertGreater(len(said["forbidden"]), 50)
        self.assertEqual({name: came for name, came in said["forbidden"].items() if came not in refusals}, {})
        self.assertEqual(set(said["allowed"].values()), {"done"}, said["allowed"])
        self.assertNotIn(said["io_uring"], ("done", "EPERM"))  # its arguments are no good
        self.assertEqual((said["umask"], said["temporary"]), (0o077, ["sparkd-probe"]))
        self.assertFalse(pathlib.Path("/tmp/sparkd-probe").exists())
        pathlib.Path("/var/lib/sparkd/probe").unlink()

    def test_09_engine_killed(self):
        pid = main_pid()
        engine = children(pid)["spark-engine"]
        os.kill(engine, signal.SIGKILL)
        self.assertServes()
        self.assertEqual((main_pid(), show("NRestarts")), (pid, "0"))
        self.assertNotEqual(children(pid)["spark-engine"], engine)

    def test_09b_events_have_ids(self):
        """They are found by them, and explained."""
        catalog = pathlib.Path("/usr/lib/systemd/catalog/sparkd.catalog").read_text(encoding="ascii")
        ids = {subject: id for id, subject in re.findall(r"^-- (\w{32})\nSubject: (.*)", catalog, re.M)}
        self.assertRuns(run("journalctl", "--update-catalog"))
        for subject, text, model in (("The language model service is ready", "READY", False),
                                     ("Model @SPARK_MODEL@ is resident", "model 'spark-tiny' is ready", True),
                                     ("Model @SPARK_MODEL@ was unloaded", "model 'spark-tiny' is unloaded", True),
                                     ("The engine of model @SPARK_MODEL@ has ended", "ended with", True)):
            self.assertIn(text, self.journal(f"MESSAGE_ID={ids[subject]}"))
            entry = json.loads(self.journal(f"MESSAGE_ID={ids[subject]}", "-o", "json", "-n", "1"))
            self.assertEqual(entry.get("SPARK_MODEL"), "spark-tiny" if model else None)
            self.assertEqual((entry["SYSLOG_IDENTIFIER"], entry["_PID"]), ("sparkd", str(main_pid())))
            self.assertIn(entry["PRIORITY"], "46")
            explained = self.journal(f"MESSAGE_ID={ids[subject]}", "-x", "-o", "short", "-n", "1")
            self.assertIn(subject.replace("@SPARK_MODEL@", "spark-tiny"), explained)

    def test_10_reload(self):
        pid = main_pid()
        self.assertRuns(systemctl("reload", SERVICE))
        self.assertTrue(until(lambda: show("ActiveState") == "active"))
        self.assertEqual(main_pid(), pid)
        self.assertServes()
        self.assertTrue(until(lambda: "configuration reloaded" in self.journal()))

    def test_10b_limits_of_a_user(self):
        """By name, looked up from within the sandbox; over a reload and back."""
        config = pathlib.Path("/etc/sparkd/sparkd.conf")
        before = config.read_text(encoding="utf-8")
        ask = ("sparkctl", "generate", "-n", "2", "--priority")
        try:
            config.write_text(before + '\nusers = ( { user = "member"; max_priority = "background"; } );\n', encoding="utf-8")
            self.assertRuns(systemctl("reload", SERVICE))
            self.assertTrue(until(lambda: run(*ask, "normal", MARK, user="member").returncode == 77))
            self.assertRuns(run(*ask, "background", MARK, user="member"))
            self.assertRuns(run(*ask, "interactive", MARK))
        finally:
            config.write_text(before, encoding="utf-8")
        self.assertRuns(systemctl("reload", SERVICE))
        self.assertTrue(until(lambda: run(*ask, "normal", MARK, user="member").returncode == 0))

    def usage(self):
        """Tokens that were generated for the member."""
        report = json.loads(self.assertRuns(run("sparkctl", "--json", "usage", user="member")))
        return sum(row["completion_tokens"] for row in report["rows"])

    def test_11_daemon_killed(self):
        pid = main_pid()
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(until(lambda: show("ActiveState") == "active" and main_pid() not in (0, pid)))
        self.assertServes()
        self.assertEqual(show("NRestarts"), "1")

    def test_11b_crashes_leave_no_core(self):
        """What was in memory, prompts among it, is not written anywhere: by no limit, and by nobody who looks into a process."""
        for name in "spark-engine", "sparkd":
            run("sparkctl", "generate", "-n", "64", f"{MARK} once more", user="member")
            control = main_pid()
            pid = control if name == "sparkd" else children(control)[name]
            self.assertEqual(os.stat(f"/proc/{pid}/environ").st_uid, 0)  # not dumpable: its own user may not read its memory
            self.assertIn("Permission denied", run("cat", f"/proc/{pid}/maps", user="sparkd").stderr)
            self.assertRegex(pathlib.Path(f"/proc/{pid}/limits").read_text(), r"Max core file size +0 +0")
            os.kill(pid, signal.SIGABRT)
            self.assertTrue(until(lambda: not pathlib.Path(f"/proc/{pid}").exists() and show("ActiveState") == "active"))
            self.assertServes()
        said = self.journal()
        self.assertIn("code=killed, status=6/ABRT", said)
        self.assertNotIn("code=dumped", said)
        self.assertIn("signal 6", said)
        for folder in "/", "/var/lib/sparkd", "/var/lib/systemd/coredump":
            self.assertEqual([path.name for path in pathlib.Path(folder).glob("*core*")], [])

    def test_12_stop_and_socket_activation(self):
        used = self.usage()
        self.assertGreater(used, 0)
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertEqual((show("ActiveState"), show("Result")), ("inactive", "success"))
        self.assertEqual(show("ActiveState", SOCKET), "active")
        ledger = os.stat("/var/lib/sparkd/usage.db")
        self.assertEqual((ledger.st_uid, stat.S_IMODE(ledger.st_mode)), (pwd.getpwnam("sparkd").pw_uid, 0o600))
        self.assertServes()
        self.assertTrue(until(lambda: show("ActiveState") == "active"))
        self.assertEqual(self.usage(), used + 8)  # over the restart
        status = json.loads(self.assertRuns(run("sparkctl", "--json", "status", user="member")))
        self.assertEqual(status["warnings"], [])
        self.assertFalse(list(pathlib.Path("/var/lib/sparkd").glob("usage.db.damaged*")))

    def test_13_bus_activation(self):
        self.assertRuns(systemctl("stop", SERVICE))
        systemctl("reset-failed", SERVICE)
        answer = self.assertRuns(call("ListModels"))
        self.assertIn("spark-tiny", answer)
        self.assertTrue(until(lambda: show("ActiveState") == "active"))  # it answers before its model is loaded

    def test_14_watchdog(self):
        folder = pathlib.Path(f"/run/systemd/system/{SERVICE}.d")
        folder.mkdir(parents=True)
        (folder / "test.conf").write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}s\nRestartSec=100ms\n", encoding="ascii")
        self.assertRuns(systemctl("daemon-reload"))
        self.assertRuns(systemctl("stop", SERVICE))
        self.start()
        pid = main_pid()
        time.sleep(WATCHDOG_S + 1)
        self.assertEqual((main_pid(), show("ActiveState"), show("NRestarts")), (pid, "active", "0"))
        os.kill(pid, signal.SIGSTOP)  # one that hangs is replaced
        self.assertTrue(until(lambda: show("ActiveState") == "active" and main_pid() not in (0, pid)))
        self.assertServes()

    def test_15_bus_restarted(self):
        """The daemon finds the bus again."""
        pid = main_pid()
        self.assertRuns(systemctl("restart", "dbus.service"))
        self.assertServes()
        self.assertTrue(until(lambda: run("busctl", "status", NAME).returncode == 0 and
                              call("ListModels").returncode == 0))
        self.assertEqual(main_pid(), pid)

    def test_16_nothing_of_a_prompt_in_the_journal(self):
        run("journalctl", "--sync")
        everything = run("journalctl", "--no-pager", "-o", "export").stdout
        self.assertIn(SERVICE, everything)
        # the command lines of the test's own processes are no concern of the service
        mine = run("journalctl", "--no-pager", "-o", "export", "-u", SERVICE, "-u", SOCKET, "_COMM=sparkd").stdout
        self.assertNotIn(MARK, mine + self.journal())
        self.assertNotIn("leaves a charge", self.journal())


def main():
    result = unittest.main(verbosity=2, exit=False).result
    with open("/out/journal", "w", encoding="utf-8") as file:
        file.write(run("journalctl", "--no-pager", "-o", "short-monotonic", "-u", SERVICE, "-u", SOCKET, "-u",
                       "dbus.service").stdout)
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
