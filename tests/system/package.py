#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages, as an administrator meets them: installed, used, upgraded, removed, purged. Run by boot.sh as root of a
container."""

import grp
import json
import os
import pathlib
import pwd

import inside
import streams
from inside import SERVICE, SOCKET, main_pid, run, show, systemctl

HERE = pathlib.Path(__file__).resolve().parent
STATE, CONFIG = pathlib.Path("/var/lib/sparkd"), pathlib.Path("/etc/sparkd/sparkd.conf")
SOCKET_PATH = "/run/sparkd/sparkd.sock"
IDLE = 100   # connections over the upgrade
PACE_S = 0.3 # between a stream's tokens meanwhile: longer in all than it takes
NAMES = ("libspark1", "libspark-dev", "sparkd")
# What changes by itself, or with any package.
NOISE = ("/var/lib/dpkg", "/var/lib/PackageKit", "/var/lib/systemd", "/var/lib/apt", "/run/systemd", "/run/udev",
         "/run/dbus", "/run/log", "/run/user",
         "/etc/sysusers.d", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/.pwd",
         "/etc/ld.so.cache")
PROGRAM = r"""
#include <spark.h>
#include <stdio.h>
int main(void) { return printf("%s\n", spark_code_name(0)) > 0 ? 0 : 1; }
"""


def versions():
    """{package: (state, version)}"""
    found = {}
    for name in NAMES:
        words = run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name).stdout.split()
        found[name] = tuple(words) if len(words) == 2 else ("not-installed", "")
    return found


def dpkg(*arguments):
    return run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *arguments, timeout=120)


def paths():
    found = set()
    for root in "/etc", "/run", "/var/lib":
        for folder, folders, files in os.walk(root):
            found.update(os.path.join(folder, name) for name in folders + files)
    return {path for path in found if not path.startswith(NOISE)}


class Package(streams.StreamSteps):
    STREAMS, TOKENS = 20, 200
    model = "spark-tiny"
    before = set()
    files = []

    def install(self, folder):
        self.assertRuns(dpkg("-i", *map(str, sorted((HERE / folder).glob("*.deb")))))

    def assertEnabled(self):
        for unit in SERVICE, SOCKET:
            self.assertEqual(self.assertRuns(systemctl("is-enabled", unit)).strip(), "enabled", unit)
            self.assertEqual(show("ActiveState", unit), "active", unit)

    def test_01_install(self):
        type(self).before = paths()
        self.install("first")
        self.assertTrue(all(state == "installed" for state, _ in versions().values()), versions())
        self.assertEnabled()
        type(self).files = [pathlib.Path(line) for line in self.assertRuns(run("dpkg", "-L", *NAMES)).splitlines()
                            if line.startswith("/") and not pathlib.Path(line).is_dir()]
        self.assertIn(pathlib.Path("/usr/bin/sparkd"), self.files)
        self.assertEqual(self.assertRuns(run("dpkg", "-V", *NAMES)), "")

    def test_02_users(self):
        self.make_users()
        found = os.stat(SOCKET_PATH)
        self.assertEqual((found.st_uid, found.st_gid, found.st_mode & 0o777), (0, grp.getgrnam("spark").gr_gid, 0o660))
        self.assertEqual((STATE / "models").stat().st_uid, pwd.getpwnam("sparkd").pw_uid)

    def test_03_socket_activation(self):
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertEqual(show("ActiveState"), "inactive")
        self.assertServes()
        self.assertTrue(inside.until(lambda: show("ActiveState") == "active"))
        self.assertEqual(inside.generate(user="stranger").returncode, 77)

    def test_04_bus(self):
        self.assertTrue(inside.until(lambda: "spark-tiny" in inside.call("ListModels", user="member").stdout))

    def test_05_doctor(self):
        done = json.loads(self.assertRuns(run("sparkctl", "--json", "doctor", user="member")))
        self.assertEqual(done["failures"], 0, done)

    def test_06_catalog(self):
        """systemd was told of it by the package."""
        explained = self.journal("-x", "-o", "short")
        self.assertIn("Subject: The language model service is ready", explained)
        self.assertIn("Subject: Model spark-tiny is resident", explained)

    def test_07_library(self):
        source = pathlib.Path("/root/use.c")
        source.write_text(PROGRAM, encoding="ascii")
        flags = self.assertRuns(run("pkg-config", "--cflags", "--libs", "libspark")).split()
        self.assertRuns(run("gcc", "-Wall", "-Werror", "-o", "/root/use", str(source), *flags))
        self.assertTrue(self.assertRuns(run("/root/use")).strip())
        self.assertIn("libspark.so.1", self.assertRuns(run("ldd", "/root/use")))
        for path in source, pathlib.Path("/root/use"):
            path.unlink()

    def test_08_completion(self):
        script = "/usr/share/bash-completion/completions/sparkctl"
        words = self.assertRuns(run("bash", "-c", f'source {script}; COMP_WORDS=(sparkctl unload ""); COMP_CWORD=2; _sparkctl;'
                                    'echo "${COMPREPLY[@]}"'))
        self.assertEqual(words.split(), ["spark-tiny"])

    def used(self):
        report = json.loads(self.assertRuns(run("sparkctl", "--json", "usage", user="member")))
        return sum(row["completion_tokens"] for row in report["rows"])

    def test_09_upgrade(self):
        """The service is another process, its socket is the same, and nothing of what was changed or counted is lost. Streams go on,
        and who was connected is still."""
        with CONFIG.open("a", encoding="utf-8") as file:
            file.write("# by the administrator\n")
        pid, used, socket, began = main_pid(), self.used(), os.stat(SOCKET_PATH).st_ino, show("InvocationID", SOCKET)
        self.assertGreater(used, 0)
        old = versions()["sparkd"][1]
        self.undisturbed()
        idle = [self.connect() for _ in range(IDLE)]
        for client in idle:
            client.ask(models=streams.pb.Models())
        self.assertTrue(inside.until(lambda: int(show("NFileDescriptorStore")) >= IDLE), show("NFileDescriptorStore"))
        running = self.streams(PACE_S)
        self.install("second")
        for stream in running:
            self.assertIsNone(stream.end, "a stream did not last")
            stream.pace = 0
        self.assertRight(running)
        self.assertGoesOn(running, "package upgrade")
        for client in idle:
            self.assertEqual(client.ask(models=streams.pb.Models()).WhichOneof("body"), "done")
            client.close()
        self.assertEqual(set(versions().values()), {("installed", old + "+1")})
        self.assertEnabled()
        self.assertNotIn(main_pid(), (0, pid))
        self.assertEqual((os.stat(SOCKET_PATH).st_ino, show("InvocationID", SOCKET)), (socket, began))
        self.assertIn("# by the administrator", CONFIG.read_text(encoding="utf-8"))
        self.assertServes()
        self.assertEqual(self.used(), used + 8)

    def test_09b_configured_again(self):
        """As after an interruption. What the administrator has switched off stays so."""
        version, postinst = versions()["sparkd"][1], "/var/lib/dpkg/info/sparkd.postinst"
        self.assertRuns(run(postinst, "configure", version))
        self.assertEnabled()
        self.assertServes()
        self.assertRuns(systemctl("disable", SERVICE))
        self.assertRuns(run(postinst, "configure", version))
        self.assertEqual(systemctl("is-enabled", SERVICE).stdout.strip(), "disabled")
        self.assertRuns(systemctl("enable", SERVICE))
        self.assertServes()

    def test_10_remove(self):
        self.assertRuns(dpkg("-r", *NAMES))
        for unit in SERVICE, SOCKET:
            self.assertEqual(show("ActiveState", unit), "inactive", unit)
        self.assertTrue(CONFIG.exists() and (STATE / "usage.db").exists())

    def test_11_purge_leaves_what_people_put_there(self):
        (STATE / "models/mine.gguf").touch()
        self.assertRuns(dpkg("-P", *NAMES))
        self.assertEqual([str(path) for path in sorted(STATE.rglob("*"))], [f"{STATE}/models", f"{STATE}/models/mine.gguf"])
        (STATE / "models/mine.gguf").unlink()

    def test_12_apt(self):
        """As people do it; everything that the packages depend on is there, so that no network is needed."""
        debs = [str(path) for path in (HERE / "second").glob("*.deb") if path.name.startswith(tuple(name + "_" for name in NAMES))]
        self.assertRuns(run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends", *debs,
                            timeout=120))
        self.assertEnabled()

    def test_13_purge_leaves_nothing(self):
        self.assertServes()
        self.assertRuns(run("sparkctl", "session", "create"))
        self.assertRuns(run("sparkctl", "models", "import", "/usr/share/sparkd/spark-tiny.gguf", "--name", "copy"))
        self.assertRuns(dpkg("-P", *NAMES))
        self.assertEqual(set(state for state, _ in versions().values()), {"not-installed"})
        self.assertEqual([path for path in self.files if path.exists() or path.is_symlink()], [])
        self.assertEqual(paths() - self.before, set())
        links = pathlib.Path("/etc/systemd/system").rglob("sparkd.*")
        self.assertEqual(list(links) + list(pathlib.Path("/var/lib/systemd").rglob("*sparkd.*")), [])
        self.assertEqual(run("systemctl", "list-unit-files", "--no-legend", "sparkd.*").stdout, "")


if __name__ == "__main__":
    inside.main()
