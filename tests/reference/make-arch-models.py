#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small random models of many architectures and the logits that transformers computes for them, in double precision.

make-arch-models.py OUT [NAME...]: writes OUT/NAME.gguf and OUT/NAME.logits.f32, a row of logits for each of the 32
tokens that tokens() gives. Weights are half precision; tests/unit/test-architectures.c compares.
Needs: pip install torch transformers gguf numpy (made with 2.15.0, 5.24.0, 0.19.0 and 2.4.6).
"""

import pathlib
import re
import sys

import gguf
import numpy
import torch
import transformers

BASE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 512}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "mlp.router": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp", "input_layernorm": "attn_norm",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "post_mlp_layernorm": "post_ffw_norm", "post_self_attn_layernorm": "post_attention_norm",
}


def case(arch, kind, keys, config=None, post="ffn_norm", **more):
    return {"arch": arch, "kind": kind, "keys": keys, "config": config or {}, "post": post, **more}


# post: what post_attention_layernorm is in GGUF's terms
CASES = {
    "mistral3": case("mistral3", "Ministral3", {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
        "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
        "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.25, "rope.freq_base": 10000.0},
        {"head_dim": 12, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25}},
        permute=True),
    "glm4": case("glm4", "Glm4", {"rope.dimension_count": 6}, {
        "head_dim": 12, "attention_bias": True, "pad_token_id": 0,
        "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}),
    "glm4moe": case("glm4moe", "Glm4Moe", {
        "rope.dimension_count": 6, "expert_count": 6, "expert_used_count": 2, "expert_shared_count": 1,
        "expert_feed_forward_length": 20, "leading_dense_block_count": 1, "expert_weights_scale": 1.5,
        "expert_weights_norm": True, "expert_gating_func": 2}, {
        "head_dim": 12, "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 20, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5, "norm_topk_prob": True,
        "use_qk_norm": True, "attention_bias": True, "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}},
        post="post_attention_norm", nextn=True),
    "gpt-oss": case("gpt-oss", "GptOss", {
        "attention.sliding_window": 7, "expert_count": 6, "expert_used_count": 3, "expert_feed_forward_length": 40,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 64,
        "rope.freq_base": 10000.0}, {
        "head_dim": 16, "num_attention_heads": 6, "num_local_experts": 6, "num_experts_per_tok": 3,
        "sliding_window": 7, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64,
            "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}}, post="post_attention_norm"),
    "gemma2": case("gemma2", "Gemma2", {
        "attention.sliding_window": 5, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}, {
        "head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 10.0, "rope_parameters": PLAIN}, post="post_attention_norm", add_one=True),
    "gemma3": case("gemma3", "Gemma3Text", {
        "attention.sliding_window": 7, "attention.sliding_window_pattern": 3, "rope.freq_base": 1000000.0,
        "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, {
        "head_dim": 12, "num_hidden_layers": 4, "sliding_window": 7, "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"sliding_attention": PLAIN,
                            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}}},
        post="post_attention_norm", add_one=True),
    "phi3": case("phi3", "Phi3", {"rope.scaling.original_context_length": 512, "attention.sliding_window": 9}, {
        "num_attention_heads": 5, "hidden_size": 30, "num_key_value_heads": 5, "pad_token_id": 0,
        "sliding_window": 9, "rope_parameters": PLAIN}),
    "phi3-long": case("phi3", "Phi3", {
        "rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": 1.5,
        "rope.scaling.type": "longrope"}, {
        "pad_token_id": 0, "sliding_window": None, "original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16,
            "attention_factor": 1.5,
            "short_factor": [1.0 + i / 8 for i in range(4)], "long_factor": [2.0 + i for i in range(4)]}},
        factors=True),
    "qwen3moe": case("qwen3moe", "Qwen3Moe", {
        "expert_count": 5, "expert_used_count": 3, "expert_feed_forward_length": 24, "rope.freq_base": 10000.0}, {
        "head_dim": 20, "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
        "norm_topk_prob": True, "rope_parameters": PLAIN}),
    "qwen3-yarn": case("qwen3", "Qwen3", {
        "rope.freq_base": 10000.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128, "rope.scaling.yarn_attn_factor": 1.3,
        "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}, {
        "head_dim": 20, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
            "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}}),
    "smollm3": case("smollm3", "SmolLM3", {}, {"num_hidden_layers": 5, "pad_token_id": 0, "rope_parameters": PLAIN},
                    permute=True),
    "olmo2": case("olmo2", "Olmo2", {}, {"pad_token_id": 0, "rope_parameters": PLAIN}, post="post_attention_norm"),
    "granite": case("granite", "Granite", {
        "embedding_scale": 3.0, "residual_scale": 0.3, "attention.scale": 0.2, "logit_scale": 5.0}, {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2, "logits_scaling": 5.0,
        "rope_parameters": PLAIN}, permute=True),
}


def permuted(weight, n_heads):
    """Rows of each head from (half, pair) to (pair, half): pairs stand together in GGUF's files of these models."""
    shape = weight.shape
    return weight.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def experts(name, value, arch):
    """gate and up lie together in transformers: one after the other, or (gpt-oss) alternating; n_in first there."""
    if arch == "gpt-oss":
        if not name.endswith("_bias"):
            value = value.swapaxes(1, 2)
        parts = [value[:, 0::2], value[:, 1::2]] if "gate_up" in name else [value]
    else:
        parts = numpy.split(value, 2, axis=1) if "gate_up" in name else [value]
    kinds = ["ffn_gate_exps", "ffn_up_exps"] if "gate_up" in name else ["ffn_down_exps"]
    end = ".bias" if name.endswith("_bias") else ".weight"
    return [(kind + end, part) for kind, part in zip(kinds, parts)]


def tensors(model, config, spec):
    for name, value in model.state_dict().items():
        value = value.numpy()
        if name in NAMES:
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            yield NAMES[name], value + (1 if spec.get("add_one") and name == "model.norm.weight" else 0)
            continue
        layer, local = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()
        if ".experts." in local:
            for kind, part in experts(local, value, spec["arch"]):
                yield f"blk.{layer}.{kind}", part
            continue
        base, _, end = local.rpartition(".")
        if spec.get("permute") and base in ("self_attn.q_proj", "self_attn.k_proj"):
            value = permuted(value, config.num_attention_heads if "q_proj" in base else config.num_key_value_heads)
        if spec.get("add_one") and "norm" in base:
            value = value + 1
        if local in NAMES:
            yield f"blk.{layer}.{NAMES[local]}", value
        else:
            yield f"blk.{layer}.{spec['post'] if base == 'post_attention_layernorm' else NAMES[base]}.{end}", value


def tokens():
    return [1 + i * i * 7 % (BASE["vocab_size"] - 1) for i in range(32)]


def add_vocabulary(writer):
    n = BASE["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b"t%d" % i for i in range(3, n)])
    writer.add_token_scores([-float(i) for i in range(n)])
    writer.add_token_types([2, 3, 3] + [1] * (n - 3))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_model(path, model, config, spec):
    arch = spec["arch"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("small random model")
    keys = {"context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps)}
    if getattr(config, "head_dim", None) and "head_dim" in spec["config"]:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if spec.get("nextn"):
        keys |= {"block_count": config.num_hidden_layers + 1, "nextn_predict_layers": 1}
    for key, value in (keys | spec["keys"]).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{arch}.{key}", value)
    add_vocabulary(writer)
    if spec.get("factors"):
        rope = spec["config"]["rope_parameters"]
        writer.add_tensor("rope_factors_long.weight", numpy.array(rope["long_factor"], numpy.float32))
        writer.add_tensor("rope_factors_short.weight", numpy.array(rope["short_factor"], numpy.float32))
    extra = []
    for name, value in tensors(model, config, spec):
        if spec.get("nextn") and name.startswith("blk.2."):  # a layer more, which must not count
            extra.append((name.replace("blk.2.", "blk.3."), value * 3))
        writer.add_tensor(name, numpy.ascontiguousarray(value.astype(numpy.float16 if value.ndim > 1 and not name.endswith(".bias") else numpy.float32)))
    for name, value in extra:
        writer.add_tensor(name, numpy.ascontiguousarray(value.astype(numpy.float32)))
    if spec.get("nextn"):
        writer.add_tensor("blk.3.nextn.eh_proj.weight", numpy.ones((32, 64), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(name, spec, out):
    torch.manual_seed(7)
    config = getattr(transformers, spec["kind"] + "Config")(**(BASE | spec["config"]))
    config._attn_implementation = config._experts_implementation = "eager"
    kind = getattr(transformers, spec["kind"].removesuffix("Text") + "ForCausalLM")
    model = kind(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = 0.3 if value.ndim == 1 else 1.5 / value.shape[-1] ** 0.5
            shift = 1 if key.endswith("norm.weight") and not spec.get("add_one") else 0
            value.copy_((torch.randn_like(value) * scale + shift).half())
        for key, value in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                value.copy_(torch.randn_like(value) * 0.3)
        write_model(out / f"{name}.gguf", model, config, spec)
        logits = model.double()(torch.tensor([tokens()])).logits[0]
    (out / f"{name}.logits.f32").write_bytes(logits.float().numpy().tobytes())


def main():
    out = pathlib.Path(sys.argv[1])
    for name, spec in CASES.items():
        if len(sys.argv) < 3 or name in sys.argv[2:]:
            make(name, spec, out)


if __name__ == "__main__":
    main()
