# SPDX-License-Identifier: Apache-2.0
"""Prompts and answers are in no log, whatever its level, in no name of a file or process, whatever goes wrong with them."""

import os
import pathlib
import signal
import unittest

from bus_harness import *
from harness import *
from harness import pb

MARK = "Xylophonkatze"
TINY = ROOT / "share/models/spark-tiny.gguf"
JSON = f'{{"{MARK}": '  # cut off


def requests():
    """Whatever takes a text: as it should be, and so that its refusal is about the text."""
    text, bad = f"{MARK} tells".encode(), MARK.encode() + b"\xff\xfe"
    message = pb.ChatMessage(role="user", content=MARK)
    sampling = pb.Sampling(max_tokens=4)
    yield {"generate": pb.Generate(prompt=text, sampling=sampling)}
    yield {"generate": pb.Generate(prompt=bad, sampling=sampling)}
    yield {"generate": pb.Generate(prompt=text * 3000, sampling=sampling)}
    yield {"generate": pb.Generate(prompt=text, sampling=pb.Sampling(max_tokens=4, stop=[MARK] * 40))}
    yield {"generate": pb.Generate(prompt=text, sampling=pb.Sampling(max_tokens=4, stop=[MARK * 1000]))}
    yield {"generate": pb.Generate(prompt=text, sampling=sampling, model=MARK)}
    yield {"generate": pb.Generate(prompt=text, sampling=sampling, session=MARK)}
    yield {"chat": pb.Chat(messages=[message], sampling=sampling)}
    yield {"chat": pb.Chat(messages=[pb.ChatMessage(role=MARK, content=MARK)], sampling=sampling)}
    yield {"chat": pb.Chat(messages=[message], tools_json=JSON, sampling=sampling)}
    yield {"chat": pb.Chat(messages=[message], template_args_json=JSON, sampling=sampling)}
    yield {"chat": pb.Chat(messages_json=f'[{{"role": "user", "content": {{"{MARK}": 1}}}}]', sampling=sampling)}
    yield {"chat": pb.Chat(messages_json=JSON, sampling=sampling)}
    yield {"tokenize": pb.Tokenize(text=text)}
    yield {"tokenize": pb.Tokenize(text=bad)}
    yield {"score": pb.Score(text=text * 20)}
    yield {"score": pb.Score(text=bad)}
    yield {"prewarm": pb.Prewarm(text=text)}
    yield {"prewarm": pb.Prewarm(messages=[message], tools_json=JSON)}
    yield {"session_create": pb.SessionCreate(name=MARK, persistent=True)}
    yield {"session_create": pb.SessionCreate(name=MARK * 20)}
    yield {"session_append": pb.SessionAppend(session=MARK, text=text)}


class Secrets(BusTestCase):
    def assertKept(self, daemon):
        log = daemon.log()
        self.assertIn("process", log)  # level "debug"
        self.assertNotIn(MARK, log)
        self.assertFalse([path for path in daemon.folder.rglob("*") if MARK in path.name])
        for pid in [daemon.pid, *daemon.children()]:
            for name in "cmdline", "environ", "comm":
                self.assertNotIn(MARK.encode(), pathlib.Path(f"/proc/{pid}/{name}").read_bytes())

    def test_nowhere(self):
        daemon = self.serve(backend="cpu", threads=1, models=[{"name": "tiny", "path": str(TINY), "default": True}])
        daemon.wait_engine()
        ends = []
        with daemon.connect() as client:
            for body in requests():
                ends.append(client.ask(**body))
            session = next(end.done.session.id for end in ends if end.done.session.id)
            ends.append(client.ask(session_append=pb.SessionAppend(session=session, text=f"{MARK} sings".encode())))
            ends.append(client.ask(session_append=pb.SessionAppend(session=session, text=MARK.encode() + b"\xff")))
        self.assertGreater(sum(end.WhichOneof("body") == "done" for end in ends), 6)
        self.assertGreater(sum(end.WhichOneof("body") == "error" for end in ends), 12)
        bus = self.connect()
        self.complete(bus, MARK, max_tokens=u32(3))
        for options in {"stop": text(MARK)}, {MARK: u32(1)}, {"model": text(MARK)}, {"priority": text(MARK)}:
            with self.assertRaises(dbus.DBusException):
                self.complete(bus, MARK, **options)
        fd = self.generate(bus, f"{MARK} " * 2000, raw=dbus.Boolean(True, variant_level=1))  # ends early
        self.assertEqual(os.read(fd, 1), b"")
        self.assertKept(daemon)

    def test_over_losses(self):
        """What is replayed, and what is given up."""
        crash = signal.SIGSEGV if SLOW <= 1 else signal.SIGABRT  # the other one is a sanitizer's to report
        for losses, number in (3, signal.SIGKILL), (1, crash):
            daemon = self.daemon(null={"step_us": 3000}, limits={"engine_losses": losses})
            engine = daemon.wait_engine()
            with daemon.connect() as client:
                id = client.generate(f"{MARK} waits".encode(), n=100, credit=50)  # so it has not ended by then
                seen = client.tokens(id, 3)
                os.kill(engine, number)
                client.credit(id, 50)
                _, _, end = client.answer(id, seen=len(seen))
            self.assertEqual(end.WhichOneof("body"), "done" if losses > 1 else "error", end)
            self.assertKept(daemon)


if __name__ == "__main__":
    unittest.main()
