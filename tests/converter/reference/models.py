"""The architectures that are compared: what transformers is to build, small and random.

Known to both sides, so nothing is imported here. Sizes are small, but rows are multiples of 256 where the architecture
allows, so that K-quants fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Model:
    """``cls`` is the class of transformers, ``config`` what its configuration gets beside the vocabulary's size.

    ``vocabulary`` names a file ``ggml-vocab-*.gguf`` of the engine's sources, or a tiny vocabulary of our own
    (``tiny``, ``tiny-sentencepiece``), with which a comparison takes seconds. ``dtype`` is the weights' own type.
    ``written`` is what config.json says in place of what transformers would write, as published models do.
    ``disguise`` names what in ``disguises`` makes the weights those of a published model that transformers has no class
    for, and ``published`` is then all of its config.json (``"SIZE"`` is the vocabulary's).
    ``allowed`` are patterns of GGUF keys and of tensors that may differ, each with its reason. ``engine`` says why the
    engine computes other logits than transformers, where it does. ``gentle`` is a factor of the random matrices:
    at 1 they keep the length of what they multiply, so that every part of the model matters; trained ones are gentler.
    ``sensitive`` says why roundings to 16 bits become large in the model: they are compared then with what transformers
    loses by computing in that type. ``vectors`` stands for models that give a vector for every token.
    ``arguments`` are further ones for the reference. ``refused`` is a part of what the reference says where it
    converts nothing: only logits are compared then.
    """

    cls: str
    config: dict[str, Any]
    vocabulary: str = "gpt-2"
    dtype: str = "bfloat16"
    written: dict[str, Any] = field(default_factory=dict)
    disguise: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    allowed: dict[str, str] = field(default_factory=dict)
    engine: str = ""
    gentle: float = 1.0
    sensitive: str = ""
    vectors: bool = False
    arguments: tuple[str, ...] = ()
    refused: str = ""


# Qwen's classes insist on their own tokenizer, whose vocabulary is large: rows of 128, and one matrix for both ends.
QWEN = {"hidden_size": 128, "head_dim": 32, "tie_word_embeddings": True}

# Sizes under the names that most configurations share.
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

# For those that are compared with a tiny vocabulary.
TINY = {**SMALL, "hidden_size": 64, "intermediate_size": 96}
FOUR_LAYERS = {**TINY, "num_hidden_layers": 4}
SCALES = {"attention_multiplier": 0.2, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0}
BLOOM = {"hidden_size": 64, "n_layer": 2, "n_head": 4}
MPT = {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
MPT_CLASS = {"architectures": ["MPTForCausalLM"]}  # the name in published configs, which alone the reference knows
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
BIGCODE = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, **ENDS}
NO_FILE_TYPE = {"general.file_type": "the reference writes none for this architecture"}
# transformers turns a published config's rotary_pct into rope_parameters and drops it, so that the reference fails for
# every GPT-NeoX; under a model_type that transformers does not know, the reference reads config.json itself.
NEOX = {"model_type": "gpt_neox_"}
MLA = {
    **TINY,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "pad_token_id": 0,
}
BAICHUAN = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 32}
DEEPSEEK_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
MLA_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 40.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
OSS = {
    **TINY,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
MXFP4 = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
LLAMA4 = {
    **FOUR_LAYERS,
    "head_dim": 16,
    "num_local_experts": 4,
    "intermediate_size_mlp": 128,
    "interleave_moe_layer_step": 2,
    "pad_token_id": 0,
}
MINISTRAL_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 16,
}
# What a config of a model that is a Llama says.
PUBLISHED = {
    **TINY,
    "vocab_size": "SIZE",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {name: value for name, value in TINY.items() if name != "num_key_value_heads"}
NOMIC = {
    "n_embd": 64,
    "n_inner": 96,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 8192,
    "type_vocab_size": 2,
    "layer_norm_epsilon": 1e-12,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "activation_function": "swiglu",
    "causal": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "pad_token_id": 0,
}
DELTA = {
    **FOUR_LAYERS,
    "head_dim": 256,  # so that the sections of rotated elements are those that the engine expects
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
DELTA_EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
# Many layers, scores that nothing scales down, experts chosen at random and memories of random numbers make much of
# little: how far such models' matrices are from keeping lengths.
HALF, QUARTER = 0.5, 0.25
# Layers that predict tokens ahead are left out by us, and the models made here have none.
NO_AHEAD = ("--no-mtp",)
# T5 does not divide what queries and keys give by their length's root, so that random ones choose sharply.
SMALL_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}

# Heads that together are wider than the model, and the number that their scores are scaled by.
GEMMA = {**TINY, "head_dim": 32}
GEMMA2 = {**FOUR_LAYERS, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
GEMMA3 = {**GEMMA2, "num_hidden_layers": 7}

MODELS: dict[str, Model] = {
    "llama": Model("LlamaForCausalLM", SMALL, "llama-spm"),
    "llama-3": Model("LlamaForCausalLM", {**SMALL, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": Model(
        "LlamaForCausalLM",
        {
            **SMALL,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            "attention_bias": True,
            "mlp_bias": True,
        },
        dtype="float16",
    ),
    "mistral": Model("MistralForCausalLM", {**SMALL, "sliding_window": None}, "llama-spm"),
    "qwen2": Model("Qwen2ForCausalLM", {**SMALL, "hidden_size": 128, "tie_word_embeddings": True}, vocabulary="qwen2"),
    "qwen3": Model("Qwen3ForCausalLM", {**SMALL, **QWEN}, vocabulary="qwen2", dtype="float32", gentle=HALF),
    "qwen2-moe": Model(
        "Qwen2MoeForCausalLM",
        {
            **SMALL,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 512,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "hidden_size": 128,
        },
        vocabulary="qwen2",
    ),
    "qwen3-moe": Model(
        "Qwen3MoeForCausalLM",
        {
            **SMALL,
            **QWEN,
            "moe_intermediate_size": 256,
            "num_experts": 12,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
        },
        vocabulary="qwen2",
        gentle=HALF,
    ),
    "gpt-2": Model("GPT2LMHeadModel", {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_ctx": 512}),
    "phi-3": Model("Phi3ForCausalLM", {**SMALL, "sliding_window": 300, "pad_token_id": 0}, "phi-3"),
    "phi-4-longrope": Model(
        "Phi3ForCausalLM",
        {
            **SMALL,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,  # the context that logits are compared in
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "long_factor": [1.0 + i / 4 for i in range(24)],
                "short_factor": [1.0 + i / 16 for i in range(24)],
            },
        },
    ),
    "mixtral": Model("MixtralForCausalLM", {**SMALL, "num_local_experts": 4}, "llama-spm"),
    "bloom": Model("BloomForCausalLM", {**BLOOM, "seq_length": 512}, "tiny"),
    "bloom-untied": Model("BloomForCausalLM", {**BLOOM, "tie_word_embeddings": False}, "tiny", "float16"),
    "gptneox": Model(
        "GPTNeoXForCausalLM",
        TINY,
        "gpt-neox",
        written={**NEOX, "rotary_pct": 0.25},
        allowed=NO_FILE_TYPE,
    ),
    "gptneox-sequential": Model(
        "GPTNeoXForCausalLM",
        {**TINY, "use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 30000},
        "tiny",
        "float32",
        written={**NEOX, "rotary_pct": 1.0},
        allowed={**NO_FILE_TYPE, "gptneox.rope.freq_base": "the reference loses it"},
    ),
    # transformers makes num_kv_heads of a config without it all heads, and the reference fails on the weights then.
    "falcon-7b": Model("FalconForCausalLM", {**TINY, "num_kv_heads": 1}, "falcon"),
    "falcon-40b": Model("FalconForCausalLM", {**TINY, "new_decoder_architecture": True, "num_kv_heads": 2}, "tiny"),
    "falcon-11b": Model(
        "FalconForCausalLM",
        {
            **TINY,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "rope_theta": 500042.0,
            "tie_word_embeddings": False,
        },
        "tiny",
        allowed={"falcon.rope.freq_base": "the reference loses it"},
    ),
    "mpt": Model("MptForCausalLM", MPT, "mpt", written=MPT_CLASS, allowed=NO_FILE_TYPE),
    "mpt-clipped": Model(
        "MptForCausalLM",
        {**MPT, "n_heads": 8, "attn_config": {"clip_qkv": 1.5}},
        "tiny",
        written=MPT_CLASS,
        allowed=NO_FILE_TYPE,
    ),
    "gpt-bigcode": Model("GPTBigCodeForCausalLM", BIGCODE, "starcoder"),
    "gpt-bigcode-heads": Model(
        "GPTBigCodeForCausalLM",
        {**BIGCODE, "multi_query": False, "n_inner": 96},
        "tiny",
        allowed={
            "starcoder.attention.head_count_kv": "the reference writes 1 whatever the model has",
            "blk.*.attn_qkv.*": "the reference leaves each head's query, key and value together",
            "starcoder.feed_forward_length": "the reference writes four widths whatever the model has",
        },
    ),
    "phi": Model("PhiForCausalLM", {**TINY, "intermediate_size": 256, "num_key_value_heads": 4}, "tiny"),
    "phi-grouped": Model(
        "PhiForCausalLM",
        {**TINY, "partial_rotary_factor": 0.25},
        "tiny",
        allowed={
            "phi2.attention.head_count_kv": "the reference writes all heads whatever the model has",
            "phi2.feed_forward_length": "the reference writes four widths whatever the model has",
        },
    ),
    "olmo": Model("OlmoForCausalLM", {**TINY, "clip_qkv": 2.0}, "tiny"),
    "olmo-tied": Model("OlmoForCausalLM", {**TINY, "tie_word_embeddings": True, "num_key_value_heads": None}, "tiny"),
    "olmo2": Model("Olmo2ForCausalLM", TINY, "tiny"),
    "olmo2-tied": Model(
        "Olmo2ForCausalLM",
        {**TINY, "tie_word_embeddings": True},
        "tiny",
        allowed={
            "output.weight": "the engine does not load the reference's file, which has none",
            "general.size_label": "one matrix more",
        },
    ),
    "olmo3": Model(
        "Olmo3ForCausalLM",
        {
            **FOUR_LAYERS,
            "sliding_window": 8,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "attention_factor": 1.2,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
        "tiny",
    ),
    "olmo3-published": Model(
        "Olmo3ForCausalLM",
        {**FOUR_LAYERS, "sliding_window": 8, "num_key_value_heads": 4},
        "tiny",
        written={
            "rope_parameters": None,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "attention_factor": 1.2079441541679836,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
    ),
    "olmoe": Model(
        "OlmoeForCausalLM", {**SMALL, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2}, "tiny"
    ),
    "granite": Model("GraniteForCausalLM", {**TINY, **SCALES, "tie_word_embeddings": True}, "tiny"),
    "granite-biased": Model(
        "GraniteForCausalLM", {**SMALL, "attention_bias": True, "mlp_bias": True}, "tiny-sentencepiece", gentle=HALF
    ),
    "granite-moe": Model("GraniteMoeForCausalLM", {**TINY, **SCALES, "num_local_experts": 4}, "tiny"),
    "granite-moe-shared": Model(
        "GraniteMoeSharedForCausalLM",
        {**TINY, **SCALES, "num_local_experts": 4, "shared_intermediate_size": 160, "tie_word_embeddings": True},
        "tiny",
    ),
    "cohere": Model("CohereForCausalLM", {**TINY, "rope_theta": 8e6}, "command-r", written={"model_max_length": 1024}),
    "cohere-large": Model(
        "CohereForCausalLM",
        {**TINY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 64, "use_qk_norm": True},
        "tiny",
    ),
    "cohere2": Model(
        "Cohere2ForCausalLM", {**FOUR_LAYERS, "sliding_window": 8}, "tiny", written={"rotary_pct": 1.0}, gentle=HALF
    ),
    "cohere2-pattern": Model(
        "Cohere2ForCausalLM",
        {**FOUR_LAYERS, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "tiny",
        written={"rotary_pct": 1.0},
        allowed={"cohere2.attention.sliding_window_pattern": "the reference loses it"},
    ),
    "nemotron": Model("NemotronForCausalLM", SMALL, "tiny-sentencepiece", gentle=HALF),
    "nemotron-biased": Model(
        "NemotronForCausalLM",
        {
            **TINY,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        },
        "tiny-sentencepiece",
        gentle=HALF,
    ),
    "smollm3": Model(
        "SmolLM3ForCausalLM",
        {**FOUR_LAYERS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "tiny",
        gentle=HALF,
    ),
    "phimoe": Model(
        "PhimoeForCausalLM",
        {
            **TINY,
            "num_local_experts": 4,
            "attention_bias": True,
            "lm_head_bias": True,
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "original_max_position_embeddings": 256,
                "short_mscale": 1.0607,
                "long_mscale": 1.0607,
                "long_factor": [1.0 + i / 4 for i in range(8)],
                "short_factor": [1.0 + i / 16 for i in range(8)],
            },
        },
        "tiny-sentencepiece",
        written={"architectures": ["PhiMoEForCausalLM"]},  # the name in published configs
        # With both changed in transformers, logits are 3e-7 of their spread apart.
        engine="the engine's norms do not centre, and its router is a plain softmax",
    ),
    "deepseek-v2": Model("DeepseekV2ForCausalLM", {**MLA, "rope_parameters": MLA_YARN}, "tiny", gentle=HALF),
    # Without compressed queries, which the engine expects by the number of layers.
    "deepseek-v2-lite": Model(
        "DeepseekV2ForCausalLM",
        {
            **MLA,
            "q_lora_rank": None,
            "num_hidden_layers": 27,
            "first_k_dense_replace": 25,
            "n_group": 1,
            "topk_group": 1,
        },
        "tiny",
        written={"scoring_func": "softmax"},
        gentle=HALF,
    ),
    "deepseek-v3": Model(
        "DeepseekV3ForCausalLM",
        {**MLA, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "rope_parameters": MLA_YARN},
        "tiny",
        written={"scoring_func": "sigmoid"},
        gentle=HALF,
    ),
    "glm4": Model("Glm4ForCausalLM", {**TINY, "head_dim": 16, "pad_token_id": 0}, "tiny-glm", gentle=HALF),
    "glm": Model(
        "GlmForCausalLM",
        {**TINY, "head_dim": 16, "pad_token_id": 0},
        "tiny-glm",
        allowed={
            "chatglm.context_length": "the reference writes the width",
            "chatglm.attention.layer_norm_rms_epsilon": "the reference writes a constant",
        },
        gentle=HALF,
    ),
    "gpt-oss": Model("GptOssForCausalLM", OSS, "tiny", gentle=HALF),
    "chatglm": Model(
        "GlmForCausalLM",
        {**TINY, "head_dim": 16, "pad_token_id": 0, "rms_norm_eps": 1e-5},
        "tiny-glm",
        disguise="chatglm",
        published={
            "architectures": ["ChatGLMModel"],
            "model_type": "chatglm",
            "num_layers": 2,
            "num_attention_heads": 4,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "hidden_size": 64,
            "ffn_hidden_size": 96,
            "kv_channels": 16,
            "seq_length": 512,
            "padded_vocab_size": "SIZE",
            "vocab_size": "SIZE",
            "layernorm_epsilon": 1e-5,
            "add_qkv_bias": True,
            "add_bias_linear": False,
            "rmsnorm": True,
            "post_layer_norm": True,
            "rope_ratio": 1,
        },
    ),
    "gpt-oss-mxfp4": Model("GptOssForCausalLM", OSS, "tiny", disguise="mxfp4", written=MXFP4, gentle=HALF),
    "llama-4": Model("Llama4ForCausalLM", LLAMA4, "tiny", gentle=HALF),
    "llama-4-every": Model(
        "Llama4ForCausalLM",
        {**LLAMA4, "interleave_moe_layer_step": 1, "rope_parameters": {**LLAMA3, "factor": 16.0}},
        "tiny",
    ),
    "ministral-3": Model("Ministral3ForCausalLM", {**TINY, "head_dim": 16, "rope_parameters": MINISTRAL_YARN}, "tiny"),
    "mistral-3": Model(
        "MistralForCausalLM",
        {**TINY, "head_dim": 16, "sliding_window": None},
        "tiny",
        disguise="text part",
        published={
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "text_config": {
                **TINY,
                "model_type": "mistral",
                "vocab_size": "SIZE",
                "head_dim": 16,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
                "sliding_window": None,
            },
            "vision_config": {"model_type": "pixtral"},
        },
    ),
    "internlm2": Model(
        "LlamaForCausalLM",
        TINY,
        "tiny-sentencepiece",
        disguise="internlm2",
        published={**PUBLISHED, "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False},
    ),
    "internlm3": Model(
        "LlamaForCausalLM",
        {**TINY, "head_dim": 16},
        "tiny-sentencepiece",
        disguise="same",
        published={
            **PUBLISHED,
            "architectures": ["InternLM3ForCausalLM"],
            "model_type": "internlm3",
            "head_dim": 16,
            "qkv_bias": False,
            "bias": False,
        },
    ),
    "minicpm": Model(
        "GraniteForCausalLM",
        {
            **TINY,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 1.4 / 2**0.5,
            "logits_scaling": 64 / 16,
            "attention_multiplier": 0.25,
        },
        "tiny-sentencepiece",
        disguise="same",
        published={
            **PUBLISHED,
            "architectures": ["MiniCPMForCausalLM"],
            "model_type": "minicpm",
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 16,
        },
    ),
    "minicpm3": Model(
        "MiniCPM3ForCausalLM",
        {
            **TINY,
            "num_key_value_heads": 4,
            "q_lora_rank": 64,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
        },
        "tiny-sentencepiece",
    ),
    "exaone": Model(
        "LlamaForCausalLM",
        {**TINY, "rms_norm_eps": 1e-5},
        "tiny",
        disguise="exaone",
        published={
            "architectures": ["ExaoneForCausalLM"],
            "model_type": "exaone_",  # published folders have code of their own, and so no config of transformers
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "activation_function": "silu",
            "layer_norm_epsilon": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "vocab_size": "SIZE",
        },
        allowed={"exaone.attention.layer_norm_rms_epsilon": "the reference leaves out what the engine requires"},
    ),
    "exaone4": Model(
        "Exaone4ForCausalLM",
        {**TINY, "sliding_window": None, "layer_types": ["full_attention"] * 2, "rope_parameters": LLAMA3},
        "tiny",
    ),
    "exaone4-window": Model(
        "Exaone4ForCausalLM",
        {**TINY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 64, "sliding_window": 8},
        "tiny",
        sensitive="in 16 bits, 64 layers whose results are all scaled to one length add up their roundings",
    ),
    "ernie": Model("Ernie4_5ForCausalLM", {**TINY, "head_dim": 16}, "tiny-sentencepiece"),
    "ernie-fused": Model("Ernie4_5ForCausalLM", {**TINY, "head_dim": 16}, "tiny-sentencepiece", disguise="ernie"),
    "ernie-moe": Model(
        "Ernie4_5_MoeForCausalLM",
        {
            **TINY,
            "intermediate_size": 128,
            "moe_num_experts": 6,
            "moe_k": 3,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 3,
            "moe_layer_start_index": 1,
        },
        "tiny-sentencepiece",
        allowed={"order": "the reference writes an expert's gate and up before its down"},
    ),
    "gemma": Model("GemmaForCausalLM", GEMMA, "tiny-sentencepiece"),
    "gemma-half": Model("GemmaForCausalLM", {**GEMMA, "num_key_value_heads": 1}, "tiny-sentencepiece", "float16"),
    "gemma-2": Model("Gemma2ForCausalLM", GEMMA2, "tiny-sentencepiece"),
    "gemma-2-pattern": Model(
        "Gemma2ForCausalLM",
        {**GEMMA2, "layer_types": ["full_attention", "sliding_attention"] * 2},
        "tiny-sentencepiece",
        allowed={"gemma2.attention.sliding_window_pattern": "the reference loses it"},
    ),
    "gemma-3": Model("Gemma3ForCausalLM", GEMMA3, "tiny-sentencepiece", gentle=HALF),
    "gemma-3-linear": Model(
        "Gemma3ForCausalLM",
        {
            **GEMMA3,
            "final_logit_softcapping": 30.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "tiny-sentencepiece",
        "float16",
        sensitive="numbers stored in float16 lose three bits in bfloat16",
        gentle=HALF,
    ),
    "gemma-3-full": Model(
        "Gemma3ForCausalLM",
        {**GEMMA3, "num_hidden_layers": 2, "sliding_window_pattern": 1, "tie_word_embeddings": False},
        "tiny-sentencepiece",
    ),
    "gemma-3-pictures": Model(
        "Gemma3ForCausalLM",
        {**GEMMA3, "num_attention_heads": 8, "num_key_value_heads": 4},
        "tiny",
        disguise="text part",
        published={
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            # Heads and their number are not named there, as in published ones.
            "text_config": {
                "model_type": "gemma3_text",
                "vocab_size": "SIZE",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 7,
                "max_position_embeddings": 512,
                "head_dim": 32,
                "query_pre_attn_scalar": 32,
                "sliding_window": 8,
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
            },
            "vision_config": {"model_type": "siglip_vision_model"},
        },
    ),
    "starcoder2": Model("Starcoder2ForCausalLM", {**TINY, **ENDS}, "tiny"),
    "starcoder2-untied": Model(
        "Starcoder2ForCausalLM",
        {
            **TINY,
            **ENDS,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 999999.4420358813},
        },
        "tiny",
        "float16",
    ),
    "stablelm": Model("StableLmForCausalLM", {**TINY, "use_qkv_bias": True}, "tiny"),
    "stablelm-parallel": Model(
        "StableLmForCausalLM",
        {**TINY, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
        "tiny",
        "float16",
    ),
    "stablelm-epoch": Model(
        "StableLmForCausalLM",
        {**TINY, "num_key_value_heads": 4, "layer_norm_eps": 1e-6, "partial_rotary_factor": 0.5},
        "tiny",
        disguise="same",
        published={
            **PUBLISHED,
            "architectures": ["StableLMEpochForCausalLM"],
            "model_type": "stablelm_epoch",
            "num_key_value_heads": 4,
            "norm_eps": 1e-6,
            "rope_pct": 0.5,
            "use_qkv_bias": False,
        },
        allowed={"stablelm.use_parallel_residual": "the reference says yes where config.json says nothing"},
    ),
    "stablelm-12b": Model(
        "StableLmForCausalLM",
        {**TINY, "use_parallel_residual": True, "qk_layernorm": True},
        "tiny",
        refused="Unprocessed norms",  # it means to put each head's norms together, and loses them
    ),
    "stablelm-tied": Model(
        "StableLmForCausalLM",
        {**TINY, "tie_word_embeddings": True},
        "tiny",
        allowed={
            "output.weight": "the engine does not load the reference's file, which has none",
            "general.size_label": "one matrix more",
        },
    ),
    "bert": Model("BertModel", {**ENCODER, "pad_token_id": 0}, "tiny-bert", vectors=True),
    "roberta": Model(
        "RobertaModel",
        {**ENCODER, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "tiny-roberta",
        vectors=True,
    ),
    "xlm-roberta": Model(
        "XLMRobertaModel",
        {**ENCODER, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
        "tiny-xlm-roberta",
        allowed={"tokenizer.ggml.unknown_token_id": "the engine takes another number for one that is not there"},
        vectors=True,
    ),
    "xlm-roberta-ranking": Model(
        "XLMRobertaForSequenceClassification",
        {**ENCODER, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "num_labels": 1},
        "tiny-xlm-roberta",
        allowed={"tokenizer.ggml.unknown_token_id": "the engine takes another number for one that is not there"},
        vectors=True,
    ),
    "bert-classifier": Model(
        "BertForSequenceClassification",
        {**ENCODER, "pad_token_id": 0, "num_labels": 3},
        "tiny-bert",
        vectors=True,
    ),
    "nomic-bert": Model(
        "NomicBertModel",
        {**ENCODER, "pad_token_id": 0, "layer_norm_eps": 1e-12},
        "tiny-bert",
        disguise="same",
        published={
            **NOMIC,
            "architectures": ["NomicBertModel"],
            "model_type": "nomic_bert_",  # published folders have code of their own, and so no config of transformers
            "vocab_size": "SIZE",
        },
        vectors=True,
    ),
    "qwen3-next": Model("Qwen3NextForCausalLM", {**DELTA, **DELTA_EXPERTS}, "tiny", arguments=NO_AHEAD, gentle=QUARTER),
    "qwen3.5": Model("Qwen3_5ForCausalLM", DELTA, "tiny", arguments=NO_AHEAD, gentle=QUARTER),
    "qwen3.5-equal": Model(
        "Qwen3_5ForCausalLM",
        {**DELTA, "linear_num_value_heads": 2, "tie_word_embeddings": True},
        "tiny",
        arguments=NO_AHEAD,
        gentle=QUARTER,
    ),
    "qwen3.5-moe": Model(
        "Qwen3_5MoeForCausalLM",
        {name: value for name, value in {**DELTA, **DELTA_EXPERTS}.items() if name != "intermediate_size"},
        "tiny",
        arguments=NO_AHEAD,
        gentle=QUARTER,
    ),
    "t5": Model(
        "T5ForConditionalGeneration",
        SMALL_T5,
        "tiny-t5",
        written={"decoder_start_token_id": 0},
        engine="the engine does not scale the output of a model whose output matrix is its embedding",
    ),
    "t5-unscaled": Model(
        "T5ForConditionalGeneration",
        {**SMALL_T5, "scale_decoder_outputs": False},
        "tiny-t5",
        written={"decoder_start_token_id": 0},
        gentle=HALF,
    ),
    "flan-t5": Model(
        "T5ForConditionalGeneration",
        {**SMALL_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "tiny-t5",
        written={"decoder_start_token_id": 0},
        gentle=HALF,
    ),
    "umt5": Model(
        "UMT5ForConditionalGeneration",
        {**SMALL_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "tiny-t5",
        written={"decoder_start_token_id": 0},
        gentle=HALF,
    ),
    "t5-encoder": Model("T5EncoderModel", SMALL_T5, "tiny-t5", vectors=True, gentle=HALF),
    "seed-oss": Model("SeedOssForCausalLM", {**TINY, "head_dim": 32}, "tiny"),
    "arcee": Model("ArceeForCausalLM", {**TINY, **ENDS, "rope_parameters": LLAMA3}, "tiny"),
    "arcee-yarn": Model(
        "ArceeForCausalLM",
        {
            **TINY,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            },
        },
        "tiny-sentencepiece",
        "float16",
    ),
    "dots1": Model(
        "Dots1ForCausalLM",
        {
            **TINY,
            "num_key_value_heads": 4,
            "head_dim": 16,
            **DEEPSEEK_EXPERTS,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
        },
        "tiny",
        written={"scoring_func": "sigmoid"},
    ),
    "glm-4.5": Model(
        "Glm4MoeForCausalLM",
        {
            **TINY,
            "head_dim": 16,
            "num_hidden_layers": 3,
            **DEEPSEEK_EXPERTS,
            "use_qk_norm": True,
            "attention_bias": True,
            "pad_token_id": 0,
        },
        "tiny-glm",
        arguments=NO_AHEAD,
    ),
    "glm-4.5-air": Model(
        "Glm4MoeForCausalLM",
        {**TINY, "head_dim": 32, **DEEPSEEK_EXPERTS, "n_shared_experts": 1, "attention_bias": True, "pad_token_id": 0},
        "tiny-glm",
        arguments=NO_AHEAD,
    ),
    "glm-4.7-flash": Model(
        "Glm4MoeLiteForCausalLM",
        {**MLA, "mlp_layer_types": ["dense", "sparse"], "routed_scaling_factor": 1.8},
        "tiny-glm",
        written={"scoring_func": "sigmoid"},
        arguments=NO_AHEAD,
    ),
    "hunyuan": Model(
        "HunYuanDenseV1ForCausalLM", {**TINY, "head_dim": 16, "eod_token_id": 3, "tie_word_embeddings": True}, "tiny"
    ),
    "hunyuan-stretched": Model(
        "HunYuanDenseV1ForCausalLM",
        {
            **TINY,
            "head_dim": 32,
            "eod_token_id": 3,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "rope_theta": 1e4, "factor": 1.0},
        },
        "tiny",
    ),
    "lfm2": Model(
        "Lfm2ForCausalLM",
        {
            **FOUR_LAYERS,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        "tiny",
        gentle=QUARTER,
    ),
    "lfm2-fitted": Model(
        "Lfm2ForCausalLM",
        {
            **TINY,
            "intermediate_size": 200,
            "layer_types": ["conv", "full_attention"],
            "block_multiple_of": 32,
            "conv_L_cache": 4,
        },
        "tiny",
        gentle=QUARTER,
    ),
    "lfm2-moe": Model(
        "Lfm2MoeForCausalLM",
        {
            **FOUR_LAYERS,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_dense_layers": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
        "tiny",
        gentle=QUARTER,
    ),
    "embedding-gemma": Model(
        "Gemma3TextModel", {**GEMMA3, "use_bidirectional_attention": True}, "tiny-sentencepiece", vectors=True
    ),
    "baichuan": Model(
        "LlamaForCausalLM",
        {**TINY, **BAICHUAN, "num_key_value_heads": 4},
        "tiny-sentencepiece",
        disguise="baichuan",
        published={
            **{name: value for name, value in PUBLISHED.items() if name != "num_key_value_heads"},
            **BAICHUAN,
            "architectures": ["BaichuanForCausalLM"],
            "model_type": "baichuan",
        },
        refused="maximum recursion depth exceeded",
    ),
    "orion": Model(
        "StableLmForCausalLM",
        {**TINY, "partial_rotary_factor": 1.0, "layer_norm_eps": 1e-5},
        "tiny-sentencepiece",
        disguise="same",
        published={
            **PUBLISHED,
            "architectures": ["OrionForCausalLM"],
            "model_type": "orion",
            "rms_norm_eps": 1e-5,
        },
    ),
    "qwen": Model(
        "Qwen2ForCausalLM",
        {**TINY, "num_key_value_heads": 4, "rms_norm_eps": 1e-6},
        "tiny-tiktoken",
        disguise="qwen",
        published={
            "architectures": ["QWenLMHeadModel"],
            "model_type": "qwen",
            "hidden_size": 64,
            "intermediate_size": 192,
            "kv_channels": 16,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "seq_length": 512,
            "max_position_embeddings": 512,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000,
            "rotary_pct": 1.0,
            "no_bias": True,
            "use_dynamic_ntk": True,
            "tie_word_embeddings": False,
            "vocab_size": "SIZE",
        },
        refused="Couldn't instantiate the backend tokenizer",  # without the code of its folder
    ),
}
