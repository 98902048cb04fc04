#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small random models in Hugging Face's layout, and what transformers computes with them.

    tests/reference/make-hf-models.py DIR [NAME...]   (needs the PyPI modules torch, transformers, safetensors)

DIR/NAME/ is the model; tokens.txt in it has the ids of TEXT, logits.f32 every position's logits, computed in float32. Where
weights are BF16, what they are multiplied with is rounded to BF16 first, as sparkd does. The ones in tests/reference/hf-models/ are
"llama" and "qwen3-moe".
"""
import contextlib
import json
import pathlib
import shutil
import sys

import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

HERE = pathlib.Path(__file__).resolve().parent
TEXT = "The quick fox: 12!"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 8,
        "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)]}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

# name -> (configuration class, model class, its parameters, how it is saved)
MODELS = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM,
              {"rope_parameters": LLAMA3, "hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": True},
              {"max_shard_size": "60KB"}),
    "llama-bf16": (tf.LlamaConfig, tf.LlamaForCausalLM, {"rope_parameters": LINEAR, "tie_word_embeddings": True},
                   {"dtype": torch.bfloat16}),
    "llama-f16": (tf.LlamaConfig, tf.LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True},
                  {"dtype": torch.float16}),
    "llama-yarn": (tf.LlamaConfig, tf.LlamaForCausalLM, {"rope_parameters": YARN}, {}),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM, {"sliding_window": 6}, {}),
    "mixtral": (tf.MixtralConfig, tf.MixtralForCausalLM, {"num_local_experts": 4, "num_experts_per_tok": 2}, {}),
    "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM, {}, {}),
    "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM, {"head_dim": 16}, {}),
    "qwen3-wide": (tf.Qwen3Config, tf.Qwen3ForCausalLM, {"head_dim": 32, "hidden_size": 256, "intermediate_size": 384}, {}),
    "qwen3-moe-wide": (tf.Qwen3MoeConfig, tf.Qwen3MoeForCausalLM,
                       {"head_dim": 16, "norm_topk_prob": True, **MOE, "moe_intermediate_size": 64}, {}),
    "qwen3-moe": (tf.Qwen3MoeConfig, tf.Qwen3MoeForCausalLM,
                  {"head_dim": 8, "norm_topk_prob": True, "hidden_size": 32, "num_hidden_layers": 1, **MOE},
                  {"dtype": torch.bfloat16}),
    "gpt-oss": (tf.GptOssConfig, tf.GptOssForCausalLM,
                {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}, {}),
    "gemma2": (tf.Gemma2Config, tf.Gemma2ForCausalLM, {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}, {}),
    "gemma3": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM,
               {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}, {}),
    "phi3": (tf.Phi3Config, tf.Phi3ForCausalLM, {"pad_token_id": 0}, {}),
    "phi3-long": (tf.Phi3Config, tf.Phi3ForCausalLM, {"pad_token_id": 0, "rope_parameters": LONG,
                                                      "original_max_position_embeddings": 8}, {}),
    "granite": (tf.GraniteConfig, tf.GraniteForCausalLM,
                {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0}, {}),
    "olmo2": (tf.Olmo2Config, tf.Olmo2ForCausalLM, {}, {}),
    "smollm3": (tf.SmolLM3Config, tf.SmolLM3ForCausalLM, {"pad_token_id": 0, "num_hidden_layers": 4}, {}),
    "glm4": (tf.Glm4Config, tf.Glm4ForCausalLM, {"head_dim": 16, "pad_token_id": 0}, {}),
    "glm4-moe": (tf.Glm4MoeConfig, tf.Glm4MoeForCausalLM,
                 {"head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                  "n_shared_experts": 1, "first_k_dense_replace": 1, "pad_token_id": 0, "use_qk_norm": True}, {}),
}

# name -> (the model above that it is a quantized form of, what is quantized and how)
QUANTIZED = {"qwen3-f8": ("qwen3", "block"), "qwen3-f8-wide": ("qwen3-wide", "block"), "qwen3-f8-row": ("qwen3-wide", "row"),
             "qwen3-f8-one": ("qwen3-wide", "one"), "gpt-oss-mxfp4": ("gpt-oss", "mxfp4"),
             "qwen3-nvfp4": ("qwen3-wide", "nvfp4"), "qwen3-nvfp4-packed": ("qwen3-wide", "nvfp4-packed"),
             "qwen3-moe-nvfp4": ("qwen3-moe-wide", "nvfp4")}


def randomize(model):
    """Norms and biases that are all 1 or 0 would hide mistakes."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.mul_(5.0)
        for name, b in model.named_buffers():
            if "e_score_correction_bias" in name:
                b.add_(torch.randn_like(b) * 0.1)


def quantize_f8(tensors, name, kind):
    """Codes and scales in place of a matrix; returns what they stand for."""
    w = tensors[name]
    rows, columns = w.shape
    block = {"block": (128, 128), "row": (1, columns), "one": (rows, columns)}[kind]
    scales = torch.zeros(-(-rows // block[0]), -(-columns // block[1]))
    codes, value = torch.zeros(rows, columns).to(torch.float8_e4m3fn), torch.zeros(rows, columns)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scales[i, j] = w[at].abs().max() / 448
            codes[at] = (w[at] / scales[i, j]).to(torch.float8_e4m3fn)
            value[at] = codes[at].float() * scales[i, j]
    tensors[name] = codes
    tensors[name + ("_scale_inv" if kind == "block" else "_scale")] = scales if kind != "one" else scales[0, 0]
    return value


E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6])


def quantize_nvfp4(tensors, name, packed):
    w = tensors.pop(name)
    rows, columns = w.shape
    codes = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    scales = (torch.rand(rows, columns // 16) * 8 + 1).to(torch.float8_e4m3fn)
    whole = torch.rand(()) * 0.02 + 0.005
    tensors[name + "_packed" if packed else name] = codes
    tensors[name + "_scale"] = scales
    if packed:
        tensors[name + "_global_scale"] = (1 / whole).reshape(1)
    else:
        tensors[name + "_scale_2"] = whole
    pairs = torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(-2)
    return pairs * scales.float().repeat_interleave(16, 1) * whole


def quantize_mxfp4(tensors, name):
    """Random codes and scales: what they stand for is what the model has."""
    w = tensors.pop(name)
    experts, n_in, n_out = w.shape
    blocks = torch.randint(0, 256, (experts, n_out, n_in // 32, 16), dtype=torch.uint8)
    scales = torch.randint(122, 125, (experts, n_out, n_in // 32), dtype=torch.uint8)
    tensors[name + "_blocks"], tensors[name + "_scales"] = blocks, scales
    pairs = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], -1).flatten(-2)
    return (pairs * torch.exp2(scales.float() - 127)[..., None]).flatten(-2).transpose(1, 2).contiguous()


def quantize(out, name):
    base, kind = QUANTIZED[name]
    make(out, base)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out / base, folder)
    tensors = load_file(folder / "model.safetensors")
    plain = dict(tensors)
    for key in list(plain):
        if kind == "mxfp4" and key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            plain[key] = quantize_mxfp4(tensors, key)
        elif kind.startswith("nvfp4") and key.endswith("_proj.weight"):
            plain[key] = quantize_nvfp4(tensors, key, kind.endswith("packed"))
        elif kind in ("block", "row", "one") and key.endswith("_proj.weight"):
            plain[key] = quantize_f8(tensors, key, kind)
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    compute(folder, base)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "mxfp4": {"quant_method": "mxfp4"}, "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "nvfp4-packed": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
    }.get(kind, {"quant_method": "fp8"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))


class RoundedInputs(TorchFunctionMode):
    """Products of weights with activations in BF16."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear:
            args = (args[0].bfloat16().float(), *args[1:])
        return func(*args, **(kwargs or {}))


def compute(folder, name):
    _, model_class, _, how = MODELS[name]
    model = model_class.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval()
    encoded = tf.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))(TEXT)["input_ids"]
    rounded = RoundedInputs() if how.get("dtype") is torch.bfloat16 else contextlib.nullcontext()
    with torch.no_grad(), rounded:
        logits = model(torch.tensor([encoded]), use_cache=False).logits[0]
    (folder / "tokens.txt").write_text(" ".join(map(str, encoded)) + "\n")
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())


def make(out, name):
    config_class, model_class, extra, how = MODELS[name]
    tokenizer = json.loads((HERE / "hf" / "qwen2.json").read_text())
    ids = set(tokenizer["model"]["vocab"].values()) | {t["id"] for t in tokenizer["added_tokens"]}
    how = dict(how)
    dtype = how.pop("dtype", torch.float32)
    parameters = {"vocab_size": max(ids) + 4, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
                  "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, **extra}
    torch.manual_seed(7)
    model = model_class(config_class(**parameters)).eval()
    randomize(model)
    model = model.to(dtype)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **how)
    shutil.copy(HERE / "hf" / "qwen2.json", folder / "tokenizer.json")
    compute(folder, name)


def main():
    out = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or [*MODELS, *QUANTIZED]:
        (quantize if name in QUANTIZED else make)(out, name)


if __name__ == "__main__":
    main()
