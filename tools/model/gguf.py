# SPDX-License-Identifier: Apache-2.0
"""Reads back what export.py wrote: metadata, tokenizer, and the network with its weights as the file has them."""

import struct

import numpy as np
import torch

import bpe
from network import Network, Shape

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Reader:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 0
        if self.data[:4] != b"GGUF":
            raise ValueError(f"{path}: not GGUF")
        self.at = 4
        version, n_tensors, n_pairs = self.take("<I"), self.take("<Q"), self.take("<Q")
        if version != 3:
            raise ValueError(f"{path}: version {version}")
        self.metadata = {}
        for _ in range(n_pairs):
            key = self.string()
            self.metadata[key] = self.value(self.take("<I"))
        self.infos = [self.info() for _ in range(n_tensors)]
        alignment = self.metadata["general.alignment"]
        self.base = (self.at + alignment - 1) // alignment * alignment

    def take(self, form):
        x = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return x

    def string(self):
        n = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, n = self.take("<I"), self.take("<Q")
            return [self.value(inner) for _ in range(n)]
        return self.take(SCALARS[kind])

    def info(self):
        name, n_dims = self.string(), self.take("<I")
        dims = [self.take("<Q") for _ in range(n_dims)]
        return name, dims[::-1], self.take("<I"), self.take("<Q")

    def tensor(self, dims, kind, offset):
        n = int(np.prod(dims))
        at = self.base + offset
        if kind == 8:
            blocks = np.frombuffer(self.data, dtype=[("d", "<f2"), ("q", "i1", 32)], count=n // 32, offset=at)
            values = blocks["d"].astype(np.float32)[:, None] * blocks["q"]
        else:
            values = np.frombuffer(self.data, dtype={0: "<f4", 1: "<f2"}[kind], count=n, offset=at).astype(np.float32)
        return torch.from_numpy(values.reshape(dims).copy())


def load(path):
    """(network, tokenizer, metadata)"""
    reader = Reader(path)
    m = reader.metadata
    llama = {k.removeprefix("llama."): v for k, v in m.items()}
    shape = Shape(n_vocab=llama["vocab_size"], n_embd=llama["embedding_length"], n_layer=llama["block_count"], n_head=llama["attention.head_count"],
                  n_head_kv=llama["attention.head_count_kv"], n_ff=llama["feed_forward_length"], n_ctx=llama["context_length"],
                  rope_base=llama["rope.freq_base"], norm_eps=llama["attention.layer_norm_rms_epsilon"])
    network = Network(shape)
    network.load_state_dict({name: reader.tensor(dims, kind, offset) for name, dims, kind, offset in reader.infos})
    tokenizer = bpe.Tokenizer([x.split(" ") for x in m["tokenizer.ggml.merges"]])
    if tokenizer.tokens != m["tokenizer.ggml.tokens"]:
        raise ValueError("the tokens do not follow from the merges")
    return network.eval(), tokenizer, m
