# SPDX-License-Identifier: Apache-2.0
"""What nobody should send: each gets a clear error, and nothing else happens. Null backend."""

import contextlib
import os
import random
import struct
import tempfile
import time
import unittest

from harness import *
from harness import pb


def framed(data):
    return struct.pack("<I", len(data)) + data


def frame_of(**body):
    return framed(pb.ClientFrame(**body).SerializeToString())


HELLO = frame_of(hello=pb.Hello(protocol_version=1))
GENERATE = pb.Generate(prompt=b"x", sampling=pb.Sampling(max_tokens=3))


class BadInput(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = Daemon(limits={"hello_seconds": 2})
        cls.shared.wait_engine()
        time.sleep(0.1)
        cls.baseline = cls.shared.fd_count()

    @classmethod
    def tearDownClass(cls):
        status, log = cls.shared.stop(), cls.shared.log()
        cls.shared.remove()
        assert status == 0 and "Sanitizer" not in log and "leaves a charge" not in log, log

    def setUp(self):
        self.bystander = self.shared.connect()
        self.addCleanup(self.bystander.close)

    def tearDown(self):
        """Nothing else was disturbed, nothing is left behind."""
        ids, _, end = self.bystander.answer(self.bystander.generate(n=4))
        self.assertDone(end)
        self.assertEqual(len(ids), 4)
        self.bystander.close()
        self.wait_fds(self.shared, self.baseline)

    def fatal(self, data, code, hello=True, fds=()):
        """Bytes after which the daemon says why and closes."""
        with self.shared.connect(hello=hello) as client:
            client.send_raw(data, fds)
            frames = client.expect_closed()
            self.assertEqual(len(frames), 1, frames)
            self.assertEqual(frames[0].id, 0)
            self.assertError(frames[0], code)
            return frames[0].error.message

    def refused(self, code, fds=(), **body):
        """A request that is refused while the connection goes on."""
        with self.shared.connect() as client:
            end = client.ask(fds, **body)
            self.assertError(end, code)
            self.assertDone(client.answer(client.generate(n=2))[2])
            return end.error

    def test_first_frame_is_no_hello(self):
        self.fatal(frame_of(id=1, generate=GENERATE), "INVALID_ARGUMENT", hello=False)
        self.fatal(frame_of(id=1), "INVALID_ARGUMENT", hello=False)

    def test_second_hello(self):
        self.fatal(HELLO, "INVALID_ARGUMENT")

    def test_other_version(self):
        for version in (0, 2, 0xffffffff):
            self.fatal(frame_of(hello=pb.Hello(protocol_version=version)), "UNIMPLEMENTED", hello=False)

    def test_long_software_name(self):
        self.fatal(frame_of(hello=pb.Hello(protocol_version=1, software="x" * 129)), "INVALID_ARGUMENT", hello=False)

    def test_no_hello_in_time(self):
        with self.shared.connect(hello=False) as client:
            frames = client.expect_closed()
            self.assertError(frames[0], "INVALID_ARGUMENT")

    def test_length_zero(self):
        self.fatal(struct.pack("<I", 0), "INVALID_ARGUMENT")
        self.fatal(struct.pack("<I", 0), "INVALID_ARGUMENT", hello=False)

    def test_oversize(self):
        for size in (FRAME_MAX + 1, 1 << 31, 0xffffffff):
            self.fatal(struct.pack("<I", size) + b"x" * 100, "INVALID_ARGUMENT")

    def test_garbage(self):
        for data in (b"\xff" * 50, b"\x00" * 50, os.urandom(64) + b"\xff" * 11, b"\x0a", b"\x0a\x7f", b"\x0b\x0c",
                     b"\x08" + b"\xff" * 11):
            with self.shared.connect() as client:
                client.send_raw(framed(data))
                frames = client.expect_closed()
                self.assertError(frames[0], "INVALID_ARGUMENT")
                self.assertEqual(frames[0].id, 0)

    def test_half_frames_are_no_fault(self):
        with self.shared.connect(hello=False) as client:
            data = HELLO + frame_of(id=1, generate=GENERATE)
            for i in range(len(data)):
                client.send_raw(data[i:i + 1])
            self.assertEqual(client.receive().WhichOneof("body"), "hello")
            self.assertDone(client.answer(1)[2])

    def test_half_a_frame_and_gone(self):
        data = frame_of(id=1, generate=pb.Generate(prompt=b"x" * 1000))
        for cut in (1, 3, 4, 5, len(data) - 1):
            with self.shared.connect() as client:
                client.send_raw(data[:cut])

    def test_unknown_message(self):
        with self.shared.connect() as client:
            client.send(pb.ClientFrame(id=9))
            self.assertError(client.answer(9)[2], "UNIMPLEMENTED")
            client.send_raw(framed(b"\x08\x0a" + varint(500 << 3 | 2) + b"\x03abc"))  # field 500
            self.assertError(client.answer(10)[2], "UNIMPLEMENTED")
            self.assertDone(client.answer(client.generate(n=2))[2])
        self.fatal(framed(varint(500 << 3 | 2) + b"\x03abc"), "INVALID_ARGUMENT")  # nobody's id

    def test_id_zero(self):
        self.fatal(frame_of(id=0, generate=GENERATE), "INVALID_ARGUMENT")
        self.fatal(frame_of(id=0, status=pb.Status()), "INVALID_ARGUMENT")

    def test_duplicate_id(self):
        with self.shared.connect() as client:
            client.request(id=5, generate=pb.Generate(prompt=b"x", credit=1, sampling=pb.Sampling(max_tokens=9)))
            client.receive_of(5)
            client.request(id=5, generate=GENERATE)
            frames = client.expect_closed()
            self.assertError(frames[-1], "INVALID_ARGUMENT")
            self.assertEqual(frames[-1].id, 0)

    def test_largest_id(self):
        with self.shared.connect() as client:
            client.request(id=2**64 - 1, generate=GENERATE)
            self.assertDone(client.answer(2**64 - 1)[2])

    def test_unexpected_descriptors(self):
        fd = memfd(b"abc")
        self.addCleanup(os.close, fd)
        with self.shared.connect() as client:
            client.send(pb.ClientFrame(id=1, generate=GENERATE), fds=[fd, fd])
            frames = client.expect_closed()
            self.assertEqual(frames[-1].id, 0)
            self.assertError(frames[-1], "INVALID_ARGUMENT")

    def test_many_descriptors(self):
        fd = memfd(b"abc")
        self.addCleanup(os.close, fd)
        with self.shared.connect() as client:
            client.send_raw(b"\x10", fds=[fd] * 250)
            frames = client.expect_closed()
            self.assertError(frames[-1], "INVALID_ARGUMENT")

    def test_missing_descriptor(self):
        for body in ({"generate": pb.Generate(input_fd=True)}, {"tokenize": pb.Tokenize(input_fd=True)},
                     {"score": pb.Score(input_fd=True)}, {"load": pb.Load(input_fd=True)}):
            self.assertIn("input_fd", self.refused("INVALID_ARGUMENT", **body).message)

    def test_descriptor_that_is_no_sealed_memfd(self):
        open_memfd, (end, other) = memfd(b"abc", sealed=False), os.pipe()
        with tempfile.TemporaryFile() as file:
            file.write(b"abc")
            file.flush()
            for fd in (open_memfd, end, file.fileno()):
                error = self.refused("INVALID_ARGUMENT", fds=[fd], tokenize=pb.Tokenize(input_fd=True))
                self.assertIn("input_fd", error.message)
        for fd in (open_memfd, end, other):
            os.close(fd)

    def test_invalid_utf8(self):
        name = b"ab\xff"
        body = b"\x0a" + varint(len(name)) + name
        with self.shared.connect() as client:
            client.send_raw(framed(b"\x08\x07\x1a" + varint(len(body)) + body))  # generate.model
            end = client.answer(7)[2]
            self.assertError(end, "INVALID_UTF8")
            self.assertIn("generate.model", end.error.message)
            self.assertIn("2", end.error.message)
            self.assertDone(client.answer(client.generate(n=2))[2])
        self.assertIn("prompt", self.refused("INVALID_UTF8", generate=pb.Generate(prompt=b"abc\xff")).message)
        self.refused("INVALID_UTF8", tokenize=pb.Tokenize(text=b"\xc0\x80"))

    def test_nul(self):
        body = b"\x0a\x02a\x00"
        with self.shared.connect() as client:
            client.send_raw(framed(b"\x08\x07\x1a" + varint(len(body)) + body))
            self.assertError(client.answer(7)[2], "INVALID_ARGUMENT")
            # in a prompt it is a character like any other
            self.assertDone(client.ask(tokenize=pb.Tokenize(text=b"a\x00b")))

    def test_numbers(self):
        nan, inf = float("nan"), float("inf")
        for sampling in (dict(temperature=nan), dict(temperature=-1), dict(temperature=inf), dict(temperature=1e30),
                         dict(top_p=nan), dict(top_p=0), dict(top_p=-0.5), dict(top_p=1.5), dict(min_p=nan),
                         dict(min_p=-1), dict(min_p=2), dict(repetition_penalty=0), dict(repetition_penalty=nan),
                         dict(repetition_penalty=-inf), dict(presence_penalty=nan), dict(presence_penalty=1e9),
                         dict(frequency_penalty=inf), dict(penalty_window=4097), dict(logprobs=22),
                         dict(stop=[""]), dict(stop=["x" * 257]), dict(stop=["x"] * 17),
                         dict(logit_bias=[pb.LogitBias(token=1, bias=nan)]),
                         dict(logit_bias=[pb.LogitBias(token=1, bias=inf)]),
                         dict(logit_bias=[pb.LogitBias(token=1, bias=1)] * 1025)):
            with self.subTest(**sampling):
                self.refused("INVALID_ARGUMENT", generate=pb.Generate(prompt=b"x", sampling=pb.Sampling(**sampling)))

    def test_too_long_for_the_context(self):
        with self.shared.connect() as client:
            model, = client.ask(models=pb.Models()).done.models.models
        tokens = [1] * (model.context + 1)
        error = self.refused("CONTEXT_OVERFLOW", generate=pb.Generate(prompt_tokens=tokens))
        self.assertEqual(error.max, model.context)
        self.assertGreaterEqual(error.have, model.context + 1)

    def test_huge_prompt_of_one_letter(self):
        self.refused("CONTEXT_OVERFLOW", generate=pb.Generate(prompt=b"a" * (FRAME_MAX - 64)))

    def test_prompt_tokens_out_of_range(self):
        self.refused("INVALID_ARGUMENT", generate=pb.Generate(prompt_tokens=[0xffffffff]))
        self.refused("INVALID_ARGUMENT", detokenize=pb.Detokenize(tokens=[0xffffffff]))

    def test_two_prompts(self):
        self.refused("INVALID_ARGUMENT", generate=pb.Generate(prompt=b"x", prompt_tokens=[1]))

    def test_unknown_model(self):
        for name in ("other", "../etc", "x" * 10000, "%s%n"):
            self.refused("MODEL_NOT_FOUND", generate=pb.Generate(model=name, prompt=b"x"))

    def test_errors_that_cut_a_text(self):
        """An error that quotes the beginning of something ends with a whole character, or it would be no message."""
        for name in ("a" + "\u00e4" * 100, "\u00e4" * 100, "ab" + "\U0001f600" * 50):
            self.refused("MODEL_NOT_FOUND", generate=pb.Generate(model=name, prompt=b"x"))
            self.refused("INVALID_ARGUMENT", reserve_memory=pb.ReserveMemory(bytes=1, policy=name))

    def test_chat_without_messages(self):
        self.refused("MODEL_INVALID", chat=pb.Chat())  # the null backend has no template at all

    def test_flood_of_bad_requests(self):
        with self.shared.connect() as client:
            for _ in range(20):
                client.send_raw(b"".join(frame_of(id=i + 1, generate=pb.Generate(model="no")) for i in range(200)))
                for i in range(200):
                    self.assertError(client.receive_of(i + 1), "MODEL_NOT_FOUND")

    def test_mutated_frames(self):
        """Frames that are nearly right, many of them, always the same ones."""
        random_ = random.Random(2)
        frames = [pb.ClientFrame(id=i + 1, **body).SerializeToString() for i, body in enumerate((
            dict(generate=pb.Generate(prompt=b"abc", sampling=pb.Sampling(
                max_tokens=5, stop=["x"], logit_bias=[pb.LogitBias(token=1, bias=2)]))),
            dict(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
            dict(tokenize=pb.Tokenize(text=b"abc")), dict(detokenize=pb.Detokenize(tokens=[1, 2, 3])),
            dict(score=pb.Score(text=b"abc def")), dict(load=pb.Load(path="/etc/passwd")), dict(models=pb.Models()),
            dict(status=pb.Status()), dict(credit=pb.Credit(tokens=4)), dict(cancel=pb.Cancel())))]
        for _ in range(300):
            with self.shared.connect() as client, contextlib.suppress(OSError):
                for _ in range(10):
                    data = bytearray(random_.choice(frames))
                    for _ in range(random_.randint(1, 3)):
                        data[random_.randrange(len(data))] = random_.randrange(256)
                    client.send_raw(framed(data))

    def test_load_and_unload_of_unknown_models(self):
        self.refused("MODEL_NOT_FOUND", unload=pb.Unload(model="other"))
        self.refused("MODEL_NOT_FOUND", load=pb.Load(model="other"))


class Template(TestCase):
    """A model whose template refuses with what it was given, as many do."""

    TEMPLATE = (b"{%- for m in messages %}{%- if m['role'] != 'user' %}{{- raise_exception('There is no role ' + m['role']) }}"
                b"{%- endif %}{{- m['content'] }}{%- endfor %}")

    def test_refusal_that_is_cut(self):
        """An error with a user's text in it is nothing that the engine falls over: nobody else notices it."""
        data = (ROOT / "share/models/spark-tiny.gguf").read_bytes()
        key = b"tokenizer.chat_template" + struct.pack("<I", 8)  # GGUF's type for a string
        at = data.index(key) + len(key) + 8
        size = struct.unpack("<Q", data[at - 8:at])[0]
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(data[:at] + self.TEMPLATE.ljust(size) + data[at + size:])
            file.flush()
            daemon = self.daemon(backend="cpu", models=[{"name": "m", "path": file.name, "default": True}])
            engine = daemon.wait_engine()
            with daemon.connect() as client:
                for role in ("x" * 600, "\u00e4" * 300, "a" + "\u00e4" * 300, "\U0001f600" * 150, "ab" + "\U0001f600" * 150):
                    end = client.ask(chat=pb.Chat(messages=[pb.ChatMessage(role=role, content="x")]))
                    self.assertError(end, "INVALID_ARGUMENT")
                    self.assertIn("There is no role " + role[:20], end.error.message)
            self.assertEqual(daemon.wait_engine(), engine)
            self.assertServes(daemon)


if __name__ == "__main__":
    unittest.main()
