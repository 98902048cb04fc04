/* SPDX-License-Identifier: Apache-2.0 */

/* Families of models as Hugging Face's configurations name them, and their tensors' names with GGUF's beside them. */

#include <string.h>

#include "base/macro.h"

#include "hf.h"

#define PAIR(from, to) { from ".weight", to ".weight", HF_PLAIN, 0, 1 }, { from ".bias", to ".bias", HF_PLAIN, 0, 1 }
#define WEIGHT(from, to) { from ".weight", to ".weight", HF_PLAIN, 0, 1 }
#define END { NULL, NULL, HF_PLAIN, 0, 0 }

static const struct hf_name global_names[] = {
        WEIGHT("embed_tokens", "token_embd"),
        WEIGHT("norm", "output_norm"),
        PAIR("lm_head", "output"),
        END,
};

static const struct hf_name common_names[] = {
        WEIGHT("input_layernorm", "attn_norm"),
        WEIGHT("post_attention_layernorm", "ffn_norm"),
        PAIR("self_attn.q_proj", "attn_q"),
        PAIR("self_attn.k_proj", "attn_k"),
        PAIR("self_attn.v_proj", "attn_v"),
        PAIR("self_attn.o_proj", "attn_output"),
        PAIR("self_attn.qkv_proj", "attn_qkv"),
        WEIGHT("self_attn.q_norm", "attn_q_norm"),
        WEIGHT("self_attn.k_norm", "attn_k_norm"),
        PAIR("mlp.gate_proj", "ffn_gate"),
        PAIR("mlp.up_proj", "ffn_up"),
        PAIR("mlp.down_proj", "ffn_down"),
        WEIGHT("mlp.gate_up_proj", "ffn_up"),
        WEIGHT("mlp.gate", "ffn_gate_inp"),
        WEIGHT("mlp.experts.*.gate_proj", "ffn_gate_exps"),
        WEIGHT("mlp.experts.*.up_proj", "ffn_up_exps"),
        WEIGHT("mlp.experts.*.down_proj", "ffn_down_exps"),
        END,
};

/* Norms on both sides of attention and network. */
static const struct hf_name gemma_names[] = {
        WEIGHT("post_attention_layernorm", "post_attention_norm"),
        WEIGHT("pre_feedforward_layernorm", "ffn_norm"),
        WEIGHT("post_feedforward_layernorm", "post_ffw_norm"),
        END,
};

static const struct hf_name glm4_names[] = {
        WEIGHT("post_self_attn_layernorm", "post_attention_norm"),
        WEIGHT("post_mlp_layernorm", "post_ffw_norm"),
        END,
};

static const struct hf_name glm4_moe_names[] = {
        WEIGHT("post_attention_layernorm", "post_attention_norm"),
        { "mlp.gate.e_score_correction_bias", "exp_probs_b.bias", HF_PLAIN, 0, 1 },
        WEIGHT("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
        WEIGHT("mlp.shared_experts.up_proj", "ffn_up_shexp"),
        WEIGHT("mlp.shared_experts.down_proj", "ffn_down_shexp"),
        END,
};

static const struct hf_name mixtral_names[] = {
        WEIGHT("block_sparse_moe.gate", "ffn_gate_inp"),
        WEIGHT("block_sparse_moe.experts.*.w1", "ffn_gate_exps"),
        WEIGHT("block_sparse_moe.experts.*.w3", "ffn_up_exps"),
        WEIGHT("block_sparse_moe.experts.*.w2", "ffn_down_exps"),
        END,
};

/* Gate and up alternate row by row. */
static const struct hf_name gpt_oss_names[] = {
        WEIGHT("post_attention_layernorm", "post_attention_norm"),
        { "self_attn.sinks", "attn_sinks.weight", HF_PLAIN, 0, 1 },
        PAIR("mlp.router", "ffn_gate_inp"),
        { "mlp.experts.gate_up_proj_blocks", "ffn_gate_exps.weight", HF_MXFP4, 0, 2 },
        { "mlp.experts.gate_up_proj_blocks", "ffn_up_exps.weight", HF_MXFP4, 1, 2 },
        { "mlp.experts.down_proj_blocks", "ffn_down_exps.weight", HF_MXFP4, 0, 1 },
        { "mlp.experts.gate_up_proj", "ffn_gate_exps.weight", HF_TRANSPOSED, 0, 2 },
        { "mlp.experts.gate_up_proj", "ffn_up_exps.weight", HF_TRANSPOSED, 1, 2 },
        { "mlp.experts.down_proj", "ffn_down_exps.weight", HF_TRANSPOSED, 0, 1 },
        { "mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", HF_PLAIN, 0, 2 },
        { "mlp.experts.gate_up_proj_bias", "ffn_up_exps.bias", HF_PLAIN, 1, 2 },
        { "mlp.experts.down_proj_bias", "ffn_down_exps.bias", HF_PLAIN, 0, 1 },
        END,
};

static const struct hf_name no_names[] = { END };

static const struct hf_family families[] = {
        { "llama", "llama", "silu", 0, no_names },
        { "mistral", "llama", "silu", 0, no_names },
        { "mixtral", "llama", "silu", 0, mixtral_names },
        { "ministral3", "mistral3", "silu", 0, no_names },
        { "qwen2", "qwen2", "silu", 0, no_names },
        { "qwen3", "qwen3", "silu", 0, no_names },
        { "qwen3_moe", "qwen3moe", "silu", 0, no_names },
        { "gpt_oss", "gpt-oss", "silu", 0, gpt_oss_names },
        { "gemma2", "gemma2", "gelu_pytorch_tanh", HF_NORMS_PLUS_ONE | HF_TIED, gemma_names },
        { "gemma3_text", "gemma3", "gelu_pytorch_tanh", HF_NORMS_PLUS_ONE | HF_TIED, gemma_names },
        { "phi3", "phi3", "silu", 0, no_names },
        { "granite", "granite", "silu", 0, no_names },
        { "olmo2", "olmo2", "silu", 0, gemma_names },
        { "smollm3", "smollm3", "silu", HF_TIED, no_names },
        { "glm4", "glm4", "silu", HF_ROPE_INTERLEAVED, glm4_names },
        { "glm4_moe", "glm4moe", "silu", 0, glm4_moe_names },
};

const struct hf_family *hf_family_find(const char *type) {
        for (size_t i = 0; i < ARRAY_SIZE(families); i++)
                if (strcmp(families[i].type, type) == 0)
                        return &families[i];
        return NULL;
}

static const struct hf_name *find_from(const struct hf_name *row, const char *name) {
        for (; row->from; row++)
                if (strcmp(row->from, name) == 0)
                        return row;
        return NULL;
}

const struct hf_name *hf_name_next(const struct hf_family *family, bool block, const char *name, const struct hf_name *row) {
        const struct hf_name *found;

        if (row)
                return find_from(row + 1, name);
        if (!block)
                return find_from(global_names, name);
        found = find_from(family->names, name);
        return found ? found : find_from(common_names, name);
}
