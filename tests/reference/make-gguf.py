#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a GGUF model of the llama architecture with random weights.

    make-gguf.py --shape llama-1b --format q4_k_m OUT.gguf
    make-gguf.py --shape tiny --format f16 --layers 4 --vocab 600 OUT.gguf
    make-gguf.py --shape small --format f16 --layers 6 --ff 1024 --experts 256 OUT.gguf

For measuring speed and for feeding the loader: the weights mean nothing, but they have the sizes, formats and
magnitudes of a real model (standard deviation about 0.02), so that activations stay finite. The vocabulary is
byte-level BPE: the 256 bytes, then pairs and triples with their merges, then special tokens.

Quantized blocks are random bytes with fitting scales; nothing is rounded from anything. Which tensor gets which format
follows what llama.cpp's quantizer does for the same name (q4_k_m: Q6_K for the embedding and, in half of the layers,
for attn_v and ffn_down). Streams: memory stays below about 100 MB whatever the model. With --experts the feed-forward
matrices are there so often, two of each at work for a token; only the first ones have weights, behind them is a hole: a big model
that computes fast and takes no room on a disk.

Needs numpy (Debian: python3-numpy).
"""
import argparse
import struct
import sys

import numpy as np

SHAPES = {
    # name: embedding, layers, feed-forward, heads, KV heads, head size, vocabulary, context, RoPE base
    "tiny": (256, 2, 512, 4, 2, 64, 512, 512, 10000.0),
    "small": (512, 4, 1536, 8, 4, 64, 4096, 2048, 10000.0),
    "llama-1b": (2048, 16, 8192, 32, 8, 64, 128256, 131072, 500000.0),
    "llama-3b": (3072, 28, 8192, 24, 8, 128, 128256, 131072, 500000.0),
    "llama-8b": (4096, 32, 14336, 32, 8, 128, 128256, 131072, 500000.0),
    "llama-70b": (8192, 80, 28672, 64, 8, 128, 128256, 131072, 500000.0),
}
FIELDS = ("embd", "layers", "ff", "heads", "heads_kv", "head_dim", "vocab", "ctx", "rope_base")

# name: (GGUF's number, elements per block, bytes per block)
TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2), "MXFP4": (39, 32, 17), "NVFP4": (40, 64, 36),
}
# format: (general.file_type, matrices, embedding and output)
FORMATS = {
    "f32": (0, "F32", "F32"), "f16": (1, "F16", "F16"), "bf16": (32, "BF16", "BF16"), "q8_0": (7, "Q8_0", "Q8_0"),
    "q4_0": (2, "Q4_0", "Q6_K"), "q4_1": (3, "Q4_1", "Q6_K"), "q5_0": (8, "Q5_0", "Q6_K"), "q5_1": (9, "Q5_1", "Q6_K"),
    "q2_k": (10, "Q2_K", "Q6_K"), "q3_k": (12, "Q3_K", "Q6_K"), "q4_k_m": (15, "Q4_K", "Q6_K"),
    "q5_k": (17, "Q5_K", "Q6_K"), "q6_k": (18, "Q6_K", "Q6_K"), "iq4_nl": (25, "IQ4_NL", "Q6_K"),
    "iq4_xs": (30, "IQ4_XS", "Q6_K"), "mxfp4": (38, "MXFP4", "Q8_0"), "nvfp4": (39, "NVFP4", "Q8_0"),
}
# type: where the binary16 scale is, and what the codes' standard deviation is then (signed codes have a mean of zero)
SIGNED = {"Q8_0": (0, 74), "Q4_0": (0, 4.6), "Q5_0": (0, 9.2), "IQ4_NL": (0, 70)}
# the same for codes with a minimum, which follows the scale: (place, deviation, the minimum in scales)
WITH_MINIMUM = {"Q4_1": (0, 4.6, -7.5), "Q5_1": (0, 9.2, -15.5), "Q4_K": (0, 275, 7.5), "Q5_K": (0, 550, 15.5),
                "Q2_K": (80, 14.4, 1.5)}
SIGMA = 0.02
ALIGN = 32
EXPERTS_USED, EXPERTS_FILLED = 2, 4
CHUNK = 1 << 22  # elements


def byte_symbols():
    """The printable stand-ins of byte-level BPE, as GPT-2 defined them."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return [table[b] for b in range(256)]


def vocabulary(n):
    """Tokens, types and merges of an n-token vocabulary; the last ones are special."""
    n_special = min(256, max(2, (n - 256) // 2))
    if n < 256 + n_special:
        sys.exit("a vocabulary needs at least 258 tokens")
    tokens = byte_symbols()
    single = list(tokens)
    merges = []
    pairs = [(a, b) for a in single for b in single]
    n_normal = n - n_special
    for left, right in pairs:
        if len(tokens) == n_normal:
            break
        merges.append(left + " " + right)
        tokens.append(left + right)
    for left, right in pairs:
        for third in single[:64]:
            if len(tokens) >= n_normal:
                break
            merges.append(left + right + " " + third)
            tokens.append(left + right + third)
        if len(tokens) >= n_normal:
            break
    types = [1] * len(tokens) + [3] * n_special
    tokens += ["<|begin_of_text|>", "<|end_of_text|>"]
    tokens += ["<|reserved_special_token_%d|>" % i for i in range(n_special - 2)]
    return tokens, types, merges, n_normal, n_normal + 1


class Metadata:
    """Key-value section of a GGUF file."""

    def __init__(self):
        self.n = 0
        self.parts = []

    @staticmethod
    def text(s):
        raw = s.encode("utf-8")
        return struct.pack("<Q", len(raw)) + raw

    def add(self, key, kind, payload):
        self.n += 1
        self.parts.append(self.text(key) + struct.pack("<I", kind) + payload)

    def u32(self, key, v):
        self.add(key, 4, struct.pack("<I", v))

    def f32(self, key, v):
        self.add(key, 6, struct.pack("<f", v))

    def flag(self, key, v):
        self.add(key, 7, struct.pack("<B", v))

    def string(self, key, v):
        self.add(key, 8, self.text(v))

    def strings(self, key, values):
        self.add(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(self.text(v) for v in values))

    def i32s(self, key, values):
        self.add(key, 9, struct.pack("<IQ", 5, len(values)) + np.asarray(values, "<i4").tobytes())

    def bytes(self):
        return b"".join(self.parts)


def f16_column(values):
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(-1, 2)


def random_blocks(rng, kind, n_blocks):
    """n_blocks blocks as an array of bytes."""
    _, _, size = TYPES[kind]
    if kind == "F32":
        return (rng.standard_normal(n_blocks, np.float32) * SIGMA).astype("<f4").view(np.uint8)
    if kind == "F16":
        return (rng.standard_normal(n_blocks, np.float32) * SIGMA).astype("<f2").view(np.uint8)
    if kind == "BF16":
        bits = (rng.standard_normal(n_blocks, np.float32) * SIGMA).astype("<f4").view("<u4")
        return (bits >> 16).astype("<u2").view(np.uint8)
    out = np.frombuffer(rng.bytes(n_blocks * size), np.uint8).reshape(n_blocks, size).copy()
    # a sign per block takes out the bias of formats whose codes are not symmetric
    scale = rng.uniform(0.6, 1.4, n_blocks) * rng.choice((-1.0, 1.0), n_blocks)
    if kind in SIGNED:
        at, deviation = SIGNED[kind]
        out[:, at:at + 2] = f16_column(scale * SIGMA / deviation)
    elif kind in WITH_MINIMUM:
        at, deviation, minimum = WITH_MINIMUM[kind]
        d = np.abs(scale) * SIGMA / deviation
        out[:, at:at + 2] = f16_column(d)
        out[:, at + 2:at + 4] = f16_column(d * minimum)
    elif kind == "Q6_K":
        out[:, 192:208] = rng.integers(-24, 25, (n_blocks, 16), np.int8).view(np.uint8)
        out[:, 208:210] = f16_column(scale * SIGMA / 260)
    elif kind == "Q3_K":
        out[:, 108:110] = f16_column(scale * SIGMA / 42)
    elif kind == "IQ4_XS":
        out[:, 0:2] = f16_column(scale * SIGMA / 1290)
    elif kind == "MXFP4":  # powers of two near SIGMA / 2.9, the codes' deviation
        out[:, 0] = rng.integers(119, 121, n_blocks, np.uint8)
    elif kind == "NVFP4":  # 2 to 6 steps of 2^-9
        out[:, 0:4] = rng.integers(2, 6, (n_blocks, 4), np.uint8)
    return out.reshape(-1)


def more_bits(layer, layers):
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensor_list(p, fmt, tied):
    """(name, type, dims with the fastest first) in file order."""
    _, matrix, edge = FORMATS[fmt]
    q, kv = p["heads"] * p["head_dim"], p["heads_kv"] * p["head_dim"]
    yield "token_embd.weight", edge if tied else matrix, (p["embd"], p["vocab"])
    yield "rope_freqs.weight", "F32", (p["head_dim"] // 2,)
    for i in range(p["layers"]):
        better = "Q6_K" if fmt == "q4_k_m" and more_bits(i, p["layers"]) else matrix
        n = (p["experts"],) if p["experts"] else ()
        exps = "_exps" if n else ""
        if n:
            yield "blk.%d.ffn_gate_inp.weight" % i, "F32", (p["embd"], *n)
        for name, kind, dims in (
            ("attn_norm", "F32", (p["embd"],)), ("attn_q", matrix, (p["embd"], q)), ("attn_k", matrix, (p["embd"], kv)),
            ("attn_v", better, (p["embd"], kv)), ("attn_output", matrix, (q, p["embd"])), ("ffn_norm", "F32", (p["embd"],)),
            ("ffn_gate" + exps, matrix, (p["embd"], p["ff"], *n)), ("ffn_up" + exps, matrix, (p["embd"], p["ff"], *n)),
            ("ffn_down" + exps, better, (p["ff"], p["embd"], *n)),
        ):
            yield "blk.%d.%s.weight" % (i, name), kind, dims
    yield "output_norm.weight", "F32", (p["embd"],)
    if not tied:
        yield "output.weight", edge, (p["embd"], p["vocab"])


def tensor_bytes(kind, dims):
    _, block, size = TYPES[kind]
    if dims[0] % block:
        sys.exit("%d elements per row do not fit blocks of %d (%s)" % (dims[0], block, kind))
    n = 1
    for d in dims:
        n *= d
    return n // block * size


def metadata(p, fmt, name):
    m = Metadata()
    m.string("general.architecture", "llama")
    m.string("general.name", name)
    m.u32("general.file_type", FORMATS[fmt][0])
    m.u32("general.quantization_version", 2)
    m.u32("llama.vocab_size", p["vocab"])
    m.u32("llama.context_length", p["ctx"])
    m.u32("llama.embedding_length", p["embd"])
    m.u32("llama.block_count", p["layers"])
    m.u32("llama.feed_forward_length", p["ff"])
    m.u32("llama.attention.head_count", p["heads"])
    m.u32("llama.attention.head_count_kv", p["heads_kv"])
    m.u32("llama.attention.key_length", p["head_dim"])
    m.u32("llama.attention.value_length", p["head_dim"])
    m.u32("llama.rope.dimension_count", p["head_dim"])
    m.f32("llama.rope.freq_base", p["rope_base"])
    m.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    if p["experts"]:
        m.u32("llama.expert_count", p["experts"])
        m.u32("llama.expert_used_count", EXPERTS_USED)
    tokens, types, merges, bos, eos = vocabulary(p["vocab"])
    m.string("tokenizer.ggml.model", "gpt2")
    m.string("tokenizer.ggml.pre", "llama-bpe")
    m.strings("tokenizer.ggml.tokens", tokens)
    m.i32s("tokenizer.ggml.token_type", types)
    m.strings("tokenizer.ggml.merges", merges)
    m.u32("tokenizer.ggml.bos_token_id", bos)
    m.u32("tokenizer.ggml.eos_token_id", eos)
    m.flag("tokenizer.ggml.add_bos_token", True)
    return m


def rope_factors(p):
    """Llama 3's frequency factors (scale 32, 1 to 4 periods, trained at 8192)."""
    n = p["head_dim"] // 2
    freq = p["rope_base"] ** (-np.arange(n) / n)
    periods = 8192 * freq / (2 * np.pi)
    smooth = np.clip((periods - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / 32 + smooth)).astype("<f4")


def write_tensor(f, rng, name, kind, dims, p):
    if name == "rope_freqs.weight":
        f.write(rope_factors(p).tobytes())
        return
    if len(dims) == 1:
        f.write((1 + rng.standard_normal(dims[0], np.float32) * SIGMA).astype("<f4").tobytes())
        return
    _, block, _ = TYPES[kind]
    if len(dims) == 3:
        f.write(random_blocks(rng, kind, min(dims[2], EXPERTS_FILLED) * dims[0] * dims[1] // block).tobytes())
        return
    left = dims[0] * dims[1] // block
    while left:
        n = min(left, CHUNK // block)
        f.write(random_blocks(rng, kind, n).tobytes())
        left -= n


def write_model(path, p, fmt, tied, seed, sparse):
    m = metadata(p, fmt, "random llama %s" % fmt)
    tensors = list(tensor_list(p, fmt, tied))
    rng = np.random.default_rng(seed)
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), m.n) + m.bytes())
        offset = 0
        for name, kind, dims in tensors:
            f.write(Metadata.text(name) + struct.pack("<I", len(dims)) + struct.pack("<%dQ" % len(dims), *dims))
            f.write(struct.pack("<IQ", TYPES[kind][0], offset))
            offset += -(-tensor_bytes(kind, dims) // ALIGN) * ALIGN
        f.write(b"\0" * (-f.tell() % ALIGN))
        if sparse:
            f.truncate(f.tell() + offset)
            return
        for name, kind, dims in tensors:
            end = f.tell() + -(-tensor_bytes(kind, dims) // ALIGN) * ALIGN
            write_tensor(f, rng, name, kind, dims, p)
            f.seek(end)
        f.truncate(end)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--format", choices=sorted(FORMATS), default="f16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--untied", action="store_true", help="a separate output matrix")
    parser.add_argument("--sparse", action="store_true", help="a hole instead of the weights: all of its size, none of its space")
    for field in FIELDS[:-1]:
        parser.add_argument("--" + field.replace("_", "-"), type=int)
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("out")
    args = parser.parse_args()
    p = dict(zip(FIELDS, SHAPES[args.shape]))
    for field in FIELDS[:-1]:
        if getattr(args, field) is not None:
            p[field] = getattr(args, field)
    p["experts"] = args.experts
    write_model(args.out, p, args.format, not args.untied, args.seed, args.sparse)


if __name__ == "__main__":
    main()
