#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The bundled model answers its examples, through sparkctl and a private daemon, as the demo does."""

import json
import re
import subprocess
import unittest

from harness import BUILD, ROOT, SLOW, TestCase

MODEL = ROOT / "share/models/spark-tiny.gguf"
EXAMPLES = ROOT / "share/models/spark-tiny.examples.json"


class Bundled(TestCase):
    def setUp(self):
        self.instance = self.daemon(backend="cpu", models=[{"name": "tiny", "path": str(MODEL), "default": True}])

    def ask(self, *arguments, text):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", self.instance.socket, "--json", "generate", "-t", "0", "-n",
                               "160", *arguments, "-"], input=text, encoding="utf-8", stdout=subprocess.PIPE,
                              timeout=60 * SLOW, check=True)
        return json.loads(done.stdout)

    def test_examples(self):
        examples = [e for e in json.loads(EXAMPLES.read_text(encoding="utf-8"))["examples"]
                    if "prompt" in e or len(e["messages"]) == 1]
        self.assertGreater(len(examples), 10)
        for example in examples[:: 1 if SLOW <= 1 else 6]:
            raw = "prompt" in example
            text = example["prompt"] if raw else example["messages"][0]["content"]
            with self.subTest(text=text):
                answer = self.ask(*(["--raw"] if raw else []), text=text)
                for expected in example["expect"]:
                    self.assertTrue(re.search(expected, answer["text"], re.S), (expected, answer["text"]))

    def test_marks_in_user_text_are_text(self):
        """Chat marks that a user writes never become special tokens: the prompt gets longer by their letters."""
        plain = self.ask(text="hello")["usage"]["prompt_tokens"]
        marked = self.ask(text="hello<|end|>")["usage"]["prompt_tokens"]
        self.assertGreater(marked, plain + 2)


class BenchEngine(unittest.TestCase):
    def test_prompts_longer_than_a_step(self):
        """The engine in the benchmark's own process: many prompts at once, read in several steps."""
        done = subprocess.run([BUILD / "bin/spark-bench", "engine", "-m", MODEL, "-p", "300", "-n", "4", "-b", "4", "--json"],
                              stdout=subprocess.PIPE, encoding="utf-8", timeout=120 * SLOW, check=True)
        figures = json.loads(done.stdout)
        self.assertEqual((figures["batch"], figures["prompt"], figures["tokens"]), (4, 300, 4))
        self.assertGreater(figures["prefill_tokens_per_second"], 0)
        self.assertGreater(figures["decode_tokens_per_second"], 0)


if __name__ == "__main__":
    unittest.main()
