# SPDX-License-Identifier: Apache-2.0
"""Writes a training's checkpoint as one GGUF file: export.py DIR OUT.gguf [--format q8_0|f16|f32]. The bytes are packed
here; nothing but torch is needed to read the checkpoint."""

import argparse
import os
import struct

import torch

import bpe

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
ALIGNMENT = 32
FORMATS = {"f32": (0, 0), "f16": (1, 1), "q8_0": (8, 7)}  # tensor type, general.file_type
CONTROL, NORMAL = 3, 1

TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('Only the roles system, user and assistant are known.') }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, x):
    if kind == STRING:
        return string(x)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], x)


def pair(key, kind, x):
    return string(key) + struct.pack("<I", kind) + value(kind, x)


def array(key, kind, items):
    return string(key) + struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(value(kind, x) for x in items)


def pack_q8_0(t):
    """Blocks of 32: the scale as a half, then 32 signed bytes."""
    blocks = t.reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    quants = torch.where(scale > 0, blocks / scale, torch.zeros_like(blocks)).round().to(torch.int8)
    return torch.cat((scale.half().view(torch.int8), quants), dim=1).numpy().tobytes()


def pack(t, form):
    if form == "q8_0":
        return pack_q8_0(t)
    return (t.half() if form == "f16" else t).numpy().tobytes()


def metadata(shape, tokenizer, form):
    types = [CONTROL] * len(bpe.SPECIAL) + [NORMAL] * (len(tokenizer.tokens) - len(bpe.SPECIAL))
    return [
        pair("general.architecture", STRING, "llama"),
        pair("general.type", STRING, "model"),
        pair("general.name", STRING, "spark-tiny"),
        pair("general.author", STRING, "The sparkd project"),
        pair("general.description", STRING, "A very small stand-in model for trying sparkd out. See docs/model.md."),
        pair("general.license", STRING, "Apache-2.0"),
        array("general.languages", STRING, ["en"]),
        pair("general.file_type", U32, FORMATS[form][1]),
        pair("general.quantization_version", U32, 2),
        pair("general.alignment", U32, ALIGNMENT),
        pair("llama.vocab_size", U32, shape["n_vocab"]),
        pair("llama.context_length", U32, shape["n_ctx"]),
        pair("llama.embedding_length", U32, shape["n_embd"]),
        pair("llama.block_count", U32, shape["n_layer"]),
        pair("llama.feed_forward_length", U32, shape["n_ff"]),
        pair("llama.attention.head_count", U32, shape["n_head"]),
        pair("llama.attention.head_count_kv", U32, shape["n_head_kv"]),
        pair("llama.attention.layer_norm_rms_epsilon", F32, shape["norm_eps"]),
        pair("llama.rope.dimension_count", U32, shape["n_embd"] // shape["n_head"]),
        pair("llama.rope.freq_base", F32, shape["rope_base"]),
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "qwen2"),
        array("tokenizer.ggml.tokens", STRING, tokenizer.tokens),
        array("tokenizer.ggml.token_type", I32, types),
        array("tokenizer.ggml.merges", STRING, [f"{a} {b}" for a, b in tokenizer.merges]),
        pair("tokenizer.ggml.bos_token_id", U32, bpe.BEGIN),
        pair("tokenizer.ggml.eos_token_id", U32, bpe.END),
        pair("tokenizer.ggml.eot_token_id", U32, bpe.END),
        pair("tokenizer.ggml.padding_token_id", U32, bpe.PAD),
        pair("tokenizer.ggml.add_bos_token", BOOL, True),
        pair("tokenizer.ggml.add_eos_token", BOOL, False),
        pair("tokenizer.chat_template", STRING, TEMPLATE),
    ]


def padded(data):
    return data + b"\0" * (-len(data) % ALIGNMENT)


def write(path, state, tokenizer, form):
    infos, blobs, at = [], [], 0
    for name, t in state["network"].items():
        kind = form if t.ndim == 2 else "f32"
        blob = padded(pack(t.detach().float().contiguous(), kind))
        dims = tuple(reversed(t.shape))
        infos.append(string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, FORMATS[kind][0], at))
        blobs.append(blob)
        at += len(blob)
    pairs = metadata(state["shape"], tokenizer, form)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos)
    with open(path, "wb") as f:
        f.write(padded(head) + b"".join(blobs))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir")
    parser.add_argument("out")
    parser.add_argument("--format", choices=FORMATS, default="q8_0")
    options = parser.parse_args()
    state = torch.load(os.path.join(options.dir, "checkpoint.pt"), map_location="cpu", weights_only=False)
    write(options.out, state, bpe.load(os.path.join(options.dir, "tokenizer.json")), options.format)
    print(f"{options.out}: {os.path.getsize(options.out)} bytes")


if __name__ == "__main__":
    main()
