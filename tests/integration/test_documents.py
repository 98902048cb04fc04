# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/: links lead somewhere, configurations are taken, and the first commands do what is said."""

import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import *

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document):
    """What stands between fences."""
    return re.findall(r"^```\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S)


class Documents(TestCase):
    def test_links(self):
        links = [(document, link) for document in DOCUMENTS
                 for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")) if "://" not in link]
        self.assertGreater(len(links), 50)
        for document, link in links:
            self.assertTrue((document.parent / link).exists(), f"{document.name}: {link}")

    def test_configurations(self):
        """As they are printed, but for the users, which are not everywhere."""
        found = 0
        for document in DOCUMENTS[1:]:
            for block in blocks(document):
                if not re.match(r"\w+ = [({]", block):
                    continue
                found += 1
                with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
                    file.write(re.sub(r'(user|group) = "\w+"', r'\1 = "root"', block))
                    file.flush()
                    done = subprocess.run([BUILD / "bin/sparkd", "--check", "--config", file.name], capture_output=True, text=True,
                                          check=False)
                self.assertEqual(done.returncode, 0, f"{document.name}: {done.stderr}")
        self.assertGreaterEqual(found, 2)

    def test_trying_it_out(self):
        """The README's first commands, in a folder of their own, and with a lower memory floor, since others are tested beside."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sparkd-")))
        start, use = (re.sub(r"/tmp/sparkd\b", f"{folder}/s", block).replace("build/bin/", f"{BUILD}/bin/").replace("$PWD", str(ROOT))
                      for block in blocks(ROOT / "README.md") if "my.conf" in block or "SPARK_SOCKET" in block)
        script, n = re.subn(r"^(.*/sparkd --config my\.conf) &\n$", r"exec \1\n", start, flags=re.M)
        self.assertEqual(n, 1, start)
        script = script.replace('bus = "none";', 'bus = "none"; memory = { floor = "1M"; };')
        log = folder / "log"
        with open(log, "wb") as file:
            daemon = subprocess.Popen(["sh", "-euc", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.terminate)
        until(lambda: "READY" in log.read_text(encoding="utf-8"), 30, "READY")
        done = subprocess.run(["sh", "-euc", use], cwd=folder, input="What is 2 + 3?\n", capture_output=True, text=True, check=False,
                              timeout=60 * SLOW)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("tiny", done.stdout)
        self.assertGreater(len(done.stdout.splitlines()), 8)


if __name__ == "__main__":
    unittest.main()
