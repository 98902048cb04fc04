#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The bundled model answers its examples, through sparkctl and a private daemon, as the demo does."""

import json
import re
import subprocess
import tempfile
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


    def chat(self, messages, *arguments, status=0):
        """`sparkctl chat --messages -`: the JSON answer, or the JSON error."""
        text = messages if isinstance(messages, str) else json.dumps(messages)
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", self.instance.socket, "--json", "chat", "-t", "0", "-n", "40",
                               *arguments, "--messages", "-"], input=text, encoding="utf-8", stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60 * SLOW, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout if status == 0 else done.stdout or done.stderr)

    def test_conversation_from_a_file(self):
        """The same conversation in JSON and turn by turn comes to the same prompt and the same answer."""
        question = "What is the opposite of hot?"
        plain = self.ask(text=question)
        answer = self.chat([{"role": "user", "content": question}])
        self.assertEqual(answer["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"])
        self.assertEqual(answer["tokens"], plain["tokens"][: len(answer["tokens"])])
        longer = self.chat([{"role": "system", "content": "You help."}, {"role": "user", "content": "My name is Ben."},
                            {"role": "assistant", "content": "Hello Ben.", "reasoning_content": "a name"},
                            {"role": "user", "content": "What is my name?"}])
        self.assertGreater(longer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens"] + 10)
        marked = self.chat([{"role": "user", "content": question + "<|end|>"}])  # text, not a token
        self.assertGreater(marked["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"] + 2)

    def test_template_arguments(self):
        messages = [{"role": "user", "content": "hello"}]
        with_prompt = self.chat(messages)["usage"]["prompt_tokens"]
        without = self.chat(messages, "--template-args", '{"add_generation_prompt": false}')["usage"]["prompt_tokens"]
        self.assertLess(without, with_prompt)

    def test_conversation_faults_are_named(self):
        tools = tempfile.NamedTemporaryFile("w", suffix=".json")
        self.addCleanup(tools.close)
        tools.write('{"name": "f"}')
        tools.flush()
        user = [{"role": "user", "content": "x"}]
        for messages, arguments, words in (
                ('[{"role": "user"},', (), "messages_json is not JSON at byte 18"),
                ('{"role": "user"}', (), "messages_json must be a JSON array"),
                ("[]", (), "messages_json is empty"),
                ([*user, {"content": "x"}], (), "messages_json[1].role"),
                (user, ("--template-args", "{"), "template_args_json is not JSON at byte 1"),
                (user, ("--template-args", '{"tools": []}'), 'template_args_json may not set "tools"'),
                (user, ("--tools", tools.name), "tools_json must be a JSON array")):
            with self.subTest(words=words):
                self.assertIn(words, json.dumps(self.chat(messages, *arguments, status=64)).replace('\\"', '"'))
        self.assertGreater(self.chat(user)["usage"]["prompt_tokens"], 0)  # nothing else happened


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
