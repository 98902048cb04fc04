# SPDX-License-Identifier: Apache-2.0
"""Trains the bundled model on the endless text of corpus.py: train.py --out DIR [--minutes M] [--resume].

The schedule follows the clock: after M minutes of training the learning rate has come down to nothing and the run is
done, on a fast machine with more text than on a slow one. Workers are processes of one thread each that share every
batch: on a busy machine they wait for each other once a step, where threads would wait at every matrix. DIR gets tokenizer.json, checkpoint.pt (every few minutes,
whole) and log.txt."""

import argparse
import os
import random
import sys
import time

import torch
import torch.distributed
import torch.multiprocessing

import bpe
import corpus
from network import Muon, Network, Shape

DRILLS = ((0.60, 0.35), (0.75, 0.12), (1.01, 0.06))  # until this share of the run: documents that only copy
LENGTHS = ((0.86, 256), (0.96, 512), (1.01, 1024))  # until this share of the run: tokens per row


class Rows:
    """Packs whole documents into rows; what does not fit any more is padding that nobody scores."""

    def __init__(self, tokenizer, seed, test=False):
        self.tokenizer, self.source = tokenizer, corpus.documents(seed, test)
        self.pool, self.drill, self.rng = [], 0.0, random.Random(seed)

    def document(self):
        return self.tokenizer.chat(corpus.drill(self.rng) if self.rng.random() < self.drill else next(self.source))

    def fill(self, room):
        """The longest document that fits, of a pool."""
        while len(self.pool) < 96:
            self.pool.append(self.document())
        fitting = [i for i, (ids, _) in enumerate(self.pool) if len(ids) <= room]
        return self.pool.pop(max(fitting, key=lambda i: len(self.pool[i][0]))) if fitting else None

    def row(self, length):
        document = self.document()
        ids, scored = document[0][:length + 1], document[1][:length + 1]
        while len(ids) <= length:
            document = self.fill(length + 1 - len(ids))
            if not document:
                break
            ids, scored = ids + document[0], scored + document[1]
        missing = length + 1 - len(ids)
        return ids + [bpe.PAD] * missing, scored + [False] * missing

    def batch(self, rows, length):
        made = [self.row(length) for _ in range(rows)]
        ids = torch.tensor([r[0] for r in made])
        scored = torch.tensor([r[1] for r in made])
        return ids[:, :-1], ids[:, 1:], scored[:, 1:]


@torch.no_grad()
def generate(network, tokenizer, turns, limit=160):
    """The greedy answer to a chat that ends with a user's turn."""
    ids = tokenizer.chat(turns)[0] + [bpe.ASSISTANT]
    start = len(ids)
    while len(ids) < start + limit and len(ids) < network.shape.n_ctx:
        token = int(network.logits(network.hidden(torch.tensor([ids]))[0, -1]).argmax())
        if token == bpe.END:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


class Training:
    def __init__(self, options, rank):
        self.options, self.rank = options, rank
        self.tokenizer = bpe.load(os.path.join(options.out, "tokenizer.json"))
        torch.manual_seed(options.seed)
        self.shape = Shape(n_vocab=len(self.tokenizer.tokens), n_ff=options.ff, n_layer=options.layers)
        self.network = Network(self.shape)
        self.muon = Muon(self.network.matrices(), lr=options.rate, weight_decay=0.02, rank=rank, workers=options.workers,
                         total=torch.distributed.all_reduce)
        self.adam = torch.optim.AdamW(self.network.others(), lr=options.rate / 8, betas=(0.9, 0.95), weight_decay=0.0)
        self.seconds, self.tokens, self.step, self.runs = 0.0, 0, 0, 0
        if options.resume:
            self.load()
        self.rows = Rows(self.tokenizer, options.seed * 1000 + self.runs * options.workers + rank)

    def path(self):
        return os.path.join(self.options.out, "checkpoint.pt")

    def load(self):
        state = torch.load(self.path(), weights_only=False)
        self.network.load_state_dict(state["network"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.seconds, self.tokens, self.step, self.runs = state["seconds"], state["tokens"], state["step"], state["runs"] + 1

    def save(self):
        if self.rank:
            return
        state = dict(shape=self.shape.dict(), network=self.network.state_dict(), muon=self.muon.state_dict(), adam=self.adam.state_dict(),
                     seconds=self.seconds, tokens=self.tokens, step=self.step, runs=self.runs)
        torch.save(state, self.path() + ".new")
        os.replace(self.path() + ".new", self.path())

    def log(self, line):
        if self.rank:
            return
        print(line, flush=True)
        with open(os.path.join(self.options.out, "log.txt"), "a", encoding="utf-8") as f:
            f.write(line + "\n")

    def progress(self):
        return self.seconds / (60 * self.options.minutes)

    def set_rate(self):
        """Warm up over 30 steps, stay, then come down in a straight line over the last 45 %."""
        scale = min(1.0, (self.step + 1) / 30, max(0.0, (1 - self.progress()) / 0.45))
        for optimizer, rate in ((self.muon, self.options.rate), (self.adam, self.options.rate / 8)):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale

    def share(self, loss, seconds):
        """The mean of all workers' gradients and losses; the clock is the first worker's."""
        params = list(self.network.parameters())
        flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([loss, seconds if self.rank == 0 else 0.0])])
        torch.distributed.all_reduce(flat)
        at = 0
        for p in params:
            p.grad.copy_(flat[at:at + p.numel()].view_as(p) / self.options.workers)
            at += p.numel()
        self.seconds = float(flat[-1])
        return float(flat[-2]) / self.options.workers

    def one_step(self, begun):
        length = next(n for share, n in LENGTHS if self.progress() < share)
        self.rows.drill = next(n for share, n in DRILLS if self.progress() < share)
        ids, targets, scored = self.rows.batch(max(1, self.options.batch // self.options.workers // length), length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.network.loss(ids, targets, scored)
        loss.backward()
        loss = self.share(float(loss.detach()), time.time() - begun)
        torch.nn.utils.clip_grad_norm_(self.network.others(), 1.0)
        self.set_rate()
        self.muon.step()
        self.adam.step()
        self.network.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += ids.numel() * self.options.workers
        return loss

    @torch.no_grad()
    def check(self):
        """Loss on the test side, and some answers."""
        if self.rank:
            return
        rows, total, n = Rows(self.tokenizer, 424242, test=True), 0.0, 12
        for _ in range(n):
            total += float(self.network.loss(*rows.batch(8, 256)))
        self.log(f"  test loss {total / n:.4f}")
        for ask in ("Hello!", "What is 7 + 5?", "what is the opposite of hot", "Write a story about a cat named Lucy.", "What is quantum plumbing?", "Repeat after me: blue korvel 17"):
            self.log(f"  {ask} -> {generate(self.network, self.tokenizer, [('user', ask)], 90)!r}")

    def run(self):
        self.log(f"{sum(p.numel() for p in self.network.parameters())} parameters, {self.shape}")
        begun, saved, average = time.time() - self.seconds, self.seconds, None
        while self.progress() < 1:
            loss = self.one_step(begun)
            average = loss if average is None else 0.95 * average + 0.05 * loss
            if self.step % 50 == 0:
                self.log(f"step {self.step} minutes {self.seconds / 60:.1f} tokens {self.tokens} loss {average:.4f} tokens/s {self.tokens / self.seconds:.0f}")
            if self.seconds - saved > 60 * self.options.every:
                saved = self.seconds
                self.save()
                self.check()
        self.save()
        self.check()


def work(rank, options):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{os.path.abspath(options.out)}/meeting", rank=rank, world_size=options.workers)
    Training(options, rank).run()
    torch.distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--every", type=float, default=6, help="minutes between checkpoints")
    parser.add_argument("--batch", type=int, default=2048, help="tokens per step")
    parser.add_argument("--rate", type=float, default=0.015)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--ff", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, "tokenizer.json")
    if not os.path.exists(path):
        sys.argv = ["bpe.py", path]
        bpe.main()
    meeting = os.path.join(options.out, "meeting")
    if os.path.exists(meeting):
        os.remove(meeting)
    torch.multiprocessing.spawn(work, (options,), options.workers)


if __name__ == "__main__":
    main()
