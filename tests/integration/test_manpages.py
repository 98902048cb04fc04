# SPDX-License-Identifier: Apache-2.0
"""The manual pages: well formed, complete as far as that can be counted, and the example does what it says."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

from harness import *
from harness import pb

PAGES = {page.name: page for page in (ROOT / "client/libspark.3", ROOT / "client/sparkctl/sparkctl.1",
                                      ROOT / "daemon/control/sparkd.8", ROOT / "daemon/control/sparkd.conf.5",
                                      ROOT / "systemd/org.sparkd.Spark1.5", ROOT / "tests/bench/spark-bench.1")}
# sections of sparkd.conf(5) that are groups
GROUPS = {"GENERAL KEYS": "", "MEMORY": "memory", "RESIDENCY": "residency", "SCHEDULER": "scheduler", "LIMITS": "limits",
          "POWER": "power", "STORE": "store", "TRYING OUT": "null"}
UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30}


def plain(name):
    """A page's words, without what troff makes of them."""
    text = re.sub(r"\\f[A-Z]|\\-", lambda m: "-" if m[0] == "\\-" else "", PAGES[name].read_text(encoding="ascii"))
    return re.sub(r"^\.[A-Z]+ ", "", text, flags=re.M).replace('"', " ")


def words(name):
    return set(re.findall(r"[\w.-]+", plain(name)))


class Pages(TestCase):
    def test_lint(self):
        if not shutil.which("mandoc"):
            self.skipTest("mandoc is not installed")
        for name, page in PAGES.items():
            said = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], stdout=subprocess.PIPE, text=True, check=False)
            self.assertEqual(said.stdout, "", name)

    def test_groff(self):
        if not shutil.which("groff"):
            self.skipTest("groff is not installed")
        for name, page in PAGES.items():
            said = subprocess.run(["groff", "-man", "-ww", "-Tutf8", page], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True, check=False)
            self.assertEqual((said.returncode, said.stderr), (0, ""), name)

    def test_references(self):
        """What a page of ours refers to is a page of ours, or somebody else's."""
        others = {"systemd(1)", "systemd.service(5)", "journalctl(1)", "pkttyagent(1)", "polkit(8)", "busctl(1)"}
        known = {f"{name.rpartition('.')[0]}({name.rpartition('.')[2]})" for name in PAGES} | others
        for name, page in PAGES.items():
            for reference in re.findall(r"^\.BR (\S+) \((\d)\)", page.read_text(encoding="ascii"), re.M):
                self.assertIn("{}({})".format(*reference), known, name)

    def in_effect(self):
        """{(group, key): value} of an empty configuration."""
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "conf"
            config.write_text("", encoding="ascii")
            said = subprocess.run([BUILD / "bin/sparkd", "--check", "--config", config], stdout=subprocess.PIPE, text=True,
                                  check=True).stdout
        group, found = "", {}
        for line in said.splitlines():
            if match := re.match(r"(\w+) = \{$", line):
                group = match[1]
            elif line == "};":
                group = ""
            elif match := re.match(r"\s*(\w+) = (.*);$", line):
                found[group, match[1]] = match[2]
        return found

    def test_every_key(self):
        keys = {key for _, key in self.in_effect()}
        self.assertGreater(len(keys), 40)
        self.assertFalse(keys - words("sparkd.conf.5"))
        sample = (ROOT / "systemd/sparkd.conf").read_text(encoding="utf-8")
        self.assertFalse(keys - {"step_us"} - set(re.findall(r"^\s*(?:# )?(\w+) = ", sample, re.M)))

    def test_every_default(self):
        """As the page has them behind the keys."""
        in_effect, group, said = self.in_effect(), None, {}
        for line in PAGES["sparkd.conf.5"].read_text(encoding="ascii").replace(r"\(dq", "\0").splitlines():
            if line.startswith(".SH "):
                group = GROUPS.get(line[4:])
            elif line.startswith(".BR ") and group is not None:
                for key, value in re.findall(r'(\w+) " \(([^)]*)\)', line):
                    said[group, key] = value.replace("\0", '"')
        self.assertGreater(len(said), 60)
        for key, value in said.items():
            if key == ("", "cuda_library"):  # not set: printed as a comment
                continue
            number = re.fullmatch(r"(\d+)([MG]?)", value)
            expected = str(int(number[1]) * UNITS[number[2]]) if number else value
            self.assertEqual(in_effect[key].removesuffix("L"), expected, key)
        self.assertEqual(set(in_effect) - set(said), {("", "users")})

    def test_every_member(self):
        root = ElementTree.parse(ROOT / "systemd/org.sparkd.Spark1.xml").getroot()
        members = {m.get("name") for kind in ("method", "signal", "property") for m in root.iter(kind)}
        self.assertGreater(len(members), 60)
        self.assertFalse(members - words("org.sparkd.Spark1.5"))
        policy = ElementTree.parse(ROOT / "systemd/org.sparkd.Spark1.policy").getroot()
        self.assertFalse({action.get("id") for action in policy.iter("action")} - words("org.sparkd.Spark1.5"))

    def test_every_error(self):
        names = {name.title().replace("_", "") for name in pb.ErrorCode.keys()} - {"ErrorCodeUnspecified"}
        self.assertGreater(len(names), 12)
        self.assertFalse(names - {word.rstrip(".") for word in words("org.sparkd.Spark1.5")})

    def test_every_function_is_one(self):
        header = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "client").glob("spark*.h"))
        named = set(re.findall(r"\bspark_\w+(?= *\()", plain("libspark.3")))
        self.assertGreater(len(named), 30)
        self.assertFalse({name for name in named if not re.search(rf"\b{name}\(", header)})

    @staticmethod
    def help_of(program, *verb):
        return subprocess.run([BUILD / "bin" / program, *verb, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout

    def test_every_verb(self):
        for program in "sparkctl", "spark-bench":
            said = self.help_of(program)
            verbs = set(re.findall(r"^  ([a-z]+)", said, re.M))
            self.assertGreater(len(verbs), 10, said)
            self.assertFalse(verbs - words(f"{program}.1"))

    def test_every_option(self):
        verbs = re.findall(r"^  ([a-z]+)", self.help_of("sparkctl"), re.M)
        options = {option for verb in verbs for option in re.findall(r"^ +(?:-\w, )?--([a-z-]+)", self.help_of("sparkctl", verb), re.M)}
        self.assertGreater(len(options), 40)
        self.assertFalse({f"--{option}" for option in options} - words("sparkctl.1"))

    def test_every_program(self):
        """What people may call has a page."""
        with tempfile.TemporaryDirectory() as folder:
            made = subprocess.run(["make", "-s", "-n", "install", f"BUILD={BUILD}", f"DESTDIR={folder}", "PREFIX=/usr", "CUDA=0"],
                                  cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        programs = re.search(rf"-m 755 (.*) {folder}/usr/bin/$", made, re.M)[1].split()
        self.assertGreaterEqual(len(programs), 3)
        self.assertFalse({pathlib.Path(program).name for program in programs} - {name.rpartition(".")[0] for name in PAGES})
        for program in programs:
            said = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
            self.assertRegex(said, rf"^{pathlib.Path(program).name} \d+\.\d+\.\d+\n$")

    def test_sparkctl_examples(self):
        """As they are printed."""
        example = re.search(r"^\.SH EXAMPLES\n\.EX\n(.*?)^\.EE", PAGES["sparkctl.1"].read_text(encoding="ascii"), re.M | re.S)[1]
        script = example.replace("\\-", "-").replace("| jq .usage", "")
        self.assertGreaterEqual(script.count("sparkctl "), 8)
        daemon = self.daemon(backend="cpu", models=[{"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf")}])
        daemon.wait_engine()
        done = subprocess.run(["sh", "-euc", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, env={
            **os.environ, "PATH": f"{BUILD / 'bin'}:{os.environ['PATH']}", "SPARK_SOCKET": str(daemon.socket)})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("the memory is there", done.stdout)

    def test_the_example(self):
        source = re.search(r"^\.SH EXAMPLES\n.*?^\.EX\n(.*?)^\.EE", PAGES["libspark.3"].read_text(encoding="ascii"), re.M | re.S)[1]
        source = source.replace("\\-", "-").replace("\\e", "\\")
        daemon = self.daemon()
        daemon.wait_engine()
        program = daemon.folder / "example"
        (daemon.folder / "example.c").write_text(source, encoding="ascii")
        flags = ["-fsanitize=address,undefined"] if SLOW > 1 else []
        made = subprocess.run(["cc", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", *flags, f"-I{ROOT / 'client'}", "-o",
                               program, daemon.folder / "example.c", f"-L{BUILD / 'lib'}", f"-Wl,-rpath,{BUILD / 'lib'}",
                               "-lspark"], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(made.returncode, 0, made.stderr)
        done = subprocess.run([program, "Once", daemon.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        with daemon.connect() as client:
            self.assertGreaterEqual(len(done.stdout), 64)
            self.assertDone(client.ask(status=pb.Status()))
        gone = subprocess.run([program, "Once", daemon.folder / "nobody"], stderr=subprocess.PIPE, check=False)
        self.assertEqual((gone.returncode, gone.stderr), (1, b"no service: No such file or directory\n"))


if __name__ == "__main__":
    unittest.main()
