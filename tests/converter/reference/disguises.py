"""Weights of transformers' models under the names, and in the order, of published models without a class there.

Each takes what ``save_pretrained`` wrote (names to torch tensors) and gives what a published checkpoint holds instead:
the same model, so that transformers' logits remain the measure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Tensors = dict[str, Any]


def same(tensors: Tensors) -> Tensors:
    """Only config.json differs."""
    return tensors


def text_part(tensors: Tensors) -> Tensors:
    """The text part of a model that also sees, with a tensor of another part."""
    import torch

    renamed = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    return {**renamed, "vision_tower.patch_conv.weight": torch.zeros(4, 4)}


def exaone(tensors: Tensors) -> Tensors:
    """A Llama under GPT-2's names."""
    return _renamed(tensors, {
        r"^model\.embed_tokens": "transformer.wte",
        r"^model\.norm": "transformer.ln_f",
        r"^model\.layers": "transformer.h",
        r"input_layernorm": "ln_1",
        r"post_attention_layernorm": "ln_2",
        r"self_attn\.o_proj": "attn.attention.out_proj",
        r"self_attn": "attn.attention",
        r"gate_proj": "c_fc_0",
        r"up_proj": "c_fc_1",
        r"down_proj": "c_proj",
    })  # fmt: skip


def internlm2(tensors: Tensors) -> Tensors:
    """A Llama whose queries, keys and values are one matrix: two groups of two queries, a key and a value each."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        q, k, v = (tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv")
        groups = 2
        parts = [part.reshape(groups, -1, part.shape[-1]) for part in (q, k, v)]
        fused = torch.cat(parts, 1).reshape(-1, q.shape[-1])
        tensors[name.replace("self_attn.q_proj", "attention.wqkv")] = fused
    return _renamed(tensors, {
        r"^model\.embed_tokens": "model.tok_embeddings",
        r"^lm_head": "output",
        r"input_layernorm": "attention_norm",
        r"post_attention_layernorm": "ffn_norm",
        r"self_attn\.o_proj": "attention.wo",
        r"mlp\.gate_proj": "feed_forward.w1",
        r"mlp\.up_proj": "feed_forward.w3",
        r"mlp\.down_proj": "feed_forward.w2",
    })  # fmt: skip


def chatglm(tensors: Tensors) -> Tensors:
    """transformers' GLM as its authors' code has it."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("self_attn.q_proj", "self_attention.query_key_value")] = torch.cat(parts)
    renamed = _renamed(tensors, {
        r"^model\.embed_tokens": "transformer.embedding.word_embeddings",
        r"^model\.norm": "transformer.encoder.final_layernorm",
        r"^lm_head": "transformer.output_layer",
        r"^model\.layers": "transformer.encoder.layers",
        r"self_attn\.o_proj": "self_attention.dense",
        r"mlp\.gate_up_proj": "mlp.dense_h_to_4h",
        r"mlp\.down_proj": "mlp.dense_4h_to_h",
    })  # fmt: skip
    return {**renamed, "transformer.rotary_pos_emb.inv_freq": torch.ones(4)}


def ernie(tensors: Tensors) -> Tensors:
    """Early files: queries, keys and values in one matrix, gate and up in another."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    for name in [name for name in tensors if "gate_proj" in name]:
        parts = [tensors.pop(name.replace("gate_proj", f"{part}_proj")) for part in ("gate", "up")]
        tensors[name.replace("gate_proj", "up_gate_proj")] = torch.cat(parts)
    return _renamed(tensors, {r"^model\.": "ernie."})


def baichuan(tensors: Tensors) -> Tensors:
    """A Llama whose queries, keys and values are one matrix, one under the other."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("q_proj", "W_pack")] = torch.cat(parts)
    return tensors


def qwen(tensors: Tensors) -> Tensors:
    """Qwen 1 is a Qwen 2 under GPT-2's names, with all of its attention in one matrix."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("q_proj", "c_attn")] = torch.cat(parts)
    return _renamed(tensors, {
        r"^model\.embed_tokens": "transformer.wte",
        r"^model\.norm": "transformer.ln_f",
        r"^model\.layers": "transformer.h",
        r"input_layernorm": "ln_1",
        r"post_attention_layernorm": "ln_2",
        r"self_attn\.o_proj": "attn.c_proj",
        r"self_attn": "attn",
        r"mlp\.up_proj": "mlp.w1",
        r"mlp\.gate_proj": "mlp.w2",
        r"mlp\.down_proj": "mlp.c_proj",
    })  # fmt: skip


def mxfp4(tensors: Tensors) -> Tensors:
    """gpt-oss as it is published: its experts are blocks of 32 four-bit floats with an exponent each."""
    import torch

    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        codes, exponents = _four_bits(tensors.pop(name))
        tensors[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        tensors[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    return tensors


def four_bit_experts(model: Any) -> None:
    """Rounds a gpt-oss's experts to what :func:`mxfp4` can hold."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                codes, exponents = _four_bits(parameter)
                values = _table()[codes.long()] * torch.exp2(exponents.float())[..., None]
                parameter.copy_(values.flatten(2).transpose(1, 2))


def _four_bits(weights: Any) -> tuple[Any, Any]:
    """The nearest codes, uint8 (experts, rows, blocks, 32), and exponents (experts, rows, blocks)."""
    import torch

    rows = weights.float().transpose(1, 2).contiguous()
    blocks = rows.reshape(*rows.shape[:2], -1, 32)
    exponents = torch.floor(torch.log2(blocks.abs().amax(-1))).int() - 2
    scaled = blocks / torch.exp2(exponents.float())[..., None]
    codes = (scaled[..., None] - _table()).abs().argmin(-1)
    return codes.to(torch.uint8), exponents


def _table() -> Any:
    import torch

    half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    return torch.tensor(half + [-value for value in half])


def _renamed(tensors: Tensors, patterns: dict[str, str]) -> Tensors:
    def new(name: str) -> str:
        for pattern, replacement in patterns.items():
            name = re.sub(pattern, replacement, name)
        return name

    return {new(name): tensor for name, tensor in tensors.items()}


DISGUISES: dict[str, Callable[[Tensors], Tensors]] = {
    "same": same,
    "text part": text_part,
    "exaone": exaone,
    "internlm2": internlm2,
    "chatglm": chatglm,
    "ernie": ernie,
    "baichuan": baichuan,
    "qwen": qwen,
    "mxfp4": mxfp4,
}
