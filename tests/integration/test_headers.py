# SPDX-License-Identifier: Apache-2.0
"""libspark's headers, as they are installed: each can be included alone, twice and in any order, from C and from C++, without a
warning; all of them are installed and uninstalled; and what is declared there the library has."""

import itertools
import re
import shutil
import subprocess
import unittest

from harness import *

HEADERS = sorted(path.name for path in (ROOT / "client").glob("spark*.h"))
# The oldest standards that a caller may write in, and today's.
LANGUAGES = [("cc", "c", "c99"), ("cc", "c", "gnu17"), ("c++", "c++", "c++11"), ("c++", "c++", "c++20")]


class Headers(TestCase):
    def compile(self, compiler, language, standard, headers, body=""):
        source = "".join(f'#include "{name}"\n' for name in headers) + body
        made = subprocess.run([compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                               f"-I{ROOT / 'client'}", "-fsyntax-only", "-"], input=source, stderr=subprocess.PIPE, text=True,
                              check=False)
        self.assertEqual(made.returncode, 0, f"{headers} as {standard}: {made.stderr}")

    def test_alone(self):
        self.assertGreater(len(HEADERS), 5)
        # all of it is there, whichever was named: what the first one declares, and the last one
        body = "int f(struct spark *s, const struct spark_job *j);\n" \
               "int f(struct spark *s, const struct spark_job *j) { struct spark_pack_request r = SPARK_PACK_INIT;\n" \
               "return (int)j->id + spark_model_pack(s, &r, NULL, NULL, NULL) + SPARK_MANUAL_CREDIT; }\n"
        for compiler, language, standard in LANGUAGES:
            if not shutil.which(compiler):
                self.skipTest(f"{compiler} is not installed")
            for name in HEADERS:
                with self.subTest(header=name, standard=standard):
                    self.compile(compiler, language, standard, [name], body)

    def test_any_order(self):
        for first, second in itertools.permutations(HEADERS, 2):
            with self.subTest(first=first, second=second):
                self.compile("cc", "c", "c99", [first, second, first])

    def test_each_is_installed(self):
        here, gone = (subprocess.run(["make", "-n", goal, "DESTDIR=/nowhere", "CUDA=0"], cwd=ROOT, stdout=subprocess.PIPE,
                                     text=True, check=True).stdout for goal in ("install", "uninstall"))
        for name in HEADERS:
            self.assertRegex(here, rf"\bclient/{re.escape(name)}\b")
            self.assertRegex(gone, rf"/include/{re.escape(name)}\b")

    def test_each_function_is_there(self):
        declared = set()
        for name in HEADERS:
            text = re.sub(r"/\*.*?\*/", "", (ROOT / "client" / name).read_text(encoding="utf-8"), flags=re.S)
            declared |= set(re.findall(r"\b(spark_\w+)\([^)]*\);", text))
        symbols = subprocess.run(["nm", "-D", "--defined-only", BUILD / "lib/libspark.so"], stdout=subprocess.PIPE, text=True,
                                 check=False)
        if symbols.returncode:
            self.skipTest("nm reads no libraries of that machine")
        there = set(re.findall(r"\b[TW] (spark_\w+)", symbols.stdout))
        self.assertGreater(len(declared), 40)
        self.assertEqual(declared, there)


if __name__ == "__main__":
    unittest.main()
