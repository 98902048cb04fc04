#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The programs against reference outputs: continuations, perplexities, tokens, logits. Skipped without test data."""

import array
import json
import math
import pathlib
import struct
import subprocess
import tempfile
import unittest

from harness import BUILD, SLOW, TESTDATA, TestCase

MODELS, REFERENCE = TESTDATA / "models", TESTDATA / "reference"
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
QUANTIZED = [f"rand-llama-{t}" for t in ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k", "iq4_nl",
                                         "iq4_xs")]
QUANTIZED += ["rand-llama3-q4_k_m", "rand-gpt-oss-mxfp4_moe", "rand-qwen3moe-mxfp4_moe"]
VOCABULARIES = {"llama-spm": "vocab", "llama-bpe": "vocab", "gpt-2": "vocab", "qwen2": "vocab", "phi-3": "vocab",
                "stories260K": "models"}


def run(program, *arguments, **options):
    return subprocess.run([str(BUILD / "bin" / program), *map(str, arguments)], check=True, stdout=subprocess.PIPE,
                          timeout=120 * SLOW, **options).stdout


def reference(name):
    return json.loads((REFERENCE / f"{name}.json").read_text(encoding="utf-8", errors="replace"))


def floats(data):
    values = array.array("f")
    values.frombytes(data)
    return values


@unittest.skipUnless(MODELS.is_dir(), f"no test data at {TESTDATA}")
class Stories(TestCase):
    """A small trained model in all formats, through a daemon and sparkctl."""

    def setUp(self):
        self.instance = self.daemon(
            backend="cpu", models=[{"name": t, "path": str(MODELS / f"stories260K-{t}.gguf"), "default": t == "f32"}
                                   for t in TYPES])

    def ctl(self, *arguments):
        return json.loads(run("sparkctl", "-S", self.instance.socket, "--json", *arguments))

    def test_greedy_continuations(self):
        for kind in ("f32", "f16", "bf16", "q8_0"):
            for prompt in ("p1", "p2"):
                with self.subTest(kind=kind, prompt=prompt):
                    truth = reference(f"stories260K-{kind}.{prompt}")
                    answer = self.ctl("generate", "-m", kind, "--raw", "-t", "0", "-n", "64", truth["prompt"])
                    self.assertEqual(answer["tokens"], truth["greedy_tokens"])
                    self.assertEqual(answer["usage"]["prompt_tokens"], len(truth["prompt_tokens"]))
                    self.assertEqual(answer["text"].rstrip("\ufffd"), truth["greedy_text"].rstrip("\ufffd"))

    def test_perplexity(self):
        for kind in TYPES:
            with self.subTest(kind=kind):
                truth = reference(f"stories260K-{kind}.eval")
                answer = self.ctl("perplexity", "-m", kind, REFERENCE / "eval-stories.txt")
                share = 0.001 if kind in ("f32", "f16", "bf16") else 0.005
                self.assertEqual(answer["tokens"], len(truth["prompt_tokens"]) - 1)
                self.assertLess(abs(answer["perplexity"] / truth["prompt_ppl"] - 1), share)
                self.assertAlmostEqual(math.exp(answer["nll"]), answer["perplexity"], places=4)


@unittest.skipUnless(MODELS.is_dir(), f"no test data at {TESTDATA}")
class Bench(unittest.TestCase):
    def test_tokenize(self):
        inputs = REFERENCE / "token-inputs.bin"
        for name, folder in VOCABULARIES.items():
            with self.subTest(vocabulary=name):
                model = TESTDATA / folder / (f"{name}-f32.gguf" if folder == "models" else f"{name}.gguf")
                lines = run("spark-bench", "tokenize", "-m", model, inputs).decode().splitlines()
                truth = (REFERENCE / f"tokens-{name}.jsonl").read_text(encoding="utf-8").splitlines()
                self.assertEqual(len(lines), len(truth))
                for ours, theirs in zip(lines, truth):
                    self.assertEqual(json.loads(ours), json.loads(theirs))

    def test_logits(self):
        names = [(path.stem, path.stem) for path in sorted(MODELS.glob("mini-*-f32.gguf"))]
        for name, model in [*names, ("stories260K-f32.eval", "stories260K-f32")]:
            # the reference takes Gemma's gelu from a table in half precision (docs/architectures.md)
            limit = 1e-6 if "gemma" in name else 1e-10
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                truth = reference(name)
                text, out = pathlib.Path(folder) / "text", pathlib.Path(folder) / "out.f32"
                text.write_bytes(truth["prompt"].encode())
                run("spark-bench", "logits", "-m", MODELS / f"{model}.gguf", "-f", text, "-o", out)
                ours = floats(out.read_bytes())
                theirs = floats((REFERENCE / pathlib.Path(truth["logits_file"]).name).read_bytes())[:len(ours)]
                self.assertEqual(len(ours), len(truth["prompt_tokens"]) * truth["n_vocab"])
                error = sum((a - b) ** 2 for a, b in zip(ours, theirs)) / sum(b * b for b in theirs)
                self.assertLess(error, limit)

    def test_quantized(self):
        """Perplexities of the quantized models with random weights, from their logits."""
        for name in QUANTIZED:
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                truth = reference(name)
                text, out = pathlib.Path(folder) / "text", pathlib.Path(folder) / "out.f32"
                text.write_bytes(truth["prompt"].encode())
                run("spark-bench", "logits", "-m", MODELS / f"{name}.gguf", "-f", text, "-o", out)
                ours, n, ids = floats(out.read_bytes()), truth["n_vocab"], truth["prompt_tokens"]
                self.assertEqual(len(ours), len(ids) * n)
                nll = 0.0
                for i, token in enumerate(ids[1:]):
                    row = ours[i * n:(i + 1) * n]
                    nll += math.log(sum(map(math.exp, row))) - row[token]
                nll /= len(ids) - 1
                self.assertLess(abs(math.exp(nll - truth["prompt_nll_mean"]) - 1), 0.01)

    def test_records_cut_short(self):
        """Bad data is told from good, with the exit code for it."""
        with tempfile.NamedTemporaryFile() as records:
            records.write(struct.pack("<I", 100) + b"too short")
            records.flush()
            done = subprocess.run([BUILD / "bin/spark-bench", "tokenize", "-m", MODELS / "stories260K-f32.gguf",
                                   records.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 65)
            self.assertTrue(done.stderr)


if __name__ == "__main__":
    unittest.main()
