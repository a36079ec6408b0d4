"""GPT-2: learnt positions, fused attention, and linear layers stored as (in, out)."""

from __future__ import annotations

from converter.architectures.base import TRANSPOSED, Family, KeyRule, TensorRule
from converter.architectures.config import four_times

GPT2_ALIASES = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions", "n_ctx"),
    "intermediate_size": ("n_inner",),
    "layer_norm_eps": ("layer_norm_epsilon",),
}
GPT2_KEYS = (
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
)


def block(source: str, target: str, *shape: str, **options: object) -> TensorRule:
    """A rule of GPT-2's layers: ``transformer.h.{i}.<source>`` becomes ``blk.{i}.<target>``."""
    return TensorRule(f"transformer.h.{{i}}.{source}", f"blk.{{i}}.{target}", shape, **options)  # type: ignore[arg-type]


GPT2 = Family(
    title="GPT-2",
    architecture="gpt2",
    classes=("GPT2LMHeadModel",),
    model_types=("gpt2",),
    aliases=GPT2_ALIASES,
    defaults={"max_position_embeddings": 1024, "layer_norm_eps": 1e-5, "intermediate_size": four_times},
    reals=("layer_norm_eps",),
    rope_kinds=frozenset(),
    # The first checkpoints have no prefix.
    renames=((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
    tensors=(
        TensorRule("transformer.wte.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("transformer.wpe.weight", "position_embd.weight", ("context", "embedding")),
        TensorRule("transformer.ln_f.weight", "output_norm.weight", ("embedding",)),
        TensorRule("transformer.ln_f.bias", "output_norm.bias", ("embedding",)),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        block("ln_1.weight", "attn_norm.weight", "embedding"),
        block("ln_1.bias", "attn_norm.bias", "embedding"),
        block("ln_2.weight", "ffn_norm.weight", "embedding"),
        block("ln_2.bias", "ffn_norm.bias", "embedding"),
        block("attn.c_attn.weight", "attn_qkv.weight", "embedding", "3 * embedding", view=TRANSPOSED),
        block("attn.c_attn.bias", "attn_qkv.bias", "3 * embedding"),
        block("attn.c_proj.weight", "attn_output.weight", "embedding", "embedding", view=TRANSPOSED),
        block("attn.c_proj.bias", "attn_output.bias", "embedding"),
        block("mlp.c_fc.weight", "ffn_up.weight", "embedding", "feed_forward", view=TRANSPOSED),
        block("mlp.c_fc.bias", "ffn_up.bias", "feed_forward"),
        block("mlp.c_proj.weight", "ffn_down.weight", "feed_forward", "embedding", view=TRANSPOSED),
        block("mlp.c_proj.bias", "ffn_down.bias", "embedding"),
    ),
    sizes={"context": "max_position_embeddings"},
    keys=GPT2_KEYS,
)
