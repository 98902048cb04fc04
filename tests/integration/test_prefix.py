#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The prefix cache through the daemon, with a model that computes: a long system prompt is read once per user, for
everybody where it was declared public, and nobody learns from it what others asked. Answers are the same either way."""

import os
import signal
import unittest

from harness import *
from harness import pb

ALICE, BOB, CAROL = 60001, 60002, 60003  # uids that nobody has
PAGE = 32
TEXT = "You are a friend who tells short stories about cats, dogs, rivers and trees, and who never says no. "
QUESTIONS = ["Tell me about the river, and about the old tree that stands beside it and sees all that comes and goes. " * 2,
             "What did the dog do when the cat ran away over the stones and did not come back until it was dark? " * 2,
             "Why?"]
needs_root = unittest.skipIf(os.geteuid() != 0, "clients of other users need root")


class PrefixTest(TestCase):
    n_system = 400  # tokens of the system prompt

    def setUp(self):
        self.instance = Daemon(start=False)
        self.addCleanup(self._end, self.instance)
        model = long_model(self.instance.folder / "long.gguf", 4096)
        self.instance.configure(backend="cpu", memory={"kv": "96M"},
                                models=[{"name": "long", "path": model, "default": True}])
        self.instance.start()
        self.engine = self.instance.wait_engine()
        self.root = self.connect()
        self.system = self.tokenize(TEXT * 150, add_bos_eos=True)[:self.n_system]
        self.assertEqual(len(self.system), self.n_system)
        self.whole = self.n_system // PAGE * PAGE  # of these, tokens in whole pages
        self.questions = [self.tokenize(question) for question in QUESTIONS]

    def connect(self, uid=None):
        client = self.instance.connect(uid)
        self.addCleanup(client.close)
        return client

    def tokenize(self, text, **fields):
        return list(self.root.ask(tokenize=pb.Tokenize(text=text.encode(), **fields)).done.tokenize.ids)

    def begin(self, client, tokens, seed=1):
        sampling = pb.Sampling(max_tokens=12, seed=seed, temperature=0.9, top_k=0, ignore_eos=True, logprobs=2)
        return client.request(generate=pb.Generate(prompt_tokens=tokens, sampling=sampling))

    def collect(self, client, id):
        """What was answered, bits of probabilities included; how many of the prompt's tokens were cached."""
        ids, logprobs, top = [], [], []
        while True:
            frame = client.receive_of(id)
            if frame.WhichOneof("body") == "token":
                ids += frame.token.ids
                logprobs += frame.token.logprobs
                top += frame.token.top_ids
            elif frame.WhichOneof("body") != "progress":
                self.assertDone(frame)
                self.assertEqual(frame.done.usage.completion_tokens, 12)
                return (ids, logprobs, top), frame.done.usage.cached_tokens

    def ask(self, client, question, seed=1):
        """The system prompt and a question."""
        return self.collect(client, self.begin(client, self.system + self.questions[question], seed))

    def known(self, question):
        """How many tokens of a prompt are cached when it comes again: pages are whole, what was generated included, but
        for the last token, and a prompt's last token is always computed."""
        n = len(self.system + self.questions[question])
        return min(n - 1, (n + 11) // PAGE * PAGE)

    def forget(self, client, **fields):
        self.assertDone(client.ask(forget=pb.Forget(**fields)))

    def kv(self):
        model, = self.root.ask(models=pb.Models()).done.models.models
        return model.kv_used_bytes, model.kv_cached_bytes

    def cached(self, timeout):
        """What is cached when nothing runs any more. What an engine tells once a second may be of the time when something did."""
        def figures():
            used, cached = self.kv()
            return cached if used == 0 else None
        return until(figures, timeout, "what is cached in status")


class LongPrompt(PrefixTest):
    n_system = 2000 if SLOW <= 1 else 500  # a sanitizer's kernels are very slow

    def test_second_request(self):
        answer, cached = self.ask(self.root, 0)
        self.assertEqual(cached, 0)
        other, cached = self.ask(self.root, 1)
        self.assertGreaterEqual(cached, self.whole)
        again = self.connect()  # another connection is the same user
        self.assertEqual(self.ask(again, 0), (answer, self.known(0)))
        self.forget(self.root)
        self.assertEqual(self.ask(again, 1), (other, 0))  # the same without a cache

    @needs_root
    def test_other_user(self):
        alice, bob = self.connect(ALICE), self.connect(BOB)
        answer, cached = self.ask(alice, 0)
        self.assertEqual(cached, 0)
        self.assertGreaterEqual(self.ask(alice, 1)[1], self.whole)
        self.assertEqual(self.ask(bob, 0), (answer, 0))
        self.assertDone(self.root.ask(prewarm=pb.Prewarm(tokens=self.system, share=True)))
        self.assertGreaterEqual(self.ask(self.connect(CAROL), 0)[1], self.whole)


class OneUser(PrefixTest):
    def test_every_question(self):
        for question in range(3):
            answer, cached = self.ask(self.root, question)
            self.assertEqual(cached, 0)
            self.assertEqual(self.ask(self.root, question), (answer, self.known(question)))
            # Another one finds all up to where the two part, within a page.
            self.assertEqual(self.ask(self.root, (question + 1) % 2)[1],
                             self.whole if question == 2 else self.n_system)
            self.forget(self.root)

    def test_beginning_of_a_page(self):
        """What two prompts share ends in the middle of a page."""
        for shared in (200, 224, 223, 31, 1)[::1 if SLOW <= 1 else 3]:
            self.forget(self.root)
            one = self.system[:300]
            other = self.system[:shared] + [t + 1 for t in self.system[shared:300]]
            fresh, cached = self.collect(self.root, self.begin(self.root, other))
            self.assertEqual(cached, 0)
            self.forget(self.root)
            self.assertEqual(self.collect(self.root, self.begin(self.root, one))[1], 0)
            self.assertEqual(self.collect(self.root, self.begin(self.root, other)), (fresh, shared))

    def test_answers_are_cached_too(self):
        """A conversation goes on where it stood: what was generated need not be read again."""
        (ids, _, _), _ = self.ask(self.root, 2)
        prompt = self.system + self.questions[2] + ids + self.questions[0]
        answer, cached = self.collect(self.root, self.begin(self.root, prompt))
        known = len(self.system + self.questions[2] + ids) - 1  # the last token that was generated was never read
        self.assertEqual(cached, known // PAGE * PAGE)
        self.forget(self.root)
        self.assertEqual(self.collect(self.root, self.begin(self.root, prompt)), (answer, 0))

    def test_concurrent(self):
        """Many ask the same at once: each gets the same, and there is one copy of it in the end."""
        alone, _ = self.ask(self.root, 0)
        left = self.cached(30)
        self.forget(self.root)
        until(lambda: self.kv() == (0, 0), 30, "an empty cache")
        clients = [self.connect() for _ in range(8 if SLOW <= 1 else 3)]
        ids = [self.begin(client, self.system + self.questions[0]) for client in clients]
        answers = [self.collect(client, id) for client, id in zip(clients, ids)]
        self.assertEqual([answer for answer, _ in answers], [alone] * len(clients))
        until(lambda: self.kv() == (0, left), 30, "one copy in the cache")
        self.assertEqual(self.ask(self.root, 0), (alone, self.known(0)))

    def test_engine_lost(self):
        alone, _ = self.ask(self.root, 0)
        os.kill(self.engine, signal.SIGKILL)
        self.instance.wait_engine(other_than=[self.engine])
        self.assertEqual(self.ask(self.root, 0), (alone, 0))
        self.assertGreater(self.ask(self.root, 0)[1], self.whole)

    def test_chat(self):
        messages = [pb.ChatMessage(role="system", content=TEXT * 20)]
        end = self.root.ask(prewarm=pb.Prewarm(messages=messages))
        self.assertDone(end)
        tokens = end.done.prewarm.tokens
        self.assertGreater(tokens, 300)
        self.assertEqual(end.done.prewarm.cached_tokens, 0)
        messages.append(pb.ChatMessage(role="user", content="What is your name?"))
        chat = pb.Chat(messages=messages, sampling=pb.Sampling(max_tokens=12, temperature=0))
        ids, _, end = self.root.answer(self.root.request(chat=chat))
        self.assertDone(end)
        self.assertGreaterEqual(end.done.usage.cached_tokens, tokens // PAGE * PAGE)
        self.forget(self.root)
        again, _, end = self.root.answer(self.root.request(chat=chat))
        self.assertEqual((again, end.done.usage.cached_tokens), (ids, 0))

    def test_figures(self):
        """Status tells what an engine holds although nothing runs any more, and soon: not as of when it last had to do."""
        self.assertEqual(self.kv(), (0, 0))
        self.ask(self.root, 0)
        self.cached(5)
        self.forget(self.root)
        until(lambda: self.kv() == (0, 0), 5, "what was forgotten in status")


@needs_root
class Users(PrefixTest):
    def setUp(self):
        super().setUp()
        self.alice, self.bob, self.carol = (self.connect(uid) for uid in (ALICE, BOB, CAROL))

    def test_private(self):
        """What one user's requests computed speeds up that user's alone."""
        alone, cached = self.ask(self.alice, 0)
        self.assertEqual(cached, 0)
        for client in (self.bob, self.carol, self.root):
            self.assertEqual(self.ask(client, 0), (alone, 0))
        self.assertEqual(self.ask(self.alice, 0)[0], alone)
        for client in (self.alice, self.bob, self.carol, self.root):
            self.assertGreaterEqual(self.ask(client, 1)[1], self.whole)

    def test_forget(self):
        """Each may drop what is its own; everybody's, root alone."""
        for client in (self.alice, self.bob):
            self.ask(client, 0)
        self.forget(self.alice)
        self.assertEqual(self.ask(self.alice, 0)[1], 0)
        self.assertGreater(self.ask(self.bob, 0)[1], self.whole)
        self.assertError(self.bob.ask(forget=pb.Forget(all_users=True)), "PERMISSION_DENIED")
        self.assertGreater(self.ask(self.alice, 0)[1], self.whole)
        self.forget(self.root, all_users=True)
        for client in (self.alice, self.bob):
            self.assertEqual(self.ask(client, 0)[1], 0)

    def prewarm(self, client, share, tokens=None):
        return client.ask(prewarm=pb.Prewarm(tokens=tokens or self.system, share=share))

    def test_shared(self):
        alone, cached = self.ask(self.carol, 0)
        self.assertEqual(cached, 0)
        self.assertError(self.prewarm(self.alice, True), "PERMISSION_DENIED")
        self.assertEqual(self.ask(self.alice, 2)[1], 0)
        end = self.prewarm(self.root, True)
        self.assertDone(end)
        self.assertEqual((end.done.prewarm.tokens, end.done.prewarm.cached_tokens), (self.n_system, 0))
        self.assertEqual(self.ask(self.bob, 0), (alone, self.whole))
        # What comes behind the public part is its user's again.
        self.assertEqual(self.ask(self.bob, 0), (alone, self.known(0)))
        self.assertEqual(self.ask(self.root, 0), (alone, self.whole))
        for client in (self.alice, self.carol):  # who had it already has no less
            self.assertGreaterEqual(self.ask(client, 0)[1], self.whole)
        # It stays when its reader, or the one who declared it, forgets.
        for client in (self.bob, self.root):
            self.forget(client)
            self.assertEqual(self.ask(client, 0), (alone, self.whole))
        self.forget(self.root, all_users=True)
        self.assertEqual(self.ask(self.bob, 0), (alone, 0))

    def test_not_shared(self):
        """Prewarming without `share` is for oneself."""
        end = self.prewarm(self.alice, False)
        self.assertDone(end)
        self.assertEqual(end.done.prewarm.cached_tokens, 0)
        end = self.prewarm(self.alice, False)
        self.assertEqual((end.done.prewarm.tokens, end.done.prewarm.cached_tokens), (self.n_system, self.whole))
        self.assertEqual(self.ask(self.bob, 0)[1], 0)
        self.assertEqual(self.ask(self.alice, 0)[1], self.whole)

    def test_concurrent(self):
        """Users who ask the same at once get the same, each by its own computing."""
        users = (self.alice, self.bob, self.carol)
        clients = [client for client in users for _ in range(2 if SLOW <= 1 else 1)]
        ids = [self.begin(client, self.system + self.questions[0]) for client in clients]
        answers = [self.collect(client, id)[0] for client, id in zip(clients, ids)]
        self.assertEqual(answers, [answers[0]] * len(clients))
        total = self.cached(30)
        status = self.root.ask(status=pb.Status()).done.status
        cached = {u.uid: u.kv_cached_bytes for u in status.users if u.uid in (ALICE, BOB, CAROL)}
        self.assertEqual(len(cached), 3)
        self.assertEqual(len(set(cached.values())), 1)  # one copy each
        self.assertEqual(sum(cached.values()), total)
        self.forget(self.bob)
        self.assertEqual(self.ask(self.bob, 0), (answers[0], 0))


if __name__ == "__main__":
    unittest.main()
