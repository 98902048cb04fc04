#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions: what comes out of them is what one long prompt would get, through forks, rewinds, disconnects, dead engines
and restarts; they are their owner's alone; what the disk does to them costs nobody else anything."""

import errno
import json
import os
import signal
import subprocess
import sys
import unittest

from harness import *
from harness import pb

MODEL = ROOT / "share/models/spark-tiny.gguf"
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True, "logprobs": 2}
DRAWN = {"temperature": 0.9, "seed": 7, "max_tokens": 24, "ignore_eos": True, "logprobs": 2, "top_k": 0}
LONG = "There was a big tree in the garden, and a cat sat below it. "


def collect(client, id, ids=(), text=b"", logprobs=()):
    """(tokens, text, logprobs, terminal frame), behind what was received before."""
    ids, logprobs = list(ids), list(logprobs)
    while True:
        frame = client.receive_of(id)
        kind = frame.WhichOneof("body")
        if kind in ("done", "error"):
            return ids, text, logprobs, frame
        if kind == "token":
            assert frame.token.index == len(ids), frame
            ids += frame.token.ids
            text += frame.token.text
            logprobs += frame.token.logprobs
            client.credit(id, len(frame.token.ids))


def begin(client, prompt=b"", sampling=None, session="", tokens=()):
    return client.request(generate=pb.Generate(prompt=prompt, prompt_tokens=tokens, session=session,
                                               sampling=pb.Sampling(**(sampling or GREEDY))))


def create(client, persistent=False, name="", model=""):
    frame = client.ask(session_create=pb.SessionCreate(persistent=persistent, name=name, model=model))
    assert frame.WhichOneof("body") == "done", frame
    return frame.done.session


def listed(client):
    return {s.id: s for s in client.ask(sessions=pb.Sessions()).done.sessions.sessions}


def tokenize(client, text, **fields):
    return list(client.ask(tokenize=pb.Tokenize(text=text, **fields)).done.tokenize.ids)


def first_tokens(client, text):
    """A text's tokens as a prompt begins with them."""
    plain, full = tokenize(client, text), tokenize(client, text, add_bos_eos=True)
    return full[:full.index(plain[0])] + plain


class Base(TestCase):
    def assertSession(self, frame, tokens):
        self.assertDone(frame)
        self.assertEqual(frame.done.session.tokens, tokens)
        return frame.done.session

    def append(self, client, session, text):
        frame = client.ask(session_append=pb.SessionAppend(session=session, text=text))
        self.assertDone(frame)
        return frame.done.session

    def turn(self, client, session, prompt, sampling=None):
        """One turn, done: (tokens, text, logprobs), SessionInfo."""
        *got, end = collect(client, begin(client, prompt, sampling, session))
        self.assertDone(end)
        self.assertEqual(end.done.session.id, session)
        return got, end.done.session

    def direct(self, client, sampling=None, **prompt):
        *got, end = collect(client, begin(client, sampling=sampling, **prompt))
        self.assertDone(end)
        self.assertFalse(end.done.HasField("session"))
        return got


class Same:
    """With either backend."""

    def start(self, **settings):
        raise NotImplementedError

    def test_equals_one_generate(self):
        daemon = self.start()
        with daemon.connect() as client:
            pieces = [b"Once upon", b" a time there", b" was a"]
            plain = [tokenize(client, p) for p in pieces]
            self.assertEqual(sum(plain, []), tokenize(client, b"".join(pieces)), "pieces of another text")
            n = len(first_tokens(client, pieces[0]))
            for sampling in (GREEDY, DRAWN):
                whole = self.direct(client, sampling, prompt=b"".join(pieces))
                session = create(client).id
                self.assertEqual(self.append(client, session, pieces[0]).tokens, n)
                self.assertEqual(self.append(client, session, pieces[1]).tokens, n + len(plain[1]))
                got, info = self.turn(client, session, pieces[2], sampling)
                self.assertEqual(got, whole)
                self.assertEqual(info.tokens, n + len(plain[1]) + len(plain[2]) + 24)
                self.assertEqual(info.state, "idle")

    def test_turn_after_turn(self):
        """Each turn is what a request with all of the text would get; tokens and a memfd will do as well as text."""
        daemon = self.start()
        with daemon.connect() as client:
            tokens = first_tokens(client, b"The cat")
            session = create(client).id
            for i in range(6):
                said = b"The cat" if i == 0 else f" And then {i}".encode()
                if i > 0:
                    tokens += tokenize(client, said)
                sampling = dict(DRAWN, seed=i, max_tokens=7)
                whole = self.direct(client, sampling, tokens=tokens)
                if i == 3:
                    fd = memfd(said)
                    id = client.request([fd], generate=pb.Generate(input_fd=True, session=session,
                                                                   sampling=pb.Sampling(**sampling)))
                    os.close(fd)
                elif i == 4:
                    id = begin(client, sampling=sampling, session=session, tokens=tokenize(client, said))
                else:
                    id = begin(client, said, sampling, session)
                *got, end = collect(client, id)
                self.assertEqual(got, whole)
                tokens += got[0]
                self.assertSession(end, len(tokens))
            fd = memfd(b" the end")
            frame = client.ask([fd], session_append=pb.SessionAppend(session=session, input_fd=True))
            os.close(fd)
            tokens += tokenize(client, b" the end")
            self.assertSession(frame, len(tokens))
            self.assertEqual(self.turn(client, session, b"")[0], self.direct(client, tokens=tokens))

    def test_forks_go_their_own_ways(self):
        daemon = self.start()
        with daemon.connect() as client:
            tokens = first_tokens(client, LONG.encode())
            one = create(client, name="one").id
            self.append(client, one, LONG.encode())
            info = self.assertSession(client.ask(session_fork=pb.SessionFork(session=one)), len(tokens))
            two = info.id
            self.assertNotEqual(one, two)
            self.assertEqual(info.name, "one")
            ways = {one: [b" One day", b" He was"], two: [b" At night", b" She had"]}
            wholes = {s: list(tokens) for s in ways}
            for i in range(2):
                ids = {s: begin(client, said[i], DRAWN, s) for s, said in ways.items()}  # side by side
                for s, said in ways.items():
                    *got, end = collect(client, ids[s])
                    wholes[s] += tokenize(client, said[i])
                    self.assertEqual(got, self.direct(client, DRAWN, tokens=wholes[s]))
                    wholes[s] += got[0]
                    self.assertSession(end, len(wholes[s]))
            self.assertNotEqual(wholes[one], wholes[two])

    def test_rewind(self):
        daemon = self.start()
        with daemon.connect() as client:
            session = create(client).id
            before = self.append(client, session, b"Once upon a time").tokens
            first, info = self.turn(client, session, b" there", DRAWN)
            for cut in (before, before):
                self.assertSession(client.ask(session_rewind=pb.SessionRewind(session=session, tokens=cut)), cut)
                self.assertEqual(self.turn(client, session, b" there", DRAWN)[0], first)
            frame = client.ask(session_rewind=pb.SessionRewind(session=session, tokens=info.tokens + 1))
            self.assertError(frame, "INVALID_ARGUMENT")
            self.assertIn(str(info.tokens), frame.error.message)
            # into the middle of the answer
            cut = info.tokens - 10
            self.assertSession(client.ask(session_rewind=pb.SessionRewind(session=session, tokens=cut)), cut)
            tokens = first_tokens(client, b"Once upon a time") + tokenize(client, b" there") + first[0][:-10]
            self.assertEqual(self.turn(client, session, b"")[0], self.direct(client, tokens=tokens))

    def test_cancelled_keeps_what_was_seen(self):
        daemon = self.start(null={"step_us": 2000})
        with daemon.connect() as client:
            session = create(client).id
            id = begin(client, b"Once", dict(DRAWN, max_tokens=4000), session)
            seen = client.tokens(id, 5)
            client.cancel(id)
            ids, _, _, end = collect(client, id, ids=seen)
            self.assertError(end, "CANCELLED")
            tokens = first_tokens(client, b"Once") + ids
            self.assertEqual(listed(client)[session].tokens, len(tokens))
            self.assertEqual(self.turn(client, session, b"")[0], self.direct(client, tokens=tokens))

    def test_disconnect(self):
        daemon = self.start(null={"step_us": 2000})
        other = daemon.connect()
        with daemon.connect() as client:
            kept, lost = create(client, persistent=True).id, create(client).id
            self.turn(client, kept, b"Once upon", DRAWN)
            self.turn(client, lost, b"Once upon", DRAWN)
            id = begin(client, b" a time", dict(DRAWN, max_tokens=4000), kept)
            client.tokens(id, 3)
            self.assertEqual(set(listed(other)), {kept, lost})
            self.assertEqual(listed(other)[kept].state, "busy")
        with other:
            until(lambda: set(listed(other)) == {kept})
            info = until(lambda: listed(other)[kept].state == "idle" and listed(other)[kept])
            self.assertError(other.ask(session_append=pb.SessionAppend(session=lost, text=b"x")), "INVALID_ARGUMENT")
            self.assertGreater(info.tokens, 24 + 3)
            got, after = self.turn(other, kept, b" then", DRAWN)
            self.assertEqual(after.tokens, info.tokens + len(tokenize(other, b" then")) + len(got[0]))

    def test_engine_killed(self):
        """In the middle of a turn, and between two."""
        daemon = self.start(null={"step_us": 4000})
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            sampling = dict(DRAWN, max_tokens=120)
            whole = self.direct(client, sampling, prompt=(LONG + "Then").encode())
            session = create(client).id
            self.append(client, session, LONG.encode().rstrip())
            id = begin(client, b" Then", sampling, session)
            ids, text, logprobs = [], b"", []
            while len(ids) < 10:
                frame = client.receive_of(id)
                if frame.WhichOneof("body") == "token":
                    ids += frame.token.ids
                    text += frame.token.text
                    logprobs += frame.token.logprobs
            os.kill(engine, signal.SIGKILL)
            *got, end = collect(client, id, ids, text, logprobs)
            self.assertEqual(got, whole)
            self.assertDone(end)
            tokens = first_tokens(client, (LONG + "Then").encode()) + got[0] + tokenize(client, b" So")
            self.assertEqual(end.done.session.tokens, len(tokens) - len(tokenize(client, b" So")))
            second = daemon.wait_engine(other_than=[engine])
            os.kill(second, signal.SIGKILL)
            got, _ = self.turn(client, session, b" So", DRAWN)
            self.assertEqual(got, self.direct(client, DRAWN, tokens=tokens))

    def restart(self, how):
        daemon = self.start(null={"step_us": 2000})
        with daemon.connect() as client:
            first, info = self.turn(client, create(client, persistent=True, name="notes").id, LONG.encode(), DRAWN)
            session = info.id
            self.assertGreater(info.stored_bytes, 0)
            fork = client.ask(session_fork=pb.SessionFork(session=session, persistent=True)).done.session.id
            tokens = first_tokens(client, LONG.encode()) + first[0]
            whole = self.direct(client, DRAWN, tokens=tokens + tokenize(client, b" Then"))
            if how == signal.SIGKILL:  # a turn that has not ended was not
                client.tokens(begin(client, b" never", dict(DRAWN, max_tokens=4000), session), 1)
        daemon.signal(how)
        daemon.process.wait()
        daemon.start()
        daemon.wait_engine()
        with daemon.connect() as client:
            for id in (fork, session) if how == signal.SIGKILL else (session, fork):
                info = listed(client)[id]
                if id == fork or how != signal.SIGKILL:
                    self.assertEqual(info.tokens, len(tokens))
                self.assertEqual((info.name, info.state, info.persistent), ("notes", "stored", True))
                if info.tokens != len(tokens):  # the client that was killed had gone before the daemon did
                    client.ask(session_rewind=pb.SessionRewind(session=id, tokens=len(tokens)))
                self.assertEqual(self.turn(client, id, b" Then", DRAWN)[0], whole)
                self.assertDone(client.ask(session_close=pb.SessionClose(session=id)))
            self.assertEqual(listed(client), {})
        self.assertEqual(os.listdir(daemon.folder / "sessions" / str(os.getuid())), [])

    def test_restart(self):
        self.restart(signal.SIGTERM)

    def test_killed_daemon(self):
        self.restart(signal.SIGKILL)

    def test_stored_and_back(self):
        """A session that nobody uses leaves memory; what is left of its KV on disk helps and changes nothing."""
        daemon = self.start(limits={"session_idle_seconds": 1})
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            text = (LONG * 8).encode().rstrip()
            tokens = first_tokens(client, text)
            session = create(client, persistent=True).id
            self.append(client, session, text)
            for i in range(3):
                info = until(lambda: listed(client)[session].state == "stored" and listed(client)[session])
                self.assertEqual(info.tokens, len(tokens))
                self.assertEqual((daemon.folder / "sessions" / str(os.getuid()) / f"{session}.kv").exists(), True)
                if i == 1:
                    self.assertDone(client.ask(forget=pb.Forget()))
                if i == 2:
                    os.kill(engine, signal.SIGKILL)
                said = f" And {i}".encode()
                tokens += tokenize(client, said)
                *got, end = collect(client, begin(client, said, DRAWN, session))
                self.assertDone(end)
                self.assertGreater(end.done.usage.cached_tokens, len(tokens) // 2, f"round {i}")
                self.assertDone(client.ask(forget=pb.Forget()))
                self.assertEqual(got, self.direct(client, DRAWN, tokens=tokens))
                tokens += got[0]
                self.assertSession(end, len(tokens))
        self.assertNotIn("was not", daemon.log())


class Null(Same, Base):
    def start(self, **settings):
        return self.daemon(**settings)


@unittest.skipUnless(MODEL.exists(), "the bundled model is not there")
class Bundled(Same, Base):
    def start(self, null=None, **settings):
        return self.daemon(backend="cpu", models=[{"name": "tiny", "path": str(MODEL), "default": True}], **settings)


class Command(Base):
    """The same by hand, with sparkctl."""

    def ctl(self, daemon, *arguments, status=0, text=None):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *arguments], input=text, encoding="utf-8",
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * SLOW, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_story(self):
        daemon = self.daemon()
        session = self.ctl(daemon, "session", "create", "--name", "story").strip()
        n = int(self.ctl(daemon, "session", "append", session, "Once upon"))
        self.assertEqual(int(self.ctl(daemon, "session", "append", session, "-", text=" a time")), n + 7)
        generate = ["generate", "-t", "0", "-n", "12", "--ignore-eos", "--json"]
        whole = json.loads(self.ctl(daemon, *generate, "--raw", "Once upon a time there"))
        got = json.loads(self.ctl(daemon, *generate, "--session", session, " there"))
        self.assertEqual(got["tokens"], whole["tokens"])
        self.assertEqual(got["session"], {"id": session, "tokens": n + 7 + 6 + 12})
        fork = self.ctl(daemon, "session", "fork", session).strip()
        self.assertEqual(self.ctl(daemon, "session", "rewind", fork, str(n + 7)), f"{n + 7}\n")
        self.assertEqual(json.loads(self.ctl(daemon, *generate, "--session", fork, " there"))["tokens"], whole["tokens"])
        sessions = json.loads(self.ctl(daemon, "session", "list", "--json"))["sessions"]
        self.assertEqual({(s["id"], s["name"], s["state"]) for s in sessions},
                         {(session, "story", "idle"), (fork, "story", "idle")})
        self.ctl(daemon, "session", "close", session, fork)
        self.ctl(daemon, "session", "append", session, "x", status=64)
        self.assertEqual(json.loads(self.ctl(daemon, "session", "list", "--json")), {"sessions": []})
        text = LONG * 20
        warm = json.loads(self.ctl(daemon, "prewarm", "--json", text))
        self.assertLess(warm["cached_tokens"], 10)  # no more than BOS is what other texts begin with, too
        again = json.loads(self.ctl(daemon, "prewarm", "--json", "-", text=text))
        self.assertEqual(again["tokens"], warm["tokens"])
        self.assertGreater(again["cached_tokens"], again["tokens"] // 2)
        self.ctl(daemon, "forget")
        self.assertEqual(json.loads(self.ctl(daemon, "prewarm", "--json", text))["cached_tokens"], 0)


STRANGER = """
import os, sys
sys.path.insert(0, sys.argv[2])
from harness import pb, Client
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with Client(sys.argv[1]) as c:
    id = sys.argv[3]
    for body in (dict(generate=pb.Generate(prompt=b"x", session=id)),
                 dict(session_append=pb.SessionAppend(session=id, text=b"x")),
                 dict(session_fork=pb.SessionFork(session=id)),
                 dict(session_rewind=pb.SessionRewind(session=id)),
                 dict(session_close=pb.SessionClose(session=id))):
        print(c.ask(**body).error.message.replace(id, "ID"))
    print(len(c.ask(sessions=pb.Sessions()).done.sessions.sessions))
    frame = c.ask(forget=pb.Forget(all_users=True))
    print(pb.ErrorCode.Name(frame.error.code))
    frame = c.ask(prewarm=pb.Prewarm(text=b"x", share=True))
    print(pb.ErrorCode.Name(frame.error.code))
"""


class Rules(Base):
    """Who may, how much, and what is wrong. Null backend."""

    @unittest.skipUnless(os.getuid() == 0, "only root can be somebody else")
    def test_another_user(self):
        daemon = self.daemon()
        os.chmod(daemon.folder, 0o755)
        with daemon.connect() as client:
            session = create(client, persistent=True).id
            info = self.append(client, session, b"secret")
            for id in (session, "0" * 32):
                done = subprocess.run([sys.executable, "-c", STRANGER, daemon.socket, ROOT / "tests/integration", id],
                                      stdout=subprocess.PIPE, encoding="utf-8", check=True, timeout=60 * SLOW,
                                      env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
                lines = done.stdout.splitlines()
                self.assertEqual(lines[:5], ["session: there is no session 'ID'."] * 5)
                self.assertEqual(lines[5:], ["0", "PERMISSION_DENIED", "PERMISSION_DENIED"])
            self.assertEqual(listed(client)[session].tokens, info.tokens)

    def test_busy(self):
        daemon = self.daemon(null={"step_us": 4000})
        with daemon.connect() as client:
            session = create(client).id
            id = begin(client, b"x", dict(DRAWN, max_tokens=4000), session)
            client.tokens(id, 1)
            with daemon.connect() as second:
                for body in ({"generate": pb.Generate(prompt=b"y", session=session)},
                             {"session_append": pb.SessionAppend(session=session, text=b"y")},
                             {"session_rewind": pb.SessionRewind(session=session)}):
                    frame = second.ask(**body)
                    self.assertError(frame, "BUSY")
                    self.assertGreater(frame.error.retry_after_ms, 0)
                self.assertDone(second.ask(session_close=pb.SessionClose(session=session)))
            self.assertError(client.answer(id, topup=True, seen=1)[2], "CANCELLED")
            until(lambda: client.ask(status=pb.Status()).done.status.requests_running == 0)

    def test_limits(self):
        daemon = self.daemon(limits={"sessions_per_user": 3})
        with daemon.connect() as client:
            made = [create(client).id for _ in range(3)]
            for body in ({"session_create": pb.SessionCreate()}, {"session_fork": pb.SessionFork(session=made[0])}):
                self.assertError(client.ask(**body), "QUOTA_EXCEEDED")
            self.assertDone(client.ask(session_close=pb.SessionClose(session=made[0])))
            create(client)
            frame = client.ask(session_create=pb.SessionCreate(name="x" * 65))
            self.assertError(frame, "INVALID_ARGUMENT")
            self.assertIn("name", frame.error.message)
            self.assertError(client.ask(session_create=pb.SessionCreate(model="nobody")), "MODEL_NOT_FOUND")
        with daemon.connect() as client:
            until(lambda: listed(client) == {})

    def test_context_overflow_changes_nothing(self):
        daemon = self.daemon(models=[{"name": "small", "context": 64}])
        with daemon.connect() as client:
            session = create(client).id
            before = self.append(client, session, b"x" * 40).tokens
            frame = client.ask(generate=pb.Generate(prompt=b"y" * 40, session=session))
            self.assertError(frame, "CONTEXT_OVERFLOW")
            self.assertEqual(frame.error.have, before + 40 + 1)
            self.assertError(client.ask(session_append=pb.SessionAppend(session=session, text=b"y" * 80)),
                             "CONTEXT_OVERFLOW")
            self.assertEqual(listed(client)[session].tokens, before)
            _, info = self.turn(client, session, b"y", dict(GREEDY, max_tokens=1000))
            self.assertEqual(info.tokens, 64)

    def test_requests_of_all_kinds_in_a_heap(self):
        """Many sessions at once, on one connection, without waiting for any."""
        daemon = self.daemon(null={"step_us": 500})
        with daemon.connect() as client:
            sessions = [create(client, persistent=i % 2).id for i in range(16)]
            ids = [begin(client, f"Session {i}".encode(), dict(DRAWN, seed=i), s) for i, s in enumerate(sessions)]
            got = [collect(client, id) for id in ids]
            for i, (session, (tokens, _, _, end)) in enumerate(zip(sessions, got)):
                whole = self.direct(client, dict(DRAWN, seed=i), prompt=f"Session {i}".encode())
                self.assertEqual(tokens, whole[0])
                self.assertEqual(end.done.session.id, session)
                self.assertEqual(end.done.session.stored_bytes > 0, i % 2 == 1)

    def test_damaged_files(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            made = [create(client, persistent=True).id for _ in range(4)]
            for session in made:
                self.append(client, session, b"some text")
        self.assertEqual(daemon.stop(), 0)
        folder = daemon.folder / "sessions" / str(os.getuid())
        self.assertEqual(os.stat(folder).st_mode & 0o777, 0o700)
        paths = [folder / f"{session}.session" for session in made]
        for path in paths:
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        whole = paths[0].read_bytes()
        paths[0].write_bytes(whole[:-3])
        paths[1].write_bytes(whole[:100])
        data = bytearray(paths[2].read_bytes())
        data[260] ^= 1
        paths[2].write_bytes(data)
        (folder / "notes").write_bytes(b"mine")
        daemon.start()
        with daemon.connect() as client:
            self.assertEqual(set(listed(client)), {made[2], made[3]})
            frame = client.ask(session_append=pb.SessionAppend(session=made[2], text=b"x"))
            self.assertError(frame, "INTERNAL")
            self.assertIn("damaged", frame.error.message)
            self.assertError(client.ask(session_append=pb.SessionAppend(session=made[2], text=b"x")),
                             "INVALID_ARGUMENT")
            self.append(client, made[3], b" more")
        self.assertEqual(sorted(os.listdir(folder)),
                         sorted([f"{s}.session.damaged" for s in made[:3]] + [f"{made[3]}.session", "notes"]))
        for session in made[:3]:
            self.assertIn(f"{session}.session is damaged", daemon.log())

    def test_model_gone(self):
        daemon = self.daemon(models=[{"name": "a", "default": True}, {"name": "b"}])
        with daemon.connect() as client:
            session = create(client, persistent=True, model="b").id
            self.append(client, session, b"text")
        self.assertEqual(daemon.stop(), 0)
        daemon.configure(models=[{"name": "a"}])
        daemon.start()
        with daemon.connect() as client:
            self.assertEqual(listed(client)[session].model, "b")
            self.assertError(client.ask(generate=pb.Generate(prompt=b"x", session=session)), "MODEL_NOT_FOUND")
            self.assertDone(client.ask(session_close=pb.SessionClose(session=session)))

    @unittest.skipUnless(os.getuid() == 0, "only root can mount a small disk")
    def test_full_disk(self):
        daemon = self.daemon()
        self.assertEqual(daemon.stop(), 0)
        disk = daemon.folder / "disk"
        disk.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], stderr=subprocess.PIPE,
                               check=False)
        if mount.returncode != 0:
            self.skipTest("mounting is not possible here: " + mount.stderr.decode().strip())
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        daemon.configure(state_dir=str(disk))
        daemon.start()
        with daemon.connect() as client:
            session = create(client, persistent=True).id
            self.assertGreater(self.append(client, session, b"x").stored_bytes, 0)
            with self.assertRaises(OSError) as full, open(disk / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(b"\0" * 4096)
            self.assertEqual(full.exception.errno, errno.ENOSPC)
            for _ in range(3):
                _, info = self.turn(client, session, b"more and more " * 100)
                self.assertEqual(info.stored_bytes, 0)
            self.assertEqual(daemon.log().count("could not be written"), 1)
            self.assertServes(daemon)
            os.unlink(disk / "filler")
            until(lambda: listed(client)[session].stored_bytes > 0)
            tokens = listed(client)[session].tokens
        self.assertEqual(daemon.stop(), 0)
        daemon.start()
        with daemon.connect() as client:
            self.assertEqual(listed(client)[session].tokens, tokens)
        self.assertEqual(daemon.stop(), 0)  # before the disk goes

    def test_no_state_dir(self):
        """Where nothing can be kept, sessions live in memory."""
        daemon = self.daemon(state_dir="/nowhere/at/all")
        with daemon.connect() as client:
            session = create(client, persistent=True)
            self.assertEqual(session.stored_bytes, 0)
            _, info = self.turn(client, session.id, b"x")
            self.assertEqual(info.stored_bytes, 0)
            self.assertGreater(info.tokens, 1)
            self.assertDone(client.ask(session_close=pb.SessionClose(session=session.id)))

    def test_prewarm_and_forget(self):
        daemon = self.daemon()
        text = (LONG * 20).encode()
        with daemon.connect() as client:
            frame = client.ask(prewarm=pb.Prewarm(text=text))
            self.assertDone(frame)
            self.assertEqual(frame.done.prewarm.tokens, len(first_tokens(client, text)))
            self.assertEqual(frame.done.prewarm.cached_tokens, 0)
            again = client.ask(prewarm=pb.Prewarm(text=text)).done.prewarm
            self.assertGreater(again.cached_tokens, again.tokens // 2)
            fd = memfd(text)
            self.assertGreater(client.ask([fd], prewarm=pb.Prewarm(input_fd=True)).done.prewarm.cached_tokens, 0)
            os.close(fd)
            self.assertDone(client.ask(forget=pb.Forget()))
            self.assertEqual(client.ask(prewarm=pb.Prewarm(text=text)).done.prewarm.cached_tokens, 0)
            self.assertError(client.ask(prewarm=pb.Prewarm(text=b"\xff")), "INVALID_UTF8")
            self.assertError(client.ask(prewarm=pb.Prewarm(model="nobody", text=b"x")), "MODEL_NOT_FOUND")


if __name__ == "__main__":
    unittest.main()
