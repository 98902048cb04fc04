# SPDX-License-Identifier: Apache-2.0
"""Models that are directories: loaded, planned, refused."""

import json
import shutil
import tempfile
import unittest
from pathlib import Path

from harness import *
from harness import pb

MODELS = Path(__file__).resolve().parent.parent / "reference" / "hf-models"


class Directory(TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, True)

    def start(self):
        daemon = self.daemon(backend="cpu", threads=1,
                             models=[{"name": "tiny", "path": str(MODELS / "llama"), "default": True}])
        daemon.wait_engine()
        return daemon

    def copy(self, name="llama"):
        return Path(shutil.copytree(MODELS / name, self.folder / name))

    def test_configured_and_by_path(self):
        daemon = self.start()
        with daemon.connect() as client:
            _, text, end = client.answer(client.generate(b"The quick", sampling=pb.Sampling(temperature=0, max_tokens=8)))
            self.assertDone(end)
            status = client.ask(status=pb.Status()).done.status
            self.assertEqual(status.models[0].architecture, "llama")
            self.assertDone(client.ask(load=pb.Load(path=str(MODELS / "qwen3-moe"))))

    def test_refused(self):
        daemon = self.start()
        config = json.loads((MODELS / "llama" / "config.json").read_text())
        gptq = self.copy()
        (gptq / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
        empty = self.folder / "empty"
        empty.mkdir()
        lost = Path(shutil.copytree(MODELS / "llama", self.folder / "lost"))
        sorted(lost.glob("model-*.safetensors"))[-1].unlink()
        odd = Path(shutil.copytree(MODELS / "llama", self.folder / "odd"))
        (odd / "tokenizer_config.json").mkdir()
        cases = ((gptq, "'quantization_config.quant_method' is 'gptq'"), (empty, "without files of a model"),
                 (lost, "files model-*-of-"), (odd, "no regular file"))
        with daemon.connect() as client:
            for path, says in cases:
                end = client.ask(load=pb.Load(path=str(path)))
                self.assertEqual(end.WhichOneof("body"), "error", path)
                self.assertIn(says, end.error.message)
            _, _, end = client.answer(client.generate(b"still there", sampling=pb.Sampling(temperature=0, max_tokens=2)))
            self.assertDone(end)


if __name__ == "__main__":
    unittest.main()
